"""The figure of what feeds what: `circuit`; and what it shares with other drawings of lines between nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.discovery import Subgraph
from interp.errors import ConfigError
from interp.indices import check_count
from interp.plot.circuit_places import BOX, Places
from interp.plot.drawn_circuits import drawn_part
from interp.plot.style import (
    COLORS,
    MODE_BAR,
    clip,
    headings,
    literal,
    literal_lines,
)

if TYPE_CHECKING:
    import networkx
    import plotly.graph_objects
    import xarray

KINDS = {"Q": COLORS[0], "K": COLORS[1], "V": COLORS[2], "mlp": COLORS[3], "out": COLORS[6]}
"""Colours of edges by what they feed."""

SHAPES = {"head": "#dcebf7", "cross": "#e3f3e4", "mlp": "#f7e3ee", "embed": "#eeeeee", "logits": "#eeeeee"}
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

    from interp.plot.shown import Figure

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
    names, labels = (
        {node: _named(node, about.get("parts", ()), longest) for node, about in drawn.nodes(data=True)}
        for longest in (None, LONGEST_NAME)
    )
    places = Places(drawn, labels)
    figure = Figure()
    _edges(figure, places, names)
    _nodes(figure, places, labels, {name: about.get("kind", "") for name, about in drawn.nodes(data=True)})
    (left, right), heights = places.ends(), places.heights
    figure.update_xaxes(visible=False, range=[left, right])
    figure.update_yaxes(title_text="layer", tickmode="array", tickvals=list(heights.values()),
                        ticktext=places.level_names(), range=[-40, max(heights.values()) + 40],
                        showgrid=True, gridcolor="#eeeeee", zeroline=False)  # fmt: skip
    size = 120 + right - left, 80 + max(heights.values())  # never less: the nodes' sizes are in pixels
    return finish(figure, title or "", *size, most=max(WIDEST, *size))


def _edges(figure: plotly.graph_objects.Figure, places: Places, names: Mapping[Any, str]) -> None:
    """A line for each edge, and an entry of the legend for each kind."""
    import plotly.graph_objects as go

    curves = sorted(places.curves.items(), key=lambda curve: _rank(str(curve[0][2])))
    for edge, (x, y) in curves:
        kind, about = str(edge[2]), places.graph.edges[edge]
        spaces = ", ".join(map(str, about.get("spaces", ())))
        note = f"{names[edge[0]]} → {names[edge[1]]}, {kind}" + (f"\nthrough {spaces}" if spaces else "")
        look = Look(kind, KINDS.get(kind, COLORS[4]), about.get("width", 2), about.get("dash", "solid"),
                    about.get("opacity", 1), arrow=True)  # fmt: skip
        add_line(figure, x, y, look, about.get("note", note), legend=False)
    labels = {edge: str(edge[2]) for edge, _ in curves if len(curves) <= MOST_LABELLED}
    for edge, (x, y) in places.beside(labels).items():
        figure.add_annotation(x=x, y=y, text=literal(labels[edge]), showarrow=False, bgcolor="#ffffff", borderpad=1,
                              font={"size": 11})  # fmt: skip
    for kind in dict.fromkeys(str(edge[2]) for edge, _ in curves):
        mark = {"symbol": "line-ew", "size": 12, "line": {"color": KINDS.get(kind, COLORS[4]), "width": 3}}
        figure.add_trace(
            go.Scatter(x=[None], y=[None], mode="markers", name=literal(kind), legendgroup=kind, marker=mark,
                       showlegend=True, hoverinfo="skip")
        )  # fmt: skip


MOST_LABELLED = 20
"""Up to so many edges are labelled with what they feed."""


@dataclass(frozen=True)
class Look:
    """How a line looks, and what it is called in the legend.

    Attributes:
        arrow: whether it ends in one.
    """

    kind: str
    color: str
    width: int | float = 2
    dash: str = "solid"
    opacity: int | float = 1
    arrow: bool = False


def add_line(
    figure: plotly.graph_objects.Figure, x: np.ndarray, y: np.ndarray, look: Look, note: str, legend: bool
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


def _rank(kind: str) -> tuple[int, str]:
    return (list(KINDS).index(kind) if kind in KINDS else len(KINDS), kind)


LONGEST_NAME = 40
"""Characters in a node."""


def _named(node: Any, parts: Sequence[Any], longest: int | None) -> str:
    """A node as the figure calls it: "induction (L1H0)" where its parts have names of their own, which may be cut."""
    own, named = str(node), ", ".join(map(str, parts))
    if longest is not None:
        own = clip(own, longest)
        named = clip(named, max(12, longest - len(own) - 3))
    return f"{named} ({own})" if parts else own


def _nodes(
    figure: plotly.graph_objects.Figure, places: Places, labels: Mapping[Any, str], kinds: Mapping[Any, str]
) -> None:
    box = {"showarrow": False, "borderpad": 3, "borderwidth": 1, "bordercolor": "#555555", "font": {"size": 12}}
    for node, (x, y) in places.nodes.items():
        figure.add_annotation(
            x=x, y=y, text=literal(labels[node]), bgcolor=SHAPES.get(kinds[node], "#ffffff"),
            width=places.widths[node] - 8, height=BOX - 8, **box,
        )  # fmt: skip


WIDEST = 1400
"""Pixels of a graph, across or down."""


def finish(
    figure: plotly.graph_objects.Figure, title: str, width: int | float, height: int | float, most: int | float = WIDEST
) -> plotly.graph_objects.Figure:
    """The figure with its title, its size within reason, and its legend below."""
    width, height = int(min(max(width, 460), most)), int(min(max(height, 200), most))
    heading, lines_high = headings(title, width)
    return figure.update_layout(
        title=heading,
        modebar=MODE_BAR,
        width=width,
        height=height + 70 + lines_high,
        margin={"l": 80, "r": 40, "t": 20 + lines_high, "b": 50},
        plot_bgcolor="#ffffff",
        hovermode="closest",
        legend={"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "x": 0.5, "xanchor": "center"},
    )
