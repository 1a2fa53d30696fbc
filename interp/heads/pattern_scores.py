"""Scores of attention patterns: which entries a kind of head should attend to, and how much it does.

A score belongs to a way of attending. Where queries see earlier keys alone (`PATTERN_SCORES`), a head can find what
followed an earlier occurrence, which is induction. Where they see both ways (`BIDIRECTIONAL_SCORES`), every query also
sees its own successor and the last token, and there is no "before" that induction could go by. Where they see another
text (`CROSS_SCORES`), there is no own position, and tokens are told apart by their places alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ShapeError, TokenError, check_choice
from interp.precision import at_least_float32, without_autocast

PADDING = -1
"""In place of a token id: not a token, neither attends nor is attended to."""

Average = Literal["queries", "entries"]
"""What `attention_on` averages over."""

Direction = Literal["causal", "bidirectional"]
"""What a query sees of its own text: itself and what comes before, or all of it."""


# ---------------------------------------------------------------------- where a head should attend


def is_previous(tokens: Int[Tensor, "*batch pos"]) -> Bool[Tensor, "*batch query_pos key_pos"]:
    """Where `key == query - 1`."""
    return _among_tokens(_diagonal(tokens, -1), tokens)


def is_next(tokens: Int[Tensor, "*batch pos"]) -> Bool[Tensor, "*batch query_pos key_pos"]:
    """Where `key == query + 1`.

    >>> is_next(torch.tensor([7, 8, 9])).int()
    tensor([[0, 1, 0],
            [0, 0, 1],
            [0, 0, 0]], dtype=torch.int32)
    """
    return _among_tokens(_diagonal(tokens, 1), tokens)


def is_self(tokens: Int[Tensor, "*batch pos"]) -> Bool[Tensor, "*batch query_pos key_pos"]:
    """Where `key == query`."""
    return _among_tokens(_diagonal(tokens, 0), tokens)


def is_duplicate(
    tokens: Int[Tensor, "*batch pos"], attention_dir: Direction = "causal"
) -> Bool[Tensor, "*batch query_pos key_pos"]:
    """Where `tokens[key] == tokens[query]` with `key < query`; in a bidirectional model, with `key != query`."""
    check_choice("attention_dir", attention_dir, get_args(Direction))
    same = tokens[..., :, None] == tokens[..., None, :]
    return _among_tokens(same.tril(-1) if attention_dir == "causal" else same & ~_diagonal(tokens, 0), tokens)


def follows_earlier_occurrence(tokens: Int[Tensor, "*batch pos"]) -> Bool[Tensor, "*batch query_pos key_pos"]:
    """Where `tokens[key - 1] == tokens[query]` with `1 <= key <= query`: the stripes of an induction head.

    >>> follows_earlier_occurrence(torch.tensor([7, 8, 7]))[2]  # the second 7 finds the 8 behind the first
    tensor([False,  True, False])
    """
    before = tokens.roll(1, dims=-1)
    before[..., 0] = PADDING
    return _among_tokens((tokens[..., :, None] == before[..., None, :]).tril(), tokens)


def is_first(tokens: Int[Tensor, "*batch pos"]) -> Bool[Tensor, "*batch query_pos key_pos"]:
    """Where `key` is the first token, for every later query (the first itself has no choice in a causal model)."""
    first = _place(tokens) == 0
    return _among_tokens(first[..., None, :] & ~first[..., :, None], tokens)


def is_last(tokens: Int[Tensor, "*batch pos"]) -> Bool[Tensor, "*batch query_pos key_pos"]:
    """Where `key` is the last token, for every earlier query (in a causal model none of them can look there).

    >>> is_last(torch.tensor([7, 8, 9])).int()
    tensor([[0, 0, 1],
            [0, 0, 1],
            [0, 0, 0]], dtype=torch.int32)
    """
    last = _place(tokens.flip(-1)).flip(-1) == 0
    return _among_tokens(last[..., None, :] & ~last[..., :, None], tokens)


def is_same_place(
    queries: Int[Tensor, "*batch query_pos"], keys: Int[Tensor, "*batch source_pos"]
) -> Bool[Tensor, "*batch query_pos source_pos"]:
    """Where the i-th token of the target meets the i-th token of the source, padding not counted."""
    return _among_tokens(_place(queries)[..., :, None] == _place(keys)[..., None, :], queries, keys)


def is_first_of_source(
    queries: Int[Tensor, "*batch query_pos"], keys: Int[Tensor, "*batch source_pos"]
) -> Bool[Tensor, "*batch query_pos source_pos"]:
    """Where `key` is the first token of the source."""
    return _among_tokens((_place(keys) == 0)[..., None, :], queries, keys)


def is_last_of_source(
    queries: Int[Tensor, "*batch query_pos"], keys: Int[Tensor, "*batch source_pos"]
) -> Bool[Tensor, "*batch query_pos source_pos"]:
    """Where `key` is the last token of the source."""
    return _among_tokens((_place(keys.flip(-1)).flip(-1) == 0)[..., None, :], queries, keys)


def _diagonal(tokens: Tensor, offset: int) -> Bool[Tensor, "query_pos key_pos"]:
    """Where `key == query + offset`."""
    i = torch.arange(tokens.shape[-1], device=tokens.device)
    return i == i[:, None] + offset


def _place(tokens: Tensor) -> Int[Tensor, "*batch pos"]:
    """How many tokens come before each token; -1 for padding."""
    real = tokens >= 0
    return (real.cumsum(dim=-1) - 1).masked_fill(~real, -1)


def _among_tokens(marks: Tensor, queries: Tensor, keys: Tensor | None = None) -> Tensor:
    """The marks where neither side is padding; without `keys` both sides are one text."""
    keys = queries if keys is None else keys
    return marks & (queries >= 0)[..., :, None] & (keys >= 0)[..., None, :]


# ---------------------------------------------------------------------- how much it does


@without_autocast()
def attention_on(
    pattern: Float[Tensor, "*heads query_pos key_pos"],
    marks: Bool[Tensor, "*batch query_pos key_pos"],
    average: Average = "queries",
) -> Float[Tensor, "*heads"]:
    """Mean attention to the marked entries of a pattern; NaN where nothing is marked.

    Args:
        pattern: with any leading axes; where the marks have a batch axis, the first of them is the same batch.
        marks: [query_pos, key_pos], or [batch, query_pos, key_pos].
        average: "queries" sums over the marked keys of each query, and averages over the queries that have any: 1 for
            a head that attends to nothing else there. "entries" averages the marked entries, so that a head whose
            attention is shared among n marked keys of a query scores 1 / n.

    Raises `ShapeError` where the two do not fit.
    """
    batch = marks.shape[:-2]
    if pattern.shape[-2:] != marks.shape[-2:] or pattern.shape[: len(batch)] != batch or len(batch) > 1:
        raise ShapeError(f"a pattern of shape {tuple(pattern.shape)} does not fit marks of {tuple(marks.shape)}")
    check_choice("average", average, get_args(Average))
    pattern = at_least_float32(pattern)
    axes = "b...qk,bqk->b..." if batch else "...qk,qk->..."
    total = torch.einsum(axes, pattern, marks.to(pattern.dtype))
    count = (marks.any(dim=-1) if average == "queries" else marks.flatten(-2)).sum(dim=-1)
    return total / count.reshape((*batch, *[1] * (total.ndim - len(batch))))


def previous_token_score(pattern: Float[Tensor, "*heads query_pos key_pos"]) -> Float[Tensor, "*heads"]:
    """Mean attention to the position before: the mean of `A[i, i - 1]` over `i >= 1`; 1 for a perfect head.

    Raises `ShapeError` for a pattern that is not square or has a single position.
    """
    if pattern.shape[-1] != pattern.shape[-2] or pattern.shape[-1] < 2:
        raise ShapeError(f"a square pattern of at least two positions is needed, not {tuple(pattern.shape)}")
    return attention_on(pattern, is_previous(torch.arange(pattern.shape[-1], device=pattern.device)))


def induction_score(
    pattern: Float[Tensor, "*heads query_pos key_pos"],
    tokens: Int[Tensor, "*batch pos"],
    average: Average = "queries",
) -> Float[Tensor, "*heads"]:
    """Prefix matching: mean attention to the tokens that followed earlier occurrences of the query's own token.

    Summed over the earlier occurrences of a query, averaged over the queries that have one; 1 for a perfect head
    however many occurrences share its attention. Olsson et al. 2022, who define prefix matching, average the single
    entries of the pattern instead: `average="entries"`. Repeats at one fixed distance also reward heads that copy from
    that distance whatever the token: score on repeats of varied distances (`interp.text`). Where a token follows
    itself, its own position counts.

    Args:
        pattern: of one sequence, with any leading axes; or [batch, head, query_pos, key_pos].
        tokens: [pos], or [batch, pos]; a sequence of the batch without a repeated token scores NaN.
        average: see `attention_on`.

    Raises:
        ShapeError: the pattern does not fit the tokens.
        TokenError: no token occurs twice, so that nothing can be scored.
    """
    n = tokens.shape[-1]
    if pattern.shape[-2:] != (n, n) or pattern.shape[: tokens.ndim - 1] != tokens.shape[:-1]:
        raise ShapeError(f"a pattern of shape {tuple(pattern.shape)} does not fit {n} tokens, {tuple(tokens.shape)}")
    follows = follows_earlier_occurrence(tokens)
    if not follows.any():
        raise TokenError("no token occurs twice, so no query has an earlier occurrence to attend to")
    return attention_on(pattern, follows, average)


@dataclass(frozen=True)
class PatternScore:
    """A score that is the mean attention to marked entries of the pattern.

    Attributes:
        marks: from tokens [batch, pos] to marks [batch, query_pos, key_pos]; in cross-attention from the target's and
            the source's.
        definition: in words.
        average: see `attention_on`.
        needs: what a prompt must have to be scored.

    >>> PATTERN_SCORES["induction"].definition
    "prefix matching: attention to what followed earlier occurrences of the query's token, ..."
    >>> "induction" in BIDIRECTIONAL_SCORES, "diagonal" in CROSS_SCORES
    (False, True)
    """

    marks: Callable[..., Tensor]
    definition: str
    average: Average = "queries"
    needs: str = "two tokens"


PREVIOUS = PatternScore(is_previous, "mean attention to the position before")

PATTERN_SCORES: dict[str, PatternScore] = {
    "previous_token": PREVIOUS,
    "duplicate_token": PatternScore(
        is_duplicate,
        "attention to earlier occurrences of the query's token, summed over them, mean over queries that have any",
        needs="a token that occurs twice",
    ),
    "induction": PatternScore(
        follows_earlier_occurrence,
        "prefix matching: attention to what followed earlier occurrences of the query's token, summed over them, mean "
        "over queries that have any",
        needs="a token that occurs twice",
    ),
    "induction_entry_mean": PatternScore(
        follows_earlier_occurrence,
        "prefix matching: mean of the single pattern entries that lie on what followed earlier occurrences",
        average="entries",
        needs="a token that occurs twice",
    ),
    "first_token": PatternScore(is_first, "mean attention of later positions to the first token"),
}
"""Of causal self-attention."""

BIDIRECTIONAL_SCORES: dict[str, PatternScore] = {
    "previous_token": PREVIOUS,
    "next_token": PatternScore(is_next, "mean attention to the position after"),
    "own_token": PatternScore(is_self, "mean attention to the query's own position", needs="a token"),
    "duplicate_token": PatternScore(
        partial(is_duplicate, attention_dir="bidirectional"),
        "attention to other occurrences of the query's token, summed over them, mean over queries that have any",
        needs="a token that occurs twice",
    ),
    "first_token": PatternScore(is_first, "mean attention of later positions to the first token, such as [CLS]"),
    "last_token": PatternScore(is_last, "mean attention of earlier positions to the last token, such as [SEP]"),
}
"""Of self-attention that looks both ways. Induction goes by what came before, and is not defined there."""

CROSS_SCORES: dict[str, PatternScore] = {
    "diagonal": PatternScore(
        is_same_place,
        "mean attention of the target's i-th position to the source's i-th token",
        needs="a token in source and target",
    ),
    "first_token": PatternScore(
        is_first_of_source, "mean attention to the source's first token", needs="a token in source and target"
    ),
    "last_token": PatternScore(
        is_last_of_source, "mean attention to the source's last token", needs="a token in source and target"
    ),
}
"""Of cross-attention."""
