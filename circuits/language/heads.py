"""Heads: where the sink lies, how much recency prefers, and how far apart the scores are."""

from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.language.forms import Form, Term, match
from circuits.language.gaps import SAME, TIED, Possible, margin_of_sink, possible_scores
from circuits.language.parts import UNSETTLED, Head, Ties
from circuits.language.space import Label, Number, is_finite
from circuits.language.stream import Stream
from interp.errors import ConfigError, check_choice, describe

RECENCY = 0.4
"""The recency weight, as a share of the gap between a match and none: it must stay below half of it."""


def soft_head(
    c: Stream, keys: Stream, name: str, qk: Form, ov: Form, sink: Number | None, sharp: Number | None, **chooses: object
) -> Head:
    """A head that weighs its keys by the softmax of its scores.

    `keys` is where its keys are: the circuit `c` itself, or its source. `chooses` are the options of heads that choose,
    which it refuses unless they are as if not given.
    """
    where = f"head {name!r}"
    for option, value in chooses.items():
        if value is not None and value != "mean":
            raise ConfigError(f"{where}: {option} = {describe(value)} contradicts attend = 'soft', which weighs all")
    weight = _checked_sink(keys, where, 0.0 if sink is None else sink)
    if weight:
        qk, ov = qk + _sink(c, keys, weight), dropping(where, ov, {"tok": keys.bos or "", "pos": 0})
    factor = 1.0 if sharp is None else float(sharp)
    return Head(name, UNSETTLED, qk, ov, sharp=factor, sink=weight, attend="soft", cross=keys is not c)


def hard_head(
    c: Stream,
    keys: Stream,
    name: str,
    qk: Form,
    ov: Form,
    sink: Number | None,
    ties: Ties,
    recency: Number | None,
    sharp: Number | None,
    gap: Number | None,
) -> Head:
    """A head that chooses the best of its keys, which are those of the circuit itself or of its source.

    See `Builder.head`.
    """
    where = f"head {name!r}"
    check_choice(f"{where}: ties", ties, get_args(Ties))
    gap = None if gap is None else float(gap)

    def possible(form: Form, start: Mapping[str, Float[Tensor, "_labels"]] | None = None) -> Possible:
        return possible_scores(form, c.holds, c.most_keys, start, keys.holds)

    scores = possible(qk)
    known = gap or scores.gap
    if ties != "mean" and qk.terms and known is None:
        raise ConfigError(f"{where}: the gap between its scores, below which recency must stay, is not known: they are "
                          "too many, or of shares; declare gap=")  # fmt: skip
    preference = _recency(where, ties, recency, known)
    of_sink = gap  # by how much it differs from other scores, where the gap is the author's word
    if sink is None:
        smallest = scores.smallest or known
        sink = _default_sink(where, ties, preference, smallest) if keys.bos and qk.terms else 0.0
        of_sink = gap and ((smallest or gap) - preference) / 2
    weight, margin = _checked_sink(keys, where, sink), float("inf")
    if weight:
        if ties != "mean" and scores.values is not None:
            of_start = possible(qk, _start(keys)).values
            pull = -preference if ties == "first" else preference
            margin = _margin_of_sink(where, scores.values, weight, of_start, pull, keys.n_ctx)
        qk, ov = qk + _sink(c, keys, weight), dropping(where, ov, {"tok": keys.bos or "", "pos": 0})
        known = min(gap, of_sink) if gap and of_sink else possible(qk).gap
    if known is not None and qk.terms and known <= 2 * TIED:
        raise ConfigError(f"{where}: its scores may differ by {known:.3g} only, and must by more than {2 * TIED:g}; "
                          "scale the form, or move the sink")  # fmt: skip
    prefers = Form()
    if ties != "mean":
        prefers = _prefers_later(c, keys, -preference if ties == "first" else preference)
        if keys.n_ctx > 1:
            known = min(preference / keys.n_ctx, known or float("inf"), float("inf") if gap else margin)
    factor = None if sharp is None else float(sharp)
    trusted, cross = gap is not None, keys is not c
    return Head(name, UNSETTLED, qk, ov, ties, prefers, known, factor, weight, trusted=trusted, cross=cross)


def _default_sink(where: str, ties: Ties, preference: float, smallest: float | None) -> float:
    """Between no match and the smallest one, as far from both as recency lets it be."""
    if smallest is None:
        raise ConfigError(f"{where}: its scores are too many to find their smallest gap, where the sink would lie; "
                          "declare gap= or sink=")  # fmt: skip
    best, worst = smallest - (preference if ties == "first" else 0), preference if ties == "latest" else 0
    return (best + worst) / 2


def _checked_sink(keys: Stream, where: str, sink: Number) -> float:
    if not is_finite(sink) or sink < 0:
        raise ConfigError(f"{where}: sink = {describe(sink)}; allowed: a finite number from 0 on")
    if sink and keys.bos is None:
        raise ConfigError(f"{where}: sink = {sink} needs the start of the text; give the circuit bos=")
    return float(sink)


