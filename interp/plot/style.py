"""What all pictures share: colours, text that is never markup, numbers in float32, and titles.

Nothing here needs plotly, and nothing changes its templates or renderers.
"""

from __future__ import annotations

import math
import textwrap
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
    """Text as a label: at most so many characters, the last a "…" where some are missing."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def float32(values: Any) -> np.ndarray:
    """Real numbers of any kind as an array in float32. Raises `ShapeError` for anything else."""
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
        return array.astype(np.float32)


def check_shares(values: np.ndarray, what: str) -> None:
    """Raise `RangeError` unless all are numbers from 0 to 1, which half precision may round to a step above."""
    if not ((values >= -1e-6) & (values <= 1 + HALF_STEP)).all():
        raise RangeError(f"{what} has entries that are NaN or outside [0, 1]")


HALF_STEP = 2**-7
"""The step from 1 to the next number in bfloat16."""


def headings(title: str, width: int | float) -> tuple[dict[str, Any], int]:
    """A title for a figure of that width, with what follows a line break in it smaller below; and how high they are."""
    first, _, rest = title.partition("\n")
    above = textwrap.wrap(first, max(16, int(width - 50) // 9))
    below = [part for line in rest.splitlines() for part in textwrap.wrap(line, max(24, int(width - 50) // 6))]
    heading: dict[str, Any] = {"text": "<br>".join(map(literal, above)), "y": 1, "yanchor": "top"}
    heading["pad"] = {"t": 14 + 13 * max(0, len(above) - 1)}  # plotly lifts further lines above the edge
    if below:
        heading["subtitle"] = {"text": "<br>".join(map(literal, below))}
    return heading, 20 + 22 * max(0, len(above) - 1) + (22 + 15 * len(below) if below else 20)


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
