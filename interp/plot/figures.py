"""Single-panel plotly figures: a function from a result to a `plotly.graph_objects.Figure`.

Two builders serve all: `heatmap` and `curves`. Nothing here changes plotly's templates or renderers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, RangeError, ShapeError
from interp.tokens import visible

if TYPE_CHECKING:
    import plotly.graph_objects

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Of lines; told apart by every kind of colour vision (Okabe & Ito 2008)."""


def pattern(
    pattern: Float[Tensor, "query_pos key_pos"] | Float[np.ndarray, "query_pos key_pos"],
    tokens: Sequence[str],
    *,
    title: str = "",
    attention_dir: Literal["causal", "bidirectional"] = "causal",
) -> plotly.graph_objects.Figure:
    """One head's attention pattern: queries down, keys across, entries from 0 to 1.

    Args:
        pattern: one head of one sequence, such as `cache["pattern", layer][0, head]`.
        tokens: a string a position; white space is made visible, repeated tokens stay apart.
        title: above the figure.
        attention_dir: "causal" leaves the keys after a query blank, as masked, not as 0.

    Raises:
        ShapeError: the pattern is not [len(tokens), len(tokens)].
        RangeError: it has entries outside [0, 1], or attends to later keys and is called causal.
    """
    values = _float32(pattern)
    n = len(tokens)
    if values.shape != (n, n) or n == 0:
        raise ShapeError(
            f"a pattern of shape {values.shape} does not fit {n} tokens; allowed: {(n, n)}, one head of one sequence, "
            "such as cache['pattern', layer][0, head]"
        )
    if attention_dir not in ("causal", "bidirectional"):
        raise ConfigError(f"attention_dir = {attention_dir!r}; allowed: 'causal' or 'bidirectional'")
    if not ((values >= -1e-6) & (values <= 1 + 1e-4)).all():
        raise RangeError("a pattern's entries lie between 0 and 1; draw other values with heatmap()")
    future = np.triu(np.ones((n, n), dtype=bool), k=1)
    if attention_dir == "causal":
        if np.any(values[future] != 0):
            raise RangeError("this pattern attends to later keys; say attention_dir='bidirectional'")
        values = np.where(future, np.nan, values)
    shown = [visible(token) for token in tokens]
    figure = heatmap(values, shown, shown, title=title, x="key", y="query", value="attention", limits=(0.0, 1.0))
    return figure.update_yaxes(scaleanchor="x", constrain="domain").update_xaxes(constrain="domain")


def heatmap(
    values: Float[Tensor, "row column"] | Float[np.ndarray, "row column"],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    value: str = "value",
    signed: bool = False,
    limits: tuple[float, float] | None = None,
) -> plotly.graph_objects.Figure:
    """The builder of every heat-map: row 0 on top, NaN blank, labels as text, `signed` values centred on 0.

    Axes are integer positions with tick labels, because a categorical axis would merge equal labels into one. The
    figure grows with the number of rows and columns; where labels would run into each other, some are left out (all are
    in the hover text).

    Raises `ShapeError` if there are not as many labels as rows and columns.
    """
    import plotly.graph_objects as go

    z = _float32(values)
    if z.shape != (len(rows), len(columns)) or z.size == 0:
        raise ShapeError(f"values of shape {z.shape} with {len(rows)} row and {len(columns)} column labels")
    row_labels, column_labels = [_literal(r) for r in rows], [_literal(c) for c in columns]
    names = np.array([[[r, c] for c in column_labels] for r in row_labels], dtype=object)
    figure = go.Figure(
        go.Heatmap(
            z=z,
            customdata=names,
            hovertemplate=f"{y} %{{y}}: “%{{customdata[0]}}”<br>{x} %{{x}}: “%{{customdata[1]}}”"
            f"<br>{value} %{{z:.4f}}<extra></extra>",
            hoverongaps=False,
            xgap=1,
            ygap=1,
            coloraxis="coloraxis",
        )
    )
    colours = {"colorscale": "RdBu", "cmid": 0.0} if signed else {"colorscale": "Blues"}
    if limits is not None:
        colours |= {"cmin": limits[0], "cmax": limits[1]}
    width, height = _extent(len(columns)), _extent(len(rows))
    dense = max(map(len, columns)) * 8 > width / len(columns)
    figure.update_xaxes(title_text=x, **_ticks(column_labels, width, -60 if dense else 0), side="top")
    figure.update_yaxes(title_text=y, **_ticks(row_labels, height, 0), autorange="reversed")
    above = 110 + (7 * max(map(len, columns)) if dense else 0)
    beside = 70 + 7 * max(map(len, rows))
    figure.update_layout(
        title={"text": _literal(title), "y": 1, "yanchor": "top", "pad": {"t": 14}},
        width=width + beside + 90,
        height=height + above + 30,
        margin={"l": beside, "r": 90, "t": above, "b": 30},
        plot_bgcolor="#eeeeee",
        coloraxis=colours | {"colorbar": {"title": {"text": value, "side": "right"}, "thickness": 12}},
    )
    return figure


