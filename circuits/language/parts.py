"""What a circuit is made of: attention heads, and MLP neurons that look things up.

Neurons come as *ramps*: `clamp((u - low) / (high - low), 0, 1)`, which is two ReLUs, of a number u read from the
stream. A ramp snaps: whatever lies below `low` counts as 0, whatever lies above `high` as 1, so that the small errors
which a softmax leaves are erased, not passed on.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Literal

from circuits.language.forms import NOTHING, Form, Term
from circuits.language.space import Coordinate, Label, Number, Space, is_finite
from interp.errors import ConfigError, describe

EMBED, POS_EMBED, UNEMBED = "embed", "pos_embed", "unembed"
"""The names of what writes first and of what reads last; a part cannot have them."""

MANY = 10**6
"""The most combinations of labels that a table which is a function is asked for."""

Ties = Literal["mean", "latest", "first"]
"""Which of several equally good keys a head attends to."""


@dataclass(frozen=True)
class Head:
    """An attention head.

    Attributes:
        name, layer: as declared.
        qk: what is matched, the sink included.
        ov: what is copied.
        ties: what happens when several keys score the same.
        recency: for ties "latest" and "first", a term that prefers later (earlier) keys by less than any two scores
            differ; for "mean" empty.
        gap: how much the best key's score exceeds the next one's, at least, before sharpening; None if unknown.
        sharp: the factor on all scores, or None: the compiler's choice.
        sink: weight of the sink, 0 for none.
    """

    name: str
    layer: int
    qk: Form
    ov: Form
    ties: Ties = "mean"
    recency: Form = NOTHING
    gap: float | None = None
    sharp: float | None = None
    sink: float = 0.0

    @property
    def scores(self) -> Form:
        """Everything its scores are made of."""
        return self.qk + self.recency


@dataclass(frozen=True)
class Ramp:
    """`clamp((u - low) / (high - low), 0, 1)`, with u a sum over what it reads.

    Attributes:
        reads: coordinates with their factors.
        low, high: where it begins to rise, and where it is 1.
        writes: what it adds to the stream where it is 1.
    """

    reads: tuple[tuple[Coordinate, float], ...]
    low: float
    high: float
    writes: tuple[tuple[Coordinate, float], ...]


@dataclass(frozen=True)
class Neurons:
    """A group of an MLP's neurons, declared by `Circuit.mlp` or `Circuit.bucket`."""

    name: str
    layer: int
    ramps: tuple[Ramp, ...]

    def __repr__(self) -> str:
        return f"Neurons({self.name!r}, layer={self.layer}, {len(self.ramps)} ramps)"


Part = Head | Neurons
"""Anything that reads the stream and writes to it."""

Table = Mapping[Any, Label | tuple[Label, ...]] | Callable[..., Label | tuple[Label, ...] | None]
"""What to write for which labels: a mapping (from tuples where there are several spaces; `...` for any label), or a
function of one label a space that returns None for nothing."""


def lookup(name: str, layer: int, reads: Sequence[Space], writes: Sequence[Space], table: Table) -> Neurons:
    """One ramp an entry: 2 [relu(u - 1/4) - relu(u - 3/4)] on u = (sum of the k selected coordinates) - (k - 1)."""
    ramps, where = [], f"mlp {name!r}"
    for key, value in _entries(where, reads, table):
        read = [space[label] for space, label in zip(reads, key, strict=True) if label is not ...]
        labels = value if isinstance(value, tuple) else (value,)
        if not read or len(labels) != len(writes):
            raise ConfigError(f"{where}: entry {key} -> {labels} needs a label to read, and one for each of the "
                              f"{len(writes)} spaces it writes")  # fmt: skip
        for space, label in zip(writes, labels, strict=True):
            space.index(label, f"{where}, entry {key}")
        written = tuple((space[label], 1.0) for space, label in zip(writes, labels, strict=True))
        ramps.append(Ramp(tuple((one, 1.0) for one in read), len(read) - 0.75, len(read) - 0.25, written))
    if not ramps:
        raise ConfigError(f"{where}: the table has no entries")
    return Neurons(name, layer, tuple(ramps))


def _entries(
    where: str, reads: Sequence[Space], table: Table
) -> Iterator[tuple[tuple[Label | EllipsisType, ...], Label | tuple[Label, ...]]]:
    if isinstance(table, Mapping):
        for given, value in table.items():
            key = given if isinstance(given, tuple) else (given,)
            if len(key) != len(reads):
                raise ConfigError(f"{where}: entry {key} does not have one label for each of {len(reads)} spaces")
            for space, label in zip(reads, key, strict=True):
                if not isinstance(label, EllipsisType):
                    space.index(label, f"{where}, entry {key}")
            yield key, value
    elif not callable(table):
        raise ConfigError(f"{where}: the table is {describe(table)}; allowed: a mapping, or a function of labels")
    elif (n_keys := math.prod(map(len, reads))) > MANY:
        raise ConfigError(f"{where}: the table is a function of {n_keys:,} combinations of labels; allowed: {MANY:,}; "
                          "give a mapping with the entries that write something")  # fmt: skip
    else:
        for key in itertools.product(*(space.labels for space in reads)):
            if (value := table(*key)) is not None:
                yield key, value


def bucket(
    name: str,
    layer: int,
    number: Coordinate,
    writes: Space,
    values: Mapping[Any, Number],
    gate: Sequence[Coordinate],
) -> Neurons:
    """Neurons that write the label whose value is nearest to a number, and only where a coordinate of `gate` is 1.

    One ramp writes the lowest label. Each pair of neighbouring values has a ramp, a quarter of their distance to either
    side of the middle between them; it adds the upper label and subtracts the lower one. Where the gate is 0, every
    ramp stays below its beginning: its `low` is raised by more than the number can be, and the gate makes good for it.
    """
    where = f"bucket {name!r}"
    if not isinstance(values, Mapping) or not values:
        raise ConfigError(f"{where}: no values; allowed: a mapping from labels to numbers")
    for label, value in values.items():
        if not is_finite(value):
            raise ConfigError(f"{where}: the value of {label!r} is {describe(value)}; allowed: a finite number")
    order = sorted(values, key=lambda label: values[label])
    for label in order:
        writes.index(label, where)
    for one, other in itertools.pairwise(order):
        if values[one] == values[other]:
            raise ConfigError(f"{where}: {one!r} and {other!r} have the same value, {values[one]}")
    push = 2.0 * max(1.0, *(abs(value) for value in values.values()))
    ramps = [Ramp(tuple((one, 1.0) for one in gate), 0.25, 0.75, ((writes[order[0]], 1.0),))]
    for one, other in itertools.pairwise(order):
        middle, quarter = (values[one] + values[other]) / 2 + push, (values[other] - values[one]) / 4
        reads = ((number, 1.0), *((coordinate, push) for coordinate in gate))
        written = ((writes[other], 1.0), (writes[one], -1.0))
        ramps.append(Ramp(reads, middle - quarter, middle + quarter, written))
    return Neurons(name, layer, tuple(ramps))


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
