"""The checks of token ids and masks before a model sees them, and the strings by which tokens are named and shown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import ShapeError, TokenError
from interp.text.codec import TextCodec

MARKS = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽"}


def visible(token: str) -> str:
    """A token as it can be shown anywhere: white space as marks, other unprintable characters as escapes."""
    return "".join(MARKS.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode()) for c in token)


def token_strings(tokenizer: TextCodec | None, ids: Iterable[int]) -> list[str]:
    """The string of each token id, as results hold it: "<50280>" for an id that the tokenizer does not have.

    Without a tokenizer a token's string is its number. Pictures show these strings through `visible`.
    """
    ids = list(ids)
    if tokenizer is None:
        return list(map(str, ids))
    distinct = sorted(set(ids))
    strings = dict(zip(distinct, tokenizer.to_str_tokens(distinct), strict=True))
    return [strings[i] for i in ids]


def token_names(tokenizer: TextCodec | None, ids: Int[Tensor, "n"]) -> list[str]:
    """The name of each token id, for pictures: its `token_strings`, made `visible`."""
    return list(map(visible, token_strings(tokenizer, ids.tolist())))


def check_tokens(tokens: Tensor, d_vocab: int, n_ctx: int, device: torch.device) -> Int[Tensor, "batch pos"]:
    """Token ids, given as [batch, pos] or [pos], as int64 [batch, pos]. All that can be wrong with them is checked.

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


AttentionMask = Tensor | np.ndarray | Sequence[Any]
"""Which positions are tokens rather than padding, [batch, pos] or, beside a single sequence, [pos]: booleans, or the
numbers 1 and 0 in any type, as a tensor, an array or nested lists."""


@dataclass(frozen=True, eq=False)
class MaskedTokens:
    """Checked token ids and their attention mask: what a model has made of a text or of given ids.

    Attributes:
        ids: int64, on the model's device.
        attention_mask: true for tokens and false for padding; None where nothing is padding.
    """

    ids: Int[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> "MaskedTokens":
        """Some of the sequences, padded as they were."""
        mask = None if self.attention_mask is None else self.attention_mask[rows]
        return MaskedTokens(self.ids[rows], None if mask is None or bool(mask.all()) else mask)

    @property
    def is_token(self) -> Bool[Tensor, "batch pos"]:
        """The attention mask, true everywhere where nothing is padding."""
        return torch.ones_like(self.ids, dtype=torch.bool) if self.attention_mask is None else self.attention_mask


def check_mask(attention_mask: AttentionMask | None, beside: Tensor) -> Bool[Tensor, "batch pos"] | None:
    """An attention mask as booleans on the device of `beside`; None where it marks no padding.

    Masks are read in `check_marks` alone: whatever spelling is accepted there means the same everywhere.

    Args:
        attention_mask: see `AttentionMask`. A tensor has to be on the device of `beside`, as tokens have to.
        beside: the tokens [batch, pos], or the stream or logits [batch, pos, ...], that it belongs to.

    Raises `ShapeError` for another shape or device, values other than 0 and 1, or a sequence of padding only.
    """
    if attention_mask is None:
        return None
    real = check_marks(attention_mask, beside, "attention_mask", "real tokens", "padding")
    if not real.any(dim=1).all():
        raise ShapeError(f"attention_mask: sequence {int((~real.any(dim=1)).nonzero()[0])} is padding only")
    return None if bool(real.all()) else real


def check_marks(given: AttentionMask, beside: Tensor, name: str, true: str, false: str) -> Bool[Tensor, "batch pos"]:
    """Marks of positions in any spelling, as booleans on the device of `beside`.

    Args:
        given, beside: as for `check_mask`.
        name: what messages call the marks.
        true, false: what messages say that they stand for.

    Raises `ShapeError` for another shape or device, or values other than 0 and 1.
    """
    wanted = tuple(beside.shape[:2])
    meaning = f"1 (or True) for {true} and 0 (or False) for {false}"
    if isinstance(given, Tensor):
        marks = given
    else:
        try:
            marks = _as_tensor(given, beside.device)
        except (TypeError, ValueError) as error:
            raise ShapeError(
                f"{name} is a tensor, an array or lists of shape {wanted} [batch, pos] with {meaning}, not "
                f"{type(given).__name__}"
            ) from error
    if marks.ndim == 1 and wanted[0] == 1:
        marks = marks[None]
    if tuple(marks.shape) != wanted or marks.device != beside.device:
        raise ShapeError(
            f"{name} has shape {tuple(marks.shape)} on {marks.device}; "
            f"the input has {wanted} [batch, pos] on {beside.device}"
        )
    found = marks if marks.dtype == torch.bool else marks == 1
    if not (found | (marks == 0)).all():
        raise ShapeError(f"{name} holds {meaning}, nothing else")
    return found.contiguous()  # the layout in memory can change the order of sums


def _as_tensor(given: object, device: torch.device) -> Tensor:
    array = np.asarray(given)
    if array.dtype.kind not in "buif":
        raise TypeError(f"of {array.dtype}")
    return torch.tensor(array if array.dtype.kind == "b" else array.astype(np.float64), device=device)
