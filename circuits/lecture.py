"""The lecture's table: the scores of the two-layer induction model, entry by entry, under each reading of the mask.

Lectures that build this model by hand (see `circuits.gallery.induction`) show the layer-2 logits of a text such as
`!abacb` as a table, `100 * [x_i = x_(j-1)]`: the *slide* in what follows. Which recorded lecture the slide was taken
from is not known, so it stands for itself: `slide_table` is its rule. Whether entry (0, 0) agrees depends on what layer
1 does at position 0, where there is nothing before to attend to. `READINGS` are five ways to read the mask that the
lecture describes; `check_readings` runs the model under each of them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from circuits.gallery import induction
from interp import HookedTransformer, HookPoint, Vocabulary
from interp.model import HookFn, HookName

Scores = Float[Tensor, "batch head query_pos key_pos"]
"""Scores before the softmax, or weights after it."""


@dataclass(frozen=True)
class MaskReading:
    """A way to turn scores into a pattern.

    Attributes:
        rule: what is masked, and how, in words.
        weigh: raw scores (nothing masked) to the pattern.
        difference: why the table differs from the slide's where it does; empty where it does not.
    """

    rule: str
    weigh: Callable[[Scores], Scores]
    difference: str = ""


def _until(scores: Scores, diagonal: int) -> Tensor:
    """True at keys up to the query (0) or strictly before it (-1)."""
    return torch.ones_like(scores, dtype=torch.bool).tril(diagonal)


def _causal(scores: Scores) -> Scores:
    return scores.masked_fill(~_until(scores, 0), float("-inf")).softmax(dim=-1)


def _strict(scores: Scores) -> Scores:
    before = _until(scores, -1)
    return scores.masked_fill(~before, float("-inf")).softmax(dim=-1).where(before, 0)


def _softmax_then_mask(scores: Scores) -> Scores:
    return scores.softmax(dim=-1) * _until(scores, -1)


def _row_sum(scores: Scores) -> Scores:
    kept = scores * _until(scores, -1)
    total = kept.sum(dim=-1, keepdim=True)
    return (kept / total).where(total != 0, 0)


def _zero_masked(scores: Scores) -> Scores:
    return (scores * _until(scores, 0)).softmax(dim=-1)


READINGS: dict[str, MaskReading] = {
    "causal": MaskReading(
        "keys i >= j, the others -inf, softmax (the slide's rule)",
        _causal,
        "Position 0 can only attend to itself (a_00 = 1), so its previous-token slot holds its own token, which the "
        "query at 0, like every query with that token, then matches. The slide's rule asks for this (i = j = 0), the "
        "slide's table denies it.",
    ),
    "strict": MaskReading("keys i > j, the others -inf, softmax; a row without keys is 0", _strict),
    "softmax_then_mask": MaskReading("softmax over all keys, then weights times [i > j]", _softmax_then_mask),
    "row_sum": MaskReading("scores times [i > j], divided by their sum; no softmax", _row_sum),
    "zero_masked": MaskReading(
        "keys i >= j, the others' scores set to 0, softmax",
        _zero_masked,
        "Position 0 sees only zeros and spreads evenly over the whole text, so its previous-token slot holds the "
        "average of all tokens, which every query matches a little.",
    ),
}
"""The readings by name; "causal" is what the model itself computes."""


def reading_hooks(reading: MaskReading) -> list[tuple[HookName, HookFn]]:
    """Hooks that replace the pattern of every head by what `reading` makes of its queries and keys."""
    seen: dict[str, Tensor] = {}

    def remember(activation: Tensor, hook: HookPoint) -> None:
        seen[hook.name.rsplit("_", 1)[1]] = activation

    def weigh_again(pattern: Tensor, hook: HookPoint) -> Tensor:
        return reading.weigh(raw_scores(seen["q"], seen["k"]))

    return [
        ("blocks.*.attn.hook_q", remember),
        ("blocks.*.attn.hook_k", remember),
        ("blocks.*.attn.hook_pattern", weigh_again),
    ]


def raw_scores(q: Float[Tensor, "batch pos head d_head"], k: Float[Tensor, "batch pos head d_head"]) -> Scores:
    """All dot products of queries and keys, unmasked and, as in this model, unscaled."""
    return einsum(q, k, "batch query_pos head d_head, batch key_pos head d_head -> batch head query_pos key_pos")


# ---------------------------------------------------------------------- the check


@dataclass(frozen=True)
class Prediction:
    """What the induction head writes at one position.

    Attributes:
        position: the query.
        token: the one token that makes up at least 99 % of the write; None where nothing is written, or a mixture.
        shares: each word's share of the write; empty where nothing is written.
        sources: the positions the shares were copied from.
        matched: whether a token up to here follows an occurrence of this one, so that there is something to predict.
    """

    position: int
    token: str | None
    shares: dict[str, float]
    sources: list[int]
    matched: bool


@dataclass(frozen=True, eq=False)
class ReadingCheck:
    """The model under one reading of the mask, held against the slide.

    Attributes:
        reading: its name in `READINGS`.
        table: layer-2 logits, unmasked.
        slide: layer-2 logits, as the slide has them.
        patterns: of the previous-token head and of the induction head.
        predictions: one a position.
    """

    reading: str
    table: Float[Tensor, "query_pos key_pos"]
    slide: Float[Tensor, "query_pos key_pos"]
    patterns: Float[Tensor, "layer query_pos key_pos"]
    predictions: list[Prediction]

    @property
    def differing(self) -> list[tuple[int, int]]:
        """Entries (query, key) that do not print as the slide's do, to one decimal."""
        return [(int(i), int(j)) for i, j in (~((self.table - self.slide).abs() < 0.05)).nonzero()]

    @property
    def matched(self) -> int:
        """The number of entries that agree."""
        return self.slide.numel() - len(self.differing)


