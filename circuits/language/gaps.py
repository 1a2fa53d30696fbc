"""Gaps: how far apart the scores of a form lie, which is what a sink, a recency and a sharpness must respect."""

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.language.forms import Form

MANY = 20_000
"""The most different scores of a head among which the smallest gap is looked for."""


def possible_scores(form: Form) -> Float[Tensor, "score"] | None:
    """All scores that `form` can give, ascending; None if there are more than `MANY` combinations to look at.

    Each space is assumed to hold one of its states, or nothing.
    """
    blocks: dict[tuple[str, str], Tensor] = {}
    for term in form.terms:
        values = term.weighted
        if term.rows.states:
            values = torch.tensor(term.rows.states, dtype=torch.float64) @ values
        if term.columns.states:
            values = values @ torch.tensor(term.columns.states, dtype=torch.float64).T
        place = term.rows.name, term.columns.name
        blocks[place] = blocks[place] + values if place in blocks else values
    sums = torch.zeros(1, dtype=torch.float64)
    for block in blocks.values():
        values = torch.cat([block.flatten(), torch.zeros(1, dtype=torch.float64)]).mul(1e9).round().unique() / 1e9
        if len(values) * len(sums) > MANY:
            return None
        sums = (sums[:, None] + values).mul(1e9).round().unique() / 1e9
    return sums


def smallest_gap(scores: Float[Tensor, "score"] | None) -> float | None:
    """The smallest difference between two scores; None if they are not known, or there is only one."""
    return None if scores is None or len(scores) < 2 else float(scores.diff().min())


def margin_of_sink(scores: Float[Tensor, "score"], sink: float, preference: float, n_ctx: int) -> float:
    """By how much a sink keeps away from the scores that a recency moves; not above 0 where it lies in their reach.

    The latest of n keys gains `preference (n - 1) / n` (or loses it, where the first is preferred), and the sink, as
    the first key of all, nothing. A score below the sink must stay below it, a score above it above.
    """
    reach = preference * (n_ctx - 1) / n_ctx
    below, above = scores[scores < sink], scores[scores >= sink]
    margins = [sink - float(below.max()) - max(reach, 0.0)] if len(below) else []
    margins += [float(above.min()) - sink + min(reach, 0.0)] if len(above) else []
    return min(margins, default=float("inf"))
