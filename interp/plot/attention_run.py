"""What the attention explorer shows of one run: patterns with their masked entries, and what the values are worth.

Both of the extras come from `interp.lens`, in factors that are small however long the text:

- value-weighted attention `A[q, k] |v_k W_O|` needs one norm a layer, head and key (`value_norms`; Kobayashi et al.
  2020, "Attention is Not Only a Weight");
- the contribution of a key to a logit difference needs one number a layer, head and key and one a layer and query
  (`key_effects`; Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", on direct paths). Summed
  over keys it is the head's row of `cache.logit_attrs`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, HookNotFoundError, ShapeError, check_choice, describe, did_you_mean
from interp.lens import key_effects, value_norms
from interp.model import visible_keys
from interp.plot.style import check_shares
from interp.text import token_ids

if TYPE_CHECKING:
    from interp.model import ActivationCache, HookedTransformer


@dataclass(frozen=True, eq=False)
class AttentionRun:
    """One sequence of one run; arrays are float32.

    Attributes:
        layers: the layers whose patterns the cache holds.
        pattern: NaN where masked.
        value_norms: `|v_k W_O|`, or None where the cache lacks a layer's values.
        key_effects, query_factors: the contributions' factors, or None where no logit difference was asked for.
        padding: positions that only attend to themselves, and that no other attends to.
        attention_dir: of the model, or "bidirectional" where hooks let a query attend to a later key.
        notes: what a reader of the picture should know.
    """

    layers: list[int]
    pattern: Float[np.ndarray, "layer head query_pos key_pos"]
    value_norms: Float[np.ndarray, "layer head key_pos"] | None
    key_effects: Float[np.ndarray, "layer head key_pos"] | None
    query_factors: Float[np.ndarray, "layer query_pos"] | None
    padding: list[int]
    attention_dir: str
    notes: list[str]

    @property
    def first(self) -> int:
        """The first position that is not padding."""
        return next(i for i in range(self.pattern.shape[-1]) if i not in self.padding)

    def values(self, layer: int, head: int, kind: str = "attention") -> Float[np.ndarray, "query_pos key_pos"]:
        """One head, NaN where masked: "attention", "weighted" or "contribution"; `layer` counts within `layers`."""
        check_choice("kind", kind, KINDS)
        pattern = self.pattern[layer, head]
        if kind == "attention":
            return pattern
        if kind == "weighted":
            if self.value_norms is None:
                raise HookNotFoundError(f"kind = 'weighted' needs hook_v of every layer shown: {NO_VALUES}")
            return pattern * self.value_norms[layer, head]
        if self.key_effects is None or self.query_factors is None:
            raise ConfigError("kind = 'contribution' needs correct= in attention(): the token whose logit counts")
        return pattern * self.key_effects[layer, head] * self.query_factors[layer][:, None]

    def last_contributions(self) -> Float[np.ndarray, "layer head"]:
        """The size of what each head adds to the logit (difference) at the last position that is not padding.

        Of a run that has `key_effects`.
        """
        last = max(i for i in range(self.pattern.shape[-1]) if i not in self.padding)
        heads = [[self.values(layer, head, "contribution")[last] for head in range(self.pattern.shape[1])]
                 for layer in range(len(self.layers))]  # fmt: skip
        return np.abs(np.nansum(heads, axis=-1)).astype(np.float32)


KINDS = ("attention", "weighted", "contribution")
NO_VALUES = "the cache does not hold them; widen names_filter="


@torch.no_grad()
def read_run(cache: ActivationCache, batch: int, answers: tuple[int, int | None] | None) -> AttentionRun:
    """The run of sequence `batch` in `cache`, with what is added to the answers' logits. Errors as for `attention`."""
    held = [layer for layer in range(cache.cfg.n_layers) if _name(layer, "pattern") in cache]
    if not held:
        raise HookNotFoundError(
            "this cache holds no attention pattern; name it in names_filter=, such as 'blocks.*.attn.hook_pattern'"
            f"{did_you_mean('blocks.0.attn.hook_pattern', cache, 0.8)}"
        )
    _check_shape(tuple(cache[_name(held[0], "pattern")].shape), batch)
    cache = cache.slice(batch=batch)
    pattern = _patterns(cache, held)
    notes = []
    if len(held) < cache.cfg.n_layers:
        missing = ", ".join(str(layer) for layer in range(cache.cfg.n_layers) if layer not in held)
        notes.append(f"Layers whose patterns the cache does not hold are not shown: {missing}.")
    n, causal = pattern.shape[-1], cache.cfg.attention_dir == "causal"
    if causal and (pattern[..., np.triu(np.ones((n, n), dtype=bool), 1)] >= 0).any():
        notes.append("Some queries attend to later keys, although the model is causal: hooks edited the patterns.")
        causal = False
    norms = None
    if any(_name(layer, "v") not in cache for layer in held):
        if answers is not None:
            raise HookNotFoundError(f"correct= needs hook_v of every layer shown: {NO_VALUES}")
        notes.append(f"Value-weighted attention is not offered: it needs hook_v of every layer; {NO_VALUES}.")
    else:
        norms = _stacked([value_norms(cache, layer) for layer in held])
    effects = factors = None
    if answers is not None:
        both = [key_effects(cache, layer, *answers) for layer in held]
        effects, factors = _stacked([one for one, _ in both]), _stacked([one for _, one in both])
    direction = "causal" if causal else "bidirectional"
    return AttentionRun(held, pattern, norms, effects, factors, _padding(pattern), direction, notes)


