"""What stands under the pointer in a page without plotly: plotly's hover templates, filled in as plain text."""

from __future__ import annotations

import base64
import html
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from interp.plot.style import in_full

Number = int | float
"""A length or a place on a picture, in pixels; plotly's layouts have both kinds."""

Box = tuple[Number, Number, Number, Number]
"""Left, top, width and height, in pixels."""


def plain(markup: Any) -> str:
    """Text of plotly as text: its line breaks kept, its tags left out, its escapes resolved."""
    text = re.sub(r"<br\s*/?>", "\n", str(markup or ""))
    return html.unescape(re.sub(r"<[^<>]*>", "", text)).replace("\u00a0", " ").strip("\n")


@dataclass
class Notes:
    """The notes of a figure, and where the pointer finds them.

    Attributes:
        texts: each different note once.
        grids: rectangles of equal cells: left, top, width, height, rows, columns, and a note for each cell, or -1.
        points: x, y, and a note.
    """

    texts: dict[str, int] = field(default_factory=dict)
    grids: list[list[Any]] = field(default_factory=list)
    points: list[list[Any]] = field(default_factory=list)

    def number(self, text: str) -> int:
        """The number of a note; -1 for none."""
        return self.texts.setdefault(text, len(self.texts)) if text else -1

    def add_grid(self, box: Box, rows: int, columns: int, texts: Sequence[str]) -> None:
        """Add a rectangle of cells with their notes, row by row."""
        self.grids.append([*(round(one, 2) for one in box), rows, columns, [self.number(text) for text in texts]])

    def add_point(self, x: Number, y: Number, text: str) -> None:
        """Add a point with its note."""
        if text:
            self.points.append([round(x, 1), round(y, 1), self.number(text)])

    def packed(self) -> str:
        """All of it as base64 of zlib's bytes, which say nothing that a page could read as markup; "" if empty."""
        if not self.texts:
            return ""
        said = json.dumps(
            {"texts": list(self.texts), "grids": self.grids, "points": self.points}, separators=(",", ":")
        )
        return base64.b64encode(zlib.compress(said.encode(), 9)).decode()


def filled(template: str, values: Mapping[str, Any]) -> str:
    """A hover template as plain text; what plotly puts beside the note, `<extra>`, is its first line.

    `values` are what `%{name}`, `%{name:.4f}` and `%{name[1]}` stand for. Where plotly would say 0.0000 of a smaller
    number, its power of ten is said.
    """

    def value(found: re.Match[str]) -> str:
        one = values.get(found["name"], "")
        one = one[int(found["at"])] if found["at"] else one
        if found["form"]:
            return in_full(float(one)) if found["form"] == ".4f" else format(float(one), found["form"])
        return f"{float(one):.6g}" if isinstance(one, float | np.floating) else str(one)

    first = re.search(r"<extra>(.*)</extra>", template)
    said = re.sub(r"<extra>.*</extra>", "", template)
    said = f"{first[1]}<br>{said}" if first and first[1] else said
    # the texts of a template are escaped, so that no brace in them is taken for a placeholder
    return plain(re.sub(r"%\{(?P<name>\w+)(?:\[(?P<at>\d+)\])?(?::(?P<form>[^}]*))?\}", value, said))