def _recency(where: str, ties: Ties, given: Number | None, gap: float | None) -> float:
    if ties == "mean":
        if given is not None:
            raise ConfigError(f"{where}: recency = {given} contradicts ties = 'mean'")
        return 0.0
    if given is None and gap is None:
        return 1.0  # nothing is matched, so that the latest key is all there is to prefer
    recency = RECENCY * (gap or 0) if given is None else given
    if not is_finite(recency) or recency <= 0 or (gap is not None and recency >= gap / 2):
        below = f"below half the gap between scores, {(gap or 0) / 2:g}"
        raise ConfigError(f"{where}: recency = {describe(recency)}; allowed: above 0, and {below}")
    return float(recency)


def _margin_of_sink(
    where: str,
    scores: Float[Tensor, "score"],
    sink: float,
    of_start: Float[Tensor, "own_score"] | None,
    pull: float,
    n_ctx: int,
) -> float:
    """By how much the sink keeps away from scores that recency moves; below 0 recency prefers the first key.

    The start may match by itself, and then scores the more (`of_start`). Raises `ConfigError` if it is too near.
    """
    own = scores if of_start is None else of_start
    margins = torch.tensor([margin_of_sink(scores, sink + float(score), pull, n_ctx) for score in own])
    margin, start = float(margins.min()), float(own[margins.argmin()])
    if margin > 1e-9:
        return margin
    reach = pull * (n_ctx - 1) / n_ctx
    weight, side = sink + start, "above" if pull < 0 else "below"
    of_that_side = scores[scores > weight + SAME] if pull < 0 else scores[scores < weight - SAME]
    nearest = float(of_that_side.min() if pull < 0 else of_that_side.max())
    by_itself = f", with the {start:g} that the start scores by itself," if start else ""
    raise ConfigError(
        f"{where}: sink = {sink:g}{by_itself} is within reach of recency: a key that scores {nearest:g}, {side} the "
        f"sink, gets {nearest + reach:g} by its place; allowed: a sink farther from it, or a recency below "
        f"{abs(weight - nearest) * n_ctx / max(n_ctx - 1, 1):g}"
    )


def _start(c: Stream) -> dict[str, Float[Tensor, "_labels"]]:
    """What the start of a text surely holds, as a key."""
    first = {c.pos.name: c.pos.labels[0], c.one.name: c.one.labels[0]}
    if c.out is not c.tok:  # else predictions may lie there as well
        first[c.tok.name] = c.bos or ""
    return {name: torch.eye(len(c.spaces[name]), dtype=torch.float64)[c.spaces[name].index(label)]
            for name, label in first.items()}  # fmt: skip


def _sink(c: Stream, keys: Stream, weight: float) -> Form:
    (term,) = match(c.one, keys.tok, {"1": keys.bos or ""}).terms
    return Form((Term("sink", term.rows, term.columns, term.matrix, weight),))


def _prefers_later(c: Stream, keys: Stream, weight: float) -> Form:
    ramp = torch.arange(keys.n_ctx, dtype=torch.float64)[None] / keys.n_ctx
    return Form((Term("recency", c.one, keys.pos, ramp, weight),))


def dropping(where: str, form: Form, bos_places: Mapping[str, Label]) -> Form:
    """A form that copies nothing from the start of the text, for a head with a sink. Terms with `drop=` stay.

    Raises `ConfigError`, whose message begins with `where`, for a term that copies nothing else.
    """

    def kept(term: Term) -> Term:
        place = bos_places.get(term.rows.name)
        if place is None or not term.drops_bos:
            return term
        left = term.without(place)
        if term.matrix.any() and not left.matrix.any():
            raise ConfigError(
                f"{where}: {term.name} copies nothing but {place!r}, the start of the text, which a head with a sink "
                "drops; say copy(..., drop=()) to copy it"
            )
        return left

    return Form(tuple(map(kept, form.terms)))


def but_the_start(c: Stream, where: str, form: Form) -> Form:
    """A form by which the start of the text, as a key, scores nothing. It is known by its word and its position.

    Raises `ConfigError`, whose message begins with `where`, if it scores by another space that the embedding writes.
    """
    first, start = {c.tok.name: c.bos, c.pos.name: 0}, c.vocabulary.to_single_token(c.bos or "")
    terms: list[Term] = []
    for term in form.terms:
        key = term.columns
        if key.name in first:
            matrix = term.matrix.clone()
            matrix[:, key.index(first[key.name])] = 0
            same = torch.equal(matrix, term.matrix)
            terms.append(term if same else replace(term, matrix=matrix, shift=None))
            continue
        written = c.embeddings.get(key.name) if key is not c.one else None
        if written is not None and bool((term.matrix @ written[start]).any()):
            raise ConfigError(f"{where}: {term.name} also matches the start, {c.bos!r}, which does not count; "
                              f"leave it out of {key.name!r}")  # fmt: skip
        terms.append(term)
    return Form(tuple(terms))
