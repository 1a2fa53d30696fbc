"""What a layer needs to know beyond the stream itself: which keys are visible, and where positions are."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.config import TransformerConfig, rotary_angles
from interp.errors import ConfigError, ShapeError
from interp.model.hooks import Span
from interp.model.kv_cache import KVCache, LayerKeysValues
from interp.text import Memory


@dataclass(frozen=True, eq=False)
class LayerContext:
    """What one layer needs to know beyond the stream itself.

    Attributes:
        visible: which key each query may attend to; the first axis is 1 where all sequences agree.
        rotation: cosines and sines of the rotary angles, or None.
        position_reads: what is added to the normalised stream that queries and keys, but not values, read
            (shortformer), or None.
        past: the layer's keys and values of earlier positions, to which this run's are added, or None.
        attend: what mixes the values in place of attention over one rectangle of queries and keys: (queries, keys,
            values) to z, where positions of several runs are packed into one list, or None.
        going_on: of the positions that the layer's keys and values are of, those that go on to its end, where no others
            are read: their places, or None for all. `attend` has to return just these.
        triangular: whether `visible` is the lower triangle of a square, which the fused kernel knows without a mask.
        bias: what is added to the scores (relative positions), or None.
        cross: the context of the layer's cross-attention, whose keys are positions of `memory`, or None.
        memory: what cross-attention reads its keys and values from; in the context of cross-attention alone.
    """

    visible: Bool[Tensor, "batch_or_1 1 query_pos key_pos"]
    rotation: tuple[Float[Tensor, "run_or_1 pos 1 pairs"], Float[Tensor, "run_or_1 pos 1 pairs"]] | None
    position_reads: Float[Tensor, "batch pos d_model"] | None
    past: LayerKeysValues | None = None
    attend: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    going_on: Int[Tensor, "some"] | None = None
    triangular: bool = False
    bias: Float[Tensor, "its_batch_or_1 head query_pos key_pos"] | None = None
    cross: "LayerContext | None" = None
    memory: Float[Tensor, "batch source_pos d_memory"] | None = None

    @classmethod
    def of_whole_sequences(
        cls, cfg: TransformerConfig, layer: int, x: Float[Tensor, "batch pos d_model"]
    ) -> "LayerContext":
        """For a layer that runs on its own: whole sequences without padding, counted from 0.

        Raises:
            ShapeError: no stream [batch, pos, d_model] of at most n_ctx positions.
            ConfigError: the layer reads something that only the model has: position vectors (shortformer), relative
                positions, a memory.
        """
        if x.ndim != 3 or x.shape[2] != cfg.d_model or not 0 < x.shape[1] <= cfg.n_ctx:
            raise ShapeError(
                f"a layer on its own takes a stream [batch, pos, {cfg.d_model}] of 1 to {cfg.n_ctx} positions, not "
                f"{tuple(x.shape)}"
            )
        kind = cfg.positional_embedding_type
        if kind in ("shortformer", "relative") or cfg.cross_attention:
            read = "a memory" if cfg.cross_attention else f"{kind!r} positions"
            raise ConfigError(
                f"this layer reads {read}, which only its model has; run model(x, start_at_layer={layer}, "
                f"stop_at_layer={layer + 1})"
            )
        positions = torch.arange(x.shape[1], device=x.device)[None]
        return layer_contexts(cfg, [layer], x, positions, None, None, None)[0]


def layer_contexts(
    cfg: TransformerConfig,
    layers: Iterable[int],
    x: Float[Tensor, "batch pos d_model"],
    positions: Int[Tensor, "batch_or_1 pos"],
    mask: Bool[Tensor, "batch n_keys"] | None,
    position_reads: Float[Tensor, "batch pos d_model"] | None,
    kv_cache: KVCache | None,
    bias: Float[Tensor, "its_batch_or_1 head new n_keys"] | None = None,
    memory: Memory | None = None,
) -> list[LayerContext]:
    """The contexts of some layers in a run on `x`; layers that agree on them share the tensors."""
    n_new = x.shape[1]
    n_keys = n_new + (0 if kv_cache is None else kv_cache.n_pos)
    triangular = cfg.attention_dir == "causal" and mask is None and n_keys == n_new
    visible: dict[Any, Tensor] = {}
    rotation: dict[Any, tuple[Tensor, Tensor] | None] = {(None, None): None}
    contexts = []
    for layer in layers:
        window = cfg.in_layer(cfg.window_size, layer)
        if window not in visible:
            visible[window] = visible_keys(cfg.attention_dir, window, n_new, n_keys, mask, x.device)
        base, scaling = cfg.in_layer(cfg.rotary_base, layer), cfg.in_layer(cfg.rotary_scaling, layer)
        if base is not None and cfg.rotary_dim is not None and (base, scaling) not in rotation:
            rotation[base, scaling] = rotary_angles(base, cfg.rotary_dim, scaling, positions, x.dtype)
        contexts.append(
            LayerContext(
                visible[window],
                rotation[base, scaling],
                position_reads,
                past=None if kv_cache is None else kv_cache.layers[layer],
                triangular=triangular and (window is None or window >= n_keys),
                bias=bias,
                cross=None if memory is None else _cross_context(memory, kv_cache and kv_cache.of_memory[layer]),
            )
        )
    return contexts


def _cross_context(memory: Memory, past: LayerKeysValues | None) -> LayerContext:
    """That of a layer's cross-attention: every query sees all of the source that is no padding."""
    mask, stream = memory.attention_mask, memory.stream
    visible = stream.new_ones(1, stream.shape[1], dtype=torch.bool) if mask is None else mask
    return LayerContext(visible[:, None, None], None, None, past=past, memory=stream)


def whole_span(x: Float[Tensor, "batch pos d_model"]) -> Span:
    """The positions that a layer on its own carries."""
    return Span(0, x.shape[1], len(x), n_prompt=x.shape[1], n_final=x.shape[1])


def visible_keys(
    attention_dir: str,
    window_size: int | None,
    n_new: int,
    n_keys: int,
    mask: Bool[Tensor, "batch n_keys"] | None,
    device: torch.device,
) -> Bool[Tensor, "batch_or_1 1 n_new n_keys"]:
    """Which keys each query may attend to; the queries are the last `n_new` of the `n_keys` positions.

    A padding position (mask false) sees itself alone, so that no row is empty.
    """
    i = torch.arange(n_keys - n_new, n_keys, device=device)[:, None]
    j = torch.arange(n_keys, device=device)[None, :]
    seen = j <= i if attention_dir == "causal" else torch.ones_like(j <= i)
    if window_size is not None:
        seen = seen & ((i - j).abs() < window_size)
    if mask is None:
        return seen[None, None]
    return ((seen & mask[:, None, :] & mask[:, n_keys - n_new :, None]) | (i == j))[:, None]
