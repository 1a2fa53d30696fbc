"""Keys and values that are kept between runs, so that a run carries only the new positions."""

import copy
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import ConfigError, ShapeError, describe
from interp.indices import is_index
from interp.text import Memory


class LayerKeysValues:
    """Keys (rotated, where the model rotates) and values of the positions that one layer has seen."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self._next: tuple[Tensor, Tensor] | None = None

    def extend(
        self, k: Float[Tensor, "batch new kv_head d_head"], v: Float[Tensor, "batch new kv_head d_head"]
    ) -> tuple[Float[Tensor, "batch n_keys kv_head d_head"], Float[Tensor, "batch n_keys kv_head d_head"]]:
        """All keys and values up to now; they are kept only when the run has ended well (`commit`)."""
        if self.keys is not None and self.values is not None:
            k, v = torch.cat([self.keys, k], dim=1), torch.cat([self.values, v], dim=1)
        self._next = (k, v)
        return k, v

    def of_memory(self, project: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Keys and values of a memory, which are the same in every run: they are computed in the first one."""
        if self.keys is not None and self.values is not None:
            return self.keys, self.values
        self._next = project()
        return self._next

    def repeated(self, times: Iterable[tuple[int, int]]) -> "LayerKeysValues":
        """Those of some sequences, each so many times."""
        made, rows = LayerKeysValues(), [row for row, n in times for _ in range(n)]
        assert self.keys is not None and self.values is not None
        made.keys, made.values = self.keys[rows], self.values[rows]
        return made

    def commit(self) -> None:
        """Keep what the run that just ended added."""
        if self._next is not None:
            self.keys, self.values = self._next
        self._next = None


class KVCache:
    """What attention needs of earlier positions, so that a run carries only the new ones.

    Pass the same object to one run after another: `model(prompt, kv_cache=cache)`, then `model(next, kv_cache=cache)`.
    A run that fails leaves it as it was.

    Positions of hooks and interventions count along the whole sequence. Where the prompt ends, which negative positions
    and "generated" ones refer to, only who makes the cache can know: `generate` says it.

    Attributes:
        n_prompt: how many positions the prompt has, or None where that was not said.
        n_final: how many positions the sequence can have in the end, or None where that was not said.
        layers: keys and values of each layer.
        of_memory: those of each layer's cross-attention.
        memory: what these were computed from, or None before the first run.
        mask: which of the positions seen are real tokens, or None where all are.
        n_pos: how many positions were seen.
        batch: of how many sequences, or None before the first run.

    Copies (`copy.deepcopy`) go on from here independently of the original; nothing that is held is ever written to.

    Raises `ConfigError` for counts that are none.
    """

    def __init__(self, n_layers: int, n_prompt: int | None = None, n_final: int | None = None):
        for name, given, least in (("n_layers", n_layers, 0), ("n_prompt", n_prompt, 1), ("n_final", n_final, 1)):
            if not (is_index(given) and cast(int, given) >= least) and not (given is None and name != "n_layers"):
                raise ConfigError(f"{name} = {describe(given)}; allowed: {least} or more")
        self.n_prompt, self.n_final = n_prompt, n_final
        self.layers, self.of_memory = ([LayerKeysValues() for _ in range(n_layers)] for _ in range(2))
        self.memory: Memory | None = None
        self.mask: Bool[Tensor, "batch n_pos"] | None = None
        self.n_pos = 0
        self.batch: int | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "KVCache":
        made = copy.copy(self)
        made.layers, made.of_memory = (list(map(copy.copy, held)) for held in (self.layers, self.of_memory))
        return made

    def check_fits(self, cfg: TransformerConfig) -> None:
        """Raise `ConfigError` for a model that has other layers, heads or sizes than what is held."""
        held = [tuple(layer.keys.shape[2:]) for layer in self.layers if layer.keys is not None]
        here = (cfg.n_key_value_heads, cfg.d_head)
        if len(self.layers) != cfg.n_layers or any(shape != here for shape in held):
            what = f"{len(self.layers)} layers" + (f" of keys {held[0]} [kv_head, d_head]" if held else "")
            raise ConfigError(f"kv_cache is of another model, with {what}; here are {cfg.n_layers} layers of {here}")

    def check_memory(self, memory: Memory | None) -> None:
        """Raise `ConfigError` for another memory than that of the earlier runs, whose keys and values are held."""
        held = self.memory
        if memory is None or held is None or memory is held:
            return
        if not (torch.equal(memory.stream, held.stream) and torch.equal(memory.is_token, held.is_token)):
            raise ConfigError("kv_cache is of another memory: its keys and values are those of the source of its first "
                              "run; begin with a new KVCache for another source")  # fmt: skip

    def whole_mask(
        self, batch: int, n_new: int, mask: Bool[Tensor, "batch new"] | None, device: torch.device
    ) -> Bool[Tensor, "batch n_keys"] | None:
        """The mask of the positions seen and the new ones together. Raises `ShapeError` for another batch."""
        if self.batch not in (None, batch):
            raise ShapeError(f"kv_cache holds {self.batch} sequences; this run has {batch}")
        if self.mask is None and mask is None:
            return None
        past = torch.ones(batch, self.n_pos, dtype=torch.bool, device=device) if self.mask is None else self.mask
        new = torch.ones(batch, n_new, dtype=torch.bool, device=device) if mask is None else mask
        return torch.cat([past, new], dim=1)

    def commit(
        self, batch: int, n_new: int, mask: Bool[Tensor, "batch n_keys"] | None, memory: Memory | None = None
    ) -> None:
        """Keep what a run that ended well has added."""
        for layer in (*self.layers, *self.of_memory):
            layer.commit()
        self.memory = memory
        self.mask, self.batch, self.n_pos = mask, batch, self.n_pos + n_new
