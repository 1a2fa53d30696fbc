"""A run of which nothing is to be returned ends at the last point that somebody watches."""

from typing import Any

import pytest
import torch
from grid import GRID, Run, as_text, build, config

from interp import HookedTransformer, HookPoint
from interp.model import KVCache


def blocks_run(model: HookedTransformer, *args: Any, **options: Any) -> tuple[list[int], Any]:
    """Which blocks began, in a cached run that returns nothing, and its cache."""
    began: list[int] = []
    handles = [
        block.register_forward_pre_hook(lambda *_, layer=layer: began.append(layer))
        for layer, block in enumerate(model.blocks)
    ]
    try:
        output, cache = model.run_with_cache(*args, return_type=None, **options)
    finally:
        for handle in handles:
            handle.remove()
    assert output is None
    return began, cache


def watch(act: torch.Tensor, hook: HookPoint) -> None:
    return None


TOKENS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])


@pytest.mark.parametrize(
    ("names", "want"),
    [
        ("hook_embed", 0),
        (("resid_pre", 0), 1),
        (("resid_pre", 3), 4),
        (("resid_post", 2), 3),
        ([("z", 1), ("pattern", 0)], 2),
        (lambda name: name.endswith("5.hook_resid_pre"), 6),
        ("ln_final.hook_scale", 6),
        (None, 6),
    ],
    ids=as_text,
)
def test_a_cached_run_that_returns_nothing_runs_the_blocks_it_needs(names: Any, want: int):
    model = build(config(GRID["learned_ln"], n_layers=6), seed=1)
    began, cache = blocks_run(model, TOKENS, names_filter=names)
    assert began == list(range(want)) and len(cache)


def test_the_block_of_the_last_point_ends_there():
    model, reached = build(config(GRID["learned_ln"], n_layers=4), seed=1), []
    model.blocks[2].attn.register_forward_pre_hook(lambda *_: reached.append(0))
    blocks_run(model, TOKENS, names_filter=("resid_pre", 2))
    assert not reached
    blocks_run(model, TOKENS, names_filter=("q", 2))
    assert reached


def test_every_point_is_cached_as_in_a_whole_run(run: Run, as_installed: None):
    with torch.no_grad():
        for name in run.model.hook_map():
            _, cache = run.model.run_with_cache(run.tokens, None, names_filter=name)
            assert list(cache) == [name]
            if run.cfg.attn_implementation == "eager":
                assert torch.equal(cache[name], run.everything[name]), name
    assert not any(point.hooks for point in run.model.hook_points.values())
    assert run.model.running.span is None


def test_a_cache_of_a_run_that_returns_nothing_holds_the_final_norm_too(run: Run):
    _, cache = run.model.run_with_cache(run.tokens, return_type=None)
    assert list(cache) == list(run.cache)
    if run.cfg.masked_token_head:
        logits = run.model.unembed(cache["mlm_head.ln.hook_normalized"])[..., 3]
    else:
        logits = cache.logit_attrs(cache.decompose_resid(), 3).values.sum(0)
    if run.cfg.output_logits_soft_cap is None:
        assert torch.allclose(logits, run.logits[..., 3], atol=1e-9)


def test_hooks_on_the_final_norm_run_where_nothing_is_returned(run: Run):
    points = [name for name in run.model.hook_map() if name.startswith("ln_final")]
    for name in points:
        fired: list[str] = []
        hooks: list[Any] = [(name, lambda act, hook, fired=fired: fired.append(hook.name))]
        run.model.run_with_hooks(run.tokens, return_type=None, fwd_hooks=hooks)
        with run.model.hooks(hooks):
            run.model(run.tokens, return_type=None)
        assert fired == [name, name]


def test_a_callers_hook_on_a_later_point_still_runs():
    model, fired = build(config(GRID["learned_ln"], n_layers=6), seed=2), []
    with model.hooks([(("z", 3), lambda act, hook: fired.append(hook.name))]):
        began, cache = blocks_run(model, TOKENS, names_filter=("resid_pre", 1))
    assert began == [0, 1, 2, 3] and fired == ["blocks.3.attn.hook_z"]
    assert list(cache) == ["blocks.1.hook_resid_pre"]


def test_a_callers_hook_at_the_last_point_runs_before_the_cache_takes_it():
    model = build(config(GRID["learned_ln"]), seed=3)
    with model.hooks([(("z", 1), lambda act, hook: act.zero_())]):
        _, cache = blocks_run(model, TOKENS, names_filter=("z", 1))
    assert (cache["z", 1] == 0).all() and cache.edited


def test_a_run_with_a_kv_cache_runs_every_block():
    model, past = build(config(GRID["learned_ln"], n_layers=4), seed=4), KVCache(4)
    assert blocks_run(model, TOKENS, names_filter=("z", 0), kv_cache=past)[0] == [0, 1, 2, 3]
    assert past.n_pos == 4
    assert torch.allclose(model(TOKENS, kv_cache=past)[:, -1], model(torch.cat([TOKENS, TOKENS], dim=1))[:, -1])


def test_an_early_end_in_a_resumed_run_counts_from_its_first_layer(plain: Run):
    began, cache = blocks_run(plain.model, plain.cache["resid_pre", 1], names_filter=("z", 1), start_at_layer=1)
    assert began == [1] and torch.equal(cache["z", 1], plain.cache["z", 1])


def test_a_function_of_what_the_unembedding_reads_makes_the_result(plain: Run):
    last = plain.model(plain.tokens, lambda read: plain.model.unembed(read[:, -1:]))
    assert torch.allclose(last[:, 0], plain.logits[:, -1], atol=1e-12)
