"""Backward hooks, and gradients in the cache."""

from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from grid import Run, assert_close, everywhere, random_tensor, run_of, where
from torch import Tensor

from interp import ConfigError, HookNotFiredError, HookPoint, ShapeError, TransformerConfig
from interp.metrics import Function, KLDivergence, LogitDifference, LogProbability, Loss, Metric, Rank
from interp.model import KVCache


def gradients_of_added_zeros(run: Run) -> dict[str, Tensor]:
    """The gradient at every point, by autograd: that of a zero which is added there.

    Scales have a run of their own, because a scale that a hook returns also binds what single heads read.
    """
    zeros: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}

    def add_zero(act: Tensor, hook: HookPoint) -> Tensor:
        if not act.is_floating_point():
            return act
        zeros[hook.name] = torch.zeros_like(act, requires_grad=True)
        return act + zeros[hook.name]

    for of_scales in (True, False):
        hooks = [hook for hook in everywhere(run.model, add_zero) if str(hook[0]).endswith("hook_scale") == of_scales]
        zeros.clear()
        loss = run.objective(run.model.run_with_hooks(run.tokens, fwd_hooks=hooks))
        if zeros:
            gradients |= dict(zip(zeros, torch.autograd.grad(loss, list(zeros.values())), strict=True))
    return gradients


def fixed_points(run: Run) -> set[str]:
    """The points that no gradient reaches: ids, and what has nothing trained before it."""
    fixed = ("onehot", "sinusoidal", "sinusoidal_halves")
    return {"hook_tokens"} | ({"hook_pos_embed"} if run.cfg.positional_embedding_type in fixed else set())


def embedding_gradient(run: Run, *hooks: tuple[Any, Any]) -> Tensor:
    """The gradient of the objective by the embedding, in the presence of backward hooks."""
    with run.model.hooks(bwd_hooks=hooks):
        wanted = [run.model.W_E, *(p for p in run.model.parameters() if p is not run.model.W_E)]
        return torch.autograd.grad(run.objective(run.model(run.tokens)), wanted)[0]


# ---------------------------------------------------------------------------------------------- in the cache


def test_cached_gradients_equal_autograds_at_every_point(run: Run):
    want = gradients_of_added_zeros(run)
    got = {name.removesuffix("_grad"): g for name, g in run.everything.items() if name.endswith("_grad")}
    assert got.keys() == want.keys()
    for name in got:
        assert_close(got[name], want[name])


def test_the_cached_gradient_of_the_stream_is_that_of_the_layers_above(run: Run):
    stream = run.cache["resid_pre", 2].clone().requires_grad_()
    logits = run.model(stream, start_at_layer=2)
    run.objective(logits).backward()
    assert stream.grad is not None
    assert_close(run.everything["resid_pre_grad", 2], stream.grad)


def test_gradients_answer_to_names_as_activations_do(plain: Run):
    cache = plain.everything
    assert cache["z_grad", -1] is cache["blocks.2.attn.hook_z_grad"]


def test_a_filter_applies_to_gradients_too(plain: Run):
    _, cache = plain.model.run_with_cache(plain.tokens, "loss", names_filter=("z", 0), incl_bwd=True)
    assert list(cache) == ["blocks.0.attn.hook_z", "blocks.0.attn.hook_z_grad"]


@pytest.mark.parametrize("pos", [-1, slice(2, 4), [5, 0]], ids=str)
def test_gradients_are_cut_to_the_same_positions(plain: Run, pos: Any):
    names = list(plain.model.hook_map())
    _, cache = plain.model.run_with_cache(plain.tokens, "loss", names_filter=names, incl_bwd=True, pos_slice=pos)
    chosen = torch.arange(7)[pos].reshape(-1)
    for name in (name for name in names if name != "hook_tokens"):  # ids have no gradient
        axis = 2 if name.endswith(("scores", "pattern")) else 1
        assert torch.equal(cache[f"{name}_grad"], plain.everything[f"{name}_grad"].index_select(axis, chosen)), name


