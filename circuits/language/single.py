"""Single: whether a head that spreads over equally good keys copies the same label from all of them."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.language.forms import Term
from circuits.language.layout import time_of
from circuits.language.parts import Head
from circuits.language.space import Space

if TYPE_CHECKING:
    from circuits.language.holdings import Holdings

MANY = 4_500_000
"""The most pairs of a query and a key that are looked at; n_ctx 2,000 has 4 million."""

LEVEL = 1e9
"""Scores are compared in units of 1 / LEVEL."""


def copies_one_label(head: Head, term: Term, holdings: "Holdings") -> bool:
    """Whether a term of the OV circuit copies one label at most, whichever keys are best.

    All pairs of what a query and a key can hold are looked at. Keys with the same score may be best together, if no key
    that is surely there scores more. They do no harm if they are one position, or if the same is copied from all of
    them. Without a proof the answer is no.
    """
    terms, (of_keys, time) = [one for one in head.qk.terms if one.name != "sink"], holdings.of_keys(head)
    queries = _States([one.rows for one in terms], holdings, time_of(head))
    keys = _States([one.columns for one in terms], of_keys, time)
    pos = of_keys.declaration.pos
    if not terms or not queries.known or not keys.known or queries.n * keys.n > MANY:
        return False
    if pos not in keys.spaces and term.rows not in keys.spaces:
        return False  # nothing of a key is known but what is matched
    scores = torch.zeros(queries.n, keys.n, dtype=torch.float64)
    for one in terms:
        scores += queries.held(one.rows) @ one.weighted @ keys.held(one.columns).T
    levels = (scores * LEVEL).round().long()
    of_query, of_key = None if head.cross else queries.labels(pos), keys.labels(pos)
    copied = None
    if term.rows in keys.spaces:
        copied = (keys.held(term.rows) @ term.weighted).mul(LEVEL).round().unique(dim=0, return_inverse=True)[1]
    seen = torch.ones_like(levels, dtype=torch.bool)
    if of_query is not None and of_key is not None and holdings.declaration.attention_dir == "causal":
        seen = of_key[None] <= of_query[:, None]
    floor = _surely_reached(levels, of_query, of_key)
    whats = [what for what in (of_key, copied) if what is not None]
    if head.sink:  # the start is always there, and is a key of its own kind
        start, others = _may_be_the_start(keys, of_keys)
        of_start = levels[:, start] + round(head.sink * LEVEL)
        floor = floor.maximum(of_start.amin(1))
        levels = torch.cat([levels[:, others], of_start], 1)
        seen = torch.cat([seen[:, others], torch.ones_like(of_start, dtype=torch.bool)], 1)
        whats = [torch.cat([what[others], torch.full((of_start.shape[1],), -1)]) for what in whats]
    return any(_alike(levels, seen & (levels >= floor[:, None]), what) for what in whats)


def _may_be_the_start(
    keys: "_States", holdings: "Holdings"
) -> tuple[Bool[Tensor, "combinations"], Bool[Tensor, "combinations"]]:
    """Which combinations the start of the text may hold, and which the other keys may."""
    c = holdings.declaration
    start, others = torch.ones(keys.n, dtype=torch.bool), torch.ones(keys.n, dtype=torch.bool)
    for space, label in ((c.tok, c.bos), (c.pos, 0)):
        held = keys.labels(space)
        if held is not None and label is not None:
            start, others = start & (held == space.index(label)), others & (held != space.index(label))
    return start, others


class _States:
    """All combinations of what several spaces can hold.

    Attributes:
        spaces: the spaces.
        known: whether each of them holds one label or none.
        n: how many combinations there are; they are not written down before they are asked for.
    """

    def __init__(self, spaces: list[Space], holdings: "Holdings", time: float):
        self.spaces = list(dict.fromkeys(spaces))
        self.known, self._states = True, []
        for space in self.spaces:
            held = holdings.at(space, time)
            self.known = self.known and held.kind == "one"
            states = holdings.states(space, held)
            if not _always_there(space, holdings):
                states = torch.cat([states, torch.zeros(1, len(space), dtype=torch.float64)])
            self._states.append(states)
        self.n = 1
        for states in self._states:
            self.n *= len(states)

    def _index(self, space: Space) -> Int[Tensor, "combinations"]:
        """Which of its states a space has in each combination."""
        at, repeat = self.spaces.index(space), 1
        for states in self._states[at + 1 :]:
            repeat *= len(states)
        return (torch.arange(self.n) // repeat) % len(self._states[at])

    def held(self, space: Space) -> Float[Tensor, "combinations labels"]:
        """What a space holds in each combination."""
        return self._states[self.spaces.index(space)][self._index(space)]

    def labels(self, space: Space) -> Int[Tensor, "combinations"] | None:
        """The label that a space holds in each combination; None if it is not among the spaces."""
        return self.held(space).argmax(1) if space in self.spaces else None


def _always_there(space: Space, holdings: "Holdings") -> bool:
    c = holdings.declaration
    return space.name in (c.tok.name, c.pos.name, c.one.name)


def _surely_reached(
    levels: Int[Tensor, "queries keys"], of_query: Int[Tensor, "queries"] | None, of_key: Int[Tensor, "keys"] | None
) -> Int[Tensor, "queries"]:
    """The best score that some key has for sure: each position up to the query's has a key, whatever it holds."""
    if of_key is None:
        return levels.amin(1)
    n_pos = int(of_key.max()) + 1
    worst = torch.full((len(levels), n_pos), 2**62).scatter_reduce(1, of_key.expand_as(levels), levels, "amin")
    last = torch.zeros(len(levels), dtype=torch.long) if of_query is None else of_query
    there = torch.arange(n_pos) <= last[:, None]
    return worst.where(there, -(2**62)).amax(1)


def _alike(
    levels: Int[Tensor, "queries keys"], chosen: Bool[Tensor, "queries keys"], what: Int[Tensor, "keys"]
) -> bool:
    """Whether, for each query, all chosen keys of the same level agree in something."""
    order = levels.masked_fill(~chosen, 2**62).sort(dim=1, stable=True)
    agrees = what[order.indices]
    same_level = (order.values[:, 1:] == order.values[:, :-1]) & (order.values[:, 1:] < 2**62)
    return not bool((same_level & (agrees[:, 1:] != agrees[:, :-1])).any())
