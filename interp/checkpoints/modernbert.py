"""ModernBERT (Warner et al. 2024): an encoder with norms before each part, rotary positions and gated MLPs.

The sum of the embeddings is normalised, so that attention of layer 0 reads it as it is. Most layers see a window on
both sides of a token, with a rotary base of their own. Norms and matrices have no biases unless an option says so.
"""

from collections.abc import Iterator
from typing import Any

import torch

from interp.checkpoints.encoders import Heads
from interp.checkpoints.layout import (
    Piece,
    View,
    Weight,
    embedding,
    head_biases,
    reading_heads,
    same,
    transposed,
    weight,
    writing_heads,
)
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
from interp.config import RotaryScaling, TransformerConfig
from interp.errors import CheckpointError, did_you_mean

HEADS = Heads(family="ModernBert", prefix="model.", dense="head.dense", norm="head.norm", decoder="decoder")
BIAS_FLAGS = {
    "attention_bias": ("attn.b_Q", "attn.b_K", "attn.b_V", "attn.b_O"),
    "mlp_bias": ("mlp.b_gate", "mlp.b_in", "mlp.b_out"),
    "norm_bias": ("b",),
    "classifier_bias": ("mlm_head.b_in",),
    "decoder_bias": ("unembed.b_U",),
}
FULL, SLIDING = LAYER_TYPES
BASES = {FULL: ("global_rope_theta", 160_000.0), SLIDING: ("local_rope_theta", 10_000.0)}
"""For each kind of layer, the older key of its rotary base, and the base where no key says it."""


def read_config(options: Options, dtype: torch.dtype) -> TransformerConfig:
    """The architecture that a `config.json` describes. Raises `CheckpointError` naming what is not computed."""
    n_layers = options.get("num_hidden_layers", int)
    every = options.size("global_attn_every_n_layers", 3)
    kinds = options.layer_types([SLIDING if layer % every else FULL for layer in range(n_layers)])
    window = options.size("local_attention", 128) // 2 + 1  # so many on each side, the token itself among them
    rope = {kind: _rope(options, kind) for kind in LAYER_TYPES}
    fields = HEADS.fields(options)
    act_fn = options.activation("hidden_activation", "gelu")
    if fields["masked_token_head"] and options.activation("classifier_activation", "gelu") != act_fn:
        raise CheckpointError(
            f"classifier_activation = {options.values.get('classifier_activation', 'gelu')!r} is not supported beside "
            f"hidden_activation = {options.values.get('hidden_activation', 'gelu')!r}; allowed: the same one"
        )
    return TransformerConfig(
        n_layers=n_layers,
        d_model=options.size("hidden_size"),
        n_heads=options.size("num_attention_heads"),
        n_ctx=options.size("max_position_embeddings"),
        d_vocab=options.size("vocab_size"),
        d_mlp=options.size("intermediate_size"),
        act_fn=act_fn,
        gated_mlp=True,
        eps=options.get("norm_eps", float, 1e-5),
        embed_norm=True,
        first_ln1=False,
        positional_embedding_type="rotary",
        rotary_base=merged([rope[kind][0] for kind in kinds]),
        rotary_scaling=merged([rope[kind][1] for kind in kinds]),
        window_size=merged([window if kind == SLIDING else None for kind in kinds]),
        **fields,
        dtype=dtype,
    )


def _rope(options: Options, kind: str) -> tuple[float, RotaryScaling | None]:
    """Rotary base and scaling of one kind of layer."""
    given = options.get("rope_parameters", dict, None) or {}
    for name in given:
        if name not in LAYER_TYPES:
            near = did_you_mean(name, LAYER_TYPES)
            raise CheckpointError(f"rope_parameters has {name!r}; allowed: {', '.join(LAYER_TYPES)}{near}")
    whole = (options.get("rope_scaling", dict, None) or {}) | (given.get(kind) or {})
    key, default = BASES[kind]
    theta = options.get(key, float, default)
    if theta is None:
        raise CheckpointError(f"{key} = None is not supported; allowed: a number")
    return options.rotary_of(whole, theta)


