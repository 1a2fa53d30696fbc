"""Path expansion: the terms of a run's stream, logits and scores sum to them, in every architecture."""

from typing import Any

import pytest
import torch
from grid import (
    SEED,
    SMALL,
    Run,
    assert_close,
    build,
    config,
    random_tensor,
    random_tokens,
    run_of,
    runs,
    splits_logits,
    where,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp import ActivationCache, CacheError, ConfigError, HookNotFoundError, HookPoint, TokenError, Vocabulary
from interp.lens import count_paths, expand_logits, expand_scores, expand_stream


def scores_of(run: Run, layer: int, head: int, cache: Any = None) -> tuple[Tensor, Tensor]:
    """The cached scores where the mask lets them be seen, and what the paths sum to there."""
    cache = run.cache if cache is None else cache
    cached, terms = cache["attn_scores", layer][:, head], expand_scores(cache, layer, head, max_terms=20_000)
    total = torch.tensor(terms.sum(("query_path", "key_path")).values)
    if cap := run.cfg.attn_scores_soft_cap:
        total = cap * torch.tanh(total / cap)
    return cached[cached.isfinite()], total[cached.isfinite()]


# ---------------------------------------------------------------------------------------------- exact sums


def test_paths_sum_to_the_stream_that_enters_every_layer(run: Run):
    streams = [run.cache["resid_pre", layer] for layer in range(3)] + [run.cache["resid_post", 2]]
    for layer, stream in enumerate(streams):
        for max_length in (None, layer // 2):
            assert_close(expand_stream(run.cache, layer, max_length).values.sum(0), stream, atol=1e-14)


@pytest.mark.parametrize("max_length", [0, 1])
@where(splits_logits)
def test_short_paths_and_the_longer_ones_sum_to_the_logit(run: Run, max_length: int):
    paths = expand_logits(run.cache, run.tokens, max_length=max_length)
    whole = run.cache.logit_attrs(run.cache.decompose_resid(), run.tokens)
    assert_close(paths.values.sum(0), whole.values.sum(0), atol=1e-14)


@where(splits_logits)
def test_paths_sum_to_the_logits_themselves_before_any_cap(run: Run):
    got, cap = expand_logits(run.cache, 7).values.sum(0), run.cfg.output_logits_soft_cap
    assert_close(got if cap is None else cap * torch.tanh(got / cap), run.logits[..., 7], atol=1e-14)


@where(splits_logits)
def test_paths_to_a_difference_of_logits_are_differences(run: Run):
    pair, one, other = (
        expand_logits(run.cache, *tokens, max_length=1) for tokens in ((3, run.tokens), (3,), (run.tokens,))
    )
    assert_close(pair.values, one.values - other.values)


def test_pairs_of_paths_sum_to_the_scores(run: Run):
    for layer, head in ((0, 2), (1, 0), (2, 3)):
        cached, total = scores_of(run, layer, head)
        assert_close(total, cached, atol=1e-13)


@pytest.mark.parametrize("max_length", [0, 1])
def test_short_pairs_and_the_longer_ones_sum_to_the_scores(run: Run, max_length: int):
    short = expand_scores(run.cache, -1, -1, max_length)
    whole = expand_scores(run.cache, 2, 3, 2, max_terms=20_000)
    assert whole.shape[0] > short.shape[0]
    for terms in (short, whole):
        total = torch.tensor(terms.sum(("query_path", "key_path")).values)
        assert_close(total, torch.tensor(short.sum(("query_path", "key_path")).values), atol=1e-13)


@given(runs(), st.integers(0, 2))
def test_paths_through_random_architectures_are_exact(run: Run, max_length: int):
    paths = expand_stream(run.cache, max_length=max_length)
    assert_close(paths.values.sum(0), run.cache["resid_post", -1], atol=1e-13)
    cached, total = scores_of(run, run.cfg.n_layers - 1, 0)
    assert_close(total, cached, atol=1e-12)


# ---------------------------------------------------------------------------------------------- what the terms are


@where(lambda cfg: cfg.norm_position != "post")
def test_the_paths_of_a_head_sum_to_what_it_writes(run: Run):
    paths, whole = expand_stream(run.cache), run.cache.get_full_resid_decomposition(expand_neurons=False)
    for name in ("L0H1", "L1H0", "L2H3"):
        through = [row for label, row in paths if label.endswith(f"-> {name}")]
        assert_close(torch.stack(through).sum(0), whole[name])


@where(lambda cfg: cfg.norm_position != "post")
def test_the_direct_paths_are_the_sources(run: Run):
    paths, whole = expand_stream(run.cache), run.cache.decompose_resid()
    for label in paths.labels:
        if label != "bias" and "->" not in label:
            assert torch.equal(paths[label], whole[label])


@where(lambda cfg: cfg.attn_only and cfg.normalization_type is None)
def test_a_virtual_head_is_the_product_of_two_patterns_and_two_circuits(run: Run):
    model, cache = run.model, run.cache
    first, second = cache["pattern", 0][:, 1], cache["pattern", 2][:, 3]
    circuit = (model.OV[0, 1] @ model.OV[2, 3]).dense()
    want = second @ first @ cache["hook_embed"] @ circuit
    assert_close(expand_stream(cache)["embed -> L0H1 -> L2H3"], want)


@where(lambda cfg: cfg.attn_only and cfg.normalization_type is None)
def test_a_term_of_k_composition_is_the_product_of_both_circuits(run: Run):
    model, cache = run.model, run.cache
    embed = cache["hook_embed"]
    written = cache["pattern", 0][:, 1] @ embed @ model.OV[0, 1].dense()
    term = expand_scores(cache, 1, 2).sel(query_path="embed", key_path="embed -> L0H1")
    assert_close(torch.tensor(term.values), embed @ model.QK[1, 2].dense() @ written.mT)


def test_labels_are_unique_and_as_many_as_counted(run: Run):
    for layer, max_length in ((0, None), (2, 0), (2, None), (3, 1), (3, 3)):
        labels = expand_stream(run.cache, layer, max_length).labels
        assert len(set(labels)) == len(labels) == count_paths(run.cfg, layer, max_length)


def test_shorter_chains_come_first_and_the_rest_is_one_row(plain: Run):
    labels = expand_stream(plain.cache, 2, 1).labels
    assert labels[:6] == ["embed", "pos_embed", "bias", "0_mlp_out", "1_mlp_out", "embed -> L0H0"]
    assert labels[-1] == "longer"
    assert [label.count("->") for label in labels[:-1]] == [0] * 5 + [1] * (4 * 3 + 4 * 4)


def test_the_row_of_longer_chains_is_the_sum_of_those_chains(run: Run):
    paths, short = expand_stream(run.cache), expand_stream(run.cache, max_length=1)
    longer = torch.stack([row for label, row in paths if label.count("->") > 1]).sum(0)
    assert_close(short["longer"], longer)
    for label, row in short:
        if label != "longer":
            assert_close(row, paths[label])


def test_a_model_without_blocks_has_direct_paths_only():
    run = Run(SMALL | {"n_layers": 0, "dtype": torch.float64}, SEED)
    paths = expand_logits(run.cache, 4)
    assert paths.labels == ["embed", "pos_embed", "bias", "ln_final_bias", "unembed_bias"]
    assert_close(paths.values.sum(0), run.logits[..., 4])


def test_answers_may_be_words_and_rows_are_found_by_path():
    model = build(config(SMALL), SEED, Vocabulary("abcdefghijk"))
    _, cache = model.run_with_cache("abcab")
    assert torch.equal(expand_logits(cache, "c")["embed -> L0H1"], expand_logits(cache, 2)["embed -> L0H1"])
    with pytest.raises(HookNotFoundError, match="did you mean 'embed -> L0H1'"):
        _ = expand_logits(cache, "c")["embed->L0H1"]


def test_nothing_about_the_run_is_changed(run: Run):
    before = {name: value.clone() for name, value in run.cache.items()}
    if splits_logits(run.cfg):
        expand_logits(run.cache, 1)
    expand_stream(run.cache)
    expand_scores(run.cache, 2, 0, max_terms=20_000)
    assert all(torch.equal(run.cache[name], value) for name, value in before.items())


def test_scores_carry_their_definition_and_the_hash_of_the_model(plain: Run):
    scores = expand_scores(plain.cache, 1, -1, 0)
    assert scores.dims == ("query_path", "key_path", "prompt", "query_pos", "key_pos")
    assert scores.name == "L1H3 scores"
    assert scores.attrs["model"] == plain.model.weights_hash()


# ---------------------------------------------------------------------------------------------- unusual runs


@pytest.mark.parametrize("name", ["learned_ln", "rotary_rms_gated_grouped", "post_rms_gated_grouped", "gemma_like"])
def test_runs_with_padding_are_exact(name: str):
    run = run_of(name)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7, [0, 1, 1, 1, 1, 1, 1]])
    _, cache = run.model.run_with_cache(run.tokens, attention_mask=mask)
    assert_close(expand_stream(cache).values.sum(0), cache["resid_post", -1], atol=1e-13)
    terms = expand_scores(cache, 2, 1, 0)
    cached, cap = cache["attn_scores", 2][:, 1], run.cfg.attn_scores_soft_cap
    assert cap is None
    total = torch.tensor(terms.sum(("query_path", "key_path")).values)
    assert_close(total[cached.isfinite()], cached[cached.isfinite()], atol=1e-12)