@where(lambda cfg: cfg.attn_implementation == "eager")
def test_caching_gradients_changes_no_bit_of_logits_or_activations(run: Run):
    logits, cache = run.model.run_with_cache(run.tokens, gradient_of=run.objective)
    assert torch.equal(logits, run.logits)
    assert [name for name in run.cache if not torch.equal(cache[name], run.cache[name])] == []


def test_caching_gradients_touches_no_parameters_gradient(plain: Run):
    model = plain.fresh_model()
    model.b_U.grad = torch.ones_like(model.b_U)
    model.run_with_cache(plain.tokens, "loss", incl_bwd=True)
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == {"unembed.b_U"}
    assert torch.equal(model.b_U.grad, torch.ones_like(model.b_U))


def test_the_loss_of_a_run_with_cached_gradients_can_still_be_differentiated(plain: Run):
    loss, _ = plain.model.run_with_cache(plain.tokens, "loss", incl_bwd=True)
    assert_close(torch.autograd.grad(loss, plain.model.W_E)[0], embedding_gradient(plain))


def test_gradients_can_be_cached_where_gradients_are_off(plain: Run):
    with torch.no_grad():
        _, cache = plain.model.run_with_cache(plain.tokens, "loss", names_filter=("z", 0), incl_bwd=True)
    assert_close(cache["z_grad", 0], plain.everything["z_grad", 0])


def test_cached_gradients_leave_no_hook_behind(plain: Run):
    plain.model.run_with_cache(plain.tokens, "loss", incl_bwd=True)
    assert [name for name, point in plain.model.hook_points.items() if point.hooks] == []


@pytest.mark.parametrize(
    "options", [{}, {"return_type": "both"}, {"return_type": "loss", "loss_per_token": True}, {"return_type": None}]
)
def test_whatever_a_run_returns_incl_bwd_is_the_gradient_of_the_mean_loss(plain: Run, options: dict[str, Any]):
    output, cache = plain.model.run_with_cache(plain.tokens, incl_bwd=True, **options)
    assert_close(cache["resid_pre_grad", 1], plain.everything["resid_pre_grad", 1])
    if options.get("return_type", "logits") is None:
        assert torch.equal(output, plain.model(plain.tokens, "loss"))
    else:
        for got, want in zip(output, plain.model(plain.tokens, **options), strict=True):
            assert torch.equal(got, want)


# ---------------------------------------------------------------------------------------------- of any metric


def last_logit_squared(logits: Tensor) -> Tensor:
    return logits[:, -1, 3].square()


METRICS: list[Any] = [
    LogitDifference([1, 2, 3], 4, pos=-1),
    LogProbability(5, pos=(2, -1)),
    Loss(),
    KLDivergence(torch.tensor([[5, 4, 3, 2, 1, 0, 1]] * 3), pos=-1),
    Function(last_logit_squared, pos=(3, -2, -1)),
    last_logit_squared,
    lambda logits: logits[:, 2:].logsumexp(-1).mean(),
]


def metrics_of(cfg: TransformerConfig) -> list[Any]:
    """Those that the architecture has: the loss of next tokens is none of what sees both sides."""
    return [metric for metric in METRICS if cfg.predicts_next_token or not isinstance(metric, Loss)]


@where(lambda cfg: cfg.attn_implementation != "sdpa")
@pytest.mark.parametrize("padded", [False, True])
def test_the_gradient_of_any_metric_with_frozen_weights_is_autograds_at_every_point(run: Run, padded: bool):
    model, tokens = run.fresh_model(), run.tokens
    mask = torch.ones_like(tokens)
    mask[0, :2] = 1 - int(padded)
    zeros: dict[str, Tensor] = {}

    def add_zero(act: Tensor, hook: HookPoint) -> Tensor:
        zeros[hook.name] = torch.zeros_like(act, requires_grad=True)
        return act + zeros[hook.name]

    names = ["hook_embed", "blocks.*.attn.hook_*", "blocks.*.hook_*_input", "blocks.*.hook_*out", "ln_final.hook_n*"]
    names = [name for name in names if any(fnmatchcase(point, name) for point in model.hook_points)]
    hooks = [(name, add_zero) for name in names]
    logits = model.run_with_hooks(tokens, fwd_hooks=hooks, attention_mask=mask)
    metrics = metrics_of(run.cfg)
    values = [
        metric(logits, model, tokens, mask) if isinstance(metric, Metric) else metric(logits) for metric in metrics
    ]
    wants = [torch.autograd.grad(value.sum(), list(zeros.values()), retain_graph=True) for value in values]
    model.requires_grad_(False)
    for metric, value, want in zip(metrics, values, wants, strict=True):
        with torch.no_grad():
            got, cache = model.run_with_cache(tokens, None, names_filter=names, attention_mask=mask, gradient_of=metric)
        assert_close(got, value.detach())
        assert not got.requires_grad and all(parameter.grad is None for parameter in model.parameters())
        for name, gradient in zip(zeros, want, strict=True):
            assert_close(cache[f"{name}_grad"], gradient)


