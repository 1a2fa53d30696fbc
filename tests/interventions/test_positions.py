"""Positions of interventions, hooks and caches count along the whole sequence, however many runs carry it."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import GRID, assert_close, build, config, random_tensor, run_of
from torch import Tensor

from interp import ConfigError, HookedTransformer, HookNotFiredError, HookPoint, ShapeError
from interp.interventions import (
    FreezeNorms,
    FreezePattern,
    Intervention,
    Interventions,
    Mean,
    Patch,
    Resample,
    Steer,
    Zero,
)
from interp.model import KVCache

NAMES = ["learned_ln", "rotary_rms_gated_grouped", "partial_rotary_parallel", "post_rms_gated_grouped", "gemma_like"]


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> HookedTransformer:
    return build(config(GRID[request.param]), seed=21)


def tokens(seed: int = 3, n: int = 4) -> Tensor:
    return torch.randint(11, (3, n), generator=torch.Generator().manual_seed(seed))


def by_full_runs(model: HookedTransformer, prompt: Tensor, n: int, site: str, edit: Any) -> Tensor:
    """Greedy generation without a KV cache; `edit(stream, first_generated)` writes to a whole sequence."""
    sequence = prompt
    for _ in range(n):
        hooks = [((site, 1), lambda x, hook: edit(x, prompt.shape[1]))]
        logits = model.run_with_hooks(sequence, fwd_hooks=hooks)
        sequence = torch.cat([sequence, logits[:, -1:].argmax(-1)], dim=1)
    return sequence


def in_pieces(model: HookedTransformer, whole: Tensor, steps: list[int], **options: Any) -> Tensor:
    cache = KVCache(model.cfg.n_layers, **options)
    return torch.cat([model(piece, kv_cache=cache) for piece in whole.split(steps, dim=1)], dim=1)


# ---------------------------------------------------------------------------------------------- generation


@torch.no_grad()
@pytest.mark.parametrize("pos", [0, 2, -1, -4, (1, -1), 5, (0, 6), "generated"], ids=str)
def test_in_generation_a_position_is_written_to_once_where_it_is(model: HookedTransformer, pos: Any):
    vector = 5 * random_tensor(24, seed=1)

    def edit(x: Tensor, n_prompt: int) -> None:
        several = pos if isinstance(pos, tuple) else (pos,)
        for one in range(n_prompt, x.shape[1]) if pos == "generated" else several:
            number = one if one >= 0 else n_prompt + one
            if number < x.shape[1]:
                x[:, number] += vector

    steered = Steer(vector, site="resid_mid" if model.cfg.has_resid_mid else "resid_pre", layer=1, pos=pos)
    with model.intervene(steered):
        generation = model.generate(tokens(), 4, progress=False)
    assert torch.equal(generation.tokens, by_full_runs(model, tokens(), 4, str(steered.site), edit))


@torch.no_grad()
def test_what_is_steered_everywhere_is_the_prompt_and_what_is_generated():
    model, vector = build(config(GRID["learned_ln"]), seed=2), random_tensor(24)
    together = Steer(vector, site="resid_pre", layer=1, pos=range(4)) + Steer(
        vector, site="resid_pre", layer=1, pos="generated"
    )
    runs = []
    for steering in (together, Steer(vector, site="resid_pre", layer=1)):
        with model.intervene(steering):
            cache = model.generate(tokens(), 4, names_filter=("resid_pre", 1), progress=False).cache
        assert cache is not None
        runs.append(cache["resid_pre", 1])
    assert torch.equal(*runs)


def test_a_position_that_generation_cannot_reach_is_an_error_before_the_first_block():
    model = build(config(GRID["learned_ln"]), seed=3)
    began = []
    model.add_hook("hook_embed", lambda x, hook: began.append(hook.name))
    for pos in (7, -5):
        with (
            pytest.raises(ConfigError, match=rf"Zero\(.*pos={pos}\): pos = {pos}; allowed: -4 to 6"),
            model.intervene(Zero(site="z", layer=0, pos=pos)),
        ):
            model.generate(tokens(), 4, progress=False)
    assert not began


@pytest.mark.parametrize(("pos", "n"), [((0, 6), 3), ("generated", 1), (5, 1)], ids=str)
def test_a_position_that_no_step_came_to_is_an_error(pos: Any, n: int):
    model = build(config(GRID["learned_ln"]), seed=4)
    first = int(model.generate(tokens()[:1], 1, progress=False).tokens[0, -1])
    missed = repr(6 if isinstance(pos, tuple) else pos)
    with (
        pytest.raises(HookNotFiredError, match=rf"never carried out at pos = {missed}: no run had that position"),
        model.intervene(Zero(site="mlp_out", layer=0, pos=pos)),
    ):
        for _ in range(2):
            cache = KVCache(3, n_prompt=4)
            model(tokens()[:1], kv_cache=cache)
            for _ in range(n - 1):
                model(torch.tensor([[first]]), kv_cache=cache)


# ---------------------------------------------------------------------------------------------- runs in pieces


@torch.no_grad()
def test_whatever_is_written_at_positions_is_the_same_in_one_run_and_in_pieces(model: HookedTransformer):
    whole = tokens(n=7)
    _, other = model.run_with_cache(tokens(5, n=7))
    vectors = random_tensor(7, 24, seed=2)
    cases: list[Intervention | Interventions] = [
        Zero(site="z", layer=1, head=2, pos=(0, 4)),
        Patch(other, site="z", layer=1, pos=(2, 5)),
        Patch(other, site="resid_post", layer=0),
        Mean(other, site="mlp_out", layer=1, pos=6),
        Mean(other, site="mlp_out", layer=1, per_position=False),
        Resample(other, site="v", layer=0, pos=(0, 3)),
        Steer(vectors, site="resid_pre", layer=1),
        Steer(vectors[:1], site="resid_pre", layer=1, pos=(3, 4)),
        FreezePattern(other),
        FreezePattern(other, layer=1, head=0, pos=(1, 6)),
        Zero(site="pattern", layer=1, key_pos=(0, 3)),
        Patch(other, site="attn_scores", layer=1, pos=5, key_pos=1),
    ]
    if model.cfg.normalization_type is not None:
        cases.append(FreezeNorms(other))
    for case in cases:
        with model.intervene(case):
            at_once = model(whole)
        assert not torch.equal(at_once, model(whole)), case
        for steps in ([3, 1, 3], [1] * 7, [5, 2]):
            with model.intervene(case):
                assert_close(in_pieces(model, whole, steps), at_once)


@torch.no_grad()
def test_patterns_frozen_as_one_generation_had_them_hold_in_another(model: HookedTransformer):
    cache = model.generate(tokens(), 4, names_filter="*pattern", progress=False).cache
    assert cache is not None
    vector = random_tensor(24, seed=3)
    with model.intervene(FreezePattern(cache), Steer(vector, site="resid_pre", layer=0)):
        frozen = model.generate(tokens(), 4, names_filter="*pattern", progress=False).cache
    assert frozen is not None and all(torch.equal(frozen[name], cache[name]) for name in cache)


def test_values_that_do_not_reach_as_far_as_a_generation_are_an_error_before_its_first_step():
    model = build(config(GRID["learned_ln"]), seed=5)
    _, cache = model.run_with_cache(tokens())
    with (
        pytest.raises(ShapeError, match=r"FreezePattern.* have 4 positions, and position 6 .*pos=range\(4\)"),
        model.intervene(FreezePattern(cache)),
    ):
        model.generate(tokens(), 4, progress=False)
    with model.intervene(FreezePattern(cache, pos=range(4))):
        model.generate(tokens(), 4, progress=False)


def test_values_too_short_for_a_piece_are_an_error():
    model = build(config(GRID["learned_ln"]), seed=5)
    _, cache = model.run_with_cache(tokens())
    with pytest.raises(ShapeError, match="have 4 positions, and position 6"), model.intervene(Patch(cache, site="z")):
        in_pieces(model, tokens(n=7), [4, 3])


@pytest.mark.parametrize("pos", [-1, "generated"])
def test_where_the_prompt_ends_must_be_known_to_count_from_there(pos: Any):
    model = build(config(GRID["learned_ln"]), seed=6)
    item, whole = Steer(random_tensor(24), site="resid_pre", layer=1, pos=pos), tokens(n=7)
    with pytest.raises(ConfigError, match=r"KVCache\(n_layers, n_prompt=\)"), model.intervene(item):
        in_pieces(model, whole, [3, 4])
    with model.intervene(item):
        known = in_pieces(model, whole, [3, 4], n_prompt=5)
    numbers = (4,) if pos == -1 else (5, 6)
    with model.intervene(Steer(item.direction["direction"], site="resid_pre", layer=1, pos=numbers)):
        assert_close(known, model(whole))


def test_no_position_of_a_plain_run_is_generated():
    model = build(config(GRID["learned_ln"]), seed=6)
    with pytest.raises(HookNotFiredError, match="pos = 'generated'"), model.intervene(Zero(site="z", pos="generated")):
        model(tokens())


# ---------------------------------------------------------------------------------------------- padding


@torch.no_grad()
def test_positions_are_columns_of_a_padded_batch():
    model, vector = build(config(GRID["rotary_rms_gated_grouped"]), seed=7), random_tensor(24)
    prompts, mask = tokens(n=5), torch.ones(3, 5, dtype=torch.long)
    mask[1, :2] = 0
    with model.intervene(Steer(vector, site="resid_pre", layer=1, pos=(3, -1))):
        together = model(prompts, attention_mask=mask)
    for prompt, pos in ((0, (3, -1)), (1, (1, -1))):
        real = prompts[prompt : prompt + 1, mask[prompt] == 1]
        with model.intervene(Steer(vector, site="resid_pre", layer=1, pos=pos)):
            assert_close(together[prompt, mask[prompt] == 1], model(real)[0])


@pytest.mark.parametrize("word", ["pos", "key_pos"])
def test_a_position_that_is_padding_in_one_prompt_is_an_error(word: str):
    model, mask = build(config(GRID["learned_ln"]), seed=8), torch.ones(3, 5, dtype=torch.bool)
    mask[1, :2] = False
    for pos in (1, (4, -5)):
        with (
            pytest.raises(ConfigError, match=rf"{word} = {pos if isinstance(pos, int) else -5} is padding in prompt 1"),
            model.intervene(Zero(site="pattern", layer=0, **{word: pos})),
        ):
            model.generate(tokens(n=5), 2, attention_mask=mask, progress=False)


# ---------------------------------------------------------------------------------------------- hooks and caches


@torch.no_grad()
def test_a_hook_is_told_where_in_the_sequence_its_positions_are():
    model, seen = build(config(GRID["learned_ln"]), seed=9), []

    def look(x: Tensor, hook: HookPoint) -> None:
        if not nested:
            nested.append(hook.name)
            model(tokens(n=2))  # a run inside a hook leaves the outer one's positions as they are
            nested.clear()
            assert hook.span is not None
            seen.append((hook.first_pos, x.shape[hook.pos_axis], x.shape[-1], hook.span.n_prompt, hook.span.n_final))

    nested: list[str] = []
    with model.hooks([("blocks.1.attn.hook_pattern", look)]):
        model.generate(tokens(), 3, progress=False)
        model(tokens())
    assert seen == [(0, 4, 4, 4, 6), (4, 1, 5, 4, 6), (5, 1, 6, 4, 6), (0, 4, 4, 4, 4)]
    assert model.hook_points["hook_embed"].span is None


def test_hooks_on_the_final_norm_are_told_their_positions_too():
    model, seen = build(config(GRID["learned_ln"]), seed=9), []
    with model.hooks([("ln_final.hook_scale", lambda x, hook: seen.append((hook.first_pos, x.shape[1])))]):
        model.generate(tokens(), 3, progress=False)
    assert seen == [(0, 4), (4, 1), (5, 1)]


def test_a_hook_that_fails_at_the_final_norm_leaves_the_kv_cache_as_it_was():
    run = run_of("learned_ln")
    cache = KVCache(3)

    def fail(x: Tensor, hook: HookPoint) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.model.run_with_hooks(run.tokens, fwd_hooks=[("ln_final.hook_scale", fail)], kv_cache=cache)
    assert cache.n_pos == 0 and run.model.running.span is None


def test_the_positions_that_a_cache_keeps_count_along_the_sequence():
    run = run_of("rotary_rms_gated_grouped")
    kept: dict[Any, list[Tensor]] = {}
    slices: list[Any] = [5, -1, slice(1, 6), [0, 3, 4, 6]]
    for pos in slices:
        cache = KVCache(3)
        for piece in run.tokens.split([3, 1, 3], dim=1):
            try:
                _, part = run.model.run_with_cache(piece, kv_cache=cache, names_filter=("z", 1), pos_slice=pos)
                kept.setdefault(str(pos), []).append(part["z", 1])
            except ShapeError as error:
                assert "counts along the whole sequence" in str(error) or "allowed: integers" in str(error)
                run.model(piece, kv_cache=cache)
    for pos, want in (("5", [5]), ("slice(1, 6, None)", range(1, 6)), ("-1", [2, 3, 6])):
        assert_close(torch.cat(kept[pos], dim=1), run.cache["z", 1][:, list(want)])


# ---------------------------------------------------------------------------------------------- as values


def test_positions_as_words_are_kept_compared_and_shown(tmp_path: Path):
    item = Steer(torch.ones(24), site="resid_pre", layer=1, pos="generated")
    cut = Zero(site="pattern", layer=0, key_pos=(0, -1))
    (item + cut).save(tmp_path / "file")
    assert Interventions.load(tmp_path / "file") == item + cut
    assert len({item, pickle.loads(pickle.dumps(item)), Steer(torch.ones(24), site="resid_pre", layer=1)}) == 2
    assert "pos='generated'" in repr(item) and repr(cut) == "Zero(site='pattern', layer=0, key_pos=(0, -1))"


@pytest.mark.parametrize(("word", "value"), [("pos", "generate"), ("head", "generated"), ("key_pos", ())], ids=str)
def test_any_other_word_is_an_error(word: str, value: Any, as_installed: None):
    with pytest.raises(ConfigError, match=rf"Zero: {word} = "):
        Zero(site="z", **{word: value})


def test_keys_are_named_where_there_are_keys_only():
    model = build(config(GRID["learned_ln"]), seed=10)
    with pytest.raises(ConfigError, match="has no key_pos"), model.intervene(Zero(site="z", key_pos=0)):
        model(tokens())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scales_and_patterns_of_half_precision_can_be_frozen(dtype: torch.dtype):
    model = build(config(GRID["learned_ln"], dtype=torch.float32), seed=11).to(dtype)
    _, cache = model.run_with_cache(tokens())
    with model.intervene(FreezePattern(cache) + FreezeNorms(cache)):
        _, frozen = model.run_with_cache(tokens(4))
    assert torch.equal(frozen["pattern", 1], cache["pattern", 1])
    assert torch.equal(frozen["scale", 1, "ln1"], cache["scale", 1, "ln1"])


@torch.no_grad()
def test_an_intervention_acts_in_a_run_that_starts_at_a_later_layer():
    run = run_of("learned_ln")
    stream = run.cache["resid_pre", 1]  # of a run without the intervention
    with run.model.intervene(Zero(site="z", layer=2, pos=-1)):
        resumed = run.model(stream, start_at_layer=1)
        assert torch.equal(resumed, run.model(run.tokens))
