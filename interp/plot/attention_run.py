"""What the attention explorer shows of one stack of heads in one run: patterns with their masked entries, and what the
values are worth.

A run of one model has one stack, or two where it also attends to a memory; a run of an encoder with a decoder has three
(`stacks_of`). The keys of cross-attention are positions of the source, so its patterns are rectangular.

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
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import ConfigError, HookNotFoundError, ShapeError, check_choice, describe, did_you_mean
from interp.indices import ranges
from interp.lens import key_effects, value_norms
from interp.model import PairCache, visible_keys
from interp.plot.style import check_shares
from interp.text import token_ids

if TYPE_CHECKING:
    from interp.model import ActivationCache, HookedTransformer


StackName = Literal["encoder", "decoder", "cross_attn"]
"""Self-attention that looks both ways; self-attention that looks back; attention of a decoder to its source."""


@dataclass(frozen=True, eq=False)
class AttentionRun:
    """One sequence of one run in one stack of heads; arrays are float32.

    Attributes:
        layers: the layers whose patterns the cache holds.
        pattern: NaN where masked; in cross-attention the keys are the positions of the source.
        value_norms: `|v_k W_O|`, or None where the cache lacks a layer's values.
        key_effects, query_factors: the contributions' factors, or None where no logit difference was asked for.
        padding: queries that are no tokens.
        key_padding: keys that are no tokens; in self-attention the same.
        causal: no query attends to a later key. False where hooks edited the patterns of a causal model so.
        notes: what a reader of the picture should know.
    """

    layers: list[int]
    pattern: Float[np.ndarray, "layer head query_pos key_pos"]
    value_norms: Float[np.ndarray, "layer head key_pos"] | None
    key_effects: Float[np.ndarray, "layer head key_pos"] | None
    query_factors: Float[np.ndarray, "layer query_pos"] | None
    padding: list[int]
    key_padding: list[int]
    causal: bool
    notes: list[str]

    @property
    def ends(self) -> tuple[int, int]:
        """The first and the last key that is not padding."""
        keys = [i for i in range(self.pattern.shape[-1]) if i not in self.key_padding]
        return keys[0], keys[-1]

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
        last = max(i for i in range(self.pattern.shape[-2]) if i not in self.padding)
        heads = [[self.values(layer, head, "contribution")[last] for head in range(self.pattern.shape[1])]
                 for layer in range(len(self.layers))]  # fmt: skip
        return np.abs(np.nansum(heads, axis=-1)).astype(np.float32)


KINDS = ("attention", "weighted", "contribution")
NO_VALUES = "the cache does not hold them; widen names_filter="


@dataclass(frozen=True, eq=False)
class Heads:
    """Where the patterns of one stack of heads are.

    Attributes:
        name: of the stack.
        cache: that holds them.
        part: of a block, that attends.
        source: the cache of the encoder's run, of cross-attention where it is known.
    """

    name: StackName
    cache: ActivationCache
    part: Literal["attn", "cross_attn"]
    source: ActivationCache | None = None

    def point(self, layer: int, point: str) -> str:
        """The full name of a hook point such as "pattern"."""
        return f"blocks.{layer}.{self.part}.hook_{point}"

    @property
    def layers(self) -> list[int]:
        """The layers whose patterns the cache holds."""
        return [layer for layer in range(self.cache.cfg.n_layers) if self.point(layer, "pattern") in self.cache]


def stacks_of(cache: ActivationCache | PairCache) -> list[Heads]:
    """The stacks of heads of a run, those whose patterns are in the cache. Raises `HookNotFoundError` for none."""
    source = cache.encoder if isinstance(cache, PairCache) else None
    every = [] if source is None else [Heads("encoder", source, "attn")]
    own = cache.decoder if isinstance(cache, PairCache) else cache
    every.append(Heads("decoder" if own.cfg.attention_dir == "causal" else "encoder", own, "attn"))
    if own.cfg.cross_attention:
        every.append(Heads("cross_attn", own, "cross_attn", source))
    held = [stack for stack in every if stack.layers]
    if not held:
        raise HookNotFoundError(
            "this cache holds no attention pattern; name it in names_filter=, such as 'blocks.*.attn.hook_pattern'"
            f"{did_you_mean('blocks.0.attn.hook_pattern', cache, 0.8)}"
        )
    return held


@torch.no_grad()
def read_run(stack: Heads, batch: int, answers: tuple[int, int | None] | None) -> AttentionRun:
    """The run of sequence `batch`, with what is added to the answers' logits. Errors as for `attention`."""
    held, cross = stack.layers, stack.part == "cross_attn"
    _check_shape(tuple(stack.cache[stack.point(held[0], "pattern")].shape), batch, cross)
    cache, source = stack.cache.slice(batch=batch), stack.source
    stack = replace(stack, cache=cache, source=None if source is None else source.slice(batch=batch))
    pattern = _patterns(stack)
    notes = []
    if len(held) < cache.cfg.n_layers:
        missing = ranges([layer for layer in range(cache.cfg.n_layers) if layer not in held])
        notes.append(f"Layers whose patterns the cache does not hold are not shown: {missing}.")
    n, causal = pattern.shape[-1], stack.name == "decoder"
    later = np.triu(np.ones((n, n), dtype=bool), 1)
    if causal and any(((layer >= 0) & later).any() for layer in pattern):
        notes.append("Some queries attend to later keys, although the model is causal: hooks edited the patterns.")
        causal = False
    norms = None
    if all(stack.point(layer, "v") in cache for layer in held):
        norms = _stacked([value_norms(cache, layer, stack.part) for layer in held])
    elif answers is not None:
        raise HookNotFoundError(f"correct= needs hook_v of every layer shown: {NO_VALUES}")
    effects = factors = None
    if answers is not None:
        both = [key_effects(cache, layer, *answers, part=stack.part) for layer in held]
        effects, factors = _stacked([one for one, _ in both]), _stacked([one for _, one in both])
    padding, key_padding = _cross_padding(cache, pattern) if cross else (_padding(pattern),) * 2
    return AttentionRun(held, pattern, norms, effects, factors, padding, key_padding, causal, notes)


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
    if not all(run.causal for run in runs):
        runs = [replace(run, causal=False) for run in runs]
    return runs


