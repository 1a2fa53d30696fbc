"""Holdings: what each space can hold when it is read, one label or shares of several or any numbers, and how large.

Heads that choose, and tables, mean what they say only where every space holds one label or none. Whether it does
follows from what writes it: a head that attends to one key copies one label, a mean of several keys gives shares, two
writers add up. The analysis errs on the safe side. Where the author knows better (`Stream.space(holds=...)`), it
takes their word, and `verify` holds the circuit to it.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.language.forms import Term
from circuits.language.layout import Layout, time_of
from circuits.language.parts import Head, Neurons, Terms
from circuits.language.single import copies_one_label
from circuits.language.space import Coordinate, Holds, Space

Conditions = dict[str, frozenset[int]]
"""Where something can only be present if other spaces of the same position hold one of these labels."""


@dataclass(frozen=True, eq=False)
class Held:
    """What can be in a space.

    Attributes:
        kind: one label (or state) or none, shares of labels, or any numbers.
        support: the labels that can be there at all.
        low, high: between what each coordinate lies, 0 included.
        smallest: the least number other than 0 that a writer gives each coordinate, as far as it is known.
        when: what must hold at the position, or nothing is there.
        writers: who writes it.
        why: why it may be more than one label, in words; empty where it is not.
    """

    kind: Holds
    support: Bool[Tensor, "labels"]
    low: Float[Tensor, "labels"]
    high: Float[Tensor, "labels"]
    smallest: Float[Tensor, "labels"]
    when: Conditions
    writers: tuple[str, ...]
    why: str = ""


class Holdings:
    """What every space can hold at every time.

    Attributes:
        source: what those of the source can hold, for a circuit that has one.

    >>> from circuits.gallery import entry
    >>> layout = Layout(entry("previous_token").build())
    >>> list(nothing_below(Holdings(layout)))
    ['out']
    """

    def __init__(self, layout: Layout):
        self.layout, self.declaration = layout, layout.declaration
        self.source = None if layout.source is None else Holdings(layout.source)
        self._given: dict[str, list[tuple[float, Held]]] = {}
        self._give_embeddings()
        for part in sorted(self.declaration.parts, key=time_of):
            if isinstance(part, Head):
                self._give_head(part)
            else:
                self._give_neurons(part)

    def at(self, space: Space, time: float = float("inf")) -> Held:
        """What a space can hold for a reader at that time."""
        held = self._written(space, time)
        promised = self.declaration.holds.get(space.name)
        if promised is None or promised == held.kind:
            return held
        if promised == "numbers":
            return replace(held, kind="numbers", why=held.why or "it is declared to hold numbers")
        low, high = held.low.clamp(min=0), held.high.clamp(max=1)
        return replace(held, kind=promised, low=low, high=high, why="" if promised == "one" else held.why)

    def of_keys(self, head: Head) -> tuple["Holdings", float]:
        """What spaces of a head's keys can hold, and the time at which it reads them."""
        if not head.cross:
            return self, time_of(head)
        assert self.source is not None
        return self.source, float("inf")

    def reach(self, number: Terms, time: float = float("inf")) -> tuple[float, float]:
        """The lowest and the highest value of a sum of coordinates.

        Of a space that holds one label, or shares of several, at most one coordinate counts in whole.
        """
        ends: dict[Space, list[tuple[float, float]]] = {}
        factors: dict[Coordinate, float] = {}
        for coordinate, factor in number:
            factors[coordinate] = factors.get(coordinate, 0.0) + factor
        for coordinate, factor in factors.items():
            held, place = self.at(coordinate.space, time), coordinate.space.index(coordinate.label)
            low, high = sorted((factor * float(held.low[place]), factor * float(held.high[place])))
            ends.setdefault(coordinate.space, []).append((low, high))
        lowest = highest = 0.0
        for space, each in ends.items():
            lows, highs = zip(*each, strict=True)
            alone = self.at(space, time).kind != "numbers" and not space.states
            lowest += min(lows) if alone else sum(lows)
            highest += max(highs) if alone else sum(highs)
        return lowest, highest

    def states(self, space: Space, held: Held) -> Float[Tensor, "states labels"]:
        """The vectors that a space of one label can hold, without the empty one."""
        if space.states:
            return torch.tensor(space.states, dtype=torch.float64)
        return torch.eye(len(space), dtype=torch.float64)[held.support]

    # ------------------------------------------------------------------ what is there

    def _written(self, space: Space, time: float) -> Held:
        given = [held for when, held in self._given.get(space.name, []) if when < time]
        if not given:
            zero, no = torch.zeros(len(space), dtype=torch.float64), torch.zeros(len(space), dtype=torch.bool)
            return Held("one", no, zero, zero, zero + torch.inf, {}, ())
        return given[0] if len(given) == 1 else _together(given)

    def _give(self, space: Space, time: float, held: Held) -> None:
        self._given.setdefault(space.name, []).append((time, held))

    def _give_embeddings(self) -> None:
        for space in self.layout.spaces:
            table = self.layout.embedding(space.name)
            if space is self.declaration.pos:
                table = torch.eye(len(space), dtype=torch.float64)
            if space.name in self.declaration.inputs:
                low, high = (torch.full((len(space),), end).double() for end in self.declaration.inputs[space.name])
                some = torch.ones(len(space), dtype=torch.bool)
                least = torch.full((len(space),), torch.inf, dtype=torch.float64)
                self._give(
                    space, -1.0, Held("numbers", some, low, high, least, {}, ("the embedding",), "the user gives it")
                )
            elif table is not None:
                least = table.abs().where(table != 0, torch.inf).amin(0)
                support = (table != 0).any(0)
                when = {space.name: frozenset(support.nonzero()[:, 0].tolist())}
                ends = table.amin(0).clamp(max=0), table.amax(0).clamp(min=0)
                self._give(space, -1.0, Held("one", support, *ends, least, when, ("the embedding",)))

    def _give_head(self, head: Head) -> None:
        by_destination: dict[str, list[Term]] = {}
        for term in head.ov.terms:
            by_destination.setdefault(term.columns.name, []).append(term)
        for terms in by_destination.values():
            given = [self._copied(head, term) for term in terms]
            held = given[0] if len(given) == 1 else _together(given, head.title)
            # A copy comes from another position, where other conditions hold.
            self._give(terms[0].columns, time_of(head), replace(held, when={}))

    def _copied(self, head: Head, term: Term) -> Held:
        holdings, time = self.of_keys(head)
        source, W, n_keys = holdings.at(term.rows, time), term.weighted, holdings.declaration.n_ctx
        share, kind, why = 1.0, source.kind, source.why
        if head.attend == "soft":
            kind, why, share = "shares", f"{head.title} is soft, and mixes its keys", 1 / n_keys
        elif head.ties == "mean" and not copies_one_label(head, term, self):
            share = 1 / n_keys
            if kind == "one":
                kind, why = "shares", f"{head.title} may copy the mean of several keys"
        if source.kind == "numbers":
            kind, why = "numbers", source.why
        if source.kind == "numbers" or term.rows.states:
            positive, negative = W.clamp(min=0), W.clamp(max=0)
            low = _product(source.low, positive) + _product(source.high, negative)
            high = _product(source.high, positive) + _product(source.low, negative)
        else:
            kept = W * source.support[:, None]
            low, high = kept.amin(0).clamp(max=0), kept.amax(0).clamp(min=0)
        moved = (W != 0) & source.support[:, None]
        if not _is_relabelling(term, moved):
            kind, why = "numbers", why or f"{head.title} writes it with weights, or several labels for one"
        least = (W.abs() * source.smallest.clamp(max=1e300)[:, None]).where(moved, torch.inf).amin(0) * share
        rows = frozenset(moved.any(1).nonzero()[:, 0].tolist())
        when = {**source.when, term.rows.name: rows & source.when.get(term.rows.name, rows)}
        return Held(kind, moved.any(0), low, high, least, when, (head.title,), why)

    def _give_neurons(self, part: Neurons) -> None:
        for space in {coordinate.space for ramp in part.ramps for coordinate, _ in ramp.writes}:
            self._give(space, time_of(part), self._looked_up(part, space))

    def _looked_up(self, part: Neurons, space: Space) -> Held:
        n = len(space)
        low, high = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        if part.span is not None:
            factors = _factors(part, space)
            ends = torch.stack([factors * part.span[0], factors * part.span[1]])
            least = (factors.abs() * max(map(abs, part.span))).where(factors != 0, torch.inf)
            low, high = ends.amin(0).clamp(max=0), ends.amax(0).clamp(min=0)
            why = f"{part.title} writes it"
            return Held("numbers", factors != 0, low, high, least, {}, (part.title,), why)
        support = torch.zeros(n, dtype=torch.bool)
        for ramp in part.ramps:
            for coordinate, factor in ramp.writes:
                if coordinate.space == space and factor > 0:
                    support[space.index(coordinate.label)] = True
        least = torch.ones(n, dtype=torch.float64).where(support, torch.inf)
        high = support.double()
        if part.table is not None and part.table.summed:
            high = high * len(part.table.entries)
            why = f"entries of {part.title} add up"
            return Held("numbers", support, low, high, least, {}, (part.title,), why)
        return Held("one", support, low, high, least, self._conditions(part), (part.title,))

    def _conditions(self, part: Neurons) -> Conditions:
        """What must hold for a table or a bucket to write: labels of what it reads, and what these need in turn."""
        needed: Conditions = {}
        if part.table is not None and not part.table.otherwise:
            for i, space in enumerate(part.table.reads):
                keys = {entry.key[i] for entry in part.table.entries}
                labels = {label for label in keys if isinstance(label, str | int)}
                if len(labels) == len(keys):
                    needed[space.name] = frozenset(map(space.index, labels))
        gates = {coordinate.space.name for coordinate in part.gate}
        if len(gates) == 1:
            needed[gates.pop()] = frozenset(one.space.index(one.label) for one in part.gate)
        for name in list(needed):
            held = self.at(self.declaration.spaces[name], time_of(part))
            for other, labels in held.when.items():
                needed[other] = needed.get(other, labels) & labels
        return needed


