"""What the attention explorer shows of one run: patterns with their masked entries, and what the values are worth.

Both of the extras factor, so that they are small however long the text:

- value-weighted attention `A[q, k] |v_k W_O|` needs one norm a layer, head and key;
- the contribution of a key to a logit difference, `A[q, k] (v_k W_O . d) / s_q`, needs one number a layer, head and key
  and one a layer and query. Here `d` is the difference of two columns of `W_U`, taken back through every norm that the
  head's write passes on its way, and `s_q` the product of the scales that these norms had in this run at the query.
  A norm at a fixed scale is linear, so this is exact: summed over keys it is the head's row of `cache.logit_attrs`.

Source of the first: Kobayashi et al. 2020, "Attention is Not Only a Weight"; of the second: Elhage et al. 2021, "A
Mathematical Framework for Transformer Circuits", on direct paths.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp.components import Norm, visible_keys
from interp.errors import ConfigError, HookNotFoundError, RangeError, ShapeError, did_you_mean
from interp.tokens import check_mask, check_tokens

if TYPE_CHECKING:
    from interp.cache import ActivationCache
    from interp.model import HookedTransformer


@dataclass(frozen=True)
class AttentionRun:
    """One sequence of one run; arrays are float32.

    Attributes:
        layers: the layers whose patterns the cache holds.
        pattern: NaN where masked.
        value_norms: `|v_k W_O|`, or None where the cache lacks a layer's values.
        key_effects: `v_k W_O . d`, or None where no logit difference was asked for.
        query_factors: `1 / s_q`, beside `key_effects`.
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
        pattern = self.pattern[layer, head]
        if kind == "attention":
            return pattern
        if kind == "weighted":
            if self.value_norms is None:
                raise HookNotFoundError(f"kind = 'weighted' needs hook_v of every layer shown: {NO_VALUES}")
            return pattern * self.value_norms[layer, head]
        if kind == "contribution":
            if self.key_effects is None or self.query_factors is None:
                raise ConfigError("kind = 'contribution' needs logit_difference=(right, wrong) in attention()")
            return pattern * self.key_effects[layer, head] * self.query_factors[layer][:, None]
        raise ConfigError(f"kind = {kind!r}; allowed: {', '.join(map(repr, KINDS))}{did_you_mean(kind, KINDS)}")


KINDS = ("attention", "weighted", "contribution")
NO_VALUES = "the cache does not hold them; widen names_filter="


@torch.no_grad()
def read_run(
    cache: ActivationCache, batch: int, logit_difference: tuple[Any, Any] | None, attention_mask: Tensor | None
) -> AttentionRun:
    """The run of sequence `batch` in `cache`. Errors as for `attention`."""
    held = [layer for layer in range(cache.cfg.n_layers) if _name(layer, "pattern") in cache]
    if not held:
        raise HookNotFoundError(
            "this cache holds no attention pattern; name it in names_filter=, such as 'blocks.*.attn.hook_pattern'"
            f"{did_you_mean('blocks.0.attn.hook_pattern', cache, 0.8)}"
        )
    shape = tuple(cache[_name(held[0], "pattern")].shape)
    _check_shape(shape, batch)
    pattern, known = _patterns(cache, held, batch, _row_mask(cache, shape, batch, attention_mask))
    notes = []
    if len(held) < cache.cfg.n_layers:
        missing = ", ".join(str(layer) for layer in range(cache.cfg.n_layers) if layer not in held)
        notes.append(f"Layers whose patterns the cache does not hold are not shown: {missing}.")
    n, causal = shape[-1], cache.cfg.attention_dir == "causal"
    if causal and (pattern[..., np.triu(np.ones((n, n), dtype=bool), 1)] >= 0).any():
        notes.append("Some queries attend to later keys, although the model is causal: hooks edited the patterns.")
        causal = False
    if not known and n > 1 and not (np.nan_to_num(pattern[:, :, 1:, 0]) > 0).any():
        notes.append("No head attends to position 0. If it is padding, give attention_mask= (or cache attn_scores).")
    norms = None
    if any(_name(layer, "v") not in cache for layer in held):
        if logit_difference is not None:
            raise HookNotFoundError(f"logit_difference= needs hook_v of every layer shown: {NO_VALUES}")
        notes.append(f"Value-weighted attention is not offered: it needs hook_v of every layer; {NO_VALUES}.")
    else:
        cache.check_weights()
        norms = np.stack([_value_norms(cache, layer, batch) for layer in held])
    effects = factors = None
    if logit_difference is not None:
        effects, factors = _contributions(cache, held, batch, logit_difference)
    padding = _padding(pattern)
    direction = "causal" if causal else "bidirectional"
    return AttentionRun(held, pattern, norms, effects, factors, padding, direction, notes)


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
    if isinstance(batch, bool) or not -shape[0] <= batch < shape[0]:
        raise ShapeError(
            f"batch = {batch}; allowed: {-shape[0]} to {shape[0] - 1} (the cache holds {shape[0]} sequences)"
        )
    if shape[-1] != shape[-2]:
        raise ShapeError(
            f"patterns of {shape[-2]} queries and {shape[-1]} keys: the explorer shows whole runs; give the cache of a "
            "run without pos_slice=, kv_cache= or cache.slice(pos=)"
        )


def _row_mask(cache: ActivationCache, shape: tuple[int, ...], batch: int, mask: Tensor | None) -> Tensor | None:
    if mask is None:
        return None
    mask = torch.as_tensor(mask)
    rows = mask[None].expand(shape[0], -1) if mask.ndim == 1 else mask
    checked = check_mask(rows.cpu(), torch.empty(shape[0], shape[-1]))
    return None if checked is None else checked[batch][None]


