"""Runs that watch or change: how long hooks live, what a cache holds, and gradients at hook points."""

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from grid import SEED, Run, as_text, assert_close, everywhere, random_tensor, run_of, where
from torch import Tensor

from interp import CacheError, HookedTransformer, HookNotFiredError, HookNotFoundError, HookPoint, TokenError


class Stop(Exception):
    """Raised by a test's hook."""


def stop(act: Tensor, hook: HookPoint) -> None:
    raise Stop


def watch(act: Tensor, hook: HookPoint) -> None:
    return None


def add_one(act: Tensor, hook: HookPoint) -> Tensor:
    return act + 1


def zero_in_place(act: Tensor, hook: HookPoint) -> None:
    act.zero_()


def hooks_left(model: HookedTransformer) -> list[str]:
    return [name for name, point in model.hook_points.items() if point.hooks]


# ---------------------------------------------------------------------------------------------- how long hooks live


def test_hooks_of_a_run_are_gone_after_it(plain: Run):
    plain.model.run_with_hooks(plain.tokens, fwd_hooks=everywhere(plain.model, watch))
    assert hooks_left(plain.model) == []


def test_hooks_may_come_from_any_iterable(plain: Run):
    hooks = ((name, add_one) for name in ("hook_embed", "hook_pos_embed"))
    logits = plain.model.run_with_hooks(plain.tokens, fwd_hooks=hooks)
    assert_close(logits, plain.model(plain.cache["resid_pre", 0] + 2, start_at_layer=0))


def test_hooks_of_a_run_are_gone_after_an_exception(plain: Run):
    with pytest.raises(Stop):
        plain.model.run_with_hooks(plain.tokens, fwd_hooks=[*everywhere(plain.model, watch), (("z", 1), stop)])
    assert hooks_left(plain.model) == []


def test_an_exception_in_a_hook_says_at_which_point_it_was_raised(plain: Run):
    with pytest.raises(Stop) as raised:
        plain.model.run_with_hooks(plain.tokens, fwd_hooks=[(("z", 1), stop)])
    assert "raised by the hook at blocks.1.attn.hook_z (fwd)" in raised.value.__notes__


@pytest.mark.parametrize("direction", ["fwd_hooks", "bwd_hooks"])
def test_one_bad_name_among_many_leaves_no_hook_behind(plain: Run, direction: str):
    hooks = {"fwd_hooks": [("hook_embed", watch)], "bwd_hooks": [("hook_embed", watch)]}
    hooks[direction] = [("hook_embed", watch), ("hook_embet", watch)]
    with pytest.raises(HookNotFoundError, match="did you mean 'hook_embed'"), plain.model.hooks(**hooks):
        pass
    assert hooks_left(plain.model) == []


def test_hooks_of_a_block_act_inside_it_only(plain: Run):
    with plain.model.hooks([("hook_embed", add_one)]):
        inside = plain.model(plain.tokens)
    assert not torch.equal(inside, plain.logits)
    assert torch.equal(plain.model(plain.tokens), plain.logits)


def test_hooks_of_a_block_are_gone_after_an_exception(plain: Run):
    with pytest.raises(Stop), plain.model.hooks([("hook_embed", add_one)], [("hook_embed", watch)]):
        raise Stop
    assert hooks_left(plain.model) == []


def test_an_inner_block_leaves_the_outer_ones_hooks_as_they_were(plain: Run):
    with plain.model.hooks([("hook_embed", add_one)]):
        outer = plain.model(plain.tokens)
        with pytest.raises(Stop), plain.model.hooks([("hook_embed", zero_in_place), (("z", 0), zero_in_place)]):
            raise Stop
        assert torch.equal(plain.model(plain.tokens), outer)


def test_hooks_of_nested_blocks_act_together_from_the_outside_in(plain: Run):
    with plain.model.hooks([("hook_embed", add_one)]), plain.model.hooks([("hook_embed", lambda act, hook: 3 * act)]):
        _, cache = plain.model.run_with_cache(plain.tokens)
    assert torch.equal(cache["embed"], 3 * (plain.cache["embed"] + 1))


def test_an_added_hook_stays_until_reset(plain: Run):
    plain.model.add_hook("hook_embed", add_one)
    first, second = plain.model(plain.tokens), plain.model(plain.tokens)
    plain.model.reset_hooks()
    assert torch.equal(first, second) and not torch.equal(first, plain.logits)
    assert torch.equal(plain.model(plain.tokens), plain.logits)


def test_an_added_backward_hook_acts_on_every_backward_pass_until_reset(plain: Run):
    fired: list[str] = []
    plain.model.add_hook(("z", 0), lambda grad, hook: fired.append(hook.name), dir="bwd")
    losses = [plain.model(plain.tokens, "loss") for _ in range(3)]
    for loss in losses[:2]:
        torch.autograd.grad(loss, plain.model.W_E)
    plain.model.reset_hooks()
    torch.autograd.grad(losses[2], plain.model.W_E)
    assert fired == ["blocks.0.attn.hook_z"] * 2