def _together(given: list[Held], who: str = "") -> Held:
    """What a space holds that several things write."""
    apart = all(_exclude(one, other) for i, one in enumerate(given) for other in given[:i])
    lows, highs = torch.stack([one.low for one in given]), torch.stack([one.high for one in given])
    support = torch.stack([one.support for one in given]).any(0)
    smallest = torch.stack([one.smallest for one in given]).amin(0)
    writers = tuple(dict.fromkeys(name for one in given for name in one.writers))
    if apart and all(one.kind != "numbers" for one in given):
        kind = "shares" if any(one.kind == "shares" for one in given) else "one"
        why = next((one.why for one in given if one.why), "")
        return Held(kind, support, lows.amin(0), highs.amax(0), smallest, {}, writers, why)
    why = next((one.why for one in given if one.kind == "numbers"), "")
    why = why or f"{who or ' and '.join(writers)} may write it twice, and it adds up"
    return Held("numbers", support, lows.sum(0), highs.sum(0), smallest, {}, writers, why)


def _exclude(one: Held, other: Held) -> bool:
    """Whether two things are never there together: a space would have to hold two labels."""
    return any(not labels & other.when[name] for name, labels in one.when.items() if name in other.when)


def _is_relabelling(term: Term, moved: Bool[Tensor, "rows columns"]) -> bool:
    """Whether each label becomes one label of the destination, or nothing, and states remain states."""
    if term.rows.states or term.columns.states:
        same = torch.eye(len(term.rows), dtype=torch.float64)
        return term.rows.states == term.columns.states and torch.equal(term.weighted, same)
    return bool((moved.sum(1) <= 1).all()) and bool((term.weighted[moved] == 1).all())


def _product(ends: Float[Tensor, "rows"], weights: Float[Tensor, "rows columns"]) -> Float[Tensor, "columns"]:
    """`ends @ weights`, where an infinite end counts nothing with a weight of zero."""
    products = ends[:, None] * weights
    return products.where(weights != 0, 0.0).sum(0)


def _factors(part: Neurons, space: Space) -> Float[Tensor, "labels"]:
    """What a function's value is multiplied with, in each coordinate of a space that it writes."""
    factors = torch.zeros(len(space), dtype=torch.float64)
    for coordinate, factor in part.destinations:
        if coordinate.space == space:
            factors[space.index(coordinate.label)] += factor
    return factors
