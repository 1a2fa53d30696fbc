"""Figures of what feeds what: a circuit's graph, and the flow between tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.discovery import Subgraph
from interp.errors import ConfigError, RangeError, ShapeError
from interp.indices import check_count
from interp.model import head_label
from interp.plot.drawn_circuits import drawn_part
from interp.plot.labels import shown_tokens
from interp.plot.layered import Link, layered
from interp.plot.style import (
    COLORS,
    check_shares,
    clip,
    float32,
    headings,
    literal,
    literal_lines,
    ticks,
)

if TYPE_CHECKING:
    import networkx
    import plotly.graph_objects
    import xarray

KINDS = {"Q": COLORS[0], "K": COLORS[1], "V": COLORS[2], "mlp": COLORS[3], "out": COLORS[6]}
"""Colours of edges by what they feed."""

SHAPES = {"head": "#dcebf7", "mlp": "#f7e3ee", "embed": "#eeeeee", "logits": "#eeeeee"}
"""Colours of nodes by their kind."""


# ---------------------------------------------------------------------- circuits


def circuit(
    graph: networkx.MultiDiGraph | Subgraph | Any,
    *,
    scores: xarray.DataArray | None = None,
    top_k: int = 60,
    pruned: bool = False,
    title: str | None = None,
) -> plotly.graph_objects.Figure:
    """What feeds what: layers upwards, an edge for every input that a part reads, coloured by what it feeds.

    Edges enter a head at the left (Q), in the middle (K) and at the right (V). Layers without parts are left out, and
    MLPs stand above the heads of their layer where these feed them. What an edge is, and its score, are under the
    pointer.

    Args:
        graph: a `discovery.Subgraph`; or a networkx `MultiDiGraph` whose nodes have a `layer` (and a `kind`, and the
            names of their `parts`) and whose edges' keys say what they feed; or anything whose `edges()` returns one,
            such as a `circuits.Circuit`.
        scores: of a `Subgraph`'s edges, as `edge_scores` returns them. Lines are as wide as their scores are large, and
            dashed where the score has the sign that fewer have.
        top_k: of a `Subgraph` at most so many edges are drawn, those with the largest scores.
        pruned: leave out a `Subgraph`'s dead ends, which are drawn faint otherwise; see `Subgraph.pruned`.
        title: above the figure; of a `Subgraph` by default how large it is, how it was found, and what is not drawn.

    Raises:
        ConfigError: no such graph, one without nodes or edges, more than `top_k` edges and no scores to choose by,
            edges that are not scored, or options of a `Subgraph` for anything else.
        ShapeError: scores of models of another shape. Scores raise as `discovery.score_matrix` too.
    """
    import networkx
    import plotly.graph_objects as go

    if isinstance(graph, Subgraph):
        drawn, said = drawn_part(graph, scores, check_count("top_k", top_k), pruned)
        title = said if title is None else title
    elif scores is not None or pruned:
        raise ConfigError(f"scores and pruned are for a Subgraph, not for {type(graph).__name__}")
    else:
        drawn = graph if isinstance(graph, networkx.Graph) or not hasattr(graph, "edges") else graph.edges()
    if not isinstance(drawn, networkx.MultiDiGraph) or not len(drawn):
        raise ConfigError(f"this draws a Subgraph, a networkx MultiDiGraph with nodes, or a Circuit, not "
                          f"{type(graph).__name__}")  # fmt: skip
    if missing := [name for name, about in drawn.nodes(data=True) if "layer" not in about]:
        raise ConfigError(f"node {missing[0]!r} has no layer")
    names = {node: _named(node, about.get("parts", ())) for node, about in drawn.nodes(data=True)}
    places = _Places(drawn, names)
    figure = go.Figure()
    _edges(figure, places, names)
    _nodes(figure, places, names, {name: about.get("kind", "") for name, about in drawn.nodes(data=True)})
    (left, right), heights = places.ends(), places.heights
    figure.update_xaxes(visible=False, range=[left, right])
    figure.update_yaxes(title_text="layer", tickmode="array", tickvals=list(heights.values()),
                        ticktext=places.level_names(), range=[-40, max(heights.values()) + 40],
                        showgrid=True, gridcolor="#eeeeee", zeroline=False)  # fmt: skip
    size = 120 + right - left, 80 + max(heights.values())  # never less: the nodes' sizes are in pixels
    return finish(figure, title or "", *size, most=max(WIDEST, *size))


def _edges(figure: plotly.graph_objects.Figure, places: _Places, names: Mapping[Any, str]) -> None:
    """A line for each edge, and an entry of the legend for each kind."""
    import plotly.graph_objects as go

    curves = sorted(places.curves.items(), key=lambda curve: _rank(str(curve[0][2])))
    for edge, (x, y) in curves:
        kind, about = str(edge[2]), places.graph.edges[edge]
        spaces = ", ".join(map(str, about.get("spaces", ())))
        note = f"{names[edge[0]]} → {names[edge[1]]}, {kind}" + (f"\nthrough {spaces}" if spaces else "")
        look = _Look(kind, KINDS.get(kind, COLORS[4]), about.get("width", 2), about.get("dash", "solid"),
                     about.get("opacity", 1), arrow=True, labelled=len(curves) <= MOST_LABELLED)  # fmt: skip
        _curve(figure, x, y, look, about.get("note", note), legend=False)
    for kind in dict.fromkeys(str(edge[2]) for edge, _ in curves):
        mark = {"symbol": "line-ew", "size": 12, "line": {"color": KINDS.get(kind, COLORS[4]), "width": 3}}
        figure.add_trace(
            go.Scatter(x=[None], y=[None], mode="markers", name=literal(kind), legendgroup=kind, marker=mark,
                       showlegend=True, hoverinfo="skip")
        )  # fmt: skip


PORTS = {"Q": -0.3, "V": 0.3}
"""Where edges of a kind enter a node, off its middle, in widths of the node."""

MOST_LABELLED = 20
"""Up to so many edges are labelled with what they feed."""

BOX = 24
"""Pixels from the lower to the upper side of a node."""


class _Places:
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
            node: max(52, 8 * len(clip(names[node])) + 14, 4 * max(graph.in_degree(node), graph.out_degree(node)))
            for node in graph
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

    def level_names(self) -> list[str]:
        """What stands at each height: "embed", a layer, "3 MLP", "logits"."""
        said = []
        for height in self.heights.values():
            here = [self.graph.nodes[node] for node, (_, y) in self.nodes.items() if y == height]
            kinds = {str(about.get("kind")) for about in here}
            layer = str(here[0]["layer"])
            said.append(
                kinds.pop() if kinds in ({"embed"}, {"logits"}) else f"{layer} MLP" if kinds == {"mlp"} else layer
            )
        return said


def _levels(graph: networkx.MultiDiGraph) -> dict[Any, float]:
    """How high each node is: as its layer; MLPs half a layer higher where heads of their layer feed them."""
    layer = dict(graph.nodes(data="layer"))
    fed = {layer[end] for start, end in graph.edges() if layer[start] == layer[end]}
    is_mlp = {node: kind == "mlp" for node, kind in graph.nodes(data="kind")}
    return {node: layer[node] + 0.5 * (is_mlp[node] and layer[node] in fed) for node in graph}


def _smooth(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve through points, upright at each of them."""
    along = np.linspace(0, 1, 13)
    bent = along * along * (3 - 2 * along)
    points = [(x[i] + (x[i + 1] - x[i]) * bent, y[i] + (y[i + 1] - y[i]) * along) for i in range(len(x) - 1)]
    return tuple(np.concatenate(one).astype(np.float32) for one in zip(*points, strict=True))  # pyright: ignore


