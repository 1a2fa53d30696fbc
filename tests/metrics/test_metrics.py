import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from grid import GRID, SMALL, Run, build, config, random_tensor, run_of, where
from hypothesis import given
from hypothesis import strategies as st

from interp import ConfigError, HookedTransformer, ShapeError, TokenError, TransformerConfig, Vocabulary
from interp.interventions import Zero
from interp.metrics import JudgedRun, Loss, MaskedTokenLoss
from interp.metrics.kinds import (
    Function,
    KLDivergence,
    Logit,
    LogitDifference,
    LogProbability,
    Metric,
    Probability,
    Rank,
    as_metric,
)
from interp.patching import sweep
from interp.text import MaskedTokens

ANYTHING: dict[str, Any] = {"number": 3, "fractions": [1.5, 1, 2], "class": LogitDifference}
LOGITS = random_tensor(3, 5, 7, seed=1)


def test_a_logit_is_read_at_the_last_position_unless_another_is_named():
    assert torch.equal(Logit(2)(LOGITS), LOGITS[:, -1, 2])
    assert torch.equal(Logit(2, pos=1)(LOGITS), LOGITS[:, 1, 2])


def test_several_positions_are_averaged():
    assert torch.allclose(Logit(2, pos=(0, -1))(LOGITS), LOGITS[:, [0, 4], 2].mean(1))
    assert torch.allclose(Logit(2, pos=None)(LOGITS), LOGITS[:, :, 2].mean(1))


def test_answers_can_be_one_for_all_or_one_a_prompt():
    expected = LOGITS[range(3), -1, [1, 2, 3]] - LOGITS[range(3), -1, [4, 4, 4]]
    for correct in ((1, 2, 3), [1, 2, 3], torch.tensor([1, 2, 3])):
        assert torch.allclose(LogitDifference(correct, 4)(LOGITS), expected)


def test_a_logit_difference_is_the_log_of_the_ratio_of_probabilities():
    difference = LogProbability(1)(LOGITS) - LogProbability(4)(LOGITS)
    assert torch.allclose(LogitDifference(1, 4)(LOGITS), difference)


@pytest.mark.parametrize(("correct", "incorrect"), [(3, 3), ([1, 4, 2], [2, 4, 1]), ([0, 4, 2], 4)])
def test_a_difference_of_an_answer_from_itself_is_an_error_that_names_the_prompt(correct: Any, incorrect: Any):
    prompt, token = (0, 3) if correct == 3 else (1, 4)
    said = f"both answers of prompt {prompt} are the token with id {token}"
    with pytest.raises(TokenError, match=said):
        LogitDifference(correct, incorrect)(LOGITS)
    model, tokens = HookedTransformer(TransformerConfig(**SMALL)), torch.tensor([[1, 2]] * 3)
    with pytest.raises(TokenError, match=said):
        sweep(model, tokens, tokens + 1, LogitDifference(correct, incorrect), site="z", progress=False)


def test_probabilities_are_those_of_the_softmax():
    assert torch.allclose(Probability(6)(LOGITS), LOGITS[:, -1].softmax(-1)[:, 6])
    assert torch.allclose(LogProbability(6)(LOGITS), LOGITS[:, -1].log_softmax(-1)[:, 6])


# ---------------------------------------------------------------------------------------------- masked tokens

TARGETS = torch.tensor([[-100, 3, -100, -100, 6], [0, -1, -1, -1, -1], [1, 2, 3, 4, 5]])


def test_the_loss_of_masked_tokens_is_the_mean_over_those_that_a_prompt_is_asked_for():
    log_probs = LOGITS.log_softmax(-1)
    asked = [[(1, 3), (4, 6)], [(0, 0)], [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]]
    want = torch.stack([-torch.stack([log_probs[b, p, t] for p, t in places]).mean() for b, places in enumerate(asked)])
    for targets in (TARGETS, TARGETS.tolist(), TARGETS.numpy()):
        assert torch.allclose(MaskedTokenLoss(targets)(LOGITS), want, atol=1e-14)
    one = MaskedTokenLoss([-100, 3, -100, -100, 6])
    assert torch.allclose(one(LOGITS), -(log_probs[:, 1, 3] + log_probs[:, 4, 6]) / 2)
    assert one == MaskedTokenLoss(torch.tensor([-100, 3, -100, -100, 6])) != MaskedTokenLoss(TARGETS)
    assert len({one, MaskedTokenLoss([-100, 3, -100, -100, 6])}) == 1


