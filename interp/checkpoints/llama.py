"""Llama 1-3 (Touvron et al. 2023), and what is built like it: SmolLM2, TinyLlama, Mistral (Jiang et al. 2023).

These models have RMS norms, rotary positions, gated MLPs and grouped keys. Qwen and Gemma, whose tensors have the same
names, use `decoder_layout` as well.
"""

from collections.abc import Iterator
from typing import Any

import torch

from interp.checkpoints.layout import Weight, embedding, head_biases, reading_heads, transposed, weight, writing_heads
from interp.checkpoints.options import Options, first_value, per_layer, rope_scaling
from interp.config import TransformerConfig

SKIPPED = r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"
"""Rotary frequencies that older versions stored as tensors."""

NORMS = {"input_layernorm": "ln1", "post_attention_layernorm": "ln2"}
"""The name of each norm in a layer: the checkpoint's, and the model's."""


def read_config(options: Options, dtype: torch.dtype) -> TransformerConfig:
    """The architecture that a `config.json` describes. Raises `CheckpointError` naming what is not computed."""
    base, scaling = options.rotary()
    fields = decoder_fields(options) | {"rotary_base": base, "rotary_scaling": scaling, "dtype": dtype}
    return TransformerConfig(**fields)


def read_mistral_config(options: Options, dtype: torch.dtype) -> TransformerConfig:
    """The architecture of a Mistral: that of `read_config`, with a window in every layer (null: none)."""
    options.refuse_unless("layer_types")
    base, scaling = options.rotary()
    fields = decoder_fields(options, kv_heads=8) | {"rotary_base": base, "rotary_scaling": scaling, "dtype": dtype}
    return TransformerConfig(**fields, window_size=options.get("sliding_window", int, 4096))


def decoder_fields(options: Options, kv_heads: int | None = None, d_head: int | None = None) -> dict[str, Any]:
    """The fields of a config that Llama, Qwen and Gemma spell alike; the arguments are used where a key is absent."""
    options.refuse_unless("partial_rotary_factor", 1)
    Options(options.rope()).refuse_unless("partial_rotary_factor", 1)
    width, heads = options.size("hidden_size"), options.size("num_attention_heads")
    return {
        "n_layers": options.get("num_hidden_layers", int),
        "d_model": width,
        "n_heads": heads,
        "n_key_value_heads": options.get("num_key_value_heads", int, kv_heads) or heads,
        "d_head": options.get("head_dim", int, d_head) or width // heads,
        "n_ctx": options.size("max_position_embeddings"),
        "d_vocab": options.size("vocab_size"),
        "d_mlp": options.size("intermediate_size"),
        "act_fn": options.activation("hidden_act", "silu"),
        "gated_mlp": True,
        "normalization_type": "RMS",
        "eps": options.get("rms_norm_eps", float, 1e-6),
        "positional_embedding_type": "rotary",
        "tie_word_embeddings": options.get("tie_word_embeddings", bool, False),
    }


