"""The builders that plotly figures go through: `heatmap`, `heatmaps` and `bars`; `curves` and `table` beside it.

They settle what plotly would get wrong: axes are integers with tick labels (a categorical axis merges equal labels into
one), labels are text and never markup, values are float32 (half the bytes of float64, and float16 would be written out
as digits), NaN is blank, signed values are centred on 0, and a figure grows with what is in it. Colours can be told
apart by every kind of colour vision; they and the rest that all pictures share are in style.py.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import RangeError, ShapeError, describe
from interp.plot.style import (
    NEGATIVE,
    POSITIVE,
    clip,
    float32,
    headings,
    literal,
    literal_lines,
    ticks,
)

if TYPE_CHECKING:
    import plotly.graph_objects


def heatmap(
    values: Float[Tensor, "row column"] | Float[np.ndarray, "row column"],
    rows: Sequence[str] | Sequence[int],
    columns: Sequence[str] | Sequence[int],
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    value: str = "value",
    signed: bool = False,
    limits: tuple[float, float] | None = None,
    row_names: Sequence[str] | None = None,
    column_names: Sequence[str] | None = None,
    notes: Sequence[Sequence[str]] | None = None,
    text: Sequence[Sequence[str]] | None = None,
) -> plotly.graph_objects.Figure:
    """The builder of every heat-map: row 0 on top, NaN and infinite values blank.

    Where labels would run into each other, some are left out; all are in the hover text.

    Args:
        values: numbers.
        rows, columns: a label for each; equal ones stay apart.
        title: above the figure.
        x, y: what columns and rows are.
        value: what the values are.
        signed: centre the colours on 0.
        limits: ends of the colours; by default those of the values.
        row_names, column_names: what each is called in the hover text; by default like `key 3: “cat”`.
        notes: more about each cell, for the hover text.
        text: what is written into each cell.

    Raises `ShapeError` if there are not as many labels, names, notes or texts as rows and columns, `RangeError` for
    limits that are not (low, high).
    """
    import plotly.graph_objects as go

    z, rows, columns = float32(values), list(map(str, rows)), list(map(str, columns))
    if z.shape != (len(rows), len(columns)) or z.size == 0:
        raise ShapeError(f"values of shape {z.shape} with {len(rows)} row and {len(columns)} column labels")
    names = _hover_names(row_names, rows, y, "row"), _hover_names(column_names, columns, x, "column")
    under = [_cells(names[0], names[1], z.shape)]
    under += [] if notes is None else [_literal_cells(notes, z.shape, "notes")[..., None]]
    lines = "".join(f"<br>%{{customdata[{i}]}}" for i in range(2 + (notes is not None)))[4:]
    width, height = _extent(len(columns), 24 if text is None else 84), _extent(len(rows), 24)
    gap = int(min(width / len(columns), height / len(rows)) >= 8)
    figure = go.Figure(
        go.Heatmap(
            z=z,
            customdata=np.concatenate(under, axis=-1),
            hovertemplate=f"{lines}<br>{literal(value)} %{{z:.4f}}<extra></extra>",
            hoverongaps=False,
            xgap=gap,
            ygap=gap,
            coloraxis="coloraxis",
        )
    )
    if text is not None:
        figure.update_traces(text=_literal_cells(text, z.shape, "texts"), texttemplate="%{text}")
    figure.update_layout(coloraxis=_colors(value, signed, limits))
    return _frame(figure, rows, columns, (width, height, _colorbar_room(value)), title, x, y)


def _frame(
    figure: plotly.graph_objects.Figure,
    rows: Sequence[str],
    columns: Sequence[str],
    sizes: tuple[int, int, int],
    title: str,
    x: str,
    y: str,
) -> plotly.graph_objects.Figure:
    """Labels, titles and margins around a heat-map, `sizes` of which are its width, height and room to the right."""
    width, height, right = sizes
    top, side = [clip(c) for c in columns], [clip(r) for r in rows]
    dense = max(map(len, top)) * 8 > width / len(columns)
    figure.update_xaxes(title_text=literal(x), **ticks(top, width, -60 if dense else 0), side="top")
    figure.update_yaxes(title_text=literal(y), **ticks(side, height, 0))
    figure.update_xaxes(range=[-0.5, len(columns) - 0.5])  # said, because plotly finds no range where all is NaN
    figure.update_yaxes(range=[len(rows) - 0.5, -0.5])
    left = 70 + 7 * max(map(len, side))
    heading, lines_high = headings(title, width + left + right)
    above = 90 + lines_high + (7 * max(map(len, top)) if dense else 0)
    bar = max(height, SHORTEST_COLORBAR)
    figure.update_coloraxes(colorbar={"lenmode": "pixels", "len": bar, "y": 1, "yanchor": "top"})
    return figure.update_layout(
        title=heading,
        width=width + left + right,
        height=bar + above + 30,
        margin={"l": left, "r": right, "t": above, "b": 30 + bar - height},
        plot_bgcolor="#eeeeee",
    )


def heatmaps(
    values: Float[Tensor, "map row column"] | Float[np.ndarray, "map row column"],
    names: Sequence[str],
    rows: Sequence[str] | Sequence[int],
    columns: Sequence[str] | Sequence[int],
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    value: str = "value",
    signed: bool = False,
    limits: tuple[float, float] | None = None,
    per_line: int = 4,
) -> plotly.graph_objects.Figure:
    """Several heat-maps with the same rows and columns and one scale of colours, their names above them.

    Labels are in the hover text only. Arguments as for `heatmap`; `per_line` maps stand side by side.

    Raises `ShapeError` if there are not as many names and labels as maps, rows and columns, and as `heatmap`.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    z, rows, columns = float32(values), list(map(str, rows)), list(map(str, columns))
    if z.shape != (len(names), len(rows), len(columns)) or z.size == 0 or per_line < 1:
        raise ShapeError(
            f"values of shape {z.shape} with {len(names)} names, {len(rows)} row and {len(columns)} column labels, "
            f"{per_line} a line"
        )
    across = min(len(names), per_line)
    down = math.ceil(len(names) / across)
    figure = make_subplots(
        down,
        across,
        subplot_titles=[literal(clip(name)) for name in names],
        horizontal_spacing=0.06 / across,
        vertical_spacing=0.16 / down,
    )
    for number, one in enumerate(z):
        shown = go.Heatmap(
            z=one,
            hovertemplate=f"%{{y}}<br>%{{x}}<br>{literal(value)} %{{z:.4f}}<extra>{literal(names[number])}</extra>",
            hoverongaps=False,
            coloraxis="coloraxis",
        )
        figure.add_trace(shown, row=number // across + 1, col=number % across + 1)
    figure.update_xaxes(**_unlabelled(_hover_names(None, columns, x, "column")), range=[-0.5, len(columns) - 0.5])
    figure.update_yaxes(**_unlabelled(_hover_names(None, rows, y, "row")), range=[len(rows) - 0.5, -0.5])
    figure.update_annotations(font_size=13)
    figure.update_layout(coloraxis=_colors(value, signed, limits))
    right = _colorbar_room(value)
    heading, lines_high = headings(title, 240 * across + 20 + right)
    return figure.update_layout(
        title=heading,
        width=240 * across + 20 + right,
        height=250 * down + 50 + lines_high,
        margin={"l": 20, "r": right, "t": 40 + lines_high, "b": 10},
        plot_bgcolor="#eeeeee",
    )


def _unlabelled(names: Sequence[str]) -> dict[str, Any]:
    """An axis without labels: the names serve the pointer alone, so that no cell needs texts of its own."""
    hidden = {"showticklabels": False, "showgrid": False, "zeroline": False, "ticks": ""}
    return hidden | {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": names}


def bars(
    values: Float[Tensor, " bar"] | Float[np.ndarray, " bar"],
    labels: Sequence[str] | Sequence[int],
    *,
    title: str = "",
    x: str = "value",
    y: str = "",
    notes: Sequence[str] | None = None,
    text: Sequence[str] | None = None,
) -> plotly.graph_objects.Figure:
    """Horizontal bars, the first on top: what is positive to the right and blue, what is negative to the left and red.

    Args:
        values: numbers; NaN and infinite values leave a gap.
        labels: one a bar; equal ones stay apart.
        title, x, y: above the figure, below and beside it.
        notes: more about each bar, for the hover text.
        text: what is written at the end of each bar.

    Raises `ShapeError` if there are not as many labels, notes and texts as bars.
    """
    import plotly.graph_objects as go

    sizes, labels = float32(values), list(map(str, labels))
    if (
        sizes.shape != (len(labels),)
        or sizes.size == 0
        or any(len(texts) != len(labels) for texts in (notes, text) if texts is not None)
    ):
        raise ShapeError(f"values of shape {sizes.shape} with {len(labels)} labels, and as many notes and texts")
    under = [literal(label) + (f"<br>{literal_lines(note)}" if note else "")
             for label, note in zip(labels, notes or [""] * len(labels), strict=True)]  # fmt: skip
    figure = go.Figure(
        go.Bar(
            x=sizes,
            y=np.arange(len(labels)),
            orientation="h",
            customdata=under,
            hovertemplate=f"%{{customdata}}<br>{literal(x)} %{{x:.4f}}<extra></extra>",
            marker={"color": [NEGATIVE if size < 0 else POSITIVE for size in sizes.tolist()], "line": {"width": 0}},
        )
    )
    side = [clip(label) for label in labels]
    height = _extent(len(labels), 20)
    labelled = ticks(side, height, 0) | {"ticks": "", "ticklabelstandoff": 6}
    figure.update_yaxes(title_text=literal(y), **labelled, range=[len(labels) - 0.4, -0.6])
    figure.update_xaxes(title_text=literal(x), gridcolor="#e5e5e5", zeroline=True, zerolinecolor="#555555")
    left = (70 if y else 40) + 7 * max(map(len, side))
    if text is not None:
        _write_beside(figure, sizes, text, 720 - left)
    heading, lines_high = headings(title, 760)
    return figure.update_layout(
        title=heading,
        width=760,
        height=height + 80 + lines_high,
        margin={"l": left, "r": 40, "t": 20 + lines_high, "b": 60},
        plot_bgcolor="#ffffff",
        bargap=0.25,
    )


def _write_beside(
    figure: plotly.graph_objects.Figure, sizes: Float[np.ndarray, " bar"], texts: Sequence[str], width: int
) -> None:
    """A text at the end of each bar, with room for it on an axis so many pixels long."""
    known = np.nan_to_num(sizes, posinf=0, neginf=0)
    low, high = min(float(known.min()), 0.0), max(float(known.max()), 0.0)
    most = 32 if low < 0 else 64  # characters, for which half the axis, or more, is left free
    shown = [clip(text, most) for text in texts]
    left, right = (
        min(
            7
            * max((len(text) for text, size in zip(shown, known, strict=True) if (size < 0) == below), default=0)
            / width,
            0.7,
        )
        for below in (True, False)
    )
    scale = ((high - low) or 1.0) / max(1 - left - right, 0.2)
    figure.update_xaxes(range=[low - left * scale, high + (right + 0.02) * scale])
    written = [literal(text) for text in shown]
    figure.update_traces(text=written, textposition="outside", textangle=0, cliponaxis=False)


# ---------------------------------------------------------------------- what the builders share


def _colors(value: str, signed: bool, limits: tuple[float, float] | None) -> dict[str, Any]:
    colors: dict[str, Any] = {"colorscale": "RdBu", "cmid": 0.0} if signed else {"colorscale": "Blues"}
    if limits is not None:
        if len(limits) != 2 or not limits[0] < limits[1]:
            raise RangeError(f"limits = {describe(limits)}; allowed: (low, high), low < high")
        colors |= {"cmin": limits[0], "cmax": limits[1]}
    # Beside the bar the title would stand on the tick labels, whose width only plotly knows; the empty line keeps it
    # off the topmost of them.
    lines = [*map(literal, textwrap.wrap(value, COLORBAR_TITLE)), "&nbsp;"]
    title = {"text": "<br>".join(lines), "side": "top"}
    return colors | {"colorbar": {"title": title, "thickness": 12}}


SHORTEST_COLORBAR = 140
"""Pixels of a colour bar with its title, so that a heat-map of one row has one too."""

COLORBAR_TITLE = 14
"""Characters in a line of the title over a colour bar."""


def _colorbar_room(value: str) -> int:
    """Pixels to the right of a heat-map of these values."""
    return max(90, 20 + 8 * max(map(len, textwrap.wrap(value, COLORBAR_TITLE)), default=0))


def _hover_names(given: Sequence[str] | None, labels: Sequence[str], axis: str, what: str) -> list[str]:
    if given is None:
        given = [f"{axis} {i}" + ("" if label == str(i) else f": “{label}”") for i, label in enumerate(labels)]
    if len(given) != len(labels):
        raise ShapeError(f"{len(given)} {what} names for {len(labels)} {what}s")
    return [literal(name.strip()) for name in given]


def _cells(rows: Sequence[str], columns: Sequence[str], shape: tuple[int, ...]) -> np.ndarray:
    """The names of row and column in every cell."""
    cells = np.empty((*shape, 2), dtype=object)
    cells[..., 0] = np.array(rows, dtype=object)[:, None]
    cells[..., 1] = np.array(columns, dtype=object)[None]
    return cells


def _literal_cells(texts: Sequence[Sequence[str]], shape: tuple[int, ...], what: str) -> np.ndarray:
    """Texts of every cell, a line break in them kept."""
    if (len(texts), *{len(row) for row in texts}) != shape:
        raise ShapeError(f"{what} for {len(texts)} rows of {sorted({len(row) for row in texts})}, for {shape} cells")
    cells = np.empty(shape, dtype=object)
    cells[:] = [[literal_lines(text) for text in row] for row in texts]
    return cells


def _extent(n: int, each: int) -> int:
    """Pixels for n rows or columns, within reason."""
    return min(max(each * n, 340 if n > 3 else 60 * n), max(1400, 14 * n if each == 20 else 0))
