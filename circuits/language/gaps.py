"""Gaps: how far apart the scores of a form lie, which is what a sink, a recency and a sharpness must respect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.language.forms import Form
from circuits.language.space import Holds

MANY = 20_000
"""The most different scores of a head among which the smallest gap is looked for."""

SAME = 1e-9
"""Scores that differ by less are the same one."""

TIED = 1e-6
"""Scores of keys that differ by less tie; a head whose scores may do so cannot tell them apart."""

Scores = Float[Tensor, "score"] | None
"""All scores that are possible, ascending; None where they are not known."""


@dataclass(frozen=True, eq=False)
class Possible:
    """The scores that a form can give.

    Attributes:
        values: all of them, ascending; None if they are too many, or not known.
        gap: their smallest difference. 1 if all are the same; None if it is not known.
        smallest: the smallest score above 0, where that is not the gap; None where it is, or is not known.
    """

    values: Scores = None
    gap: float | None = None
    smallest: float | None = None


def possible_scores(
    form: Form,
    holds: Mapping[str, Holds],
    n_ctx: int,
    keys: Mapping[str, Float[Tensor, "_labels"]] | None = None,
    of_keys: Mapping[str, Holds] | None = None,
) -> Possible:
    """The scores that `form` can give, to any key or to one that holds `keys` in these spaces.

    A space is assumed to hold one of its states, or nothing. A space of shares (`holds`, and `of_keys` where those that
    keys are matched in are another circuit's) holds a label to a share of k / m, with k and m up to `n_ctx`. Shares are
    known where a single term reads them, with one weight for all labels.
    """
    of_keys = holds if of_keys is None else of_keys
    sides = [(holds.get(term.rows.name), of_keys.get(term.columns.name)) for term in form.terms]
    if any("numbers" in pair for pair in sides):
        return Possible()
    if any("shares" in pair for pair in sides):
        return _of_shares(form, sides, n_ctx)
    blocks: dict[tuple[str, str], Tensor] = {}
    for term in form.terms:
        values = term.weighted
        if term.rows.states:
            values = torch.tensor(term.rows.states, dtype=torch.float64) @ values
        if keys is not None and term.columns.name in keys:
            values = values @ keys[term.columns.name][:, None]
        elif term.columns.states:
            values = values @ torch.tensor(term.columns.states, dtype=torch.float64).T
        place = term.rows.name, term.columns.name
        blocks[place] = blocks[place] + values if place in blocks else values
    sums = torch.zeros(1, dtype=torch.float64)
    for block in blocks.values():
        values = torch.cat([block.flatten(), torch.zeros(1, dtype=torch.float64)]).mul(1e9).round().unique() / 1e9
        if len(values) * len(sums) > MANY:
            return Possible()
        sums = (sums[:, None] + values).mul(1e9).round().unique() / 1e9
    if len(sums) < 2:
        return Possible(sums, 1.0 if form.terms else None)
    return Possible(sums, float(sums.diff().min()))


def _of_shares(form: Form, sides: Sequence[tuple[str | None, str | None]], n_ctx: int) -> Possible:
    """Two shares k / m and l / n differ by 1 / (n_ctx (n_ctx - 1)) at least, and a share is at least 1 / n_ctx.

    `sides` is what the query's and the key's space of each term hold.
    """
    own = [term for term in form.terms if term.name != "sink"]
    if ("shares", "shares") in sides:
        return Possible()  # products of shares lie closer
    weights = torch.cat([term.weighted.flatten() for term in own]).abs().unique()
    weights = weights[weights > 0]
    if len(own) != 1 or len(weights) != 1:
        return Possible()
    weight = float(weights[0])
    with_sink = weight / (2 * n_ctx) if len(own) < len(form.terms) else weight
    return Possible(None, min(weight / max(n_ctx * (n_ctx - 1), 1), with_sink), weight / n_ctx)


def margin_of_sink(scores: Float[Tensor, "score"], sink: float, preference: float, n_ctx: int) -> float:
    """By how much a sink keeps away from the scores that a recency moves; not above 0 where it lies in their reach.

    The latest of n keys gains `preference (n - 1) / n` (or loses it, where the first is preferred), and the sink, as
    the first key of all, nothing. A score below the sink must stay below it, a score above it above. Where both are
    the same, recency decides, as between any two keys.
    """
    reach = preference * (n_ctx - 1) / n_ctx
    below, above = scores[scores < sink - SAME], scores[scores > sink + SAME]
    margins = [sink - float(below.max()) - max(reach, 0.0)] if len(below) else []
    margins += [float(above.min()) - sink + min(reach, 0.0)] if len(above) else []
    return min(margins, default=float("inf"))
