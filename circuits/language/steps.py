"""Steps: what neurons mean, for the interpreter.

A table whose spaces hold one label each is looked up, position by position, in an array with a place for each
combination of labels. Everything else is computed ramp by ramp, in portions.
"""

import math
from types import EllipsisType

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.language.layout import Layout
from circuits.language.neurons import NEAR
from circuits.language.parts import Lookup, Neurons, Ramp, Reach, Terms
from circuits.language.space import Label, Space

MANY = 5_000_000
"""The most combinations of labels that a table is written out for."""

PORTION = 2**23
"""Ramps times positions that are computed at a time."""


class Step:
    """The neurons of one part."""

    def __init__(self, part: Neurons, layout: Layout):
        self.part, self.layout = part, layout
        self._array = None if part.table is None else _array_of(part.table)
        self._ramps: _Ramps | None = None

    def add(
        self, x: Float[Tensor, "batch pos size"], written: Float[Tensor, "batch pos size"], broken: list[str]
    ) -> Bool[Tensor, "entry"]:
        """Add what these neurons write at each position to `written`; returns which entries, or ramps, fired.

        What they read and were not meant to is noted in `broken`.
        """
        flat, target = x.flatten(0, 1), written.view(-1, written.shape[-1])
        if self.part.table is None or self._array is None:
            return self._by_ramps(flat, target, broken)
        table, n_entries = self.part.table, len(self.part.table.entries)
        held, clean = self._held(flat, table)
        which = self._array[tuple(held)]
        fired = torch.zeros(n_entries + 1, dtype=torch.bool)
        fired[which[clean]] = True
        for i, space in enumerate(table.writes):
            labels = [space.index(entry.labels[i]) for entry in table.entries]
            labels.append(space.index(table.otherwise[i]) if table.otherwise else -1)
            label = torch.tensor(labels)[which]
            rows = (clean & (label >= 0)).nonzero()[:, 0]
            target[rows, self.layout.slices[space.name].start + label[rows]] += 1
        if not bool(clean.all()):
            rows = (~clean).nonzero()[:, 0]
            mixed = torch.zeros(len(rows), flat.shape[1], dtype=flat.dtype)
            ramps_fired = self._by_ramps(flat[rows], mixed, broken)
            target[rows] += mixed
            if len(ramps_fired) == n_entries:
                fired[:-1] |= ramps_fired
        return fired[:-1]

    def _held(
        self, flat: Float[Tensor, "position size"], table: Lookup
    ) -> tuple[list[Int[Tensor, "position"]], Bool[Tensor, "position"]]:
        """The label that each space holds (its number of labels where it holds none), and whether all hold just one."""
        held: list[Tensor] = []
        clean = torch.ones(len(flat), dtype=torch.bool)
        for space in table.reads:
            values = flat[:, self.layout.slices[space.name]]
            largest, label = values.max(-1)
            others = values.abs().sum(-1) - largest.abs()
            one, none = (largest - 1).abs() < NEAR, largest.abs() < NEAR
            clean &= (others < NEAR) & (one | none)
            held.append(label.where(one, len(space)))
        return held, clean

    def _by_ramps(
        self, flat: Float[Tensor, "position size"], target: Float[Tensor, "position size"], broken: list[str]
    ) -> Bool[Tensor, "ramp"]:
        self._ramps = self._ramps or _Ramps(self.part.ramps, self.layout)
        always_open = len(self.part.gate) == 1 and self.part.gate[0].space is self.layout.declaration.one
        for reach in self.part.reach if not self.part.gate or not always_open else ():
            self._note_reach(reach, flat, broken)
        return self._ramps.add(flat, target, self.part.title, broken)

    def _note_reach(self, reach: Reach, flat: Float[Tensor, "position size"], broken: list[str]) -> None:
        number = _sum(reach.number, flat, self.layout)
        outside = (number < reach.low - NEAR) | (number > reach.high + NEAR)
        if bool(outside.any()):
            said = float(number[outside][0])
            broken.append(f"{self.part.title} reads {said:.4g}, which it follows from {reach.low:g} to {reach.high:g}")


