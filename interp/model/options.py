"""What a run may be asked for, and the checks on that before it begins."""

from collections.abc import Callable
from typing import Any, Literal, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import ConfigError, ShapeError, describe, did_you_mean
from interp.indices import layer_index
from interp.model.kv_cache import KVCache
from interp.model.loss import check_predicts_next_token
from interp.model.recording import Differentiable
from interp.text import AttentionMask, Ids, MaskedTokens, Memory, Text

ReturnType = Literal["logits", "loss", "both", "pooled", "classes"] | None
"""What a run returns; see `HookedTransformer.forward`."""

ReadOut = Callable[[Tensor], Any]
"""A function of what the unembedding reads, [batch, pos, d_model]."""


class RunOptions(TypedDict, total=False):
    """What a run takes besides its input and return type; see `HookedTransformer.forward`.

    >>> asked: RunOptions = {"stop_at_layer": 1}
    >>> model(clean, **asked).shape  # the stream that enters layer 1
    torch.Size([1, 10, 32])
    """

    loss_per_token: bool
    start_at_layer: int | None
    stop_at_layer: int | None
    attention_mask: AttentionMask | None
    kv_cache: KVCache | None
    token_types: Ids | None
    memory: Memory | Tensor | None


def check_run(
    cfg: TransformerConfig,
    return_type: ReturnType | ReadOut,
    loss_per_token: bool,
    start_at_layer: int | None,
    stop_at_layer: int | None,
    kv_cache: KVCache | None,
) -> tuple[int, int]:
    """The first block to run, and the first not to. Raises `ConfigError` as `HookedTransformer.forward` says."""
    first, last = layer_range(cfg.n_layers, start_at_layer, stop_at_layer)
    allowed = ("logits", "loss", "both", "pooled", "classes")
    if not callable(return_type) and return_type not in (*allowed, None):
        raise ConfigError(f"return_type = {describe(return_type)}; allowed: {', '.join(map(repr, allowed))} or None"
                          f"{did_you_mean(str(return_type), allowed)}")  # fmt: skip
    if return_type in ("pooled", "classes"):
        field = "pooling" if return_type == "pooled" else "n_pooled_classes"
        if not getattr(cfg, field):
            raise ConfigError(f"return_type = {return_type!r}, but this model has {field} = "
                              f"{getattr(cfg, field)}")  # fmt: skip
        if stop_at_layer is not None:
            raise ConfigError(f"return_type = {return_type!r} is made of the last stream, so it excludes "
                              "stop_at_layer")  # fmt: skip
        if kv_cache is not None:
            raise ConfigError(f"return_type = {return_type!r} is of the whole sequence, and a run with a kv_cache "
                              "carries a part of it: run the sequence at once, without kv_cache")  # fmt: skip
    if return_type in ("loss", "both"):
        check_predicts_next_token(cfg, f"return_type = {return_type!r}")
    if return_type == "logits" and not cfg.has_unembed and stop_at_layer is None:
        raise ConfigError(
            "this model has no unembedding (d_vocab_out = 0), so there are no logits: say return_type=None in a "
            "cached run, 'pooled' where it has a pooling, or stop_at_layer=model.cfg.n_layers for the last stream"
        )
    if loss_per_token and return_type not in ("loss", "both"):
        raise ConfigError(f"loss_per_token = True contradicts return_type = {describe(return_type)}")
    if kv_cache is not None and not isinstance(kv_cache, KVCache):
        raise ConfigError(f"kv_cache = {describe(kv_cache)}; allowed: a KVCache, or None")
    if kv_cache is not None and cfg.attention_dir != "causal":
        raise ConfigError("kv_cache needs attention_dir = 'causal': here earlier positions attend to later ones")
    if kv_cache is not None:
        kv_cache.check_fits(cfg)
    if kv_cache is not None and (start_at_layer is not None or last < cfg.n_layers):
        raise ConfigError("kv_cache needs every layer to run: it excludes start_at_layer and an earlier stop_at_layer")
    if return_type in ("loss", "both") and (start_at_layer is not None or stop_at_layer is not None):
        raise ConfigError(f"return_type = {return_type!r} needs tokens and logits, so it excludes start_at_layer "
                          "and stop_at_layer")  # fmt: skip
    return first, last


def layer_range(n_layers: int, start: int | None, stop: int | None) -> tuple[int, int]:
    """The first block to run, and the first not to, counted from 0. Raises `ConfigError` for a layer out of range."""
    first = 0 if start is None else layer_index(start, n_layers, "start_at_layer", end=True)
    last = n_layers if stop is None else layer_index(stop, n_layers, "stop_at_layer", end=True)
    if first > last:
        raise ConfigError(f"start_at_layer = {start} comes after stop_at_layer = {stop}")
    return first, last


def check_stream(
    x: Text | Ids | MaskedTokens, cfg: TransformerConfig, like: Tensor
) -> Float[Tensor, "batch pos d_model"]:
    """A residual stream as a run can begin with it, of the dtype and on the device of `like`.

    Raises `ShapeError` for anything else.
    """
    wanted = f"start_at_layer takes the residual stream [batch, pos, {cfg.d_model}] in {like.dtype}"
    if not isinstance(x, Tensor):
        raise ShapeError(f"{wanted}, not a {type(x).__name__}")
    if x.ndim != 3 or x.shape[2] != cfg.d_model or x.dtype != like.dtype or x.numel() == 0:
        raise ShapeError(f"{wanted}, not {x.dtype} of shape {tuple(x.shape)}")
    if x.device != like.device:
        raise ShapeError(f"{wanted} on {like.device}, not on {x.device}")
    if x.shape[1] > cfg.n_ctx:
        raise ShapeError(f"{wanted} of at most n_ctx = {cfg.n_ctx} positions, not {x.shape[1]}")
    return x


def what_to_differentiate(
    incl_bwd: bool, gradient_of: Differentiable | None, stop_at_layer: int | None
) -> Differentiable | None:
    """What a cached run is asked to differentiate, or None. Raises `ConfigError` where it cannot."""
    if incl_bwd and gradient_of is not None:
        raise ConfigError("incl_bwd = True is gradient_of='loss': give one of the two")
    asked = "loss" if incl_bwd else gradient_of
    if asked is not None and stop_at_layer is not None:
        raise ConfigError("a gradient is that of something made of the logits, so it excludes stop_at_layer")
    if asked is not None and torch.is_inference_mode_enabled():
        raise ConfigError("no gradient flows in inference mode; torch.no_grad() around the run is fine")
    return asked
