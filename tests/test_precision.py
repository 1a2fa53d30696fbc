"""Models in half precision: what is reduced over their logits, losses and activations is as exact as in float64."""

import pytest
import torch
import torch.nn.functional as F
from grid import GRID, build, config, random_tensor, random_tokens
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp import ActivationCache, CacheError, HookedTransformer
from interp.heads import attention_on, head_scores_of, is_previous
from interp.interventions import Mean
from interp.lens import direct_attribution, expand_logits, expand_scores, expand_stream, logit_lens
from interp.metrics import KLDivergence, Logit, LogitDifference, LogProbability, Loss, Metric, Probability, Rank
from interp.model import HookPoint
from interp.model.loss import in_context_learning_score, next_token_loss
from interp.model.sampling import Sampling
from interp.precision import (
    at_least_float32,
    autocast_devices,
    coarsest,
    equal_up_to_rounding,
    of_one_dtype,
    wide_mean,
    wide_sum,
    without_autocast,
)

halves = pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
SOME = ("learned_ln", "gemma_like", "post_rms_gated_grouped", "partial_rotary_parallel", "shortformer_attn_only")


def half_model(name: str, half: torch.dtype, **changes: object) -> HookedTransformer:
    return build(config(GRID[name], dtype=half, **changes), 5)


def exact_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].double().transpose(1, 2), tokens[:, 1:], reduction="none")


# ---------------------------------------------------------------------------------------------- losses


@halves
@pytest.mark.parametrize("masked", [True, False])
def test_a_loss_over_more_tokens_than_half_precision_can_sum_is_exact(half: torch.dtype, masked: bool):
    logits = 6 * random_tensor(40, 900, 5, seed=2).to(half)
    tokens = random_tokens(config(GRID["learned_ln"], d_vocab=5, n_ctx=900, d_model=900), 3, batch=40, n_pos=900)
    mask = torch.ones(40, 900, dtype=torch.bool)
    mask[::3, : 30 if masked else 0] = False
    want = exact_losses(logits, tokens)[mask[:, :-1] & mask[:, 1:]]
    assert want.sum() > 65_504  # what float16 holds
    got = next_token_loss(logits, tokens, mask if masked else None)
    assert got.dtype == torch.float32
    assert float(got) == pytest.approx(float(want.mean()), rel=1e-5)


@halves
def test_all_losses_of_a_half_precision_model_are_exact_in_its_logits(half: torch.dtype):
    for name in SOME:
        model = half_model(name, half)
        tokens = random_tokens(model.cfg, 1, batch=2)
        with torch.no_grad():
            logits, loss = model(tokens, "both")
            per_token = model(tokens, "loss", loss_per_token=True)
        want = exact_losses(logits, tokens)
        assert logits.dtype == half and loss.dtype == per_token.dtype == torch.float32
        assert torch.allclose(per_token.double(), want, rtol=1e-5, atol=1e-6)
        assert float(loss) == pytest.approx(float(want.mean()), rel=1e-5)


@halves
def test_gradients_of_a_half_precision_loss_flow_in_the_dtype_of_the_model(half: torch.dtype):
    model = half_model("learned_ln", half)
    tokens = random_tokens(model.cfg, 1, batch=2)
    _, cache = model.run_with_cache(tokens, "loss", incl_bwd=True)
    model(tokens, "loss").backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == half and parameter.grad.isfinite().all(), name
    assert {value.dtype for name, value in cache.items() if "_grad" in name and "scale" not in name} == {half}


@halves
def test_the_in_context_learning_score_of_half_precision_losses_is_not_rounded(half: torch.dtype):
    losses = random_tensor(3, 9, seed=4).to(half) + 7
    want = losses[:, 7].double() - losses[:, 2].double()
    assert torch.equal(in_context_learning_score(losses, 3, 8).double(), want)


# ---------------------------------------------------------------------------------------------- metrics, sampling


@halves
@pytest.mark.parametrize(
    "metric",
    [
        Logit(3, pos=None),
        LogitDifference(2, 4, pos=(0, -1)),
        LogProbability((1, 2, 0)),
        Probability(5, pos=None),
        Rank(3, pos=None),
        Loss(),
    ],
)
def test_metrics_of_half_precision_logits_are_those_in_float64(half: torch.dtype, metric: Metric):
    logits, tokens = 5 * random_tensor(3, 11, 7, seed=6).to(half), torch.arange(33).view(3, 11) % 7
    mask = torch.ones(3, 11, dtype=torch.bool)
    if isinstance(metric, Loss):
        mask[1, :4] = False
    got = metric(logits, tokens=tokens, attention_mask=mask)
    assert got.dtype == torch.float32
    assert torch.allclose(
        got.double(), metric(logits.double(), tokens=tokens, attention_mask=mask), rtol=1e-5, atol=1e-6
    )


@halves
def test_a_divergence_between_half_precision_logits_is_that_in_float64(half: torch.dtype):
    one, other = (3 * random_tensor(2, 4, 50, seed=seed).to(half) for seed in (7, 8))
    want = KLDivergence(one.double(), pos=None)(other.double())
    assert torch.allclose(KLDivergence(one, pos=None)(other).double(), want, rtol=1e-5)