def curves(
    lines: Mapping[str, tuple[Any, Any]],
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    marks: Mapping[str, int | float] | None = None,
    levels: Mapping[str, int | float] | None = None,
    limits: tuple[float, float] | None = None,
) -> plotly.graph_objects.Figure:
    """The builder of every line figure.

    Args:
        lines: what to draw by name: x values and as many y values; NaN leaves a hole.
        title, x, y: above the figure, below and beside it.
        marks: vertical lines at these x values, by name, such as a phase change.
        levels: horizontal lines at these y values, by name, such as the loss of a guess.
        limits: lowest and highest y shown; None for all that there are.

    Raises `ShapeError` for no lines at all, an empty one, or one whose x and y differ in length or have two axes.
    """
    import plotly.graph_objects as go

    points = {name: (_float32(a), _float32(b)) for name, (a, b) in lines.items()}
    for name, (a, b) in points.items():
        if a.ndim != 1 or a.shape != b.shape or a.size == 0:
            raise ShapeError(f"line {name!r} has x values of shape {a.shape} and y values of shape {b.shape}")
    if not points:
        raise ShapeError("no lines to draw; at least one is needed")
    figure = go.Figure()
    for number, (name, (a, b)) in enumerate(points.items()):
        dash = ("solid", "dash", "dot")[number // len(COLOURS) % 3]
        style = {"color": COLOURS[number % len(COLOURS)], "dash": dash, "width": 2}
        label = _literal(name)
        hover = f"{label}<br>{_literal(x)} %{{x}}<br>{_literal(y)} %{{y:.4f}}<extra></extra>"
        figure.add_trace(go.Scatter(x=a, y=b, mode="lines", name=label, line=style, hovertemplate=hover))
    line = {"color": "#555555", "dash": "dash", "width": 1}
    for name, value in (marks or {}).items():
        label = {"text": _literal(name), "xanchor": "center", "yanchor": "bottom"}
        figure.add_vline(value, line=line, annotation=label)
    for name, value in (levels or {}).items():
        label = {"text": _literal(name), "xanchor": "right", "yanchor": "bottom"}
        figure.add_hline(value, line=line, annotation=label)
    axis = {"gridcolor": "#e5e5e5", "zeroline": False, "showline": True, "linecolor": "#999999", "ticks": "outside"}
    figure.update_xaxes(title_text=_literal(x), **axis)
    figure.update_yaxes(title_text=_literal(y), range=limits, **axis)
    return figure.update_layout(
        title={"text": _literal(title), "y": 1, "yanchor": "top", "pad": {"t": 14}},
        width=760,
        height=380,
        margin={"l": 60, "r": 30, "t": 70, "b": 50},
        plot_bgcolor="#ffffff",
        showlegend=len(points) > 1,
    )


def loss_curves(
    losses: Mapping[str, Float[Tensor, " step"]],
    *,
    window: int = 10,
    phase_changes: Mapping[str, int | None] | None = None,
    levels: Mapping[str, int | float] | None = None,
    title: str = "",
) -> plotly.graph_objects.Figure:
    """Losses over the steps of training, each point the mean of `window` steps.

    Args:
        losses: a value a step, in nats, by name.
        window: how many steps to average; a rest of fewer at the end is left out.
        phase_changes: the steps to mark, by name; None (`training.phase_change` found none) marks nothing.
        levels: losses to compare with, such as that of a guess, ln d_vocab.
        title: above the figure.

    Raises `ShapeError` for fewer losses than a window holds.
    """
    for name, values in losses.items():
        if not 1 <= window <= len(values):
            raise ShapeError(f"{len(values)} losses {name!r} do not fill a window of {window}")
    means = {name: values.detach().unfold(0, window, window).mean(dim=-1) for name, values in losses.items()}
    lines = {name: ((np.arange(len(values)) + 0.5) * window, values) for name, values in means.items()}
    marks = {name: step for name, step in (phase_changes or {}).items() if step is not None}
    return curves(lines, title=title, x="step", y="loss (nats)", marks=marks, levels=levels)


def _extent(n: int) -> int:
    """Pixels for n rows or columns: 24 each, within reason."""
    return min(max(24 * n, 340 if n > 3 else 60 * n), 1400)


def _ticks(labels: Sequence[str], extent: int, angle: int) -> dict[str, Any]:
    every = math.ceil(len(labels) * 14 / extent)
    return {
        "tickmode": "array",
        "tickvals": list(range(0, len(labels), every)),
        "ticktext": list(labels[::every]),
        "tickangle": angle,
        "ticks": "outside",
        "ticklen": 4,
        "showgrid": False,
        "zeroline": False,
    }


def _literal(text: str) -> str:
    """Text as plotly shows it literally: nothing read as markup or as TeX."""
    return escape(text, quote=False).replace("$", "&#36;")


def _float32(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=np.float32)
