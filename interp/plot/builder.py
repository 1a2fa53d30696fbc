"""The builders that every plotly figure goes through: `heatmap`, `heatmaps`, `bars`, `curves` and `table`.

They settle what plotly would get wrong: axes are integers with tick labels (a categorical axis merges equal labels into
one), labels are text and never markup, values are float32 (half the bytes of float64, and float16 would be written out
as digits), NaN is blank, signed values are centred on 0, and a figure grows with what is in it. Colours can be told
apart by every kind of colour vision. Nothing here changes plotly's templates or renderers.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    import plotly.graph_objects

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Of lines; told apart by every kind of colour vision (Okabe & Ito 2008)."""

POSITIVE, NEGATIVE = "#2166ac", "#b2182b"
"""Of signed values, as at the ends of the scale of signed heat-maps."""

LONGEST_LABEL = 28
"""Characters of a label beside an axis; the whole of it is in the hover text."""


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
    row_names: Sequence[str] | None = None,
    column_names: Sequence[str] | None = None,
    notes: Sequence[Sequence[str]] | None = None,
    text: Sequence[Sequence[str]] | None = None,
) -> plotly.graph_objects.Figure:
    """The builder of every heat-map: row 0 on top, NaN blank.

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

    Raises `ShapeError` if there are not as many labels, names, notes or texts as rows and columns.
    """
    import plotly.graph_objects as go

    z = float32(values)
    if z.shape != (len(rows), len(columns)) or z.size == 0:
        raise ShapeError(f"values of shape {z.shape} with {len(rows)} row and {len(columns)} column labels")
    names = _hover_names(row_names, rows, y, "row"), _hover_names(column_names, columns, x, "column")
    under = [_cells(names[0], names[1], z.shape)]
    under += [] if notes is None else [_literal_cells(notes, z.shape, "notes")[..., None]]
    lines = "".join(f"<br>%{{customdata[{i}]}}" for i in range(2 + (notes is not None)))[4:]
    width = _extent(len(columns), 24 if text is None else 84)
    height = _extent(len(rows), 24)
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
    top, side = [clip(c) for c in columns], [clip(r) for r in rows]
    dense = max(map(len, top)) * 8 > width / len(columns)
    figure.update_xaxes(title_text=literal(x), **_ticks(top, width, -60 if dense else 0), side="top")
    figure.update_yaxes(title_text=literal(y), **_ticks(side, height, 0), autorange="reversed")
    beside = 70 + 7 * max(map(len, side))
    heading, lines_high = headings(title, width + beside + 90)
    above = 90 + lines_high + (7 * max(map(len, top)) if dense else 0)
    return figure.update_layout(
        title=heading,
        width=width + beside + 90,
        height=height + above + 30,
        margin={"l": beside, "r": 90, "t": above, "b": 30},
        plot_bgcolor="#eeeeee",
        coloraxis=_colours(value, signed, limits),
    )


