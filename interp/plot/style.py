"""What all pictures share: colours, text that is never markup, numbers in float32, and titles.

Nothing here needs plotly, and nothing changes its templates or renderers.
"""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from torch import Tensor

from interp.errors import RangeError, ShapeError
from interp.text import visible

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Colours of lines, told apart by every kind of colour vision (Okabe & Ito 2008)."""

POSITIVE, NEGATIVE = "#2166ac", "#b2182b"
"""Colours of signed values, as at the ends of the scale of signed heat-maps."""

LONGEST_LABEL = 28
"""Characters of a label beside an axis; the whole of it is in the hover text."""

LETTER = 8
"""Pixels that a letter of a label is wide, at most, but for the widest letters, in the fonts that browsers have."""

LONGEST_IN_CELL = 9
"""Characters of a text inside a cell of a heat-map."""


def literal(text: str) -> str:
    """Text as plotly shows it literally: nothing read as markup, TeX or template, nothing unprintable left out."""
    return escape(printable(text), quote=False).replace("$", "&#36;").replace("%{", "%&#123;")


def printable(text: str) -> str:
    """Text with nothing in it that cannot be seen; unlike `visible`, it leaves spaces alone."""
    return "".join(c if c.isprintable() else visible(c) for c in text)


def literal_lines(text: str) -> str:
    """Text as `literal` has it, with its line breaks kept."""
    return "<br>".join(map(literal, text.split("\n")))


def clip(text: str, longest: int = LONGEST_LABEL) -> str:
    """Text as a label: at most so many characters, the last a "…" where some are missing.

    >>> clip("a very long label", 6)
    'a ver…'
    """
    return text if len(text) <= longest else text[: longest - 1] + "…"


def columns_of(text: str) -> int:
    """How wide a text is, in letters: those of Chinese, Japanese and Korean are two wide."""
    return len(text) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)


def float32(values: Any) -> np.ndarray:
    """Real numbers of any kind as an array in float32.

    Raises `ShapeError` for anything else, and `RangeError` for finite numbers that float32 cannot hold.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).resolve_conj().numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ShapeError(f"values of unequal length are no array: {error}") from None
    if array.dtype.kind not in "biuf":
        raise ShapeError(f"values of dtype {array.dtype}; allowed: real numbers")
    with np.errstate(over="ignore"):
        drawn = array.astype(np.float32)
    if (too_large := np.isinf(drawn) & np.isfinite(array)).any():
        raise RangeError(f"values of size up to {np.abs(array[too_large]).max():.3g}; a figure draws numbers up to "
                         f"{np.finfo(np.float32).max:.3g}")  # fmt: skip
    return drawn


def in_full(value: float) -> str:
    """A number as notes under the pointer have it: four decimals, or a power of ten where these say too little.

    >>> in_full(0.25), in_full(-2e-5), in_full(-0.0), in_full(1e30)
    ('0.2500', '-2.00e-05', '0.0000', '1.00e+30')
    """
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 or abs(value) >= 1e7 else f"{value + 0.0:.4f}"


def check_shares(values: np.ndarray, what: str) -> None:
    """Raise `RangeError` unless all are numbers from 0 to 1, which half precision may round to a step above."""
    if not ((values >= -1e-6) & (values <= 1 + HALF_STEP)).all():
        raise RangeError(f"{what} has entries that are NaN or outside [0, 1]")


HALF_STEP = 2**-7
"""The step from 1 to the next number in bfloat16."""


MODE_BAR = {"remove": ["zoom", "pan", "select", "lasso", "zoomIn", "zoomOut", "autoScale"]}
"""The tools of plotly's that are left: saving a picture, and going back to the whole. Dragging zooms."""

MODE_BAR_ROOM = 110
"""Pixels to the right of a title that these tools take, in a notebook with plotly's sign."""


def headings(title: str, width: int | float) -> tuple[dict[str, Any], int]:
    """A title for a figure of that width, with what follows a line break in it smaller below; and how high they are."""
    first, _, rest = title.partition("\n")
    above = _wrapped(first, max(16, int(width - 50 - MODE_BAR_ROOM) // 9))
    below = [part for line in rest.splitlines() for part in _wrapped(line, max(24, int(width - 50) // 6))]
    heading: dict[str, Any] = {"text": "<br>".join(map(literal, above)), "y": 1, "yanchor": "top"}
    heading["pad"] = {"t": 14 + 13 * max(0, len(above) - 1)}  # plotly lifts further lines above the edge
    if below:
        heading["subtitle"] = {"text": "<br>".join(map(literal, below))}
    return heading, 20 + 22 * max(0, len(above) - 1) + (22 + 15 * len(below) if below else 20)


def _wrapped(text: str, most: int) -> list[str]:
    """Text in lines of so many letters. A line keeps the space at its end, so that a page can undo the break."""
    lines, end = [], 0
    for line in textwrap.wrap(text, most):
        start = text.find(line, end)
        if lines and start != end:
            lines[-1] += " "
        lines.append(line)
        end = start + len(line)
    return lines


def unwrapped(markup: str) -> str:
    """A title without the breaks that `headings` made for its width, with all others."""
    return markup.replace(" <br>", " ")


def ticks(labels: Sequence[str], extent: int, angle: int) -> dict[str, Any]:
    """An axis of integers with a label for each that has room on so many pixels."""
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


def extent(n: int, each: int) -> int:
    """Pixels for n rows or columns, within reason."""
    return min(max(each * n, 340 if n > 3 else 60 * n), max(1400, 14 * n if each == 20 else 0))
