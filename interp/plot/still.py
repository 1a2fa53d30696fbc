"""Still pictures of attention, without a browser: PNG and SVG files of a map of heads or of one head.

Nothing that is installed with this package draws pixels, and a map of heads is little more than an array of pixels: so
a PNG is written here with zlib, indexed colours and digits of 3 x 5 pixels for the labels under the thumbnails. Words
(tokens, names of scores) need a font; they are in the SVG files, which embed the same pixels under real text, and in
the text that stands beside every PNG.

Colours (checked for the common kinds of colour blindness by their lightness, which alone orders them): one hue from
light to dark for amounts, orange against blue for signed values. The explorer's script gets them from here.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from interp.plot.style import clip

PALETTE: dict[str, dict[str, Any]] = {
    "light": {
        "positive": ["#f7fafd", "#c9dcef", "#7db1da", "#2f75b5", "#08306b"],
        "signed": ["#7a3300", "#dd7a1f", "#f6ecdf", "#f8f8f8", "#dfeaf5", "#4c92c8", "#08306b"],
        "paper": "#ffffff",
        "ink": "#1b1f24",
        "masked": "#e2e2e2",
        "hatch": "#bdbdbd",
        "mark": "#d55e00",
        "soft": "#57606a",
        "line": "#d5dae0",
        "on": "#1f5fa8",
    },
    "dark": {
        "positive": ["#16283a", "#1f4e7a", "#3a86c0", "#8cc6f0", "#f2faff"],
        "signed": ["#ffd2a3", "#e0822b", "#5e3a17", "#22262b", "#1d4468", "#4b9ad6", "#c4e6ff"],
        "paper": "#15191e",
        "ink": "#e8ebee",
        "masked": "#343434",
        "hatch": "#5a5a5a",
        "mark": "#ff9d3c",
        "soft": "#a4adb7",
        "line": "#3d454e",
        "on": "#8cc4f4",
    },
}
SCORE_COLORS = ["#0b6e4f", "#a33b00", "#6a2f9c", "#8f1d4f", "#4a5300", "#00617a"]
"""Colours of badges, with white text on them (contrast at least 4.5 for each)."""

LEVELS = 16  # more can hardly be told apart in a thumbnail, and fewer make a smaller file
MASKED, HATCH, PAPER, INK, BADGE = range(LEVELS, LEVELS + 5)

DIGITS = {  # 3 x 5 pixels, a row an octal digit
    character: np.array([[int(row) >> bit & 1 for bit in (2, 1, 0)] for row in rows], dtype=bool)
    for character, rows in {
        "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757",
        "7": "71122", "8": "75757", "9": "75717", "L": "44447", "H": "55755", "X": "55255",
    }.items()
}  # fmt: skip


def png(
    pixels: UInt8[np.ndarray, "row column"], colors: Sequence[str], scale: int = 1, *, hatched: bool = True
) -> bytes:
    """An indexed PNG (ISO/IEC 15948) of these colours, each pixel `scale` x `scale`; equal input gives equal bytes.

    Masked pixels are hatched, unless the colours are others than those of `color_table`.
    """
    pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    pixels = _hatched(pixels) if hatched else pixels
    height, width = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels], axis=1)  # each row begins with its filter: none

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    palette = b"".join(bytes.fromhex(color.removeprefix("#")) for color in colors)
    packed = zlib.compress(rows.tobytes(), 9)
    parts = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def _hatched(pixels: UInt8[np.ndarray, "row column"]) -> UInt8[np.ndarray, "row column"]:
    """Diagonal lines where pixels are masked."""
    rows, columns = np.indices(pixels.shape)
    return np.where((pixels == MASKED) & ((rows + columns) % 5 == 0), np.uint8(HATCH), pixels)


def between(stops: Sequence[str], n: int) -> list[str]:
    """`n` colours, evenly spaced along the line through `stops`."""
    corners = np.array([[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in stops])
    at = np.linspace(0, len(stops) - 1, n)
    channels = [np.rint(np.interp(at, np.arange(len(stops)), corner)).astype(int) for corner in corners.T]
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in zip(*channels, strict=True)]


def color_table() -> list[str]:
    """The colours that pixels index: levels, then masked, hatch, paper, ink and those of the badges."""
    light = PALETTE["light"]
    return [
        *between(light["positive"], LEVELS),
        *(light[n] for n in ("masked", "hatch", "paper", "ink")),
        *SCORE_COLORS,
    ]


def levels(values: Float[np.ndarray, "rows columns"], top: float) -> UInt8[np.ndarray, "rows columns"]:
    """Colour indices: the root of each value against `top`, as the explorer has it; masked where NaN."""
    index = np.rint(np.sqrt(np.clip(np.nan_to_num(values) / top, 0, 1)) * (LEVELS - 1)).astype(np.uint8)
    return np.where(np.isnan(values), np.uint8(MASKED), index)


def pool(values: Float[np.ndarray, "query_pos key_pos"], side: int) -> Float[np.ndarray, "row column"]:
    """At most `side` x `side`: of each block the entry of largest size, so that thin stripes survive."""
    if max(values.shape) <= side:
        return values
    blocks = [min(n, side) for n in values.shape]
    rows, columns = (np.ceil(np.arange(m) * n / m).astype(int) for m, n in zip(blocks, values.shape, strict=True))

    def reduce(array: np.ndarray, what: np.ufunc) -> np.ndarray:
        ends = [*rows[1:], len(array)]
        of_blocks = [what.reduce(array[start:end], axis=0) for start, end in zip(rows, ends, strict=True)]
        return what.reduceat(of_blocks, columns, axis=1)  # which alone, over both axes, takes ten times as long

    high, low = reduce(values, np.fmax), reduce(values, np.fmin)  # both pass over NaN
    return np.where(-low > high, low, high)


# ---------------------------------------------------------------------- pictures


def map_pixels(
    patterns: Float[np.ndarray, "layer head query_pos key_pos"],
    labels: Sequence[str],
    badges: Sequence[Sequence[int]],
    thumb: int = 32,
) -> UInt8[np.ndarray, "row column"]:
    """Layers down (in several columns where they are many), heads across, labels below.

    Of head i of all, `labels[i]` is its name and `badges[i]` the colours of its badges, in its upper right corner. A
    rectangular pattern is stretched to a square.
    """
    n_layers, heads = patterns.shape[:2]
    side = min(max(patterns.shape[2:]), thumb)
    size = side * (thumb // side)  # a short text has few cells, so they are larger
    wide, high = max(size, 4 * max(map(len, labels))) + 5, size + 11
    columns = max(
        1, round((n_layers * high / (heads * wide)) ** 0.5 - 0.25)
    )  # of blocks: many layers would make a ribbon
    rows = -(-n_layers // columns)
    picture = np.full((high * rows + 4, (wide * heads + 8) * columns), PAPER, np.uint8)
    for at, label in enumerate(labels):
        layer, head = divmod(at, heads)
        y, x = 4 + layer % rows * high, 4 + layer // rows * (wide * heads + 8) + head * wide
        area = _stretched(levels(pool(patterns[layer, head], side), 1.0), size)
        for j, color in enumerate(badges[at][: size // 6]):
            area[1 + 6 * j : 6 + 6 * j, -6:-1] = BADGE + color
        picture[y : y + size, x : x + size] = area
        _write(picture, y + size + 2, x, label)
    return picture


def _stretched(pixels: UInt8[np.ndarray, "rows columns"], size: int) -> UInt8[np.ndarray, "size size"]:
    """At least as large, each pixel repeated as evenly as whole numbers allow."""
    rows, columns = (np.arange(size) * n // size for n in pixels.shape)
    return pixels[rows][:, columns]


def below(pictures: Sequence[UInt8[np.ndarray, "_rows _columns"]]) -> UInt8[np.ndarray, "height width"]:
    """Pictures one below the other."""
    wide = max(picture.shape[1] for picture in pictures)
    padded = [np.pad(one, ((0, 0), (0, wide - one.shape[1])), constant_values=PAPER) for one in pictures]
    return np.concatenate(padded)


def _write(picture: UInt8[np.ndarray, "row column"], y: int, x: int, text: str) -> None:
    for i, character in enumerate(text):
        picture[y : y + 5, x + 4 * i : x + 4 * i + 3][DIGITS[character]] = INK


def map_svg(pixels: UInt8[np.ndarray, "row column"], lines: Sequence[tuple[str, str]]) -> str:
    """The map's pixels, and below them the lines of the summary, each with the colour of its badge, or ""."""
    height, width = (2 * size for size in pixels.shape)
    image = _image(png(pixels, color_table()), 0, 0, width, height)
    text = ""
    for i, (line, color) in enumerate(lines):
        y = height + 18 + 16 * i
        text += f'<rect x="8" y="{y - 9}" width="10" height="10" fill="{color}"/>' if color else ""
        text += f'<text x="{22 if color else 8}" y="{y}">{escape(line)}</text>'
    title = " ".join(line for line, _ in lines)
    return _svg(max(width, 7 * max(len(line) for line, _ in lines)), height + 16 + 16 * len(lines), title, image + text)


