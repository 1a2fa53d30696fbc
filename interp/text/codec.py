"""TextCodec: what a model asks of whatever turns text into token ids and back."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, SupportsIndex, cast, overload, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import ConfigError, TokenError, check_choice, describe, did_you_mean
from interp.text.ids import Arrays, Ids, OneSequence, Text, as_ids, is_text, one_sequence, sequences


@runtime_checkable
class TextCodec(Protocol):
    """What `Vocabulary` and `Tokenizer` have in common. A class of your own that derives from this one works as well.

    A subclass says how one text becomes ids (`_encode`), which string a token has (`_decode`) and how tokens become a
    text again (`_join`). Everything else is here: the bos, batches and their padding, single tokens and their
    positions, and what becomes of an id that the tokenizer does not have.

    Such ids exist because many published models have more rows in their embedding than their tokenizer has tokens.
    They are shown as their number in angle brackets, "<50280>".

    Methods take `prepend_bos`: whether a text starts with the bos. None stands for the tokenizer's own habit,
    `prepends_bos`. A text that starts with the bos already gets no second one.

    >>> isinstance(words, TextCodec), words.to_string(words.to_tokens("Mary gave")[0])
    (True, 'Mary gave')
    """

    bos: str | None
    """The token that starts a text, or None."""
    prepends_bos: bool
    """Whether a text starts with `bos` where the caller says nothing."""

    @property
    def d_vocab(self) -> int:
        """The number of token ids: no id is `d_vocab` or more."""
        ...

    @property
    def d_vocab_base(self) -> int:
        """How many ids every model must know: `d_vocab` without tokens that were added for some models only."""
        ...

    @property
    def bos_id(self) -> int | None:
        """The id of `bos`, or None."""
        ...

    @property
    def pad_id(self) -> int | None:
        """The id that fills up a batch, or None where texts of unequal length are refused."""
        ...

    def has_token(self, token: int) -> bool:
        """Whether there is a token with this id."""
        return 0 <= token < self.d_vocab

    # ------------------------------------------------------------------ what a subclass says

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, without a bos in front. Raises `TokenError` for a text that has none."""
        ...

    def _decode(self, ids: list[int]) -> list[str]:
        """The string of each token; the tokenizer has all these ids."""
        ...

    def _join(self, ids: list[int]) -> str:
        """The text of a sequence. The tokenizer may lack some of the ids; `to_str_tokens` has a string for each."""
        ...

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the files that `load` needs, if any, into a folder; returns all else that it needs, as JSON values."""
        ...

    @classmethod
    def load(cls, folder: Path, values: Mapping[str, Any]) -> "TextCodec":
        """The codec of which `save` wrote files into `folder` and returned `values`."""
        ...

    # ------------------------------------------------------------------ text to ids

    @overload
    def encode(self, text: str) -> list[int]: ...

    @overload
    def encode(self, text: list[str] | tuple[str, ...]) -> list[list[int]]: ...

    def encode(self, text: Text) -> list[int] | list[list[int]]:
        """The ids of a text as a list, or of each of several texts, without a bos in front.

        `to_tokens` gives them as a tensor, with the bos. Raises `TokenError` for what is no text, and for a text that
        cannot be encoded.
        """
        ids = self._encode(_texts(text))
        return ids[0] if isinstance(text, str) else ids

    def to_tokens_and_mask(
        self, text: Text, prepend_bos: bool | None = None, padding_side: str = "left"
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """The ids of one text (a batch of 1) or of several, and the mask that is true where a token of a text stands.

        Shorter texts are padded to the length of the longest.

        Raises:
            TokenError: what is no text, an empty batch, `prepend_bos` without a bos, a text that cannot be encoded, or
                texts of unequal length where there is no `pad_id`.
            ConfigError: `padding_side` is neither "left" nor "right".
        """
        check_choice("padding_side", padding_side, ("left", "right"))
        return self._padded(self._rows(_texts(text), prepend_bos), padding_side)

    def pairs_to_tokens(
        self, first: Text, second: Text, padding_side: str = "left"
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
        """The ids of pairs of texts in one sequence each ("[CLS] first [SEP] second [SEP]"), their mask, and the type
        of each token: 0 in the first text and 1 in the second, as the tokenizer was trained; padding has 0.

        Raises `TokenError` where there are not as many first texts as second ones, for a tokenizer that puts nothing
        between two texts, and as `to_tokens_and_mask`, which says what the arguments are.
        """
        check_choice("padding_side", padding_side, ("left", "right"))
        firsts, seconds = _texts(first), _texts(second)
        if len(firsts) != len(seconds):
            raise TokenError(f"{len(firsts)} first texts and {len(seconds)} second ones do not make pairs")
        pairs = self._pairs(list(zip(firsts, seconds, strict=True)))
        tokens, mask = self._padded([ids for ids, _ in pairs], padding_side)
        types = torch.zeros_like(tokens)
        types[mask] = torch.tensor([kind for _, kinds in pairs for kind in kinds], dtype=torch.long)
        return tokens, mask, types

    def _pairs(self, pairs: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """The ids and the token types of each pair. A subclass whose model reads pairs says how."""
        raise TokenError(f"a {type(self).__name__} puts nothing between two texts: give ids, with token_types=")

    def _padded(
        self, rows: list[list[int]], padding_side: str
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        if not rows:
            raise TokenError("an empty batch: at least one text is needed")
        lengths, padding = {len(row) for row in rows}, self.pad_id
        if padding is None and len(lengths) > 1:
            name = type(self).__name__
            raise TokenError(
                f"texts of {sorted(lengths)} tokens do not fit one batch, and a {name} does not pad; "
                "give ids padded on the left, with attention_mask="
            )
        longest = max(lengths)
        tokens = torch.full((len(rows), longest), padding or 0, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            filled = slice(longest - len(row), longest) if padding_side == "left" else slice(0, len(row))
            tokens[i, filled] = torch.tensor(row, dtype=torch.long)
            mask[i, filled] = True
        return tokens, mask

    def _rows(self, texts: list[str], prepend_bos: bool | None) -> list[list[int]]:
        """The ids of each text, with the bos where it is wanted and not there already."""
        bos_id, wanted = self._wanted_bos(prepend_bos)
        rows = self._encode(texts)
        return [[bos_id, *row] if wanted and bos_id is not None and row[:1] != [bos_id] else row for row in rows]

    def _wanted_bos(self, prepend_bos: bool | None) -> tuple[int | None, bool]:
        """The id of the bos, and whether it is wanted. Raises `TokenError` where it is and there is none."""
        bos_id = self.bos_id
        if prepend_bos and bos_id is None:
            raise TokenError(f"prepend_bos = True, but this {type(self).__name__} was made without bos=")
        return bos_id, self.prepends_bos if prepend_bos is None else prepend_bos

    def to_tokens(
        self, text: Text, prepend_bos: bool | None = None, padding_side: str = "left"
    ) -> Int[Tensor, "batch pos"]:
        """The ids of one text (a batch of 1) or of several. `to_tokens_and_mask` also says which of them are padding.

        Raises as `to_tokens_and_mask` does.
        """
        return self.to_tokens_and_mask(text, prepend_bos, padding_side)[0]

    @overload
    def to_single_token(self, text: str) -> int: ...

    @overload
    def to_single_token(self, text: list[str] | tuple[str, ...]) -> list[int]: ...

    def to_single_token(self, text: Text) -> int | list[int]:
        """The id of a text that is exactly one token, or of each of several texts, as a list.

        Raises `TokenError`, listing the tokens, if it is not one.
        """
        return self._single(text) if isinstance(text, str) else [self._single(one) for one in _texts(text)]

    def _single(self, text: str) -> int:
        ids = self.encode(text)
        if len(ids) != 1:
            raise TokenError(
                f"{describe(text)} is {len(ids)} tokens, {self.to_str_tokens(ids)}; a single one is needed"
            )
        return ids[0]

    # ------------------------------------------------------------------ ids to text

    @overload
    def to_str_tokens(self, text: Arrays, prepend_bos: bool | None = None) -> Any: ...

    @overload
    def to_str_tokens(self, text: str | OneSequence, prepend_bos: bool | None = None) -> list[str]: ...

    @overload
    def to_str_tokens(self, text: list[str] | tuple[str, ...], prepend_bos: bool | None = None) -> list[list[str]]: ...

    def to_str_tokens(self, text: Text | Ids, prepend_bos: bool | None = None) -> list[str] | list[list[str]]:
        """The tokens of a text, as `to_tokens` makes them, or of a sequence of ids, as strings.

        One text gives a list of strings, and so do ids [pos] or [1, pos]. A list of texts gives a list of such lists,
        and so do ids [batch, pos] of several sequences, or a list of sequences. Texts are not padded here; in ids that
        were padded, the padding is shown like every other token.

        Raises `TokenError` for a text that cannot be encoded, for ids of more axes, and for negative ids.
        """
        if is_text(text):
            rows, single = self._rows(_texts(text), prepend_bos), isinstance(text, str)
        else:
            rows, single = sequences(cast(Ids, text))
        strings = [self._strings(_not_negative(row)) for row in rows]
        return strings[0] if single else strings

    @overload
    def to_string(self, tokens: Arrays) -> Any: ...

    @overload
    def to_string(self, tokens: OneSequence) -> str: ...

    def to_string(self, tokens: Ids) -> str | list[str]:
        """The text of one sequence of ids, [pos] or [1, pos]; of several, [batch, pos] or a list of them, a list.

        Special tokens and padding are part of a text. Raises `TokenError` for ids of more axes, and for negative ids.
        """
        rows, single = sequences(tokens)
        texts = [self._join(_not_negative(row)) for row in rows]
        return texts[0] if single else texts

    def decode(self, tokens: Ids) -> Any:
        """As `to_string`, by the name that other libraries have for it."""
        return self.to_string(tokens)

    def _ids_of(self, text: str | Ids, prepend_bos: bool | None) -> list[int]:
        return self._rows([text], prepend_bos)[0] if isinstance(text, str) else _not_negative(one_sequence(text))

    def _strings(self, ids: list[int]) -> list[str]:
        """The string of each token, with a number in angle brackets for one that this tokenizer does not have."""
        known = [i for i in ids if self.has_token(i)]
        strings = iter(self._decode(known))
        return [next(strings) if self.has_token(i) else f"<{i}>" for i in ids]

    def get_token_position(
        self,
        token: str | SupportsIndex,
        text: str | Ids,
        mode: Literal["first", "last"] = "first",
        prepend_bos: bool | None = None,
    ) -> int:
        """Where a token (its text, or its id) stands in one text or one sequence of ids.

        Raises `TokenError` if it is not there, or `token` is a text of several tokens; `ConfigError` for another mode.
        """
        check_choice("mode", mode, ("first", "last"))
        wanted = self.to_single_token(token) if isinstance(token, str) else int(as_ids(token, "token"))
        ids = self._ids_of(text, prepend_bos)
        places = [place for place, i in enumerate(ids) if i == wanted]
        if not places:
            held = self._strings(ids)
            shown = repr(held) if len(held) <= 20 else f"{held[:20]!r} and {len(held) - 20} more"
            raise TokenError(f"token {describe(token)} is not among {shown}{did_you_mean(str(token), held)}")
        return places[0] if mode == "first" else places[-1]


def check_vocabulary(tokenizer: TextCodec | None, d_vocab: int) -> None:
    """Raise `ConfigError` if a tokenizer has more tokens than a model of `d_vocab` tokens can know.

    >>> check_vocabulary(words, 2)
    Traceback (most recent call last):
    interp.errors.ConfigError: d_vocab = 2 is too small for a vocabulary of 12 words
    """
    if tokenizer is not None and (wanted := tokenizer.d_vocab_base) > d_vocab:
        raise ConfigError(f"d_vocab = {d_vocab} is too small for a vocabulary of {wanted} words")


def _texts(given: Any) -> list[str]:
    """One text, or several, as a list. Raises `TokenError` for anything else."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, Iterable) and not isinstance(given, Tensor | bytes | Mapping):
        texts = list(given)
        place = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
        if place is None:
            return texts
        raise TokenError(f"a text is a string; the one at place {place} has type {type(texts[place]).__name__}")
    raise TokenError(f"text is a string or a list of strings, not a value of type {type(given).__name__}")


def _not_negative(ids: list[int]) -> list[int]:
    place = next((place for place, i in enumerate(ids) if i < 0), None)
    if place is not None:
        raise TokenError(f"token {ids[place]} at place {place}; a token id is 0 or more")
    return ids
