"""Scores that say what an attention head does, from its pattern alone.

Both take any leading axes (layers, heads) and return one number for each.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ShapeError, TokenError


def previous_token_score(pattern: Float[Tensor, "*heads query_pos key_pos"]) -> Float[Tensor, "*heads"]:
    """Mean attention to the position before: the mean of `A[i, i - 1]` over `i >= 1`; 1 for a perfect head.

    Raises `ShapeError` for a pattern that is not square or has a single position.
    """
    if pattern.shape[-1] != pattern.shape[-2] or pattern.shape[-1] < 2:
        raise ShapeError(f"a square pattern of at least two positions is needed, not {tuple(pattern.shape)}")
    return pattern.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=-1)


def induction_score(
    pattern: Float[Tensor, "*heads query_pos key_pos"], tokens: Int[Tensor, "pos"]
) -> Float[Tensor, "*heads"]:
    """Prefix matching: mean attention to the tokens that followed earlier occurrences of the query's own token.

    Summed over the earlier occurrences of a query, averaged over the queries that have one; 1 for a perfect head
    however many occurrences share its attention. (Prefix matching is defined in Olsson et al. 2022, who average the
    single entries of the pattern instead.) Repeats at one fixed distance also reward heads that copy from that distance
    whatever the token: score on repeats of varied distances. Where a token follows itself, its own position counts.

    Raises:
        ShapeError: the pattern does not fit the tokens.
        TokenError: no token occurs twice, so that nothing can be scored.
    """
    if pattern.shape[-2:] != (len(tokens), len(tokens)):
        raise ShapeError(f"a pattern of shape {tuple(pattern.shape)} does not fit {len(tokens)} tokens")
    follows = follows_earlier_occurrence(tokens)
    scored = follows.any(dim=-1)
    if not scored.any():
        raise TokenError("no token occurs twice, so no query has an earlier occurrence to attend to")
    return pattern.where(follows, 0).sum(dim=-1)[..., scored].mean(dim=-1)


def follows_earlier_occurrence(tokens: Int[Tensor, "pos"]) -> Bool[Tensor, "query_pos key_pos"]:
    """Where `tokens[key - 1] == tokens[query]` with `1 <= key <= query`: the stripes of an induction head."""
    same = tokens[:, None] == tokens[None, :].roll(1, dims=1)
    same[:, 0] = False
    return same & torch.ones_like(same).tril()