def _stacked(of_layers: list[Tensor]) -> np.ndarray:
    """The numbers [layer, ...] of the one sequence, from those [1, ...] of each layer."""
    return torch.cat(of_layers).float().cpu().numpy()


def comparable(clean: AttentionRun, patched: AttentionRun) -> list[AttentionRun]:
    """Both runs with what both have. Raises `ShapeError` if their heads or positions differ."""
    if clean.layers != patched.layers or clean.pattern.shape != patched.pattern.shape:
        raise ShapeError(
            f"the patched run has layers {patched.layers} and patterns {patched.pattern.shape[1:]}; "
            f"the clean one layers {clean.layers} and patterns {clean.pattern.shape[1:]}: both must agree"
        )
    runs = [clean, patched]
    if any(run.value_norms is None for run in runs):
        runs = [replace(run, value_norms=None) for run in runs]
    if any(run.attention_dir == "bidirectional" for run in runs):
        runs = [replace(run, attention_dir="bidirectional") for run in runs]
    return runs


# ---------------------------------------------------------------------- patterns


def _name(layer: int, point: str) -> str:
    return f"blocks.{layer}.attn.hook_{point}"


def _check_shape(shape: tuple[int, ...], batch: int) -> None:
    if isinstance(batch, bool) or not isinstance(batch, Integral) or not -shape[0] <= batch < shape[0]:
        raise ShapeError(
            f"batch = {describe(batch)}; allowed: {-shape[0]} to {shape[0] - 1} (the cache holds {shape[0]} sequences)"
        )
    if shape[-1] != shape[-2]:
        raise ShapeError(
            f"patterns of {shape[-2]} queries and {shape[-1]} keys: the explorer shows whole runs; give the cache of a "
            "run without pos_slice=, kv_cache= or cache.slice(pos=)"
        )


def _patterns(cache: ActivationCache, layers: list[int]) -> Float[np.ndarray, "layer head query_pos key_pos"]:
    """Patterns of the one sequence, NaN where masked."""
    cfg, found = cache.cfg, []
    mask = None if cache.attention_mask is None else cache.attention_mask.cpu()
    for layer in layers:
        pattern = cache[_name(layer, "pattern")][0].float().cpu()
        check_shares(pattern.numpy(), f"the pattern of layer {layer}")
        scores = cache.get(_name(layer, "attn_scores"))
        if scores is None:
            n, window = pattern.shape[-1], cfg.in_layer(cfg.window_size, layer)
            masked = ~visible_keys(cfg.attention_dir, window, n, n, mask, pattern.device)[0]
        else:
            masked = scores[0].cpu().isneginf()
        # What a hook attends to in spite of the mask is attention.
        found.append(pattern.masked_fill(masked & (pattern == 0), torch.nan).numpy())
    return np.stack(found)


def _padding(pattern: Float[np.ndarray, "layer head query_pos key_pos"]) -> list[int]:
    """Positions that see themselves alone and are seen by no other. A text has at least one that is none."""
    n = pattern.shape[-1]
    seen = ~np.isnan(pattern).all(axis=(0, 1)) & ~np.eye(n, dtype=bool)
    alone = ~seen.any(axis=0) & ~seen.any(axis=1)
    return [] if alone.all() else np.flatnonzero(alone).tolist()


# ---------------------------------------------------------------------- answers


def answer_ids(model: HookedTransformer, correct: int | str, incorrect: int | str | None) -> tuple[int, int | None]:
    """The ids of one or two different tokens, given as ids or as text. Raises `TokenError` or `ConfigError`."""

    def id_of(name: str, token: int | str) -> int:
        found = token_ids(token, model.to_answer, model.cfg.d_vocab_out, f"{name}:")
        if found.ndim:
            raise ConfigError(f"{name} = {describe(token)}; allowed: one token, as text or id")
        return int(found)

    ids = id_of("correct", correct), None if incorrect is None else id_of("incorrect", incorrect)
    if ids[0] == ids[1]:
        raise ConfigError(f"correct = {describe(correct)} and incorrect = {describe(incorrect)} are one token")
    return ids
