"""Backward hooks, and gradients in the cache."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from grid import Run, assert_close, everywhere, random_tensor, run_of, where
from torch import Tensor

from interp import ConfigError, HookNotFiredError, HookPoint, ShapeError


def gradients_of_added_zeros(run: Run) -> dict[str, Tensor]:
    """The gradient at every point, by autograd: that of a zero which is added there.

    Scales have a run of their own, because a scale that a hook returns also binds what single heads read.
    """
    zeros: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}

    def add_zero(act: Tensor, hook: HookPoint) -> Tensor:
        zeros[hook.name] = torch.zeros_like(act, requires_grad=True)
        return act + zeros[hook.name]

    for of_scales in (True, False):
        hooks = [hook for hook in everywhere(run.model, add_zero) if str(hook[0]).endswith("hook_scale") == of_scales]
        zeros.clear()
        loss = run.model.run_with_hooks(run.tokens, "loss", fwd_hooks=hooks)
        if zeros:
            gradients |= dict(zip(zeros, torch.autograd.grad(loss, list(zeros.values())), strict=True))
    return gradients


def fixed_points(run: Run) -> set[str]:
    """The points that no gradient reaches, because nothing before them is trained."""
    return {"hook_pos_embed"} if run.cfg.positional_embedding_type in ("onehot", "sinusoidal") else set()


def embedding_gradient(run: Run, *hooks: tuple[Any, Any]) -> Tensor:
    """The gradient of the loss by the embedding, in the presence of backward hooks."""
    with run.model.hooks(bwd_hooks=hooks):
        wanted = [run.model.W_E, *(p for p in run.model.parameters() if p is not run.model.W_E)]
        return torch.autograd.grad(run.model(run.tokens, "loss"), wanted)[0]


# ---------------------------------------------------------------------------------------------- in the cache


def test_cached_gradients_equal_autograds_at_every_point(run: Run):
    want = gradients_of_added_zeros(run)
    got = {name.removesuffix("_grad"): g for name, g in run.everything.items() if name.endswith("_grad")}
    assert got.keys() == want.keys() - fixed_points(run)
    for name in got:
        assert_close(got[name], want[name])


def test_the_cached_gradient_of_the_stream_is_that_of_the_loss_of_the_layers_above(run: Run):
    stream = run.cache["resid_pre", 2].clone().requires_grad_()
    logits = run.model(stream, start_at_layer=2)
    F.cross_entropy(logits[:, :-1].flatten(0, 1), run.tokens[:, 1:].flatten()).backward()
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
    for name in names:
        axis = 2 if name.endswith(("scores", "pattern")) else 1
        assert torch.equal(cache[f"{name}_grad"], plain.everything[f"{name}_grad"].index_select(axis, chosen)), name


@where(lambda cfg: cfg.attn_implementation == "eager")
def test_caching_gradients_changes_no_bit_of_loss_or_activations(run: Run):
    loss, cache = run.model.run_with_cache(run.tokens, "loss", incl_bwd=True)
    assert torch.equal(loss, run.model(run.tokens, "loss"))
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
    "options", [{}, {"return_type": "both"}, {"return_type": "loss", "loss_per_token": True}], ids=str
)
def test_gradients_of_anything_but_the_mean_loss_are_an_error(plain: Run, options: dict[str, Any]):
    with pytest.raises(ConfigError, match="incl_bwd differentiates the mean loss"):
        plain.model.run_with_cache(plain.tokens, incl_bwd=True, **options)


def test_gradients_of_a_model_without_trainable_parameters_are_an_error(plain: Run):
    model = plain.fresh_model().requires_grad_(False)
    with pytest.raises(HookNotFiredError, match="no gradient flows"):
        model.run_with_cache(plain.tokens, "loss", incl_bwd=True)


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
    loss = run.model.run_with_hooks(run.tokens, "loss", fwd_hooks=hooks)
    assert torch.autograd.grad(loss, edit)[0].abs().max() > 1e-8