class _Ramps:
    """Ramps as tensors; many of them read the same number."""

    def __init__(self, ramps: tuple[Ramp, ...], layout: Layout):
        self.layout, self.ramps = layout, ramps
        numbers = list(dict.fromkeys(ramp.reads for ramp in ramps))
        place = {number: i for i, number in enumerate(numbers)}
        self.numbers = numbers
        self.number = torch.tensor([place[ramp.reads] for ramp in ramps])
        self.low = torch.tensor([ramp.low for ramp in ramps], dtype=torch.float64)
        self.high = torch.tensor([ramp.high for ramp in ramps], dtype=torch.float64)
        self.snaps = torch.tensor([ramp.snaps for ramp in ramps])
        places = [layout.place(one) for ramp in ramps for one, _ in ramp.writes]
        self.columns = sorted(set(places))
        column = {place: i for i, place in enumerate(self.columns)}
        self.writes = torch.zeros(len(ramps), len(self.columns), dtype=torch.float64)
        for i, ramp in enumerate(ramps):
            for one, factor in ramp.writes:
                self.writes[i, column[layout.place(one)]] += factor

    def add(
        self, flat: Float[Tensor, "position size"], target: Float[Tensor, "position size"], name: str, broken: list[str]
    ) -> Bool[Tensor, "ramp"]:
        fired = torch.zeros(len(self.ramps), dtype=torch.bool)
        for start in range(0, len(flat), max(1, PORTION // len(self.ramps))):
            rows = slice(start, start + max(1, PORTION // len(self.ramps)))
            u = torch.stack([_sum(number, flat[rows], self.layout) for number in self.numbers], -1)[:, self.number]
            between = (u > self.low + NEAR) & (u < self.high - NEAR) & self.snaps
            if bool(between.any()):
                row, ramp = (int(i) for i in between.nonzero()[0])
                ends = f"what lies below {float(self.low[ramp]):.4g} from what lies above {float(self.high[ramp]):.4g}"
                broken.append(f"{name} reads {float(u[row, ramp]):.4g}, where it tells {ends}")
            straight = ((u - self.low) / (self.high - self.low)).clamp(0, 1)
            values = torch.where(self.snaps, (u > (self.low + self.high) / 2).double(), straight)
            fired |= (values > 0).any(0)
            target[rows, torch.tensor(self.columns)] += values @ self.writes
        return fired


def _sum(number: Terms, flat: Float[Tensor, "position size"], layout: Layout) -> Float[Tensor, "position"]:
    places = torch.tensor([layout.place(coordinate) for coordinate, _ in number])
    return flat[:, places] @ torch.tensor([factor for _, factor in number], dtype=flat.dtype)


def _array_of(table: Lookup) -> Int[Tensor, "*combinations"] | None:
    """The entry of each combination of labels (the last place of each axis is for an empty space).

    Where no entry fires it is the number of entries. None for a table that adds entries up, or has too many
    combinations.
    """
    sizes = [len(space) + 1 for space in table.reads]
    if table.summed or math.prod(sizes) > MANY:
        return None
    array = torch.full(sizes, len(table.entries))
    plain: list[list[int]] = []
    numbers: list[int] = []
    for number, entry in enumerate(table.entries):
        place = tuple(_place(space, label) for space, label in zip(table.reads, entry.key, strict=True))
        single = [one for one in place if isinstance(one, int)]
        if len(single) < len(place):
            array[place] = number
        else:
            plain.append(single)
            numbers.append(number)
    if plain:
        array[tuple(torch.tensor(plain).T)] = torch.tensor(numbers)
    return array


def _place(space: Space, label: Label | EllipsisType | None) -> int | slice:
    """Where a label stands on its axis: any place for `...`, the last one for None."""
    if isinstance(label, EllipsisType):
        return slice(None)
    return len(space) if label is None else space.index(label)
