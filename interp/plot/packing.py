"""The explorer's data as a page carries them: bytes of the patterns, their budget, and the HTML around them.

A pattern's entry p is the code `round(254 sqrt(p))`, one byte, and 255 where masked: off by at most .004. Small entries
keep finer steps, so that after the first token is dropped and what is left is divided again, entries are still within
.01 where a tenth or more was left (with evenly spaced codes, within .5), and about .005 off where it was less. Where
there are few entries, two bytes are spent on each. Of a causal pattern only the lower triangle is stored, key by key.
Norms and effects of the values take twelve bits each, against the largest of their head. All is compressed by zlib as
one piece and written in base64.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from jaxtyping import Float, UInt

from interp.errors import ConfigError
from interp.plot.attention_run import AttentionRun

ONE_BYTE, TWO_BYTES = 254, 65534
"""Codes of a share of 1; the next one stands for masked."""

FEW = 100_000
"""Up to so many entries take two bytes each."""


def encode(pattern: Float[np.ndarray, "*axes"], levels: int = ONE_BYTE) -> UInt[np.ndarray, "*axes"]:
    """The code of each entry, see above."""
    code = np.rint(levels * np.sqrt(np.clip(np.nan_to_num(pattern), 0, 1)))
    return np.where(np.isnan(pattern), levels + 1, code).astype("u1" if levels == ONE_BYTE else "<u2")


def head_bytes(run: AttentionRun, triangle: bool, levels: int) -> list[bytes]:
    """The codes of every head, key by key; with `triangle` those of the queries from the key on."""
    n = run.pattern.shape[-1]
    keys, queries = np.triu_indices(n) if triangle else np.indices((n, n)).reshape(2, -1)
    return [encode(head[queries, keys], levels).tobytes() for layer in run.pattern for head in layer]


def compress(data: bytes) -> bytes:
    """The data compressed by zlib, tuned for small numbers that vary: 5 % smaller than by default."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_FILTERED)
    return packer.compress(data) + packer.flush()


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
def source(name: str) -> str:
    """A file of this package: `explorer.js` or `explorer.css`."""
    return files("interp.plot").joinpath(name).read_text(encoding="utf-8")


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
        f"<script>(() => {{\n{source('explorer.js')}{START % meta['id']}}})()</script>\n"
    )


START = """for (const host of document.querySelectorAll('[data-attention="%s"]:not([data-started])')) {
	host.dataset.started = "";
	attentionExplorer(host, JSON.parse(host.querySelector("script").textContent));
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


def levels_for(runs: Sequence[AttentionRun]) -> int:
    """The code of a share of 1 in these runs."""
    return TWO_BYTES if sum(run.pattern.size for run in runs) <= FEW else ONE_BYTE


def fit(
    runs: Sequence[AttentionRun], triangle: bool, levels: int, ranking: Sequence[int], room: int
) -> tuple[str, list[int]]:
    """The data in base64, at most `room` characters with the list of heads beside it, and the heads that are in it.

    Where not all fit, heads are left out from the end of `ranking`, which lists all of them. Raises `ConfigError` if
    not a single one fits.
    """
    extra, of_runs = value_bytes(runs), [head_bytes(run, triangle, levels) for run in runs]

    def packed(heads: Sequence[int]) -> str:
        codes = b"".join(of_run[head] for of_run in of_runs for head in heads)
        return base64.b64encode(compress(extra + codes)).decode()

    every = sorted(ranking)
    data = packed(every)
    if len(data) <= room:
        return data, every
    alone = [4 / 3 * len(compress(b"".join(of_run[head] for of_run in of_runs))) for head in ranking]
    many = int(np.searchsorted(np.cumsum(alone), room, side="right"))  # at most a few of these will not fit together
    while many:
        kept = sorted(ranking[:many])
        data = packed(kept)
        if len(data) + len(as_json(kept)) <= room:
            return data, kept
        many -= 1
    raise ConfigError("page_bytes leaves no room for a single head")


def identity(meta: dict[str, Any]) -> str:
    """A name for these data, the same in every run."""
    return "a" + hashlib.blake2b(as_json(meta).encode(), digest_size=6).hexdigest()