def test_every_metric_can_be_differentiated(plain: Run):
    for metric in METRICS:
        values, cache = plain.model.run_with_cache(plain.tokens, None, names_filter=("z", 1), gradient_of=metric)
        whole, again = plain.model.run_with_cache(plain.tokens, names_filter=("z", 1), gradient_of=metric)
        assert torch.equal(whole, plain.logits)
        assert_close(cache["z_grad", 1], again["z_grad", 1])
        own = metric(whole, plain.model, plain.tokens) if isinstance(metric, Metric) else metric(whole)
        assert_close(values, own)


def test_each_prompt_has_the_gradient_of_its_own_value(plain: Run):
    metric = LogitDifference(1, 2)
    _, together = plain.model.run_with_cache(plain.tokens, None, names_filter=("resid_pre", 1), gradient_of=metric)
    for i in range(len(plain.tokens)):
        alone = plain.model.run_with_cache(plain.tokens[i], None, names_filter=("resid_pre", 1), gradient_of=metric)[1]
        assert_close(together["resid_pre_grad", 1][i : i + 1], alone["resid_pre_grad", 1])


def test_only_the_logits_that_a_metric_reads_are_computed(plain: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plain.model.unembed, "forward", lambda x: pytest.fail("the whole vocabulary was computed"))
    plain.model.run_with_cache(plain.tokens, None, names_filter=("z", 1), gradient_of=LogitDifference(1, 2))


@pytest.mark.parametrize("names", ["hook_embed", ("scale", 1, "ln1"), ("result", 0), ("attn_in", 2), ("pattern", 1)])
def test_a_graph_that_begins_at_a_watched_point_changes_no_bit(run: Run, names: Any):
    if names == ("scale", 1, "ln1") and run.cfg.normalization_type is None:
        return
    model = run.fresh_model().requires_grad_(False)
    plain_logits, plain_cache = model.run_with_cache(run.tokens, names_filter=names)
    logits, cache = model.run_with_cache(run.tokens, names_filter=names, gradient_of=lambda x: x[:, -1].mean())
    (name,) = plain_cache
    assert torch.equal(logits, plain_logits) and torch.equal(cache[name], plain_cache[name]) and not cache.edited
    assert cache[f"{name}_grad"].abs().max() > 0


