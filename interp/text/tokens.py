"""What a model's input must be, checked before the model sees it; and how tokens are named and shown."""

from collections.abc import Iterable
from typing import Any

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
