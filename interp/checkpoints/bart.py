"""BART (Lewis et al. 2020), mBART (Liu et al. 2020), Marian (Junczys-Dowmunt et al. 2018), Pegasus (Zhang et al. 2020).

They are the encoder and the decoder of Vaswani et al. (2017), with LayerNorms and a bias everywhere; a bias of the
logits is a tensor of its own. BART and mBART have a norm of the embeddings and learned positions, of which the first
two rows of the table are never read; Marian and Pegasus have neither, and sinusoids, all sines before all cosines. BART
and Marian have norms after each part, mBART and Pegasus before each part and at the end of each stack. The two
languages of a Marian may have embeddings of their own.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from interp.checkpoints.layout import (
    Weight,
    head_biases,
    layer_norm,
    reading_heads,
    transposed,
    weight,
    writing_heads,
)
from interp.checkpoints.options import Options
from interp.config import EncoderDecoderConfig, TransformerConfig
from interp.errors import CheckpointError

N_UNREAD = 2
"""Rows at the beginning of a table of learned positions that no position reads."""

DEFAULTS: dict[str, Any] = {
    "vocab_size": 50_265,
    "d_model": 1024,
    "max_position_embeddings": 1024,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "activation_function": "gelu",
    "eos_token_id": 2,
}
"""Values that published configurations leave out."""


@dataclass(frozen=True)
class Kind:
    """One of these families.

    Attributes:
        head: transformers' class of the model with a head.
        defaults: values that published configurations leave out.
        learned: whether positions are learned, and the embeddings pass through a norm.
        pre_norm: whether norms come before each part, and one at the end of each stack.
        two_languages: whether source and target may have vocabularies and embeddings of their own.
    """

    head: str
    defaults: dict[str, Any]
    learned: bool
    pre_norm: bool
    two_languages: bool = False

    def read_config(self, options: Options, dtype: torch.dtype) -> EncoderDecoderConfig:
        """The architecture that a `config.json` describes. Raises `CheckpointError` naming what is not computed.

        In transformers, embeddings that are not tied to the head are not shared by the stacks either.
        """
        options = options.over(self.defaults)
        for key, allowed in self._only_values().items():
            options.refuse_unless(key, allowed)
        source, tied = options.size("vocab_size"), options.get("tie_word_embeddings", bool, True) is not False
        target = (self.two_languages and options.get("decoder_vocab_size", int, None)) or source
        if self._shares(options) and target != source:
            raise CheckpointError(f"decoder_vocab_size = {target} contradicts vocab_size = {source}, as "
                                  "share_encoder_decoder_embeddings is true")  # fmt: skip
        encoder = {"d_vocab": source, "d_vocab_out": 0, "attention_dir": "bidirectional"}
        decoder = {"d_vocab": target, "d_memory": options.size("d_model"), "tie_word_embeddings": tied}
        return EncoderDecoderConfig(
            encoder=self._stack("encoder", options, dtype, encoder),
            decoder=self._stack("decoder", options, dtype, decoder),
            start_token=options.get("decoder_start_token_id", int),
            stop_token=options.stop_token(),
            share_embeddings=tied and self._shares(options),
        )

    def _only_values(self) -> dict[str, Any]:
        """Keys of which only one value is computed; most are of versions that wrote all options of all families."""
        return {
            "is_encoder_decoder": True,
            "is_decoder": False,
            "normalize_before": self.pre_norm,
            "add_final_layer_norm": self.pre_norm,
            "normalize_embedding": self.learned,
            "static_position_embeddings": not self.learned,
            "add_bias_logits": False,
            "tie_encoder_decoder": False,
        } | ({"extra_pos_embeddings": N_UNREAD} if self.learned else {})

    def _shares(self, options: Options) -> bool:
        """Whether the configuration says that there is one embedding for both stacks."""
        return not self.two_languages or options.get("share_encoder_decoder_embeddings", bool, True) is not False

    def _stack(self, name: str, options: Options, dtype: torch.dtype, fields: dict[str, Any]) -> TransformerConfig:
        width, heads = options.size("d_model"), options.size(f"{name}_attention_heads")
        if width % heads:
            raise CheckpointError(f"d_model = {width} is not a multiple of {name}_attention_heads = {heads}")
        return TransformerConfig(
            n_layers=options.get(f"{name}_layers", int),
            d_model=width,
            n_heads=heads,
            n_ctx=options.size("max_position_embeddings"),
            d_mlp=options.size(f"{name}_ffn_dim"),
            act_fn=options.activation("activation_function"),
            norm_position="pre" if self.pre_norm else "post",
            embed_norm=self.learned,
            positional_embedding_type="standard" if self.learned else "sinusoidal_halves",
            embed_scale=math.sqrt(width) if options.get("scale_embedding", bool, False) else 1.0,
            dtype=dtype,
            **fields,
        )

    def write_config(self, cfg: EncoderDecoderConfig) -> dict[str, Any]:
        """The `config.json` of an architecture; `to_hf` checks that nothing is lost."""
        encoder, decoder = cfg.encoder, cfg.decoder
        languages = {"decoder_vocab_size": decoder.d_vocab, "share_encoder_decoder_embeddings": cfg.share_embeddings}
        return {
            "architectures": [self.head],
            "vocab_size": encoder.d_vocab,
            "d_model": encoder.d_model,
            "max_position_embeddings": encoder.n_ctx,
            "encoder_layers": encoder.n_layers,
            "decoder_layers": decoder.n_layers,
            "encoder_attention_heads": encoder.n_heads,
            "decoder_attention_heads": decoder.n_heads,
            "encoder_ffn_dim": encoder.d_mlp,
            "decoder_ffn_dim": decoder.d_mlp,
            "activation_function": encoder.act_fn,
            "scale_embedding": encoder.embed_scale != 1.0,
            "tie_word_embeddings": decoder.tie_word_embeddings,
            "decoder_start_token_id": cfg.start_token,
            "eos_token_id": cfg.stop_token,
            "pad_token_id": cfg.start_token if not self.learned else 1,
            "is_encoder_decoder": True,
        } | (languages if self.two_languages else {})

    def layout(self, cfg: EncoderDecoderConfig, options: Options) -> Iterator[Weight]:
        """Every tensor of the checkpoint. Files mostly leave out the sinusoids."""
        yield from _embeddings(cfg, self._shares(options))
        yield from _head(cfg)
        for name, stack in (("encoder", cfg.encoder), ("decoder", cfg.decoder)):
            d, positions, ours = stack.d_model, f"model.{name}.embed_positions.weight", f"{name}.pos_embed.W_pos"
            if self.learned:
                yield weight(positions, (stack.n_ctx + N_UNREAD, d), ours, lambda theirs: theirs[N_UNREAD:])
                yield from layer_norm(f"model.{name}.layernorm_embedding", d, f"{name}.embed_ln")
            else:
                yield weight(positions, (stack.n_ctx, d), ours, optional=True)
            yield from _layers(f"model.{name}", stack, name)
            if self.pre_norm:
                yield from layer_norm(f"model.{name}.layer_norm", d, f"{name}.ln_final")


BART = Kind("BartForConditionalGeneration", DEFAULTS | {"decoder_start_token_id": 2}, learned=True, pre_norm=False)
MBART = Kind("MBartForConditionalGeneration", DEFAULTS, learned=True, pre_norm=True)
PEGASUS = Kind(
    "PegasusForConditionalGeneration",
    DEFAULTS | {"decoder_start_token_id": 0, "eos_token_id": 1},
    learned=False,
    pre_norm=True,
)
MARIAN = Kind(
    "MarianMTModel",
    DEFAULTS | {"vocab_size": 58_101, "decoder_start_token_id": 58_100, "eos_token_id": 0},
    learned=False,
    pre_norm=False,
    two_languages=True,
)
"""An mBART starts with the token of the target's language, which its configuration has to name."""


