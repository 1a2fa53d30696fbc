"""T5 (Raffel et al. 2020), versions 1.0 and 1.1, and what is version 1.1 by another name: mT5 and Flan-T5.

Both stacks have RMS norms before each part and one at their end, and no biases. Scores are not scaled; they get a
learned bias for the distance from query to key, from one table a stack. Cross-attention has none.

In version 1.0 the head is the embedding, and what it reads is multiplied by d_model^-0.5: here this factor is part of
the gain of the decoder's last norm. Version 1.1 has a head of its own and no factor, and its MLPs are gated.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from interp.checkpoints.layout import Weight, reading_heads, transposed, weight, writing_heads
from interp.checkpoints.options import ACTIVATIONS, Options
from interp.checkpoints.sources import same_values
from interp.config import ActFn, EncoderDecoderConfig, TransformerConfig
from interp.errors import CheckpointError, did_you_mean

T5: dict[str, Any] = {
    "vocab_size": 32_128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "feed_forward_proj": "relu",
    "eos_token_id": 1,
}
MT5: dict[str, Any] = T5 | {
    "vocab_size": 250_112,
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
}
"""Values that published configurations leave out."""

EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""The names of the one embedding."""

N_CTX = 512
"""The longest sequence where a configuration names none: that of training. The arithmetic has no limit."""

GATED = "gated-"
SKIPPED = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
"""A table for cross-attention that older versions stored and none reads."""


def read_config(options: Options, dtype: torch.dtype) -> EncoderDecoderConfig:
    """The architecture that a T5's `config.json` describes. Raises `CheckpointError` naming what is not computed."""
    return _read(options.over(T5), dtype)


def read_mt5_config(options: Options, dtype: torch.dtype) -> EncoderDecoderConfig:
    """The architecture that an mT5's `config.json` describes. Raises `CheckpointError` naming what is not computed."""
    return _read(options.over(MT5), dtype)


def _read(options: Options, dtype: torch.dtype) -> EncoderDecoderConfig:
    for key, allowed in {"is_encoder_decoder": True, "is_decoder": False, "tie_encoder_decoder": False}.items():
        options.refuse_unless(key, allowed)
    act_fn, gated = _activation(options)
    width, layers = options.size("d_model"), options.get("num_layers", int)
    fields: dict[str, Any] = {
        "d_model": width,
        "n_heads": options.size("num_heads"),
        "d_head": options.size("d_kv"),
        "d_mlp": options.size("d_ff"),
        "act_fn": act_fn,
        "gated_mlp": gated,
        "n_ctx": options.get("n_positions", int, None) or N_CTX,
        "d_vocab": options.size("vocab_size"),
        "normalization_type": "RMS",
        "eps": options.get("layer_norm_epsilon", float, 1e-6),
        "positional_embedding_type": "relative",
        "relative_buckets": options.size("relative_attention_num_buckets", 32),
        "relative_max_distance": options.size("relative_attention_max_distance", 128),
        "attn_scale": 1.0,
        "dtype": dtype,
    }
    tied = options.get("tie_word_embeddings", bool, True) is not False
    later = options.get("num_decoder_layers", int, None)
    encoder = TransformerConfig(n_layers=layers, d_vocab_out=0, attention_dir="bidirectional", **fields)
    decoder = TransformerConfig(
        n_layers=layers if later is None else later, d_memory=width, tie_word_embeddings=tied, **fields
    )
    start = options.get("decoder_start_token_id", int, None)
    start = options.get("pad_token_id", int, None) if start is None else start
    return EncoderDecoderConfig(
        encoder=encoder,
        decoder=decoder,
        start_token=start or 0,
        stop_token=options.stop_token(),
        share_embeddings=True,
    )


def _activation(options: Options) -> tuple[ActFn, bool]:
    """The activation function, and whether it is that of a gate."""
    given = options.get("feed_forward_proj", str)
    name = given.removeprefix(GATED)
    gated = name != given
    if name not in ACTIVATIONS:
        near = did_you_mean(given, [*ACTIVATIONS, *(f"{GATED}{known}" for known in ACTIVATIONS)])
        raise CheckpointError(f"feed_forward_proj = {given!r} is not supported; allowed: {', '.join(ACTIVATIONS)}, "
                              f"each also with {GATED!r} in front{near}")  # fmt: skip
    name = "gelu_new" if given == "gated-gelu" else name  # as the models were trained
    options.refuse_unless("is_gated_act", gated)  # transformers writes what it made of the key above
    options.refuse_unless("dense_act_fn", name)
    return ACTIVATIONS[name], gated


def settle_head(options: Options, find: Callable[[str], Tensor | None]) -> Options:
    """The options with `tie_word_embeddings` as the tensors say: false for a head that is not the embedding.

    Transformers 5 writes of every model that it is true, and keeps what it was read from as `scale_decoder_outputs`.
    A checkpoint without a head is one of a tied model, or of the bare model of version 1.1, which is refused.
    """
    head = find("lm_head.weight")
    table = next((held for name in EMBEDDINGS if (held := find(name)) is not None), None)
    tied = _is_scaled(options) or not _is_bare(options)
    if head is not None and table is not None:
        tied = same_values(head, table)
    return options.replaced({"tie_word_embeddings": tied, "scale_decoder_outputs": _is_scaled(options)})


