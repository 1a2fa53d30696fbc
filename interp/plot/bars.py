"""The builder of bars: `bars`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import ShapeError
from interp.plot.style import (
    LETTER,
    MODE_BAR,
    NEGATIVE,
    POSITIVE,
    clip,
    columns_of,
    extent,
    float32,
    headings,
    literal,
    literal_lines,
    ticks,
)

if TYPE_CHECKING:
    import plotly.graph_objects


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

    from interp.plot.shown import Figure

    sizes, labels = float32(values), list(map(str, labels))
    if (
        sizes.shape != (len(labels),)
        or sizes.size == 0
        or any(len(texts) != len(labels) for texts in (notes, text) if texts is not None)
    ):
        raise ShapeError(f"values of shape {sizes.shape} with {len(labels)} labels, and as many notes and texts")
    under = [literal(label) + (f"<br>{literal_lines(note)}" if note else "")
             for label, note in zip(labels, notes or [""] * len(labels), strict=True)]  # fmt: skip
    figure = Figure(
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
    height = extent(len(labels), 20)
    labelled = ticks(side, height, 0) | {"ticks": "", "ticklabelstandoff": 6}
    figure.update_yaxes(title_text=literal(y), **labelled, range=[len(labels) - 0.4, -0.6])
    figure.update_xaxes(title_text=literal(x), gridcolor="#e5e5e5", zeroline=True, zerolinecolor="#555555",
                        exponentformat="e")  # fmt: skip
    left = (70 if y else 40) + LETTER * max(map(columns_of, side))
    if text is not None:
        _write_beside(figure, sizes, text, 720 - left)
    heading, lines_high = headings(title, 760)
    return figure.update_layout(
        title=heading,
        modebar=MODE_BAR,
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
    longest = {True: 0, False: 0}  # of the texts below 0, and of the others
    for said, size in zip(shown, known, strict=True):
        longest[bool(size < 0)] = max(longest[bool(size < 0)], columns_of(said))
    left, right = (min(LETTER * longest[below] / width, 0.7) for below in (True, False))
    scale = ((high - low) or 1.0) / max(1 - left - right, 0.2)
    figure.update_xaxes(range=[low - left * scale, high + (right + 0.02) * scale])
    written = [literal(text) for text in shown]
    figure.update_traces(text=written, textposition="outside", textangle=0, cliponaxis=False)
