"""The builder of several heat-maps on one scale of colours: `heatmaps`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import ShapeError
from interp.plot.heatmap import BLANK, cells_of, colorbar_room, colors_of, hover_names
from interp.plot.style import LETTER, MODE_BAR, clip, columns_of, float32, headings, literal, ticks

if TYPE_CHECKING:
    import plotly.graph_objects


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

    Labels are in the hover text, and at the sides of up to `LABELLED_MAPS` maps where there is room for each label.
    Arguments as for `heatmap`; `per_line` maps stand side by side.

    Raises `ShapeError` if there are not as many names and labels as maps, rows and columns, and as `heatmap`.
    """
    from plotly.subplots import make_subplots

    from interp.plot.shown import Figure

    z, rows, columns = float32(values), list(map(str, rows)), list(map(str, columns))
    if z.shape != (len(names), len(rows), len(columns)) or z.size == 0 or per_line < 1:
        raise ShapeError(
            f"values of shape {z.shape} with {len(names)} names, {len(rows)} row and {len(columns)} column labels, "
            f"{per_line} a line"
        )
    across = min(len(names), per_line)
    down = math.ceil(len(names) / across)
    sides = _Sides.of(rows, columns, len(names))
    plots = 250 * down + sides.under * (down - 1)  # pixels from the top of the first line to the end of the last
    figure = make_subplots(
        down,
        across,
        figure=Figure(),
        subplot_titles=[literal(clip(name)) for name in names],
        horizontal_spacing=0.06 / across,
        vertical_spacing=(40 + sides.under) / plots,
    )
    under = hover_names(None, rows, y, "row"), hover_names(None, columns, x, "column")
    for i, shown in enumerate(_traces(z, names, under, value, sides.labelled)):
        figure.add_trace(shown, row=i // across + 1, col=i % across + 1)
    _label_sides(figure, sides, under, (y, x), down)
    figure.update_xaxes(range=[-0.5, len(columns) - 0.5])
    figure.update_yaxes(range=[len(rows) - 0.5, -0.5])
    figure.update_annotations(font_size=13)
    figure.update_layout(coloraxis=colors_of(value, signed, limits))
    figure.update_coloraxes(colorbar={"lenmode": "pixels", "len": 250, "y": 1, "yanchor": "top"})
    right, left = colorbar_room(value), 20 + sides.beside + (25 if sides.labelled and y else 0)
    heading, lines_high = headings(title, 240 * across + left + right)
    bottom = 10 + sides.under + (25 if sides.labelled and x else 0)
    return figure.update_layout(
        title=heading,
        modebar=MODE_BAR,
        width=240 * across + left + right,
        height=plots + 40 + bottom + lines_high,
        margin={"l": left, "r": right, "t": 40 + lines_high, "b": bottom},
        plot_bgcolor=BLANK,
    )


def _traces(
    z: np.ndarray, names: Sequence[str], under: tuple[Sequence[str], Sequence[str]], value: str, labelled: bool
) -> Iterator[plotly.graph_objects.Heatmap]:
    """The maps. Where labels stand at the sides they are cut, and the pointer asks the cells; else it asks the axes."""
    import plotly.graph_objects as go

    of_cell = {"customdata": cells_of(*under, z.shape[1:])} if labelled else {}
    asked = "%{customdata[0]}<br>%{customdata[1]}" if labelled else "%{y}<br>%{x}"
    for one, name in zip(z, names, strict=True):
        said = f"{asked}<br>{literal(value)} %{{z:.4f}}<extra>{literal(name)}</extra>"
        yield go.Heatmap(z=one, hovertemplate=said, hoverongaps=False, coloraxis="coloraxis", **of_cell)


def _label_sides(
    figure: plotly.graph_objects.Figure,
    sides: _Sides,
    under: tuple[Sequence[str], Sequence[str]],
    names: tuple[str, str],
    down: int,
) -> None:
    """Labels of rows and columns at the sides of the maps, or where there is no room, on their axes for the pointer."""
    (rows, columns), (y, x) = under, names
    if sides.labelled:
        figure.update_xaxes(**ticks(sides.below, sides.PIXELS, sides.angle))
        figure.update_yaxes(**ticks(sides.left, sides.PIXELS, 0) | {"showticklabels": False, "ticks": ""})
        figure.update_yaxes(title_text=literal(y), showticklabels=True, ticks="outside", col=1)
        figure.update_xaxes(title_text=literal(x), row=down)
    else:
        figure.update_xaxes(**_unlabelled(columns))
        figure.update_yaxes(**_unlabelled(rows))


LABELLED_MAPS = 16
"""Maps that have labels at their sides; of more, nobody reads them."""


@dataclass(frozen=True)
class _Sides:
    """The labels beside small maps, and the room that they take.

    Attributes:
        left, below: those of rows and of columns, cut; none where they have no room.
        angle: of those of columns.
        beside, under: pixels to the left of the first map of a line, and under every line.
    """

    PIXELS: ClassVar[int] = 210
    """The length of a map's side, about."""

    left: list[str]
    below: list[str]
    angle: int = 0
    beside: int = 0
    under: int = 0

    @classmethod
    def of(cls, rows: Sequence[str], columns: Sequence[str], n_maps: int) -> _Sides:
        if n_maps > LABELLED_MAPS or max(len(rows), len(columns)) * 14 > cls.PIXELS:  # 14 as in `ticks`
            return cls([], [])
        left, below = [clip(label, 12) for label in rows], [clip(label, 12) for label in columns]
        longest = max(map(columns_of, below))
        turned = longest * LETTER * len(columns) > cls.PIXELS
        beside = LETTER * max(map(columns_of, left))
        return cls(left, below, -60 if turned else 0, beside, LETTER * longest + 10 if turned else 20)

    @property
    def labelled(self) -> bool:
        return bool(self.left)


def _unlabelled(names: Sequence[str]) -> dict[str, Any]:
    """An axis without labels: the names serve the pointer alone, so that no cell needs texts of its own."""
    hidden = {"showticklabels": False, "showgrid": False, "zeroline": False, "ticks": ""}
    return hidden | {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": names}
