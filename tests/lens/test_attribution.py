"""What each part of the stream adds to a logit, and decompositions of runs that hooks edited."""

from typing import Any

import pytest
import torch
from grid import (
    SEED,
    SMALL,
    Run,
    assert_close,
    build,
    random_tensor,
    reference_norm,
    run_of,
    runs,
    splits_logits,
    where,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp import HookedTransformer, HookPoint, ShapeError, TokenError, TransformerConfig, Vocabulary


def uncapped_logits(run: Run) -> Tensor:
    """Logits before any soft cap."""
    final = run.cache["resid_post", -1]
    read = final if run.cfg.norm_position == "post" else reference_norm(run.model.ln_final, final)
    assert splits_logits(run.cfg)
    return read @ run.model.W_U + run.model.b_U


def logits_of(answers: Tensor, logits: Tensor) -> Tensor:
    """The logit of an answer at every position."""
    return logits.gather(-1, answers.expand(logits.shape[:2])[..., None])[..., 0]


# ---------------------------------------------------------------------------------------------- logits


@where(splits_logits)
def test_attributions_sum_to_the_logit(run: Run):
    for stack in (run.cache.decompose_resid(), run.cache.get_full_resid_decomposition()):
        attribution = run.cache.logit_attrs(stack, run.tokens)
        assert_close(attribution.values.sum(0), logits_of(run.tokens, uncapped_logits(run)))


@given(runs(normalization_type="LN", norm_position="pre", masked_token_head=False), st.integers(0, 1))
def test_attributions_through_random_unfolded_norms_sum_to_the_logit(run: Run, answer: int):
    attribution = run.cache.logit_attrs(run.cache.get_full_resid_decomposition(), answer)
    assert_close(attribution.values.sum(0), uncapped_logits(run)[..., answer])


@where(splits_logits)
def test_attributions_to_a_difference_of_logits_sum_to_that_difference(run: Run):
    logits = uncapped_logits(run)
    attribution = run.cache.logit_attrs(run.cache.decompose_resid(), run.tokens, 3)
    assert_close(attribution.values.sum(0), logits_of(run.tokens, logits) - logits[..., 3])


@where(splits_logits)
def test_biases_on_the_way_to_the_logits_have_rows_of_their_own(run: Run):
    norm = run.cfg.normalization_type == "LN" and run.cfg.norms_reads
    stack = run.cache.decompose_resid()
    attribution = run.cache.logit_attrs(stack, 5)
    assert attribution.labels == [*stack.labels, *(["ln_final_bias"] if norm else []), "unembed_bias"]
    assert torch.equal(attribution.values[-1], run.model.b_U[5].expand(run.tokens.shape))


@where(splits_logits)
def test_an_answer_given_as_number_sequence_or_grid_is_the_same_answer(run: Run):
    stack = run.cache.decompose_resid()
    want = run.cache.logit_attrs(stack, 5).values
    for answer in (torch.tensor([5, 5, 5]), torch.full((3, 7), 5)):
        assert torch.equal(run.cache.logit_attrs(stack, answer).values, want)


@where(splits_logits)
def test_an_answer_for_each_sequence_counts_at_all_its_positions(run: Run):
    answers = torch.tensor([1, 4, 9])
    attribution = run.cache.logit_attrs(run.cache.decompose_resid(), answers)
    assert_close(attribution.values.sum(0), logits_of(answers[:, None], uncapped_logits(run)))


def test_an_answer_may_be_a_word():
    model = build(TransformerConfig(**SMALL), SEED, Vocabulary("abcdefghijk"))
    _, cache = model.run_with_cache("abcab")
    stack = cache.decompose_resid()
    assert torch.equal(cache.logit_attrs(stack, "c", "a").values, cache.logit_attrs(stack, 2, 0).values)


@where(splits_logits)
def test_attributions_of_a_cut_cache_are_those_of_the_cut_positions(run: Run):
    cut = run.cache.slice(batch=[2, 0], pos=-1)
    attribution = cut.logit_attrs(cut.decompose_resid(), 5).values
    assert_close(attribution, run.cache.logit_attrs(run.cache.decompose_resid(), 5).values[:, [2, 0], -1:])


@pytest.mark.parametrize("answer", [torch.zeros(2, dtype=torch.long), torch.zeros(3, 6, dtype=torch.long)], ids=str)
def test_answers_of_another_shape_are_an_error(answer: Tensor, as_installed: None):
    cache = run_of("learned_ln").cache
    with pytest.raises(ShapeError, match=r"allowed: one token, \[batch\] or \[batch, pos\] = \(3, 7\)"):
        cache.logit_attrs(cache.decompose_resid(), answer)


@pytest.mark.parametrize("answer", [11, -1, torch.tensor([0, 1, 11]), "word"], ids=str)
def test_answers_outside_the_vocabulary_are_an_error(answer: Any):
    cache = run_of("learned_ln").cache
    with pytest.raises(TokenError):
        cache.logit_attrs(cache.decompose_resid(), answer)


# ---------------------------------------------------------------------------------------------- edited runs


def edited_run(run: Run, name: Any) -> tuple[HookedTransformer, Tensor, Any]:
    shift = random_tensor(run.cfg.d_model)

    def add(act: Tensor, hook: HookPoint) -> Tensor:
        return act + shift

    with run.model.hooks([(name, add)]):
        return run.model, shift, run.model.run_with_cache(run.tokens)[1]


@pytest.mark.parametrize("name", ["hook_embed", ("attn_out", 0), ("result", 1)], ids=str)
def test_the_parts_of_an_edited_run_sum_to_its_stream(run: Run, name: Any):
    _, _, cache = edited_run(run, name)
    for layer, stream in ((2, cache["resid_pre", 2]), (3, cache["resid_post", 2])):
        assert_close(cache.get_full_resid_decomposition(layer, expand_neurons=False).values.sum(0), stream)


def test_what_hooks_added_to_the_stream_is_the_row_edits(run: Run):
    _, shift, cache = edited_run(run, ("resid_pre", 1))
    rows = cache.decompose_resid(1)
    values, labels = rows.values, rows.labels
    assert_close(values[labels.index("edits")], shift.expand(3, 7, -1))


@where(lambda cfg: splits_logits(cfg) and cfg.output_logits_soft_cap is None)
def test_attributions_of_an_edited_run_sum_to_its_logit(run: Run):
    model, _, cache = edited_run(run, ("resid_pre", 2))
    logits = model.unembed(cache.accumulated_resid(apply_ln=True).values[-1])
    assert_close(cache.logit_attrs(cache.decompose_resid(), 2).values.sum(0), logits[..., 2].detach())


@where(lambda cfg: cfg.normalization_type is not None and cfg.norms_reads)
def test_edits_of_what_a_norm_returns_have_a_row_of_their_own(run: Run):
    _, shift, cache = edited_run(run, "ln_final.hook_normalized")
    rows = cache.decompose_resid(apply_ln=True)
    values, labels = rows.values, rows.labels
    assert_close(values[labels.index("ln_final_edits")], shift.expand(3, 7, -1))


def test_a_run_without_edits_has_no_row_for_them(run: Run):
    assert "edits" not in run.cache.decompose_resid().labels


def test_an_edited_run_of_a_model_without_blocks_decomposes_too():
    run = Run(SMALL | {"n_layers": 0, "dtype": torch.float64}, SEED)
    _, shift, cache = edited_run(run, "hook_embed")
    want = run.model.W_E[run.tokens] + run.model.W_pos[:7] + shift
    assert_close(cache.decompose_resid().values.sum(0), want.detach())


def test_parts_that_went_through_a_norm_do_not_go_through_it_again(plain: Run):
    with pytest.raises(ShapeError, match="went through ln_final already"):
        plain.cache.logit_attrs(plain.cache.decompose_resid(apply_ln=True), 3)


def test_parts_of_a_whole_cache_do_not_fit_a_cut_one(plain: Run):
    with pytest.raises(ShapeError, match="slice the cache first"):
        plain.cache.slice(pos=-1).apply_ln_to_stack(plain.cache.decompose_resid())


def test_answers_may_be_texts_one_a_prompt():
    words = Vocabulary("abcdefghijk")
    model = HookedTransformer(TransformerConfig(n_layers=2, d_model=24, n_heads=4, n_ctx=8, d_vocab=11), words)
    _, cache = model.run_with_cache(["abcd", "dcba"])
    by_text = cache.logit_attrs(cache.decompose_resid(), ["a", "k"], ["b", "c"])
    by_id = cache.logit_attrs(cache.decompose_resid(), torch.tensor([0, 10]), torch.tensor([1, 2]))
    assert torch.equal(by_text.values, by_id.values)