def test_rotary_runs_with_holes_in_their_mask_are_exact():
    run = run_of("partial_rotary_parallel")
    mask = torch.tensor([[1, 1, 0, 1, 1, 0, 1], [1] * 7, [1] * 7])
    _, cache = run.model.run_with_cache(run.tokens, attention_mask=mask)
    terms, cached = expand_scores(cache, 1, 0), cache["attn_scores", 1][:, 0]
    total = torch.tensor(terms.sum(("query_path", "key_path")).values)
    assert_close(total[cached.isfinite()], cached[cached.isfinite()], atol=1e-12)


def test_cached_scores_that_are_not_the_sum_of_the_terms_are_refused():
    run = run_of("partial_rotary_parallel")
    _, cache = run.model.run_with_cache(run.tokens)
    wrong = ActivationCache({**cache, "blocks.1.attn.hook_attn_scores": 2 * cache["attn_scores", 1]}, run.model)
    with pytest.raises(CacheError, match="the terms do not sum to the scores in the cache"):
        expand_scores(wrong, 1, 0)


@pytest.mark.parametrize(
    "name", ["hook_embed", ("attn_out", 0), ("z", 1), ("q", 2), ("resid_pre", 2), ("k", 2)], ids=str
)
def test_in_edited_runs_a_row_holds_what_the_paths_do_not_account_for(run: Run, name: Any):
    def add(act: Tensor, hook: HookPoint) -> Tensor:
        return act + random_tensor(act.shape[-1])

    with run.model.hooks([(name, add)]):
        _, cache = run.model.run_with_cache(run.tokens)
    paths = expand_stream(cache)
    assert paths.labels[-1] == "edits"
    assert_close(paths.values.sum(0), cache["resid_post", 2], atol=1e-13)
    cached, total = scores_of(run, 2, 1, cache)
    assert_close(total, cached, atol=1e-12)