@halves
@given(st.floats(0.3, 2.0), st.sampled_from([None, 40]), st.sampled_from([None, 0.9]))
def test_probabilities_that_are_sampled_from_are_those_in_float64(
    half: torch.dtype, temperature: float, top_k: int | None, top_p: float | None
):
    logits = 4 * random_tensor(2, 500, seed=9).to(half)
    sampling = Sampling(temperature, top_k=top_k, top_p=top_p)
    got, want = sampling.probabilities(logits), sampling.probabilities(logits.double())
    assert got.dtype == torch.float32
    assert torch.allclose(got.double(), want, rtol=1e-4, atol=1e-7)
    assert torch.allclose(got.sum(-1), torch.ones(2), atol=1e-6)


def test_greedy_probabilities_are_in_float32_too():
    assert Sampling().probabilities(torch.zeros(1, 4, dtype=torch.bfloat16)).dtype == torch.float32


# ---------------------------------------------------------------------------------------------- activations


@halves
def test_a_mean_over_more_values_than_half_precision_can_sum_is_exact(half: torch.dtype):
    values = (300 + random_tensor(60, 40, 5, seed=3)).to(half)
    for per_position, over in ((True, (0,)), (False, (0, 1))):
        point = HookPoint("batch pos d_model", "")
        point.name = "x"
        mean = Mean({"x": values}, per_position=per_position).value(values[:1], point)
        assert torch.equal(mean, values.double().mean(over, keepdim=True).to(half)) and mean.dtype == half


@halves
def test_attention_scores_of_half_precision_patterns_are_those_in_float64(half: torch.dtype):
    pattern = random_tensor(2, 3, 70, 70, seed=3).softmax(-1).to(half)
    marks = is_previous(torch.arange(70).expand(2, -1))
    for average in ("queries", "entries"):
        got = attention_on(pattern, marks, average)
        assert torch.allclose(got.double(), attention_on(pattern.double(), marks, average), rtol=1e-5)


@halves
def test_head_scores_of_a_half_precision_cache_are_those_in_float64(half: torch.dtype):
    model = half_model("learned_ln", half)
    tokens = random_tokens(model.cfg, 1)
    _, cache = model.run_with_cache(tokens)
    scores = head_scores_of(cache, tokens, scores="previous_token")["previous_token"]
    for layer in range(3):
        pattern = cache["pattern", layer].double()
        want = pattern.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=(0, -1))
        assert torch.allclose(torch.as_tensor(scores.to_numpy())[layer], want, rtol=1e-6)


def exact(values: Tensor, model: HookedTransformer, correct: int, incorrect: int) -> Tensor:
    W_U = model.W_U.double()
    return values.double() @ (W_U[:, correct] - W_U[:, incorrect])


@halves
def test_attributions_of_a_half_precision_run_are_products_in_float32(half: torch.dtype):
    """Without norms a part's share is what it wrote times the direction of the logits, and nothing else."""
    model = half_model("sinusoidal_no_norm", half)
    _, cache = model.run_with_cache(random_tokens(model.cfg, 1))
    stack = cache.decompose_resid()
    attributed = cache.logit_attrs(stack, 3, 4)
    assert attributed.values.dtype == torch.float32
    assert torch.allclose(attributed.values[:-1].double(), exact(stack.values, model, 3, 4), rtol=1e-4, atol=1e-5)
    by_head = torch.as_tensor(direct_attribution(cache, 3, 4, by="head")["attribution"].to_numpy())
    by_position = torch.as_tensor(direct_attribution(cache, 3, 4, by="position")["attribution"].to_numpy())
    by_neuron = torch.as_tensor(direct_attribution(cache, 3, 4, by="neuron")["attribution"].to_numpy())
    for layer, block in enumerate(model.blocks):
        z, W_O, post = cache["z", layer].double(), block.attn.W_O.double(), cache["post", layer].double()
        written = torch.einsum("bphd,hdm->hbpm", z, W_O)
        assert torch.allclose(by_head[layer].double(), exact(written, model, 3, 4), rtol=1e-4, atol=1e-5)
        moved = torch.einsum("bhqk,bkhd->hbqkd", cache["pattern", layer].double(), cache["v", layer].double())
        moved = torch.einsum("hbqkd,hdm->hbqkm", moved, W_O)
        assert torch.allclose(by_position[layer].double(), exact(moved, model, 3, 4), rtol=1e-4, atol=1e-5)
        neurons = post.permute(2, 0, 1)[..., None] * block.mlp.W_out.double()[:, None, None]
        assert torch.allclose(by_neuron[layer].double(), exact(neurons, model, 3, 4), rtol=1e-4, atol=1e-5)