def heatmaps(
    values: Float[Tensor, "map row column"] | Float[np.ndarray, "map row column"],
    names: Sequence[str],
    rows: Sequence[str],
    columns: Sequence[str],
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

    Raises `ShapeError` if there are not as many names and labels as maps, rows and columns.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    z = float32(values)
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
        subplot_titles=[literal(name) for name in names],
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
    hidden = {"showticklabels": False, "showgrid": False, "zeroline": False, "tickmode": "array", "ticks": ""}
    # Without tick labels to draw, those texts serve the pointer alone, and no cell needs texts of its own.
    figure.update_xaxes(**hidden, tickvals=list(range(len(columns))), ticktext=_hover_names(None, columns, x, "column"))
    figure.update_yaxes(**hidden, tickvals=list(range(len(rows))), ticktext=_hover_names(None, rows, y, "row"))
    figure.update_yaxes(autorange="reversed")
    figure.update_annotations(font_size=13)
    heading, lines_high = headings(title, 240 * across + 110)
    return figure.update_layout(
        title=heading,
        width=240 * across + 110,
        height=250 * down + 50 + lines_high,
        margin={"l": 20, "r": 90, "t": 40 + lines_high, "b": 10},
        plot_bgcolor="#eeeeee",
        coloraxis=_colours(value, signed, limits),
    )


def bars(
    values: Float[Tensor, " bar"] | Float[np.ndarray, " bar"],
    labels: Sequence[str],
    *,
    title: str = "",
    x: str = "value",
    y: str = "",
    notes: Sequence[str] | None = None,
    text: Sequence[str] | None = None,
) -> plotly.graph_objects.Figure:
    """Horizontal bars, the first on top: what is positive to the right and blue, what is negative to the left and red.

    Args:
        values: numbers; NaN leaves a gap.
        labels: one a bar; equal ones stay apart.
        title, x, y: above the figure, below and beside it.
        notes: more about each bar, for the hover text.
        text: what is written at the end of each bar.

    Raises `ShapeError` if there are not as many labels, notes and texts as bars.
    """
    import plotly.graph_objects as go

    sizes = float32(values)
    if sizes.shape != (len(labels),) or sizes.size == 0 or any(len(n) != len(labels) for n in (notes, text) if n):
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
    if text is not None:
        figure.update_traces(text=[literal(one) for one in text], textposition="outside", cliponaxis=False)
    side = [clip(label) for label in labels]
    height = _extent(len(labels), 20)
    ticks = _ticks(side, height, 0) | {"ticks": "", "ticklabelstandoff": 6}
    figure.update_yaxes(title_text=literal(y), **ticks, range=[len(labels) - 0.4, -0.6])
    figure.update_xaxes(title_text=literal(x), gridcolor="#e5e5e5", zeroline=True, zerolinecolor="#555555")
    heading, lines_high = headings(title, 760)
    return figure.update_layout(
        title=heading,
        width=760,
        height=height + 80 + lines_high,
        margin={"l": (70 if y else 40) + 7 * max(map(len, side)), "r": 40, "t": 20 + lines_high, "b": 60},
        plot_bgcolor="#ffffff",
        bargap=0.25,
    )


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

    points = {name: (float32(a), float32(b)) for name, (a, b) in lines.items()}
    for name, (a, b) in points.items():
        if a.ndim != 1 or a.shape != b.shape or a.size == 0:
            raise ShapeError(f"line {name!r} has x values of shape {a.shape} and y values of shape {b.shape}")
    if not points:
        raise ShapeError("no lines to draw; at least one is needed")
    figure = go.Figure()
    for number, (name, (a, b)) in enumerate(points.items()):
        dash = ("solid", "dash", "dot")[number // len(COLOURS) % 3]
        style = {"color": COLOURS[number % len(COLOURS)], "dash": dash, "width": 2}
        label = literal(name)
        hover = f"{label}<br>{literal(x)} %{{x}}<br>{literal(y)} %{{y:.4f}}<extra></extra>"
        figure.add_trace(go.Scatter(x=a, y=b, mode="lines", name=label, line=style, hovertemplate=hover))
    line = {"color": "#555555", "dash": "dash", "width": 1}
    for name, value in (marks or {}).items():
        label = {"text": literal(name), "xanchor": "center", "yanchor": "bottom"}
        figure.add_vline(value, line=line, annotation=label)
    for name, value in (levels or {}).items():
        label = {"text": literal(name), "xanchor": "right", "yanchor": "bottom"}
        figure.add_hline(value, line=line, annotation=label)
    axis = {"gridcolor": "#e5e5e5", "zeroline": False, "showline": True, "linecolor": "#999999", "ticks": "outside"}
    figure.update_xaxes(title_text=literal(x), **axis)
    figure.update_yaxes(title_text=literal(y), range=limits, **axis)
    heading, lines_high = headings(title, 760)
    return figure.update_layout(
        title=heading,
        width=760,
        height=350 + lines_high,
        margin={"l": 60, "r": 30, "t": 40 + lines_high, "b": 50},
        plot_bgcolor="#ffffff",
        showlegend=len(points) > 1,
    )


def table(
    columns: Mapping[str, Sequence[str | int | float]], *, title: str = "", signed: str | None = None
) -> plotly.graph_objects.Figure:
    """Columns by name; numbers stand to the right with three digits, those of the column `signed` in its colours.

    Raises:
        ShapeError: no columns, or of unequal length.
        ConfigError: `signed` is none of them.
    """
    import plotly.graph_objects as go

    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise ShapeError(f"columns of {sorted(lengths)} entries; allowed: one length, at least 1")
    if signed is not None and signed not in columns:
        raise ConfigError(f"signed = {signed!r}; allowed: {', '.join(columns)}")
    numeric = [not isinstance(column[0], str) for column in columns.values()]
    cells = [[literal(c) if isinstance(c, str) else _number(c) for c in column] for column in columns.values()]
    colours = [
        [NEGATIVE if float(c) < 0 else POSITIVE for c in column] if name == signed else "#1a1a1a"
        for name, column in columns.items()
    ]
    widths = [max(map(len, [name, *map(str, shown)])) for name, shown in zip(columns, cells, strict=True)]
    widths = [8 * min(max(width, 6), LONGEST_LABEL) + 24 for width in widths]
    figure = go.Figure(
        go.Table(
            header={
                "values": [f"<b>{literal(name)}</b>" for name in columns],
                "align": ["right" if right else "left" for right in numeric],
                "fill": {"color": "#eeeeee"},
            },
            cells={
                "values": cells,
                "align": ["right" if right else "left" for right in numeric],
                "font": {"color": colours},
                "fill": {"color": "#ffffff"},
                "line": {"color": "#e5e5e5"},
                "height": 24,
            },
            columnwidth=widths,
        )
    )
    width = max(sum(widths), 300) + 40
    heading, lines_high = headings(title, width)
    return figure.update_layout(
        title=heading,
        width=width,
        height=24 * lengths.pop() + 64 + lines_high,
        margin={"l": 20, "r": 20, "t": 20 + lines_high, "b": 10},
    )


# ---------------------------------------------------------------------- what the builders share


def literal(text: str) -> str:
    """Text as plotly shows it literally: nothing read as markup or as TeX."""
    return escape(text, quote=False).replace("$", "&#36;")


def literal_lines(text: str) -> str:
    """The same, with its line breaks kept."""
    return literal(text).replace("\n", "<br>")


def clip(text: str) -> str:
    """Text as a label: no longer than there is room for."""
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def float32(values: Any) -> np.ndarray:
    """Numbers of any kind as an array in float32."""
    if isinstance(values, Tensor):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=np.float32)


def _number(value: int | float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}".rstrip("0").rstrip(".") if value != int(value) else f"{value:g}"


def headings(title: str, width: int | float) -> tuple[dict[str, Any], int]:
    """A title for a figure of that width, with what follows a line break in it smaller below; and how high they are."""
    first, _, rest = title.partition("\n")
    room = max(24, int(width - 50) // 6)
    below = [part for line in rest.splitlines() for part in textwrap.wrap(line, room)]
    heading: dict[str, Any] = {"text": literal(first), "y": 1, "yanchor": "top", "pad": {"t": 14}}
    if below:
        heading["subtitle"] = {"text": "<br>".join(map(literal, below))}
    return heading, 20 + (22 + 15 * len(below) if below else 20)


def _colours(value: str, signed: bool, limits: tuple[float, float] | None) -> dict[str, Any]:
    colours: dict[str, Any] = {"colorscale": "RdBu", "cmid": 0.0} if signed else {"colorscale": "Blues"}
    if limits is not None:
        colours |= {"cmin": limits[0], "cmax": limits[1]}
    return colours | {"colorbar": {"title": {"text": literal(value), "side": "right"}, "thickness": 12}}


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


def _ticks(labels: Sequence[str], extent: int, angle: int) -> dict[str, Any]:
    every = math.ceil(len(labels) * 14 / extent)
    return {
        "tickmode": "array",
        "tickvals": list(range(0, len(labels), every)),
        "ticktext": [literal(label) for label in labels[::every]],
        "tickangle": angle,
        "ticks": "outside",
        "ticklen": 4,
        "showgrid": False,
        "zeroline": False,
    }
