"""Neurons: tables, buckets and functions as ramps."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from circuits.language.knots import Pieces
from circuits.language.parts import UNSETTLED, Entry, Key, Lookup, Neurons, Ramp, Reach, Table, Terms
from circuits.language.space import Coordinate, Label, Number, Space, is_finite
from interp.errors import ConfigError, describe

NEAR = 1e-6
"""How far numbers may lie from where they are meant to be."""

MANY = 10**6
"""The most combinations of labels that a table which is a function is asked for."""


def lookup(name: str, table: Lookup, one: Coordinate) -> Neurons:
    """One ramp an entry: 2 [relu(u - 1/4) - relu(u - 3/4)] on u = (sum of the k selected coordinates) - (k - 1).

    Where a space must be empty, its coordinates are subtracted. What is written otherwise comes from a ramp that is
    always 1, and every entry takes it back.
    """
    ramps: list[Ramp] = []
    always = [space[label] for space, label in zip(table.writes, table.otherwise, strict=False)]
    if always:
        ramps.append(Ramp(((one, 1.0),), 0.25, 0.75, tuple((coordinate, 1.0) for coordinate in always)))
    for entry in table.entries:
        pairs = list(zip(table.reads, entry.key, strict=True))
        held = [(space[label], 1.0) for space, label in pairs if isinstance(label, str | int)] or [(one, 1.0)]
        empty = [(space[label], -1.0) for space, key in pairs if key is None for label in space.labels]
        written = [space[label] for space, label in zip(table.writes, entry.labels, strict=True)]
        if written != always:
            factors = [(coordinate, 1.0) for coordinate in written] + [(coordinate, -1.0) for coordinate in always]
            ramps.append(Ramp((*held, *empty), len(held) - 0.75, len(held) - 0.25, tuple(factors)))
    return Neurons("mlp", name, UNSETTLED, tuple(ramps), table)


def listed_table(
    where: str,
    reads: Sequence[Space],
    writes: Sequence[Space],
    table: Table,
    otherwise: Label | tuple[Label, ...] | None,
    summed: bool,
) -> Lookup:
    """A table as it was declared, after every check. Raises `ConfigError`, whose message begins with `where`."""

    def labels(value: Label | tuple[Label, ...], what: str) -> tuple[Label, ...]:
        written = value if isinstance(value, tuple) else (value,)
        if len(written) != len(writes):
            raise ConfigError(f"{where}: {what} -> {written} needs a label for each of the {len(writes)} spaces it "
                              "writes")  # fmt: skip
        return tuple(
            space.labels[space.index(label, f"{where}, {what}")] for space, label in zip(writes, written, strict=True)
        )

    entries = tuple(
        Entry(key, labels(value, f"entry {key_as_written(key)}")) for key, value in _entries(where, reads, table)
    )
    if not entries:
        raise ConfigError(f"{where}: the table has no entries")
    nothing_read = next((entry for entry in entries if all(label is ... for label in entry.key)), None)
    if nothing_read is not None:
        raise ConfigError(f"{where}: entry {key_as_written(nothing_read.key)} reads nothing; say otherwise= for what "
                          "is written where no entry fires")  # fmt: skip
    if not summed and (overlap := _overlap(entries)) is not None:
        first, second = (key_as_written(entry.key) for entry in overlap)
        raise ConfigError(
            f"{where}: entries {first} and {second} can fire together, and would add up; make them exclude each other, "
            "or say overlaps='sum'"
        )
    default = () if otherwise is None else labels(otherwise, "otherwise")
    if default and summed:
        raise ConfigError(f"{where}: otherwise = {default} contradicts overlaps = 'sum'")
    return Lookup(tuple(reads), tuple(writes), entries, default, summed, isinstance(table, Mapping))


def key_as_written(key: Key) -> str:
    """A key as it is written, such as ('a', ..., None).

    >>> key_as_written(("a", ..., None))
    "('a', ..., None)"
    """
    shown = ["..." if label is ... else repr(label) for label in key]
    return shown[0] if len(shown) == 1 else f"({', '.join(shown)})"


def _entries(where: str, reads: Sequence[Space], table: Table) -> Iterator[tuple[Key, Label | tuple[Label, ...]]]:
    if isinstance(table, Mapping):
        for given, value in table.items():
            key = given if isinstance(given, tuple) else (given,)
            if len(key) != len(reads):
                raise ConfigError(
                    f"{where}: entry {key_as_written(key)} does not have one label for each of {len(reads)} spaces"
                )
            said = f"{where}, entry {key_as_written(key)}"
            yield (
                tuple(
                    label if label is ... or label is None else space.labels[space.index(label, said)]
                    for space, label in zip(reads, key, strict=True)
                ),
                value,
            )
    elif not callable(table):
        raise ConfigError(f"{where}: the table is {describe(table)}; allowed: a mapping, or a function of labels")
    elif (n_keys := math.prod(map(len, reads))) > MANY:
        raise ConfigError(f"{where}: the table is a function of {n_keys:,} combinations of labels; allowed: {MANY:,}; "
                          "give a mapping with the entries that write something")  # fmt: skip
    else:
        for key in itertools.product(*(space.labels for space in reads)):
            try:
                value = table(*key)
            except TypeError as error:  # such as a function of another number of labels
                said = f"{where}: the table of {', '.join(map(repr, key))} fails ({error})"
                raise ConfigError(f"{said}; allowed: a function of {len(reads)} labels") from error
            if value is not None:
                yield key, value


def _overlap(entries: Sequence[Entry]) -> tuple[Entry, Entry] | None:
    """Two entries whose keys agree wherever neither says `...`; None if there are no such two."""
    alike: dict[tuple[bool, ...], list[Entry]] = {}
    for entry in entries:
        alike.setdefault(tuple(label is ... for label in entry.key), []).append(entry)
    for (wild, ones), (other_wild, others) in itertools.combinations(alike.items(), 2):
        both = [i for i, pair in enumerate(zip(wild, other_wild, strict=True)) if not any(pair)]
        seen = {tuple(entry.key[i] for i in both): entry for entry in ones}
        for entry in others:
            if (other := seen.get(tuple(entry.key[i] for i in both))) is not None:
                return other, entry
    return None


def bucket(
    name: str, number: Terms, writes: Space, values: Mapping[Any, Number], gate: Sequence[Coordinate]
) -> Neurons:
    """Neurons that write the label whose value is nearest to a number, and only where a coordinate of `gate` is 1.

    One ramp writes the lowest label. Each pair of neighbouring values has a ramp, a quarter of their distance to either
    side of the middle between them; it adds the upper label and subtracts the lower one. Where the gate is 0, every
    ramp stays below its beginning: its `low` is raised by more than the number can be, and the gate makes good for it.
    Raises `ConfigError` naming the bucket.
    """
    where = f"bucket {name!r}"
    if not isinstance(values, Mapping) or not values:
        raise ConfigError(f"{where}: no values; allowed: a mapping from labels to numbers")
    for label, value in values.items():
        if not is_finite(value):
            raise ConfigError(f"{where}: the value of {label!r} is {describe(value)}; allowed: a finite number")
    values = {writes.labels[writes.index(label, where)]: float(value) for label, value in values.items()}
    order = sorted(values, key=lambda label: values[label])
    for one, other in itertools.pairwise(order):
        if values[one] == values[other]:
            raise ConfigError(f"{where}: {one!r} and {other!r} have the same value, {values[one]:g}")
        if (apart := values[other] - values[one]) < NEAR:
            raise ConfigError(f"{where}: the values of {one!r} and {other!r} differ by {apart:.3g} only; allowed: "
                              f"{NEAR:g} or more")  # fmt: skip
    push = 2.0 * max(1.0, *(abs(value) for value in values.values()))
    open_gate = tuple((coordinate, 1.0) for coordinate in gate)
    ramps = [Ramp(open_gate, 0.25, 0.75, ((writes[order[0]], 1.0),))]
    for one, other in itertools.pairwise(order):
        middle, quarter = (values[one] + values[other]) / 2 + push, (values[other] - values[one]) / 4
        reads = (*number, *((coordinate, push) for coordinate in gate))
        written = ((writes[other], 1.0), (writes[one], -1.0))
        ramps.append(Ramp(reads, middle - quarter, middle + quarter, written))
    lowest = min(ramp.low for ramp in ramps[1:]) if len(ramps) > 1 else math.inf
    reach = (Reach(number, -math.inf, lowest),)
    return Neurons("bucket", name, UNSETTLED, tuple(ramps), gate=tuple(gate), reach=reach)


def pieced(number: Terms, given: Pieces, writes: Terms, factor: float, one: Coordinate) -> tuple[Ramp, ...]:
    """A piecewise-linear function of a number, as ramps: a constant, and one for each piece that is not level."""
    ramps: list[Ramp] = []

    def scaled(by: float) -> Terms:
        return tuple((coordinate, by * weight) for coordinate, weight in writes)

    if start := factor * given.values[0]:
        ramps.append(Ramp(((one, 1.0),), 0.25, 0.75, scaled(start)))
    for (low, value), (high, other) in itertools.pairwise(zip(given.knots, given.values, strict=True)):
        if other != value:
            ramps.append(Ramp(number, low, high, scaled(factor * (other - value)), snaps=False))
    return tuple(ramps)
