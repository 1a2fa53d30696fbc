"""TextCodec: what a model asks of whatever turns text into token ids and back."""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import TokenError, did_you_mean


@runtime_checkable
class TextCodec(Protocol):
    """`Vocabulary` and `Tokenizer` are two; anything with these methods can be a model's `tokenizer`.

    Everywhere `prepend_bos` None is the codec's own habit, and a text that starts with the bos gets no second one.
    """

    bos: str | None
    """The token that starts a text, or None."""

    @property
    def d_vocab(self) -> int:
        """How many token ids there are: 0 to `d_vocab - 1`."""
        ...

    @property
    def d_vocab_base(self) -> int:
        """How many of them a model must know: without tokens that were added for what only some models read."""
        ...

    def to_tokens_and_mask(
        self, text: str | Sequence[str], prepend_bos: bool | None = None, padding_side: str = "left"
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """Ids of one text (batch 1) or several, and which of them are tokens rather than padding."""
        ...

    def to_str_tokens(self, text: str | Int[Tensor, "..."], prepend_bos: bool | None = None) -> list[str]:
        """The tokens of one text, or of one sequence of ids, as strings."""
        ...

    def to_string(self, tokens: Int[Tensor, "..."]) -> str:
        """The text of one sequence of ids."""
        ...

    def to_single_token(self, text: str) -> int:
        """The id of a text that is exactly one token; `TokenError` if it is not."""
        ...

    def to_tokens(
        self, text: str | Sequence[str], prepend_bos: bool | None = None, padding_side: str = "left"
    ) -> Int[Tensor, "batch pos"]:
        """Ids of one text (batch 1) or several; `to_tokens_and_mask` also tells padding from tokens."""
        return self.to_tokens_and_mask(text, prepend_bos, padding_side)[0]

    def get_token_position(
        self,
        token: str | int,
        text: str | Int[Tensor, "..."],
        mode: Literal["first", "last"] = "first",
        prepend_bos: bool | None = None,
    ) -> int:
        """Where a token (its text, or its id) stands in one text or one sequence of ids.

        Raises `TokenError` if it is not there, or `token` is a text of several tokens.
        """
        if mode not in ("first", "last"):
            raise TokenError(f"mode = {mode!r}; allowed: 'first' or 'last'")
        wanted = self.to_single_token(token) if isinstance(token, str) else token
        ids = self.to_tokens(text, prepend_bos)[0].tolist() if isinstance(text, str) else one_sequence(text)
        places = [place for place, i in enumerate(ids) if i == wanted]
        if not places:
            held = self.to_str_tokens(torch.tensor(ids, dtype=torch.long))
            shown = repr(held) if len(held) <= 20 else f"{held[:20]!r} and {len(held) - 20} more"
            raise TokenError(f"token {token!r} is not among {shown}{did_you_mean(str(token), held)}")
        return places[0] if mode == "first" else places[-1]


def one_sequence(tokens: Tensor) -> list[int]:
    """The ids of a tensor [pos] or [1, pos]. Raises `TokenError` for any other."""
    if tokens.dtype.is_floating_point or tokens.ndim not in (1, 2) or (tokens.ndim == 2 and len(tokens) != 1):
        raise TokenError(f"one sequence of integer ids is needed, not {tokens.dtype} of shape {tuple(tokens.shape)}")
    return tokens.flatten().tolist()
