"""Closed forms of what encoders have: relative positions, token types, a masked-token head, no unembedding."""

from typing import Any

import numpy as np
import pytest
import torch
from grid import (
    GRID,
    RELATIVE,
    SEED,
    SMALL,
    assert_close,
    build,
    config,
    random_tokens,
    reference_bucket,
    reference_logits,
    reference_stream,
    run_of,
)
from torch import Tensor

from interp import ConfigError, HookedTransformer, ShapeError, TokenError
from interp.lens import direct_attribution
from interp.model import KVCache
from interp.text import MaskedTokens

NO_UNEMBED: dict[str, Any] = RELATIVE | {
    "attention_dir": "bidirectional",
    "n_key_value_heads": 2,
    "attn_implementation": "sdpa",
    "d_vocab_out": 0,
    "dtype": torch.float64,
}


def tables_changed(model: HookedTransformer, change: Any) -> HookedTransformer:
    with torch.no_grad():
        change(model.rel_bias.W_rel)
    return model


# ---------------------------------------------------------------------------------------------- relative positions


def test_distances_fall_into_the_published_buckets():
    for direction, wanted in (
        ("causal", {0: 0, -1: 1, 5: 0, -15: 15, -16: 16, -32: 21, -64: 26, -113: 31, -500: 31}),
        ("bidirectional", {0: 0, -7: 7, -8: 8, -500: 15, 1: 17, 7: 23, 8: 24, 500: 31}),
    ):
        fields: Any = {"attention_dir": direction, "positional_embedding_type": "relative"}
        model = HookedTransformer(config(SMALL, **fields))
        found = model.rel_bias.buckets(torch.tensor(list(wanted)))
        assert found.tolist() == list(wanted.values())
        distances = [d for d in range(-140, 140) if abs(d) not in (8, 16, 32, 64)]  # there a logarithm is whole
        assert model.rel_bias.buckets(torch.tensor(distances)).tolist() == [
            reference_bucket(model.cfg, distance) for distance in distances
        ]


def test_a_constant_added_to_the_biases_of_a_head_changes_no_pattern():
    for name in ("relative_rms", "relative_bidirectional_grouped"):
        run = run_of(name)
        model = tables_changed(run.fresh_model(), lambda table: table[:, 2].add_(3.7))
        _, cache = model.run_with_cache(run.tokens)
        for layer in range(run.cfg.n_layers):
            assert_close(cache["pattern", layer], run.cache["pattern", layer])


def test_without_biases_an_encoder_does_not_see_the_order():
    run = run_of("relative_bidirectional_grouped")
    model, order = tables_changed(run.fresh_model(), lambda table: table.zero_()), [3, 0, 6, 1, 5, 2, 4]
    assert_close(model(run.tokens[:, order]), model(run.tokens)[:, order])
    assert (run.model(run.tokens[:, order]) - run.logits[:, order]).abs().max() > 1e-3


# ---------------------------------------------------------------------------------------------- token types


@torch.no_grad()
def test_types_that_are_not_given_are_all_0_and_others_choose_rows_of_their_table():
    run = run_of("bert_like")
    for zeros in (torch.zeros_like(run.tokens), np.zeros(run.tokens.shape, dtype=np.int32), run.tokens * 0):
        assert torch.equal(run.model(run.tokens, token_types=zeros), run.logits)
    types = run.tokens % 2
    for row, logits in enumerate(run.model(run.tokens, token_types=types)):
        assert_close(logits, reference_logits(run.model, run.tokens[row], token_types=types[row]))
    prompts = run.model.masked_tokens(run.tokens, token_types=types)
    for way in (
        run.model.run_with_cache(run.tokens, token_types=types)[0],
        run.model.run_with_hooks(run.tokens, token_types=types),
        run.model(prompts),
    ):
        assert torch.equal(way, run.model(run.tokens, token_types=types))
    assert torch.equal(run.model(prompts[1:]), run.model(run.tokens[1:], token_types=types[1:]))


def test_types_that_do_not_fit_are_errors_that_say_what_is_wrong():
    run, without = run_of("bert_like"), run_of("learned_ln")
    cases: list[tuple[Any, type[Exception], str]] = [
        (run.tokens * 0 + 2, TokenError, "type 2 at batch 0, pos 0; allowed: 0 to 1"),
        (run.tokens * 0 - 1, TokenError, "type -1 at batch 0, pos 0"),
        (run.tokens[:, 1:] * 0, ShapeError, r"\(3, 6\).*the tokens have \(3, 7\)"),
        (run.tokens * 0.0, TokenError, "integers, not torch.float"),
        (run.tokens > 2, TokenError, "integers, not torch.bool"),
        (run.tokens.to("meta") * 0, ShapeError, "on meta; the tokens have"),
    ]
    for types, error, message in cases:
        with pytest.raises(error, match=message):
            run.model(run.tokens, token_types=types)
    with pytest.raises(ConfigError, match="n_token_types = 0, so its tokens have no types"):
        without.model(without.tokens, token_types=without.tokens * 0)
    with pytest.raises(ConfigError, match="they exclude start_at_layer"):
        run.model(run.cache["resid_pre", 1], start_at_layer=1, token_types=run.tokens * 0)


