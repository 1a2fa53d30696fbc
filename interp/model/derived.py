"""Caches that are no run: the difference of two runs, and the gradients of one.

What is linear in activations holds for them as well. What needs the scales that norms had in a run, or the constants
that a run adds, does not, and is refused.
"""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from interp.errors import CacheError, HookNotFoundError, ShapeError, did_you_mean

if TYPE_CHECKING:
    from interp.model.cache import ActivationCache

Kind = Literal["run", "difference", "gradient"]
"""What a cache holds."""

NO_RUN: dict[Kind, str] = {
    "difference": "this cache is the difference of two runs, in which norms had different scales; take what is asked "
    "of each run, and then the difference",
    "gradient": "this cache holds gradients, which norms do not pass on as they do activations, and which sum to "
    "nothing; multiply them with what is asked of a run",
}
"""Why something cannot be read off a cache."""

SUFFIX = "_grad"
"""What the names of gradients end with in the cache of a run."""


def difference(one: "ActivationCache", other: "ActivationCache") -> "ActivationCache":
    """Every activation of `one` minus that of `other`; 0 where both are the same infinity (hidden scores).

    Raises `CacheError` for what is no run, or runs of other weights; `HookNotFoundError` for a name that one of the two
    lacks; `ShapeError` for runs of other shapes, or padded otherwise.
    """
    for cache in (one, other):
        cache.check_weights()
    if one.model is not other.model:
        raise CacheError("a difference is of two runs of one model; these are of two")
    for name in (*one, *other):
        if name not in one or name not in other:
            raise HookNotFoundError(f"one of the two caches lacks {name!r}; cache the same names in both runs"
                                    f"{did_you_mean(name, other if name in one else one)}")  # fmt: skip
        if one[name].shape != other[name].shape:
            raise ShapeError(f"{name} has shapes {tuple(one[name].shape)} and {tuple(other[name].shape)}")
    masks = ((one.attention_mask, other.attention_mask), (one.source_mask, other.source_mask))
    if any((a is None) != (b is None) or (a is not None and b is not None and not a.equal(b)) for a, b in masks):
        raise ShapeError("the two runs are padded otherwise, so that their positions do not correspond")
    values = {name: torch.where(one[name] == other[name], 0, one[name] - other[name]) for name in one}
    found = one.with_values(values)
    found.kind, found.edited = "difference", one.edited or other.edited
    return found


def gradients(cache: "ActivationCache") -> "ActivationCache":
    """The gradients that a run kept, under the names of their hook points.

    Raises `CacheError` for what is no run, `HookNotFoundError` where it kept none.
    """
    cache.check_weights()
    values: dict[str, Tensor] = {
        name.removesuffix(SUFFIX): value for name, value in cache.items() if name.endswith(SUFFIX)
    }
    if not values:
        raise HookNotFoundError("this cache holds no gradients; say gradient_of= (or incl_bwd=True) in run_with_cache")
    found = cache.with_values(values)
    found.kind = "gradient"
    return found