def test_a_run_that_begins_with_a_stream_has_gradients_of_metrics_but_of_no_loss(plain: Run):
    stream = plain.cache["resid_pre", 1]
    _, cache = plain.model.run_with_cache(stream, None, start_at_layer=1, gradient_of=LogitDifference(1, 2))
    _, whole = plain.model.run_with_cache(plain.tokens, None, gradient_of=LogitDifference(1, 2))
    assert_close(cache["resid_pre_grad", 1], whole["resid_pre_grad", 1])
    for loss in ("loss", Loss()):
        with pytest.raises(ConfigError, match="excludes start_at_layer"):
            plain.model.run_with_cache(stream, None, start_at_layer=1, gradient_of=loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_half_precision_are_those_of_the_run_rounded(plain: Run, dtype: torch.dtype):
    model = plain.fresh_model().to(dtype).requires_grad_(False)
    _, half = model.run_with_cache(plain.tokens, None, gradient_of=LogitDifference(1, 2))
    _, full = model.float().run_with_cache(plain.tokens, None, gradient_of=LogitDifference(1, 2))
    got, want = half["resid_pre_grad", 1], full["resid_pre_grad", 1]
    assert got.dtype == dtype and (got.float() - want).norm() < 0.05 * want.norm()


def test_the_gradient_of_a_later_piece_of_a_sequence_is_that_of_its_own_positions(plain: Run):
    cache = KVCache(3)
    plain.model(plain.tokens[:, :4], kv_cache=cache)
    metric = LogitDifference(1, 2)
    _, piece = plain.model.run_with_cache(plain.tokens[:, 4:], None, ("z", 2), kv_cache=cache, gradient_of=metric)
    _, whole = plain.model.run_with_cache(plain.tokens, None, ("z", 2), gradient_of=metric)
    assert_close(piece["z_grad", 2], whole["z_grad", 2][:, 4:])
    assert cache.n_pos == 7


BAD_OBJECTIVES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"gradient_of": Rank(1)}, HookNotFiredError, "no gradient flows"),
    ({"gradient_of": lambda logits: logits.detach().sum()}, HookNotFiredError, "no gradient flows"),
    ({"gradient_of": lambda logits: logits}, ShapeError, r"made shape \(3, 7, 11\); allowed"),
    ({"gradient_of": lambda logits: 1.0}, ShapeError, "made float; allowed"),
    ({"gradient_of": "los"}, ConfigError, "gradient_of = 'los'; allowed: 'loss'"),
    ({"gradient_of": torch.zeros(2)}, ConfigError, "not Tensor"),
    ({"gradient_of": LogitDifference}, ConfigError, "not type"),
    ({"gradient_of": Loss(), "stop_at_layer": 2}, ConfigError, "excludes stop_at_layer"),
    ({"gradient_of": Loss(), "incl_bwd": True}, ConfigError, "give one of the two"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_OBJECTIVES, ids=range(len(BAD_OBJECTIVES)))
def test_what_has_no_gradient_is_an_error(
    plain: Run, options: dict[str, Any], error: type[Exception], message: str, as_installed: None
):
    with pytest.raises(error, match=message):
        plain.model.run_with_cache(plain.tokens, None, **options)
    assert not any(point.hooks for point in plain.model.hook_points.values())


def test_in_inference_mode_there_is_no_gradient(plain: Run):
    with torch.inference_mode(), pytest.raises(ConfigError, match="inference mode"):
        plain.model.run_with_cache(plain.tokens, None, gradient_of="loss")


# ---------------------------------------------------------------------------------------------- backward hooks


def test_a_backward_hook_sees_the_gradient_at_its_point(run: Run):
    seen: dict[str, Tensor] = {}
    trained = [name for name in run.model.hook_map() if name not in fixed_points(run)]
    embedding_gradient(run, *((name, lambda grad, hook: seen.update({hook.name: grad})) for name in trained))
    assert seen.keys() == set(trained)
    for name in seen:
        assert_close(seen[name], run.everything[f"{name}_grad"])


@pytest.mark.parametrize("fn", [lambda g, h: None, lambda g, h: g, lambda g, h: (g,), lambda g, h: (g.clone(),)])
def test_a_backward_hook_may_return_nothing_a_tensor_or_a_tuple_of_one(run: Run, fn: Any):
    assert_close(embedding_gradient(run, (("resid_post", 1), fn), (("result", 0), fn)), embedding_gradient(run))


def double_in_place(grad: Tensor, hook: HookPoint) -> None:
    grad.mul_(2)


@where(lambda cfg: not cfg.tie_word_embeddings)
@pytest.mark.parametrize("fn", [lambda g, h: 2 * g, lambda g, h: (2 * g,), double_in_place], ids=range(3))
def test_a_backward_hooks_edit_goes_on_through_the_graph(run: Run, fn: Any):
    assert_close(embedding_gradient(run, (("resid_pre", 0), fn)), 2 * embedding_gradient(run))