@dataclass(frozen=True)
class _Look:
    """How a line looks, and what it is called in the legend.

    Attributes:
        arrow: whether it ends in one.
        labelled: whether its kind is written beside it.
    """

    kind: str
    color: str
    width: int | float = 2
    dash: str = "solid"
    opacity: int | float = 1
    arrow: bool = False
    labelled: bool = False


def _curve(
    figure: plotly.graph_objects.Figure, x: np.ndarray, y: np.ndarray, look: _Look, note: str, legend: bool
) -> None:
    """Add a line to a figure, with a note under the pointer; `legend`: whether it stands for its kind there."""
    import plotly.graph_objects as go

    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            name=literal(look.kind),
            legendgroup=look.kind,
            showlegend=legend,
            opacity=look.opacity,
            line={"color": look.color, "width": look.width, "dash": look.dash},
            text=[literal_lines(note)] * len(x),
            hovertemplate="%{text}<extra></extra>",
        )
    )
    if look.arrow:
        tail = {"ax": float(x[-3]), "ay": float(y[-3]), "axref": "x", "ayref": "y"}
        figure.add_annotation(x=float(x[-1]), y=float(y[-1]), **tail, text="", showarrow=True, arrowhead=2,
                              arrowwidth=max(1.5, look.width / 2), arrowcolor=look.color,
                              opacity=look.opacity)  # fmt: skip
    if look.labelled:
        at = 0.62 * (len(x) - 1)
        label = {"x": float(np.interp(at, range(len(x)), x)), "y": float(np.interp(at, range(len(y)), y))}
        figure.add_annotation(**label, text=literal(look.kind), showarrow=False, bgcolor="#ffffff", borderpad=1,
                              font={"color": look.color, "size": 11})  # fmt: skip