# ---------------------------------------------------------------------- patterns


def _check_shape(shape: tuple[int, ...], batch: int, cross: bool) -> None:
    if isinstance(batch, bool) or not isinstance(batch, Integral) or not -shape[0] <= batch < shape[0]:
        raise ShapeError(
            f"batch = {describe(batch)}; allowed: {-shape[0]} to {shape[0] - 1} (the cache holds {shape[0]} sequences)"
        )
    if shape[-1] != shape[-2] and not cross:
        raise ShapeError(
            f"patterns of {shape[-2]} queries and {shape[-1]} keys: the explorer shows whole runs; give the cache of a "
            "run without pos_slice=, kv_cache= or cache.slice(pos=)"
        )


def _patterns(stack: Heads) -> Float[np.ndarray, "layer head query_pos key_pos"]:
    """Patterns of the one sequence, NaN where masked."""
    first = stack.cache[stack.point(stack.layers[0], "pattern")]
    found = np.empty((len(stack.layers), *first.shape[1:]), np.float32)
    for place, layer in zip(found, stack.layers, strict=True):
        pattern = stack.cache[stack.point(layer, "pattern")][0].float().cpu()
        check_shares(pattern.numpy(), f"the pattern of layer {layer}")
        scores = stack.cache.get(stack.point(layer, "attn_scores"))
        masked = _masked(stack, layer, pattern) if scores is None else scores[0].cpu().isneginf()
        # What a hook attends to in spite of the mask is attention.
        place[...] = pattern.numpy()
        np.copyto(place, np.nan, where=(masked & (pattern == 0)).numpy())
    return found


def _masked(stack: Heads, layer: int, pattern: Float[Tensor, "head query_pos key_pos"]) -> Bool[Tensor, "1 query key"]:
    """Where heads of the layer cannot look, of a run whose scores are not there to say it."""
    n_queries, n_keys = pattern.shape[1:]
    asked = stack.cache if stack.part == "attn" else stack.source
    mask = None if asked is None or asked.attention_mask is None else asked.attention_mask.cpu()
    if stack.part == "cross_attn":
        seen = torch.ones(1, n_keys, dtype=torch.bool) if mask is None else mask
        return ~seen[:, None].expand(1, n_queries, n_keys)
    cfg = stack.cache.cfg
    window = cfg.in_layer(cfg.window_size, layer)
    return ~visible_keys(cfg.attention_dir, window, n_queries, n_keys, mask, pattern.device)[0]


def _padding(pattern: Float[np.ndarray, "layer head query_pos key_pos"]) -> list[int]:
    """Positions that see themselves alone and are seen by no other. A text has at least one that is none."""
    n = pattern.shape[-1]
    seen = ~np.isnan(pattern).all(axis=(0, 1)) & ~np.eye(n, dtype=bool)
    alone = ~seen.any(axis=0) & ~seen.any(axis=1)
    return [] if alone.all() else np.flatnonzero(alone).tolist()


def _cross_padding(
    cache: ActivationCache, pattern: Float[np.ndarray, "layer head query_pos source_pos"]
) -> tuple[list[int], list[int]]:
    """Target positions that the run's mask leaves out, and source positions that no query can look at."""
    mask, unseen = cache.attention_mask, np.isnan(pattern).all(axis=(0, 1, 2))
    padding = [] if mask is None else np.flatnonzero(~mask[0].cpu().numpy()).tolist()
    return padding, np.flatnonzero(unseen).tolist()


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
