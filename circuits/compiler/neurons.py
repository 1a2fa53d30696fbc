"""Neurons: the ramps of a layer as kinks, of which those that lie together are one neuron."""

import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.compiler.encoding import Encoding
from circuits.compiler.sparse import Sparse
from circuits.language import Coordinate, Ramp

CANCELLED = 1e-9
"""Slopes below this share of those that they are the sum of are what rounding leaves of two that cancel."""

SAME = 1e-9
"""Numbers that differ by less are the same one."""

MARGIN = 0.1
"""How far the line of a ramp with slack goes on beyond 0 and 1."""

Sums = dict[int, float]
"""A sum of coordinates: the factor of each label."""


@dataclass(frozen=True, eq=False)
class MergedNeurons:
    """Neurons `relu(u - start)`, with u a sum of what they read.

    Attributes:
        reads, writes: by label or by coordinate, a column a neuron.
        starts: where each begins to rise.
    """

    reads: Sparse
    writes: Sparse
    starts: Float[Tensor, "neurons"]

    def encoded(self, encoding: Encoding, what: str) -> "MergedNeurons":
        """By coordinate. Raises `ConfigError` about `what` where the position code cannot give what they read."""
        return replace(self, reads=encoding.read(self.reads, what), writes=encoding.written(self.writes))

    def __len__(self) -> int:
        return len(self.starts)


def merge_neurons(
    ramps: Iterable[Ramp], place: Callable[[Coordinate], int], n_labels: int, slack: float = 0.0
) -> MergedNeurons:
    """The neurons of these ramps; `place` says where among the `n_labels` labels a coordinate is.

    Those with the same reads and, but for rounding, the same kink are one neuron, so that k pieces of a function, each
    of which begins where the one before ends, need k + 1 neurons. What writes nothing then is left out. Neurons are
    scaled so that the largest number that one writes is 1. For `slack` see `kinks`.
    """
    slopes: dict[tuple[tuple[tuple[int, float], ...], float], tuple[float, Sums]] = {}
    all_reads = [(ramp, tuple(sorted(_sums(ramp.reads, place).items()))) for ramp in ramps]
    meant: dict[tuple[tuple[int, float], ...], list[float]] = {}
    for ramp, reads in all_reads if slack else ():
        meant.setdefault(reads, []).extend(_ends(ramp))
    meant = {reads: sorted(numbers) for reads, numbers in meant.items()}
    for ramp, reads in all_reads:
        writes = _sums(ramp.writes, place)
        for kink, slope in kinks(ramp, slack, meant.get(reads, ())):
            _, into = slopes.setdefault((reads, round(kink, 10)), (kink, {}))
            for label, factor in writes.items():
                before = into.get(label, 0.0)
                after = before + slope * factor
                into[label] = after if abs(after) > CANCELLED * abs(before) else 0.0
    reads, starts, writes = [], [], []
    for (read, _), (kink, written) in slopes.items():
        if scale := max(map(abs, written.values()), default=0.0):
            reads.append([(label, factor * scale) for label, factor in read])
            starts.append(kink * scale)
            writes.append([(label, w / scale) for label, w in written.items() if abs(w) > CANCELLED * scale])
    starts = torch.tensor(starts, dtype=torch.float64)
    return MergedNeurons(_columns(reads, n_labels), _columns(writes, n_labels), starts)


def kinks(ramp: Ramp, slack: float, meant: Sequence[float] = ()) -> list[tuple[float, float]]:
    """Where a ramp bends, and by how much its slope changes there. Each is a neuron.

    A ramp is `(relu(u - low) - relu(u - high)) / (high - low)`: one neuron rises at `low`, one takes over at `high`.

    With slack, a ramp that snaps is not level at 0 and 1, the two numbers that it is meant to read, so that gradients
    flow through it. These lie half of its width below `low` and above `high`. A share `slack` of the ramp is a straight
    line between the two, which goes on for a `MARGIN` to either side of them and then returns to 0 and to 1, in time
    for the next number that another ramp is meant to read there (`meant`, ascending). So numbers that are exact are
    written exactly, and of their errors the share `slack` of the line's slope is passed on.
    """
    width = ramp.high - ramp.low
    if not slack or not ramp.snaps:
        return [(ramp.low, 1 / width), (ramp.high, -1 / width)]
    (zero, one), slope = _ends(ramp), slack / (2 * width)
    below, above = meant[: bisect.bisect_left(meant, zero - SAME)], meant[bisect.bisect_right(meant, one + SAME) :]
    room = min([*(zero - number for number in below[-1:]), *(number - one for number in above[:1])], default=width)
    margin = min(2 * MARGIN * width, room / 3)
    line = [
        (zero - 2 * margin, -slope),
        (zero - margin, 2 * slope),
        (one + margin, -2 * slope),
        (one + 2 * margin, slope),
    ]
    return [(ramp.low, (1 - slack) / width), (ramp.high, (slack - 1) / width), *line]


def _ends(ramp: Ramp) -> tuple[float, float]:
    """The two numbers that a ramp which snaps is meant to read, as 0 and as 1."""
    beyond = (ramp.high - ramp.low) / 2
    return ramp.low - beyond, ramp.high + beyond


def _sums(given: Iterable[tuple[Coordinate, float]], place: Callable[[Coordinate], int]) -> Sums:
    found: Sums = {}
    for coordinate, factor in given:
        at = place(coordinate)
        found[at] = found.get(at, 0.0) + factor
    return found


def _columns(sums: list[list[tuple[int, float]]], n_labels: int) -> Sparse:
    entries = [(label, column, factor) for column, one in enumerate(sums) for label, factor in one]
    rows, columns = torch.tensor([one[:2] for one in entries], dtype=torch.long).reshape(-1, 2).T
    values = torch.tensor([one[2] for one in entries], dtype=torch.float64)
    return Sparse.of(rows, columns, values, (n_labels, len(sums)))
