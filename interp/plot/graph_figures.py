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

from interp.errors import ConfigError, RangeError, ShapeError
from interp.model import head_label
from interp.plot.labels import shown_tokens
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

KINDS = {"Q": COLORS[0], "K": COLORS[1], "V": COLORS[2], "mlp": COLORS[3], "out": COLORS[6]}
"""Colours of edges by what they feed."""

SHAPES = {"head": "#dcebf7", "mlp": "#f7e3ee", "embed": "#eeeeee", "logits": "#eeeeee"}
"""Colours of nodes by their kind."""


# ---------------------------------------------------------------------- circuits


def circuit(graph: networkx.MultiDiGraph | Any, *, title: str = "") -> plotly.graph_objects.Figure:
    """What feeds what: layers upwards, an edge for every input that a part reads, coloured and labelled Q, K, V, ...

    Parts of one layer stand side by side, its MLPs above its heads. Edges enter a head at the left (Q), in the middle
    (K) and at the right (V); the spaces that they go through are under the pointer.

    Args:
        graph: a networkx `MultiDiGraph` whose nodes have a `layer` (and a `kind`, and the names of their `parts`) and
            whose edges' keys say what they feed, or anything whose `edges()` returns one, such as a `circuits.Circuit`.
        title: above the figure.

    Raises `ConfigError` for no such graph, or one without nodes.
    """
    import networkx
    import plotly.graph_objects as go

    if not isinstance(graph, networkx.Graph) and callable(getattr(graph, "edges", None)):
        graph = graph.edges()
    if not isinstance(graph, networkx.MultiDiGraph) or not len(graph):
        raise ConfigError(f"this draws a networkx MultiDiGraph with nodes, or a Circuit, not {type(graph).__name__}")
    if missing := [name for name, about in graph.nodes(data=True) if "layer" not in about]:
        raise ConfigError(f"node {missing[0]!r} has no layer")
    places = _side_by_side(graph)
    names = {node: _named(node, about.get("parts", ())) for node, about in graph.nodes(data=True)}
    figure = go.Figure()
    kinds = sorted({str(kind) for _, _, kind in graph.edges(keys=True)}, key=_rank)
    reach = [x for x, _ in places.values()]
    first = dict.fromkeys(kinds, True)
    for start, end, key, about in sorted(graph.edges(keys=True, data=True), key=lambda edge: _rank(str(edge[2]))):
        kind, (x, y) = str(key), places[end]
        spaces = ", ".join(map(str, about.get("spaces", ())))
        note = f"{names[start]} → {names[end]}, {kind}" + (f"\nthrough {spaces}" if spaces else "")
        port = PORTS.get(kind, 0.0)
        bend = _bend(places, start, end) * (1 + port / 2)
        line = _Line((places[start][0] + port / 2, places[start][1] + 0.1), (x + port, y - 0.13), bend)
        reach += line.points()[0].tolist()
        line.draw(figure, kind, KINDS.get(kind, COLORS[4]), note, legend=first[kind], arrow=True)
        first[kind] = False
    _nodes(figure, places, names, {name: about.get("kind", "") for name, about in graph.nodes(data=True)})
    heights = sorted({y for _, y in places.values()})
    levels = [_level_name(graph, places, y) for y in heights]
    low, high = min(reach) - 0.45, max(reach) + 0.45
    axis = {"showgrid": True, "gridcolor": "#eeeeee", "zeroline": False}
    figure.update_xaxes(visible=False, range=[low, high])
    figure.update_yaxes(title_text="layer", tickmode="array", tickvals=heights, ticktext=levels,
                        range=[heights[0] - 0.3, heights[-1] + 0.3], **axis)  # fmt: skip
    return finish(figure, title, 120 + 150 * (high - low), 60 + 135 * (heights[-1] - heights[0] + 0.6))


PORTS = {"Q": -0.14, "V": 0.14}
"""Where edges of a kind enter a node, off its middle."""