def test_the_loss_of_masked_tokens_reads_the_positions_that_are_asked_for_and_no_others():
    run = JudgedRun(MaskedTokens(torch.zeros(3, 5, dtype=torch.long)), int, 7, lambda given: given)
    plan = MaskedTokenLoss(TARGETS[:2].repeat(2, 1)[:3]).plan(run)
    assert plan.positions.tolist() == [[1, 4], [0, 1], [1, 4]]  # the second prompt's second one does not count


@where(lambda cfg: cfg.attention_dir == "bidirectional")
def test_gradients_and_sweeps_take_the_loss_of_masked_tokens(run: Run):
    targets = run.tokens.where(run.tokens % 3 == 0, -100)
    targets[:, 2] = run.tokens[:, 2]
    metric = MaskedTokenLoss(targets)
    _, cache = run.model.run_with_cache(run.tokens, names_filter=("resid_pre", 1), gradient_of=metric)
    stream = cache["resid_pre", 1].requires_grad_()
    losses = F.cross_entropy(run.model(stream, start_at_layer=1).transpose(1, 2), targets, reduction="none")
    value = (losses.sum(1) / (targets >= 0).sum(1)).sum()
    torch.testing.assert_close(cache["resid_pre_grad", 1], torch.autograd.grad(value, stream)[0])
    found = sweep(run.model, Zero(), run.tokens, metric, "attn_out", normalize=False, progress=False)
    with torch.no_grad(), run.model.intervene(Zero(site="attn_out", layer=1, pos=3)):
        want = metric(run.model(run.tokens)).mean()
    assert float(found.sel(layer=1, pos=3)) == pytest.approx(float(want), abs=1e-10)


def test_the_loss_of_masked_tokens_is_that_of_transformers(monkeypatch: pytest.MonkeyPatch):
    from transformers import BertConfig, BertForMaskedLM

    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    cfg = BertConfig(vocab_size=19, max_position_embeddings=12, intermediate_size=24, **sizes)
    bert = BertForMaskedLM(cfg).double().eval()
    model = HookedTransformer.from_pretrained(hf_model=bert)
    tokens = torch.randint(19, (1, 9), generator=torch.Generator().manual_seed(1))
    targets = tokens.where(torch.arange(9) % 4 == 1, -100)
    hidden = tokens.where(targets < 0, 3)
    want = bert(hidden, labels=targets).loss.detach()
    assert torch.allclose(MaskedTokenLoss(targets)(model(hidden)), want[None], atol=1e-12)


def test_wrong_targets_are_errors_that_say_what_is_wrong():
    bert, classes = run_of("bert_like"), build(config(SMALL, d_vocab_out=4), seed=1)
    tokens = bert.tokens
    padded = torch.ones_like(tokens)
    padded[1, :3] = 0
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (tokens[:2], {}, ShapeError, r"targets have shape \(2, 7\); allowed: that of the tokens .* \(3, 7\)"),
        (torch.full((3, 7), -100), {}, TokenError, "prompt 0 is asked for no token"),
        (tokens + 11, {}, TokenError, "has no logit: a run has 11"),
        (tokens, {"attention_mask": padded}, ShapeError, "position 0 of prompt 1, which is padding"),
    ]
    for targets, options, error, message in cases:
        with pytest.raises(error, match=message):
            bert.model.run_with_cache(tokens, None, gradient_of=MaskedTokenLoss(targets), **options)
    with pytest.raises(TokenError, match="targets"):
        MaskedTokenLoss(torch.zeros(3, 7))
    with pytest.raises(ConfigError, match="needs logits of tokens"):
        classes.run_with_cache(tokens, None, gradient_of=MaskedTokenLoss(tokens))
    for gradient_of in (Loss(), "loss"):
        with pytest.raises(ConfigError, match="with attention_dir = 'bidirectional' each position has seen the next"):
            bert.model.run_with_cache(tokens, None, gradient_of=gradient_of)