def test_an_unknown_direction_is_an_error(plain: Run, as_installed: None):
    with pytest.raises(ValueError, match="allowed: 'fwd', 'bwd'"):
        plain.model.add_hook("hook_embed", watch, dir="both")  # pyright: ignore[reportArgumentType]


def test_a_copied_model_starts_without_the_originals_hooks(plain: Run):
    plain.model.add_hook("hook_embed", add_one)
    assert torch.equal(copy.deepcopy(plain.model)(plain.tokens), plain.logits)


def test_hooks_on_a_copied_model_leave_the_original_alone(plain: Run):
    twin = copy.deepcopy(plain.model)
    twin.add_hook("hook_embed", add_one)
    assert torch.equal(plain.model(plain.tokens), plain.logits)
    assert not torch.equal(twin(plain.tokens), plain.logits)


# ---------------------------------------------------------------------------------------------- hooks that never fire


def test_a_block_without_a_run_is_an_error_that_names_the_hook(plain: Run):
    with (
        pytest.raises(HookNotFiredError, match=r"fwd hook on \('z', 0\) never ran"),
        plain.model.hooks([(("z", 0), watch)]),
    ):
        pass


def test_a_block_whose_runs_stop_before_the_hook_is_an_error(plain: Run):
    with pytest.raises(HookNotFiredError, match="no forward pass reached it"), plain.model.hooks([(("z", 2), watch)]):
        plain.model(plain.tokens, stop_at_layer=1)


def test_a_block_without_a_backward_pass_is_an_error(plain: Run):
    with (
        pytest.raises(HookNotFiredError, match="no gradient flowed"),
        plain.model.hooks(bwd_hooks=[(("z", 0), watch)]),
    ):
        plain.model(plain.tokens)


def test_an_exception_that_ends_a_block_is_not_hidden_by_hooks_that_never_ran(plain: Run):
    with pytest.raises(Stop), plain.model.hooks([(("z", 0), watch)]):
        raise Stop


RUNS: dict[str, Callable[[Run, Tensor], Any]] = {
    "a run": lambda run, ids: run.model(ids),
    "a cached run": lambda run, ids: run.model.run_with_cache(ids),
    "generation": lambda run, ids: run.model.generate(ids, 2),
    "a stream of tokens": lambda run, ids: next(run.model.stream(ids, 2)),
}


@pytest.mark.parametrize("kind", RUNS)
def test_the_error_of_a_run_that_the_block_caught_is_followed_by_no_other(plain: Run, kind: str):
    for ids, hook in ((torch.tensor([[1, 99]]), watch), (plain.tokens[:, :3], stop)):
        with plain.model.hooks([(("z", 0), hook), (("z", 1), watch)]), pytest.raises((TokenError, Stop)):
            RUNS[kind](plain, ids)


UNREACHABLE: list[tuple[Any, dict[str, Any]]] = [
    (("z", 1), {"stop_at_layer": 1}),
    ("ln_final.hook_scale", {"stop_at_layer": 3}),
    (("resid_post", -1), {"stop_at_layer": -1}),
    (("resid_pre", 0), {"start_at_layer": 1}),
    ("hook_embed", {"start_at_layer": 0}),
    ("hook_pos_embed", {"start_at_layer": 1}),
    (lambda name: name.startswith("blocks.2."), {"stop_at_layer": 2}),
]


@pytest.mark.parametrize(("asked", "forward"), UNREACHABLE, ids=as_text)
@pytest.mark.parametrize("method", ["run_with_hooks", "run_with_cache"])
def test_a_name_that_the_run_cannot_reach_is_an_error_before_the_run(
    plain: Run, method: str, asked: Any, forward: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    input = plain.cache["resid_pre", 1] if "start_at_layer" in forward else plain.tokens
    monkeypatch.setattr(plain.model, "forward", lambda *args, **kwargs: pytest.fail("the run began"))
    asked_for = {"names_filter": asked} if method == "run_with_cache" else {"fwd_hooks": [(asked, watch)]}
    with pytest.raises(HookNotFiredError, match="is not reached by a run with"):
        getattr(plain.model, method)(input, **forward, **asked_for)


def test_one_unreachable_name_in_a_list_is_an_error(plain: Run):
    with pytest.raises(HookNotFiredError, match=r"blocks\.2\.hook_resid_pre"):
        plain.model.run_with_cache(plain.tokens, names_filter=[("z", 0), "blocks.2.hook_resid_pre"], stop_at_layer=1)


def test_a_glob_is_cut_to_the_points_that_the_run_reaches(plain: Run):
    _, cache = plain.model.run_with_cache(plain.tokens, names_filter="blocks.*.attn.hook_z", stop_at_layer=2)
    assert list(cache) == ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]


