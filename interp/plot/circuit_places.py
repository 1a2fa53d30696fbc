"""Where the nodes and the edges of a circuit are drawn: `Places`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import ConfigError
from interp.plot.layered import Link, layered
from interp.plot.style import columns_of

if TYPE_CHECKING:
    import networkx

PORTS = {"Q": -0.3, "V": 0.3}
"""Where edges of a kind enter a node, off its middle, in widths of the node."""

ALONG = (0.62, 0.5, 0.74, 0.4, 0.84, 0.3)
"""Shares of an edge's way at which it may be labelled, the best first."""

BOX = 24
"""Pixels from the lower to the upper side of a node."""


class Places:
    """Where nodes and edges of a circuit are, in pixels.

    Attributes:
        heights: of the levels.
        nodes: the middle of each node.
        widths: of the nodes.
        curves: x and y values along each edge, by its ends and its key.
    """

    def __init__(self, graph: networkx.MultiDiGraph, names: Mapping[Any, str]):
        self.graph = graph
        level_of = _levels(graph)
        levels = [[node for node in graph if level_of[node] == level] for level in sorted(set(level_of.values()))]
        at_level = {node: number for number, level in enumerate(levels) for node in level}
        edges = [edge for edge in graph.edges(keys=True) if at_level[edge[0]] < at_level[edge[1]]]
        if len(edges) < graph.number_of_edges():
            raise ConfigError("an edge does not lead to a later layer")
        self.widths = {
            node: max(52, 8 * columns_of(name) + 14, 4 * max(graph.in_degree(node), graph.out_degree(node)))
            for node, name in names.items()
        }
        links = [Link(start, end, PORTS.get(str(key), 0) * self.widths[end]) for start, end, key in edges]
        across, lanes = layered(levels, links, self.widths)
        step = min(95, max(58, 1150 / len(levels)))
        self.heights = {level: step * level for level in range(len(levels))}
        self.nodes = {node: (across[node], self.heights[at_level[node]]) for node in graph}
        leaving, entering = self._fans(edges, lanes)
        self.curves = {}
        for edge, link, lane, out, into in zip(edges, links, lanes, leaving, entering, strict=True):
            x = np.array([lane[0] + out, *lane[1:-1], lane[-1] + link.port + into])
            y = np.array([self.heights[at_level[edge[0]] + i] for i in range(len(lane))], dtype=float)
            y[0], y[-1] = y[0] + BOX / 2, y[-1] - BOX / 2 - 1
            self.curves[edge] = _smooth(x, y)

    def _fans(self, edges: list[Any], lanes: list[list[float]]) -> tuple[list[float], list[float]]:
        """How far edges that leave, or enter, at one point of a node are apart there, so that each can be seen."""
        leaving, entering = [0.0] * len(edges), [0.0] * len(edges)
        for fan, room, of in ((leaving, 0.8, lambda edge: edge[:1]), (entering, 0.25, lambda edge: edge[1:])):
            groups: dict[Any, list[int]] = defaultdict(list)
            for number, edge in enumerate(edges):
                groups[of(edge)].append(number)
            for group, members in groups.items():
                members.sort(key=lambda number: lanes[number][1 if fan is leaving else -2])
                whole = self.widths[group[0]] * (0.8 if len(group) > 1 and group[1] not in ("Q", "K", "V") else room)
                gap = min(6.0, whole / len(members))
                for place, number in enumerate(members):
                    fan[number] = gap * (place - (len(members) - 1) / 2)
        return leaving, entering

    def ends(self) -> tuple[float, float]:
        """The leftmost and the rightmost that is drawn."""
        sides = [x + side * self.widths[node] / 2 for node, (x, _) in self.nodes.items() for side in (-1, 1)]
        sides += [float(end) for x, _ in self.curves.values() for end in (x.min(), x.max())]
        return min(sides) - 20, max(sides) + 20

    def beside(self, said: Mapping[Any, str]) -> dict[Any, tuple[float, float]]:
        """Where what is said of each edge stands on it, off the nodes and off one another where there is room."""
        taken = [(*place, self.widths[node] / 2, BOX / 2) for node, place in self.nodes.items()]
        found = {}
        for edge, text in said.items():
            x, y = self.curves[edge]
            spots = [tuple(float(np.interp(share * (len(x) - 1), range(len(x)), way)) for way in (x, y))
                     for share in ALONG]  # fmt: skip
            half = 3.5 * columns_of(text) + 3, 8.0
            free = (spot for spot in spots if not any(
                abs(spot[0] - at[0]) < half[0] + at[2] and abs(spot[1] - at[1]) < half[1] + at[3] for at in taken
            ))  # fmt: skip
            found[edge] = next(free, spots[0])
            taken.append((*found[edge], *half))
        return found

    def level_names(self) -> list[str]:
        """What stands at each height: "embed", a layer, "3 MLP", "logits"."""
        said = []
        for height in self.heights.values():
            here = [self.graph.nodes[node] for node, (_, y) in self.nodes.items() if y == height]
            kinds = {str(about.get("kind")) for about in here}
            layer = {"mlp": f"{here[0]['layer']} MLP", "cross": f"{here[0]['layer']} cross"}
            alike = kinds.pop() if len(kinds) == 1 else ""
            named = alike if alike in ("embed", "logits") else layer.get(alike, str(here[0]["layer"]))
            said.append(f"{here[0].get('stack', '')} {named}".strip())
        return said


def _levels(graph: networkx.MultiDiGraph) -> dict[Any, float]:
    """How high each node is: as its layer; MLPs half a layer higher where heads of their layer feed them.

    Cross heads are a quarter of a layer higher there. The decoder of a pair stands above its encoder.
    """
    layer, kind = dict(graph.nodes(data="layer")), dict(graph.nodes(data="kind"))
    is_above = {node: stack == "decoder" for node, stack in graph.nodes(data="stack")}
    top = max((layer[node] for node in graph if not is_above[node]), default=0)
    level = {node: layer[node] + (top + 2) * is_above[node] for node in graph}
    fed = {level[end] for start, end in graph.edges() if level[start] == level[end]}
    higher = {"cross": 0.25, "mlp": 0.5}
    return {node: level[node] + higher.get(kind[node], 0.0) * (level[node] in fed) for node in graph}


def _smooth(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve through points, upright at each of them."""
    along = np.linspace(0, 1, 13)
    bent = along * along * (3 - 2 * along)
    points = [(x[i] + (x[i + 1] - x[i]) * bent, y[i] + (y[i + 1] - y[i]) * along) for i in range(len(x) - 1)]
    return tuple(np.concatenate(one).astype(np.float32) for one in zip(*points, strict=True))  # pyright: ignore
