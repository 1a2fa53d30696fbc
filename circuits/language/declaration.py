"""Declaration: the words, positions, spaces and parts that a circuit is declared with.

Everything else is derived from it: the graph of its parts, what it means (`interpreter.py`), and the weights of a model
(`circuits.compiler`). `Circuit` is a declaration with these derivations as methods.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.language import parts
from circuits.language.forms import Form, Term, match
from circuits.language.gaps import margin_of_sink, possible_scores, smallest_gap
from circuits.language.parts import EMBED, POS_EMBED, UNEMBED, Head, Part, Table, Ties
from circuits.language.space import Coordinate, Label, Number, Space, cut, is_finite, listed
from interp.errors import ConfigError, TokenError, check_choice, describe, did_you_mean
from interp.indices import is_index
from interp.keywords import known_keywords
from interp.text import INPUT, Ids, Text, Vocabulary, as_ids, check_tokens, is_text

RECENCY = 0.4
"""The recency weight, as a share of the gap between a match and none: it must stay below half of it."""


class Declaration:
    """What a circuit declares: its words, its longest text, its spaces, and its parts.

    Args:
        vocab: the words, or a string of one-character words, or a `Vocabulary`.
        n_ctx: longest text, the start included.
        bos: the word that every text starts with; a head that finds no match rests there (its sink).
        attention_dir: "causal" or "bidirectional".
        tied: read the prediction from `tok` itself instead of from a space of its own, as a tied unembedding does.

    Attributes:
        tok: the current word, written by the embedding.
        pos: the position, 0 to n_ctx - 1.
        one: a constant 1 at every position.
        out: where predictions are written; the unembedding reads it.
        spaces: all spaces by name.
        parts: heads and MLPs in order of declaration.
        embeddings: what a word writes into a space, [d_vocab, labels], by the name of the space.

    Raises `TokenError` for repeated words or an unknown `bos`, `ConfigError` for an impossible `n_ctx`.
    """

    @known_keywords
    def __init__(
        self,
        vocab: str | Iterable[str] | Vocabulary,
        n_ctx: int,
        bos: str | None = None,
        attention_dir: Literal["causal", "bidirectional"] = "causal",
        tied: bool = False,
    ):
        if not is_index(n_ctx) or n_ctx < 1:
            raise ConfigError(f"n_ctx = {describe(n_ctx)}; allowed: 1 or more")
        check_choice("attention_dir", attention_dir, ("causal", "bidirectional"))
        given = vocab if isinstance(vocab, Vocabulary) else Vocabulary(vocab, bos=bos)
        if bos is not None:
            given.to_single_token(bos)
        self.vocabulary, self.n_ctx = given, n_ctx
        self.attention_dir: Literal["causal", "bidirectional"] = attention_dir
        self.bos = given.bos if bos is None else bos
        self.spaces: dict[str, Space] = {}
        self.parts: list[Part] = []
        self.embeddings: dict[str, Float[Tensor, "d_vocab labels"]] = {}

        self.tok = self.space("tok", given.words)
        self.pos = self.space("pos", range(n_ctx))
        self.one = self.space("one", ["1"])
        self.out = self.tok if tied else self.space("out", self.tok)
        self.embeddings["tok"] = torch.eye(given.d_vocab, dtype=torch.float64)
        self.embeddings["one"] = torch.ones(given.d_vocab, 1, dtype=torch.float64)

    # ------------------------------------------------------------------ declarations

    @known_keywords
    def space(self, name: str, labels: Space | Iterable[Label]) -> Space:
        """A new space, with labels of its own or those of another space.

        Raises `ConfigError` for a name that is taken or no word, and for labels that `Space` does not take.
        """
        if name in self.spaces:
            raise ConfigError(f"space {name!r} is declared twice")
        space = Space(name, labels.labels, labels.states) if isinstance(labels, Space) else Space(name, tuple(labels))
        self.spaces[name] = space
        return space

    @known_keywords
    def embed(self, name: str, table: Mapping[str, Label | Sequence[Number]]) -> Space:
        """A new space that the embedding writes: a label for each word of `table`, or a vector of features.

        Words that are not in the table write nothing there. Raises `TokenError` for an unknown word, `ConfigError` for
        vectors of several lengths, and features that are no finite numbers.
        """
        if not isinstance(table, Mapping):
            raise ConfigError(f"space {name!r}: the table is {describe(table)}; allowed: a mapping from words")
        unknown = next((word for word in table if word not in self.vocabulary.words), None)
        if unknown is not None:
            near = did_you_mean(str(unknown), self.vocabulary.words)
            raise TokenError(f"space {name!r}: {unknown!r} is not a word{near}")
        vectors = {word: self._features(name, word, v) for word, v in table.items() if not isinstance(v, str | int)}
        if len(vectors) not in (0, len(table)) or len({len(v) for v in vectors.values()}) > 1:
            raise ConfigError(f"space {name!r}: either a label for each word, or vectors of one length")
        if vectors:
            size = len(next(iter(vectors.values())))
            space = self.space(name, Space(name, tuple(range(size)), tuple(dict.fromkeys(vectors.values()))))
        else:
            space = self.space(name, dict.fromkeys(label for label in table.values() if isinstance(label, str | int)))
            vectors = {word: _one_hot(space, label) for word, label in table.items() if isinstance(label, str | int)}
        rows = [vectors.get(word, (0.0,) * len(space)) for word in self.vocabulary.words]
        self.embeddings[name] = torch.tensor(rows, dtype=torch.float64)
        return space

    @staticmethod
    def _features(name: str, word: str, given: Sequence[Number]) -> tuple[float, ...]:
        if not isinstance(given, Iterable) or not all(map(is_finite, given)):
            said = f"space {name!r}: the features of {word!r} are {describe(given)}"
            raise ConfigError(f"{said}; allowed: finite numbers")
        return tuple(map(float, given))

    @known_keywords
    def head(
        self,
        layer: int,
        name: str,
        qk: Form | None = None,
        ov: Form | None = None,
        *,
        sink: Number | None = None,
        ties: Ties = "mean",
        recency: Number | None = None,
        sharp: Number | None = None,
        gap: Number | None = None,
    ) -> Head:
        """An attention head.

        Args:
            layer: from 0 on; heads of one layer read the same stream.
            name: what messages and `edges()` call it.
            qk: what makes a key a match; without it, all visible keys tie.
            ov: what is copied from the key that is attended to.
            sink: weight of the start of the text as a key, to which the head goes where nothing matches. By default
                between no match and the smallest match (0 without `bos` or `qk`); with 0 there is none, and without a
                match the head averages over what it sees. A head with a sink copies nothing from there (see `copy`).
            ties: what to attend to where several keys match: their "mean", the "latest" or the "first".
            recency: how much the latest key is preferred to the first, for ties "latest" and "first"; below half the
                gap, by default .4 of it.
            sharp: factor on the scores; by default what `compile` needs for its error.
            gap: by how much scores differ at least; by default computed from the form.

        Raises `ConfigError` naming the head: an impossible layer, a name that is taken, a space of another circuit, a
        sink without `bos`, a recency or gap out of range, a gap that is needed and not known.
        """
        where = f"head {name!r}"
        self._check_place(where, layer, name)
        for what, form in (("qk", qk), ("ov", ov)):
            if form is not None and not isinstance(form, Form):
                raise ConfigError(f"{where}: {what} = {describe(form)}; allowed: a form, as match and copy return")
        qk, ov = qk or Form(), ov or Form()
        for term in (*qk.terms, *ov.terms):
            self._check_space(where, term.rows, term.columns)
        check_choice(f"{where}: ties", ties, get_args(Ties))
        for what, value in (("sharp", sharp), ("gap", gap)):
            if value is not None and not (is_finite(value) and value > 0):
                raise ConfigError(f"{where}: {what} = {describe(value)}; allowed: a finite number above 0")
        gap = None if gap is None else float(gap)
        scores = possible_scores(qk)
        all_alike = bool(qk.terms) and scores is not None and len(scores) == 1
        gap_without_sink = gap or smallest_gap(scores) or (1.0 if all_alike else None)
        preference = self._recency(where, ties, recency, gap_without_sink)
        if sink is None:
            rests = self.bos is not None and bool(qk.terms)
            if rests and gap_without_sink is None:
                raise ConfigError(f"{where}: its scores are too many to find their smallest gap, where the sink would "
                                  "lie; declare gap= or sink=")  # fmt: skip
            best, worst = (gap_without_sink or 0) - (preference if ties == "first" else 0), abs(preference)
            sink = (best + (worst if ties == "latest" else 0)) / 2 if rests else 0.0
        if not is_finite(sink) or sink < 0:
            raise ConfigError(f"{where}: sink = {describe(sink)}; allowed: a finite number from 0 on")
        margin = float("inf")
        if sink:
            if self.bos is None:
                raise ConfigError(f"{where}: sink = {sink} needs the start of the text; give the circuit bos=")
            margin = self._margin_of_sink(where, scores, float(sink), ties, preference)
            qk, ov = qk + self._sink(float(sink)), parts.dropping(where, ov, {"tok": self.bos, "pos": 0})
        sign = -1.0 if ties == "first" else 1.0
        prefers = self._prefers_later(sign * preference) if ties != "mean" else Form()
        smallest = gap or smallest_gap(possible_scores(qk)) or (1.0 if all_alike else None)
        if ties != "mean" and self.n_ctx > 1:
            smallest = min(preference / self.n_ctx, smallest or float("inf"), float("inf") if gap else margin)
        head = Head(name, layer, qk, ov, ties, prefers, smallest, None if sharp is None else float(sharp), float(sink))
        self.parts.append(head)
        return head

    @known_keywords
    def mlp(
        self, layer: int, name: str, reads: Space | Sequence[Space], writes: Space | Sequence[Space], table: Table
    ) -> None:
        """A lookup table in the MLP of a layer: two neurons an entry.

        An entry fires where every space holds its label, and writes one label into each space of `writes`. The table is
        a mapping from labels (a tuple where there are several spaces; `...` stands for any label), or a function of one
        label a space which returns None for nothing. Raises `ConfigError` naming the table.
        """
        read = [reads] if isinstance(reads, Space | str) else list(reads)
        written = [writes] if isinstance(writes, Space | str) else list(writes)
        where = f"mlp {name!r}"
        self._check_place(where, layer, name)
        self._check_space(where, *read, *written)
        self.parts.append(parts.lookup(name, layer, read, written, table))

    @known_keywords
    def bucket(
        self,
        layer: int,
        name: str,
        number: Space | Coordinate,
        writes: Space,
        values: Mapping[Any, Number],
        gate: Space | Coordinate | None = None,
    ) -> None:
        """A number as a one-hot label, in the MLP of a layer: the label of `writes` whose value is nearest.

        Args:
            layer, name: as for `mlp`.
            number: a coordinate, or a space with a single label.
            writes: where the label goes.
            values: the number that each label stands for; below the first and above the last, these are taken.
            gate: nothing is written where this coordinate, or every coordinate of this space, is 0.

        Raises `ConfigError` naming the bucket: unknown labels, equal values, a space of several numbers.
        """
        where = f"bucket {name!r}"
        self._check_place(where, layer, name)
        gate = self.one if gate is None else gate
        for one in (number, writes, gate):
            self._check_space(where, one.space if isinstance(one, Coordinate) else one)
        if isinstance(number, Space) and len(number) != 1:
            raise ConfigError(f"{where}: space {number.name!r} has {len(number)} numbers; say which, as in "
                              f"{number.name}[{number.labels[0]!r}]")  # fmt: skip
        number = number[number.labels[0]] if isinstance(number, Space) else number
        gates = [gate[label] for label in gate.labels] if isinstance(gate, Space) else [gate]
        self.parts.append(parts.bucket(name, layer, number, writes, values, gates))

    # ------------------------------------------------------------------ what it says

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

        Raises `TokenError` for unknown words, a text that is empty, longer than `n_ctx` or without its start, and for
        one in which the start comes again although a head rests at it.
        """
        ids = self.vocabulary.to_tokens(input) if is_text(input) else as_ids(input, INPUT)
        ids = check_tokens(ids, self.vocabulary.d_vocab, self.n_ctx, ids.device)
        if self.bos is not None:
            start = self.vocabulary.to_single_token(self.bos)
            if (wrong := (ids[:, 0] != start).nonzero()).numel():
                text = self.vocabulary.to_string(ids[int(wrong[0])])
                start_is = f"does not start with {self.bos!r}, where heads without a match rest"
                raise TokenError(f"text {describe(text)} {start_is}")
            resting = next((head.name for head in self.heads if head.sink), None)
            if resting is not None and (again := (ids[:, 1:] == start).nonzero()).numel():
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

    def _check_place(self, where: str, layer: int, name: str) -> None:
        if not is_index(layer) or layer < 0:
            raise ConfigError(f"{where}: layer = {describe(layer)}; allowed: 0 or more")
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{where}: the name is {name!r}; allowed: a word")
        if name in (EMBED, POS_EMBED, UNEMBED) or any(part.name == name for part in self.parts):
            raise ConfigError(f"{where}: the name is taken")

    def _check_space(self, where: str, *spaces: Space) -> None:
        for space in spaces:
            if not isinstance(space, Space):
                raise ConfigError(f"{where}: {describe(space)} is not a space; {self._spaces_near(space)}")
            if self.spaces.get(space.name) != space:
                raise ConfigError(f"{where}: {space!r} is not one of this circuit's; {self._spaces_near(space.name)}")

    def _spaces_near(self, given: object) -> str:
        """What spaces there are, and how the nearest one is written."""
        written = {name: f"circuit.spaces[{name!r}]" for name in self.spaces}
        near = did_you_mean(given, written, said=written) if isinstance(given, str) else ""
        return f"this circuit has {listed(self.spaces)}{near}"

    def _recency(self, where: str, ties: Ties, given: Number | None, gap: float | None) -> float:
        if ties == "mean":
            if given is not None:
                raise ConfigError(f"{where}: recency = {given} contradicts ties = 'mean'")
            return 0.0
        if given is None and gap is None:
            return 1.0  # nothing is matched, so that the latest key is all there is to prefer
        recency = RECENCY * (gap or 0) if given is None else given
        if not is_finite(recency) or recency <= 0 or (gap is not None and recency >= gap / 2):
            below = f"below half the gap between scores, {(gap or 0) / 2:g}"
            raise ConfigError(f"{where}: recency = {describe(recency)}; allowed: above 0, and {below}")
        return float(recency)

    def _margin_of_sink(
        self, where: str, scores: Float[Tensor, "score"] | None, sink: float, ties: Ties, preference: float
    ) -> float:
        """By how much the sink keeps away from scores that recency moves. Raises `ConfigError` if it does not."""
        if scores is None or ties == "mean":
            return float("inf")
        pull = -preference if ties == "first" else preference
        margin = margin_of_sink(scores, sink, pull, self.n_ctx)
        if margin <= 1e-9:
            side = "above" if ties == "first" else "below"
            of_that_side = scores[scores >= sink] if ties == "first" else scores[scores < sink]
            nearest = float(of_that_side.min() if ties == "first" else of_that_side.max())
            reach = preference * (self.n_ctx - 1) / self.n_ctx
            raise ConfigError(
                f"{where}: sink = {sink:g} is within reach of recency: a key that scores {nearest:g}, {side} the sink, "
                f"gets {nearest + (reach if pull > 0 else -reach):g} by its place; allowed: a sink farther from it, or "
                f"a recency below {abs(sink - nearest) * self.n_ctx / max(self.n_ctx - 1, 1):g}"
            )
        return margin

    def _sink(self, weight: float) -> Form:
        (term,) = match(self.one, self.tok, {"1": self.bos or ""}).terms
        return Form((Term("sink", term.rows, term.columns, term.matrix, weight),))

    def _prefers_later(self, weight: float) -> Form:
        ramp = torch.arange(self.n_ctx, dtype=torch.float64)[None] / self.n_ctx
        return Form((Term("recency", self.one, self.pos, ramp, weight),))


def _one_hot(space: Space, label: Label) -> tuple[float, ...]:
    return tuple(float(one == label) for one in space.labels)