@halves
def test_paths_of_a_half_precision_run_are_those_of_its_patterns_in_float64(half: torch.dtype):
    for name in SOME:
        model = half_model(name, half)
        _, cache = model.run_with_cache(random_tokens(model.cfg, 1, batch=2))
        twin = build(config(GRID[name]), 5)
        twin.load_state_dict({key: value.double() for key, value in model.state_dict().items()})
        # the same activations, held in float64; "edited", so that what the run rounded has a row of its own
        held = ActivationCache({key: value.double() for key, value in cache.items()}, twin, edited=True)
        got, want = expand_stream(cache, -1), expand_stream(held, -1)
        assert got.values.dtype == torch.float32 and got.labels == want.labels[:-1]
        for label in got.labels:
            size = float(want[label].abs().max().clamp(min=1))
            assert (got[label].double() - want[label]).abs().max() < 1e-5 * size, (name, label)
        for row in (expand_logits(cache, 3, 4), expand_scores(cache, 2, 1)):
            assert torch.as_tensor(row.values).dtype == torch.float32


@halves
def test_decompositions_of_half_precision_runs_sum_and_refuse_other_weights(half: torch.dtype):
    for name in SOME:
        model = half_model(name, half)
        tokens = random_tokens(model.cfg, 1, batch=2)
        _, cache = model.run_with_cache(tokens)
        for stack in (cache.decompose_resid(), cache.get_full_resid_decomposition()):
            size = wide_sum(stack.values.abs(), 0)
            assert ((wide_sum(stack.values, 0) - cache["resid_post", -1]).abs() < 0.02 * (1 + size)).all(), name
        for parameter in model.blocks[0].parameters():
            parameter.data.mul_(3)  # unseen
        with pytest.raises(CacheError, match="do not sum"):
            cache.get_full_resid_decomposition()


def test_terms_too_large_for_half_precision_do_not_hide_a_wrong_sum():
    """In float16 the sizes of these terms sum to infinity, and anything would be within an infinite tolerance."""
    model = build(config(GRID["sinusoidal_no_norm"], dtype=torch.float16), 5)
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.b_out.fill_(0)
            block.attn.b_O.copy_(torch.full_like(block.attn.b_O, 30_000.0) * (1 if block is model.blocks[0] else -1))
    tokens = random_tokens(model.cfg, 1, batch=2)
    _, cache = model.run_with_cache(tokens)
    wrong = {name: value.clone() for name, value in cache.items()}
    wrong["blocks.2.hook_attn_out"] += 20_000
    with pytest.raises(CacheError, match="do not sum"):
        ActivationCache(wrong, model).decompose_resid()


@halves
def test_the_lens_of_a_half_precision_run_reads_its_logits_in_float32(half: torch.dtype):
    model = half_model("gemma_like", half)
    tokens = random_tokens(model.cfg, 1, batch=2)
    lens, logits = logit_lens(model, tokens, answers=3), model(tokens).double()
    want = logits.softmax(-1)[..., 3]
    assert torch.allclose(torch.as_tensor(lens["prob"].to_numpy())[-1, ..., 0].double(), want, rtol=1e-4)
    ranks = torch.as_tensor(lens["rank"].to_numpy())[-1, ..., 0]
    assert torch.equal(ranks, (logits > logits[..., [3]]).sum(-1))


# ---------------------------------------------------------------------------------------------- the helpers


def test_only_half_precision_is_widened():
    for dtype, wide in (
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
    ):
        x = torch.ones(3, 2, dtype=dtype)
        assert at_least_float32(x).dtype == wide_sum(x, 0).dtype == wide_mean(x, 0).dtype == wide
    assert at_least_float32(torch.arange(3)).dtype == torch.long


def test_tensors_are_brought_to_the_dtype_that_holds_them_all():
    ones = [torch.ones(1, dtype=dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64)]
    assert [x.dtype for x in of_one_dtype(ones[0], ones[1])] == [torch.float32] * 2
    assert [x.dtype for x in of_one_dtype(*ones)] == [torch.float64] * 3
    assert of_one_dtype(ones[0])[0] is ones[0]


def test_the_coarsest_dtype_is_the_one_that_rounds_most():
    tensors = [torch.ones(1, dtype=dtype) for dtype in (torch.float64, torch.int64, torch.float16, torch.bfloat16)]
    assert [coarsest(tensors[:n]) for n in range(5)] == [*[torch.float64] * 3, torch.float16, torch.bfloat16]


def test_equality_up_to_rounding_depends_on_what_was_rounded():
    whole, size = torch.zeros(2), torch.tensor([9.0, 0.0])
    assert equal_up_to_rounding(whole + 0.05, whole, size, torch.bfloat16)
    assert not equal_up_to_rounding(whole + 0.05, whole, size, torch.float32)
    assert not equal_up_to_rounding(torch.tensor([0.0, torch.nan]), whole, size, torch.bfloat16)


def test_products_can_be_kept_out_of_autocast():
    x = torch.ones(2, 2)

    @without_autocast()
    def product() -> Tensor:
        return x @ x

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert autocast_devices() == ["cpu"] and (x @ x).dtype == torch.bfloat16
        assert product().dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16
    assert autocast_devices() == []
