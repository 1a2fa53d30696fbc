"""EncoderDecoderConfig: the architectures of two stacks, of which the second reads what the first made of a source."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from interp.config.architecture import TransformerConfig
from interp.config.counts import ParameterCounts
from interp.config.fields import check_by_name, check_names, refuse
from interp.errors import ConfigError, describe
from interp.indices import is_index


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig:
    """The architecture of a `HookedEncoderDecoder` (Vaswani et al. 2017).

    A stack that is given by its fields has by default what a pair needs: the encoder is bidirectional and without an
    unembedding, and the decoder's `d_memory` is the encoder's width.

    Attributes:
        encoder: that of the stack which reads the source. It has no unembedding (`d_vocab_out = 0`).
        decoder: that of the stack which reads the target, causal, with cross-attention to a memory of the encoder's
            width. The two may have other numbers of layers, heads, neurons and tokens.
        start_token: the id that every target starts with.
        stop_token: the id that a target ends with, or None.
        share_embeddings: both stacks have one matrix `W_E`.

    Raises:
        ConfigError: a stack is no config, or the two do not fit one another.

    >>> encoder = {"n_layers": 1, "d_model": 16, "n_heads": 2, "n_ctx": 8, "d_vocab": 10}
    >>> pair = EncoderDecoderConfig(encoder=encoder, decoder=encoder | {"d_vocab": 12}, start_token=1)
    >>> pair.encoder.attention_dir, pair.decoder.d_memory
    ('bidirectional', 16)
    """

    encoder: TransformerConfig
    decoder: TransformerConfig
    start_token: int = 0
    stop_token: int | None = None
    share_embeddings: bool = False

    def __post_init__(self) -> None:
        for name in ("encoder", "decoder"):
            given = getattr(self, name)
            if isinstance(given, Mapping):
                of_encoder = {"attention_dir": "bidirectional", "d_vocab_out": 0}
                usual = of_encoder if name == "encoder" else {"d_memory": self.encoder.d_model}
                object.__setattr__(self, name, TransformerConfig.from_dict({**usual, **given}))
            elif not isinstance(given, TransformerConfig):
                raise ConfigError(f"{name} = {describe(given)}; allowed: a TransformerConfig, or its fields")
        encoder, decoder = self.encoder, self.decoder
        refuse(encoder.has_unembed, f"encoder.d_vocab_out = {encoder.d_vocab_out}; allowed: 0, as it has no logits")
        refuse(encoder.cross_attention, f"encoder.d_memory = {encoder.d_memory}; allowed: 0, as it reads no memory")
        refuse(
            decoder.d_memory != encoder.d_model,
            f"decoder.d_memory = {decoder.d_memory} must be encoder.d_model = {encoder.d_model}, the width of what it "
            "reads",
        )
        refuse(
            decoder.attention_dir != "causal",
            f"decoder.attention_dir = {decoder.attention_dir!r}; allowed: 'causal', as it predicts the next token",
        )
        refuse(
            encoder.dtype != decoder.dtype,
            f"encoder.dtype = {encoder.dtype} and decoder.dtype = {decoder.dtype} must be the same",
        )
        refuse(not decoder.has_unembed, "decoder.d_vocab_out = 0; the decoder of a pair has logits")
        for name in ("start_token",) if self.stop_token is None else ("start_token", "stop_token"):
            token = getattr(self, name)
            refuse(
                not is_index(token) or not 0 <= token < decoder.d_vocab,
                f"{name} = {describe(token)}; allowed: 0 to decoder.d_vocab - 1 = {decoder.d_vocab - 1}",
            )
        refuse(not isinstance(self.share_embeddings, bool), f"share_embeddings = {self.share_embeddings!r}; a bool")
        for name in ("d_vocab", "d_model") if self.share_embeddings else ():
            sizes = getattr(encoder, name), getattr(decoder, name)
            refuse(sizes[0] != sizes[1], f"share_embeddings = True needs one {name}; here are {sizes[0]}, {sizes[1]}")

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters of both stacks."""
        return self.decoder.dtype

    @property
    def n_params(self) -> ParameterCounts:
        """Numbers of parameters by component, of both stacks together; shared embeddings count once."""
        encoder, decoder = self.encoder.n_params, self.decoder.n_params
        sums = {name: value + getattr(decoder, name) for name, value in dataclasses.asdict(encoder).items()}
        if self.share_embeddings:
            sums["embed"] -= self.decoder.d_vocab * self.decoder.d_model
        return ParameterCounts(**sums)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {
            "encoder": self.encoder.to_dict(),
            "decoder": self.decoder.to_dict(),
            "start_token": self.start_token,
            "stop_token": self.stop_token,
            "share_embeddings": self.share_embeddings,
        }

    def architecture(self) -> dict[str, Any]:
        """`to_dict` without what only the first weights depend on (`seed`, `init_std`)."""
        return self.to_dict() | {"encoder": self.encoder.architecture(), "decoder": self.decoder.architecture()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EncoderDecoderConfig":
        """The config with these fields, such as `to_dict` returns. Raises `ConfigError` as the constructor does."""
        check_by_name(values, cls)
        check_names(values, cls)
        return cls(**values)