def slide_table(tokens: Int[Tensor, "pos"], strength: float = 100.0) -> Float[Tensor, "query_pos key_pos"]:
    """`strength * [x_i = x_(j-1)]` for j >= 1, and 0 in column 0, where there is no previous token."""
    table = torch.zeros(len(tokens), len(tokens))
    table[:, 1:] = strength * (tokens[:, None] == tokens[None, :-1]).float()
    return table


def check_readings(
    text: str = induction.TEXT,
    vocabulary: str | Iterable[str] | Vocabulary = induction.WORDS,
    n_ctx: int | None = None,
    previous_sharpness: float = 100.0,
    induction_sharpness: float = 100.0,
) -> dict[str, ReadingCheck]:
    """Build the model and run `text` through it under every reading of the mask.

    Args:
        text: what the model reads; it should start with the word that starts texts.
        n_ctx: by default the length of the text.
        vocabulary, previous_sharpness, induction_sharpness: as for `induction_model`.

    Raises `TokenError` for an unknown word, an empty text, or one longer than `n_ctx`.
    """
    vocabulary = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary(vocabulary)
    tokens = vocabulary.to_tokens(text)
    n_ctx = max(1, tokens.shape[1]) if n_ctx is None else n_ctx
    model = induction.induction_model(vocabulary, n_ctx, previous_sharpness, induction_sharpness)
    slide = slide_table(tokens[0], induction_sharpness)
    return {name: _check(model, tokens, name, slide) for name in READINGS}


def _check(model: HookedTransformer, tokens: Int[Tensor, "1 pos"], name: str, slide: Tensor) -> ReadingCheck:
    with torch.no_grad(), model.hooks(fwd_hooks=reading_hooks(READINGS[name])):
        _, cache = model.run_with_cache(tokens)
        written = (cache["attn_out", 1] @ model.W_U)[0] / induction.GAIN
    patterns = torch.cat([cache["pattern", 0][0], cache["pattern", 1][0]])
    table = raw_scores(cache["q", 1], cache["k", 1])[0, 0]
    words = model.to_str_tokens(torch.arange(model.cfg.d_vocab))
    predictions = [_prediction(i, written[i], patterns[1, i], slide[i, : i + 1], words) for i in range(tokens.shape[1])]
    return ReadingCheck(name, table, slide, patterns, predictions)


def _prediction(
    position: int,
    written: Float[Tensor, "d_vocab"],
    attention: Float[Tensor, "key_pos"],
    matches: Float[Tensor, "seen"],
    words: Sequence[str],
) -> Prediction:
    total = float(written.sum())
    if total <= 1e-3:
        return Prediction(position, None, {}, [], bool((matches > 0).any()))
    shares = {words[i]: share for i, share in enumerate((written / total).tolist()) if share > 1e-3}
    sources = [j for j, share in enumerate((attention / total).tolist()) if share > 1e-3]
    top = max(shares, key=lambda word: shares[word])
    return Prediction(position, top if shares[top] >= 0.99 else None, shares, sources, bool((matches > 0).any()))