@where(lambda cfg: not cfg.tie_word_embeddings)
def test_a_gradient_that_is_stopped_does_not_go_on(run: Run):
    assert (embedding_gradient(run, (("resid_pre", 0), lambda grad, hook: torch.zeros_like(grad))) == 0).all()


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda grad, hook: grad[:1], "gave back shape"),
        (lambda grad, hook: grad.float(), "gave back dtype"),
        (lambda grad, hook: (grad, grad), "returned tuple"),
        (lambda grad, hook: 0.0, "returned float"),
    ],
)
def test_a_backward_result_that_does_not_fit_is_an_error_that_names_the_place(plain: Run, fn: Any, message: str):
    with pytest.raises(ShapeError, match=rf"blocks.1.attn.hook_z \(bwd\) {message}"):
        embedding_gradient(plain, (("z", 1), fn))


def test_backward_hooks_along_the_stream_fire_from_its_end_to_its_beginning(run: Run):
    fired: list[str] = []
    embedding_gradient(run, ("blocks.*.hook_resid_*", lambda grad, hook: fired.append(hook.name)))
    assert fired == [name for name in reversed(list(run.model.hook_map())) if ".hook_resid_" in name]


def test_backward_hooks_of_a_run_act_when_its_result_is_differentiated(plain: Run):
    hooks = [(("resid_pre", 0), lambda grad, hook: 3 * grad)]
    loss = plain.model.run_with_hooks(plain.tokens, "loss", bwd_hooks=hooks)
    assert_close(torch.autograd.grad(loss, plain.model.W_E)[0], 3 * embedding_gradient(plain))


def test_backward_hooks_of_a_block_do_not_act_after_it(plain: Run):
    hooks = [(("resid_pre", 0), lambda grad, hook: 3 * grad)]
    with plain.model.hooks(bwd_hooks=hooks):
        loss = plain.model(plain.tokens, "loss")
        torch.autograd.grad(loss, plain.model.W_E, retain_graph=True)
    assert_close(torch.autograd.grad(loss, plain.model.W_E)[0], embedding_gradient(plain))


def test_a_callers_backward_hook_acts_on_cached_gradients(plain: Run):
    with plain.model.hooks(bwd_hooks=[(("resid_pre", 2), lambda grad, hook: 3 * grad)]):
        _, cache = plain.model.run_with_cache(plain.tokens, "loss", incl_bwd=True)
    assert_close(cache["resid_pre_grad", 1], 3 * plain.everything["resid_pre_grad", 1])


def test_a_backward_hook_on_a_run_without_gradients_is_an_error(plain: Run):
    with pytest.raises(HookNotFiredError, match="no gradient flowed through it"), torch.no_grad():
        plain.model.run_with_hooks(plain.tokens, "loss", bwd_hooks=[(("z", 1), lambda grad, hook: None)])


def test_a_backward_hook_on_fixed_position_vectors_is_an_error():
    run = run_of("onehot_rms_relu")
    with pytest.raises(HookNotFiredError, match="no gradient flowed through it"):
        embedding_gradient(run, ("pos_embed", lambda grad, hook: None))


def test_edits_of_a_forward_hook_are_differentiated_through(plain: Run):
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    hooks = [(("z", 1), lambda act, hook: scale * act)]
    loss = plain.model.run_with_hooks(plain.tokens, "loss", fwd_hooks=hooks)
    (gradient,) = torch.autograd.grad(loss, scale)
    nearby = [scale.detach() + step for step in (-1e-5, 1e-5)]
    losses = [
        plain.model.run_with_hooks(plain.tokens, "loss", fwd_hooks=[(("z", 1), lambda act, hook, s=s: s * act)])
        for s in nearby
    ]
    assert_close(gradient, ((losses[1] - losses[0]) / 2e-5).detach(), atol=1e-6)


def test_a_gradient_through_an_edit_of_one_heads_reads_reaches_that_edit(run: Run):
    edit = random_tensor(run.cfg.d_model).requires_grad_()
    hooks = [(("q_input", 1), lambda act, hook: act + edit)]
    logits = run.model.run_with_hooks(run.tokens, fwd_hooks=hooks)
    assert torch.autograd.grad(run.objective(logits), edit)[0].abs().max() > 1e-8
