"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm before each part, tied embeddings, a bias everywhere.

Its linear layers ("Conv1D") are stored as [input, output]. One of them holds queries, keys and values side by side.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch

from interp.checkpoints.layout import Piece, View, Weight, embedding, head_biases, layer_norm, transposed, weight
from interp.checkpoints.options import Options
from interp.config import TransformerConfig

SKIPPED = r"transformer\.h\.\d+\.attn\.(bias|masked_bias)"
"""Causal masks that older versions stored as tensors."""

END_OF_TEXT = 50_256
"""The token that starts and ends a text where a configuration names none; in a smaller vocabulary there is none."""


def read_config(options: Options, dtype: torch.dtype) -> TransformerConfig:
    """The architecture that a `config.json` describes. Raises `CheckpointError` naming what is not computed."""
    options.refuse_unless("scale_attn_by_inverse_layer_idx", False)
    options.refuse_unless("add_cross_attention", False)
    width, heads = options.size("n_embd"), options.size("n_head")
    return TransformerConfig(
        n_layers=options.get("n_layer", int),
        d_model=width,
        n_heads=heads,
        n_ctx=options.size("n_positions"),
        d_vocab=options.size("vocab_size"),
        d_mlp=options.get("n_inner", int, None) or 4 * width,
        act_fn=options.activation("activation_function", "gelu_new"),
        eps=options.get("layer_norm_epsilon", float, 1e-5),
        attn_scale=math.sqrt(width // heads) if options.get("scale_attn_weights", bool, True) else 1.0,
        tie_word_embeddings=options.get("tie_word_embeddings", bool, True),
        dtype=dtype,
    )


def write_config(cfg: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of an architecture. Fields without a key are left out; `to_hf` checks that nothing is lost."""
    starts_and_ends = {} if cfg.d_vocab > END_OF_TEXT else {"bos_token_id": None, "eos_token_id": None}
    return starts_and_ends | {
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": cfg.n_layers,
        "n_embd": cfg.d_model,
        "n_head": cfg.n_heads,
        "n_positions": cfg.n_ctx,
        "vocab_size": cfg.d_vocab,
        "n_inner": cfg.d_mlp,
        "activation_function": cfg.act_fn,
        "layer_norm_epsilon": cfg.eps,
        "scale_attn_weights": cfg.attn_scale != 1.0,
        "tie_word_embeddings": cfg.tie_word_embeddings,
    }


def layout(cfg: TransformerConfig, options: Options) -> Iterator[Weight]:
    """Every tensor of the checkpoint."""
    d, mlp, heads = cfg.d_model, cfg.d_mlp, cfg.n_heads
    yield embedding("transformer.wte.weight", "lm_head.weight", cfg)
    yield weight("transformer.wpe.weight", (cfg.n_ctx, d), "pos_embed.W_pos")
    for layer in range(cfg.n_layers):
        theirs, ours = f"transformer.h.{layer}", f"blocks.{layer}"
        yield from layer_norm(f"{theirs}.ln_1", d, f"{ours}.ln1")
        yield from _fused(f"{theirs}.attn.c_attn", cfg, f"{ours}.attn")
        yield weight(f"{theirs}.attn.c_proj.weight", (d, d), f"{ours}.attn.W_O", head_biases(heads))
        yield weight(f"{theirs}.attn.c_proj.bias", (d,), f"{ours}.attn.b_O")
        yield from layer_norm(f"{theirs}.ln_2", d, f"{ours}.ln2")
        yield weight(f"{theirs}.mlp.c_fc.weight", (d, mlp), f"{ours}.mlp.W_in")
        yield weight(f"{theirs}.mlp.c_fc.bias", (mlp,), f"{ours}.mlp.b_in")
        yield weight(f"{theirs}.mlp.c_proj.weight", (mlp, d), f"{ours}.mlp.W_out")
        yield weight(f"{theirs}.mlp.c_proj.bias", (d,), f"{ours}.mlp.b_out")
    yield from layer_norm("transformer.ln_f", d, "ln_final")
    if not cfg.tie_word_embeddings:
        yield weight("lm_head.weight", (cfg.d_vocab, d), "unembed.W_U", transposed)


def _fused(theirs: str, cfg: TransformerConfig, ours: str) -> Iterator[Weight]:
    """The matrix [d_model, 3 * n_heads * d_head] with all queries, then all keys, then all values, head after head."""

    def part(i: int) -> View:
        return lambda tensor: tensor.unflatten(1, (3, cfg.n_heads, -1))[:, i].permute(1, 0, 2)

    def bias(i: int) -> View:
        return lambda tensor: tensor.unflatten(0, (3, cfg.n_heads, -1))[i]

    d = cfg.d_model
    yield Weight(f"{theirs}.weight", (d, 3 * d), tuple(Piece(f"{ours}.W_{x}", part(i)) for i, x in enumerate("QKV")))
    yield Weight(f"{theirs}.bias", (3 * d,), tuple(Piece(f"{ours}.b_{x}", bias(i)) for i, x in enumerate("QKV")))