def write_config(cfg: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of an architecture, without the flags for biases, which `to_hf` adds.

    Fields without a key are left out; `to_hf` checks that nothing is lost.
    """
    return decoder_options(cfg) | {"architectures": ["LlamaForCausalLM"]}


def write_mistral_config(cfg: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Mistral: that of `write_config`, with the window."""
    window = first_value(per_layer(cfg, "window_size"), None)
    return decoder_options(cfg) | {"architectures": ["MistralForCausalLM"], "sliding_window": window}


def decoder_options(cfg: TransformerConfig) -> dict[str, Any]:
    """The keys that `decoder_fields` reads, and the rotary ones, in the spelling that all versions know."""
    return {
        "num_hidden_layers": cfg.n_layers,
        "hidden_size": cfg.d_model,
        "num_attention_heads": cfg.n_heads,
        "num_key_value_heads": cfg.n_key_value_heads,
        "head_dim": cfg.d_head,
        "max_position_embeddings": cfg.n_ctx,
        "vocab_size": cfg.d_vocab,
        "intermediate_size": cfg.d_mlp,
        "hidden_act": cfg.act_fn,
        "rms_norm_eps": cfg.eps,
        "rope_theta": float(first_value(per_layer(cfg, "rotary_base"), 10_000.0)),
        "rope_scaling": rope_scaling(first_value(per_layer(cfg, "rotary_scaling"), None)),
        "tie_word_embeddings": cfg.tie_word_embeddings,
    }


def layout(cfg: TransformerConfig, options: Options) -> Iterator[Weight]:
    """Every tensor of a Llama checkpoint; biases as `attention_bias` and `mlp_bias` say."""
    attention = "qkvo" if options.get("attention_bias", bool, False) else ""
    return decoder_layout(cfg, NORMS, attention, mlp_bias=bool(options.get("mlp_bias", bool, False)))


def mistral_layout(cfg: TransformerConfig, options: Options) -> Iterator[Weight]:
    """Every tensor of a Mistral checkpoint."""
    return decoder_layout(cfg, NORMS)


def decoder_layout(
    cfg: TransformerConfig, norms: dict[str, str], biased: str = "", mlp_bias: bool = False, gain_offset: float = 0.0
) -> Iterator[Weight]:
    """Every tensor of a checkpoint with Llama's names.

    Args:
        cfg: the architecture.
        norms: their name of each norm in a layer, and ours.
        biased: which of "qkvo" have biases.
        mlp_bias: whether the MLP's three matrices have.
        gain_offset: what a stored gain lacks of the norm's gain.
    """
    d, vocab = cfg.d_model, cfg.d_vocab
    yield embedding("model.embed_tokens.weight", "lm_head.weight", cfg)
    for layer in range(cfg.n_layers):
        theirs, ours = f"model.layers.{layer}", f"blocks.{layer}"
        for their_norm, our_norm in norms.items():
            yield weight(f"{theirs}.{their_norm}.weight", (d,), f"{ours}.{our_norm}.w", plus=gain_offset)
        yield from _attention(f"{theirs}.self_attn", cfg, f"{ours}.attn", biased, gain_offset)
        yield from _mlp(f"{theirs}.mlp", cfg, f"{ours}.mlp", mlp_bias)
    yield weight("model.norm.weight", (d,), "ln_final.w", plus=gain_offset)
    if not cfg.tie_word_embeddings:
        yield weight("lm_head.weight", (vocab, d), "unembed.W_U", transposed)


def _attention(theirs: str, cfg: TransformerConfig, ours: str, biased: str, gain_offset: float) -> Iterator[Weight]:
    d, d_head = cfg.d_model, cfg.d_head
    for letter, n in (("q", cfg.n_heads), ("k", cfg.n_key_value_heads), ("v", cfg.n_key_value_heads)):
        matrix, upper = f"{theirs}.{letter}_proj", letter.upper()
        yield weight(f"{matrix}.weight", (n * d_head, d), f"{ours}.W_{upper}", reading_heads(n))
        if letter in biased:
            yield weight(f"{matrix}.bias", (n * d_head,), f"{ours}.b_{upper}", head_biases(n))
    yield weight(f"{theirs}.o_proj.weight", (d, cfg.n_heads * d_head), f"{ours}.W_O", writing_heads(cfg.n_heads))
    if "o" in biased:
        yield weight(f"{theirs}.o_proj.bias", (d,), f"{ours}.b_O")
    for norm in ("q_norm", "k_norm") if cfg.use_qk_norm else ():
        yield weight(f"{theirs}.{norm}.weight", (d_head,), f"{ours}.{norm}.w", plus=gain_offset)


def _mlp(theirs: str, cfg: TransformerConfig, ours: str, biased: bool) -> Iterator[Weight]:
    d, mlp = cfg.d_model, cfg.d_mlp
    for name, letters, shape in (("gate", "gate", (mlp, d)), ("up", "in", (mlp, d)), ("down", "out", (d, mlp))):
        yield weight(f"{theirs}.{name}_proj.weight", shape, f"{ours}.W_{letters}", transposed)
        if biased:
            yield weight(f"{theirs}.{name}_proj.bias", shape[:1], f"{ours}.b_{letters}")
