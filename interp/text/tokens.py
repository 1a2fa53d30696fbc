"""The checks of token ids and masks before a model sees them, and the strings by which tokens are named and shown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError, ShapeError, TokenError, describe
from interp.text.codec import TextCodec
from interp.text.ids import as_ids

MARKS = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽"}


def visible(token: str) -> str:
    """A token as it can be shown anywhere: white space as marks, other unprintable characters as escapes."""
    return "".join(MARKS.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode()) for c in token)


def token_strings(tokenizer: TextCodec | None, ids: Iterable[int]) -> list[str]:
    """The string of each token id, as results hold it: "<50280>" for an id that the tokenizer does not have.

    Without a tokenizer a token's string is its number. Pictures show these strings through `visible`.

    >>> token_strings(words, [words.to_single_token("Mary"), 99]), token_strings(None, [7])
    (['Mary', '<99>'], ['7'])
    """
    ids = list(ids)
    if tokenizer is None:
        return list(map(str, ids))
    distinct = sorted(set(ids))
    strings = dict(zip(distinct, tokenizer.to_str_tokens(distinct), strict=True))
    return [strings[i] for i in ids]


def token_names(tokenizer: TextCodec | None, ids: Int[Tensor, "n"]) -> list[str]:
    """The name of each token id, for pictures: its `token_strings`, made `visible`.

    >>> token_names(words, words.to_tokens("Mary gave")[0])
    ['Mary', 'gave']
    """
    return list(map(visible, token_strings(tokenizer, ids.tolist())))


def check_tokens(tokens: Tensor, d_vocab: int, n_ctx: int, device: torch.device) -> Int[Tensor, "batch pos"]:
    """Token ids, given as [batch, pos] or [pos], as int64 [batch, pos]. All that can be wrong with them is checked.

    Raises:
        TokenError: not integers, empty, longer than the context, or an id out of range (with its place).
        ShapeError: not one or two axes, or on another device than the model.

    >>> check_tokens(torch.tensor([3, 4]), cfg.d_vocab, cfg.n_ctx, torch.device("cpu"))
    tensor([[3, 4]])
    >>> check_tokens(torch.tensor([3, 99]), cfg.d_vocab, cfg.n_ctx, torch.device("cpu"))
    Traceback (most recent call last):
    interp.errors.TokenError: token 99 at batch 0, pos 1; allowed: 0 to 11
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
class Memory:
    """What cross-attention reads beside the stream: the last stream of an encoder.

    Attributes:
        stream: one vector for each position of the source.
        attention_mask: true for tokens of the source and false for padding; None where nothing is padding.
    """

    stream: Float[Tensor, "batch source_pos d_memory"]
    attention_mask: Bool[Tensor, "batch source_pos"] | None = None

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, rows: slice | Int[Tensor, "row"]) -> "Memory":
        """That of some of the sequences, padded as it was."""
        return Memory(self.stream[rows], _cut(self.attention_mask, rows))

    def to(self, device: torch.device | str) -> "Memory":
        """The same on another device."""
        mask = self.attention_mask
        return Memory(self.stream.to(device), None if mask is None else mask.to(device))

    @property
    def is_token(self) -> Bool[Tensor, "batch source_pos"]:
        """The attention mask, true everywhere where nothing is padding."""
        return _whole_mask(self.attention_mask, self.stream[..., 0])


@dataclass(frozen=True, eq=False)
class MaskedTokens:
    """Everything that a run reads, checked: what a model has made of a text or of given ids.

    Attributes:
        ids: int64, on the model's device.
        attention_mask: true for tokens and false for padding; None where nothing is padding.
        token_types: the type of each token, int64, in a model whose tokens have types; None where all are of type 0.
        memory: what cross-attention reads, in a model that has it.
    """

    ids: Int[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"] | None = None
    token_types: Int[Tensor, "batch pos"] | None = None
    memory: Memory | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | Int[Tensor, "row"]) -> "MaskedTokens":
        """Some of the sequences, padded as they were."""
        types = None if self.token_types is None else self.token_types[rows]
        memory = None if self.memory is None else self.memory[rows]
        return MaskedTokens(self.ids[rows], _cut(self.attention_mask, rows), types, memory)

    def to(self, device: torch.device | str) -> "MaskedTokens":
        """The same on another device."""
        mask, types = (None if part is None else part.to(device) for part in (self.attention_mask, self.token_types))
        memory = None if self.memory is None else self.memory.to(device)
        return MaskedTokens(self.ids.to(device), mask, types, memory)

    @property
    def is_token(self) -> Bool[Tensor, "batch pos"]:
        """The attention mask, true everywhere where nothing is padding."""
        return _whole_mask(self.attention_mask, self.ids)


def _whole_mask(mask: Tensor | None, beside: Tensor) -> Tensor:
    """The mask, true everywhere where there is none."""
    return torch.ones_like(beside, dtype=torch.bool) if mask is None else mask


def _cut(mask: Tensor | None, rows: slice | Tensor) -> Tensor | None:
    """The mask of some sequences; None where these have no padding."""
    mask = None if mask is None else mask[rows]
    return None if mask is None or bool(mask.all()) else mask


