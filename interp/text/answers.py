"""Answers: the tokens that a question is about. They are given as ids, or as texts of one token each."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from interp.errors import TokenError
from interp.text.ids import as_ids

Answer = (
    int | str | Sequence[int | str] | np.ndarray | Int[Tensor, ""] | Int[Tensor, "batch"] | Int[Tensor, "batch pos"]
)
"""One token for all prompts, one for each prompt, or (as ids) one for each position."""


def token_ids(given: Any, to_id: Callable[[str], int] | None, d_vocab: int, what: str = "answer") -> Int[Tensor, "..."]:
    """The ids of one token (no axes), of several ([n]), or of a tensor or of lists of lists (with their own axes).

    Args:
        given: ids (see `Ids`), or texts of one token each.
        to_id: gives the id of a text of one token, as `model.to_single_token` does; None where only ids are allowed.
        d_vocab: the number of tokens.
        what: what messages call it.

    Raises `TokenError` for what is no id, out of range or not a single token; `ShapeError` for ragged lists.

    >>> token_ids("Mary", model.to_single_token, cfg.d_vocab).shape
    torch.Size([])
    >>> token_ids([3, 4], None, cfg.d_vocab)
    tensor([3, 4])
    """
    ids = as_ids(given, what, to_id)
    if (bad := ids[(ids < 0) | (ids >= d_vocab)]).numel():
        raise TokenError(f"{what} {int(bad[0])} is no token; allowed: 0 to {d_vocab - 1}")
    return ids


def answer_in_words(answer: Answer | None) -> str:
    """How a result says which answer it is of: as it was given, or "none".

    >>> answer_in_words("Mary"), answer_in_words(torch.tensor([3, 4])), answer_in_words(None)
    ("'Mary'", '[3, 4]', 'none')
    """
    return "none" if answer is None else repr(answer.tolist() if isinstance(answer, Tensor | np.ndarray) else answer)
