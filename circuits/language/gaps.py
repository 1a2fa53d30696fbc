"""Gaps: how far apart the scores of a form lie, which is what a sink, a recency and a sharpness must respect."""

import torch
from torch import Tensor

from circuits.language.forms import Form

MANY = 20_000
"""The most different scores of a head among which the smallest gap is looked for."""


def smallest_gap(form: Form) -> float | None:
    """The smallest difference between two scores that `form` can give.

    Each space is assumed to hold one of its states, or nothing. Returns None if there are more than `MANY` scores to
    compare, or only one.
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
    return None if len(sums) < 2 else float(sums.diff().min())