# ---------------------------------------------------------------------------------------------- ranks


@given(st.integers(0, 6), st.integers(-5, 4))
def test_the_rank_counts_the_tokens_that_are_more_likely(answer: int, pos: int):
    order = LOGITS[:, pos].argsort(-1, descending=True).tolist()
    assert Rank(answer, pos=pos)(LOGITS).tolist() == [row.index(answer) for row in order]


def test_the_divergence_is_that_of_torch_and_zero_from_itself():
    other = random_tensor(3, 5, 7, seed=2)
    expected = F.kl_div(LOGITS.log_softmax(-1), other.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    assert torch.allclose(KLDivergence(other, pos=2)(LOGITS), expected[:, 2])
    assert torch.allclose(KLDivergence(LOGITS, pos=None)(LOGITS), torch.zeros(3, dtype=torch.float64), atol=1e-12)


def test_the_loss_is_the_models_own_for_each_prompt():
    model = build(config(GRID["learned_ln"]), seed=3)
    tokens = torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(4))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, :2] = False
    for own in (None, mask):
        logits, losses = model(tokens, "both", loss_per_token=True, attention_mask=own)
        counts = torch.tensor([5, 5, 5] if own is None else [5, 3, 5])
        assert torch.allclose(Loss()(logits, tokens=tokens, attention_mask=own), losses.sum(1) / counts)


def test_any_function_of_the_logits_is_a_metric():
    assert torch.equal(as_metric(lambda logits: logits[:, 0, 0])(LOGITS), LOGITS[:, 0, 0])
    assert torch.equal(Function(lambda logits: logits.sum(), pos=-1)(LOGITS), LOGITS[:, -1].sum().expand(3))
    assert torch.equal(as_metric(lambda logits: 2.5)(LOGITS), torch.full((3,), 2.5, dtype=torch.float64))


def test_text_answers_are_resolved_by_the_model():
    model = build(config(GRID["learned_ln"]), seed=5, tokenizer=Vocabulary("abcdefghijk"))
    logits = model("abc")
    assert torch.equal(LogitDifference("c", "d")(logits, model), logits[:, -1, 2] - logits[:, -1, 3])
    with pytest.raises(TokenError, match="give model="):
        Logit("c")(logits)


def test_metrics_compare_and_hash_by_what_they_ask():
    assert Logit([1, 2]) == Logit(torch.tensor([1, 2])) and hash(Logit([1, 2])) == hash(Logit((1, 2)))
    assert Logit(1) != Logit(1, pos=0) and Logit(1) != Rank(1)


def test_metrics_say_what_they_need():
    prompts = JudgedRun(MaskedTokens(torch.zeros(2, 4, dtype=torch.long)), int, 9, torch.tensor)
    reading = LogitDifference((1, 2), 3, pos=(0, -2)).plan(prompts)
    assert reading.positions.tolist() == [[0, 2], [0, 2]]
    assert reading.tokens is not None and reading.tokens.tolist() == [[1, 3], [2, 3]]
    assert reading.name == "logit difference of each prompt's answers, as 1 - 3, at position (0, -2)"
    assert Rank(1).plan(prompts).tokens is None
    assert Loss().plan(prompts).positions.tolist() == [[0, 1, 2]] * 2