def test_what_an_edit_adds_to_the_stream_is_the_row_edits():
    run = run_of("bidirectional_attn_only_no_norm")
    shift = random_tensor(run.cfg.d_model)
    with run.model.hooks([(("attn_out", 2), lambda act, hook: act + shift)]):
        _, cache = run.model.run_with_cache(run.tokens)
    assert_close(expand_stream(cache)["edits"], shift.expand(3, 7, -1))


def test_single_precision_is_exact_to_its_digits():
    run = Run(SMALL, SEED)
    assert_close(expand_stream(run.cache).values.sum(0), run.cache["resid_post", 2], atol=3e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_runs_are_expanded_too(dtype: torch.dtype):
    run = Run(SMALL | {"dtype": dtype}, SEED)
    assert_close(expand_stream(run.cache).values.sum(0).double(), run.cache["resid_post", 2].double(), atol=0.1)
    assert expand_scores(run.cache, 1, 0).dtype == "float32"


# ---------------------------------------------------------------------------------------------- errors


def test_too_many_terms_are_refused_before_any_work(plain: Run):
    with pytest.raises(ConfigError, match=r"None makes 406 terms, above max_terms = 100; max_length = 1 makes 55"):
        expand_logits(plain.cache, 1, max_terms=100)
    with pytest.raises(
        ConfigError, match=r"None makes 6,561 terms, above max_terms = 5,000; max_length = 1 makes 1,156"
    ):
        expand_scores(plain.cache, 2, 0, max_terms=5_000)
    with pytest.raises(ConfigError, match=r"max_terms = 3$"):
        expand_stream(plain.cache, max_terms=3)
    assert len(expand_stream(plain.cache, max_terms=406)) == 406


def test_the_paths_of_a_deep_model_are_counted_not_made():
    cfg = config(SMALL, n_layers=30, n_heads=9)
    assert count_paths(cfg, 30, 1) == 3 + 30 + 9 * 30 * 3 + 9 * sum(range(30)) + 1
    assert count_paths(cfg, 30) > 10**29


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda cache: expand_stream(cache, 4), "layer = 4; allowed: -3 to 3"),
        (lambda cache: expand_stream(cache, max_length=-1), "max_length = -1; allowed: 0 or more"),
        (lambda cache: expand_scores(cache, 3, 0), "layer = 3; allowed: -3 to 2"),
        (lambda cache: expand_scores(cache, 0, 4), "head = 4; allowed: -4 to 3"),
    ],
)
def test_what_is_out_of_range_is_an_error(plain: Run, call: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        call(plain.cache)


def test_a_wrong_answer_is_an_error(plain: Run):
    with pytest.raises(TokenError, match="answer 11 is no token"):
        expand_logits(plain.cache, 11)


def test_a_cut_cache_is_refused(plain: Run):
    with pytest.raises(CacheError, match="all positions of a run"):
        expand_stream(plain.cache.slice(pos=slice(2, 5)))


def test_some_sequences_of_a_cache_are_whole_runs(run: Run):
    assert_close(expand_stream(run.cache.slice(batch=1)).values, expand_stream(run.cache).values[:, 1:2])


def test_a_cache_without_patterns_says_what_is_missing(plain: Run):
    _, cache = plain.model.run_with_cache(plain.tokens, names_filter=lambda name: not name.endswith("pattern"))
    with pytest.raises(HookNotFoundError, match="hook_pattern"):
        expand_stream(cache)


def test_changed_weights_are_refused():
    model = run_of("learned_ln").fresh_model()
    _, cache = model.run_with_cache(random_tokens(model.cfg, 1))
    with torch.no_grad():
        model.blocks[1].attn.W_V[0] = 0
    with pytest.raises(CacheError, match="weights changed"):
        expand_stream(cache)


def test_weights_changed_unseen_are_noticed_by_the_sum():
    model = run_of("learned_ln").fresh_model()
    _, cache = model.run_with_cache(random_tokens(model.cfg, 1))
    model.blocks[1].attn.W_V.data[0] += 1
    with pytest.raises(CacheError, match="do not sum to the cached stream"):
        expand_stream(cache)
