"""Token ids as callers have them, and as tensors.

Every function of this package that takes token ids takes an integer, a list, a tuple or a range of integers, lists of
lists, a numpy array, or a tensor of any integer dtype. `as_ids` makes one tensor of all of these.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex, TypeGuard, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import ShapeError, TokenError, describe
from interp.indices import is_index

Text = str | list[str] | tuple[str, ...]
"""One text, or a batch of them."""

OneSequence = SupportsIndex | Sequence[SupportsIndex]
"""Ids that are one sequence, as their type says."""

Arrays = np.ndarray | Tensor | Sequence[Sequence[SupportsIndex]] | Sequence[Tensor] | Sequence[np.ndarray]
"""Ids that may be several sequences: their shape says."""

Ids = OneSequence | Arrays
"""Token ids: one, a list of them, lists of lists, or an array or a tensor of any integer dtype."""


INPUT = "input (text, a list of texts, or token ids)"
"""What messages call the input of a model."""


def is_text(given: object) -> TypeGuard[Text]:
    """Whether it is a text or a list of texts, and not token ids.

    >>> is_text("Mary"), is_text(["Mary", "John"]), is_text([1, 2])
    (True, True, False)
    """
    return isinstance(given, str) or (isinstance(given, list | tuple) and all(isinstance(one, str) for one in given))


def is_single(given: Text | Ids) -> bool:
    """Whether it is one text or one sequence of ids, rather than a batch.

    >>> is_single("Mary gave"), is_single(["Mary gave"]), is_single([1, 2]), is_single([[1, 2]])
    (True, False, True, False)
    """
    return isinstance(given, str) or (not is_text(given) and as_ids(given).ndim < 2)


def as_ids(given: Any, what: str = "token ids", to_id: Callable[[str], int] | None = None) -> Int[Tensor, "..."]:
    """Token ids as one int64 tensor whose axes are those of the lists, the array or the tensor that was given.

    Args:
        given: see `Ids`.
        what: what messages call it.
        to_id: the id of a text that is one token, where texts may stand among the ids.

    Raises `TokenError` for anything that is not an integer (truth values and numbers with a point included), and
    `ShapeError` for lists of different lengths.

    >>> as_ids([[1, 2], [3, 4]]).dtype
    torch.int64
    """
    if isinstance(given, Tensor | np.ndarray):
        return _as_integers(given, what)
    if isinstance(given, str) and to_id is not None:
        return torch.tensor(to_id(given))
    if is_index(given) and not isinstance(given, str):
        return _tensor(operator.index(given), what)
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        if all(type(one) is int for one in given):  # the usual case, which needs no tensor for every id
            return _tensor(list(given), what)
        rows = [as_ids(one, what, to_id) for one in given]
        if len({row.shape for row in rows}) > 1:
            raise ShapeError(f"{what}: {len(rows)} lists of different lengths")
        return torch.stack(rows)
    if to_id is None:
        raise TokenError(f"{what}: {describe(given)} is no token id, which is an integer")
    raise TokenError(f"{what} {describe(given)} is neither a token id nor a text")


def _tensor(integers: int | list[int], what: str) -> Int[Tensor, "..."]:
    try:
        return torch.tensor(integers, dtype=torch.long)
    except (ValueError, OverflowError, RuntimeError) as error:
        raise TokenError(f"{what}: an integer beyond 64 bits is no token id") from error


def _as_integers(given: Tensor | np.ndarray, what: str) -> Int[Tensor, "..."]:
    try:
        ids = torch.as_tensor(given)
    except TypeError as error:
        raise TokenError(f"{what}: token ids are integers, not an array of {given.dtype}") from error
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TokenError(f"{what}: token ids are integers, not {ids.dtype}")
    return ids.long()


def one_sequence(tokens: Ids) -> list[int]:
    """The ids of one sequence, as a list: of one id, of [pos] or of [1, pos].

    Raises `TokenError` for a batch, or for what is not integers.

    >>> one_sequence(torch.tensor([[4, 2]]))
    [4, 2]
    """
    ids = as_ids(tokens)
    if ids.ndim > 2 or (ids.ndim == 2 and len(ids) != 1):
        raise TokenError(
            f"one sequence of token ids is needed, and these have shape {tuple(ids.shape)}; take one of them at a time"
        )
    return ids.flatten().tolist()


def sequences(tokens: Ids) -> tuple[list[list[int]], bool]:
    """The ids of each sequence as a list, and whether it is one sequence alone: one id, [pos] or [1, pos].

    Several are [batch, pos], or a list of sequences that may differ in length. Raises `TokenError` for anything else.

    >>> sequences([4, 2]), sequences([[4, 2], [3]])
    (([[4, 2]], True), ([[4, 2], [3]], False))
    """
    try:
        ids = as_ids(tokens)
        rows = [ids.reshape(-1)] if ids.ndim < 2 else list(ids)
    except ShapeError:  # they differ in length
        rows = [as_ids(row) for row in cast(Sequence[Any], tokens)]
    for i, row in enumerate(rows):
        if row.ndim != 1:
            raise TokenError(f"token ids are [pos], [batch, pos] or a list of sequences; row {i} of these has shape "
                             f"{tuple(row.shape)}")  # fmt: skip
    return [row.tolist() for row in rows], len(rows) == 1
