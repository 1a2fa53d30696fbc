"""Axes of a page without plotly: scales, ticks, grid lines, labels and colour bars as SVG."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from interp.plot.hover import Box, Number, plain
from interp.plot.still import between
from interp.plot.style import LETTER, NEGATIVE, POSITIVE, columns_of

THEMED = {
    POSITIVE: "var(--positive)",
    NEGATIVE: "var(--negative)",
    "#000000": "var(--ink)",
    "#1a1a1a": "var(--ink)",
    "#555555": "var(--dim)",
    "#888888": "var(--dim)",
    "#999999": "var(--dim)",
    "#e5e5e5": "var(--line)",
    "#eeeeee": "var(--line)",
    "#ffffff": "var(--paper)",
}
"""Colours that are others where the page is dark."""


def themed(color: str) -> str:
    """A colour as an attribute's value, where the page may be dark."""
    return THEMED.get(color.lower(), escape(color))


@dataclass(frozen=True)
class Scale:
    """Where values of an axis are, in pixels: `first` at `start`, `last` at `end`."""

    first: Number
    last: Number
    start: Number
    end: Number
    log: bool = False

    def at(self, value: Any) -> Number:
        """Where a value is."""
        value = float(value)
        if self.log:
            value = math.log10(value) if value > 0 else math.nan
        return self.start + (value - self.first) / ((self.last - self.first) or 1.0) * (self.end - self.start)

    def holds(self, value: Any) -> bool:
        """Whether a value is on this stretch of the axis, up to rounding."""
        low, high = sorted((self.start, self.end))
        return low - 0.5 <= self.at(value) <= high + 0.5  # which is false for NaN, a value that has no logarithm

    def ticks(self, every: Number = 50) -> list[Number]:
        """Round numbers along the axis, about one in so many pixels.

        On a logarithmic axis these are powers of 10, and where they are few their doubles and fivefolds.
        """
        low, high = sorted((self.first, self.last))
        if self.log:
            apart = math.ceil((high - low) * every / max(1.0, abs(self.end - self.start)))
            decades = range(math.floor(low), math.ceil(high) + 1, max(1, apart))
            found = [10.0**k * one for k in decades for one in ((1, 2, 5) if high - low < 2 else (1,))]
            return [one for one in found if self.holds(one)]
        step = (high - low) / max(2.0, abs(self.end - self.start) / every)
        power = 10.0 ** math.floor(math.log10(step))
        step = next(power * one for one in (1, 2, 5, 10) if power * one >= step * 0.999)
        return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def scale(axis: Mapping[str, Any], values: Iterable[Any], start: Number, end: Number) -> Scale:
    """The scale of an axis: of its range, or of the values that are drawn, with a little room."""
    log = axis.get("type") == "log"
    limits = axis.get("range")
    if limits is None or any(one is None for one in limits):
        numbers = np.array([float(one) for one in values if one is not None])
        numbers = numbers[np.isfinite(numbers) & ((numbers > 0) | (not log))]
        numbers = np.log10(numbers) if log else numbers
        low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 1.0)
        room = 0.05 * ((high - low) or abs(high) or 1.0)
        limits = (low - room, high + room)
    return Scale(float(limits[0]), float(limits[1]), start, end, log)


def text(x: Number, y: Number, said: str, more: str = "") -> str:
    """One line of text, or several one below the other."""
    lines = said.split("\n")
    if len(lines) == 1:
        return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(said)}</text>'
    spans = "".join(f'<tspan x="{x:.1f}" dy="{15 * (i > 0)}">{escape(one)}</tspan>' for i, one in enumerate(lines))
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{spans}</text>'


def line(x1: Number, y1: Number, x2: Number, y2: Number, color: str, more: str = "") -> str:
    """A straight line."""
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{themed(color)}"{more}/>'