def _embeddings(cfg: EncoderDecoderConfig, shares: bool) -> Iterator[Weight]:
    """One for both stacks and the head, or one for each; then the one for both may be there, and nothing reads it."""
    shared, head = "model.shared.weight", ("lm_head.weight",) if cfg.decoder.tie_word_embeddings else ()
    own = {name: f"model.{name}.embed_tokens.weight" for name in ("encoder", "decoder")}
    sizes = {
        name: (stack.d_vocab, stack.d_model) for name, stack in (("encoder", cfg.encoder), ("decoder", cfg.decoder))
    }
    if cfg.share_embeddings:
        yield weight(shared, sizes["encoder"], "encoder.embed.W_E", copies=(*own.values(), *head))
        return
    if shares:
        yield Weight(shared, sizes["encoder"], (), optional=True)
    yield weight(own["encoder"], sizes["encoder"], "encoder.embed.W_E")
    yield weight(own["decoder"], sizes["decoder"], "decoder.embed.W_E", copies=head)


def _head(cfg: EncoderDecoderConfig) -> Iterator[Weight]:
    vocab, d = cfg.decoder.d_vocab, cfg.decoder.d_model
    if not cfg.decoder.tie_word_embeddings:
        yield weight("lm_head.weight", (vocab, d), "decoder.unembed.W_U", transposed)
    yield weight("final_logits_bias", (1, vocab), "decoder.unembed.b_U", lambda theirs: theirs[0], optional=True)


def _layers(theirs: str, cfg: TransformerConfig, ours: str) -> Iterator[Weight]:
    d, mlp = cfg.d_model, cfg.d_mlp
    for layer in range(cfg.n_layers):
        their_layer, block = f"{theirs}.layers.{layer}", f"{ours}.blocks.{layer}"
        yield from _attention(f"{their_layer}.self_attn", cfg, f"{block}.attn")
        yield from layer_norm(f"{their_layer}.self_attn_layer_norm", d, f"{block}.ln1")
        if cfg.cross_attention:
            yield from _attention(f"{their_layer}.encoder_attn", cfg, f"{block}.cross_attn")
            yield from layer_norm(f"{their_layer}.encoder_attn_layer_norm", d, f"{block}.ln_cross")
        yield weight(f"{their_layer}.fc1.weight", (mlp, d), f"{block}.mlp.W_in", transposed)
        yield weight(f"{their_layer}.fc1.bias", (mlp,), f"{block}.mlp.b_in")
        yield weight(f"{their_layer}.fc2.weight", (d, mlp), f"{block}.mlp.W_out", transposed)
        yield weight(f"{their_layer}.fc2.bias", (d,), f"{block}.mlp.b_out")
        yield from layer_norm(f"{their_layer}.final_layer_norm", d, f"{block}.ln2")


def _attention(theirs: str, cfg: TransformerConfig, ours: str) -> Iterator[Weight]:
    """Self-attention, or cross-attention: the memory is as wide as the stream."""
    d, heads = cfg.d_model, cfg.n_heads
    for letter in "qkv":
        yield weight(f"{theirs}.{letter}_proj.weight", (d, d), f"{ours}.W_{letter.upper()}", reading_heads(heads))
        yield weight(f"{theirs}.{letter}_proj.bias", (d,), f"{ours}.b_{letter.upper()}", head_biases(heads))
    yield weight(f"{theirs}.out_proj.weight", (d, d), f"{ours}.W_O", writing_heads(heads))
    yield weight(f"{theirs}.out_proj.bias", (d,), f"{ours}.b_O")
