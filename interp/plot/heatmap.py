"""The builder of heat-maps: `heatmap`; `heatmaps`, `bars`, `curves` and `table` have files of their own.

They settle what plotly would get wrong: axes are integers with tick labels (a categorical axis merges equal labels into
one), labels are text and never markup, values are float32 (half the bytes of float64, and float16 would be written out
as digits), NaN is blank, signed values are centred on 0, and a figure grows with what is in it. Colours can be told
apart by every kind of colour vision; they and the rest that all pictures share are in style.py.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import RangeError, ShapeError, describe
from interp.plot.style import (
    LETTER,
    MODE_BAR,
    clip,
    columns_of,
    extent,
    float32,
    headings,
    literal,
    literal_lines,
    ticks,
)
from interp.plot.svg_axes import Colors

if TYPE_CHECKING:
    import plotly.graph_objects

BLANK = "#eeeeee"
"""The colour of cells without a value."""


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
    max_height: int = 480,
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
        max_height: pixels of all rows together, so that the figure fits a screen; rows with texts in them are never
            lower than a line.
        row_names, column_names: what each is called in the hover text; by default like `key 3: “cat”`.
        notes: more about each cell, for the hover text.
        text: what is written into each cell.

    Raises `ShapeError` if there are not as many labels, names, notes or texts as rows and columns, `RangeError` for
    limits that are not (low, high).
    """
    import plotly.graph_objects as go

    from interp.plot.shown import Figure

    z, rows, columns = float32(values), list(map(str, rows)), list(map(str, columns))
    if z.shape != (len(rows), len(columns)) or z.size == 0:
        raise ShapeError(f"values of shape {z.shape} with {len(rows)} row and {len(columns)} column labels")
    names = hover_names(row_names, rows, y, "row"), hover_names(column_names, columns, x, "column")
    under = [cells_of(names[0], names[1], z.shape)]
    under += [] if notes is None else [_literal_cells(notes, z.shape, "notes")[..., None]]
    lines = "".join(f"<br>%{{customdata[{i}]}}" for i in range(2 + (notes is not None)))[4:]
    width = extent(len(columns), 24 if text is None else 84)
    height = min(extent(len(rows), 24), max(max_height, 0 if text is None else 18 * len(rows)))
    gap = int(min(width / len(columns), height / len(rows)) >= 8)
    figure = Figure(
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
    figure.update_layout(coloraxis=colors_of(value, signed, limits))
    if text is not None:
        _write_into(figure, z, _literal_cells(text, z.shape, "texts"))
    return _frame(figure, rows, columns, (width, height, colorbar_room(value)), title, x, y)


def _write_into(figure: plotly.graph_objects.Figure, values: np.ndarray, texts: np.ndarray) -> None:
    """A text in each cell, black or white, whichever can be read on its colour; plotly's own grey cannot on some."""
    import plotly.graph_objects as go

    colors = Colors.of(figure.to_plotly_json()["layout"]["coloraxis"], [values], BLANK)
    rows, columns = np.indices(values.shape).reshape(2, -1)
    figure.add_trace(
        go.Scatter(
            x=columns,
            y=rows,
            mode="text",
            text=texts.ravel(),
            textfont={"size": 11, "color": [colors.ink(index) for index in colors.indices(values).ravel().tolist()]},
            hoverinfo="skip",
            showlegend=False,
        )
    )


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
    dense = max(map(columns_of, top)) * LETTER > width / len(columns)
    figure.update_xaxes(title_text=literal(x), **ticks(top, width, -60 if dense else 0), side="top")
    figure.update_yaxes(title_text=literal(y), **ticks(side, height, 0))
    figure.update_xaxes(range=[-0.5, len(columns) - 0.5])  # said, because plotly finds no range where all is NaN
    figure.update_yaxes(range=[len(rows) - 0.5, -0.5])
    left = 70 + LETTER * max(map(columns_of, side))
    heading, lines_high = headings(title, width + left + right)
    above = 90 + lines_high + (round(0.9 * LETTER * max(map(columns_of, top))) if dense else 0)  # turned by 60 degrees
    bar = max(height, SHORTEST_COLORBAR)
    figure.update_coloraxes(colorbar={"lenmode": "pixels", "len": bar, "y": 1, "yanchor": "top"})
    return figure.update_layout(
        title=heading,
        modebar=MODE_BAR,
        width=width + left + right,
        height=bar + above + 30,
        margin={"l": left, "r": right, "t": above, "b": 30 + bar - height},
        plot_bgcolor=BLANK,
    )


# ---------------------------------------------------------------------- what maps share


def colors_of(value: str, signed: bool, limits: tuple[float, float] | None) -> dict[str, Any]:
    """The scale of colours of maps, and its bar. Raises `RangeError` for limits that are not (low, high)."""
    colors: dict[str, Any] = {"colorscale": "RdBu", "cmid": 0.0} if signed else {"colorscale": "Blues"}
    if limits is not None:
        if len(limits) != 2 or not limits[0] < limits[1]:
            raise RangeError(f"limits = {describe(limits)}; allowed: (low, high), low < high")
        colors |= {"cmin": limits[0], "cmax": limits[1]}
    # Beside the bar the title would stand on the tick labels, whose width only plotly knows; the empty line keeps it
    # off the topmost of them.
    lines = [*map(literal, textwrap.wrap(value, COLORBAR_TITLE)), "&nbsp;"]
    title = {"text": "<br>".join(lines), "side": "top"}
    return colors | {"colorbar": {"title": title, "thickness": 12, "exponentformat": "e"}}


SHORTEST_COLORBAR = 140
"""Pixels of a colour bar with its title, so that a heat-map of one row has one too."""

COLORBAR_TITLE = 14
"""Characters in a line of the title over a colour bar."""


def colorbar_room(value: str) -> int:
    """Pixels to the right of a heat-map of these values."""
    return max(90, 20 + LETTER * max(map(columns_of, textwrap.wrap(value, COLORBAR_TITLE)), default=0))


def hover_names(given: Sequence[str] | None, labels: Sequence[str], axis: str, what: str) -> list[str]:
    """What rows or columns are called under the pointer. Raises `ShapeError` for another number of names."""
    if given is None:
        given = [f"{axis} {i}" + ("" if label == str(i) else f": “{label}”") for i, label in enumerate(labels)]
    if len(given) != len(labels):
        raise ShapeError(f"{len(given)} {what} names for {len(labels)} {what}s")
    return [literal(name.strip()) for name in given]


def cells_of(rows: Sequence[str], columns: Sequence[str], shape: tuple[int, ...]) -> np.ndarray:
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
