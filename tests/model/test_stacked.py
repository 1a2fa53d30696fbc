"""Weights: what a model shows is what its blocks hold, and writing changes the model."""

import pytest
import torch
from grid import SMALL, Run, assert_close, config, run_of, where

from interp import ConfigError, HookedTransformer

QUERY_SIDE = ["W_Q", "b_Q", "W_O"]
KEY_SIDE = ["W_K", "W_V", "b_K", "b_V"]
OF_MLPS = ["W_in", "W_out", "b_in", "b_out"]


# ---------------------------------------------------------------------------------------------- stacked


def test_a_heads_weights_in_the_stack_are_those_of_its_block(run: Run):
    for name in QUERY_SIDE:
        for layer, block in enumerate(run.model.blocks):
            assert torch.equal(getattr(run.model, name)[layer], block.attn.get_parameter(name)), name


def test_keys_and_values_in_the_stack_are_repeated_to_the_query_heads(run: Run):
    group = run.cfg.n_heads // run.cfg.n_key_value_heads
    for name in KEY_SIDE:
        for layer, block in enumerate(run.model.blocks):
            own = block.attn.get_parameter(name)
            for head in range(run.cfg.n_heads):
                assert torch.equal(getattr(run.model, name)[layer, head], own[head // group]), name


@where(lambda cfg: not cfg.attn_only)
def test_an_mlps_weights_in_the_stack_are_those_of_its_block(run: Run):
    for name in OF_MLPS + (["W_gate", "b_gate"] if run.cfg.gated_mlp else []):
        for layer, block in enumerate(run.model.blocks):
            assert torch.equal(getattr(run.model, name)[layer], block.mlp.get_parameter(name)), name


def test_attention_biases_in_the_stack_are_those_of_their_block(run: Run):
    for layer, block in enumerate(run.model.blocks):
        assert torch.equal(run.model.b_O[layer], block.attn.b_O)


def test_weights_have_the_documented_axes(run: Run):
    cfg, model = run.cfg, run.model
    assert model.W_E.shape == (cfg.d_vocab, cfg.d_model)
    assert model.W_U.shape == (cfg.d_model, cfg.d_vocab)
    assert model.W_Q.shape == model.W_K.shape == model.W_V.shape == (3, cfg.n_heads, cfg.d_model, cfg.d_head)
    assert model.W_O.shape == (3, cfg.n_heads, cfg.d_head, cfg.d_model)


def test_gradients_flow_through_the_stacked_weights():
    model = run_of("rotary_rms_gated_grouped").fresh_model()
    (gradient,) = torch.autograd.grad(model.W_K[1].sum(), model.blocks[1].attn.W_K)
    assert_close(gradient, torch.full_like(gradient, 2.0))


@pytest.mark.parametrize("name", [*OF_MLPS, "W_gate", "b_gate"])
def test_weights_of_an_mlp_that_is_not_there_are_an_error(name: str):
    with pytest.raises(ConfigError, match=f"attention-only: there is no {name}"):
        getattr(run_of("shortformer_attn_only").model, name)


def test_gates_that_are_not_there_are_an_error():
    with pytest.raises(ConfigError, match="without gates: there is no W_gate"):
        _ = run_of("learned_ln").model.W_gate


@pytest.mark.parametrize("name", [*QUERY_SIDE, *KEY_SIDE, *OF_MLPS, "b_O"])
def test_weights_of_a_model_without_blocks_are_an_error(name: str):
    with pytest.raises(ConfigError, match=f"there is no {name}"):
        getattr(HookedTransformer(config(SMALL, n_layers=0)), name)


def test_equal_weights_have_equal_hashes(run: Run):
    assert run.fresh_model().weights_hash() == run.model.weights_hash()


@pytest.mark.parametrize("name", ["embed.W_E", "blocks.1.attn.b_K", "unembed.b_U", "ln_final.w"])
def test_the_least_change_of_a_weight_changes_the_hash(plain: Run, name: str):
    model = plain.fresh_model()
    with torch.no_grad():
        first = model.get_parameter(name).view(-1)[:1]
        first.copy_(torch.nextafter(first, first + 1))
    assert model.weights_hash() != plain.model.weights_hash()


@where(lambda cfg: cfg.positional_embedding_type in ("rotary", "none"))
def test_positions_without_vectors_have_no_weights(run: Run):
    with pytest.raises(ConfigError, match="there is no W_pos"):
        _ = run.model.W_pos


# ---------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("layer", [0, -1])
def test_writing_a_heads_weights_changes_the_model(run: Run, layer: int):
    model = run.fresh_model()
    with torch.no_grad():
        model.blocks[layer].attn.W_V[-1] = 0
    assert (model(run.tokens) - run.logits).abs().max() > 1e-4
    assert (model.W_V[layer, -1] == 0).all()


def test_writing_the_unembedding_changes_the_logits(run: Run):
    model = run.fresh_model()
    with torch.no_grad():
        model.W_U[:, 2] = 0
    bias, cap = model.b_U[2], run.cfg.output_logits_soft_cap
    want = bias if cap is None else cap * torch.tanh(bias / cap)
    assert_close(model(run.tokens)[..., 2], want.expand(run.tokens.shape))


@where(lambda cfg: cfg.has_position_vectors)
def test_writing_a_positions_vector_changes_the_model(run: Run):
    model = run.fresh_model()
    with torch.no_grad():
        model.W_pos[2] += 1 - model.W_pos[3]
    assert (model(run.tokens) - run.logits)[:, 2:].abs().max() > 1e-4
