"""Which fields of an architecture contradict one another."""

import dataclasses
from typing import TYPE_CHECKING

import torch

from interp.config.fields import refuse

if TYPE_CHECKING:
    from interp.config.architecture import TransformerConfig


def check_combinations(cfg: "TransformerConfig") -> None:
    """Raise `ConfigError` where two fields contradict, each of which is possible by itself."""
    _check_blocks(cfg)
    _check_positions(cfg)
    _check_read_out(cfg)
    _check_norms(cfg)
    allowed = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    refuse(cfg.dtype not in allowed, f"dtype = {cfg.dtype}; allowed: {', '.join(map(str, allowed))}")


def _check_blocks(cfg: "TransformerConfig") -> None:
    """Attention, cross-attention and MLP."""
    heads, kv_heads = cfg.n_heads, cfg.n_key_value_heads
    refuse(heads % kv_heads != 0, f"n_heads = {heads} is not a multiple of n_key_value_heads = {kv_heads}")
    for name in ("d_mlp", "gated_mlp", "parallel_attn_mlp"):
        value = getattr(cfg, name)
        refuse(cfg.attn_only and bool(value), f"attn_only = True leaves no MLP for {name} = {value}")
    refuse(not cfg.attn_only and cfg.d_mlp == 0, "d_mlp = 0 leaves no neurons; say attn_only = True")
    refuse(
        cfg.parallel_attn_mlp and cfg.norm_position == "post",
        "parallel_attn_mlp = True contradicts norm_position = 'post', which normalises between attention and MLP",
    )
    refuse(
        cfg.cross_attention and cfg.parallel_attn_mlp,
        "parallel_attn_mlp = True contradicts d_memory, which puts cross-attention between attention and MLP",
    )
    refuse(
        cfg.attn_implementation == "sdpa" and cfg.attn_scores_soft_cap is not None,
        "attn_implementation = 'sdpa' cannot cap scores; drop attn_scores_soft_cap or say 'eager'",
    )


def _check_positions(cfg: "TransformerConfig") -> None:
    """How the model knows where a token stands."""
    positions = cfg.positional_embedding_type
    for name in (f.name for f in dataclasses.fields(cfg) if f.name.startswith(("rotary_", "relative_"))):
        value = getattr(cfg, name)
        refuse(
            not name.startswith(positions) and value is not None,
            f"{name} = {value} contradicts positional_embedding_type = {positions!r}",
        )
    _check_buckets(cfg)
    rotary_dim = cfg.rotary_dim or 0
    refuse(rotary_dim > cfg.d_head, f"rotary_dim = {rotary_dim} exceeds d_head = {cfg.d_head}")
    refuse(rotary_dim % 2 == 1, f"rotary_dim = {rotary_dim}: dimensions turn in pairs, so it must be even")
    refuse(
        positions == "onehot" and cfg.d_model < cfg.n_ctx,
        f"one-hot positions need d_model >= n_ctx, but d_model = {cfg.d_model} and n_ctx = {cfg.n_ctx}",
    )
    refuse(
        positions.startswith("sinusoidal") and cfg.d_model % 2 == 1,
        f"sinusoidal positions come in pairs, so d_model = {cfg.d_model} must be even",
    )


def _check_buckets(cfg: "TransformerConfig") -> None:
    """The distances of relative positions that share a bias."""
    buckets, distance = cfg.relative_buckets or 4, cfg.relative_max_distance or 2**31
    least = 4 if cfg.attention_dir == "bidirectional" else 2  # so that some distances are told from others
    refuse(
        buckets < least or buckets % least > 0,
        f"relative_buckets = {buckets}; allowed: a multiple of {least} with {cfg.attention_dir} attention",
    )
    exact = buckets // least  # buckets of one distance each
    refuse(
        distance <= exact,
        f"relative_max_distance = {distance}; with relative_buckets = {buckets} the first {exact} distances have "
        f"a bucket each, so it must be more than {exact}",
    )


def _check_read_out(cfg: "TransformerConfig") -> None:
    """Logits, and the vector of a whole sequence."""
    for name in ("tie_word_embeddings", "masked_token_head", "output_logits_soft_cap"):
        refuse(
            not cfg.has_unembed and bool(getattr(cfg, name)),
            f"d_vocab_out = 0 leaves no unembedding for {name} = {getattr(cfg, name)}",
        )
    for name in ("normalize_pooled", "n_pooled_classes"):
        value = getattr(cfg, name)
        refuse(cfg.pooling is None and bool(value), f"pooling = None leaves no vector for {name} = {value}")
    refuse(
        cfg.tie_word_embeddings and cfg.predicts_other_things,
        f"tie_word_embeddings = True makes as many logits as tokens, but d_vocab = {cfg.d_vocab} and "
        f"d_vocab_out = {cfg.d_vocab_out}",
    )


def _check_norms(cfg: "TransformerConfig") -> None:
    """Norms that are asked for, or left out, where there are none."""
    refuse(
        not cfg.first_ln1 and not (cfg.norms_reads and cfg.normalization_type),
        f"first_ln1 = False leaves out a norm that there is not, with norm_position = {cfg.norm_position!r} and "
        f"normalization_type = {cfg.normalization_type!r}",
    )
    refuse(
        cfg.embed_norm and cfg.normalization_type is None,
        "embed_norm = True contradicts normalization_type = None",
    )
