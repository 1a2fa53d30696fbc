"""The builder of line figures: `curves`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.errors import RangeError, ShapeError, describe
from interp.plot.style import COLORS, LETTER, MODE_BAR, columns_of, float32, headings, literal

if TYPE_CHECKING:
    import plotly.graph_objects


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

    Raises:
        ShapeError: no lines at all, an empty one, or one whose x and y differ in length or have two axes.
        RangeError: a mark or level that is no finite number.
    """
    import plotly.graph_objects as go

    from interp.plot.shown import Figure

    if wrong := [name for name, pair in lines.items() if len(pair) != 2]:
        raise ShapeError(f"line {wrong[0]!r} is not a pair of x and y values")
    for name, value in [*(marks or {}).items(), *(levels or {}).items()]:
        if not isinstance(value, Real) or not math.isfinite(value):
            raise RangeError(f"{name!r} is to mark {describe(value)}; allowed: finite numbers")
    points = {name: (float32(a), float32(b)) for name, (a, b) in lines.items()}
    for name, (a, b) in points.items():
        if a.ndim != 1 or a.shape != b.shape or a.size == 0:
            raise ShapeError(f"line {name!r} has x values of shape {a.shape} and y values of shape {b.shape}")
    if not points:
        raise ShapeError("no lines to draw; at least one is needed")
    figure = Figure()
    for number, (name, (a, b)) in enumerate(points.items()):
        dash = ("solid", "dash", "dot")[number // len(COLORS) % 3]
        style = {"color": COLORS[number % len(COLORS)], "dash": dash, "width": 2}
        mode, label = "lines+markers" if _has_lone_point(a, b) else "lines", literal(name)
        hover = f"{label}<br>{literal(x)} %{{x}}<br>{literal(y)} %{{y:.4f}}<extra></extra>"
        figure.add_trace(go.Scatter(x=a, y=b, mode=mode, name=label, line=style, hovertemplate=hover))
    ends = [np.concatenate([line[axis] for line in points.values()]) for axis in (0, 1)]
    raised = _mark(figure, ends, marks or {}, levels or {})
    axis: dict[str, Any] = {"gridcolor": "#e5e5e5", "zeroline": False, "showline": True, "linecolor": "#999999"}
    axis |= {"ticks": "outside", "exponentformat": "e"}
    figure.update_xaxes(title_text=literal(x), **axis)
    figure.update_yaxes(title_text=literal(y), range=limits, **axis)
    heading, lines_high = headings(title, 760)
    above, inside = 40 + lines_high + raised, max(260, 20 * len(points) + 20)  # as high as the legend
    return figure.update_layout(
        title=heading,
        modebar=MODE_BAR,
        width=760,
        height=inside + above + 50,
        margin={"l": 60, "r": 30, "t": above, "b": 50},
        plot_bgcolor="#ffffff",
        showlegend=len(points) > 1,
    )


def _has_lone_point(x: Float[np.ndarray, " point"], y: Float[np.ndarray, " point"]) -> bool:
    """Whether a point has no neighbour to draw a line to."""
    known = np.pad(np.isfinite(x) & np.isfinite(y), 1)
    return bool((known[1:-1] & ~known[:-2] & ~known[2:]).any())


def _mark(
    figure: plotly.graph_objects.Figure,
    ends: Sequence[Float[np.ndarray, " point"]],
    marks: Mapping[str, int | float],
    levels: Mapping[str, int | float],
) -> int:
    """Lines across with their names, above or beside each other where they are close; pixels that the names need.

    `ends` are the x and y values of all that is drawn besides.
    """
    line = {"color": "#555555", "dash": "dash", "width": 1}
    rows = _apart(marks, ends[0], 640, {name: LETTER * len(name) for name in marks})
    for name, value in marks.items():
        label = {"text": literal(name), "xanchor": "center", "yanchor": "bottom", "yshift": 15 * rows[name]}
        figure.add_vline(value, line=line, annotation=label)
    columns = _apart(levels, ends[1], 260, dict.fromkeys(levels, 16))
    widest = LETTER * max(map(columns_of, levels), default=0) + 10
    for name, value in levels.items():
        label = {"text": literal(name), "xanchor": "right", "yanchor": "bottom", "xshift": -widest * columns[name]}
        label["bgcolor"] = "rgba(255, 255, 255, 0.8)"  # over the lines of the others
        figure.add_hline(value, line=line, annotation=label)
    return 15 * max(rows.values(), default=0)


def _apart(
    places: Mapping[str, int | float], others: Float[np.ndarray, " point"], room: int, sizes: Mapping[str, int]
) -> dict[str, int]:
    """A row for each label, such that none of `sizes` pixels at these places on `room` pixels overlap in a row."""
    known = [float(one) for one in [*others.tolist(), *places.values()] if math.isfinite(one)]
    scale = room / ((max(known) - min(known)) or 1) if known else 0.0
    rows: dict[str, int] = {}
    for name in places:
        near = {
            rows[other]
            for other in rows
            if abs(places[name] - places[other]) * scale < (sizes[name] + sizes[other]) / 2
        }
        rows[name] = next(row for row in range(len(places)) if row not in near)
    return rows