def _labelled(axis: Mapping[str, Any], along: Scale, every: Number = 50) -> list[tuple[Number, str]]:
    """The ticks of an axis and their labels."""
    if axis.get("tickvals") is None:
        return [(one, f"{one:.6g}".replace("-", "\u2212")) for one in along.ticks(every)]
    return [
        (float(at), plain(said))
        for at, said in zip(axis["tickvals"], axis.get("ticktext") or axis["tickvals"], strict=True)
        if along.holds(at)
    ]


def _longest(axis: Mapping[str, Any]) -> int:
    """The letters of an axis' longest label; numbers are short."""
    if axis.get("showticklabels") is False:
        return 0
    return max((columns_of(plain(one)) for one in axis.get("ticktext") or ["\u22120.25"]), default=0)


def _depth(axis: Mapping[str, Any]) -> Number:
    """Pixels that the labels of a horizontal axis are deep."""
    return 4 + 0.9 * LETTER * _longest(axis) if axis.get("tickangle") else 18.0


def _breadth(axis: Mapping[str, Any]) -> Number:
    return LETTER * _longest(axis)


def room(x: Mapping[str, Any], y: Mapping[str, Any]) -> tuple[Number, Number]:
    """Pixels above and to the left of the axes, for their labels and what they are of."""
    titled = [20 if (axis.get("title") or {}).get("text") else 0 for axis in (x, y)]
    above = 12 + _depth(x) + titled[0] if x.get("side") == "top" else 0.0
    return above, 16 + _breadth(y) + titled[1]


def across(axis: Mapping[str, Any], along: Scale, box: Box) -> str:
    """A horizontal axis: grid lines, ticks and labels, and what it is of."""
    left, top, width, height = box
    above = axis.get("side") == "top"
    edge, way = (top, -1) if above else (top + height, 1)
    parts, deepest = [_grid(axis, along, box, upright=True)], _depth(axis)
    turned = axis.get("tickangle") or 0
    if axis.get("showticklabels") is not False:
        for value, label in _labelled(axis, along):
            x = along.at(value)
            parts.append(line(x, edge, x, edge + 4 * way, "#555555"))
            if turned:
                anchor = "start" if above else "end"
                more = f' text-anchor="{anchor}" transform="rotate({turned:g} {x + 4:.1f} {edge + 8 * way:.1f})"'
                parts.append(text(x + 4, edge + (8 if above else 12) * way, label, more))
            else:
                parts.append(text(x, edge + (-8 if above else 18), label, ' text-anchor="middle"'))
    if title := plain((axis.get("title") or {}).get("text")):
        y = edge - deepest - 16 if above else edge + deepest + 20
        parts.append(text(left + width / 2, y, title, ' text-anchor="middle"'))
    return "".join(parts)


def upward(axis: Mapping[str, Any], along: Scale, box: Box) -> str:
    """A vertical axis, on the left."""
    left, top, _, height = box
    parts = [_grid(axis, along, box, upright=False)]
    if axis.get("showticklabels") is not False:
        for value, label in _labelled(axis, along):
            y = along.at(value)
            parts.append(text(left - 8, y + 4, label, ' text-anchor="end"'))
    if title := plain((axis.get("title") or {}).get("text")):
        x, y = left - _breadth(axis) - 18, top + height / 2
        parts.append(text(x, y, title, f' text-anchor="middle" transform="rotate(-90 {x:.1f} {y:.1f})"'))
    return "".join(parts)


def _grid(axis: Mapping[str, Any], along: Scale, box: Box, upright: bool) -> str:
    """Grid lines, that of 0 darker, and the line of the axis itself."""
    left, top, width, height = box

    def rule(at: Number, color: str) -> str:
        ends = (at, top, at, top + height) if upright else (left, at, left + width, at)
        return line(*ends, color)

    values = [at for at, _ in _labelled(axis, along)]
    shown = [
        rule(along.at(at), axis.get("gridcolor") or "#e5e5e5") for at in values if axis.get("showgrid") is not False
    ]
    low, high = sorted((along.first, along.last))
    if axis.get("zeroline") and not along.log and low <= 0 <= high:
        shown.append(rule(along.at(0), axis.get("zerolinecolor") or "#999999"))
    if axis.get("showline"):
        shown.append(rule(top + height if not upright else left, axis.get("linecolor") or "#999999"))
    return "".join(shown)


