"""Parameter counts: what a configuration promises is what a model of it has."""

import dataclasses

import pytest
import torch
from grid import ATTN_ONLY, GATED, GRID, ROTARY, SMALL, Run, config, run_of, runs
from hypothesis import given

from interp import HookedTransformer, TransformerConfig
from interp.config import ParameterCounts

GPT2 = TransformerConfig(n_layers=12, d_model=768, n_ctx=1024, n_heads=12, d_vocab=50257, tie_word_embeddings=True)
GPT3 = TransformerConfig(n_layers=96, d_model=12288, n_ctx=2048, n_heads=96, d_vocab=50257, tie_word_embeddings=True)


OWNERS = {
    "embed": ["embed", "token_type_embed"],
    "pos_embed": ["pos_embed", "rel_bias"],
    "attention": ["attn", "cross_attn"],
    "mlp": ["mlp"],
    "unembed": ["unembed", "mlm_head"],
}
PARTS = {owner: part for part, owners in OWNERS.items() for owner in owners}


def counted(model: HookedTransformer) -> ParameterCounts:
    """The same numbers from the parameters themselves, told apart by their names."""
    counts = dict.fromkeys((field.name for field in dataclasses.fields(ParameterCounts)), 0)
    for path, parameter in model.named_parameters():
        owner = path.split(".")[-2]
        counts[PARTS.get(owner, "norms")] += parameter.numel()
    return ParameterCounts(**counts)


@pytest.mark.parametrize("name", GRID)
def test_counts_equal_those_of_a_real_model(name: str):
    model = HookedTransformer(run_of(name).cfg)
    assert model.cfg.n_params == counted(model)
    assert model.cfg.n_params.total == sum(parameter.numel() for parameter in model.parameters())


@given(runs())
def test_counts_of_random_architectures_equal_those_of_a_real_model(run: Run):
    assert run.cfg.n_params == counted(run.model)


@pytest.mark.parametrize("normalization_type", ["LN", "RMS", None])
@pytest.mark.parametrize(
    "fields",
    [
        {"norm_position": "both"},
        {"norm_position": "both", "parallel_attn_mlp": True, "use_qk_norm": True},
        {"norm_position": "both"} | ATTN_ONLY,
        {"n_layers": 0},
        {"n_layers": 0, "norm_position": "post"},
        {"n_layers": 0, "d_vocab_out": 0, "n_token_types": 3},
        {"d_memory": 7, "norm_position": "both", "use_qk_norm": True, "n_key_value_heads": 2},
        {"d_memory": 7, "norm_position": "post", "positional_embedding_type": "sinusoidal_halves"} | ATTN_ONLY,
        ROTARY | GATED | {"n_key_value_heads": 2, "tie_word_embeddings": True},
    ],
    ids=str,
)
def test_counts_hold_beyond_the_grid(fields: dict[str, object], normalization_type: str | None):
    cfg = config(SMALL, **fields | {"normalization_type": normalization_type})
    assert cfg.n_params == counted(HookedTransformer(cfg, device="meta"))


def test_gpt2_has_the_published_number_of_parameters():
    assert GPT2.n_params.total - GPT2.d_vocab == 124_439_808  # GPT-2 has no b_U


def test_gpt3_is_counted_from_its_config():
    assert GPT3.n_params.embed == 617_558_016
    assert GPT3.n_params.unembed == GPT3.d_vocab
    assert 174e9 < GPT3.n_params.total < 176e9


def test_gpt3_is_built_on_the_meta_device_without_allocating_it():
    model = HookedTransformer(GPT3, device="meta")
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert model.W_E.shape == (50257, 12288) and model.W_E.numel() == 617_558_016
    assert model.blocks[95].attn.W_Q.shape == (96, 12288, 128)
    assert model.W_U.shape == (12288, 50257) and torch.device("meta") == model.W_U.device
    assert counted(model) == GPT3.n_params


def test_counts_cannot_be_written_to():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPT2.n_params.embed = 0  # pyright: ignore[reportAttributeAccessIssue]