def write_config(cfg: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of an architecture, without the flags for biases, which `to_hf` adds.

    Fields without a key are left out; `to_hf` checks that nothing is lost.
    """
    rope = {
        kind: {"rope_type": "default"}
        | (rope_scaling(first_of_kind(cfg, kind, "rotary_scaling", None)) or {})
        | {"rope_theta": float(first_of_kind(cfg, kind, "rotary_base", BASES[kind][1]))}
        for kind in LAYER_TYPES
    }
    return HEADS.options(cfg) | {
        "num_hidden_layers": cfg.n_layers,
        "hidden_size": cfg.d_model,
        "num_attention_heads": cfg.n_heads,
        "max_position_embeddings": cfg.n_ctx,
        "vocab_size": cfg.d_vocab,
        "intermediate_size": cfg.d_mlp,
        "hidden_activation": cfg.act_fn,
        "classifier_activation": cfg.act_fn,
        "norm_eps": cfg.eps,
        "local_attention": 2 * (first_value(per_layer(cfg, "window_size"), 65) - 1),
        "layer_types": layer_kinds(cfg),
        "rope_parameters": rope,
        **_special_tokens(cfg.d_vocab),
    }


def _special_tokens(d_vocab: int) -> dict[str, None]:
    """Special tokens of published ModernBERTs, which transformers assumes, are taken off a smaller vocabulary."""
    published = {"pad": 50_283, "eos": 50_282, "bos": 50_281, "cls": 50_281, "sep": 50_282}
    return {f"{name}_token_id": None for name, token in published.items() if token >= d_vocab}


def layout(cfg: TransformerConfig, options: Options) -> Iterator[Weight]:
    """Every tensor of a checkpoint; biases as the options say."""
    d, mlp, heads = cfg.d_model, cfg.d_mlp, cfg.n_heads
    biased = {name: bool(options.get(name, bool, name == "decoder_bias")) for name in BIAS_FLAGS}

    def norm(theirs: str, ours: str) -> Iterator[Weight]:
        yield weight(f"{theirs}.weight", (d,), f"{ours}.w")
        if biased["norm_bias"]:
            yield weight(f"{theirs}.bias", (d,), f"{ours}.b")

    yield embedding("model.embeddings.tok_embeddings.weight", f"{HEADS.decoder}.weight", cfg)
    yield from norm("model.embeddings.norm", "embed_ln")
    for layer in range(cfg.n_layers):
        theirs, ours = f"model.layers.{layer}", f"blocks.{layer}"
        if layer > 0:
            yield from norm(f"{theirs}.attn_norm", f"{ours}.ln1")
        yield from norm(f"{theirs}.mlp_norm", f"{ours}.ln2")
        yield from _fused(f"{theirs}.attn.Wqkv", d, heads, f"{ours}.attn", biased["attention_bias"])
        yield weight(f"{theirs}.attn.Wo.weight", (d, d), f"{ours}.attn.W_O", writing_heads(heads))
        if biased["attention_bias"]:
            yield weight(f"{theirs}.attn.Wo.bias", (d,), f"{ours}.attn.b_O")
        yield from _gated(f"{theirs}.mlp", d, mlp, f"{ours}.mlp", biased["mlp_bias"])
    yield from norm("model.final_norm", "ln_final")
    if cfg.masked_token_head:
        yield from norm(HEADS.norm, "mlm_head.ln")
        yield from HEADS.matrices(cfg, biased["classifier_bias"])
        if biased["decoder_bias"]:
            yield weight(f"{HEADS.decoder}.bias", (cfg.d_vocab,), "unembed.b_U")


def _fused(theirs: str, d: int, heads: int, ours: str, biased: bool) -> Iterator[Weight]:
    """The matrix with all queries, then all keys, then all values, head after head."""

    def part(i: int, view: View) -> View:
        return lambda fused: view(fused.unflatten(0, (3, -1))[i])

    def pieces(kind: str, view: View) -> tuple[Piece, ...]:
        return tuple(Piece(f"{ours}.{kind}_{letter}", part(i, view)) for i, letter in enumerate("QKV"))

    yield Weight(f"{theirs}.weight", (3 * d, d), pieces("W", reading_heads(heads)))
    if biased:
        yield Weight(f"{theirs}.bias", (3 * d,), pieces("b", head_biases(heads)))


def _gated(theirs: str, d: int, mlp: int, ours: str, biased: bool) -> Iterator[Weight]:
    """The matrix whose first half makes the gate and whose second half is multiplied with it, and the one after."""

    def halves(kind: str, view: View) -> tuple[Piece, ...]:
        first, second = (lambda both: view(both[:mlp])), (lambda both: view(both[mlp:]))
        return Piece(f"{ours}.{kind}_gate", first), Piece(f"{ours}.{kind}_in", second)

    yield Weight(f"{theirs}.Wi.weight", (2 * mlp, d), halves("W", transposed))
    yield weight(f"{theirs}.Wo.weight", (d, mlp), f"{ours}.W_out", transposed)
    if biased:
        yield Weight(f"{theirs}.Wi.bias", (2 * mlp,), halves("b", same))
        yield weight(f"{theirs}.Wo.bias", (d,), f"{ours}.b_out")
