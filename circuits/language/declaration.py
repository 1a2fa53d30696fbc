"""Declaration: the words, positions, spaces and parts that a circuit is declared with.

Everything else is derived from it: the graph of its parts, what it means (`interpreter.py`), and the weights of a model
(`circuits.compiler`). `Circuit` is a declaration with these derivations as methods.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Self, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.language import neurons
from circuits.language.forms import Form, copy, match
from circuits.language.gaps import possible_scores
from circuits.language.heads import but_the_start, hard_head, soft_head
from circuits.language.knots import Pieces, pieces
from circuits.language.layers import settle
from circuits.language.parts import (
    EMBED,
    POS_EMBED,
    UNEMBED,
    UNSETTLED,
    Attend,
    Head,
    Neurons,
    Part,
    Ramp,
    Reach,
    Table,
    Terms,
    Ties,
)
from circuits.language.placed import placed
from circuits.language.space import Coordinate, Label, Linear, Number, Space, cut, is_finite
from circuits.language.stream import SCOPE, Stream, stretch
from interp.errors import ConfigError, TokenError, check_choice, describe
from interp.indices import is_index
from interp.keywords import known_keywords
from interp.text import Ids, Text, Vocabulary


class Declaration(Stream):
    """What a circuit declares: its words, its longest text, its spaces (see `Stream`), and its parts.

    A layer is left out (`c.head("previous", ...)`) or given first (`c.head(0, "previous", ...)`). A part without one
    goes into the earliest layer after everything that writes what it reads.

    Attributes:
        directs: what the unembedding reads beside `out`, as forms; see `direct` and `number`.

    Arguments and errors are those of `Stream`.
    """

    @known_keywords
    def __init__(
        self,
        vocab: str | Iterable[str] | Vocabulary,
        n_ctx: int,
        bos: str | None = None,
        attention_dir: Literal["causal", "bidirectional"] = "causal",
        tied: bool = False,
        nothing_below: Number | None = None,
    ):
        super().__init__(vocab, n_ctx, bos, attention_dir, tied, nothing_below)
        self.directs: list[Form] = []
        self._declared: list[Part] = []
        self._settled: list[Part] | None = None

    @placed
    def head(
        self,
        layer: int | None,
        name: str,
        qk: Form | None = None,
        ov: Form | None = None,
        *,
        sink: Number | None = None,
        ties: Ties = "mean",
        recency: Number | None = None,
        sharp: Number | None = None,
        gap: Number | None = None,
        attend: Attend = "hard",
    ) -> Head:
        """An attention head.

        Args:
            layer: from 0 on, or None; heads of one layer read the same stream.
            name: what messages and `edges()` call it.
            qk: what makes a key a match; without it, all visible keys tie.
            ov: what is copied from the key that is attended to.
            sink: weight of the start of the text as a key, to which the head goes where nothing matches. By default
                between no match and the smallest match (0 without `bos` or `qk`, and for soft heads); with 0 there is
                none, and without a match the head averages over what it sees. A head with a sink copies nothing from
                there (see `copy`).
            ties: what to attend to where several keys match: their "mean", the "latest" or the "first".
            recency: how much the latest key is preferred to the first, for ties "latest" and "first"; below half the
                gap, by default .4 of it.
            sharp: factor on the scores; by default what `compile` needs for its error, and 1 for a soft head.
            gap: by how much scores differ at least; by default computed from the form. With it the head may also match
                spaces that hold shares or numbers.
            attend: "hard", to the best keys alone, or "soft", to all keys by the softmax of the scores times `sharp`,
                for the interpreter as for the model. A soft head has neither ties, recency nor gap.

        Returns the head as declared; its layer is settled in `parts`. Raises `ConfigError` naming the head: an
        impossible layer, a name that is taken, a space of another circuit, a sink without `bos`, a recency or gap out
        of range, a gap that is needed and not known.
        """
        name, where = self._new_name("head", layer, name)
        for what, form in (("qk", qk), ("ov", ov)):
            if form is not None and not isinstance(form, Form):
                raise ConfigError(f"{where}: {what} = {describe(form)}; allowed: a form, as match and copy return")
        qk, ov = qk or Form(), ov or Form()
        for term in (*qk.terms, *ov.terms):
            self._check_space(where, term.rows, term.columns)
        check_choice(f"{where}: attend", attend, get_args(Attend))
        for what, value in (("sharp", sharp), ("gap", gap)):
            if value is not None and not (is_finite(value) and value > 0):
                raise ConfigError(f"{where}: {what} = {describe(value)}; allowed: a finite number above 0")
        if attend == "soft":
            head = soft_head(self, name, qk, ov, sink, sharp, ties=ties, recency=recency, gap=gap)
        else:
            head = hard_head(self, name, qk, ov, sink, ties, recency, sharp, gap)
        self._add(head, layer, name)
        return head

    @placed
    def mlp(
        self,
        layer: int | None,
        name: str,
        reads: Space | Sequence[Space],
        writes: Space | Sequence[Space],
        table: Table,
        otherwise: Label | tuple[Label, ...] | None = None,
        overlaps: Literal["error", "sum"] = "error",
    ) -> None:
        """A lookup table in the MLP of a layer: one ramp an entry.

        An entry fires where every space holds what its key says, and writes one label into each space of `writes`.

        Args:
            layer, name: as for `head`.
            reads, writes: a space or several.
            table: a mapping from labels (a tuple where there are several spaces; `...` stands for anything, None for an
                empty space), or a function of one label a space which returns None for nothing.
            otherwise: what is written where no entry fires.
            overlaps: whether entries that can fire together are an "error", or meant to "sum".

        Raises `ConfigError` naming the table: unknown labels, entries that overlap, a table without entries.
        """
        name, where = self._new_name("mlp", layer, name)
        read, written = _several(reads), _several(writes)
        self._check_space(where, *read, *written)
        if not written:
            raise ConfigError(f"{where}: it writes no space; allowed: a space or several")
        check_choice(f"{where}: overlaps", overlaps, ("error", "sum"))
        given = neurons.listed_table(where, read, written, table, otherwise, overlaps == "sum")
        self._add(neurons.lookup(name, given, self.one["1"]), layer, name)

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
        gates = [gate[label] for label in gate.labels] if isinstance(gate, Space) else _several(gate)
        gates = list(dict.fromkeys(gates))
        if not gates or not all(isinstance(one, Coordinate) for one in gates):
            raise ConfigError(f"{where}: gate = {describe(gate)}; allowed: a space, or coordinates such as "
                              f"{self.tok.name}[{self.tok.labels[0]!r}]")  # fmt: skip
        self._check_space(where, writes, *(one.space for one in gates))
        self._add(neurons.bucket(where, terms, writes, values, gates), layer, name)

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
        given_number = (Reach(number, low, high),)
        self._add(self._of_function(where, ramps, given_number, span, written, given.error), layer, name)
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
            reaches.append(Reach(number, *bounds))
            reached = max(reached, square.error / 4)
        span = span[0] - reached, span[1] + reached
        self._add(self._of_function(where, tuple(ramps), tuple(reaches), span, written, reached), layer, name)
        return reached

    @placed
    def count(
        self,
        layer: int | None,
        name: str,
        qk: Form | None,
        up_to: int,
        gate: Space | Coordinate | Sequence[Coordinate] | None = None,
    ) -> Space:
        """How many visible keys match, as a label: a new space with the labels 0 to `up_to`.

        A head spreads over the keys that match and over the start of the text, which so gets the share 1 / (n + 1); a
        bucket turns the share into n. More than `up_to` count as `up_to`.

        Args:
            layer, name: as for `head`; the space has this name, too.
            qk: what makes a key a match; without it, every key counts. Those count that have the largest score which
                `qk` can give, so that a sum of matches counts the keys that match in all of them. The start never does.
            up_to: the largest label.
            gate: nothing is written where this coordinate, or every coordinate of this space or list, is 0; by default
                at the start of the text.

        Raises `ConfigError` naming the count: a circuit without `bos`, scores that are not known, and a match by a
        space in which the embedding of the start matches.
        """
        name, where = self._new_name("count", layer, name)
        if self.bos is None:
            raise ConfigError(f"{where}: counting needs the start of the text; give the circuit bos=")
        if not is_index(up_to) or up_to < 1:
            raise ConfigError(f"{where}: up_to = {describe(up_to)}; allowed: 1 or more")
        words = [word for word in self.vocabulary.words if word != self.bos]
        inner = name.removeprefix("".join(scope + SCOPE for scope in self._scopes))
        qk = match(self.one, self.tok, {"1": words}) if qk is None else qk
        if not isinstance(qk, Form):
            raise ConfigError(f"{where}: qk = {describe(qk)}; allowed: a form, as match returns")
        qk = but_the_start(self, where, qk)
        scores = possible_scores(qk, self.holds, self.n_ctx).values
        if scores is None or not float(scores[-1]) > 0:
            said = "its scores are not known" if scores is None else "no key scores above 0"
            raise ConfigError(f"{where}: {said}; allowed: a match of labels")
        share, counted = self.space(f"{inner}/share", ["of the start"]), self.space(inner, range(up_to + 1))
        shares = copy(self.tok, share, {self.bos: "of the start"}, drop=())
        self.head(layer, inner, qk=qk, ov=shares, sink=float(scores[-1]))
        values = {n: 1 / (n + 1) for n in range(up_to + 1)}
        gate = [self.tok[word] for word in words] if gate is None else gate
        self.bucket(layer, f"{inner}/number", share, counted, values, gate=gate)
        return counted

    @known_keywords
    def direct(self, form: Form) -> None:
        """What the unembedding reads beside `out`: a path without a layer, from any space to words.

        `copy(c.tok, c.out, log_probabilities)` is a bigram model. Raises `ConfigError` for a form that leads elsewhere
        than to `out`.
        """
        if not isinstance(form, Form) or not form.terms:
            raise ConfigError(f"direct: {describe(form)}; allowed: a form, as copy returns")
        for term in form.terms:
            self._check_space(f"direct: {term.name}", term.rows, term.columns)
            if term.columns != self.out:
                raise ConfigError(f"direct: {term.name} leads to {term.columns.name!r}; allowed: {self.out.name!r}")
        self.directs.append(form)

    @known_keywords
    def number(self, logit: Coordinate, reads: Space | Linear) -> None:
        """A logit that is a number: the unembedding reads it from a coordinate, a sum, or a space with one label.

        `c.number(c.out["%"], mean["sum"])`; a reference gives {"%": .25}. Raises `ConfigError` for a logit that is no
        coordinate of `out`.
        """
        if not isinstance(logit, Coordinate) or logit.space != self.out:
            raise ConfigError(f"number: {describe(logit)}; allowed: a coordinate of {self.out.name!r}, such as "
                              f"out[{self.out.labels[0]!r}]")  # fmt: skip
        for coordinate, factor in self._number(f"number {logit}", reads):
            read = coordinate.space
            relation = torch.zeros(len(read), len(self.out), dtype=torch.float64)
            relation[read.index(coordinate.label), self.out.index(logit.label)] = factor
            self.directs.append(copy(read, self.out, relation, drop=()))

    @staticmethod
    def _of_function(
        where: str,
        ramps: tuple[Ramp, ...],
        reach: tuple[Reach, ...],
        span: tuple[float, float],
        destinations: Terms,
        error: float,
    ) -> Neurons:
        if not ramps:
            raise ConfigError(f"{where}: it is 0 everywhere, and would write nothing")
        return Neurons(where, UNSETTLED, ramps, reach=reach, span=span, destinations=destinations, error=error)

    def __copy__(self) -> Self:
        """A declaration of its own: what is declared in one of the two later is not in the other."""
        new = type(self).__new__(type(self))
        vars(new).update({name: value.copy() if isinstance(value, dict | list) else value
                          for name, value in vars(self).items()})  # fmt: skip
        return new

    # ------------------------------------------------------------------ what it says

    @property
    def parts(self) -> list[Part]:
        """Heads and MLPs in order of declaration, with their layers.

        Raises `ConfigError` if parts without a layer read one another in a circle.
        """
        if self._settled is None:
            self._settled = settle(self._declared, tied_to=self.tok.name if self.out is self.tok else None)
        return self._settled

    @property
    def heads(self) -> list[Head]:
        """The attention heads, in order of declaration; within a layer, this is their order in the model."""
        return [part for part in self.parts if isinstance(part, Head)]

    @property
    def n_layers(self) -> int:
        """The number of layers: one more than the highest that a part is in, and 0 without parts."""
        return 1 + max((part.layer for part in self.parts), default=-1)

    def tokens(self, input: Text | Ids) -> Int[Tensor, "batch pos"]:
        """Token ids of one text or several, or the ids given, after every check.

        Raises `TokenError` as `Stream.tokens` does, and for a text in which the start comes again although a head rests
        at it.
        """
        ids = super().tokens(input)
        resting = next((head.name for head in self.heads if head.sink), None)
        if self.bos is not None and resting is not None:
            again = (ids[:, 1:] == self.vocabulary.to_single_token(self.bos)).nonzero()
            if again.numel():
                row, place = (int(i) for i in again[0])
                raise TokenError(
                    f"text {describe(self.vocabulary.to_string(ids[row]))} has its start {self.bos!r} again at place "
                    f"{place + 1}, and head {resting!r} rests at the start: it would not know at which"
                )
        return ids

    def __repr__(self) -> str:
        named = cut(", ".join(part.name for part in self.parts), 200)
        words, layers = self.vocabulary.d_vocab, self.n_layers
        return f"{type(self).__name__}({words} words, n_ctx={self.n_ctx}, {layers} layers: {named or 'no parts'})"

    # ------------------------------------------------------------------ the small print

    def _new_name(self, what: str, layer: int | None, name: str) -> tuple[str, str]:
        """A part's whole name, and how messages call it: "head 'second/rank'"."""
        name = self._scoped(name)
        where = f"{what} {name!r}"
        if layer is not None and (not is_index(layer) or layer < 0):
            raise ConfigError(f"{where}: layer = {describe(layer)}; allowed: 0 or more, or None for the earliest")
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{where}: the name is {name!r}; allowed: a word")
        if name in (EMBED, POS_EMBED, UNEMBED) or any(part.name == name for part in self._declared):
            other = "; give the scope another name" if self._scopes else ""
            raise ConfigError(f"{where}: the name is taken{other}")
        return name, where

    def _add(self, part: Part, layer: int | None, name: str) -> None:
        self._declared.append(replace(part, name=name, layer=UNSETTLED if layer is None else operator.index(layer)))
        self._settled = None

    def _number(self, where: str, number: Space | Linear, what: str = "reads") -> Terms:
        """A number that is read, or a place that is written, as coordinates with factors."""
        if isinstance(number, Space):
            self._check_space(where, number)
            if len(number) != 1:
                raise ConfigError(f"{where}: space {number.name!r} has {len(number)} numbers; say which, as in "
                                  f"{number.name}[{number.labels[0]!r}]")  # fmt: skip
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
        from circuits.language.holdings import Holdings
        from circuits.language.layout import Layout

        low, high = Holdings(Layout(self, unfinished=True)).reach(number)
        if not is_finite(low) or not is_finite(high):
            raise ConfigError(f"{where}: what it reads is not bounded; say by over=(low, high) where it lies")
        if low == high:
            raise ConfigError(f"{where}: what it reads is always {low:g}, as nothing that was declared before writes "
                              "it; declare what writes it first, or give over=(low, high)")  # fmt: skip
        return low, high


def _several(given: Any) -> list[Any]:
    """One or several, as several. Whether they are what is allowed is checked by the caller."""
    return list(given) if isinstance(given, Iterable) and not isinstance(given, Space | str) else [given]