@pytest.mark.usefixtures("as_installed")
def test_what_another_model_made_of_a_text_is_checked_as_ids_are():
    model, ids = run_of("bert_like").model, torch.tensor([[1, 2, 3], [4, 5, 6]])
    other = build(config(SMALL, d_vocab=30, n_ctx=20, n_token_types=3), SEED)
    for prompts, error, message in (
        (other.masked_tokens([[1, 2, 20]]), TokenError, "token 20 at batch 0, pos 2; allowed: 0 to 10"),
        (other.masked_tokens([list(range(9))]), TokenError, "9 tokens is longer than the context"),
        (other.masked_tokens(ids, None, ids * 0 + 2), TokenError, "type 2 at batch 0, pos 0; allowed: 0 to 1"),
        (MaskedTokens(ids, torch.zeros(2, 3, dtype=torch.bool)), ShapeError, "sequence 0 is padding only"),
        (MaskedTokens(ids, torch.ones(1, 3, dtype=torch.bool)), ShapeError, r"attention_mask has shape \(1, 3\)"),
        (MaskedTokens(ids * 0.5), TokenError, "token ids are integers"),
    ):
        for run in (model, model.run_with_cache, model.masked_tokens):
            with pytest.raises(error, match=message):
                run(prompts)
    without = run_of("modernbert_like").model
    with pytest.raises(ConfigError, match="n_token_types = 0, so its tokens have no types"):
        without(model.masked_tokens(ids, None, ids % 2))
    assert torch.equal(model(other.masked_tokens(ids, None, ids % 2)), model(ids, token_types=ids % 2))


# ---------------------------------------------------------------------------------------------- read-outs


def test_the_neurons_of_a_masked_token_head_and_biases_sum_to_the_logit_and_components_are_refused():
    for name in ("bert_like", "modernbert_like"):
        run = run_of(name)
        for correct, incorrect in ((3, None), (run.tokens, 5)):
            found = direct_attribution(run.cache, correct, incorrect, by="mlm_neuron")
            ids = torch.as_tensor(correct).expand(run.tokens.shape)
            want = run.logits.gather(-1, ids[..., None])[..., 0] - (0 if incorrect is None else run.logits[..., 5])
            assert found.sizes["neuron"] == run.cfg.d_model
            total = found.attribution.sum("neuron") + found.rest.sum("component")
            assert_close(torch.tensor(total.values), want)
        for by in ("component", "head", "neuron", "position"):
            with pytest.raises(ConfigError, match="by='mlm_neuron'"):
                direct_attribution(run.cache, 3, by=by)
        with pytest.raises(ConfigError, match=r"interp\.patching\.sweep"):
            run.cache.logit_attrs(run.cache.decompose_resid(), 3)
    with pytest.raises(ConfigError, match="no masked-token head"):
        direct_attribution(run_of("learned_ln").cache, 3, by="mlm_neuron")


@torch.no_grad()
def test_a_model_without_an_unembedding_is_read_at_its_last_stream():
    model = build(config(SMALL, **NO_UNEMBED), SEED)
    tokens = random_tokens(model.cfg, SEED)
    output, cache = model.run_with_cache(tokens, None)
    assert output is None and not any("unembed" in name for name, _ in model.named_modules())
    for row, sequence in enumerate(tokens):
        assert_close(cache["ln_final.hook_normalized"][row], reference_stream(model, sequence))
    assert_close(model(tokens, stop_at_layer=3), cache["resid_post", -1])
    assert_close(cache.get_full_resid_decomposition().values.sum(0), cache["resid_post", -1])
    assert_close(cache.decompose_resid(apply_ln=True).values.sum(0), cache["ln_final.hook_normalized"])


def test_what_needs_logits_is_refused_without_an_unembedding():
    model = build(config(SMALL, **NO_UNEMBED), SEED)
    tokens = random_tokens(model.cfg, SEED)
    _, cache = model.run_with_cache(tokens, None)
    calls: list[Any] = [
        lambda: model(tokens),
        lambda: model(tokens, "loss"),
        lambda: model.W_U,
        lambda: model.b_U,
        lambda: cache.logit_attrs(cache.decompose_resid(), 3),
        lambda: direct_attribution(cache, 3),
        lambda: model.run_with_cache(tokens, None, gradient_of="loss"),
        lambda: model.generate(tokens, 2),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="no unembedding"):
            call()


def test_an_encoder_refuses_the_loss_of_next_tokens_and_keys_kept_between_runs():
    for name in ("bert_like", "modernbert_like", "relative_bidirectional_grouped"):
        run = run_of(name)
        for call in (
            lambda run=run: run.model(run.tokens, "loss"),
            lambda run=run: run.model(run.tokens, "both"),
            lambda run=run: run.model.run_with_cache(run.tokens, incl_bwd=True),
            lambda run=run: run.model.generate(run.tokens[:, :2], 2),
        ):
            with pytest.raises(ConfigError, match=r"each position has seen the next one; .*MaskedTokenLoss"):
                call()
        with pytest.raises(ConfigError, match="kv_cache needs attention_dir = 'causal'"):
            run.model(run.tokens, kv_cache=KVCache(run.cfg.n_layers))


@torch.no_grad()
def test_windows_of_an_encoder_are_symmetric():
    cfg = config(GRID["modernbert_like"], window_size=(2, 2, 2), n_ctx=9)
    model = build(cfg, SEED)
    tokens = random_tokens(cfg, SEED, n_pos=9)
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % cfg.d_vocab
    _, cache = model.run_with_cache(tokens)
    before, after = model(tokens), model(changed)
    reached: Tensor = (before != after).any(-1).all(0)
    assert reached.tolist() == [False, True, True, True, True, True, True, True, False]  # three layers, one step each
    assert ((cache["pattern", 0] > 0) == ((torch.arange(9)[:, None] - torch.arange(9)).abs() < 2)).all()
