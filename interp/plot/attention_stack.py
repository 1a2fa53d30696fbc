"""One stack of heads in the attention explorer: its runs, the tokens beside them, and what the page says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from interp.errors import ConfigError, describe
from interp.indices import counted, head_index, layer_index
from interp.model import head_label
from interp.plot import still
from interp.plot.attention_run import KINDS, AttentionRun, StackName
from interp.plot.labels import Score
from interp.plot.style import printable

TITLES: dict[StackName, str] = {
    "encoder": "encoder self-attention",
    "decoder": "decoder self-attention",
    "cross_attn": "cross-attention",
}
"""What a reader is told that a stack is."""

BADGE = 0.3
"""A score is shown as a badge from this part of its unit on (in the page, until the reader moves the threshold)."""


@dataclass(frozen=True, eq=False)
class ShownText:
    """A list of tokens beside the patterns.

    Attributes:
        name: "source" or "target", or "" where a run has one text.
        labels: a label a position, white space made visible, of each run.
    """

    name: str
    labels: list[list[str]]

    def describe(self) -> dict[str, Any]:
        """What the page is told of it."""
        clean, patched = self.labels[0], self.labels[-1]
        return {"name": self.name, "tokens": clean, "patched": None if clean == patched else patched}


@dataclass(frozen=True, eq=False)
class AttentionStack:
    """The heads of a stack in a run, and in the patched one if there is one.

    Attributes:
        name: "encoder", "decoder" or "cross_attn".
        n_layers: of the model.
        runs: the run, and the patched one.
        queries, keys: the tokens of the two sides; the same in self-attention.
        scores: the badges.
        answer: what contributions are to, in words, or None where they were not asked for.
        no_answer: why there are none.
        names: of heads that have one, by their code such as "L1H0".
    """

    name: StackName
    n_layers: int
    runs: list[AttentionRun]
    queries: ShownText
    keys: ShownText
    scores: list[Score]
    answer: str | None
    no_answer: str
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def cross(self) -> bool:
        """Whether the keys are positions of another text."""
        return self.name == "cross_attn"

    @property
    def title(self) -> str:
        """What it is, in words."""
        return TITLES[self.name]

    @property
    def sides(self) -> tuple[str, str]:
        """What the two axes of a pattern are called, down and across."""
        return ("target", "source") if self.cross else ("query", "key")

    @property
    def layers(self) -> list[int]:
        """The layers that are shown."""
        return self.runs[0].layers

    @property
    def n_heads(self) -> int:
        """Of a layer."""
        return self.runs[0].pattern.shape[1]

    @property
    def size(self) -> int:
        """How many heads there are in all."""
        return len(self.layers) * self.n_heads

    def place(self, layer: int, head: int) -> tuple[int, int]:
        """Where a head's numbers are: the layer within those shown, and the head. Raises `ConfigError`."""
        layer = layer_index(layer, self.n_layers, "layer")
        if layer not in self.layers:
            raise ConfigError(f"layer = {layer} is not in the cache; allowed: {', '.join(map(str, self.layers))}")
        return self.layers.index(layer), head_index(head, self.n_heads)

    def locked(self, query: int | None, key: int | None) -> tuple[int | None, int | None]:
        """Two positions counted from the start. Raises `ConfigError` for what is no position, or no cell of these."""
        found: list[int | None] = []
        for what, at, n in zip(("lock_query", "lock_key"), (query, key), self.runs[0].pattern.shape[2:], strict=True):
            if at is not None and (isinstance(at, bool) or not isinstance(at, Integral) or not -n <= at < n):
                raise ConfigError(f"{what} = {describe(at)}; allowed: {-n} to {n - 1}, or None")
            found.append(None if at is None else int(at) % n)
        first, second = found
        if first is not None and second is not None and np.isnan(self.runs[0].pattern[:, :, first, second]).all():
            raise ConfigError(f"lock_query = {query} sees no key {key} in any head: it is masked")
        return first, second

    def at(self, i: int) -> tuple[int, int]:
        """The (layer, head) of the i-th head of all."""
        return self.layers[i // self.n_heads], i % self.n_heads

    def code(self, i: int) -> str:
        """Where the i-th head of all is: "L5H3", or "L5X3" in cross-attention."""
        return head_label(*self.at(i), "cross_attn" if self.cross else "attn")

    def label(self, i: int) -> str:
        """How it is called: its code, and its name where it has one."""
        return f"{self.code(i)} {self.names.get(self.code(i), '')}".rstrip()

    def name_of(self, layer: int, head: int) -> str:
        """As `label`. Raises `ConfigError` for a head that is not there."""
        at, head = self.place(layer, head)
        return self.label(at * self.n_heads + head)

    def labels(self, run: str) -> tuple[list[str], list[str]]:
        """The tokens of a run, down and across."""
        return self.queries.labels[run == "patched"], self.keys.labels[run == "patched"]

    def values(self, layer: int, head: int, kind: str, run: str) -> Float[np.ndarray, "query_pos key_pos"]:
        """One head's numbers, NaN where masked. Raises `ConfigError` for what the stack does not have."""
        at, head = self.place(layer, head)
        if run != "clean" and len(self.runs) == 1:
            raise ConfigError(f"run = {describe(run)}, but there is no second run: give patched= to attention()")
        if run != "difference":
            return self.runs[run == "patched"].values(at, head, kind)
        clean, patched = (one.values(at, head, kind) for one in self.runs)
        both = np.isnan(clean) & np.isnan(patched)
        return np.where(both, np.float32(np.nan), np.nan_to_num(patched) - np.nan_to_num(clean))

    @property
    def kinds(self) -> list[str]:
        """What can be drawn of its heads."""
        run = self.runs[0]
        there = (True, run.value_norms is not None, run.key_effects is not None)
        return [kind for kind, drawn in zip(KINDS, there, strict=True) if drawn]

    @property
    def shown_runs(self) -> list[str]:
        """The runs that it can be drawn of."""
        return ["clean", "patched", "difference"] if len(self.runs) == 2 else ["clean"]

    # ------------------------------------------------------------------ which heads count

    def shown(self, kind: str, run: str, sort: int, lock: tuple[int | None, int | None] = (None, None)) -> int:
        """Which head of all is shown large at first, where the caller names none.

        With a locked query or key (`lock`), the head that attends most between them. Else, the one that differs most,
        where the difference of two runs is shown; or adds most to the answer; or the best by the score that sorts; or
        one that shows something on this text: of the heads that reach half of the best by the first score, where there
        is one, the head that looks most beyond the first token and the query's own.
        """
        if lock != (None, None):
            return int(self._between(*lock).argmax())
        if run in ("difference", "side by side"):
            kind = kind if kind in self.kinds else "attention"
            changes = [self.values(*self.at(i), kind, "difference") for i in range(self.size)]
            return int(np.argmax([np.abs(np.nan_to_num(change)).sum() for change in changes]))
        if kind == "contribution" and self.answer is not None:
            return int(self.runs[0].last_contributions().argmax())
        if sort >= 0:
            return int(self.scores[sort].values.argmax())
        if not self.scores:
            return int(self.elsewhere.argmax())
        score = self.scores[0].values.ravel()
        return int(np.where(score >= score.max() / 2, self.elsewhere, -1).argmax()) if score.max() > 0 else 0

    def _between(self, query: int | None, key: int | None) -> Float[np.ndarray, " head"]:
        """What every head gives from the query to the key; the most from a query to one key; the most of a key."""
        queries, keys = (slice(None) if at is None else [at] for at in (query, key))
        found = np.nan_to_num(self.runs[0].pattern[:, :, queries][..., keys])
        if key is None and not self.cross:
            found[..., self.runs[0].ends[0]] *= query == self.runs[0].ends[0]  # nearly every head looks there
        if query is None and not self.cross:
            found[:, :, key] = 0  # and at itself
        return found.max(axis=(-2, -1)).ravel()

    def worth(self) -> Float[np.ndarray, " head"]:
        """How telling each head is: by its scores, or by what it attends to besides the first token and its own."""
        if self.scores:
            return np.max([np.abs(score.values) / score.unit for score in self.scores], axis=0).ravel()
        return self.elsewhere

    @cached_property
    def elsewhere(self) -> Float[np.ndarray, " head"]:
        """The most that a query gives to a single token besides the first and its own, on average, by head."""
        return np.concatenate([self._looks_elsewhere(layer) for layer in self.runs[0].pattern])  # of long texts, large

    def _looks_elsewhere(self, layer: Float[np.ndarray, "head query_pos key_pos"]) -> Float[np.ndarray, " head"]:
        others = np.nan_to_num(layer)
        if not self.cross:
            others[..., self.runs[0].ends[0]] = 0
            queries, keys = others.shape[-2:]
            others[..., np.eye(queries, keys, keys - queries, dtype=bool)] = 0
        return others.max(axis=-1).mean(axis=-1)

    # ------------------------------------------------------------------ pictures and words

    def map(self, thumb: int) -> UInt8[np.ndarray, "row column"]:
        """All heads as pixels."""
        sizes = [np.abs(score.values).ravel() / score.unit for score in self.scores]
        n_colors = len(still.SCORE_COLORS)
        shown = [[i % n_colors for i, size in enumerate(sizes) if size[head] >= BADGE] for head in range(self.size)]
        return still.map_pixels(self.runs[0].pattern, [*map(self.code, range(self.size))], shown, thumb)

    def headline(self) -> str:
        """Its size, in words."""
        layers, heads, n_queries, n_keys = self.runs[0].pattern.shape
        tokens = f"{n_queries} target and {counted(n_keys, 'source token')}" if self.cross else counted(n_keys, "token")
        return f"{counted(layers, 'layer')} x {counted(heads, 'head')} over {tokens}"

    def best(self) -> list[tuple[str, str]]:
        """The best heads by every score, or the largest of either sign; each line with the colour of its badge."""
        lines = []
        for score in self.scores:
            size = np.abs(score.values) if score.signed else score.values
            best = np.argsort(-size.ravel(), kind="stable")[:5].tolist()
            named = ", ".join(f"{self.label(i)} {score.worded(i)}" for i in best)
            lines.append((f"{printable(score.name)}: {named}", score.color))
        return lines

    def describe(self, shown: int, texts: list[ShownText]) -> dict[str, Any]:
        """What the page is told of it, without the data."""
        run = self.runs[0]
        return {
            "name": self.name,
            "label": self.title.split()[0],
            "cross": self.cross,
            "texts": [texts.index(self.queries), texts.index(self.keys)],
            "heads": self.n_heads,
            "layers": self.layers,
            "causal": run.causal,
            "padding": [run.padding, run.key_padding],
            "ends": list(run.ends),
            "scores": [
                {
                    "name": score.name,
                    "short": score.short,
                    "unit": round(score.unit, 6),
                    "signed": score.signed,
                    "color": score.color,
                    "values": [float(f"{value:.4g}") for value in score.values.ravel().tolist()],
                }
                for score in self.scores
            ],
            "head": shown,
            "names": {i: name for i in range(self.size) if (name := self.names.get(self.code(i)))},
            "norms": run.value_norms is not None,
            "answer": self.answer,
            "why": [
                "",
                "" if run.value_norms is not None else "the cache lacks hook_v of some layer; widen names_filter=",
                self.no_answer,
            ],
            "kept": None,
            "data": "",
        }
