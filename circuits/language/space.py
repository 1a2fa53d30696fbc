"""Space: a named part of the residual stream, with one direction for each thing it can say."""

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, SupportsFloat

from interp.errors import ConfigError, describe, did_you_mean
from interp.indices import is_index

Label = str | int
"""What one direction of a space stands for: a word, a number, a position."""

Number = int | float
"""A real number: an integer, or a float."""

Holds = Literal["one", "shares", "numbers"]
"""What a space holds at a position: one of its labels (or states) or nothing; shares of labels, which are 0 or more and
sum to 1 or less; or any numbers."""


def is_finite(value: object) -> bool:
    """Whether a value is a real number that is neither infinite nor NaN. True and False are no numbers here.

    >>> is_finite(2), is_finite(True), is_finite(float("inf"))
    (True, False, False)
    """
    if isinstance(value, str | bool) or not isinstance(value, SupportsFloat):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError, RuntimeError):  # such as a tensor of several numbers, or 10**400
        return False


def plain(label: Any) -> Any:
    """An integer of any kind, such as numpy's, as Python's own; anything else as it is.

    >>> import numpy as np
    >>> plain(np.int64(3)), plain("a")
    (3, 'a')
    """
    return operator.index(label) if not isinstance(label, str | int) and is_index(label) else label


@dataclass(frozen=True)
class Space:
    """A named subspace of the residual stream.

    Attributes:
        name: what messages and `edges()` call it.
        labels: one for each of its orthonormal directions, all different.
        states: the vectors over the labels that the space can hold. By default these are the labels, each alone.
            Spaces of features need them: a dense word vector holds several features at once.

    Raises `ConfigError` for a name that is no word, for a space without labels, for labels that are repeated or that
    are neither words nor integers, and for states of another length.

    >>> from circuits import Circuit
    >>> c = Circuit(vocab="ab", n_ctx=3)
    >>> c.tok.name, c.tok.labels
    ('tok', ('a', 'b'))
    """

    name: str
    labels: tuple[Label, ...]
    states: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"a space is called {describe(self.name)}; allowed: a word")
        if not self.labels:
            raise ConfigError(f"space {self.name!r} has no labels")
        seen: dict[Label, int] = {}
        object.__setattr__(self, "labels", tuple(plain(label) for label in self.labels))
        for place, label in enumerate(self.labels):
            if not isinstance(label, str | int) or isinstance(label, bool):
                raise ConfigError(
                    f"space {self.name!r}: label {describe(label)} at place {place}; allowed: words and integers"
                )
            if (first := seen.setdefault(label, place)) != place:
                raise ConfigError(f"space {self.name!r}: label {label!r} stands at places {first} and {place}")
        for state in self.states:
            if len(state) != len(self.labels):
                raise ConfigError(f"space {self.name!r} has {len(self.labels)} labels, but a state of {len(state)}")

    def __len__(self) -> int:
        return len(self.labels)

    def index(self, label: Label, where: str = "") -> int:
        """The place of a label.

        Raises `ConfigError` with the nearest label; its message begins with `where`, which says who asked.
        """
        label = plain(label)
        if not isinstance(label, str | int) or isinstance(label, bool) or label not in self._places:
            near = did_you_mean(str(label), map(str, self.labels), said={str(one): repr(one) for one in self.labels})
            message = f"space {self.name!r} has no label {describe(label)}; it has {listed(self.labels)}{near}"
            raise ConfigError(f"{where}: {message}" if where else message)
        return self._places[label]

    @cached_property
    def _places(self) -> dict[Label, int]:
        return {label: place for place, label in enumerate(self.labels)}

    def __getitem__(self, label: Label) -> "Coordinate":
        return Coordinate(self, self.labels[self.index(label)])

    def __iter__(self) -> None:  # `__getitem__` alone would make a space iterable, by labels that do not exist
        raise TypeError(f"space {self.name!r} is not a sequence; iterate over its labels")

    def __repr__(self) -> str:
        return f"Space({self.name!r}, {listed(self.labels)})"


class Linear(ABC):
    """What can be added and scaled: a coordinate, or a sum of coordinates. Python's `sum` adds several.

    A constant is a multiple of the constant coordinate, `c.one["1"]`; a bare number is refused (`ConfigError`).
    """

    @property
    @abstractmethod
    def terms(self) -> tuple[tuple["Coordinate", float], ...]:
        """Coordinates with their factors."""

    def __add__(self, other: "Linear") -> "Sum":
        if isinstance(other, Linear):
            return Sum(self.terms + other.terms)
        if is_finite(other):
            raise ConfigError(f"{self} + {other!r}: a bare number is no coordinate; say {other!r} * c.one['1']")
        return NotImplemented

    def __radd__(self, other: object) -> "Sum":
        return Sum(self.terms) if other == 0 else self + other  # pyright: ignore[reportOperatorIssue]  # `sum` begins with 0

    def __mul__(self, factor: Number) -> "Sum":
        if not is_finite(factor):
            raise ConfigError(f"{describe(factor)} * {self}; allowed: a finite number")
        return Sum(tuple((coordinate, float(factor) * weight) for coordinate, weight in self.terms))

    __rmul__ = __mul__

    def __neg__(self) -> "Sum":
        return -1.0 * self

    def __sub__(self, other: "Linear") -> "Sum":
        return self + -other if isinstance(other, Linear) or is_finite(other) else NotImplemented


@dataclass(frozen=True)
class Coordinate(Linear):
    """One direction of a space, read as a number. `a["x"] + 2 * b["y"]` is a `Sum`."""

    space: Space
    label: Label

    @property
    def terms(self) -> tuple[tuple["Coordinate", float], ...]:
        """The coordinate itself, with factor 1."""
        return ((self, 1.0),)

    def __repr__(self) -> str:
        return f"{self.space.name}[{self.label!r}]"


@dataclass(frozen=True)
class Sum(Linear):
    """A sum of coordinates with factors: a number that is read, or where a number is written."""

    summands: tuple[tuple[Coordinate, float], ...]

    @property
    def terms(self) -> tuple[tuple[Coordinate, float], ...]:
        """Coordinates with their factors."""
        return self.summands

    def __repr__(self) -> str:
        said = " + ".join(repr(one) if factor == 1 else f"{factor:g} * {one}" for one, factor in self.terms)
        return said.replace("+ -", "- ") or "0"


def several(given: Any) -> list[Any]:
    """One or several, as several. Whether they are what is allowed is checked by the caller."""
    return list(given) if isinstance(given, Iterable) and not isinstance(given, Space | str) else [given]


def listed(labels: Iterable[object]) -> str:
    """Labels in a row for a message: all of them, or the first few and the last.

    >>> listed(range(3)), listed(range(100))
    ('0 1 2', '0 1 2 3 4 5 ... 99 (100 labels)')
    """
    names = [str(label) for label in labels]
    return " ".join(names) if len(names) <= 8 else f"{' '.join(names[:6])} ... {names[-1]} ({len(names)} labels)"


def shortened(value: object, width: int) -> str:
    """The repr of a value, cut off with dots where it is wider than so many columns.

    >>> shortened("a" * 50, width=10)
    "'aaaaa ..."
    """
    return cut(repr(value), width)


def cut(said: str, width: int = 80) -> str:
    """Words for a message or a repr, cut off with dots where they are wider than so many columns.

    >>> cut("a very long description", width=10)
    'a very ...'
    """
    return said if len(said) <= width else f"{said[: width - 4]} ..."
