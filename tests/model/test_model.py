"""The forward pass against independent references: whole, in parts, padded, in other dtypes, and its loss."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from grid import (
    GRID,
    SEED,
    SMALL,
    Run,
    assert_close,
    build,
    config,
    random_tokens,
    reference_logits,
    run_of,
    runs,
    where,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp import ConfigError, HookedTransformer, ShapeError, TokenError, TransformerConfig, Vocabulary
from interp.model import KVCache


def must_not_run(*args: object) -> Tensor:
    raise AssertionError("this part of the model must not run")


def streams(run: Run) -> list[Tensor]:
    """The stream that enters each block, and the one that leaves the last."""
    with torch.no_grad():
        _, cache = run.model.run_with_cache(run.tokens, names_filter="blocks.*.hook_resid_*")
    return [*(cache["resid_pre", layer] for layer in range(run.cfg.n_layers)), cache["resid_post", -1]]


# ---------------------------------------------------------------------------------------------- the whole


def test_logits_equal_a_reference_written_in_loops(run: Run):
    for sequence, logits in zip(run.tokens, run.logits, strict=True):
        assert_close(logits, reference_logits(run.model, sequence))


@given(runs())
@settings(max_examples=50)
def test_logits_of_random_architectures_equal_a_reference_written_in_loops(run: Run):
    assert_close(run.logits[0], reference_logits(run.model, run.tokens[0]))


def test_float32_logits_equal_the_reference_to_float32_rounding(run: Run):
    model = build(config(run.fields, dtype=torch.float32), run.seed)
    assert_close(model(run.tokens)[0].double(), reference_logits(run.model, run.tokens[0]), atol=1e-5)


def test_bfloat16_logits_stay_near_the_reference(run: Run):
    model = build(config(run.fields, dtype=torch.bfloat16), run.seed)
    assert_close(model(run.tokens)[0].double(), reference_logits(run.model, run.tokens[0]), atol=0.15)


@where(lambda cfg: cfg.positional_embedding_type in ("rotary", "standard"))
def test_a_model_converted_to_float64_computes_in_float64(run: Run):
    model = build(config(run.fields, dtype=torch.float32), run.seed).to(torch.float64)
    assert_close(model(run.tokens)[0], reference_logits(model, run.tokens[0]))


@where(lambda cfg: cfg.attn_scores_soft_cap is None)
def test_fused_attention_gives_the_logits_of_attention_written_out(run: Run):
    eager, fused = (build(config(run.fields, attn_implementation=kind), run.seed) for kind in ("eager", "sdpa"))
    assert_close(fused(run.tokens), eager(run.tokens))


def test_a_fused_block_whose_pattern_is_observed_gives_the_same_logits():
    run = run_of("sdpa_rotary_grouped_window")
    logits, cache = run.model.run_with_cache(run.tokens, names_filter=("pattern", 1))
    assert list(cache) == ["blocks.1.attn.hook_pattern"]
    assert_close(logits, run.logits)


def test_sequences_of_a_batch_do_not_see_each_other(run: Run):
    assert_close(run.model(run.tokens[1:2]), run.logits[1:2])


@where(lambda cfg: cfg.attention_dir == "causal")
def test_a_causal_model_does_not_look_ahead(run: Run):
    changed = run.tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % run.cfg.d_vocab
    assert_close(run.model(changed)[:, :-1], run.logits[:, :-1])


@where(lambda cfg: cfg.attention_dir == "bidirectional")
def test_a_bidirectional_model_looks_ahead(run: Run):
    changed = run.tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % run.cfg.d_vocab
    assert (run.model(changed)[:, 0] - run.logits[:, 0]).abs().max() > 1e-4


def test_one_sequence_without_a_batch_axis_is_a_batch_of_one(run: Run):
    assert torch.equal(run.model(run.tokens[0]), run.model(run.tokens[:1]))


def test_a_model_without_blocks_maps_each_token_to_its_successors():
    model = build(config(SMALL, n_layers=0, normalization_type=None), SEED)
    tokens = random_tokens(model.cfg, SEED)
    want = (model.W_E[tokens] + model.W_pos[: tokens.shape[1]]) @ model.W_U + model.b_U
    assert_close(model(tokens), want)


def test_a_copy_of_a_model_is_independent_of_the_original(run: Run):
    model = run.fresh_model()
    twin = copy.deepcopy(model)
    before = model(run.tokens)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(model(run.tokens), before)


# ---------------------------------------------------------------------------------------------- padding


@settings(max_examples=40)
@given(runs(), st.data())
def test_left_padded_sequences_give_the_logits_of_the_unpadded_ones(run: Run, data: st.DataObject):
    n_pos = run.tokens.shape[1]
    padding = data.draw(st.lists(st.integers(0, n_pos - 1), min_size=3, max_size=3))
    mask = torch.arange(n_pos) >= torch.tensor(padding)[:, None]
    padded = run.model(run.tokens, attention_mask=mask)
    for row, start in enumerate(padding):
        assert_close(padded[row, start:], run.model(run.tokens[row, start:])[0])


def test_left_padding_changes_nothing_in_any_configuration_of_the_grid(run: Run):
    n_pos = run.tokens.shape[1]
    mask = torch.arange(n_pos) >= torch.tensor([0, 2, n_pos - 1])[:, None]
    padded = run.model(run.tokens, attention_mask=mask.long())
    for row, start in enumerate((0, 2, n_pos - 1)):
        assert_close(padded[row, start:], run.model(run.tokens[row, start:])[0])


def test_right_padding_changes_nothing_for_the_tokens_before_it(run: Run):
    mask = torch.arange(run.tokens.shape[1]) < torch.tensor([5, 3, 1])[:, None]
    padded = run.model(run.tokens, attention_mask=mask)
    for row, stop in enumerate((5, 3, 1)):
        assert_close(padded[row, :stop], run.model(run.tokens[row, :stop])[0])


def test_padding_is_attended_to_by_no_token(run: Run):
    mask = torch.arange(run.tokens.shape[1]) >= torch.tensor([0, 2, 4])[:, None]
    _, cache = run.model.run_with_cache(run.tokens, attention_mask=mask)
    assert cache["pattern", -1][1, :, 2:, :2].abs().max() == 0


def test_a_mask_without_padding_changes_no_bit(run: Run):
    assert torch.equal(run.model(run.tokens, attention_mask=torch.ones_like(run.tokens)), run.logits)


def test_a_padded_run_can_be_resumed_at_a_layer(run: Run):
    mask = torch.arange(run.tokens.shape[1]) >= torch.tensor([0, 2, 4])[:, None]
    stream = run.model(run.tokens, stop_at_layer=1, attention_mask=mask)
    resumed = run.model(stream, start_at_layer=1, attention_mask=mask)
    assert torch.equal(resumed, run.model(run.tokens, attention_mask=mask))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(3, 4), r"\(3, 4\).* has \(3, 7\)"),
        (torch.ones(7), r"\(7,\).* has \(3, 7\)"),
        (torch.full((3, 7), 2), "nothing else"),
        (torch.full((3, 7), -1.0), "nothing else"),
        (torch.arange(3)[:, None].expand(3, 7).clamp(max=1), "sequence 0 is padding only"),
    ],
)
def test_a_bad_attention_mask_is_an_error_that_says_what_is_wrong(mask: Tensor, message: str):
    run = run_of("learned_ln")
    with pytest.raises(ShapeError, match=message):
        run.model(run.tokens, attention_mask=mask)


def test_an_attention_mask_on_another_device_is_an_error():
    run = run_of("learned_ln")
    with pytest.raises(ShapeError, match="on meta; the input has"):
        run.model(run.tokens, attention_mask=torch.ones(3, 7, device="meta"))


# ---------------------------------------------------------------------------------------------- layers between


@pytest.mark.parametrize("layer", [0, 1, 3, -1])
def test_starting_at_a_layers_input_gives_the_logits(run: Run, layer: int):
    stream = streams(run)[layer - (layer < 0)]
    assert torch.equal(run.model(stream, start_at_layer=layer), run.logits)


@pytest.mark.parametrize("layer", [0, 1, 3, -1])
def test_stopping_at_a_layer_returns_its_input(run: Run, layer: int):
    stream = streams(run)[layer - (layer < 0)]
    assert torch.equal(run.model(run.tokens, stop_at_layer=layer), stream)


def test_the_blocks_between_two_layers_map_the_first_ones_input_to_the_seconds(run: Run):
    stream = streams(run)
    assert torch.equal(run.model(stream[1], start_at_layer=1, stop_at_layer=-1), stream[2])


def test_no_block_before_the_start_runs(run: Run, monkeypatch: pytest.MonkeyPatch):
    stream = streams(run)[2]
    for part in (run.model.embed, *run.model.blocks[:2]):
        monkeypatch.setattr(part, "forward", must_not_run)
    assert torch.equal(run.model(stream, start_at_layer=2), run.logits)


def test_nothing_after_the_stop_runs(run: Run, monkeypatch: pytest.MonkeyPatch):
    want = streams(run)[1]
    for part in (*run.model.blocks[1:], run.model.ln_final, run.model.unembed):
        monkeypatch.setattr(part, "forward", must_not_run)
    assert torch.equal(run.model(run.tokens, stop_at_layer=1), want)


@pytest.mark.parametrize("layer", [4, -4])
@pytest.mark.parametrize("which", ["start_at_layer", "stop_at_layer"])
def test_a_layer_out_of_range_is_an_error_that_gives_the_range(which: str, layer: int):
    run = run_of("learned_ln")
    with pytest.raises(ConfigError, match=f"{which} = {layer}; allowed: -3 to 3"):
        run.model(run.tokens if which == "stop_at_layer" else streams(run)[0], **{which: layer})


def test_stopping_before_the_start_is_an_error():
    run = run_of("learned_ln")
    with pytest.raises(ConfigError, match="start_at_layer = 2 comes after stop_at_layer = -2"):
        run.model(streams(run)[2], start_at_layer=2, stop_at_layer=-2)


@pytest.mark.parametrize("return_type", ["loss", "both"])
@pytest.mark.parametrize("which", ["start_at_layer", "stop_at_layer"])
def test_a_loss_of_some_layers_only_is_an_error(which: str, return_type: str):
    run = run_of("learned_ln")
    with pytest.raises(ConfigError, match=f"return_type = '{return_type}' needs tokens and logits"):
        run.model(streams(run)[1] if which == "start_at_layer" else run.tokens, return_type, **{which: 1})


@pytest.mark.parametrize(
    "stream",
    [
        torch.zeros(3, 7, 23, dtype=torch.float64),
        torch.zeros(7, 24, dtype=torch.float64),
        torch.zeros(3, 7, 24),
        torch.zeros(3, 0, 24, dtype=torch.float64),
        torch.zeros(3, 9, 24, dtype=torch.float64),
        torch.zeros(3, 7, dtype=torch.long),
        "text",
    ],
    ids=["width", "no batch", "dtype", "empty", "too long", "tokens", "text"],
)
def test_start_at_layer_takes_a_residual_stream_and_nothing_else(stream: Tensor | str):
    with pytest.raises(ShapeError, match=r"start_at_layer takes the residual stream \[batch, pos, 24\]"):
        run_of("learned_ln").model(stream, start_at_layer=1)


# ---------------------------------------------------------------------------------------------- what is returned


@where(lambda cfg: cfg.predicts_next_token)
def test_the_loss_is_the_mean_cross_entropy_of_the_next_token(run: Run):
    want = F.cross_entropy(run.logits[:, :-1].flatten(0, 1), run.tokens[:, 1:].flatten())
    assert_close(run.model(run.tokens, "loss"), want)


@where(lambda cfg: cfg.predicts_next_token)
def test_the_loss_per_token_has_one_entry_for_each_predicted_token(run: Run):
    per_token = run.model(run.tokens, "loss", loss_per_token=True)
    want = [
        [-run.logits[b, p].log_softmax(-1)[run.tokens[b, p + 1]] for p in range(run.tokens.shape[1] - 1)]
        for b in range(len(run.tokens))
    ]
    assert_close(per_token, torch.tensor(want, dtype=per_token.dtype))


@where(lambda cfg: cfg.predicts_next_token)
def test_both_are_the_logits_and_the_loss(run: Run):
    logits, loss = run.model(run.tokens, "both")
    assert torch.equal(logits, run.logits)
    assert torch.equal(loss, run.model(run.tokens, "loss"))


@where(lambda cfg: cfg.predicts_next_token)
def test_padding_neither_predicts_nor_is_predicted(run: Run):
    mask = torch.arange(run.tokens.shape[1]) >= torch.tensor([0, 2, 4])[:, None]
    per_token = run.model(run.tokens, "loss", loss_per_token=True, attention_mask=mask)
    alone = [run.model(run.tokens[b, start:], "loss", loss_per_token=True)[0] for b, start in enumerate((0, 2, 4))]
    assert_close(per_token, torch.stack([F.pad(row, (start, 0)) for row, start in zip(alone, (0, 2, 4), strict=True)]))
    assert_close(run.model(run.tokens, "loss", attention_mask=mask), torch.cat(alone).mean())


def test_return_type_none_computes_no_logits(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run.model.unembed, "forward", must_not_run)
    assert run.model(run.tokens, None) is None


def test_the_loss_of_a_single_token_is_an_error():
    with pytest.raises(TokenError, match="at least two tokens"):
        run_of("learned_ln").model(torch.tensor([1]), "loss")


def test_a_loss_without_any_pair_of_tokens_is_an_error_and_not_nan():
    run = run_of("learned_ln")
    mask = torch.arange(run.tokens.shape[1]).expand(3, -1) == run.tokens.shape[1] - 1
    with pytest.raises(TokenError):
        run.model(run.tokens, "loss", attention_mask=mask)


@pytest.mark.parametrize("return_type", ["logits", None])
def test_a_loss_per_token_without_a_loss_is_an_error(return_type: Any):
    with pytest.raises(ConfigError, match="loss_per_token = True contradicts return_type"):
        run_of("learned_ln").model(torch.tensor([1, 2]), return_type, loss_per_token=True)


def test_an_unknown_return_type_is_an_error_that_lists_the_known_ones(as_installed: None):
    with pytest.raises(ConfigError, match="'logit'; allowed: 'logits', 'loss', 'both', "):
        run_of("learned_ln").model(torch.tensor([1, 2]), "logit")


# ---------------------------------------------------------------------------------------------- construction


@pytest.mark.parametrize("name", GRID)
def test_a_seed_makes_the_initial_weights_repeatable(name: str):
    cfg = config(GRID[name], seed=SEED)
    first, second = (HookedTransformer(cfg).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_another_seed_makes_other_weights():
    first, second = (HookedTransformer(TransformerConfig(**SMALL, seed=seed)) for seed in (SEED, SEED + 1))
    assert not torch.equal(first.W_E, second.W_E)


def test_a_seed_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    HookedTransformer(TransformerConfig(**SMALL, seed=SEED))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_the_global_generator_decides():
    models = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            models.append(HookedTransformer(TransformerConfig(**SMALL)))
    assert torch.equal(models[0].W_E, models[1].W_E)


def test_a_seed_means_the_same_model_in_every_dtype():
    models = [
        HookedTransformer(TransformerConfig(**SMALL, seed=SEED, dtype=dtype))
        for dtype in (torch.float32, torch.float64)
    ]
    assert torch.equal(models[0].W_Q.double(), models[1].W_Q)


def test_initial_weights_have_the_configured_spread_and_biases_are_zero():
    cfg = TransformerConfig(n_layers=1, d_model=64, n_heads=4, n_ctx=4, d_vocab=1000, init_std=0.5, seed=1)
    for name, parameter in HookedTransformer(cfg).named_parameters():
        kind = name.rsplit(".", 1)[1]
        if kind == "w":
            assert (parameter == 1).all(), name
        elif kind.startswith("b"):
            assert (parameter == 0).all(), name
        else:
            assert abs(parameter.std().item() / 0.5 - 1) < 0.15, name


@pytest.mark.parametrize("name", GRID)
def test_a_model_on_the_meta_device_has_shapes_and_no_storage(name: str):
    run = run_of(name)
    model = HookedTransformer(run.cfg, device="meta")
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    ids, mask = run.tokens.to("meta"), torch.ones(run.tokens.shape, device="meta")
    assert model(ids).shape == run.logits.shape
    logits, cache = model.run_with_cache(ids, attention_mask=mask)
    assert logits.shape == run.logits.shape
    assert {name: value.shape for name, value in cache.items()} == {n: value.shape for n, value in run.cache.items()}
    if model.cfg.predicts_next_token:
        pieces = KVCache(model.cfg.n_layers)
        parts = [model(ids[:, at], kv_cache=pieces, attention_mask=mask[:, at]) for at in (slice(3), slice(3, None))]
        assert torch.cat(parts, dim=1).shape == run.logits.shape
        assert model(ids, "loss", attention_mask=mask).shape == ()


def test_tokens_on_another_device_than_the_model_are_an_error():
    run = run_of("learned_ln")
    with pytest.raises(ShapeError, match="tokens are on meta, the model on cpu"):
        run.model(run.tokens.to("meta"))


def test_a_vocabulary_larger_than_the_model_is_an_error():
    with pytest.raises(ConfigError, match="d_vocab = 11 is too small for a vocabulary of 12 words"):
        HookedTransformer(TransformerConfig(**SMALL), Vocabulary("abcdefghijkl"))
