"""Answers: the tokens that a question is about, given as ids or as texts of one token."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import ShapeError, TokenError
from interp.indices import is_index

Answer = int | str | Sequence[int | str] | Int[Tensor, "batch"] | Int[Tensor, "batch pos"]
"""One token for all prompts, one a prompt, or (as ids) one a position."""


def token_ids(given: Any, to_id: Callable[[str], int], d_vocab: int, what: str = "answer") -> Int[Tensor, "..."]:
    """The ids of one token (no axes), of several ([n]), or of a tensor or a list of lists (its own shape).

    Args:
        given: ids, or texts of one token each.
        to_id: the id of a single token's text, such as `model.to_single_token`.
        d_vocab: number of tokens.
        what: what messages call it.

    Raises `TokenError` for what is no id, out of range or not a single token; `ShapeError` for ragged lists.
    """
    if isinstance(given, Tensor | np.ndarray):
        ids = torch.as_tensor(given)
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise TokenError(f"{what}: token ids are integers, not {ids.dtype}")
    elif isinstance(given, str):
        ids = torch.tensor(to_id(given))
    elif is_index(given):
        ids = torch.tensor(operator.index(given))
    elif isinstance(given, Sequence | range):
        rows = [token_ids(one, to_id, d_vocab, what) for one in given]
        if len({row.shape for row in rows}) > 1:
            raise ShapeError(f"{what}: {len(rows)} lists of different lengths")
        ids = torch.stack(rows) if rows else torch.empty(0, dtype=torch.long)
    else:
        raise TokenError(f"{what} {given!r} is neither a token id nor a text")
    if (bad := ids[(ids < 0) | (ids >= d_vocab)]).numel():
        raise TokenError(f"{what} {int(bad[0])} is no token; allowed: 0 to {d_vocab - 1}")
    return ids.long()