@dataclass(frozen=True)
class _Line:
    """A curve from one point to another, whose middle is off the straight line by `bend`."""

    start: tuple[int | float, int | float]
    end: tuple[int | float, int | float]
    bend: int | float = 0

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        (x0, y0), (x1, y1) = self.start, self.end
        along = np.linspace(0, 1, 25, dtype=np.float32)  # the pointer finds points, not lines
        return (1 - along) * x0 + along * x1 + 4 * self.bend * along * (1 - along), (1 - along) * y0 + along * y1

    def draw(
        self,
        figure: plotly.graph_objects.Figure,
        kind: str,
        color: str,
        note: str,
        legend: bool,
        arrow: bool = False,
        width: int | float = 2,
    ) -> None:
        """Add the curve to a figure; one with an arrow is labelled too."""
        import plotly.graph_objects as go

        x, y = self.points()
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines",
                name=literal(kind),
                legendgroup=kind,
                showlegend=legend,
                line={"color": color, "width": width},
                text=[literal_lines(note)] * len(x),
                hovertemplate="%{text}<extra></extra>",
            )
        )
        if arrow:
            tail = {"ax": float(x[-2]), "ay": float(y[-2]), "axref": "x", "ayref": "y"}
            figure.add_annotation(x=float(x[-1]), y=float(y[-1]), **tail, text="", showarrow=True, arrowhead=2,
                                  arrowwidth=width, arrowcolor=color)  # fmt: skip
            at = 0.62 * (len(x) - 1)
            label = {"x": float(np.interp(at, range(len(x)), x)), "y": float(np.interp(at, range(len(y)), y))}
            figure.add_annotation(**label, text=literal(kind), showarrow=False, bgcolor="#ffffff", borderpad=1,
                                  font={"color": color, "size": 11})  # fmt: skip


def _rank(kind: str) -> tuple[int, str]:
    return (list(KINDS).index(kind) if kind in KINDS else len(KINDS), kind)


def _level_name(graph: networkx.MultiDiGraph, places: Mapping[Any, tuple[float, float]], height: float) -> str:
    here = [about for name, about in graph.nodes(data=True) if places[name][1] == height]
    kinds = {str(about.get("kind")) for about in here}
    if kinds in ({"embed"}, {"logits"}):
        return kinds.pop()
    return f"{here[0]['layer']} MLP" if kinds == {"mlp"} else str(here[0]["layer"])


def _named(node: Any, parts: Sequence[Any]) -> str:
    """A node as the figure calls it: "induction (L1H0)" where its parts have names of their own."""
    return f"{', '.join(map(str, parts))} ({node})" if parts else str(node)


def _side_by_side(graph: networkx.MultiDiGraph) -> dict[Any, tuple[float, float]]:
    """A place for each node: as high as its layer, beside the others there in the order of what feeds them."""
    places: dict[Any, tuple[float, float]] = {}
    levels: dict[float, list[Any]] = defaultdict(list)
    for name, about in graph.nodes(data=True):
        levels[about["layer"] + 0.5 * (about.get("kind") == "mlp")].append(name)
    for height in sorted(levels):

        def centre(name: Any) -> float:
            before = [places[writer][0] for writer in graph.predecessors(name) if writer in places]
            return sum(before) / len(before) if before else 0.0

        names = sorted(levels[height], key=centre)  # a stable sort: declared order where nothing decides
        for number, name in enumerate(names):
            places[name] = (number - (len(names) - 1) / 2, float(height))
    return places


def _bend(places: Mapping[Any, tuple[float, float]], start: Any, end: Any) -> int | float:
    """How far an edge swings out, so that it passes beside the nodes that it would run through."""
    (x0, y0), (x1, y1) = places[start], places[end]
    crossed = [x for x, y in places.values() if y0 < y < y1 and abs(x - x0 - (x1 - x0) * (y - y0) / (y1 - y0)) < 0.4]
    if not crossed:
        return 0
    left = (x0 + x1) / 2 <= sum(crossed) / len(crossed)
    return (-1 if left else 1) * (0.45 + 0.2 * len(crossed))


def _nodes(
    figure: plotly.graph_objects.Figure,
    places: Mapping[Any, tuple[float, float]],
    names: Mapping[Any, str],
    kinds: Mapping[Any, str],
) -> None:
    box = {"showarrow": False, "borderpad": 5, "borderwidth": 1, "bordercolor": "#555555", "font": {"size": 12}}
    for node, (x, y) in places.items():
        figure.add_annotation(
            x=x, y=y, text=literal(clip(names[node])), bgcolor=SHAPES.get(kinds[node], "#ffffff"), **box
        )


WIDEST = 1400
"""Pixels of a graph, across or down."""


def finish(figure: plotly.graph_objects.Figure, title: str, width: int | float, height: int | float) -> Any:
    """The figure with its title, its size within reason, and its legend below."""
    width, height = int(min(max(width, 460), WIDEST)), int(min(max(height, 200), WIDEST))
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
            line = _Line((key, level), (query, level + 1), bend)
            line.draw(figure, name, COLORS[number % len(COLORS)], note, legend=i == 0, width=0.5 + 3.5 * weight)
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


def _is_head(key: Any) -> bool:
    return isinstance(key, tuple) and len(key) == 2 and all(isinstance(i, Integral) for i in key)
