"""BERT (Devlin et al. 2019) and RoBERTa (Liu et al. 2019): encoders with norms after each part and a bias everywhere.

XLM-RoBERTa (Conneau et al. 2020) is a RoBERTa for a hundred languages, of the same tensors.

Vectors of tokens, positions and token types are added, and their sum is normalised. RoBERTa's layers have the same
names as BERT's, and its heads have others. It has one token type, and its positions count from `pad_token_id + 1` on:
the rows before that are for padding, which is masked here.
"""

from collections.abc import Iterator
from typing import Any

import torch

from interp.checkpoints.encoders import Heads, LayerNames, post_norm_layer
from interp.checkpoints.layout import View, Weight, embedding, layer_norm, same, weight
from interp.checkpoints.options import Options
from interp.config import TransformerConfig
from interp.errors import CheckpointError

HEADS = Heads(
    family="Bert",
    prefix="bert.",
    dense="cls.predictions.transform.dense",
    norm="cls.predictions.transform.LayerNorm",
    decoder="cls.predictions.decoder",
    bias="cls.predictions.bias",
    pooler="bert.pooler.dense",
    next_sentence="cls.seq_relationship",
    classifier="classifier",
    classifier_pooler="bert.pooler.dense",
)
ROBERTA_HEADS = Heads(
    family="Roberta",
    prefix="roberta.",
    dense="lm_head.dense",
    norm="lm_head.layer_norm",
    decoder="lm_head.decoder",
    bias="lm_head.bias",
    pooler="roberta.pooler.dense",
    classifier="classifier.out_proj",
    classifier_pooler="classifier.dense",
)
LAYER = LayerNames(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    neurons="intermediate.dense",
    neurons_out="output.dense",
    norm="output.LayerNorm",
)

SKIPPED = r"(bert|roberta)\.embeddings\.(position_ids|token_type_ids)"
"""Constants that older versions stored as tensors."""

SPELLINGS = {r"(.*LayerNorm)\.gamma": r"\1.weight", r"(.*LayerNorm)\.beta": r"\1.bias"}
"""The names of norms' gains and biases in checkpoints that were converted from BERT's first release."""

ROBERTA_PAD = 1
"""The padding token of published RoBERTas, and of those that are written."""


def read_config(options: Options, dtype: torch.dtype) -> TransformerConfig:
    """The architecture of a BERT. Raises `CheckpointError` naming what is not computed."""
    return TransformerConfig(
        **_fields(options), **HEADS.fields(options), n_ctx=options.size("max_position_embeddings"), dtype=dtype
    )


def read_roberta_config(options: Options, dtype: torch.dtype) -> TransformerConfig:
    """The architecture of a RoBERTa. Raises `CheckpointError` naming what is not computed."""
    rows, pad = options.size("max_position_embeddings"), _pad(options)
    if rows <= pad + 1:
        raise CheckpointError(f"max_position_embeddings = {rows}: with pad_token_id = {pad} no row is left")
    fields = _fields(options) | ROBERTA_HEADS.fields(options)
    if fields["masked_token_head"] and fields["act_fn"] != "gelu":
        raise CheckpointError(
            f"hidden_act = {options.values['hidden_act']!r} is not supported beside a head for masked tokens, whose "
            "activation function is 'gelu'; allowed: 'gelu'"
        )
    return TransformerConfig(**fields, n_ctx=rows - pad - 1, dtype=dtype)


def _fields(options: Options) -> dict[str, Any]:
    """The fields of a config that both spell alike."""
    options.refuse_unless("position_embedding_type", "absolute")
    options.refuse_unless("is_decoder", False)
    options.refuse_unless("add_cross_attention", False)
    return {
        "n_layers": options.get("num_hidden_layers", int),
        "d_model": options.size("hidden_size"),
        "n_heads": options.size("num_attention_heads"),
        "d_vocab": options.size("vocab_size"),
        "d_mlp": options.size("intermediate_size"),
        "act_fn": options.activation("hidden_act", "gelu"),
        "norm_position": "post",
        "eps": options.get("layer_norm_eps", float, 1e-12),
        "embed_norm": True,
        "n_token_types": options.get("type_vocab_size", int, 2),
    }


def _pad(options: Options) -> int:
    pad = options.get("pad_token_id", int, ROBERTA_PAD)
    if pad is None or pad < 0:
        raise CheckpointError(f"pad_token_id = {pad}: positions count from it; allowed: zero or more")
    return pad


def write_config(cfg: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a BERT. Fields without a key are left out; `to_hf` checks that nothing is lost."""
    return _options(cfg) | HEADS.options(cfg) | {"max_position_embeddings": cfg.n_ctx}


def write_roberta_config(cfg: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a RoBERTa whose padding token is `ROBERTA_PAD`; otherwise as `write_config`."""
    rows = cfg.n_ctx + ROBERTA_PAD + 1
    return _options(cfg) | ROBERTA_HEADS.options(cfg) | {"max_position_embeddings": rows, "pad_token_id": ROBERTA_PAD}


def write_xlm_roberta_config(cfg: TransformerConfig) -> dict[str, Any]:
    """As `write_roberta_config`: the same model by another name (Conneau et al. 2020)."""
    written = write_roberta_config(cfg)
    return written | {"architectures": [f"XLM{name}" for name in written["architectures"]]}


def _options(cfg: TransformerConfig) -> dict[str, Any]:
    return {
        "num_hidden_layers": cfg.n_layers,
        "hidden_size": cfg.d_model,
        "num_attention_heads": cfg.n_heads,
        "vocab_size": cfg.d_vocab,
        "intermediate_size": cfg.d_mlp,
        "hidden_act": cfg.act_fn,
        "layer_norm_eps": cfg.eps,
        "type_vocab_size": cfg.n_token_types,
    }


def layout(cfg: TransformerConfig, options: Options) -> Iterator[Weight]:
    """Every tensor of a BERT checkpoint."""
    yield from _stack("bert", HEADS, cfg, cfg.n_ctx, same)
    yield from HEADS.layout(cfg, options)


def roberta_layout(cfg: TransformerConfig, options: Options) -> Iterator[Weight]:
    """Every tensor of a RoBERTa checkpoint."""
    first = _pad(options) + 1
    yield from _stack("roberta", ROBERTA_HEADS, cfg, cfg.n_ctx + first, lambda table: table[first:])
    yield from ROBERTA_HEADS.layout(cfg, options)


def _stack(name: str, heads: Heads, cfg: TransformerConfig, n_positions: int, used: View) -> Iterator[Weight]:
    """Embeddings and layers; `used` takes the rows of the table of positions that tokens have."""
    d, embeddings = cfg.d_model, f"{name}.embeddings"
    yield embedding(f"{embeddings}.word_embeddings.weight", f"{heads.decoder}.weight", cfg)
    yield weight(f"{embeddings}.position_embeddings.weight", (n_positions, d), "pos_embed.W_pos", used)
    yield weight(f"{embeddings}.token_type_embeddings.weight", (cfg.n_token_types, d), "token_type_embed.W_type")
    yield from layer_norm(f"{embeddings}.LayerNorm", d, "embed_ln")
    for layer in range(cfg.n_layers):
        yield from post_norm_layer(f"{name}.encoder.layer.{layer}", LAYER, cfg, f"blocks.{layer}")
