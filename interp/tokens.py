"""Text to token ids and back, and the checks on ids before a model sees them."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.codec import TextCodec, one_sequence
from interp.errors import ShapeError, TokenError, did_you_mean
from interp.tokenizer import Tokenizer

__all__ = ["Text", "TextCodec", "Tokenizer", "Vocabulary", "check_mask", "check_tokens", "visible"]

Text = str | list[str] | tuple[str, ...]
"""One text, or a batch of them."""


MARKS = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽"}


def visible(token: str) -> str:
    """A token as it can be shown anywhere: white space as marks, other unprintable characters as escapes."""
    return "".join(MARKS.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode()) for c in token)


class Vocabulary(TextCodec):
    """A predefined list of words; a word's id is its place in the list. Its habit is no bos.

    Attributes:
        words: the words, all different, none empty.
        sep: what stands between two words of a text. With "" the words follow each other directly, and the longest
            word that fits is taken. By default "" where every word is one character, else " ".
        bos: the word that starts a text, or None.

    A text that can be split at all comes back unchanged: `to_string(to_tokens(text)) == text`.

    Raises:
        TokenError: a word is empty, repeated, or contains the separator; `bos` is not a word.
    """

    def __init__(self, words: Iterable[str], *, sep: str | None = None, bos: str | None = None):
        self.words = tuple(words)
        self.bos = bos
        self._ids = {word: i for i, word in enumerate(self.words)}
        if not self.words or not all(isinstance(word, str) and word for word in self.words):
            raise TokenError("a vocabulary needs at least one word, and every word is a string that is not empty")
        self._longest = max(map(len, self.words))
        self.sep = ("" if all(len(word) == 1 for word in self.words) else " ") if sep is None else sep
        for i, word in enumerate(self.words):
            if self._ids[word] != i:
                raise TokenError(f"word {word!r} stands at places {i} and {self._ids[word]} of the vocabulary")
            if self.sep and self.sep in word:
                raise TokenError(f"word {word!r} contains the separator {self.sep!r}; give another sep=")
        if bos is not None:
            self.to_single_token(bos)

    @property
    def d_vocab(self) -> int:
        """How many words there are."""
        return len(self.words)

    @property
    def d_vocab_base(self) -> int:
        """As many: a model must know them all."""
        return self.d_vocab

    def split(self, text: str) -> list[str]:
        """The words of `text`. Raises `TokenError` naming the first unknown word, its place and its character."""
        if not text:
            return []
        found: list[str] = []
        at = 0
        for part in text.split(self.sep) if self.sep else ():
            if part not in self._ids:
                raise self._unknown(part, len(found), at, text)
            found.append(part)
            at += len(part) + len(self.sep)
        while not self.sep and at < len(text):
            lengths = range(min(self._longest, len(text) - at), 0, -1)
            word = next((text[at : at + n] for n in lengths if text[at : at + n] in self._ids), None)
            if word is None:
                raise self._unknown(text[at], len(found), at, text)
            found.append(word)
            at += len(word)
        return found

    def _unknown(self, word: str, place: int, character: int, text: str) -> TokenError:
        shown = text if len(text) <= 60 else text[:57] + "..."
        return TokenError(
            f"unknown word {word!r} at place {place} (character {character}) of {shown!r}; the vocabulary has "
            f"{self.d_vocab} words{did_you_mean(word, self.words)}"
        )

    def to_tokens_and_mask(
        self, text: str | Sequence[str], prepend_bos: bool | None = None, padding_side: str = "left"
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """Ids of one text (batch 1) or of several with equally many words; nothing is padded, the mask is all true.

        Raises `TokenError` for an unknown word, ragged texts, or `prepend_bos` without a bos. A text that starts with
        the bos gets no second one.
        """
        rows = [self._with_bos(one, prepend_bos) for one in ([text] if isinstance(text, str) else text)]
        if not rows:
            raise TokenError("an empty batch: at least one text is needed")
        if len(lengths := {len(row) for row in rows}) > 1:
            raise TokenError(f"texts of {sorted(lengths)} words do not fit one batch, and a Vocabulary does not pad")
        ids = [[self._ids[word] for word in row] for row in rows]
        tokens = torch.tensor(ids, dtype=torch.long).view(len(rows), -1)
        return tokens, torch.ones_like(tokens, dtype=torch.bool)

    def _with_bos(self, text: str, prepend_bos: bool | None) -> list[str]:
        if prepend_bos and self.bos is None:
            raise TokenError("prepend_bos = True, but this vocabulary was made without bos=")
        words = self.split(text)
        return [self.bos, *words] if prepend_bos and self.bos is not None and words[:1] != [self.bos] else words

    def to_str_tokens(self, text: str | Int[Tensor, "..."], prepend_bos: bool | None = None) -> list[str]:
        """The words of one text, or of one sequence of ids. Raises `TokenError` for ids out of range."""
        if isinstance(text, str):
            return self._with_bos(text, prepend_bos)
        ids = one_sequence(text)
        for place, i in enumerate(ids):
            if not 0 <= i < self.d_vocab:
                raise TokenError(f"token {i} at place {place}; allowed: 0 to {self.d_vocab - 1}")
        return [self.words[i] for i in ids]

    def to_string(self, tokens: Int[Tensor, "..."]) -> str:
        """The text of one sequence of ids."""
        return self.sep.join(self.to_str_tokens(tokens))

    def to_single_token(self, text: str) -> int:
        """The id of one word. Raises `TokenError` if it is unknown, listing the parts of a text of several words."""
        if text in self._ids:
            return self._ids[text]
        parts = self.split(text)
        raise TokenError(f"{text!r} is {len(parts)} tokens, {parts}; a single one is needed")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"words": list(self.words), "sep": self.sep, "bos": self.bos}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Vocabulary":
        """The vocabulary whose `to_dict` this is."""
        return cls(values["words"], sep=values["sep"], bos=values["bos"])

    def __repr__(self) -> str:
        return f"Vocabulary({self.d_vocab} words, sep={self.sep!r}, bos={self.bos!r})"


def check_tokens(tokens: Tensor, d_vocab: int, n_ctx: int, device: torch.device) -> Int[Tensor, "batch pos"]:
    """Token ids [batch pos] or [pos] as [batch pos] of int64, after every check that can fail.

    Raises:
        TokenError: not integers, empty, longer than the context, or an id out of range (with its place).
        ShapeError: not one or two axes, or on another device than the model.
    """
    if tokens.dtype.is_floating_point or tokens.dtype.is_complex or tokens.dtype == torch.bool:
        raise TokenError(
            f"token ids are integers, not {tokens.dtype}; a residual stream goes in with start_at_layer= only"
        )
    if tokens.ndim not in (1, 2):
        raise ShapeError(f"tokens have shape {tuple(tokens.shape)}; allowed: [pos] or [batch, pos]")
    if tokens.numel() == 0:
        raise TokenError(f"an empty sequence: tokens have shape {tuple(tokens.shape)}; at least one token is needed")
    if tokens.device != device:
        raise ShapeError(f"tokens are on {tokens.device}, the model on {device}")
    tokens = tokens.long() if tokens.ndim == 2 else tokens.long()[None]
    if tokens.shape[1] > n_ctx:
        raise TokenError(f"a sequence of {tokens.shape[1]} tokens is longer than the context, n_ctx = {n_ctx}")
    outside = (tokens < 0) | (tokens >= d_vocab)
    if not tokens.is_meta and outside.any():
        batch, pos = (int(i) for i in outside.nonzero()[0])
        raise TokenError(f"token {int(tokens[batch, pos])} at batch {batch}, pos {pos}; allowed: 0 to {d_vocab - 1}")
    return tokens


def check_mask(mask: Any, beside: Tensor) -> Bool[Tensor, "batch pos"] | None:
    """An attention mask (true: a real token; false: padding) as booleans, or None.

    `beside` are the tokens [batch, pos] or the stream [batch, pos, d_model] that it masks. Raises `ShapeError` for
    another shape or device, values other than 0 and 1, or a sequence of padding only.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise ShapeError(f"attention_mask is a tensor [batch, pos], not {type(mask).__name__}")
    if mask.shape != beside.shape[:2] or mask.device != beside.device:
        raise ShapeError(
            f"attention_mask has shape {tuple(mask.shape)} on {mask.device}; "
            f"the input has {tuple(beside.shape[:2])} on {beside.device}"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise ShapeError("attention_mask holds 1 (or True) for real tokens and 0 (or False) for padding, nothing else")
    real = mask.bool()
    if not real.any(dim=1).all():
        raise ShapeError(f"attention_mask: sequence {int((~real.any(dim=1)).nonzero()[0])} is padding only")
    return real
