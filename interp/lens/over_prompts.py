"""Results over prompts and positions: from tensors [..., batch, pos, ...] to an `xarray.Dataset` with named axes.

The axis `batch` of a tensor is the axis `prompt` of a result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import ShapeError
from interp.model import ActivationCache, HookedTransformer, select
from interp.results import array_of, as_array
from interp.text import AttentionMask, Ids, MaskedTokens, Text, is_single, is_text, token_strings

if TYPE_CHECKING:
    import xarray as xr

Pos = int | slice | Sequence[int] | None
"""Positions: one (its axis goes away), some, or None for all; negative ones count from the end."""


@dataclass(frozen=True, eq=False)
class OverPrompts:
    """The prompts and positions that a result is about.

    Attributes:
        model: whose run it was.
        n_batch, n_pos: how many prompts and positions the run has.
        pos: the positions that the result has.
        ids: what the run read, or None where that is not known.
        real: which of these are tokens rather than padding; None where all are.
        single: whether one text or one sequence of ids was given; its result has no axis of prompts.
    """

    model: HookedTransformer
    n_batch: int
    n_pos: int
    pos: Pos = None
    ids: Int[Tensor, "batch pos"] | None = None
    real: Bool[Tensor, "batch pos"] | None = None
    single: bool = False

    @classmethod
    def of_prompt(
        cls,
        model: HookedTransformer,
        prompt: Text | Ids | MaskedTokens,
        pos: Pos,
        attention_mask: AttentionMask | None = None,
    ) -> "OverPrompts":
        """The prompts and positions of a run on `prompt`.

        Raises as calling the model, and `ShapeError` for positions out of range.
        """
        prompts = model.read_tokens(prompt, attention_mask)
        single = not isinstance(prompt, MaskedTokens) and is_single(prompt)
        over = cls(model, len(prompts), prompts.ids.shape[1], pos, prompts.ids, prompts.attention_mask, single)
        over.positions()
        return over

    @classmethod
    def of_cache(cls, cache: ActivationCache, prompt: Text | Ids | MaskedTokens | None, pos: Pos) -> "OverPrompts":
        """The prompts and positions of the run behind a cache.

        Raises as `of_prompt`, and `ShapeError` for a prompt that is not the one that was run.
        """
        if not isinstance(cache, ActivationCache):
            raise TypeError(f"a cache is needed, model.run_with_cache(prompt)[1], not {type(cache).__name__}")
        points = {name: cache.model.hook_points[name.removesuffix("_grad")] for name in cache}
        name = next((name for name, point in points.items() if not point.of_memory), next(iter(points)))
        shape = len(cache[name]), cache[name].shape[points[name].pos_axis]
        if prompt is None:
            over = cls(cache.model, *shape, pos, real=cache.attention_mask)
            over.positions()
            return over
        bring_masks = isinstance(prompt, MaskedTokens) or is_text(prompt)
        over = cls.of_prompt(cache.model, prompt, pos, None if bring_masks else cache.attention_mask)
        if (over.n_batch, over.n_pos) != shape:
            raise ShapeError(
                f"the prompt is {over.n_batch} sequences of {over.n_pos} tokens, the cache holds {shape[0]} of "
                f"{shape[1]}; give the prompt of its run, or none"
            )
        return over

    def positions(self) -> list[int]:
        """The positions of the result, counted from 0."""
        return select(torch.arange(self.n_pos), 0, self.pos, "pos").tolist()

    def dataset(
        self, variables: Mapping[str, tuple[Sequence[str], Any]], coords: Mapping[str, Any], attrs: Mapping[str, Any]
    ) -> "xr.Dataset":
        """Variables as (axes, values) with their coordinates; `key_pos` is an axis over all positions of the run."""
        import xarray as xr

        axes = {axis for dims, _ in variables.values() for axis in dims}
        chosen = self.positions()
        added: dict[str, Any] = {"prompt": range(self.n_batch), "pos": chosen}
        if "key_pos" in axes:
            added["key_pos"] = range(self.n_pos)
        if self.ids is not None:
            words = array_of(token_strings(self.model.tokenizer, self.ids.flatten().tolist()), self.ids.shape)
            added["token"] = (("prompt", "pos"), words[:, chosen])
            if "key_pos" in axes:
                added["key_token"] = (("prompt", "key_pos"), words)
        if self.real is not None:
            added["is_token"] = (("prompt", "pos"), as_array(self.real[:, chosen]))
        result = xr.Dataset(
            {name: (tuple(dims), as_array(values)) for name, (dims, values) in variables.items()},
            {**coords, **added},
            {**attrs, "n": self.n_batch, "model": self.model.weights_hash()},
        )
        result = result.isel(prompt=0, drop=True) if self.single else result
        return result.isel(pos=0) if isinstance(self.pos, int) else result