def test_position_vectors_that_a_resumed_run_reads_can_be_hooked():
    run = run_of("shortformer_attn_only")
    stream = run.cache["resid_pre", 1]
    edited = run.model.run_with_hooks(stream, start_at_layer=1, fwd_hooks=[("pos_embed", zero_in_place)])
    assert not torch.equal(edited, run.logits)


# ---------------------------------------------------------------------------------------------- what a cache holds


def test_a_cache_without_a_filter_holds_every_point_that_is_not_lazy(run: Run):
    assert list(run.cache) == [name for name, row in run.model.hook_map().items() if not row.lazy]


@pytest.mark.parametrize(
    ("names", "want"),
    [
        ("hook_embed", ["hook_embed"]),
        (("pattern", -1), ["blocks.2.attn.hook_pattern"]),
        ("blocks.*.hook_mlp_in", [f"blocks.{layer}.hook_mlp_in" for layer in range(3)]),
        (lambda name: "ln_final" in name, ["ln_final.hook_scale", "ln_final.hook_normalized"]),
        ([("result", 1), "embed", ("z", 1)], ["hook_embed", "blocks.1.attn.hook_z", "blocks.1.attn.hook_result"]),
        ([("z", 1), ("z", 1)], ["blocks.1.attn.hook_z"]),
    ],
    ids=as_text,
)
def test_a_cache_holds_the_points_that_its_filter_names_in_order_of_execution(plain: Run, names: Any, want: list[str]):
    assert list(plain.model.run_with_cache(plain.tokens, names_filter=names)[1]) == want


@pytest.mark.parametrize(
    "names", [[], ["hook_embed", "hook_embet"], "blocks.*.hook_none", lambda name: False], ids=as_text
)
def test_a_filter_that_names_nothing_is_an_error(plain: Run, names: Any):
    with pytest.raises(HookNotFoundError):
        plain.model.run_with_cache(plain.tokens, names_filter=names)


def test_a_cache_holds_what_a_hook_sees_at_every_point(run: Run):
    seen: dict[str, Tensor] = {}
    hooks = everywhere(run.model, lambda act, hook: seen.update({hook.name: act}))
    run.model.run_with_hooks(run.tokens, fwd_hooks=hooks)
    assert [name for name in seen if not torch.equal(run.everything[name], seen[name])] == []


@where(lambda cfg: cfg.attn_implementation == "eager")
@pytest.mark.parametrize("names", [None, lambda name: name.endswith(("_in", "_input", "result"))], ids=["all", "lazy"])
def test_caching_changes_no_bit_of_the_result(run: Run, names: Any):
    assert torch.equal(run.model.run_with_cache(run.tokens, names_filter=names)[0], run.logits)


def test_what_a_cache_holds_is_detached_from_the_graph(run: Run):
    logits, cache = run.model.run_with_cache(run.tokens)
    assert logits.requires_grad
    assert [name for name, value in cache.items() if value.requires_grad] == []


def test_a_cached_run_passes_its_options_on(plain: Run):
    stream, cache = plain.model.run_with_cache(plain.cache["resid_pre", 1], start_at_layer=1, stop_at_layer=2)
    assert torch.equal(stream, plain.cache["resid_pre", 2])
    assert {name.split(".")[1] for name in cache if name.startswith("blocks.")} == {"1"}


def test_a_cache_can_be_kept_on_another_device(plain: Run):
    _, cache = plain.model.run_with_cache(plain.tokens, device="meta")
    assert {value.device.type for value in cache.values()} == {"meta"}


@pytest.mark.parametrize("pos", [2, -1, [0, -2], slice(1, 5), slice(None, None, -2), [3, 3]], ids=str)
def test_a_cache_can_be_cut_to_some_positions(plain: Run, pos: int | slice | Sequence[int]):
    _, cache = plain.model.run_with_cache(plain.tokens, names_filter=list(plain.model.hook_map()), pos_slice=pos)
    wanted = list(range(7))[pos] if isinstance(pos, slice) else [pos] if isinstance(pos, int) else pos
    for name, value in cache.items():
        axis = 2 if name.endswith(("scores", "pattern")) else 1
        assert torch.equal(value, plain.everything[name].index_select(axis, torch.tensor(wanted) % 7)), name


def test_positions_that_are_cut_off_take_no_memory(plain: Run):
    _, cache = plain.model.run_with_cache(plain.tokens, pos_slice=-1)
    assert [name for name, v in cache.items() if v.untyped_storage().nbytes() > v.numel() * v.element_size()] == []


