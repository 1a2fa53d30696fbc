"""Where the nodes and links of a layered drawing go, in pixels across: levels upwards, links past the nodes between.

The way of Sugiyama, Tagawa & Toda (1981): a link takes a lane of its own through every level between its ends; levels
are put in an order in which few links cross, each by the mean of what its places are linked to; and at last every place
moves towards what it is linked to, as far as its neighbours let it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LANE = 7
"""Pixels between links that run side by side."""

ASIDE = 22
"""Pixels between a node and what is beside it."""

SWEEPS = 12
"""How often the levels are put in order, up and down."""


@dataclass(frozen=True)
class Link:
    """From a node to one on a higher level, which it enters `port` pixels off its middle."""

    start: Hashable
    end: Hashable
    port: int | float = 0


def layered(
    levels: Sequence[Sequence[Hashable]], links: Sequence[Link], widths: Mapping[Any, int | float]
) -> tuple[dict[Any, float], list[list[float]]]:
    """Where each node's middle is; and for each link where it is at each level, from its start to its end."""
    return _Places(levels, links, widths).settled()


class _Places:
    """Places on levels: the nodes, and lanes of links that pass by.

    Attributes:
        on: the places of each level, from left to right.
        x: of every place.
        chains: of every link, the places from its start to its end.
    """

    def __init__(self, levels: Sequence[Sequence[Hashable]], links: Sequence[Link], widths: Mapping[Any, int | float]):
        self.node_at = [node for level in levels for node in level]
        place_of = {node: place for place, node in enumerate(self.node_at)}
        level_of = {node: number for number, level in enumerate(levels) for node in level}
        self.half = [widths[node] / 2 for node in self.node_at]
        self.on = [[place_of[node] for node in level] for level in levels]
        self.chains: list[list[int]] = []
        self.below: dict[int, list[tuple[int, int | float]]] = defaultdict(list)
        self.above: dict[int, list[tuple[int, int | float]]] = defaultdict(list)
        self.segments: list[list[tuple[int, int]]] = [[] for _ in levels]
        for link in links:
            first, last = level_of[link.start], level_of[link.end]
            lanes = list(range(len(self.half), len(self.half) + last - first - 1))
            self.half += [LANE / 2] * len(lanes)
            for level, lane in enumerate(lanes, first + 1):
                self.on[level].append(lane)
            chain = [place_of[link.start], *lanes, place_of[link.end]]
            self.chains.append(chain)
            for level, (one, next) in enumerate(itertools.pairwise(chain), first):
                off = link.port if next == chain[-1] else 0.0
                self.below[next].append((one, -off))
                self.above[one].append((next, off))
                self.segments[level].append((one, next))
        self.x = np.zeros(len(self.half))
        for places in self.on:
            self._pack(places, np.zeros(len(places)))

    def settled(self) -> tuple[dict[Any, float], list[list[float]]]:
        """The answer of `layered`."""
        best, fewest = [list(places) for places in self.on], self._crossings()
        for sweep in range(SWEEPS):
            upward = sweep % 2 == 0
            for places in self.on if upward else reversed(self.on):
                wanted = [self._wanted(place, [self.below if upward else self.above]) for place in places]
                order = np.argsort(wanted, kind="stable").tolist()
                places[:] = [places[i] for i in order]
                self._pack(places, np.array([wanted[i] for i in order]))
            if (crossings := self._crossings()) < fewest:
                best, fewest = [list(places) for places in self.on], crossings
        self.on = best
        for _ in range(3 * SWEEPS):
            for places in self.on:
                self._pack(places, np.array([self._wanted(place, [self.below, self.above]) for place in places]))
        at = {node: float(self.x[place]) for place, node in enumerate(self.node_at)}
        return at, [[float(self.x[place]) for place in chain] for chain in self.chains]

    def _wanted(self, place: int, sides: Sequence[Mapping[int, list[tuple[int, int | float]]]]) -> float:
        """The mean of what a place is linked to, on one side or on both; where it is, without links there."""
        at = [float(self.x[other]) + off for side in sides for other, off in side.get(place, ())]
        return sum(at) / len(at) if at else float(self.x[place])

    def _pack(self, places: Sequence[int], wanted: np.ndarray) -> None:
        """Put places as near as can be to where they want to be, in their order, and not over one another."""
        from scipy.optimize import isotonic_regression

        if not places:
            return
        n_nodes = len(self.node_at)
        gaps = [0.0]
        for left, right in itertools.pairwise(places):
            aside = 0 if left >= n_nodes and right >= n_nodes else ASIDE
            gaps.append(self.half[left] + self.half[right] + aside)
        offsets = np.cumsum(gaps)
        weights = [1.0 if place < n_nodes else 3.0 for place in places]  # lanes straight, before nodes in the middle
        self.x[list(places)] = isotonic_regression(wanted - offsets, weights=weights).x + offsets

    def _crossings(self) -> int:
        """How many pairs of links cross."""
        total = 0
        for segments in self.segments:
            if segments:
                low, high = self.x[np.array(segments).T]
                total += int(((low[:, None] < low) & (high[:, None] > high)).sum())
        return total
