"""TextCodec: what a model asks of whatever turns text into token ids and back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import TokenError, check_choice, did_you_mean


@runtime_checkable
class TextCodec(Protocol):
    """What `Vocabulary` and `Tokenizer` have in common; another class that derives from this one works as well.

    A subclass encodes and decodes; the bos, batches and their padding, single tokens and their positions are here.
    Everywhere `prepend_bos` None is the codec's own habit, and a text that starts with the bos gets no second one.
    """

    bos: str | None
    """The token that starts a text, or None."""
    prepends_bos: bool
    """The codec's habit: whether a text starts with `bos` where the caller says nothing."""

    @property
    def d_vocab(self) -> int:
        """How many token ids there are: 0 to `d_vocab - 1`."""
        ...

    @property
    def d_vocab_base(self) -> int:
        """How many token ids every model must know: `d_vocab` without tokens added for what only some models read."""
        ...

    @property
    def bos_id(self) -> int | None:
        """The id of `bos`, or None."""
        ...

    @property
    def pad_id(self) -> int | None:
        """The id that fills up a batch, or None where texts of unequal length are refused."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without a bos in front. Raises `TokenError` for a text that has none."""
        ...

    def decode(self, ids: Sequence[int]) -> list[str]:
        """The token of each id as a string. Raises `TokenError` for ids out of range."""
        ...

    def to_string(self, tokens: Int[Tensor, "..."]) -> str:
        """The text of one sequence of ids."""
        ...

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the files that `load` needs, if any, into a folder; returns all else that it needs, as JSON values."""
        ...

    @classmethod
    def load(cls, folder: Path, values: Mapping[str, Any]) -> "TextCodec":
        """The codec of which `save` wrote files into `folder` and returned `values`."""
        ...

    def to_tokens_and_mask(
        self, text: str | Sequence[str], prepend_bos: bool | None = None, padding_side: str = "left"
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """Ids of one text (batch 1) or several, padded to the longest, and which of them are tokens of the texts.

        Raises:
            TokenError: an empty batch, `prepend_bos` without a bos, a text that cannot be encoded, or texts of unequal
                length where there is no `pad_id`.
            ConfigError: `padding_side` is neither "left" nor "right".
        """
        check_choice("padding_side", padding_side, ("left", "right"))
        rows = self._rows([text] if isinstance(text, str) else list(text), prepend_bos)
        if not rows:
            raise TokenError("an empty batch: at least one text is needed")
        lengths, padding = {len(row) for row in rows}, self.pad_id
        if padding is None and len(lengths) > 1:
            name = type(self).__name__
            raise TokenError(f"texts of {sorted(lengths)} tokens do not fit one batch, and a {name} does not pad")
        longest = max(lengths)
        tokens = torch.full((len(rows), longest), padding or 0, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            filled = slice(longest - len(row), longest) if padding_side == "left" else slice(0, len(row))
            tokens[i, filled] = torch.tensor(row, dtype=torch.long)
            mask[i, filled] = True
        return tokens, mask

    def _rows(self, texts: Sequence[str], prepend_bos: bool | None) -> list[list[int]]:
        """The ids of each text, with the bos where it is wanted and not there already."""
        bos_id = self.bos_id
        if prepend_bos and bos_id is None:
            raise TokenError(f"prepend_bos = True, but this {type(self).__name__} was made without bos=")
        wanted = self.prepends_bos if prepend_bos is None else prepend_bos
        rows = self.encode(texts)
        return [[bos_id, *row] if wanted and bos_id is not None and row[:1] != [bos_id] else row for row in rows]

    def to_tokens(
        self, text: str | Sequence[str], prepend_bos: bool | None = None, padding_side: str = "left"
    ) -> Int[Tensor, "batch pos"]:
        """Ids of one text (batch 1) or several; `to_tokens_and_mask` also tells padding from tokens."""
        return self.to_tokens_and_mask(text, prepend_bos, padding_side)[0]

    def to_str_tokens(self, text: str | Int[Tensor, "..."], prepend_bos: bool | None = None) -> list[str]:
        """The tokens of one text, as `to_tokens` makes them, or of one sequence of ids, as strings.

        Raises `TokenError` for a text that cannot be encoded, or ids out of range.
        """
        return self.decode(self._rows([text], prepend_bos)[0] if isinstance(text, str) else one_sequence(text))

    def to_single_token(self, text: str) -> int:
        """The id of a text that is exactly one token. Raises `TokenError`, listing the tokens, if it is not."""
        (ids,) = self.encode([text])
        if len(ids) != 1:
            raise TokenError(f"{text!r} is {len(ids)} tokens, {self.decode(ids)}; a single one is needed")
        return ids[0]

    def get_token_position(
        self,
        token: str | int,
        text: str | Int[Tensor, "..."],
        mode: Literal["first", "last"] = "first",
        prepend_bos: bool | None = None,
    ) -> int:
        """Where a token (its text, or its id) stands in one text or one sequence of ids.

        Raises `TokenError` if it is not there, or `token` is a text of several tokens; `ConfigError` for another mode.
        """
        check_choice("mode", mode, ("first", "last"))
        wanted = self.to_single_token(token) if isinstance(token, str) else token
        ids = self._rows([text], prepend_bos)[0] if isinstance(text, str) else one_sequence(text)
        places = [place for place, i in enumerate(ids) if i == wanted]
        if not places:
            held = self.decode(ids)
            shown = repr(held) if len(held) <= 20 else f"{held[:20]!r} and {len(held) - 20} more"
            raise TokenError(f"token {token!r} is not among {shown}{did_you_mean(str(token), held)}")
        return places[0] if mode == "first" else places[-1]


def one_sequence(tokens: Tensor) -> list[int]:
    """The ids of a tensor [pos] or [1, pos]. Raises `TokenError` for any other."""
    if tokens.dtype.is_floating_point or tokens.ndim not in (1, 2) or (tokens.ndim == 2 and len(tokens) != 1):
        raise TokenError(f"one sequence of integer ids is needed, not {tokens.dtype} of shape {tuple(tokens.shape)}")
    return tokens.flatten().tolist()
