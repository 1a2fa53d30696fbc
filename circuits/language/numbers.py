"""Numbers: what can be declared of numbers in the stream, functions and products of them, and buckets of labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from circuits.language import neurons
from circuits.language.declaration import Declaration
from circuits.language.forms import Form, copy
from circuits.language.holdings import Holdings
from circuits.language.knots import Pieces, pieces
from circuits.language.layout import Layout
from circuits.language.parts import UNSETTLED, Neurons, Ramp, Reach, Terms
from circuits.language.placed import placed
from circuits.language.space import Coordinate, Linear, Number, Space, is_finite, several
from circuits.language.stream import stretch
from interp.errors import ConfigError, describe
from interp.keywords import known_keywords


class Numbers(Declaration):
    """A declaration, and what it can say of numbers.

    Arguments, attributes and errors are those of `Declaration`.
    """

    @placed
    def bucket(
        self,
        layer: int | None,
        name: str,
        number: Space | Linear,
        writes: Space,
        values: Mapping[Any, Number],
        gate: Space | Coordinate | Sequence[Coordinate] | None = None,
    ) -> None:
        """A number as a one-hot label, in the MLP of a layer: the label of `writes` whose value is nearest.

        Args:
            layer, name: as for `head`.
            number: a coordinate, a sum of coordinates, or a space with a single label.
            writes: where the label goes.
            values: the number that each label stands for; below the first and above the last, these are taken.
            gate: nothing is written where this coordinate, or every coordinate of this space or list, is 0.

        Raises `ConfigError` naming the bucket: unknown labels, equal values, a space of several numbers.
        """
        name, where = self._new_name("bucket", layer, name)
        terms = self._number(where, number, "number")
        gate = self.one if gate is None else gate
        gates = [gate[label] for label in gate.labels] if isinstance(gate, Space) else several(gate)
        gates = list(dict.fromkeys(gates))
        if not gates or not all(isinstance(one, Coordinate) for one in gates):
            raise ConfigError(f"{where}: gate = {describe(gate)}; allowed: a space, or coordinates such as "
                              f"{self.tok.name}[{self.tok.labels[0]!r}]")  # fmt: skip
        self._check_space(where, writes, *(one.space for one in gates))
        self._add(neurons.bucket(name, terms, writes, values, gates), layer)

    @placed
    def function(
        self,
        layer: int | None,
        name: str,
        reads: Space | Linear,
        writes: Space | Linear | Form,
        f: Callable[[float], Number],
        *,
        knots: int | None = None,
        error: Number | None = None,
        over: tuple[Number, Number] | None = None,
    ) -> Pieces:
        """A function of a number, in the MLP of a layer: straight pieces between knots, constant outside of `over`.

        Args:
            layer, name: as for `head`.
            reads: a coordinate, a sum of coordinates with factors, or a space with a single label.
            writes: the same; or a form that copies from a space with one label, such as `copy(c.one, c.out, ...)`.
            f: the function, of one number.
            knots: how many; the error is then as small as they allow.
            error: how far the pieces may lie from `f`; there are then as many knots as that needs. By default a
                thousandth of the range of `f`.
            over: where `f` is followed; by default where what has been declared so far lets the number lie.

        Returns the pieces, with the error they reach. Raises `ConfigError` naming the function: a number without
        bounds, a value that is no finite number, an error that the knots cannot reach.
        """
        name, where = self._new_name("function", layer, name)
        number, written = self._number(where, reads), self._written(where, writes)
        low, high = self._over(where, number, over)
        given = pieces(where, f, low, high, knots, error)
        ramps = neurons.pieced(number, given, written, 1.0, self.one["1"])
        span = min(given.values), max(given.values)
        given_number = (Reach(number, low, high, over is None),)
        _check_writes(where, ramps)
        self._add(Neurons("function", name, UNSETTLED, ramps, reach=given_number, span=span, destinations=written,
                          error=given.error), layer)  # fmt: skip
        return given

    @placed
    def product(
        self,
        layer: int | None,
        name: str,
        a: Space | Linear,
        b: Space | Linear,
        writes: Space | Linear | Form,
        *,
        knots: int | None = None,
        error: Number | None = None,
        over: tuple[Number, Number] | None = None,
    ) -> float:
        """The product of two numbers, in the MLP of a layer: a b = (a + b)^2 / 4 - (a - b)^2 / 4.

        Args:
            layer, name, writes: as for `function`.
            a, b: coordinates, sums of coordinates, or spaces with a single label.
            knots: for each of the two squares.
            error: how far the result may lie from the product.
            over: where both numbers lie; by default what has been declared so far says it.

        Returns the largest error. Raises `ConfigError` as `function` does.
        """
        name, where = self._new_name("product", layer, name)
        first, second = self._number(where, a, "a"), self._number(where, b, "b")
        written = self._written(where, writes)
        (low, high), (other_low, other_high) = self._over(where, first, over), self._over(where, second, over)
        corners = [x * y for x in (low, high) for y in (other_low, other_high)]
        span = min(corners), max(corners)
        wanted = max(span[1] - span[0], 1e-9) / 1000 if error is None and knots is None else error
        minus = tuple((coordinate, -factor) for coordinate, factor in second)
        ramps: list[Ramp] = []
        reaches: list[Reach] = []
        reached = 0.0
        for number, bounds, sign in (
            ((*first, *second), (low + other_low, high + other_high), 0.25),
            ((*first, *minus), (low - other_high, high - other_low), -0.25),
        ):  # a chord lies above its square, so that the errors of the two squares have opposite signs
            square = pieces(where, lambda u: u * u, *bounds, knots, None if wanted is None else 4 * wanted)
            ramps += neurons.pieced(number, square, written, sign, self.one["1"])
            reaches.append(Reach(number, *bounds, over is None))
            reached = max(reached, square.error / 4)
        span = span[0] - reached, span[1] + reached
        _check_writes(where, ramps)
        self._add(Neurons("product", name, UNSETTLED, tuple(ramps), reach=tuple(reaches), span=span,
                          destinations=written, error=reached), layer)  # fmt: skip
        return reached

    @known_keywords
    def number(self, logit: Coordinate, reads: Space | Linear) -> None:
        """A logit that is a number: the unembedding reads it from a coordinate, a sum, or a space with one label.

        `c.number(c.out["%"], mean["sum"])`; a reference gives {"%": .25}. Raises `ConfigError` for a logit that is no
        coordinate of `out`.
        """
        if not isinstance(logit, Coordinate) or logit.space != self.out:
            raise ConfigError(f"number: {describe(logit)}; allowed: a coordinate of {self.out.name!r}, such as "
                              f"out[{self.out.labels[0]!r}]")  # fmt: skip
        terms = self._number(f"number {logit}", reads)
        if not all(factor for _, factor in terms):
            raise ConfigError(f"number {logit}: reads = {reads}; allowed: factors other than 0")
        for coordinate, factor in terms:
            read = coordinate.space
            relation = torch.zeros(len(read), len(self.out), dtype=torch.float64)
            relation[read.index(coordinate.label), self.out.index(logit.label)] = factor
            self.directs.append(copy(read, self.out, relation, drop=()))

    def _number(self, where: str, number: Space | Linear, what: str = "reads") -> Terms:
        """A number that is read, or a place that is written, as coordinates with factors."""
        if isinstance(number, Space):
            self._check_space(where, number)
            if len(number) != 1:
                words = isinstance(number.labels[0], str)
                whole = "" if words else "; a label is the number sum(n * s[n] for n in s.labels)"
                raise ConfigError(f"{where}: space {number.name!r} has {len(number)} numbers; say which, as in "
                                  f"{number.name}[{number.labels[0]!r}]{whole}")  # fmt: skip
            number = number[number.labels[0]]
        if not isinstance(number, Linear):
            allowed = "a coordinate such as space['label'], a sum of such, or a space with one label"
            raise ConfigError(f"{where}: {what} = {describe(number)}; allowed: {allowed}")
        self._check_space(where, *(coordinate.space for coordinate, _ in number.terms))
        return number.terms

    def _written(self, where: str, writes: Space | Linear | Form) -> Terms:
        """Where a number is written; a form from a space with one label says several places with factors."""
        if not isinstance(writes, Form):
            return self._number(where, writes, "writes")
        terms: list[tuple[Coordinate, float]] = []
        for term in writes.terms:
            self._check_space(where, term.rows, term.columns)
            if len(term.rows) != 1:
                raise ConfigError(f"{where}: {term.name} copies from {len(term.rows)} labels, and here is one number; "
                                  "copy from a space with one label, such as c.one")  # fmt: skip
            factors = zip(term.columns.labels, term.weighted[0].tolist(), strict=True)
            terms += [(term.columns[label], factor) for label, factor in factors if factor]
        return tuple(terms)

    def _over(self, where: str, number: Terms, over: tuple[Number, Number] | None) -> tuple[float, float]:
        """Between what a number lies: as given, or as follows from what has been declared so far."""
        if over is not None:
            return stretch(where, over)
        read = [coordinate.space for coordinate, _ in number]
        low, high = Holdings(Layout(self, also=read, unfinished=True)).reach(number)
        if not is_finite(low) or not is_finite(high):
            raise ConfigError(f"{where}: what it reads is not bounded; say by over=(low, high) where it lies")
        if low == high:
            raise ConfigError(f"{where}: what it reads is always {low:g}, as nothing that was declared before writes "
                              "it; declare what writes it first, or give over=(low, high)")  # fmt: skip
        return low, high


def _check_writes(where: str, ramps: Sequence[Ramp]) -> None:
    """Raise `ConfigError`, whose message begins with `where`, for a function that is 0 everywhere."""
    if not ramps:
        raise ConfigError(f"{where}: it is 0 everywhere, and would write nothing")