def _patterns(
    cache: ActivationCache, layers: list[int], batch: int, mask: Tensor | None
) -> tuple[Float[np.ndarray, "layer head query_pos key_pos"], bool]:
    """Patterns with NaN where masked, and whether padding was known (from the scores, or from a mask)."""
    cfg, found, known = cache.cfg, [], mask is not None
    for layer in layers:
        pattern = cache[_name(layer, "pattern")][batch].float().cpu()
        if not ((pattern >= -1e-6) & (pattern <= 1 + 1e-2)).all():  # NaN is neither; bfloat16 rounds up
            raise RangeError(f"the pattern of layer {layer} has entries that are NaN or outside [0, 1]")
        scores = cache.get(_name(layer, "attn_scores"))
        if scores is None:
            n, window = pattern.shape[-1], cfg.in_layer(cfg.window_size, layer)
            masked = ~visible_keys(cfg.attention_dir, window, n, n, mask, pattern.device)[0]
        else:
            masked, known = scores[batch].cpu().isneginf(), True
        # What a hook attends to in spite of the mask is attention.
        found.append(pattern.masked_fill(masked & (pattern == 0), torch.nan).numpy())
    return np.stack(found), known


def _padding(pattern: Float[np.ndarray, "layer head query_pos key_pos"]) -> list[int]:
    """Positions that see themselves alone and are seen by no other. A text has at least one that is none."""
    n = pattern.shape[-1]
    seen = ~np.isnan(pattern).all(axis=(0, 1)) & ~np.eye(n, dtype=bool)
    alone = ~seen.any(axis=0) & ~seen.any(axis=1)
    return [] if alone.all() else np.flatnonzero(alone).tolist()


# ---------------------------------------------------------------------- values


def _values(
    cache: ActivationCache, layer: int, batch: int
) -> tuple[Float[Tensor, "pos head d_head"], Float[Tensor, "head d_head d_model"]]:
    """Values, repeated to the query heads, and `W_O`, both in float64."""
    v = cache[_name(layer, "v")][batch].double().cpu()
    v = v.repeat_interleave(cache.cfg.n_heads // v.shape[1], dim=1)
    return v, cache.model.blocks[layer].attn.W_O.double().cpu()


def _value_norms(cache: ActivationCache, layer: int, batch: int) -> Float[np.ndarray, "head key_pos"]:
    """`|v W_O|` by way of `v (W_O W_O^T) v`, which never holds a vector of d_model a head and key."""
    v, W_O = _values(cache, layer, batch)
    gram = einsum(W_O, W_O, "head i d_model, head j d_model -> head i j")
    squares = einsum(v, gram, v, "pos head i, head i j, pos head j -> head pos")
    return squares.clamp(min=0).sqrt().float().numpy()


def _contributions(
    cache: ActivationCache, layers: list[int], batch: int, logit_difference: tuple[Any, Any]
) -> tuple[Float[np.ndarray, "layer head key_pos"], Float[np.ndarray, "layer query_pos"]]:
    model = cache.model
    right, wrong = answer_ids(model, logit_difference)
    direction = (model.W_U[:, right] - model.W_U[:, wrong]).double().cpu()
    effects, factors = [], []
    for layer in layers:
        v, W_O = _values(cache, layer, batch)
        back, scale = direction, torch.ones(v.shape[0], dtype=torch.float64)
        for name in reversed(_norms_after(model, layer)):
            norm = cast(Norm, model.get_submodule(name))
            back, scale = _pull_back(norm, back), scale * cache[f"{name}.hook_scale"][batch, :, 0].double().cpu()
        effects.append(einsum(v, W_O @ back, "pos head d_head, head d_head -> head pos").float().numpy())
        factors.append((1 / scale).float().numpy())
    return np.stack(effects), np.stack(factors)


def answer_ids(model: HookedTransformer, answers: tuple[Any, Any]) -> tuple[int, int]:
    """The ids of two different tokens, given as ids or as text. Raises `TokenError` or `ConfigError`."""
    if not isinstance(answers, tuple | list) or len(answers) != 2:
        raise ConfigError(f"logit_difference = {answers!r}; allowed: (right, wrong), two tokens as text or ids")
    ids = torch.tensor([model.to_single_token(a) if isinstance(a, str) else int(a) for a in answers])
    right, wrong = check_tokens(ids, model.cfg.d_vocab, 2, ids.device)[0].tolist()
    if right == wrong:
        raise ConfigError(f"logit_difference = {answers!r} names one token twice")
    return right, wrong


def _norms_after(model: HookedTransformer, layer: int) -> list[str]:
    """The norms that what the heads of `layer` write passes on its direct way to the logits, in order."""
    cfg = model.cfg
    if cfg.normalization_type is None:
        return []
    if cfg.norm_position == "post":
        parts = ("ln1",) if cfg.attn_only else ("ln1", "ln2")
        return [f"blocks.{later}.{part}" for later in range(layer, cfg.n_layers) for part in parts]
    return [f"blocks.{layer}.ln1_post", "ln_final"] if cfg.norm_position == "both" else ["ln_final"]


def _pull_back(norm: Norm, direction: Tensor) -> Tensor:
    """The [d_model] whose product with `x` is that of `direction` with the norm of `x`, scale and bias aside."""
    if norm.w is None:
        return direction
    weighted = direction * norm.w.double().cpu()
    return weighted - weighted.mean() if norm.kind == "LN" else weighted