def test_a_position_that_is_padding_cannot_be_read():
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[2, 4] = False
    with pytest.raises(ShapeError, match="pos = -1 is padding in prompt 2"):
        Logit(1)(LOGITS, attention_mask=mask)


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        (lambda: Logit(7), TokenError, "answer 7 is no token; allowed: 0 to 6"),
        (lambda: Logit(-1), TokenError, "answer -1 is no token"),
        (lambda: Logit([1, 2]), ShapeError, "answers of shape \\(2,\\) for 3 prompts"),
        (lambda: Logit(1, pos=5), ShapeError, "allowed: -5 to 4"),
        (lambda: Logit(1, pos=()), ShapeError, "at least one position"),
        (lambda: Logit(torch.zeros(3)), TokenError, "one a prompt"),
        (lambda: KLDivergence(), ConfigError, "no reference here"),
        (lambda: KLDivergence(LOGITS[:, :4]), ShapeError, r"\(3, 4, 7\), the run \(3, 5, 7\)"),
        (lambda: Loss(), TokenError, "give tokens="),
        (lambda: Function(lambda logits: logits), ShapeError, "one value a prompt"),
        (lambda: as_metric(ANYTHING["number"]), ConfigError, "3 is not a metric"),
        (Metric, TypeError, "subclasses"),
        (lambda: Logit(ANYTHING["fractions"]), TokenError, "answer 1.5 is neither"),
        (lambda: Logit(True), TokenError, "answer True is neither"),
        (lambda: Logit(1, pos=ANYTHING["fractions"]), ShapeError, "pos = "),
        (lambda: as_metric(ANYTHING["class"]), ConfigError, "is not a metric"),
        (lambda: Function(lambda logits: None), ShapeError, "made None"),
    ],
)
def test_a_metric_that_does_not_fit_is_an_error(metric: Any, error: type[Exception], message: str, as_installed: None):
    with pytest.raises(error, match=message):
        metric()(LOGITS)


def test_a_uniform_distribution_costs_the_log_of_the_vocabulary():
    logits, tokens = torch.zeros(1, 6, 7), torch.arange(6)[None]
    assert math.isclose(float(Loss()(logits, tokens=tokens)), math.log(7), rel_tol=1e-6)


def test_logits_in_half_precision_are_compared_in_float32():
    half = LOGITS.bfloat16()
    assert torch.equal(Rank(3)(half), Rank(3)(half.float()))
    assert LogProbability(3)(half).dtype == torch.float32


def test_a_reference_that_rules_a_token_out_gives_a_finite_divergence():
    reference = LOGITS.clone()
    reference[..., 2] = -torch.inf
    assert torch.isfinite(KLDivergence(reference)(LOGITS)).all()


def test_logits_and_tokens_of_other_shapes_are_refused(as_installed: None):
    with pytest.raises(ShapeError, match="batch, pos, d_vocab"):
        Loss()(LOGITS, tokens=torch.zeros(3, 4, dtype=torch.long))


def test_a_prompt_of_one_token_has_no_loss():
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, :4] = False
    with pytest.raises(TokenError, match="prompt 1 has fewer"):
        Loss()(LOGITS, tokens=torch.zeros(3, 5, dtype=torch.long), attention_mask=mask)


def test_a_token_beyond_the_logits_has_no_loss():
    with pytest.raises(TokenError, match=rf"token 99 has no logit: a run has {LOGITS.shape[-1]} of them"):
        Loss()(LOGITS, tokens=torch.full(LOGITS.shape[:2], 99))


def test_a_mask_of_integers_is_the_same_mask():
    logits, tokens = random_tensor(2, 4, 7), torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    assert torch.equal(
        Loss()(logits, tokens=tokens, attention_mask=mask), Loss()(logits, tokens=tokens, attention_mask=mask.bool())
    )
    with pytest.raises(ShapeError, match="pos = 0 is padding in prompt 0"):
        Logit(1, pos=0)(logits, attention_mask=mask)
    with pytest.raises(ShapeError, match=r"1 \(or True\) for real tokens"):
        Logit(1)(logits, attention_mask=2 * mask)


@torch.no_grad()
def test_the_loss_of_a_run_weighs_tokens_and_the_metric_weighs_prompts():
    model = build(config(GRID["learned_ln"]), seed=9)
    tokens = torch.arange(21).view(3, 7) % 11
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[0, :4], mask[1, :1] = False, False
    with torch.no_grad():
        logits, of_run = model(tokens, "both", attention_mask=mask)
    of_prompts = Loss()(logits, tokens=tokens, attention_mask=mask)
    counts = mask.sum(dim=1) - 1
    assert float(of_run) == pytest.approx(float((of_prompts * counts).sum() / counts.sum()))
    assert float(of_run) != pytest.approx(float(of_prompts.mean()), abs=1e-3)
    for said, other in ((Loss.__doc__, "return_type"), (HookedTransformer.forward.__doc__, "interp.metrics.Loss")):
        assert other in (said or "")
