"""How sharp a softmax must be, so that it does what hard attention does up to a given error."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.forms import Form

MANY = 20_000


def smallest_gap(form: Form) -> float | None:
    """The smallest difference between two scores that `form` can give, or None where there are too many, or only one.

    Every space is taken to hold one of its states, or nothing.
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
    lowest, highest = 0.0, 1.0
    while bool((torch.logsumexp(others * highest, -1) > wanted).any()):
        highest *= 2
    for _ in range(60):
        middle = (lowest + highest) / 2
        enough = bool((torch.logsumexp(others * middle, -1) <= wanted).all())
        lowest, highest = (lowest, middle) if enough else (middle, highest)
    return highest