def _rank(kind: str) -> tuple[int, str]:
    return (list(KINDS).index(kind) if kind in KINDS else len(KINDS), kind)


def _named(node: Any, parts: Sequence[Any]) -> str:
    """A node as the figure calls it: "induction (L1H0)" where its parts have names of their own."""
    return f"{', '.join(map(str, parts))} ({node})" if parts else str(node)


def _nodes(
    figure: plotly.graph_objects.Figure, places: _Places, names: Mapping[Any, str], kinds: Mapping[Any, str]
) -> None:
    box = {"showarrow": False, "borderpad": 3, "borderwidth": 1, "bordercolor": "#555555", "font": {"size": 12}}
    for node, (x, y) in places.nodes.items():
        figure.add_annotation(
            x=x, y=y, text=literal(clip(names[node])), bgcolor=SHAPES.get(kinds[node], "#ffffff"),
            width=places.widths[node] - 8, height=BOX - 8, **box,
        )  # fmt: skip


WIDEST = 1400
"""Pixels of a graph, across or down."""


def finish(
    figure: plotly.graph_objects.Figure, title: str, width: int | float, height: int | float, most: int | float = WIDEST
) -> Any:
    """The figure with its title, its size within reason, and its legend below."""
    width, height = int(min(max(width, 460), most)), int(min(max(height, 200), most))
    heading, lines_high = headings(title, width)
    return figure.update_layout(
        title=heading,
        width=width,
        height=height + 70 + lines_high,
        margin={"l": 80, "r": 40, "t": 20 + lines_high, "b": 50},
        plot_bgcolor="#ffffff",
        hovermode="closest",
        legend={"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "x": 0.5, "xanchor": "center"},
    )


# ---------------------------------------------------------------------- tokens


def token_flow(
    patterns: Mapping[tuple[int, int], Float[Tensor, "query_pos key_pos"] | Float[np.ndarray, "query_pos key_pos"]],
    tokens: Sequence[str],
    *,
    at_least: int | float = 0.3,
    title: str = "",
) -> plotly.graph_objects.Figure:
    """Where information can move: tokens across, layers upwards, a line for each strong entry of a pattern.

    A line goes from the key, as it enters the layer, to the query, as it leaves it; its width is the attention.

    Args:
        patterns: of some heads, by layer and head: `{(5, 1): cache["pattern", 5][0, 1], ...}`.
        tokens: a string a position.
        at_least: entries from here on are drawn.
        title: above the figure.

    Raises:
        ShapeError: a pattern is not [len(tokens), len(tokens)].
        ConfigError: no heads at all, or called otherwise than (layer, head).
        TokenError: tokens that are no strings.
        RangeError: `at_least` is not above 0 and at most 1, or above all entries, or a pattern has entries outside
            [0, 1].
    """
    import plotly.graph_objects as go

    n, shown = len(tokens), shown_tokens(tokens, len(tokens))
    if not 0 < at_least <= 1:
        raise RangeError(f"at_least = {at_least}; allowed: above 0, at most 1")
    if not isinstance(patterns, Mapping) or not patterns or any(not _is_head(head) for head in patterns):
        raise ConfigError("patterns is a mapping from (layer, head) to a pattern, of at least one head")
    layers = sorted({layer for layer, _ in patterns})
    figure = go.Figure()
    beside = {layer: sorted(head for at, head in patterns if at == layer) for layer in layers}
    for number, ((layer, head), given) in enumerate(sorted(patterns.items())):
        values = float32(given)
        if values.shape != (n, n) or n == 0:
            raise ShapeError(f"the pattern of {head_label(layer, head)} has shape {values.shape}; allowed: {(n, n)}")
        check_shares(values, f"the pattern of {head_label(layer, head)}")
        level, name = layers.index(layer), head_label(layer, head)
        bend = 0.12 * (beside[layer].index(head) - (len(beside[layer]) - 1) / 2)  # so that no head hides another
        for i, (query, key) in enumerate(np.argwhere(values >= at_least).tolist()):
            weight = float(values[query, key])
            note = f"{name}: {query} “{shown[query]}” attends {weight:.3f}\nto {key} “{shown[key]}”"
            look = _Look(name, COLORS[number % len(COLORS)], 0.5 + 3.5 * weight)
            _curve(figure, *_swing(key, query, level, bend), look, note, legend=i == 0)
    if not figure.data:
        most = max(float(float32(given).max()) for given in patterns.values())
        raise RangeError(f"at_least = {at_least}, but the largest entry is {most:.3g}: there is nothing to draw")
    dots = [(x, y) for y in range(len(layers) + 1) for x in range(n)]
    figure.add_trace(
        go.Scatter(x=[x for x, _ in dots], y=[y for _, y in dots], mode="markers", showlegend=False, hoverinfo="skip",
                   marker={"size": 9, "color": "#ffffff", "line": {"color": "#555555", "width": 1}})
    )  # fmt: skip
    labels, width = [clip(token) for token in shown], min(160 + 60 * n, WIDEST)
    angle = -60 if 8 * max(map(len, labels)) > (width - 120) / n else 0
    figure.update_xaxes(**ticks(labels, width - 120, angle), range=[-0.6, n - 0.4])
    names = [f"into {layer}" for layer in layers] + [f"out of {layers[-1]}"]
    figure.update_yaxes(title_text="layer", tickmode="array", tickvals=list(range(len(names))), ticktext=names,
                        gridcolor="#eeeeee", zeroline=False, range=[-0.3, len(layers) + 0.3])  # fmt: skip
    below = 7 * max(map(len, labels)) if angle else 20
    figure = finish(figure, title, width, 60 + 110 * len(layers))
    return figure.update_layout(margin_b=50 + below, height=figure.layout.height + below)


def _swing(start: int, end: int, level: int, bend: int | float) -> tuple[np.ndarray, np.ndarray]:
    """A line to the next level whose middle is off the straight line by `bend`."""
    along = np.linspace(0, 1, 25, dtype=np.float32)  # the pointer finds points, not lines
    return (1 - along) * start + along * end + 4 * bend * along * (1 - along), level + along


def _is_head(key: Any) -> bool:
    return isinstance(key, tuple) and len(key) == 2 and all(isinstance(i, Integral) for i in key)
