"""GPT-NeoX (Black et al. 2022) and Pythia: rotary positions on a part of each head, attention and MLP in parallel.

Queries, keys and values are fused head by head: [head, 3, d_head] along the output axis.
"""

from collections.abc import Iterator
from typing import Any

import torch

from interp.checkpoints.layout import Piece, View, Weight, embedding, layer_norm, transposed, weight, writing_heads
from interp.checkpoints.options import Options, per_layer, rope_scaling
from interp.config import TransformerConfig

SKIPPED = r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)"
"""Causal masks and rotary frequencies that older versions stored as tensors."""


def read_config(options: Options, dtype: torch.dtype) -> TransformerConfig:
    """The architecture that a `config.json` describes. Raises `CheckpointError` naming what is not computed."""
    width, heads = options.size("hidden_size"), options.size("num_attention_heads")
    base, scaling = options.rotary("rotary_emb_base")
    share = Options(options.rope()).get("partial_rotary_factor", float, None)
    share = options.get("rotary_pct", float, 0.25) if share is None else share
    return TransformerConfig(
        n_layers=options.get("num_hidden_layers", int),
        d_model=width,
        n_heads=heads,
        n_ctx=options.size("max_position_embeddings"),
        d_vocab=options.size("vocab_size"),
        d_mlp=options.size("intermediate_size"),
        act_fn=options.activation("hidden_act", "gelu"),
        eps=options.get("layer_norm_eps", float, 1e-5),
        positional_embedding_type="rotary",
        rotary_base=base,
        rotary_dim=int(width // heads * share),
        rotary_scaling=scaling,
        parallel_attn_mlp=options.get("use_parallel_residual", bool, True),
        tie_word_embeddings=options.get("tie_word_embeddings", bool, False),
        dtype=dtype,
    )


def write_config(cfg: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of an architecture. Fields without a key are left out; `to_hf` checks that nothing is lost."""
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "num_hidden_layers": cfg.n_layers,
        "hidden_size": cfg.d_model,
        "num_attention_heads": cfg.n_heads,
        "max_position_embeddings": cfg.n_ctx,
        "vocab_size": cfg.d_vocab,
        "intermediate_size": cfg.d_mlp,
        "hidden_act": cfg.act_fn,
        "layer_norm_eps": cfg.eps,
        "rotary_emb_base": (per_layer(cfg, "rotary_base") or [None])[0] or 10_000.0,
        "rotary_pct": (cfg.rotary_dim or cfg.d_head) / cfg.d_head,
        "rope_scaling": rope_scaling((per_layer(cfg, "rotary_scaling") or [None])[0]),
        "use_parallel_residual": cfg.parallel_attn_mlp,
        "tie_word_embeddings": cfg.tie_word_embeddings,
    }


def layout(cfg: TransformerConfig, options: Options) -> Iterator[Weight]:
    """Every tensor of the checkpoint."""
    d, mlp = cfg.d_model, cfg.d_mlp
    yield embedding("gpt_neox.embed_in.weight", "embed_out.weight", cfg)
    for layer in range(cfg.n_layers):
        theirs, ours = f"gpt_neox.layers.{layer}", f"blocks.{layer}"
        yield from layer_norm(f"{theirs}.input_layernorm", d, f"{ours}.ln1")
        yield from _attention(f"{theirs}.attention", cfg, options, f"{ours}.attn")
        yield from layer_norm(f"{theirs}.post_attention_layernorm", d, f"{ours}.ln2")
        yield weight(f"{theirs}.mlp.dense_h_to_4h.weight", (mlp, d), f"{ours}.mlp.W_in", transposed)
        yield weight(f"{theirs}.mlp.dense_h_to_4h.bias", (mlp,), f"{ours}.mlp.b_in")
        yield weight(f"{theirs}.mlp.dense_4h_to_h.weight", (d, mlp), f"{ours}.mlp.W_out", transposed)
        yield weight(f"{theirs}.mlp.dense_4h_to_h.bias", (d,), f"{ours}.mlp.b_out")
    yield from layer_norm("gpt_neox.final_layer_norm", d, "ln_final")
    if not cfg.tie_word_embeddings:
        yield weight("embed_out.weight", (cfg.d_vocab, d), "unembed.W_U", transposed)


def _attention(theirs: str, cfg: TransformerConfig, options: Options, ours: str) -> Iterator[Weight]:
    def part(i: int) -> View:
        return lambda tensor: tensor.unflatten(0, (cfg.n_heads, 3, -1))[:, i].transpose(1, 2)

    def bias(i: int) -> View:
        return lambda tensor: tensor.unflatten(0, (cfg.n_heads, 3, -1))[:, i]

    d, fused = cfg.d_model, f"{theirs}.query_key_value"
    yield Weight(f"{fused}.weight", (3 * d, d), tuple(Piece(f"{ours}.W_{x}", part(i)) for i, x in enumerate("QKV")))
    yield weight(f"{theirs}.dense.weight", (d, d), f"{ours}.W_O", writing_heads(cfg.n_heads))
    if options.get("attention_bias", bool, True):
        yield Weight(f"{fused}.bias", (3 * d,), tuple(Piece(f"{ours}.b_{x}", bias(i)) for i, x in enumerate("QKV")))
        yield weight(f"{theirs}.dense.bias", (d,), f"{ours}.b_O")
