"""`HookedTransformerKeyValueCache`: keys and values between runs, which can be frozen."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.compat.transformer_lens.config import HookedTransformerConfig
from interp.model import KVCache


class HookedTransformerKeyValueCacheEntry(NamedTuple):
    """Keys and values of one layer, [batch, pos, kv_head, d_head]; None before the first run."""

    past_keys: Tensor | None
    past_values: Tensor | None


class HookedTransformerKeyValueCache(KVCache):
    """The core's `KVCache`, which runs extend unless it is `frozen`."""

    frozen = False

    @classmethod
    def init_cache(cls, cfg: HookedTransformerConfig, device: Any = None, batch_size: int = 1) -> Any:
        """An empty one for models of this config; device and batch are those of the first run."""
        return cls(cfg.n_layers)

    def freeze(self) -> None:
        """From now on runs read it only."""
        self.frozen = True

    def unfreeze(self) -> None:
        """From now on runs extend it."""
        self.frozen = False

    @property
    def previous_attention_mask(self) -> Int[Tensor, "batch n_pos"]:
        """1 for each position seen that is a token, 0 for padding."""
        return torch.ones(self.batch or 0, self.n_pos).int() if self.mask is None else self.mask.int()

    def append_attention_mask(
        self, attention_mask: Int[Tensor, "batch new"] | Bool[Tensor, "batch new"]
    ) -> Int[Tensor, "batch n_keys"]:
        """The mask of the positions seen and of new ones, which a cache that is not frozen remembers."""
        seen = self.previous_attention_mask.to(attention_mask.device)
        whole = torch.cat([seen, attention_mask.int()], dim=1) if seen.numel() else attention_mask.int()
        self.mask = self.mask if self.frozen else whole.bool()
        return whole

    @property
    def entries(self) -> list[HookedTransformerKeyValueCacheEntry]:
        """Keys and values of each layer."""
        return [HookedTransformerKeyValueCacheEntry(layer.keys, layer.values) for layer in self.layers]

    def __getitem__(self, layer: int) -> Any:
        return self.entries[layer]
