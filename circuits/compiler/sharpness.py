"""How sharp a softmax must be, so that it does what hard attention does up to a given error."""

import math
import warnings
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.compiler.encoding import Encoding, by_position
from circuits.compiler.factors import keys_of
from circuits.language import Head, Term, attend, visible_keys
from interp.errors import ConfigError

COARSE = 1e4 * torch.finfo(torch.float32).eps
"""Scores that a dtype resolves to steps above this are worth a trial and a warning: rounding begins to show in the
pattern (1e-3). In float32 these are scores above 1e4."""


def choose_sharpness(
    head: Head, encoding: Encoding, direction: str, error: float, source: Encoding | None = None
) -> tuple[float, float]:
    """The factor on a head's scores, and the largest score that comes of it.

    `source` is the encoding of what cross heads read. The factor is the declared one, or the smallest that leaves
    `error` of the attention to other keys. Scores that depend on positions alone are computed, and the factor is exact.
    For other scores the factor follows from their smallest gap. Raises `ConfigError`, naming the head, if its gap is
    unknown, or if its position code prefers another key than the declared one.
    """
    terms, keys = encoding.terms(head), keys_of(head, encoding, source)
    if not terms:
        return 1.0, 0.0
    if head.attend == "soft":
        sharp = head.sharp or 1.0
        return sharp, sharp * sum(float(term.weighted.abs().max()) for term in terms)
    if not by_position(head):
        if head.sharp is None and head.gap is None:
            raise ConfigError(f"head {head.name!r}: the gap between its scores is not known; declare gap= or sharp=")
        sharp = head.sharp or sharpness_for_gap(head.gap or 1.0, keys.n_ctx, error)
        return sharp, sharp * sum(float(term.weighted.abs().max()) for term in terms)
    declared = _by_position(head.qk.terms, encoding, keys, declared=True)
    scores = _by_position(terms, encoding, keys, declared=False)
    needed: list[float | None] = []
    for visible in _visible_keys(head, encoding.n_ctx, keys.n_ctx, direction):
        seen = slice(visible.shape[0]), slice(visible.shape[1])
        target = attend(declared[seen], visible, head.ties) > 0
        needed.append(sharpness_for_scores(scores[seen], target, visible, error))
    sharp = None if None in needed else max(one for one in needed if one is not None)
    if sharp is None:
        raise ConfigError(
            f"head {head.name!r}: in the position code {encoding.code.name!r} its best key is not the declared one "
            "for every query"
        )
    sharp = head.sharp or sharp
    return sharp, sharp * float(scores.abs().max())


def _visible_keys(
    head: Head, n_queries: int, n_keys: int, direction: str
) -> Iterator[Bool[Tensor, "_query_pos _key_pos"]]:
    """Which keys queries may attend to, in texts of every length that matters.

    A causal text's beginning is as every shorter text; where keys may come later, those that are not there matter.
    """
    if head.cross:
        yield from (torch.ones(n_queries, n, dtype=torch.bool) for n in range(1, n_keys + 1))
    else:
        yield from (visible_keys(direction, n) for n in range(n_keys if direction == "causal" else 1, n_keys + 1))


def _by_position(
    terms: Iterable[Term], encoding: Encoding, keys: Encoding, declared: bool
) -> Float[Tensor, "query_pos key_pos"]:
    """The scores of positions: as they are declared, or as their code has them."""
    scores = torch.zeros(encoding.n_ctx, keys.n_ctx, dtype=torch.float64)
    for term in terms:
        if term.name == "sink":
            scores[:, 0] += term.weight
        elif keys is encoding and encoding.own_shift(term) and not declared:
            scores += term.weight * encoding.code.scores(term.shift or 0, encoding.n_ctx)
        else:
            scores += term.weighted
    return scores


def check_resolution(name: str, largest: float, dtype: torch.dtype) -> None:
    """Raise `ConfigError` for scores of a size that `dtype` resolves to steps above 1."""
    step = largest * torch.finfo(dtype).eps
    if not step <= 1:
        raise ConfigError(
            f"head {name!r}: scores reach {largest:.3g}, where {dtype} resolves steps of {step:.2g} only; use "
            "dtype=torch.float64, a position code with smaller scores, or a lower sharp="
        )


def warn_of_rounding(name: str, largest: float, dtype: torch.dtype) -> None:
    """Say that scores of this size are resolved to coarse steps, though no prediction changed in the trial."""
    if (step := largest * torch.finfo(dtype).eps) > COARSE:
        warnings.warn(
            f"head {name!r}: scores reach {largest:.3g} in {dtype}; weights of its pattern are exact to {step:.1g}",
            stacklevel=5,
        )


def sharpness_for_gap(gap: float, n_keys: int, error: float) -> float:
    """`ln((n - 1) (1 - error) / error) / gap`: n - 1 keys that score `gap` less get `error` of the attention."""
    return math.log(max(n_keys - 1, 1) * (1 - error) / error) / gap


def sharpness_for_scores(
    scores: Float[Tensor, "query_pos key_pos"],
    target: Bool[Tensor, "query_pos key_pos"],
    visible: Bool[Tensor, "query_pos key_pos"],
    error: float,
) -> float | None:
    """The factor at which every query gives all but `error` to its targets, which score the same.

    None where a key that is not a target scores as much as one that is: no factor does it.
    """
    best = scores.masked_fill(~target, -torch.inf).amax(-1, keepdim=True)
    worst = scores.masked_fill(~target, torch.inf).amin(-1, keepdim=True)
    others = (scores - best).masked_fill(~visible | target, -torch.inf)  # [query_pos, key_pos], negative
    if bool((others >= -1e-9).any()) or bool((best - worst).abs().max() > 1e-6 * scores.abs().max().clamp(min=1)):
        return None
    wanted = math.log(error / (1 - error)) + target.sum(-1).double().log()
    sharp = 1e-3
    while True:  # solve for the query that lacks most, until none lacks anything
        excess = torch.logsumexp(others * sharp, -1) - wanted
        if not bool((excess > 1e-9).any()):
            return sharp
        row = int(excess.argmax())
        sharp = _solve(others[row], float(wanted[row]))


def _solve(others: Float[Tensor, "key_pos"], wanted: float) -> float:
    """The x with `logsumexp(x * others) = wanted`, for negative `others`."""
    lowest, highest = 0.0, 1.0
    while float(torch.logsumexp(others * highest, -1)) > wanted:
        highest *= 2
    for _ in range(60):
        middle = (lowest + highest) / 2
        enough = float(torch.logsumexp(others * middle, -1)) <= wanted
        lowest, highest = (lowest, middle) if enough else (middle, highest)
    return highest
