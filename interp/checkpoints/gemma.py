"""Gemma 2 (Gemma Team 2024) and the text models of Gemma 3 (Gemma Team 2025).

There are norms before and after each part, and their stored gains are differences from 1. Token vectors are multiplied
by sqrt(d_model). Some layers have a sliding window, and some do not. Gemma 2 caps scores and logits. Gemma 3 normalises
queries and keys, and its layers with a window have a rotary base of their own.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from interp.checkpoints.layout import Weight
from interp.checkpoints.llama import decoder_fields, decoder_layout, decoder_options
from interp.checkpoints.options import (
    LAYER_TYPES,
    Options,
    first_of_kind,
    first_value,
    layer_kinds,
    merged,
    per_layer,
    rope_scaling,
)
from interp.config import TransformerConfig
from interp.errors import CheckpointError, did_you_mean

NORMS = {
    "input_layernorm": "ln1",
    "post_attention_layernorm": "ln1_post",
    "pre_feedforward_layernorm": "ln2",
    "post_feedforward_layernorm": "ln2_post",
}
"""The name of each norm in a layer: the checkpoint's, and the model's."""

FULL, SLIDING = LAYER_TYPES
DEFAULTS: dict[str, Any] = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
"""Values that published configurations leave out, in Gemma 2 and 3 alike."""

GEMMA2: dict[str, Any] = DEFAULTS | {
    "vocab_size": 256_000,
    "max_position_embeddings": 8192,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}
GEMMA3: dict[str, Any] = DEFAULTS | {"vocab_size": 262_208, "max_position_embeddings": 131_072}


def read_gemma2_config(options: Options, dtype: torch.dtype) -> TransformerConfig:
    """The architecture that a `config.json` describes. Raises `CheckpointError` naming what is not computed."""
    options = options.over(GEMMA2)
    base, scaling = options.rotary()
    kinds = options.layer_types([FULL if i % 2 else SLIDING for i in range(options.get("num_hidden_layers", int))])
    return TransformerConfig(**_fields(options, kinds, dtype), rotary_base=base, rotary_scaling=scaling)


def read_gemma3_config(options: Options, dtype: torch.dtype) -> TransformerConfig:
    """The architecture that a `config.json` describes. Raises `CheckpointError` naming what is not computed."""
    options = options.over(GEMMA3)
    every = options.get("sliding_window_pattern", int, None) or 6
    layers = range(options.get("num_hidden_layers", int))
    kinds = options.layer_types([SLIDING if (i + 1) % every else FULL for i in layers])
    rope = _local_and_global_rope(options)
    return TransformerConfig(
        **_fields(options, kinds, dtype),
        rotary_base=merged([rope[kind][0] for kind in kinds]),
        rotary_scaling=merged([rope[kind][1] for kind in kinds]),
        use_qk_norm=True,
    )


def _local_and_global_rope(options: Options) -> dict[str, Any]:
    """Rotary base and scaling for each kind of layer; the older, flat `rope_scaling` is that of full layers alone."""
    given = options.get("rope_parameters", dict, None) or {}
    for name in given:
        if name not in LAYER_TYPES:
            near = did_you_mean(name, LAYER_TYPES)
            raise CheckpointError(f"rope_parameters has {name!r}; allowed: {', '.join(LAYER_TYPES)}{near}")
    whole = (given.get(FULL) or {}) | (options.get("rope_scaling", dict, None) or {})
    return {
        FULL: options.rotary_of(whole, options.get("rope_theta", float, None) or 1e6),
        SLIDING: options.rotary_of(given.get(SLIDING) or {}, options.get("rope_local_base_freq", float, None) or 1e4),
    }


def _fields(options: Options, kinds: Sequence[str], dtype: torch.dtype) -> dict[str, Any]:
    options.refuse_unless("use_bidirectional_attention", False)
    return decoder_fields(options) | {
        "act_fn": options.activation("hidden_activation"),
        "norm_position": "both",
        "attn_scale": math.sqrt(options.size("query_pre_attn_scalar")),
        "attn_scores_soft_cap": options.get("attn_logit_softcapping", float, None),
        "output_logits_soft_cap": options.get("final_logit_softcapping", float, None),
        "window_size": options.windows(kinds),
        "embed_scale": math.sqrt(options.size("hidden_size")),
        "dtype": dtype,
    }


def write_gemma2_config(cfg: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of an architecture. Fields without a key are left out; `to_hf` checks that nothing is lost."""
    return _options(cfg) | {"architectures": ["Gemma2ForCausalLM"]}


def write_gemma3_config(cfg: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of an architecture. Fields without a key are left out; `to_hf` checks that nothing is lost."""
    return _options(cfg) | {
        "architectures": ["Gemma3ForCausalLM"],
        "rope_theta": float(first_of_kind(cfg, FULL, "rotary_base", 1e6)),
        "rope_local_base_freq": float(first_of_kind(cfg, SLIDING, "rotary_base", 1e4)),
        "rope_scaling": rope_scaling(first_of_kind(cfg, FULL, "rotary_scaling", None)),
    }


def _options(cfg: TransformerConfig) -> dict[str, Any]:
    options = decoder_options(cfg)
    activation = options.pop("hidden_act")
    return options | {
        "hidden_activation": "gelu_pytorch_tanh" if activation == "gelu_new" else activation,
        "query_pre_attn_scalar": round(cfg.attn_scale**2),
        "attn_logit_softcapping": cfg.attn_scores_soft_cap,
        "final_logit_softcapping": cfg.output_logits_soft_cap,
        "sliding_window": first_value(per_layer(cfg, "window_size"), DEFAULTS["sliding_window"]),
        "layer_types": layer_kinds(cfg),
    }


def layout(cfg: TransformerConfig, options: Options) -> Iterator[Weight]:
    """Every tensor of a checkpoint; biases as `attention_bias` says."""
    biased = "qkvo" if options.get("attention_bias", bool, False) else ""
    return decoder_layout(cfg, NORMS, biased, gain_offset=1.0)