def check_token_types(given: Any, beside: Int[Tensor, "batch pos"], n_types: int) -> Int[Tensor, "batch pos"] | None:
    """Types of tokens, given as ids are, as int64 beside the tokens; None where none are given.

    Raises:
        ConfigError: the model's tokens have no types.
        ShapeError: another shape or device than the tokens'.
        TokenError: no integers, or a type out of range.

    >>> check_token_types([[0, 1, 1]], torch.zeros(1, 3, dtype=torch.long), 2)
    tensor([[0, 1, 1]])
    """
    if given is None:
        return None
    if n_types == 0:
        raise ConfigError("token_types: this model has n_token_types = 0, so its tokens have no types")
    types = given if isinstance(given, Tensor) else as_ids(given, "token_types").to(beside.device)
    if types.dtype.is_floating_point or types.dtype.is_complex or types.dtype == torch.bool:
        raise TokenError(f"token_types are integers, not {types.dtype}")
    types = types.long() if types.ndim == 2 else types.long()[None]
    if types.shape != beside.shape or types.device != beside.device:
        raise ShapeError(
            f"token_types have shape {tuple(types.shape)} on {types.device}; the tokens have {tuple(beside.shape)} "
            f"[batch, pos] on {beside.device}"
        )
    outside = (types < 0) | (types >= n_types)
    if not types.is_meta and outside.any():
        batch, pos = (int(i) for i in outside.nonzero()[0])
        raise TokenError(
            f"token_types: type {int(types[batch, pos])} at batch {batch}, pos {pos}; allowed: 0 to {n_types - 1}"
        )
    return types


def check_memory(given: object, beside: Tensor, d_memory: int, dtype: torch.dtype) -> Memory | None:
    """The memory of a run on the tokens or the stream `beside`, [batch, pos, ...].

    Raises:
        ConfigError: a memory for a model without cross-attention, none for one with it, or something that is none.
        ShapeError: another shape, dtype or device than the model and its tokens need.

    >>> check_memory(None, torch.zeros(1, 3, dtype=torch.long), 0, torch.float32) is None  # without cross-attention
    True
    """
    if d_memory == 0:
        if given is not None:
            raise ConfigError("memory: this model has d_memory = 0, so no attention reads it")
        return None
    if given is None:
        raise ConfigError(
            f"this model has cross-attention to a memory [batch, source_pos, {d_memory}]: give memory=, such as "
            "HookedEncoderDecoder.encode makes"
        )
    memory = Memory(given) if isinstance(given, Tensor) else given
    if not isinstance(memory, Memory):
        raise ConfigError(f"memory = {describe(given)}; allowed: a Memory, or its stream [batch, source_pos, d_memory]")
    stream, mask = memory.stream, memory.attention_mask
    wanted = f"memory: a stream [batch, source_pos, {d_memory}] in {dtype}"
    if stream.ndim != 3 or stream.shape[2] != d_memory or stream.shape[1] == 0 or stream.dtype != dtype:
        raise ShapeError(f"{wanted} is needed, not {stream.dtype} of shape {tuple(stream.shape)}")
    if len(stream) != len(beside) or stream.device != beside.device:
        raise ShapeError(
            f"{wanted} is needed for each of {len(beside)} sequences on {beside.device}, not for {len(stream)} on "
            f"{stream.device}"
        )
    checked = check_mask(mask, stream)
    return memory if checked is mask else Memory(stream, checked)


def check_mask(attention_mask: AttentionMask | None, beside: Tensor) -> Bool[Tensor, "batch pos"] | None:
    """An attention mask as booleans on the device of `beside`; None where it marks no padding.

    Masks are read in `check_marks` alone: whatever spelling is accepted there means the same everywhere.

    Args:
        attention_mask: see `AttentionMask`. A tensor has to be on the device of `beside`, as tokens have to.
        beside: the tokens [batch, pos], or the stream or logits [batch, pos, ...], that it belongs to.

    Raises `ShapeError` for another shape or device, values other than 0 and 1, or a sequence of padding only.

    >>> tokens = torch.zeros(1, 3, dtype=torch.long)
    >>> check_mask([[0, 1, 1]], tokens), check_mask([[1, 1, 1]], tokens)
    (tensor([[False,  True,  True]]), None)
    """
    if attention_mask is None:
        return None
    real = check_marks(attention_mask, beside, "attention_mask", "real tokens", "padding")
    if real.is_meta:  # it has no values, so that it marks nothing; shapes do not depend on it
        return None
    if not real.any(dim=1).all():
        raise ShapeError(
            f"attention_mask: sequence {int((~real.any(dim=1)).nonzero()[0])} is padding only; every run, also "
            "that of a piece, reads a token of each sequence"
        )
    return None if bool(real.all()) else real


def check_marks(given: AttentionMask, beside: Tensor, name: str, true: str, false: str) -> Bool[Tensor, "batch pos"]:
    """Marks of positions in any spelling, as booleans on the device of `beside`.

    Args:
        given, beside: as for `check_mask`.
        name: what messages call the marks.
        true, false: what messages say that they stand for.

    Raises `ShapeError` for another shape or device, or values other than 0 and 1.

    >>> check_marks([[0, 1, 1]], torch.zeros(1, 3, dtype=torch.long), "attention_mask", "a token", "padding")
    tensor([[False,  True,  True]])
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
    if not found.is_meta and not (found | (marks == 0)).all():
        raise ShapeError(f"{name} holds {meaning}, nothing else")
    return found.contiguous()  # the layout in memory can change the order of sums


def _as_tensor(given: object, device: torch.device) -> Tensor:
    array = np.asarray(given)
    if array.dtype.kind not in "buif":
        raise TypeError(f"of {array.dtype}")
    return torch.tensor(array if array.dtype.kind == "b" else array.astype(np.float64), device=device)
