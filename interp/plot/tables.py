"""The builder of tables: `table`."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING

from torch import Tensor

from interp.errors import ConfigError, ShapeError, check_choice, describe
from interp.plot.style import LONGEST_LABEL, MODE_BAR, NEGATIVE, POSITIVE, headings, literal

if TYPE_CHECKING:
    import plotly.graph_objects


def table(
    columns: Mapping[str, Sequence[str | int | float]], *, title: str = "", signed: str | None = None
) -> plotly.graph_objects.Figure:
    """Columns by name: text in lines that fit, numbers to the right with three digits, NaN blank.

    Args:
        columns: entries from top to bottom, by name.
        title: above the table.
        signed: a column of numbers that has the colours of signed values.

    Raises:
        ShapeError: no columns, or of unequal length.
        ConfigError: an entry is neither text nor a real number; `signed` is none of the columns, or has text.
    """
    import plotly.graph_objects as go

    from interp.plot.shown import Figure

    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise ShapeError(f"columns of {sorted(lengths)} entries; allowed: one length, at least 1")
    if signed is not None:
        check_choice("signed", signed, list(columns))
        if any(isinstance(entry, str) for entry in columns[signed]):
            raise ConfigError(f"signed = {describe(signed)}, but that column has entries that are text, not numbers")
    columns = {name: [e.item() if isinstance(e, Tensor) else e for e in column] for name, column in columns.items()}
    lines = {name: [_cell(entry) for entry in column] for name, column in columns.items()}
    align = ["left" if isinstance(column[0], str) else "right" for column in columns.values()]
    colors = [_signs(column) if name == signed else "#1a1a1a" for name, column in columns.items()]
    longest = [max(len(line) for entry in column for line in [name, *entry]) for name, column in lines.items()]
    widths = [8 * min(max(length, 6), LONGEST_LABEL) + 24 for length in longest]
    shown = [["<br>".join(map(literal, entry)) for entry in column] for column in lines.values()]
    high = [max(map(_height, row)) for row in zip(*shown, strict=True)]
    header = {"values": [f"<b>{literal(name)}</b>" for name in columns], "align": align, "fill": {"color": "#eeeeee"}}
    cells = {
        "values": shown,
        "align": align,
        "font": {"color": colors},
        "fill": {"color": "#ffffff"},
        "line": {"color": "#e5e5e5"},
        "height": 24,
    }
    width = max(sum(widths), 300) + 40
    heading, lines_high = headings(title, width)
    return Figure(go.Table(header=header, cells=cells, columnwidth=widths)).update_layout(
        title=heading,
        modebar=MODE_BAR,
        width=width,
        height=sum(high) + 64 + lines_high,
        margin={"l": 20, "r": 20, "t": 20 + lines_high, "b": 10},
    )


def _height(cell: str) -> int:
    """Pixels that plotly gives to a row with this cell: more where it has lines or escapes."""
    return 14 + 16 * (1 + cell.count("<br>")) if "<br>" in cell or "&" in cell else 24


def _signs(numbers: Sequence[str | int | float]) -> list[str]:
    return [NEGATIVE if float(number) < 0 else POSITIVE for number in numbers]


def _cell(entry: str | int | float) -> list[str]:
    """An entry of a table, in lines that are no longer than a label."""
    if isinstance(entry, str):
        return textwrap.wrap(entry, LONGEST_LABEL) or [""]
    if not isinstance(entry, Real):  # numpy's numbers are real numbers too
        raise ConfigError(f"an entry of a table is text or a real number, not {describe(entry)}")
    return [_number(float(entry))]


def _number(value: float) -> str:
    """A number with three digits after the point, or two in all where these would be 0; nothing for NaN."""
    if not math.isfinite(value):
        return "" if math.isnan(value) else f"{value:g}"
    if value == int(value):
        return f"{value:.12g}"
    return f"{value:.2g}" if abs(value) < 5e-4 else f"{value:.3f}".rstrip("0").rstrip(".")
