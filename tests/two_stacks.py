"""Small encoders with decoders that the tests run on; the stacks differ in layers, heads, widths and vocabularies."""

from typing import Any

import torch

from interp import EncoderDecoderConfig, HookedEncoderDecoder
from interp.model import SourceAndTarget

N_SOURCE, N_TARGET, BATCH = 6, 5, 3

_ENCODER: dict[str, Any] = {
    "n_layers": 3,
    "d_model": 16,
    "n_ctx": 9,
    "d_vocab": 13,
    "n_heads": 2,
    "d_head": 6,
    "d_mlp": 14,
}
_DECODER: dict[str, Any] = {
    "n_layers": 2,
    "d_model": 20,
    "n_ctx": 9,
    "d_vocab": 11,
    "n_heads": 4,
    "d_head": 5,
    "d_mlp": 12,
}
_RELATIVE: dict[str, Any] = {
    "normalization_type": "RMS",
    "positional_embedding_type": "relative",
    "relative_buckets": 8,
    "relative_max_distance": 10,
    "attn_scale": 1.0,
    "act_fn": "relu",
}
_POST: dict[str, Any] = {"norm_position": "post", "embed_norm": True}

PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "t5_like": (_RELATIVE, _RELATIVE),
    "bart_like": (_POST, _POST),
    "vaswani_like": (
        {"norm_position": "post", "positional_embedding_type": "sinusoidal_halves", "embed_scale": 4.0},
        {"norm_position": "post", "positional_embedding_type": "sinusoidal_halves", "embed_scale": 4.5},
    ),
    "grouped_normed_keys": (
        {"n_key_value_heads": 1, "window_size": 3},
        {"n_key_value_heads": 2, "use_qk_norm": True, "attn_scores_soft_cap": 3.0, "norm_position": "both"},
    ),
    "sdpa_rotary": (
        {"attn_implementation": "sdpa", "positional_embedding_type": "rotary"},
        {"attn_implementation": "sdpa", "positional_embedding_type": "rotary", "d_head": 6, "n_key_value_heads": 2},
    ),
    "causal_encoder_attn_only": ({"attention_dir": "causal"}, {"attn_only": True, "d_mlp": 0}),
}
"""What differs from the above in encoder and decoder."""


def pair_config(name: str, dtype: torch.dtype = torch.float64) -> EncoderDecoderConfig:
    """The configuration of that name."""
    encoder, decoder = PAIRS[name]
    return EncoderDecoderConfig.from_dict(
        {"encoder": _ENCODER | encoder | {"dtype": dtype}, "decoder": _DECODER | decoder | {"dtype": dtype}}
    )


def build_pair(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> HookedEncoderDecoder:
    """A model with every parameter random, none of them idle."""
    model = HookedEncoderDecoder(pair_config(name, dtype), init_weights=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            gain = parameter_name.endswith(".w")
            parameter.copy_(1 + 0.3 * noise if gain else noise * (0.3 if ".W_" in parameter_name else 0.5))
    return model


def random_prompts(model: HookedEncoderDecoder, seed: int, padded: str = "no", n: int = BATCH) -> SourceAndTarget:
    """Sources and targets; `padded` "left", "right" (both shorter in some prompts), "source", "target", or "no"."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(model.cfg.encoder.d_vocab, (n, N_SOURCE), generator=generator)
    target = torch.randint(model.cfg.decoder.d_vocab, (n, N_TARGET), generator=generator)
    source_mask, target_mask = (torch.ones_like(ids, dtype=torch.bool) for ids in (source, target))
    if padded in ("left", "source", "both"):
        source_mask[0, :2] = False
    if padded == "right":
        source_mask[0, -2:], source_mask[1, -1:] = False, False
    if padded in ("left", "target", "both"):
        target_mask[-1, :1] = False
    return model.masked_tokens(source, target, source_mask, target_mask)


def changed(model: HookedEncoderDecoder, prompts: SourceAndTarget) -> SourceAndTarget:
    """The same prompts with other tokens at some places of source and target, padded alike."""
    source, target = prompts.source.ids.clone(), prompts.target.ids.clone()
    for prompt in range(len(source)):
        source[prompt, 2 + prompt % 2] += 1
        target[prompt, 1 + prompt % 2] += 1
    return model.masked_tokens(
        source % model.cfg.encoder.d_vocab,
        target % model.cfg.decoder.d_vocab,
        prompts.source.is_token,
        prompts.target.is_token,
    )
