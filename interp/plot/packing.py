"""The explorer's data as a page carries them: bytes of the patterns, their budget, and the HTML around them.

A pattern's entry p is the code `round(254 sqrt(p))`, one byte, and 255 where masked: off by at most .004. Small entries
keep finer steps, so that after the first token is dropped and what is left is divided again, entries are still within
.01 where a tenth or more was left (with evenly spaced codes, within .5), and about .005 off where it was less. Where
there are few entries, two bytes are spent on each. Of a causal pattern only the lower triangle is stored, key by key.
Norms and effects of the values take twelve bits each, against the largest of their head.

Every head is compressed once, alone, and the heads of a stack that fit are written one after the other as one zlib
stream in base 85. A head that does not fit keeps a pooled map: of each block of its entries the one of largest size, of
every kind of value and every run, in the colours' own precision, a byte each. Maps and drawings need no more.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int8, UInt

from interp.errors import ConfigError
from interp.plot.attention_run import AttentionRun
from interp.plot.attention_stack import AttentionStack
from interp.plot.still import pool

ONE_BYTE, TWO_BYTES = 254, 65534
"""Codes of a share of 1; the next one stands for masked."""

FEW = 100_000
"""Up to so many entries take two bytes each."""


def encode(pattern: Float[np.ndarray, "*axes"], levels: int = ONE_BYTE) -> UInt[np.ndarray, "*axes"]:
    """The code of each entry, see above."""
    code = np.rint(levels * np.sqrt(np.clip(np.nan_to_num(pattern), 0, 1)))
    return np.where(np.isnan(pattern), levels + 1, code).astype("u1" if levels == ONE_BYTE else "<u2")


@lru_cache(1)
def cells(n_queries: int, n_keys: int, triangle: bool) -> Int[np.ndarray, " entry"]:
    """Where the entries that are stored lie, key by key; with `triangle` those of the queries from the key on."""
    keys, queries = np.triu_indices(n_keys) if triangle else np.indices((n_keys, n_queries)).reshape(2, -1)
    return queries * n_keys + keys


def segment(data: bytes) -> bytes:
    """The data as a part of a deflate stream (RFC 1951) that refers to nothing before it and ends on a whole byte.

    The codes of a pattern repeat in runs or not at all, so that runs alone are looked for: within 1.5 % of zlib's
    highest level in a tenth of its time.
    """
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS, 8, zlib.Z_RLE)
    return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)


def stream(parts: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A zlib stream (RFC 1950) of data and their segments, which are not compressed again."""
    check = 1
    for data, _ in parts:
        check = zlib.adler32(data, check)
    return b"\x78\x9c" + b"".join(packed for _, packed in parts) + b"\x03\x00" + check.to_bytes(4, "big")