def _is_scaled(options: Options) -> bool:
    """Whether the decoder's last stream is multiplied by d_model^-0.5."""
    if options.get("model_type", str) != "t5":
        return False
    scaled = options.get("scale_decoder_outputs", bool, None)
    return options.get("tie_word_embeddings", bool, True) is not False if scaled is None else scaled


def _is_bare(options: Options) -> bool:
    """Whether the checkpoint says that it is of the model without a head."""
    return any(name.endswith("T5Model") for name in options.get("architectures", list, None) or ())


def write_config(cfg: EncoderDecoderConfig) -> dict[str, Any]:
    """The `config.json` of a T5. Fields without a key are left out; `to_hf` checks that nothing is lost."""
    tied = cfg.decoder.tie_word_embeddings
    return _options(cfg) | {"architectures": ["T5ForConditionalGeneration"], "scale_decoder_outputs": tied}


def write_mt5_config(cfg: EncoderDecoderConfig) -> dict[str, Any]:
    """The `config.json` of an mT5, with the keys of a T5."""
    return _options(cfg) | {"architectures": ["MT5ForConditionalGeneration"]}


def _options(cfg: EncoderDecoderConfig) -> dict[str, Any]:
    """The keys that `_read` reads."""
    encoder = cfg.encoder
    act_fn = encoder.act_fn
    if encoder.gated_mlp:
        act_fn = GATED + ("gelu" if act_fn in ("gelu_new", "gelu_fast") else act_fn)
    return {
        "vocab_size": encoder.d_vocab,
        "d_model": encoder.d_model,
        "d_kv": encoder.d_head,
        "d_ff": encoder.d_mlp,
        "num_layers": encoder.n_layers,
        "num_decoder_layers": cfg.decoder.n_layers,
        "num_heads": encoder.n_heads,
        "n_positions": encoder.n_ctx,
        "feed_forward_proj": act_fn,
        "layer_norm_epsilon": encoder.eps,
        "relative_attention_num_buckets": encoder.relative_buckets,
        "relative_attention_max_distance": encoder.relative_max_distance,
        "tie_word_embeddings": cfg.decoder.tie_word_embeddings,
        "decoder_start_token_id": cfg.start_token,
        "pad_token_id": cfg.start_token,
        "eos_token_id": cfg.stop_token,
        "is_encoder_decoder": True,
    }


def layout(cfg: EncoderDecoderConfig, options: Options) -> Iterator[Weight]:
    """Every tensor of the checkpoint."""
    vocab, d = cfg.encoder.d_vocab, cfg.encoder.d_model
    copies = EMBEDDINGS[1:] + (("lm_head.weight",) if cfg.decoder.tie_word_embeddings else ())
    yield weight(EMBEDDINGS[0], (vocab, d), "encoder.embed.W_E", copies=copies)
    for name, stack in (("encoder", cfg.encoder), ("decoder", cfg.decoder)):
        yield from _layers(name, stack)
        scale = d**-0.5 if name == "decoder" and _is_scaled(options) else 1.0
        yield weight(f"{name}.final_layer_norm.weight", (d,), f"{name}.ln_final.w", times=scale)
    if not cfg.decoder.tie_word_embeddings:
        yield weight("lm_head.weight", (vocab, d), "decoder.unembed.W_U", transposed)


def _layers(stack: str, cfg: TransformerConfig) -> Iterator[Weight]:
    """Those of one stack, whose name is the same in both models."""
    d = cfg.d_model
    for layer in range(cfg.n_layers):
        theirs, ours = f"{stack}.block.{layer}.layer", f"{stack}.blocks.{layer}"
        yield from _attention(f"{theirs}.0.SelfAttention", cfg, f"{ours}.attn")
        if layer == 0:
            shape = (cfg.relative_buckets or 0, cfg.n_heads)
            bias = f"{theirs}.0.SelfAttention.relative_attention_bias.weight"
            yield weight(bias, shape, f"{stack}.rel_bias.W_rel")
        norms = ["ln1", "ln_cross", "ln2"] if cfg.cross_attention else ["ln1", "ln2"]
        for place, norm in enumerate(norms):
            yield weight(f"{theirs}.{place}.layer_norm.weight", (d,), f"{ours}.{norm}.w")
        if cfg.cross_attention:
            yield from _attention(f"{theirs}.1.EncDecAttention", cfg, f"{ours}.cross_attn")
        yield from _mlp(f"{theirs}.{len(norms) - 1}.DenseReluDense", cfg, f"{ours}.mlp")


def _attention(theirs: str, cfg: TransformerConfig, ours: str) -> Iterator[Weight]:
    """Self-attention, or cross-attention: the memory is as wide as the stream."""
    d, heads = cfg.d_model, cfg.n_heads
    for letter in "qkv":
        shape = (heads * cfg.d_head, d)
        yield weight(f"{theirs}.{letter}.weight", shape, f"{ours}.W_{letter.upper()}", reading_heads(heads))
    yield weight(f"{theirs}.o.weight", (d, heads * cfg.d_head), f"{ours}.W_O", writing_heads(heads))


def _mlp(theirs: str, cfg: TransformerConfig, ours: str) -> Iterator[Weight]:
    d, mlp = cfg.d_model, cfg.d_mlp
    for name, matrix in {"wi_0": "W_gate", "wi_1": "W_in"}.items() if cfg.gated_mlp else (("wi", "W_in"),):
        yield weight(f"{theirs}.{name}.weight", (mlp, d), f"{ours}.{matrix}", transposed)
    yield weight(f"{theirs}.wo.weight", (d, mlp), f"{ours}.W_out", transposed)
