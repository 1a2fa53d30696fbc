"""Differences of caches and caches of gradients: what is linear holds, and what needs a run is refused."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import GRID, Run, assert_close, build, config, random_tokens, run_of, where
from torch import Tensor

from interp import ActivationCache, CacheError, HookedTransformer, HookNotFoundError, ShapeError
from interp.interventions import Patch, Zero
from interp.lens import direct_attribution, logit_lens
from interp.metrics import Logit
from interp.model import Stack
from interp.patching import sweep


def caches(model: HookedTransformer, **options: Any) -> tuple[ActivationCache, ActivationCache]:
    return tuple(  # pyright: ignore[reportReturnType]
        model.run_with_cache(random_tokens(model.cfg, seed), None, **options)[1] for seed in (1, 2)
    )


# ---------------------------------------------------------------------------------------------- differences


@torch.no_grad()
@where(lambda cfg: cfg.norm_position != "post" and not cfg.embed_norm)
def test_rows_of_a_difference_are_differences_of_rows_and_sum_to_that_of_the_streams(run: Run):
    one, other = caches(run.model)
    both = one - other
    asked: list[Callable[[ActivationCache], Stack]] = [lambda cache: cache.decompose_resid()]
    asked += [lambda cache: cache.decompose_resid(2), lambda cache: cache.accumulated_resid()]
    asked += [lambda cache: cache.decompose_resid(1, mode="attn")]
    if run.cfg.norm_position != "both" or run.cfg.normalization_type is None:
        asked += [lambda cache: cache.get_full_resid_decomposition(2, expand_neurons=not run.cfg.attn_only)]
        asked += [lambda cache: cache.stack_head_results(2)]
    for ask in asked:
        made, first, second = ask(both), ask(one), ask(other)
        assert [label for label in first.labels if label != "bias"] == made.labels
        for label, values in made:
            assert_close(values, first[label] - second[label])
    rows = both.decompose_resid(1).values
    assert_close(rows.sum(0), one["resid_pre", 1] - other["resid_pre", 1])


def test_activations_of_a_difference_are_differences_and_hidden_scores_are_zero():
    model = run_of("learned_ln").model
    one, other = caches(model)
    both = one - other
    assert both.kind == "difference" and list(both) == list(one) and "differences" in repr(both)
    assert_close(both["z", 1], one["z", 1] - other["z", 1])
    assert not both["attn_scores", 0].isnan().any() and (both["attn_scores", 0][..., 0, 1:] == 0).all()
    sliced = both.slice(batch=[0, 2], pos=slice(1, 3))
    assert sliced.kind == "difference" and torch.equal(sliced["z", 0], both["z", 0][[0, 2], 1:3])
    for twin in (copy.copy(both), copy.deepcopy(both), pickle.loads(pickle.dumps(both)), both.to("cpu")):
        assert twin.kind == "difference"


def test_logits_of_a_difference_are_split_where_no_norm_stands_before_them():
    model = run_of("sinusoidal_no_norm").model
    one, other = caches(model)
    rows = (one - other).get_full_resid_decomposition()
    split = (one - other).logit_attrs(rows, 3, 5)
    logits = [model(random_tokens(model.cfg, seed)) for seed in (1, 2)]
    wanted = (logits[0] - logits[1])[..., 3] - (logits[0] - logits[1])[..., 5]
    assert_close(split.values.sum(0), wanted.detach())


def test_an_edit_of_one_run_is_a_row_of_the_difference():
    model = run_of("learned_ln").model
    _, plain = model.run_with_cache(random_tokens(model.cfg, 1))
    with model.intervene(Zero(site="resid_pre", layer=1, pos=0)):
        _, edited = model.run_with_cache(random_tokens(model.cfg, 1))
    rows = (edited - plain).decompose_resid(2)
    assert rows.labels[-1] == "edits"
    assert_close(rows.values.sum(0), edited["resid_pre", 2] - plain["resid_pre", 2])


def test_what_needs_the_norms_of_a_run_is_refused_with_the_reason():
    model = run_of("learned_ln").model
    one, other = caches(model)
    both = one - other
    rows = both.decompose_resid()
    refused: list[Callable[[], Any]] = [
        lambda: both.decompose_resid(apply_ln=True),
        lambda: both.accumulated_resid(apply_ln=True),
        lambda: both.apply_ln_to_stack(rows),
        lambda: both.logit_attrs(rows, 3),
        lambda: direct_attribution(both, 3),
        lambda: logit_lens(both),
        lambda: Patch(both, site="z"),
        lambda: sweep(model, random_tokens(model.cfg, 1), both, Logit(3), progress=False),
        lambda: both - other,
        lambda: both.gradients(),
    ]
    for ask in refused:
        with pytest.raises(CacheError, match="difference of two runs, in which norms had different scales; take what"):
            ask()
    one, other = caches(run_of("post_rms_gated_grouped").model)
    with pytest.raises(CacheError, match=r"blocks.0.ln1, which stands on the stream itself: this cache is"):
        (one - other).decompose_resid()
    one, other = caches(run_of("gemma_like").model)
    with pytest.raises(CacheError, match=r"blocks.0.ln1_post, through which a part is written: this cache is"):
        (one - other).stack_head_results()


def test_caches_without_a_difference_are_refused():
    model, twin = run_of("learned_ln").model, build(config(GRID["learned_ln"]), 3)
    one, other = caches(model)
    with pytest.raises(CacheError, match="two runs of one model"):
        _ = one - caches(twin)[0]
    with pytest.raises(HookNotFoundError, match=r"one of the two caches lacks 'hook_embed'"):
        _ = one - caches(model, names_filter="*.hook_z")[1]
    with pytest.raises(ShapeError, match="has shapes"):
        _ = one - other.slice(batch=0)
    padded = model.run_with_cache(random_tokens(model.cfg, 1), attention_mask=[[0] + [1] * 6] * 3)[1]
    with pytest.raises(ShapeError, match="padded otherwise"):
        _ = one - padded
    with torch.no_grad():
        twin.blocks[0].attn.b_O.add_(1)
    before = caches(twin)
    with torch.no_grad():
        twin.blocks[0].attn.b_O.add_(1)
    with pytest.raises(CacheError, match="weights"):
        _ = before[0] - before[1]


# ---------------------------------------------------------------------------------------------- gradients


def with_gradients(model: HookedTransformer, *names: str) -> ActivationCache:
    wanted = ["*", *names] if names else None
    return model.run_with_cache(random_tokens(model.cfg, 1), None, gradient_of=Logit(3, pos=-1), names_filter=wanted)[1]


@where(lambda cfg: cfg.has_unembed)
def test_rows_of_gradients_are_the_gradients_at_the_writes(run: Run):
    cache = with_gradients(run.model, "*hook_result")
    found = cache.gradients()
    assert found.kind == "gradient"
    rows = found.decompose_resid(2)
    assert rows.labels == [label for label in cache.decompose_resid(2).labels if label != "bias"] and rows.place is None
    for label, values in rows:
        name = f"blocks.{label[0]}.hook_{label[2:]}" if label[0].isdigit() else f"hook_{label}"
        assert torch.equal(values, cache[f"{name}_grad"])
    heads = found.stack_head_results(2)
    assert torch.equal(heads["L1H2"], cache["result_grad", 1][..., 2, :])
    stream = found.accumulated_resid(2)
    assert torch.equal(stream["1_pre"], cache["resid_pre_grad", 1])


def test_gradients_times_a_difference_estimate_what_a_patch_does():
    model = run_of("learned_ln").model
    one, other = caches(model)
    near = model.run_with_cache(random_tokens(model.cfg, 1), None, gradient_of=Logit(3))[1]
    estimate = ((other - one).accumulated_resid().values * near.gradients().accumulated_resid().values).sum(-1)
    wanted = (other["resid_pre", 1] - one["resid_pre", 1]) * near["resid_pre_grad", 1]
    assert_close(estimate[1], wanted.sum(-1))


def test_what_gradients_do_not_have_is_refused_with_the_reason():
    model = run_of("learned_ln").model
    cache = with_gradients(model)
    found = cache.gradients()
    rows = found.decompose_resid()
    refused: list[Callable[[], Any]] = [
        lambda: found.decompose_resid(apply_ln=True),
        lambda: found.logit_attrs(rows, 3),
        lambda: found - found,
        lambda: direct_attribution(found, 3),
    ]
    for ask in refused:
        with pytest.raises(CacheError, match="this cache holds gradients"):
            ask()
    with pytest.raises(HookNotFoundError, match=r"at blocks.0.attn.hook_result, which the cache does not hold"):
        found.stack_head_results()
    with pytest.raises(CacheError, match=r"at blocks.0.hook_mlp_out, the same for each"):
        found.stack_neuron_results()
    with pytest.raises(HookNotFoundError, match="holds no gradients; say gradient_of="):
        caches(model)[0].gradients()


def test_files_know_what_a_cache_holds(tmp_path: Path):
    model = run_of("learned_ln").model
    one, other = caches(model)
    kinds: list[ActivationCache] = [one, one - other, with_gradients(model).gradients()]
    for cache in kinds:
        cache.save(tmp_path / "cache")
        loaded = ActivationCache.load(tmp_path / "cache", model)
        assert loaded.kind == cache.kind
        values: dict[str, Tensor] = dict(loaded)
        assert all(torch.equal(values[name], cache[name]) for name in cache)