# ---------------------------------------------------------------------- colours


BETWEEN = 30
"""Pixels between numbers beside a bar of colours, about: few enough that the lowest bar has three."""


@dataclass(frozen=True)
class Colors:
    """The colours of a heat-map: 255 from `low` to `high`, and the last for blank cells."""

    low: Number
    high: Number
    table: Sequence[str]

    BLANK = 255

    @classmethod
    def of(cls, axis: Mapping[str, Any], maps: Sequence[np.ndarray], blank: str) -> Colors:
        """As plotly chooses them: between the given ends, or else those of the values, around the middle if given."""
        known = np.concatenate([one[np.isfinite(one)].ravel() for one in maps])
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        if axis.get("cmid") is not None:
            reach = max(high - axis["cmid"], axis["cmid"] - low)
            low, high = axis["cmid"] - reach, axis["cmid"] + reach
        low = low if axis.get("cmin") is None else float(axis["cmin"])
        high = high if axis.get("cmax") is None else float(axis["cmax"])
        low, high = (low, high) if high > low else (low - 0.5, low + 0.5)  # of equal values, the middle
        stops = [_hexadecimal(color) for _, color in axis["colorscale"]]  # plotly's own scales have even steps
        return cls(low, high, [*between(stops, cls.BLANK), blank])

    def indices(self, values: np.ndarray) -> np.ndarray:
        """The place of each value's colour in the table."""
        known = np.nan_to_num(values, nan=self.low, posinf=self.low, neginf=self.low).astype(np.float64)
        share = np.clip((known - self.low) / (self.high - self.low), 0, 1)
        index = np.rint(share * (self.BLANK - 1)).astype(np.uint8)
        return np.where(np.isfinite(values), index, np.uint8(self.BLANK))

    def ink(self, index: int) -> str:
        """Black or white, whichever can be read on a colour (WCAG's relative luminance)."""
        color = self.table[index]
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        light = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return "#000000" if 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2] > 0.179 else "#ffffff"

    def bar(self, axis: Mapping[str, Any], x: Number, top: Number, name: str) -> str:
        """The scale of colours with what it is of above it, at most as high as plotly makes it."""
        about = axis.get("colorbar") or {}
        words = plain((about.get("title") or {}).get("text")).rstrip().split("\n")
        pixels = float(about["len"]) if about.get("lenmode") == "pixels" else 250.0
        length = min(max(60.0, pixels - 15 * len(words) - 14), 250.0)
        first = top + 15 * len(words) + 9
        parts = [text(x, top + 10, "\n".join(words))]
        stops = "".join(
            f'<stop offset="{i / 16:.4f}" stop-color="{self.table[round((1 - i / 16) * (self.BLANK - 1))]}"/>'
            for i in range(17)
        )
        parts.append(f'<linearGradient id="{name}" x2="0" y2="1">{stops}</linearGradient>')
        parts.append(f'<rect x="{x:.1f}" y="{first:.1f}" width="12" height="{length:.1f}" fill="url(#{name})"/>')
        along = Scale(self.low, self.high, first + length, first)
        for value, label in _labelled({}, along, BETWEEN):
            parts.append(text(x + 17, along.at(value) + 4, label))
        return "".join(parts)


def _hexadecimal(color: str) -> str:
    """`rgb(1, 2, 3)`, or what is hexadecimal already."""
    if found := re.match(r"rgba?\(\s*(\d+),\s*(\d+),\s*(\d+)", color):
        return "#" + "".join(f"{int(one):02x}" for one in found.groups())
    return color
