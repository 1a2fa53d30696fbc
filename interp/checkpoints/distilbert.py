"""DistilBERT (Sanh et al. 2019): BERT without token types and without a pooler, in other words."""

from collections.abc import Iterator
from typing import Any

import torch

from interp.checkpoints.encoders import Heads, LayerNames, post_norm_layer
from interp.checkpoints.layout import Weight, embedding, layer_norm, weight
from interp.checkpoints.options import Options
from interp.config import TransformerConfig

HEADS = Heads(
    family="DistilBert",
    prefix="distilbert.",
    dense="vocab_transform",
    norm="vocab_layer_norm",
    decoder="vocab_projector",
)
LAYER = LayerNames(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    attention_norm="sa_layer_norm",
    neurons="ffn.lin1",
    neurons_out="ffn.lin2",
    norm="output_layer_norm",
)
SKIPPED = r"distilbert\.embeddings\.position_ids"
"""Constants that older versions stored as tensors."""

EPS = 1e-12
"""Of every norm; no key says it."""


def read_config(options: Options, dtype: torch.dtype) -> TransformerConfig:
    """The architecture that a `config.json` describes. Raises `CheckpointError` naming what is not computed.

    Sinusoidal positions are read like learned ones: a checkpoint holds them in the same table.
    """
    options.get("sinusoidal_pos_embds", bool, False)
    return TransformerConfig(
        n_layers=options.get("n_layers", int),
        d_model=options.size("dim"),
        n_heads=options.size("n_heads"),
        n_ctx=options.size("max_position_embeddings"),
        d_vocab=options.size("vocab_size"),
        d_mlp=options.size("hidden_dim"),
        act_fn=options.activation("activation", "gelu"),
        norm_position="post",
        eps=EPS,
        embed_norm=True,
        **HEADS.fields(options),
        dtype=dtype,
    )


def write_config(cfg: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of an architecture. Fields without a key are left out; `to_hf` checks that nothing is lost."""
    return HEADS.options(cfg) | {
        "n_layers": cfg.n_layers,
        "dim": cfg.d_model,
        "n_heads": cfg.n_heads,
        "max_position_embeddings": cfg.n_ctx,
        "vocab_size": cfg.d_vocab,
        "hidden_dim": cfg.d_mlp,
        "activation": cfg.act_fn,
    }


def layout(cfg: TransformerConfig, options: Options) -> Iterator[Weight]:
    """Every tensor of the checkpoint."""
    d, embeddings = cfg.d_model, "distilbert.embeddings"
    yield embedding(f"{embeddings}.word_embeddings.weight", f"{HEADS.decoder}.weight", cfg)
    yield weight(f"{embeddings}.position_embeddings.weight", (cfg.n_ctx, d), "pos_embed.W_pos")
    yield from layer_norm(f"{embeddings}.LayerNorm", d, "embed_ln")
    for layer in range(cfg.n_layers):
        yield from post_norm_layer(f"distilbert.transformer.layer.{layer}", LAYER, cfg, f"blocks.{layer}")
    yield from HEADS.layout(cfg, options)