ALPHABET = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;.=>?@^_`{|}~", "u1")
"""Python's for base 85 (RFC 1924), with "." in the place of "<", which could end a script element."""


def base85(data: bytes) -> str:
    """Data as text, five characters for four bytes; 6 % shorter than base64."""
    padded = data + b"\0" * (-len(data) % 4)
    words = np.frombuffer(padded, ">u4")[:, None] // np.array([85**4, 85**3, 85**2, 85, 1], "u4") % 85
    return ALPHABET[words].tobytes()[: (5 * len(data) + 3) // 4].decode()


def pooled_codes(values: Float[np.ndarray, "rows columns"], top: float) -> Int8[np.ndarray, "rows columns"]:
    """Values against the largest size among them, as the colours have it: the signed root; -128 where masked."""
    share = np.sqrt(np.abs(np.nan_to_num(values)) / (top or 1.0))
    return np.where(np.isnan(values), -128, np.rint(127 * np.copysign(share, values))).astype(np.int8)


def value_bytes(runs: Sequence[AttentionRun]) -> bytes:
    """What the value modes need, for all runs, the widest numbers first so that each lies at a multiple of its size."""
    tops, sixteen = [], []
    for name, most, kind in (("value_norms", 4095, "<u2"), ("key_effects", 2047, "<i2")):
        parts = [part for run in runs if (part := getattr(run, name)) is not None]
        for part in parts:
            top = np.abs(part).max(axis=-1, keepdims=True)
            tops.append(top.astype("<f4").tobytes())
            sixteen.append(np.rint(part / np.where(top > 0, top, 1) * most).astype(kind).tobytes())
    factors = [run.query_factors.astype("<f4").tobytes() for run in runs if run.query_factors is not None]
    return b"".join([*tops, *factors, *sixteen])


@cache
def carried(name: str) -> str:
    """A script or a style as a page carries it: without indentation, comments on lines and empty lines."""
    text = files("interp.plot").joinpath(name).read_text(encoding="utf-8")
    return re.sub(r"^\t*(?:(?://.*)?\n)?|[ \t]+// .*$", "", text, flags=re.MULTILINE)


SCRIPTS = ("explorer_canvas.js", "explorer_data.js", "explorer.js")
"""What stands first is there for the others."""


def script() -> str:
    """The explorer's scripts in one function, which returns `attentionExplorer`, and which a saved page says again."""
    inside = "".join(map(carried, SCRIPTS))
    return f"function attentionScripts() {{\n{inside}return attentionExplorer;\n}}\n"


def as_json(meta: Any) -> str:
    """JSON that can stand inside a script element: no token can end it."""
    return json.dumps(meta, ensure_ascii=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def fragment(meta: dict[str, Any], still: bytes, width: int, lines: Sequence[tuple[str, str]]) -> str:
    """The explorer as HTML to put into a page or a notebook's output: picture and text, which the script replaces.

    `still` is a PNG, `width` pixels wide where there is room; `lines` are the summary's, each with the colour of its
    badge, or "".
    """
    swatch = '<span style="background:{0};color:{0}">&#9632;</span> '
    caption = "<br>".join((swatch.format(color) if color else "") + escape(line) for line, color in lines)
    words = escape(" ".join(line for line, _ in lines))
    picture = (
        f'<img alt="{words}" style="width:{width}px;max-width:100%;image-rendering:pixelated" '
        f'src="data:image/png;base64,{base64.b64encode(still).decode()}">'
    )
    return (
        f'<div data-attention="{meta["id"]}"><figure style="margin:0">{picture}'
        f"<figcaption>{caption}</figcaption></figure>"
        f'<script type="application/json">{as_json(meta)}</script></div>\n'
        f"<script>(() => {{\n{script()}{START % meta['id']}}})()</script>\n"
    )


START = """for (const host of document.querySelectorAll('[data-attention="%s"]:not([data-started])')) {
	host.dataset.started = "";
	attentionScripts()(host, JSON.parse(host.querySelector("script").textContent));
}
"""
# By name, because a notebook may run the script apart from its place; all, because it may show one output twice.


def page(title: str, inside: str) -> str:
    """A document around a fragment."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title></head>'
        f"<body>\n{inside}</body></html>\n"
    )


def levels_for(runs: Iterable[AttentionRun]) -> int:
    """The code of a share of 1 in these runs."""
    return TWO_BYTES if sum(run.pattern.size for run in runs) <= FEW else ONE_BYTE


@dataclass(eq=False)
class Piece:
    """The data of one stack of heads, of which some fit whole.

    Attributes:
        stack: whose data these are.
        levels: the code of a share of 1.
        extra: what the value modes need, of all heads.
        pooled: the pooled map and its segment, by head, of those that may not fit.
        whole: the codes of each run and their segments, by head, of those that fit.
    """

    stack: AttentionStack
    levels: int
    extra: tuple[bytes, bytes]
    pooled: dict[int, tuple[bytes, bytes]]
    whole: dict[int, list[tuple[bytes, bytes]]]

    @staticmethod
    def of(stack: AttentionStack, levels: int) -> Piece:
        """The piece of a stack, with no head in it yet."""
        extra = value_bytes(stack.runs)
        return Piece(stack, levels, (extra, segment(extra)), {}, {})

    def read(self, head: int) -> list[tuple[bytes, bytes]]:
        """The codes of one head in each run, and their segments."""
        at = divmod(head, self.stack.n_heads)
        found = []
        for run in self.stack.runs:
            values = run.pattern[at]
            codes = encode(values.take(cells(*values.shape, run.causal)), self.levels).tobytes()
            found.append((codes, segment(codes)))
        return found

    def pool(self, head: int, side: int) -> int:
        """Make the pooled map of a head, with at most so many rows and columns; returns the bytes of its segment."""
        data = self._pooled(head, side)
        self.pooled[head] = data, segment(data)
        return len(self.pooled[head][1])

    def size_of_maps(self, side: int) -> int:
        """Bytes of the pooled maps of all heads."""
        rows, columns = (min(n, side) for n in self.stack.runs[0].pattern.shape[2:])
        entries = rows * (rows + 1) // 2 if self.stack.runs[0].causal else rows * columns
        return self.stack.size * len(self.stack.kinds) * len(self.stack.shown_runs) * (entries + 4)

    def _pooled(self, head: int, side: int) -> bytes:
        tops, codes, values = [], [], np.empty((0, 0))
        for kind in self.stack.kinds:
            for run in self.stack.shown_runs:
                values = pool(self.stack.values(*self.stack.at(head), kind, run), side)
                plain = kind == "attention" and run != "difference"
                top = 1.0 if plain else float(np.abs(np.nan_to_num(values)).max())
                tops.append(np.float32(top))
                codes.append(pooled_codes(values, top).ravel())
        stored = cells(*values.shape, self.stack.runs[0].causal)
        return np.array(tops, "<f4").tobytes() + np.concatenate([code[stored] for code in codes]).tobytes()

    def packed(self) -> str:
        """All of it in base 85: what the value modes need, the heads that are whole, the pooled maps of the others."""
        kept = sorted(self.whole)
        parts = [self.extra]
        parts += [self.whole[head][run] for run in range(len(self.stack.runs)) for head in kept]
        parts += [self.pooled[head] for head in range(self.stack.size) if head not in self.whole]
        return base85(stream(parts))


POOLED_SIDES = (64, 48, 32, 24, 16, 12, 8, 4)
"""Rows and columns of pooled maps: the first with which those of all heads take no more than a quarter of the room.
More than 64 can hardly be told apart in a thumbnail."""


def fit(
    pieces: Sequence[Piece], ranking: Sequence[tuple[int, int]], room: int
) -> tuple[list[tuple[str, list[int]]], int]:
    """Of each piece the data in base 85 and the heads that are in it whole; and the side of the others' pooled maps.

    Together they take at most `room` characters with the lists of heads beside them. Where not all fit, those from the
    end of `ranking`, which lists all (piece, head), are pooled. Raises `ConfigError` if not a single one fits.
    """
    room = 4 * room // 5 - sum(len(piece.extra[1]) + 20 for piece in pieces)  # in bytes, for the heads
    sizes: list[int] = []
    for at, head in ranking:
        found = pieces[at].read(head)
        sizes.append(sum(len(packed) for _, packed in found))
        if sum(sizes) > room:
            break
        pieces[at].whole[head] = found
    side = 0
    if sum(sizes) > room:
        fitting = [side for side in POOLED_SIDES if sum(piece.size_of_maps(side) for piece in pieces) <= room / 4]
        side = fitting[0] if fitting else POOLED_SIDES[-1]
        _make_room(pieces, ranking, sizes, room, side)
    return [(piece.packed(), sorted(piece.whole)) for piece in pieces], side


def _make_room(
    pieces: Sequence[Piece], ranking: Sequence[tuple[int, int]], sizes: list[int], room: int, side: int
) -> None:
    """Pool heads from the end of the ranking until those that are whole fit, with their names, beside the maps."""
    pooled = sum(pieces[at].pool(head, side) for at, head in ranking[len(sizes) :])
    for many in reversed(range(len(sizes))):
        at, head = ranking[many]
        pieces[at].whole.pop(head, None)
        pooled += pieces[at].pool(head, side)
        named = sum(len(f"{head},") for _, head in ranking[:many])
        if many and sum(sizes[:many]) + named + pooled <= room:
            return
    raise ConfigError("page_bytes leaves no room for a single head beside the pooled maps of the others")


def identity(meta: dict[str, Any]) -> str:
    """A name for these data, the same in every run."""
    return "a" + hashlib.blake2b(as_json(meta).encode(), digest_size=6).hexdigest()
