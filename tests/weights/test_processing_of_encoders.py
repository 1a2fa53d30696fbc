"""Other weights for the same function: encoders, and decoders that read a memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from grid import SEED, SMALL, build, config, random_tensor, random_tokens
from torch import Tensor

from interp import ConfigError, HookedTransformer
from interp.weights import (
    center_unembed,
    center_writing_weights,
    fold_layer_norm,
    fold_value_biases,
    refactor_factored_attn_matrices,
)

BASE = SMALL | {"dtype": torch.float64}
ENCODER: dict[str, Any] = BASE | {"attention_dir": "bidirectional", "n_token_types": 2}
KINDS: dict[str, dict[str, Any]] = {
    "masked_token_head": ENCODER | {"masked_token_head": True, "tie_word_embeddings": True, "first_ln1": False},
    "masked_token_head_and_norm": ENCODER | {"masked_token_head": True, "embed_norm": True},
    "pooled": ENCODER | {"pooling": "mean", "masked_token_head": True},
    "no_unembedding": ENCODER | {"pooling": "cls", "d_vocab_out": 0},
    "post_norm": ENCODER
    | {"pooling": "pooler", "norm_position": "post", "embed_norm": True, "masked_token_head": True},
    "memory": BASE | {"d_memory": 14, "positional_embedding_type": "sinusoidal_halves"},
    "memory_and_relative_positions": BASE | {"d_memory": 14, "positional_embedding_type": "relative"},
    "memory_rms": BASE | {"d_memory": 14, "normalization_type": "RMS"},
}
Process = Callable[[HookedTransformer], HookedTransformer]
KEEPING: dict[Process, Callable[[Any], bool]] = {
    fold_layer_norm: lambda cfg: cfg.norms_reads,
    center_writing_weights: lambda cfg: (
        cfg.norm_position == "pre" and cfg.normalization_type == "LN" and cfg.first_ln1 and not cfg.embed_norm
    ),
    fold_value_biases: lambda cfg: True,
    refactor_factored_attn_matrices: lambda cfg: True,
    center_unembed: lambda cfg: cfg.has_unembed,
}
"""Which architectures each can process."""


def outputs(model: HookedTransformer) -> dict[str, Tensor]:
    """Everything that a run can return, and the last stream as a memory has it."""
    tokens = random_tokens(model.cfg, SEED, 2, 5)
    inputs: dict[str, Any] = {}
    if model.cfg.n_token_types:
        inputs = {"token_types": [[0, 0, 1, 1, 1]] * 2, "attention_mask": [[0, 1, 1, 1, 1], [1] * 5]}
    if model.cfg.d_memory:
        inputs["memory"] = random_tensor(2, 4, model.cfg.d_memory)
    found = {}
    with torch.no_grad():
        if model.cfg.has_unembed:
            found["logits"] = model(tokens, **inputs).log_softmax(dim=-1)
        else:
            found["stream"] = model.ln_final.unhooked(model(tokens, stop_at_layer=3, **inputs))
        if model.cfg.pooling is not None:
            found["pooled"] = model(tokens, "pooled", **inputs)
    if model.cfg.n_token_types:  # padding attends to whatever
        found = {name: value[:, 1:] if value.ndim == 3 else value for name, value in found.items()}
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_a_run_returns_is_kept_or_the_model_is_refused(kind: str):
    model = build(config(KINDS[kind]), SEED)
    before = outputs(model)
    for process, possible in KEEPING.items():
        if not possible(model.cfg):
            with pytest.raises(ConfigError):
                process(model)
            continue
        for name, value in outputs(process(model)).items():
            torch.testing.assert_close(value, before[name], rtol=1e-9, atol=1e-9, msg=f"{kind} {process} {name}")


def test_every_norm_that_is_read_by_weights_alone_is_folded():
    for kind, kept in {
        "masked_token_head": set(),
        "masked_token_head_and_norm": {"embed_ln"},
        "pooled": {"ln_final"},
        "no_unembedding": {"ln_final"},
        "memory": set(),
    }.items():
        new = fold_layer_norm(build(config(KINDS[kind]), SEED))
        unfolded = {name.removesuffix(".w") for name, gain in new.named_parameters()
                    if name.endswith(".w") and not torch.equal(gain, torch.ones_like(gain))}  # fmt: skip
        assert unfolded == kept, kind


def test_value_biases_of_cross_attention_are_folded_and_its_writes_centred():
    model = build(config(KINDS["memory"]), SEED)
    assert not any(block.cross_attn.b_V.any() for block in fold_value_biases(model).blocks)
    centred = center_writing_weights(model)
    memory = random_tensor(2, 4, 14)
    _, cache = centred.run_with_cache(random_tokens(model.cfg, SEED, 2, 5), None, memory=memory)
    assert max(float(cache["resid_post", layer].mean(dim=-1).abs().max()) for layer in range(3)) < 1e-12
