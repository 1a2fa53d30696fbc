"""Forms: what a head matches, and what it copies, as sums of blocks between spaces.

A form is a matrix between two parts of the stream that is written down by what it relates. Read as query x key, it is a
QK circuit: `match(pos, pos, shift(1))` scores 1 where the key's position is the query's minus 1. Read as
source -> destination, it is an OV circuit: `copy(tok, prev)` writes the token it attends to into the space `prev`.
Forms add and scale: `match(tok, back1) + 0.6 * match(back1, back2)`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.language.space import Label, Number, Space, is_finite, listed
from interp.errors import ConfigError, describe
from interp.indices import is_index
from interp.keywords import known_keywords


@dataclass(frozen=True)
class Shift:
    """The relation "n places later": position i is related to position i - n."""

    n: int

    def __post_init__(self) -> None:
        if not is_index(self.n):
            raise ConfigError(f"shift({describe(self.n)}); allowed: a whole number of places")

    def __repr__(self) -> str:
        return f"shift({self.n})"


@known_keywords
def shift(n: int) -> Shift:
    """Relates the i-th label to the (i - n)-th: as a match of positions, "attend n back" (negative n: ahead).

    Raises `ConfigError` for anything but an integer.
    """
    return Shift(n)


Relation = (
    Shift
    | Mapping[Any, Label | Iterable[Label]]
    | Callable[[Any, Any], bool | float]
    | Sequence[Sequence[Number]]
    | Tensor
)
"""Which labels of the first space go with which of the second: a shift, a mapping from a label to one or several (a
permutation is one), a function of two labels (true, or a weight), or the whole matrix."""


@dataclass(frozen=True, eq=False)
class Term:
    """One block of a form.

    Attributes:
        name: as messages show it, such as "match(tok, prev)".
        rows, columns: the spaces it relates: query and key, or source and destination.
        matrix: what it relates, before the weight.
        weight: the factor in front.
        shift: the n of the relation `shift(n)`, which is 0 for equality; None for other relations. A position code may
            write shifts in a way of its own.
        drops_bos: whether a head with a sink leaves this out where it reads the start of the text.
    """

    name: str
    rows: Space
    columns: Space
    matrix: Float[Tensor, "rows columns"]
    weight: float = 1.0
    shift: int | None = None
    drops_bos: bool = False

    @property
    def weighted(self) -> Float[Tensor, "rows columns"]:
        """The block with its weight."""
        return self.weight * self.matrix

    def without(self, label: Label) -> "Term":
        """A copy of this term that reads nothing from one label of its rows."""
        matrix = self.matrix.clone()
        matrix[self.rows.index(label)] = 0
        return replace(self, matrix=matrix)

    def __repr__(self) -> str:
        return self.name if self.weight == 1 else f"{self.weight:g} * {self.name}"


@dataclass(frozen=True, eq=False)
class Form:
    """A sum of terms. `a + b`, `a - b`, `2 * a`, `-a`, `sum([a, b])`; the empty form relates nothing.

    Raises `ConfigError` for a factor that is no finite number.

    >>> from circuits import Circuit
    >>> c = Circuit(vocab="ab", n_ctx=3)
    >>> both = copy(c.tok, c.out) + 2 * match(c.tok, c.tok)
    >>> len(both.terms)
    2
    """

    terms: tuple[Term, ...] = ()

    def __add__(self, other: "Form") -> "Form":
        if not isinstance(other, Form):
            return NotImplemented
        return Form(self.terms + other.terms)

    def __radd__(self, other: object) -> "Form":
        return self if other == 0 else NotImplemented  # `sum` begins with 0

    def __mul__(self, factor: Number) -> "Form":
        if not is_finite(factor):
            raise ConfigError(f"{describe(factor)} * ({self}); allowed: a finite number")
        return Form(tuple(replace(term, weight=float(factor) * term.weight) for term in self.terms))

    __rmul__ = __mul__

    def __neg__(self) -> "Form":
        return -1.0 * self

    def __sub__(self, other: "Form") -> "Form":
        if not isinstance(other, Form):
            return NotImplemented
        return self + -other

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms)).replace("+ -", "- ") or "nothing"


NOTHING = Form()
"""The empty form."""


@known_keywords
def match(query: Space, key: Space, relation: Relation | None = None) -> Form:
    """Score 1 where the key's label in `key` is related to the query's label in `query`; by default, is the same.

    Raises `ConfigError` naming this match: spaces whose labels differ without a relation, a relation with labels that
    are not there, of another shape, with weights that are no finite numbers, or that relates nothing.
    """
    return _form("match", query, key, relation)


@known_keywords
def copy(
    source: Space, destination: Space, relation: Relation | None = None, drop: Label | Iterable[Label] | None = None
) -> Form:
    """Write, for each label of `source`, the related label of `destination`; by default, the same.

    Labels in `drop` are not copied. With `drop=()` all are copied. Without `drop` all are copied as well, except by a
    head with a sink: such a head rests at the start of the text, and copies neither the word `bos` nor position 0.
    Raises `ConfigError` as `match` does.
    """
    form = _form("copy", source, destination, relation)
    (term,) = form.terms
    for label in _labels(drop if drop is not None else ()):
        source.index(label, f"{term.name}, drop={label!r}")
        term = term.without(label)
    return Form((replace(term, drops_bos=drop is None),))


def _form(verb: str, rows: Space, columns: Space, relation: Relation | None) -> Form:
    for space in (rows, columns):
        if not isinstance(space, Space):
            raise ConfigError(f"{verb} relates two spaces, and {describe(space)} is none")
    name = f"{verb}({rows.name}, {columns.name})"
    matrix = _matrix(name, rows, columns, relation)
    if not isinstance(relation, Shift) and not matrix.any():
        raise ConfigError(f"{name}: the relation relates no label of {rows.name!r} to one of {columns.name!r}")
    by = 0 if relation is None else relation.n if isinstance(relation, Shift) else None
    return Form((Term(name, rows, columns, matrix, shift=by),))


def _matrix(name: str, rows: Space, columns: Space, relation: Relation | None) -> Float[Tensor, "rows columns"]:
    matrix = torch.zeros(len(rows), len(columns), dtype=torch.float64)
    if relation is None or isinstance(relation, Shift):
        if set(rows.labels) != set(columns.labels):
            advice = f"{relation} needs the same for both"
            if relation is None:
                both = not set(rows.labels).isdisjoint(columns.labels)
                such = ", such as lambda a, b: a == b for those that both have" if both else ""
                advice = f"say by relation= which go together{such}"
            raise ConfigError(
                f"{name}: the labels of {rows.name!r} ({listed(rows.labels)}) and of {columns.name!r} "
                f"({listed(columns.labels)}) differ; {advice}"
            )
        by = 0 if relation is None else relation.n
        for i, label in enumerate(rows.labels):
            if 0 <= i - by < len(rows):
                matrix[i, columns.index(rows.labels[i - by] if by else label)] = 1
    elif isinstance(relation, Mapping):
        for label, related in relation.items():
            for other in _labels(related):
                matrix[rows.index(label, name), columns.index(other, name)] = 1
    elif callable(relation):
        for i, label in enumerate(rows.labels):
            for j, other in enumerate(columns.labels):
                try:
                    weight = relation(label, other)
                except TypeError as error:  # such as a function of one label
                    said = f"{name}: the relation of {label!r} and {other!r} fails ({error})"
                    raise ConfigError(f"{said}; allowed: a function of two labels") from error
                if not isinstance(weight, bool) and not is_finite(weight):
                    said = f"the relation of {label!r} and {other!r} is {describe(weight)}"
                    raise ConfigError(f"{name}: {said}; allowed: true, false, or a finite number")
                matrix[i, j] = float(weight)
    else:
        given = _numbers(name, relation)
        if given.ndim == 0:
            raise ConfigError(f"{name}: the relation is {describe(relation)}; allowed: shift(n), n places back, a "
                              "mapping, a function of two labels, or a matrix")  # fmt: skip
        if given.shape != matrix.shape:
            raise ConfigError(f"{name}: the relation has shape {tuple(given.shape)}, not {tuple(matrix.shape)}, the "
                              f"labels of {rows.name!r} and of {columns.name!r}")  # fmt: skip
        if not given.isfinite().all():
            raise ConfigError(f"{name}: the relation has entries that are not finite")
        matrix = given.clone()
    return matrix


def _numbers(name: str, relation: Any) -> Tensor:
    """A relation that is a whole matrix, as one."""
    allowed = "shift(n), a mapping, a function of two labels, or a matrix"
    return real_tensor(f"{name}: the relation", relation, allowed).detach()


def real_tensor(where: str, given: Any, allowed: str = "a tensor") -> Tensor:
    """Real numbers as a tensor in float64, on the CPU, with their gradient.

    Raises `ConfigError`, whose message begins with `where`, for what is none, and for complex numbers.

    >>> real_tensor("weights", [1, 2])
    tensor([1., 2.], dtype=torch.float64)
    """
    try:
        numbers = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:  # such as a word, or rows of several lengths
        raise ConfigError(f"{where} is {describe(given)}; allowed: {allowed}") from error
    if numbers.is_complex():
        raise ConfigError(f"{where} has numbers of {numbers.dtype}; allowed: real numbers")
    return numbers.double().cpu()


def _labels(given: Label | Iterable[Label]) -> Iterable[Label]:
    """One label or several, as several. Whether they exist is checked where they are looked up."""
    return given if isinstance(given, Iterable) and not isinstance(given, str) else [given]
