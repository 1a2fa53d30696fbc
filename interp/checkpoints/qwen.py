"""Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on queries, keys and values; Qwen3: norms on them instead.

Windows, where `use_sliding_window` is set, are those of `layer_types`, or of all layers from `max_window_layers` on.
"""

from collections.abc import Iterator
from typing import Any

import torch

from interp.checkpoints.layout import Weight
from interp.checkpoints.llama import NORMS, decoder_fields, decoder_layout, decoder_options
from interp.checkpoints.options import Options, first_value, layer_kinds, per_layer
from interp.config import TransformerConfig


def read_qwen2_config(options: Options, dtype: torch.dtype) -> TransformerConfig:
    """The architecture that a `config.json` describes. Raises `CheckpointError` naming what is not computed."""
    return TransformerConfig(**_fields(options, None), dtype=dtype)


def read_qwen3_config(options: Options, dtype: torch.dtype) -> TransformerConfig:
    """The architecture that a `config.json` describes. Raises `CheckpointError` naming what is not computed."""
    return TransformerConfig(**_fields(options, 128), use_qk_norm=True, dtype=dtype)


def _fields(options: Options, d_head: int | None) -> dict[str, Any]:
    options.refuse_unless("use_mrope", False)
    base, scaling = options.rotary()
    fields = decoder_fields(options, kv_heads=32, d_head=d_head) | {"rotary_base": base, "rotary_scaling": scaling}
    windowed = options.get("use_sliding_window", bool, False) and options.get("sliding_window", int, 4096)
    first = options.get("max_window_layers", int, 28)
    kinds = options.layer_types(
        ["sliding_attention" if windowed and i >= first else "full_attention" for i in range(fields["n_layers"])]
    )
    return fields | {"window_size": Options({"sliding_window": windowed or None}).windows(kinds)}


def write_qwen2_config(cfg: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of an architecture. Fields without a key are left out; `to_hf` checks that nothing is lost."""
    return _options(cfg) | {"architectures": ["Qwen2ForCausalLM"]}


def write_qwen3_config(cfg: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of an architecture. Fields without a key are left out; `to_hf` checks that nothing is lost."""
    return _options(cfg) | {"architectures": ["Qwen3ForCausalLM"]}


def _options(cfg: TransformerConfig) -> dict[str, Any]:
    window, kinds = first_value(per_layer(cfg, "window_size"), None), layer_kinds(cfg)
    full_first = kinds.index("sliding_attention") if "sliding_attention" in kinds else cfg.n_layers
    return decoder_options(cfg) | {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": full_first,
        "layer_types": kinds,
    }


def qwen2_layout(cfg: TransformerConfig, options: Options) -> Iterator[Weight]:
    """Every tensor of a Qwen2 checkpoint."""
    return decoder_layout(cfg, NORMS, "qkv")


def qwen3_layout(cfg: TransformerConfig, options: Options) -> Iterator[Weight]:
    """Every tensor of a Qwen3 checkpoint; biases as `attention_bias` says."""
    return decoder_layout(cfg, NORMS, "qkvo" if options.get("attention_bias", bool, False) else "")
