"""Layers by themselves: each part that was given none goes into the earliest one after all that it reads."""

from collections.abc import Sequence
from dataclasses import replace

from circuits.language.parts import UNSETTLED, Head, Part
from interp.errors import ConfigError


def settle(declared: Sequence[Part], tied_to: str | None) -> list[Part]:
    """The parts with their layers, in the same order.

    A part waits for everything that writes a space it reads, but for itself. Heads of a layer read what earlier layers
    wrote, its cross heads also what its heads wrote, its MLP what both wrote. A layer that was given is kept as it is.
    In a circuit that is tied, predictions are written into the space of words (`tied_to`), and who reads a word does
    not wait for them.

    Raises `ConfigError` for parts that read one another in a circle, naming them all.
    """
    writers: dict[str, list[int]] = {}
    for number, part in enumerate(declared):
        for name in written_spaces(part) - {tied_to}:
            writers.setdefault(name, []).append(number)
    layers = [part.layer for part in declared]
    waiting: list[int] = []

    def layer_of(number: int) -> int:
        if layers[number] != UNSETTLED:
            return layers[number]
        if number in waiting:
            raise _circle([declared[i] for i in waiting[waiting.index(number) :]])
        waiting.append(number)
        part, earliest = declared[number], 0
        for other in sorted({one for name in read_spaces(part) for one in writers.get(name, ())} - {number}):
            earliest = max(earliest, layer_of(other) + (0 if declared[other].phase < part.phase else 1))
        waiting.pop()
        layers[number] = earliest
        return earliest

    return [replace(part, layer=layer_of(number)) for number, part in enumerate(declared)]


def read_spaces(part: Part) -> set[str]:
    """The names of the circuit's own spaces that a part reads; see `read_of_source` for the others."""
    if isinstance(part, Head):
        return {term.rows.name for term in part.scores.terms} | (set() if part.cross else _read_of_keys(part))
    looked_up = {space.name for space in part.table.reads} if part.table is not None else set()
    terms = [*(ramp.reads for ramp in part.ramps), *(reach.number for reach in part.reach)]
    return looked_up | {coordinate.space.name for number in terms for coordinate, _ in number}


def read_of_source(part: Part) -> set[str]:
    """The names of the source's spaces that a part reads: none, unless it is a cross head."""
    return _read_of_keys(part) if isinstance(part, Head) and part.cross else set()


def _read_of_keys(head: Head) -> set[str]:
    return {term.columns.name for term in head.scores.terms} | {term.rows.name for term in head.ov.terms}


def written_spaces(part: Part) -> set[str]:
    """The names of the spaces that a part writes."""
    if isinstance(part, Head):
        return {term.columns.name for term in part.ov.terms}
    return {coordinate.space.name for ramp in part.ramps for coordinate, _ in ramp.writes}


def _circle(parts: Sequence[Part]) -> ConfigError:
    steps: list[str] = []
    for reader, writer in zip(parts, [*parts[1:], parts[0]], strict=True):
        space = min(read_spaces(reader) & written_spaces(writer))
        steps.append(f"{reader.title} reads {space!r}, which {writer.title} writes")
    return ConfigError(f"no layer is early enough: {'; '.join(steps)}; give one of them a layer")