def head_svg(pixels: UInt8[np.ndarray, "rows columns"], queries: Sequence[str], keys: Sequence[str], title: str) -> str:
    """One head: queries down, keys across, every token as text."""
    cell = max(12.0, min(40.0, 640 / max(len(queries), len(keys))))
    width, height = cell * len(keys), cell * len(queries)
    left, above = (30 + min(120, 7 * max(map(len, tokens))) for tokens in (queries, keys))
    words = ""
    for i, token in enumerate(queries):
        at = above + (i + 0.5) * cell + 4
        words += f'<text x="{left - 5}" y="{at:g}" text-anchor="end">{escape(clip(token, 16))}</text>'
    for i, token in enumerate(keys):
        at = left + (i + 0.5) * cell + 4
        words += f'<text transform="translate({at:g} {above - 5}) rotate(-90)">{escape(clip(token, 16))}</text>'
    image = _image(png(pixels, color_table(), max(1, round(cell))), left, above, width, height)
    heading = f'<text x="6" y="16" font-weight="bold">{escape(title)}</text>'
    return _svg(left + width + 8, above + height + 8, title, image + heading + words)


def _svg(width: int | float, height: int | float, title: str, inside: str) -> str:
    light = PALETTE["light"]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" font-size="11" fill="{light["ink"]}" role="img">'
        f"<title>{escape(title)}</title>"
        f'<rect width="100%" height="100%" fill="{light["paper"]}"/>{inside}</svg>\n'
    )


def _image(picture: bytes, x: int | float, y: int | float, width: int | float, height: int | float) -> str:
    return (
        f'<image x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{base64.b64encode(picture).decode()}"/>'
    )