# ---------------------------------------------------------------------------------------------- caches and edits


def test_the_callers_hooks_survive_a_cached_run(plain: Run):
    plain.model.add_hook(("resid_pre", 1), add_one)
    before = plain.model(plain.tokens)
    plain.model.run_with_cache(plain.tokens)
    assert torch.equal(plain.model(plain.tokens), before)
    assert hooks_left(plain.model) == ["blocks.1.hook_resid_pre"]


def test_a_cached_run_that_raises_leaves_only_the_callers_hooks(plain: Run):
    plain.model.add_hook(("z", 1), stop)
    with pytest.raises(Stop):
        plain.model.run_with_cache(plain.tokens)
    assert hooks_left(plain.model) == ["blocks.1.attn.hook_z"]


def test_a_cache_holds_the_callers_edits(plain: Run):
    plain.model.add_hook(("resid_pre", 1), add_one)
    _, cache = plain.model.run_with_cache(plain.tokens)
    assert torch.equal(cache["resid_pre", 1], plain.cache["resid_pre", 1] + 1)


def test_an_edit_in_place_leaves_everything_cached_before_it_bit_identical(run: Run):
    every = list(run.model.hook_map())
    edited = random.Random(SEED).choice(every)
    with run.model.hooks([(edited, zero_in_place)]):
        _, cache = run.model.run_with_cache(run.tokens)
    before = [name for name in every[: every.index(edited)] if name in cache]
    assert [name for name in before if not torch.equal(cache[name], run.everything[name])] == []


def test_an_edit_in_place_of_resid_pre_leaves_the_cached_resid_post_before_it_alone(run: Run):
    with run.model.hooks([(("resid_pre", 1), zero_in_place)]):
        _, cache = run.model.run_with_cache(run.tokens)
    assert torch.equal(cache["resid_post", 0], run.cache["resid_post", 0])
    assert (cache["resid_pre", 1] == 0).all()


def test_a_run_inside_a_hook_of_a_cached_run_is_an_error(plain: Run):
    def run_again(act: Tensor, hook: HookPoint) -> None:
        hook.hooks.clear()
        plain.model(plain.tokens)

    plain.model.add_hook(("resid_pre", 1), run_again)
    with pytest.raises(CacheError, match="ran twice in one cached run"):
        plain.model.run_with_cache(plain.tokens)


@pytest.mark.parametrize("edit", [add_one, zero_in_place], ids=["returned", "in place"])
def test_a_cache_knows_that_its_run_was_edited(plain: Run, edit: Any):
    with plain.model.hooks([(("z", 1), edit)]):
        assert plain.model.run_with_cache(plain.tokens)[1].edited


def test_a_hook_that_edited_an_earlier_run_has_not_edited_this_one(plain: Run):
    scales = [2.0]
    plain.model.add_hook(("z", 1), lambda act, hook: scales.pop() * act if scales else None)
    assert [plain.model.run_with_cache(plain.tokens)[1].edited for _ in range(2)] == [True, False]


def test_a_run_that_hooks_only_watched_was_not_edited(plain: Run):
    with plain.model.hooks(everywhere(plain.model, watch)):
        assert not plain.model.run_with_cache(plain.tokens)[1].edited


@pytest.mark.parametrize("returned", [False, True])
def test_a_cache_does_not_see_later_edits_of_a_tensor_that_a_hook_kept(plain: Run, returned: bool):
    kept: list[Tensor] = []

    def keep(act: Tensor, hook: HookPoint) -> Tensor | None:
        kept.append(act)
        return act if returned else None

    with plain.model.hooks([(("resid_post", 0), keep)]):
        _, cache = plain.model.run_with_cache(plain.tokens)
    kept[0].zero_()
    assert torch.equal(cache["resid_pre", 1], plain.cache["resid_pre", 1])


def test_a_run_does_not_see_later_edits_of_a_tensor_that_a_hook_kept(plain: Run):
    kept: list[Tensor] = []

    def edit_kept(act: Tensor, hook: HookPoint) -> None:
        kept[0].zero_()

    hooks = [(("resid_pre", 1), lambda act, hook: kept.append(act)), (("z", 1), edit_kept)]
    with torch.no_grad():
        assert torch.equal(plain.model.run_with_hooks(plain.tokens, fwd_hooks=hooks), plain.logits)


def test_a_cache_does_not_see_later_edits_of_a_tensor_that_a_hook_returned(plain: Run):
    patch = random_tensor(3, 7, 24)
    want = patch.clone()
    with plain.model.hooks([(("resid_post", 0), lambda act, hook: patch)]):
        _, cache = plain.model.run_with_cache(plain.tokens)
    patch.zero_()
    assert torch.equal(cache["resid_pre", 1], want)
