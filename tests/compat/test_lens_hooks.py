"""Hook points, root modules and caching hooks of the TransformerLens module."""

import copy
import pickle
from typing import Any

import pytest
import torch
from grid import GRID, SEED, assert_close, build, config, random_tokens
from torch import Tensor, nn

from interp import HookNotFoundError, ShapeError
from interp.compat.transformer_lens import HookedRootModule, HookedTransformer, HookPoint
from interp.model import Norm

NAMES = ["learned_ln", "rotary_rms_gated_grouped", "partial_rotary_parallel", "shortformer_attn_only"]


def lens(name: str = "learned_ln", **changes: Any) -> HookedTransformer:
    return HookedTransformer.over(build(config(GRID[name], **changes), SEED))


def ids(model: HookedTransformer, batch: int = 2) -> Tensor:
    return random_tokens(model.core.cfg, SEED, batch)


class Doubling(HookedRootModule):
    """A user's own module: points as attributes, in a list and in a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.hook_in = nn.Linear(3, 3), HookPoint()
        self.many = nn.ModuleList([HookPoint()])
        self.chain = nn.Sequential(nn.Identity(), HookPoint())
        self.setup()

    def forward(self, x: Tensor) -> Tensor:
        return self.chain(self.many[0](self.linear(self.hook_in(x)))) * 2


def test_a_module_of_ones_own_has_its_points_named_hooked_and_cached():
    model, x = Doubling(), torch.randn(2, 3, requires_grad=True)
    assert list(model.hook_dict) == ["hook_in", "many.0", "chain.1"]
    assert model.mod_dict["many.0"] is model.many[0] and model.hook_dict["chain.1"].name == "chain.1"
    output, cache = model.run_with_cache(x)
    assert torch.equal(cache["many.0"], model.linear(x)) and torch.equal(output, 2 * cache["chain.1"])
    zeroed = model.run_with_hooks(x, fwd_hooks=[("many.0", lambda value, hook: value * 0)])
    assert not zeroed.any()
    _, cache = model.run_with_cache(x, names_filter=lambda name: "in" in name, remove_batch_dim=True)
    assert [(name, value.shape) for name, value in cache.items()] == [("hook_in", (3,)), ("chain.1", (3,))]


def test_the_hook_is_called_by_keyword_so_that_other_arguments_may_come_first():
    model, seen = lens(), []

    def count(value: Tensor, head: int = 1, *, hook: HookPoint) -> None:
        seen.append((head, hook.name, hook.layer()))

    model.run_with_hooks(ids(model), fwd_hooks=[("blocks.1.attn.hook_z", count)])
    assert seen == [(1, "blocks.1.attn.hook_z", 1)]


@pytest.mark.parametrize("name", NAMES)
def test_watching_every_point_changes_no_bit_and_each_sees_what_the_core_caches(name: str):
    model = lens(name)
    tokens = ids(model)
    plain, seen = model(tokens), {}
    watched = model.run_with_hooks(
        tokens,
        fwd_hooks=[(name, lambda value, hook: seen.update({hook.name: value.clone()})) for name in model.hook_dict],
    )
    assert torch.equal(plain, watched)
    _, cache = model.core.run_with_cache(tokens, names_filter=list(model.hook_dict))
    for point, value in cache.items():
        norm = model.core.get_submodule(point.rpartition(".")[0])
        gain = norm.w if isinstance(norm, Norm) and norm.kind == "RMS" and point.endswith("normalized") else 1
        assert_close((seen[point] * gain).float(), value.float())


def test_permanent_hooks_stay_until_they_are_meant():
    model, calls = lens(), []
    point = model.hook_dict["hook_embed"]
    model.add_perma_hook("hook_embed", lambda value, hook: calls.append(1))
    model.add_hook(lambda name: name == "hook_embed", lambda value, hook: calls.append(2))
    model.reset_hooks()
    assert [handle.is_permanent for handle in point.fwd_hooks] == [True]
    model.run_with_hooks(ids(model), fwd_hooks=[("hook_embed", lambda value, hook: calls.append(3))])
    assert calls == [1, 3]
    model.reset_hooks(including_permanent=True)
    assert not point.fwd_hooks
    model.add_hook("hook_embed", lambda value, hook: None, dir="bwd")
    model.reset_hooks(direction="fwd")
    assert len(point.bwd_hooks) == 1
    point.remove_hooks("both")
    assert not point.bwd_hooks


def test_caches_of_all_and_of_some_take_their_options_in_order():
    model = lens()
    for add, more in ((model.cache_all, ()), (model.cache_some, (lambda name: "embed" in name,))):
        kept: dict[str, Tensor] = {}
        add(kept, *more, True, "cpu", True)
        model(ids(model, 1), return_type="loss").backward()
        model.reset_hooks()
        assert {"hook_embed", "hook_embed_grad"} <= set(kept) and kept["hook_embed"].ndim == 2


def test_blocks_of_hooks_nest_and_end_with_their_own():
    model, calls = lens(), []
    outer = [("hook_embed", lambda value, hook: calls.append("out"))]
    inner = [("hook_embed", lambda value, hook: calls.append("in"))]
    with model.hooks(fwd_hooks=outer):
        with pytest.raises(ZeroDivisionError), model.hooks(fwd_hooks=inner):
            model(ids(model))
            raise ZeroDivisionError
        assert [handle.context_level for handle in model.hook_dict["hook_embed"].fwd_hooks] == [1]
        model(ids(model))
    assert calls == ["out", "in", "out"] and not model.hook_dict["hook_embed"].fwd_hooks
    with model.hooks(fwd_hooks=outer, reset_hooks_end=False):
        pass
    assert len(model.hook_dict["hook_embed"].fwd_hooks) == 1


def test_a_handle_takes_its_hook_off_also_after_the_model_was_processed():
    model, seen = lens(), list[int]()
    for number in (0, 1):
        model.add_perma_hook("hook_embed", lambda value, hook, number=number: seen.append(number))
    model.process_weights_(fold_ln=True)
    model.hook_dict["hook_embed"].fwd_hooks[0].hook.remove()
    model(ids(model))
    assert seen == [1] and len(model.hook_dict["hook_embed"].fwd_hooks) == 1


def test_prepended_hooks_run_first():
    for prepend, last in ((False, 3.0), (True, 2.0)):
        model = lens()
        model.add_hook("hook_embed", lambda value, hook: torch.full_like(value, 2.0))
        model.add_hook("hook_embed", lambda value, hook: torch.full_like(value, 3.0), prepend=prepend)
        assert bool((model.run_with_cache(ids(model))[1]["hook_embed"] == last).all())


def test_hooks_remember_in_ctx_until_contexts_are_cleared():
    model, tokens = lens(), torch.tensor([[1, 2]])

    def count(value: Tensor, hook: HookPoint) -> None:
        hook.ctx["n"] = hook.ctx.get("n", 0) + 1

    point = model.hook_dict["hook_embed"]
    for _ in range(2):
        model.run_with_hooks(tokens, fwd_hooks=[("hook_embed", count)])
    assert point.ctx == {"n": 2}
    model.run_with_hooks(tokens, fwd_hooks=[("hook_embed", count)], clear_contexts=True)
    assert point.ctx == {}


def test_backward_hooks_see_and_change_gradients_while_they_are_there():
    model = lens()
    tokens, seen = ids(model), []
    with model.hooks(bwd_hooks=[("blocks.1.hook_resid_pre", lambda gradient, hook: seen.append(gradient.clone()))]):
        model(tokens, return_type="loss").backward()
    _, cache = model.core.run_with_cache(tokens, incl_bwd=True)
    assert_close(seen[0], cache["blocks.1.hook_resid_pre_grad"])
    model.zero_grad()
    with model.hooks(bwd_hooks=[("blocks.0.hook_resid_pre", lambda gradient, hook: (gradient * 0,))]):
        model(tokens, return_type="loss").backward()
    assert model.W_E.grad is not None and not model.W_E.grad.any()
    with pytest.warns(UserWarning, match="reset_hooks_end=False"):
        model.run_with_hooks(tokens, bwd_hooks=[("hook_embed", lambda gradient, hook: seen.append(1))]).sum().backward()
    assert len(seen) == 1


def test_gradients_are_cached_beside_activations_and_reach_the_parameters():
    model = lens()
    tokens = ids(model)
    loss, cache = model.run_with_cache(tokens, return_type="loss", incl_bwd=True)
    _, own = model.core.run_with_cache(tokens, incl_bwd=True)
    for name in ("hook_embed", "blocks.1.attn.hook_pattern", "blocks.0.hook_mlp_out"):
        assert_close(cache[f"{name}_grad"], own[f"{name}_grad"])
    wanted = torch.autograd.grad(model(tokens, return_type="loss"), model.W_E)[0]
    assert model.W_E.grad is not None
    assert_close(model.W_E.grad, wanted)
    assert loss.requires_grad


def test_rms_hooks_see_and_edit_what_the_gain_multiplies():
    model = lens("rotary_rms_gated_grouped")
    tokens, name = ids(model), "blocks.1.ln1.hook_normalized"
    norm = model.blocks[1].ln1
    stream = model.core.run_with_cache(tokens)[1]["blocks.1.hook_resid_pre"]
    unit = stream / (stream.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    assert_close(model.run_with_cache(tokens)[1][name], unit)
    edited = model.run_with_hooks(tokens, fwd_hooks=[(name, lambda value, hook: value + 1)])
    with model.core.hooks(fwd_hooks=[(name, lambda value, hook: value + norm.w)]):
        assert_close(edited, model.core(tokens))

    def add_in_place(value: Tensor, hook: HookPoint) -> None:
        value += 1

    assert_close(model.run_with_hooks(tokens, fwd_hooks=[(name, add_in_place)]), edited)
    gradients: list[Tensor] = []
    with model.hooks(bwd_hooks=[(name, lambda gradient, hook: gradients.append(gradient.clone()))]):
        model(tokens, return_type="loss").backward()
    assert_close(gradients[0], model.core.run_with_cache(tokens, incl_bwd=True)[1][f"{name}_grad"] * norm.w)


def test_a_switch_is_set_by_position_or_by_its_own_name():
    model = lens()
    for switch in ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in", "use_attn_in"):
        for value in (True, False):
            getattr(model, f"set_{switch}")(**{switch: value})
            assert getattr(model.cfg, switch) is value
            getattr(model, f"set_{switch}")(not value)
            assert getattr(model.cfg, switch) is not value
        for wrong in ({}, {"on": True}, {switch: True, "more": True}):
            with pytest.raises(TypeError, match=f"set_{switch} takes {switch} alone"):
                getattr(model, f"set_{switch}")(**wrong)


def test_switches_decide_what_add_hook_takes_and_what_an_unfiltered_cache_keeps():
    model = lens()
    for name, switch in (("blocks.0.attn.hook_result", model.set_use_attn_result),
                         ("blocks.0.hook_q_input", model.set_use_split_qkv_input),
                         ("blocks.0.hook_mlp_in", model.set_use_hook_mlp_in),
                         ("blocks.0.hook_attn_in", model.set_use_attn_in)):  # fmt: skip
        with pytest.raises(AssertionError, match="use_"):
            model.add_hook(name, lambda value, hook: value)
        assert name not in model.run_with_cache(ids(model))[1]
        assert list(model.run_with_cache(ids(model), names_filter=name)[1]) == [name]
        switch(True)
        model.add_hook(name, lambda value, hook: value)
        assert name in model.run_with_cache(ids(model))[1]
        switch(False)
        model.reset_hooks()
    assert not model.run_with_cache(ids(model), names_filter=[])[1]
    assert not model.run_with_cache(ids(model), names_filter=lambda name: False)[1]


def test_positions_are_cut_where_they_are_whatever_the_shape():
    for name in NAMES:
        model = lens(name)
        model.cfg.use_attn_result = model.cfg.use_split_qkv_input = True
        tokens = ids(model)
        whole = model.run_with_cache(tokens)[1]
        for asked, kept in ((-1, [-1]), ((1, 3), [1, 2]), ([0, 2], [0, 2])):
            cut = model.run_with_cache(tokens, pos_slice=asked)[1]
            for point, value in whole.items():
                axis = model.core.hook_points[point].pos_axis
                index = torch.tensor([place % tokens.shape[1] for place in kept])
                assert torch.equal(cut[point], value.index_select(axis, index)), (name, point)


def test_caching_hooks_fill_their_dictionary_in_every_run():
    model = lens()
    kept = model.add_caching_hooks(lambda name: name.endswith("hook_pattern"))
    assert model.is_caching and not kept
    model(ids(model))
    assert list(kept) == [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    model.reset_hooks()
    assert not model.is_caching
    mine: dict[str, Tensor] = {}
    model.cache_some(mine, lambda name: name == "hook_embed")
    model(ids(model))
    assert list(mine) == ["hook_embed"]


def test_copies_and_pickles_start_without_hooks_and_share_nothing():
    model = lens("rotary_rms_gated_grouped")
    tokens = ids(model)
    logits = model(tokens)
    model.add_perma_hook("hook_embed", lambda value, hook: value * 0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(tokens), logits) and not other.hook_dict["hook_embed"].fwd_hooks
        assert other.core.blocks[0] is other.blocks[0] and other.blocks[0] is not model.blocks[0]
        other.add_hook("hook_embed", lambda value, hook: value * 0)
        assert not torch.equal(other(tokens), logits)


@pytest.mark.usefixtures("as_installed")
def test_what_is_no_point_or_no_hook_result_is_refused():
    model = lens()
    with pytest.raises(HookNotFoundError, match=r"hook_embd.*did you mean 'hook_embed'"):
        model.add_hook("hook_embd", lambda value, hook: value)
    with pytest.raises(KeyError), model.hooks(fwd_hooks=[("blocks.9.hook_resid_pre", lambda value, hook: value)]):
        pass
    assert model.context_level == 0
    with pytest.raises(ValueError, match="dir = 'forward'"):
        model.hook_dict["hook_embed"].add_hook(lambda value, hook: value, dir="forward")  # pyright: ignore
    with pytest.raises(ShapeError, match="hook_embed"):
        model.run_with_hooks(ids(model), fwd_hooks=[("hook_embed", lambda value, hook: value[0])])
    with pytest.raises(ValueError, match="names_filter"):
        model.run_with_cache(ids(model), names_filter=3)
