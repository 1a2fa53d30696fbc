"""Programs of papers, courses and other compilers, said in this language: how long each is, and that it is exact.

Run: python tests/circuits/programs.py     the table

A program is a class, in one of the files `programs_*.py`. `before` declares its circuit in the words that the language
began with (heads, tables and buckets, each with its layer), `after` in all the words that it has. `reference` says in
plain Python what is right, and `inputs` lists the texts of its check.
"""

import functools
import importlib
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from source_lines import n_lines

from circuits import Circuit
from circuits.gallery import Entry, entry
from circuits.verify import Expected, Report, every_text

if TYPE_CHECKING:
    from rich.table import Table

FILES = ["programs_counting", "programs_order", "programs_patterns", "programs_arithmetic"]


class Program(ABC):
    """A program in two versions."""

    def before(self) -> Circuit | None:
        """The circuit in the words that the language began with; None where they cannot say it."""
        return None

    @abstractmethod
    def after(self) -> Circuit:
        """The circuit in all the words of the language."""

    @abstractmethod
    def reference(self, text: str) -> list[Expected]:
        """What is right at each position."""

    @abstractmethod
    def inputs(self) -> Iterable[str]:
        """The texts it is checked on: all of a length, or of several, where nothing else is said."""

    def verify(self, circuit: Circuit, sample: int | None = None) -> Report:
        """The check of one of the versions, on all inputs or so many of them."""
        return circuit.verify(self.inputs(), self.reference, sample=sample, progress=False)

    @property
    def said(self) -> Callable[..., Circuit]:
        """The function whose lines are those of the version after."""
        return self.after


class OfGallery(Program):
    """A program whose version after is in the gallery, with its reference and its inputs.

    Attributes:
        name: of the entry.
    """

    name: str

    @property
    def entry(self) -> Entry:
        return entry(self.name)

    def after(self) -> Circuit:
        return self.entry.build()

    def reference(self, text: str) -> list[Expected]:
        return self.entry.reference(text)

    def inputs(self) -> Iterable[str]:
        return self.entry.inputs()

    @property
    def said(self) -> Callable[..., Circuit]:
        return self.entry.module.build


def of_lengths(letters: str, most: int) -> list[str]:
    """All texts of one to `most` letters."""
    return [text for length in range(1, most + 1) for text in every_text(letters, length)]


@functools.cache
def programs() -> dict[str, Program]:
    """All programs by name."""
    files = [importlib.import_module(name) for name in FILES]
    found = [one for file in files for one in vars(file).values() if inspect.isclass(one) and issubclass(one, Program)]
    return {one.__name__: one() for one in found if hasattr(one, "name") or not issubclass(one, OfGallery)
            if not inspect.isabstract(one)}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What is said of a program.

    Attributes:
        before, after: lines of the two versions; 0 where there is no version before.
        layers, neurons: of the version after.
        inputs: how many texts were run.
        exact: whether both versions are right on all of them.
    """

    name: str
    before: int
    after: int
    layers: int
    neurons: int
    inputs: int
    exact: bool


def row(name: str) -> Row:
    """Verify both versions of a program, and count."""
    program = programs()[name]
    before, after = program.before(), program.after()
    reports = [program.verify(circuit) for circuit in (before, after) if circuit is not None]
    model = after.compile()
    neurons = sum(int(block.mlp.W_out.any(-1).sum()) for block in model.blocks) if model.cfg.d_mlp else 0
    return Row(
        name,
        0 if before is None else n_lines(program.before),
        n_lines(program.said),
        model.cfg.n_layers,
        neurons,
        reports[-1].n_inputs,
        all(report.ok for report in reports),
    )


def table(names: Iterable[str] | None = None) -> "Table":
    """Lines before and after of the programs, and what they compile to."""
    from rich.table import Table

    shown = Table("program", title="Programs: lines of code, and what they compile to")
    for column in ("lines before", "after", "layers", "neurons", "inputs", "exact"):
        shown.add_column(column, justify="right")
    rows = [row(name) for name in names or programs()]
    for one in rows:
        cells = (one.after, one.layers, f"{one.neurons:,}", f"{one.inputs:,}", "yes" if one.exact else "no")
        shown.add_row(one.name, str(one.before or "cannot"), *map(str, cells))
    total = sum(one.before for one in rows if one.before), sum(one.after for one in rows if one.before)
    shown.add_section()
    shown.add_row("those said in both", *map(str, total), "", "", "", "")
    return shown


if __name__ == "__main__":
    from rich.console import Console

    sys.path.insert(0, str(Path(__file__).parent))
    Console().print(importlib.import_module("programs").table())  # as the files of programs import it
