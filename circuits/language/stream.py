"""Stream: the words of a circuit, and the spaces that its residual stream is made of."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.language.parts import EMBED, POS_EMBED, UNEMBED
from circuits.language.space import Holds, Label, Number, Space, is_finite, listed, plain
from interp.errors import ConfigError, TokenError, check_choice, describe, did_you_mean
from interp.indices import check_count
from interp.keywords import known_keywords
from interp.text import INPUT, Ids, Text, Vocabulary, as_ids, check_tokens, is_text

SCOPE = "/"
"""Between the name of a scope and a name in it."""


class Stream:
    """The words of a circuit, its longest text, and the spaces that its stream is made of.

    Arguments, and the spaces `tok`, `pos`, `one` and `out`, are those of `circuits.Circuit`.

    Attributes:
        spaces: all spaces by name.
        embeddings: what a word writes into a space, [d_vocab, labels], by the name of the space.
        holds: what a space holds by the author's word, by its name; see `space`.
        readouts: further spaces that are read at the end, by name; see `readout`.
        inputs: spaces of vectors that the user gives, by name, with the range of their numbers; see `vectors`.
        most_keys: how many keys a head can spread over at most: `n_ctx`, or those of the source where they are more.

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
        nothing_below: Number | None = None,
    ):
        self.n_ctx = self.most_keys = check_count("n_ctx", n_ctx)
        check_choice("attention_dir", attention_dir, ("causal", "bidirectional"))
        always = isinstance(nothing_below, float) and nothing_below == -math.inf
        if nothing_below is not None and not always and (not is_finite(nothing_below) or nothing_below <= 0):
            raise ConfigError(f"nothing_below = {describe(nothing_below)}; allowed: a finite number above 0, -math.inf "
                              "(every position predicts a word), or None")  # fmt: skip
        given = vocab if isinstance(vocab, Vocabulary) else Vocabulary(vocab, bos=bos)
        if bos is not None:
            given.to_single_token(bos)
        self.vocabulary = given
        self.attention_dir: Literal["causal", "bidirectional"] = attention_dir
        self.bos = given.bos if bos is None else bos
        self.spaces: dict[str, Space] = {}
        self.nothing_below = None if nothing_below is None else float(nothing_below)
        self.embeddings: dict[str, Float[Tensor, "d_vocab _labels"]] = {}
        self.holds: dict[str, Holds] = {}
        self.readouts: dict[str, Space] = {}
        self.inputs: dict[str, tuple[float, float]] = {}
        self._scopes: tuple[str, ...] = ()

        self.tok = self.space("tok", given.words)
        self.pos = self.space("pos", range(n_ctx))
        self.one = self.space("one", ["1"])
        self.out = self.tok if tied else self.space("out", self.tok)
        self.embeddings["tok"] = torch.eye(given.d_vocab, dtype=torch.float64)
        self.embeddings["one"] = torch.ones(given.d_vocab, 1, dtype=torch.float64)

    @known_keywords
    def space(self, name: str, labels: Space | Iterable[Label], holds: Holds | None = None) -> Space:
        """A new space, with labels of its own or those of another space.

        Args:
            name: what messages and `edges()` call it.
            labels: one for each direction.
            holds: the author's word on what the space holds at a position: "one" label or none, "shares" of labels, or
                "numbers". By default it follows from what writes the space. Heads that choose and tables need one
                label, or shares that are declared. `verify` holds the circuit to it.

        Raises `ConfigError` for a name that is taken or no word, and for labels that `Space` does not take.
        """
        if holds is not None:
            check_choice(f"space {name!r}: holds", holds, get_args(Holds))
        name = self._scoped(name)
        if name in self.spaces:
            other = "; give the scope another name" if self._scopes else ""
            raise ConfigError(f"space {name!r} is declared twice{other}")
        if not isinstance(labels, Space) and not isinstance(labels, Iterable):
            raise ConfigError(f"space {name!r}: labels = {describe(labels)}; allowed: words and integers, or a space")
        space = Space(name, labels.labels, labels.states) if isinstance(labels, Space) else Space(name, tuple(labels))
        self.spaces[name] = space
        if holds is not None:
            self.holds[name] = holds
        return space

    @known_keywords
    def readout(self, name: str, labels: Space | Iterable[Label]) -> Space:
        """A new space that is read at the end, beside `out`: a second kind of answer.

        `interpret(text).predicted(name)`, `predict(text, readout=name)` and `verify(..., readout=name)` say what it
        holds. It is also a way to look at a space that no part reads. Raises as `space` does.
        """
        if self._scoped(name) in (EMBED, POS_EMBED, UNEMBED):
            raise ConfigError(f"readout {name!r}: the name is taken")
        space = self.space(name, labels)
        self.readouts[space.name] = space
        return space

    @known_keywords
    def vectors(self, name: str, size: int, over: tuple[Number, Number] | None = None) -> Space:
        """A new space of numbers that no word writes: each text is given with vectors, [batch, pos, size].

        `over` says between which numbers they lie. `interpret(text, {name: x})`, `model.embedded(text, {name: x})` and
        `verify(..., vectors=)` take them. Raises as `space` does, and for a size below 1.
        """
        check_count(f"vectors {name!r}: size", size)
        low, high = (-float("inf"), float("inf")) if over is None else stretch(f"vectors {name!r}", over)
        space = self.space(name, range(size), holds="numbers")
        self.inputs[space.name] = low, high
        return space

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Names that are declared within get `name/` in front, so that one function can declare its parts twice.

        Raises `ConfigError` for a name that is no word or contains "/".
        """
        if not isinstance(name, str) or not name or SCOPE in name:
            raise ConfigError(f"a scope is called {describe(name)}; allowed: a word without {SCOPE!r}")
        before = self._scopes
        self._scopes = (*before, name)
        try:
            yield
        finally:
            self._scopes = before

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
        table = {word: plain(label) for word, label in table.items()}
        vectors = {word: self._features(name, word, v) for word, v in table.items() if not isinstance(v, str | int)}
        if len(vectors) not in (0, len(table)) or len({len(v) for v in vectors.values()}) > 1:
            raise ConfigError(f"space {name!r}: either a label for each word, or vectors of one length")
        if vectors:
            size = len(next(iter(vectors.values())))
            space = self.space(name, Space(name, tuple(range(size)), tuple(dict.fromkeys(vectors.values()))))
            name = space.name
        else:
            space = self.space(name, dict.fromkeys(label for label in table.values() if isinstance(label, str | int)))
            vectors = {word: _one_hot(space, label) for word, label in table.items() if isinstance(label, str | int)}
            name = space.name
        rows = [vectors.get(word, (0.0,) * len(space)) for word in self.vocabulary.words]
        self.embeddings[name] = torch.tensor(rows, dtype=torch.float64)
        return space

    @staticmethod
    def _features(name: str, word: str, given: Sequence[Number]) -> tuple[float, ...]:
        if not isinstance(given, Iterable) or not all(map(is_finite, given)):
            said = f"space {name!r}: the features of {word!r} are {describe(given)}"
            raise ConfigError(f"{said}; allowed: finite numbers")
        return tuple(map(float, given))

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
        return ids

    def _scoped(self, name: str) -> str:
        return SCOPE.join((*self._scopes, name)) if isinstance(name, str) and name else name

    def _check_space(self, where: str, *spaces: Space) -> None:
        for space in spaces:
            if not isinstance(space, Space):
                raise ConfigError(f"{where}: {describe(space)} is not a space; {self._spaces_near(space)}")
            if self.spaces.get(space.name) is not space:
                raise self._foreign(where, space)

    def _foreign(self, where: str, space: Space) -> ConfigError:
        """The error for a space of another circuit, which may have the same name and labels."""
        return ConfigError(f"{where}: {space!r} is not one of this circuit's; {self._spaces_near(space.name)}")

    def _spaces_near(self, given: object) -> str:
        """What spaces there are, and how the nearest one is written."""
        written = {name: f"circuit.spaces[{name!r}]" for name in self.spaces}
        near = did_you_mean(given, written, said=written) if isinstance(given, str) else ""
        return f"this circuit has {listed(self.spaces)}{near}"


def _one_hot(space: Space, label: Label) -> tuple[float, ...]:
    return tuple(float(one == label) for one in space.labels)


def stretch(where: str, over: tuple[Number, Number]) -> tuple[float, float]:
    """Two finite numbers, the lower one first."""
    pair = tuple(over) if isinstance(over, Sequence) else ()
    if len(pair) != 2 or not all(map(is_finite, pair)) or not pair[0] < pair[1]:
        raise ConfigError(f"{where}: over = {describe(over)}; allowed: two finite numbers, the lower one first")
    return float(pair[0]), float(pair[1])
