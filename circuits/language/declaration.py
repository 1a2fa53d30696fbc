"""Declaration: the words, positions, spaces and parts that a circuit is declared with.

Everything else is derived from it: the graph of its parts, what it means (`interpreter.py`), and the weights of a model
(`circuits.compiler`). `Builder` has the methods that declare, and `Circuit` the derivations
as methods, too.
"""

import operator
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace
from typing import Literal

from jaxtyping import Int
from torch import Tensor

from circuits.language.forms import Form
from circuits.language.layers import settle, written_spaces
from circuits.language.parts import EMBED, POS_EMBED, SOURCE, UNEMBED, UNSETTLED, Head, Part
from circuits.language.space import Number, Space, cut, listed
from circuits.language.stream import Stream
from interp.errors import ConfigError, TokenError, describe, did_you_mean
from interp.indices import is_index
from interp.keywords import known_keywords
from interp.text import Ids, Text, Vocabulary


class Declaration(Stream):
    """What a circuit declares: its words, its longest text, its spaces (see `Stream`), and its parts.

    Attributes:
        directs: what the unembedding reads beside `out`, as forms; see `Builder.direct` and `Numbers.number`.
        eos: the word that ends what a circuit with a source writes; None where there is none.

    Arguments and errors are those of `Stream`.

    >>> from circuits.gallery import entry
    >>> c = entry("previous_token").build()
    >>> [head.name for head in c.heads], c.n_layers
    (['previous'], 1)
    """

    _source: "Declaration | None" = None
    eos: str | None = None

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

    def __copy__(self) -> "Declaration":
        """A declaration of its own: what is declared in one of the two later is not in the other."""
        new = type(self).__new__(type(self))
        vars(new).update({name: value.copy() if isinstance(value, dict | list) else value
                          for name, value in vars(self).items()})  # fmt: skip
        if self._source is not None:
            new._source = copy(self._source)
        return new

    @property
    def source(self) -> "Declaration | None":
        """The circuit that cross heads read, the encoder; None for a circuit of one stack."""
        return self._source

    @property
    def parts(self) -> list[Part]:
        """Heads and MLPs in order of declaration, with their layers.

        Raises `ConfigError` if parts without a layer read one another in a circle.
        """
        if self._settled is None:
            self._settled = settle(self._declared, tied_to=self.tok.name if self.out is self.tok else None)
        return self._settled

    @property
    def eos_id(self) -> int | None:
        """The id of `eos`, or None."""
        return None if self.eos is None else self.vocabulary.to_single_token(self.eos)

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
        return self._checked_tokens(input, [head for head in self.heads if not head.cross])

    def source_tokens(self, source: Text | Ids) -> Int[Tensor, "batch source_pos"]:
        """Token ids of one source or several, after every check; see `tokens`. Cross heads rest at its start, too.

        Raises `TokenError` as `tokens` does, and for a circuit without a source.
        """
        if self.source is None:
            raise TokenError(f"source = {describe(source)}, and the circuit has no source")
        return self.source._checked_tokens(source, [*self.source.heads, *(one for one in self.heads if one.cross)])

    def _checked_tokens(self, input: Text | Ids, heads: Sequence[Head]) -> Int[Tensor, "batch pos"]:
        """Token ids of texts that these heads read."""
        ids = super().tokens(input)
        resting = next((head.name for head in heads if head.sink), None)
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
        said = f"{type(self).__name__}({words} words, n_ctx={self.n_ctx}, {layers} layers: {named or 'no parts'})"
        return said if self.source is None else f"{said} of {self.source!r}"

    def _new_name(self, what: str, layer: int | None, name: str) -> tuple[str, str]:
        """A part's whole name, and how messages call it: "head 'second/rank'"."""
        name = self._scoped(name)
        where = f"{what} {name!r}"
        if layer is not None and (not is_index(layer) or layer < 0):
            raise ConfigError(f"{where}: layer = {describe(layer)}; allowed: 0 or more, or None for the earliest")
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{where}: the name is {name!r}; allowed: a word")
        if self.source is not None and name.startswith(SOURCE):
            raise ConfigError(f"{where}: names that begin with {SOURCE!r} are those of the source")
        if name in (EMBED, POS_EMBED, UNEMBED) or any(part.name == name for part in self._declared):
            other = "; give the scope another name" if self._scopes else ""
            raise ConfigError(f"{where}: the name is taken{other}")
        return name, where

    def _foreign(self, where: str, space: Space) -> ConfigError:
        if self.source is not None and self.source.spaces.get(space.name) is space:
            said = f"{where}: {space!r} is a space of the source, which cross heads alone read"
            return ConfigError(f"{said}, as keys and as what they copy; declare one with c.cross(...)")
        return super()._foreign(where, space)

    def _check_key(self, where: str, keys: "Declaration", space: Space) -> None:
        """Raise `ConfigError` for a space of keys, or of what is copied, that is not where the head's keys are."""
        if keys is self:
            return self._check_space(where, space)
        if keys.spaces.get(space.name) is not space:
            spaces = {name: f"source.spaces[{name!r}]" for name in keys.spaces}
            near = did_you_mean(space.name, spaces, said=spaces)
            said = f"{where}: {space!r} is not a space of the source, as a cross head's keys are, and what it copies"
            raise ConfigError(f"{said}; the source has {listed(spaces)}{near}")

    def _add(self, part: Part, layer: int | None) -> None:
        for own in (self.pos, self.one):
            if own.name in written_spaces(part):
                raise ConfigError(
                    f"{part.title} writes space {own.name!r}, which only the embedding may; give it another"
                )
        self._declared.append(replace(part, layer=UNSETTLED if layer is None else operator.index(layer)))
        self._settled = None
