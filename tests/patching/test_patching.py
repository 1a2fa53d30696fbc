import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grid import GRID, SMALL, Run, build, config, random_tokens
from torch import Tensor

from interp import (
    CacheError,
    CheckpointError,
    ConfigError,
    HookedTransformer,
    HookNotFoundError,
    HookPoint,
    ShapeError,
    TokenError,
    Vocabulary,
)
from interp.interventions.kinds import Mean, Patch, Resample, Zero
from interp.metrics import KLDivergence, Logit, LogitDifference, Loss, Probability
from interp.patching.packed import PackedForward
from interp.patching.sweeps import SITES, sweep, sweep_sites

N_POS, N_PROMPTS = 7, 2
AXES = {"pos": ("pos", "query_pos"), "head": ("head",), "kv_head": ("kv_head",), "neuron": ("d_mlp",)}
METRIC = LogitDifference((1, 2), (3, 4), pos=-1)
METRIC_1 = Logit(1, pos=-1)


def prompts(model: HookedTransformer, seed: int, differ_at: tuple[int, ...] = (2, 5)) -> tuple[Tensor, Tensor]:
    """Two batches of ids that differ at some positions; the prompts of a batch differ in where."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(model.cfg.d_vocab, (N_PROMPTS, N_POS), generator=generator)
    corrupted = clean.clone()
    for prompt, pos in itertools.product(range(N_PROMPTS), differ_at):
        corrupted[prompt, min(pos + prompt, N_POS - 1)] += 1
    return clean, corrupted % model.cfg.d_vocab


def by_hand(model: HookedTransformer, tokens: Tensor, source: Tensor, name: str, where: dict[str, int]) -> Tensor:
    """Logits of one patched run, with a hook and nothing else."""

    def patch(activation: Tensor, hook: HookPoint) -> None:
        place: list[Any] = [slice(None)] * activation.ndim
        for dim, index in where.items():
            place[next(i for i, axis in enumerate(hook.axes) if axis in AXES[dim])] = index
        activation[tuple(place)] = source[tuple(place)]

    with torch.no_grad():
        return model.run_with_hooks(tokens, fwd_hooks=[(name, patch)])


def granularities(model: HookedTransformer, site: str) -> list[tuple[str, ...]]:
    axes = model.hook_points[model.resolve_hooks((site, 0))[0]].axes
    found: list[tuple[str, ...]] = [("layer",), ("layer", "pos")]
    if {"head", "kv_head"} & set(axes):
        found += [("head", "layer"), ("layer", "pos", "head")]
    return found + ([("layer", "neuron"), ("neuron", "pos", "layer")] if "d_mlp" in axes else [])


def has(model: HookedTransformer, site: str) -> bool:
    return any(name.endswith(f"hook_{site}") for name in model.hook_points)


@pytest.mark.parametrize("name", GRID)
def test_a_sweep_cell_equals_the_run_with_that_one_hook(name: str):
    model = build(config(GRID[name]), seed=len(name))
    clean, corrupted = prompts(model, seed=len(name))
    lazy = "blocks.*.attn.hook_result"
    _, cache = model.run_with_cache(clean, names_filter=["*", lazy])
    picks = np.random.default_rng(len(name))
    for site in (*SITES, "post", "attn_scores", "resid_post", "q_input"):
        if not has(model, site):
            continue
        if site == "q_input":
            _, cache = model.run_with_cache(clean, names_filter="blocks.*.hook_q_input")
        options = granularities(model, site)  # one a model; over the grid all of them come up
        over = options[int(picks.integers(len(options)))]
        result = sweep(model, corrupted, cache, METRIC, site, over, per_prompt=True, progress=False)  # pyright: ignore[reportArgumentType]
        for _ in range(2):
            cell = {str(dim): int(picks.integers(size)) for dim, size in result.sizes.items() if dim != "prompt"}
            where = {dim: i for dim, i in cell.items() if dim != "layer"}
            point = model.resolve_hooks((site, cell["layer"]))[0]
            expected = METRIC(by_hand(model, corrupted, cache[point], point, where))
            assert np.allclose(result.isel(cell).values, expected.numpy(), atol=1e-9), (site, over, cell)


def test_patching_a_run_with_itself_gives_the_baseline_in_every_cell(run: Run):
    _, cache = run.model.run_with_cache(run.tokens)
    # A fused kernel that is used where nobody looks rounds otherwise than what the cache saw.
    tolerance = 1e-12 if run.cfg.attn_implementation == "sdpa" else 0.0
    for site in ("resid_pre", "z", "pattern", "v"):
        result = sweep(run.model, run.tokens, cache, METRIC_1, site, per_prompt=True, progress=False)
        assert np.ptp(result.values, axis=(1, 2)).max() <= tolerance


def test_what_a_patch_cannot_change_is_never_run(monkeypatch: pytest.MonkeyPatch):
    model = build(config(GRID["rotary_rms_gated_grouped"]), seed=1)
    clean, corrupted = prompts(model, seed=2, differ_at=(4, 4))
    passed: list[int] = []
    block = PackedForward.block

    def counted(self: PackedForward, layer: int, groups: Any, *rest: Any) -> Any:
        passed.append(sum(rows.stream.shape[0] * rows.stream.shape[1] for rows in groups))
        return block(self, layer, groups, *rest)

    monkeypatch.setattr(PackedForward, "block", counted)
    sweep(model, corrupted, clean, METRIC, progress=False)
    # Before layer 0 only the embeddings differ, at position 4 of prompt 0 and 5 of prompt 1: rows of 3 and 2 positions.
    # Then all later positions differ as well, and rows of 3 + 2 + 1 and 2 + 1 positions join at every layer.
    assert passed == [5, 5 + 9, 5 + 9 + 9]


@pytest.mark.parametrize("name", ["learned_ln", "capped_window_tied", "post_ln_sinusoidal_bidirectional"])
def test_every_memory_budget_gives_the_same_numbers(name: str):
    model = build(config(GRID[name]), seed=3)
    clean, corrupted = prompts(model, seed=4)
    whole = sweep(model, corrupted, clean, METRIC, "z", ("layer", "pos", "head"), progress=False)
    small = sweep(model, corrupted, clean, METRIC, "z", ("layer", "pos", "head"), max_bytes=200_000, progress=False)
    assert np.allclose(whole.values, small.values, atol=1e-10)


def test_a_budget_too_small_for_one_patch_is_refused(plain: Run):
    with pytest.raises(ConfigError, match=r"max_bytes = 1000 is too small: one patch of 7 positions needs \d+"):
        clean = (plain.tokens + 1) % plain.model.cfg.d_vocab
        sweep(plain.model, plain.tokens, clean, METRIC_1, max_bytes=1000, progress=False)


def test_noising_swaps_the_two_prompts():
    model = build(config(GRID["learned_ln"]), seed=5)
    clean, corrupted = prompts(model, seed=6)
    noising = sweep(model, corrupted, clean, METRIC, direction="noising", progress=False)
    swapped = sweep(model, clean, corrupted, METRIC, progress=False)
    assert np.array_equal(noising.values, swapped.values)
    assert (noising.attrs["direction"], swapped.attrs["direction"]) == ("noising", "denoising")


def test_normalized_effects_are_0_without_a_patch_and_1_where_the_clean_run_is_restored():
    model = build(config(GRID["rotary_rms_gated_grouped"]), seed=7)
    clean, corrupted = prompts(model, seed=8, differ_at=(2, 2))
    result = sweep(model, corrupted, clean, METRIC, "resid_pre", ("layer",), normalize=True, progress=False)
    assert np.allclose(result.values, 1)  # the whole stream, at any layer
    untouched = sweep(model, corrupted, clean, METRIC, normalize=True, positions=[0, 1], progress=False)
    assert (untouched.values == 0).all()


def test_normalizing_needs_two_prompts_with_different_metrics(plain: Run):
    with pytest.raises(ConfigError, match="both prompts give the same metric"):
        sweep(plain.model, plain.tokens, plain.tokens, METRIC_1, normalize=True, progress=False)
    with pytest.raises(ConfigError, match="not a run"):
        sweep(plain.model, Zero(), plain.tokens, METRIC_1, normalize=True, progress=False)


@pytest.mark.parametrize("kind", ["zero", "mean", "mean_over_positions", "resample"])
def test_ablations_write_what_they_say(kind: str):
    model = build(config(GRID["sinusoidal_no_norm"]), seed=9)
    clean, others = prompts(model, seed=10)
    _, cache = model.run_with_cache(others)
    source = {
        "zero": Zero(),
        "mean": Mean(cache),
        "mean_over_positions": Mean(cache, per_position=False),
        "resample": Resample(cache, seed=3),
    }[kind]
    result = sweep(model, source, clean, METRIC, "z", ("layer", "head"), per_prompt=True, progress=False)
    assert result.attrs["direction"] == "noising" and type(source).__name__ in result.attrs["ablation"]
    held = cache["z", 1]
    written = {
        "zero": torch.zeros_like(held),
        "mean": held.mean(0, keepdim=True).expand_as(held),
        "mean_over_positions": held.mean((0, 1), keepdim=True).expand_as(held),
        "resample": held.flip(0),  # of two prompts, each gets the other's
    }[kind]
    expected = METRIC(by_hand(model, clean, written, "blocks.1.attn.hook_z", {"head": 2}))
    assert np.allclose(result.sel(layer=1, head=2).values, expected.numpy(), atol=1e-9)


def test_several_metrics_in_one_pass_equal_one_at_a_time():
    model = build(config(GRID["learned_ln"]), seed=11)
    clean, corrupted = prompts(model, seed=12)
    several = {
        "difference": METRIC,
        "kl": KLDivergence(),
        "loss": Loss(),
        "probability": Probability((1, 2), pos=(-1, 3)),
        "function": lambda logits: logits[:, -1].logsumexp(-1),
    }
    together = sweep(model, corrupted, clean, several, "mlp_out", progress=False)
    assert list(together.metric.values) == list(several)
    for name, metric in several.items():
        alone = sweep(model, corrupted, clean, metric, "mlp_out", progress=False)
        assert np.allclose(together.sel(metric=name).values, alone.values, atol=1e-12)


def test_a_plain_function_sees_the_logits_of_one_run_of_all_prompts():
    model = build(config(GRID["learned_ln"]), seed=13)
    clean, corrupted = prompts(model, seed=14)
    _, cache = model.run_with_cache(clean)

    def spread(logits: Tensor) -> Tensor:  # mixes prompts, so it can only be a single number for all
        return logits.std()

    result = sweep(model, corrupted, cache, spread, "resid_pre", progress=False)
    point = "blocks.1.hook_resid_pre"
    expected = spread(by_hand(model, corrupted, cache[point], point, {"pos": 3}))
    assert math.isclose(float(result.sel(layer=1, pos=3)), float(expected), abs_tol=1e-10)


def test_the_mean_over_prompts_comes_with_a_t_interval():
    model = build(config(GRID["learned_ln"]), seed=15)
    clean, corrupted = prompts(model, seed=16)
    every_prompt = sweep(model, corrupted, clean, METRIC, per_prompt=True, progress=False)
    result = sweep(model, corrupted, clean, METRIC, confidence=0.9, progress=False)
    assert np.allclose(result.values, every_prompt.mean("prompt").values)
    margin = 6.313752 * every_prompt.std("prompt", ddof=1).values / math.sqrt(2)  # t of one degree of freedom, .95
    assert np.allclose(result.ci_high.values - result.values, margin)
    assert np.allclose(result.values - result.ci_low.values, margin)


def test_a_result_says_how_it_came_about():
    model = build(config(GRID["learned_ln"]), seed=17, tokenizer=Vocabulary("abcdefghijk"))
    result = sweep(model, "abcdefg", "abxdefg".replace("x", "k"), LogitDifference("a", "b"), progress=False)
    assert result.dims == ("layer", "pos")
    assert list(result.token.values) == list("abcdefg")
    assert result.attrs["metric"] == "logit difference 'a' - 'b' at position -1"
    assert {k: result.attrs[k] for k in ("direction", "ablation", "site", "granularity", "n", "values")} == {
        "direction": "denoising",
        "ablation": "none",
        "site": "resid_pre",
        "granularity": "layer pos",
        "n": 1,
        "values": "metric",
    }
    assert result.attrs["model"] == model.weights_hash()
    with torch.no_grad():
        assert math.isclose(result.attrs["baseline"], float(LogitDifference("a", "b")(model("abcdefg"), model)))


def test_prompts_that_differ_show_all_their_tokens_at_a_position():
    model = build(config(GRID["learned_ln"]), seed=18, tokenizer=Vocabulary("abcdefghijk"))
    result = sweep(model, ["abc", "adc"], ["abd", "add"], Logit("a"), progress=False)
    assert list(result.token.values) == ["a", "b/d", "c"]


def test_a_cache_of_a_run_that_was_padded_differently_is_refused():
    model, mask = build(config(SMALL), seed=6), torch.ones(2, 5, dtype=torch.bool)
    mask[0, :2] = False
    clean, corrupted = (random_tokens(model.cfg, seed, 2, 5) for seed in (3, 4))
    _, cache = model.run_with_cache(clean, attention_mask=mask)
    with pytest.raises(ShapeError, match="the run of the clean cache was padded differently"):
        sweep(model, corrupted, cache, METRIC, progress=False)
    effect = sweep(model, corrupted, cache, METRIC, attention_mask=mask, progress=False)
    assert np.array_equal(effect, sweep(model, corrupted, clean, METRIC, attention_mask=mask, progress=False))


def test_left_padding_changes_no_number():
    model = build(config(GRID["learned_ln"]), seed=19)
    clean, corrupted = prompts(model, seed=20)
    mask = torch.ones(N_PROMPTS, N_POS + 1, dtype=torch.bool)
    mask[:, 0] = False
    front = torch.zeros(N_PROMPTS, 1, dtype=torch.long)
    padded = [torch.cat([front, ids], dim=1) for ids in (corrupted, clean)]
    without = sweep(model, corrupted, clean, METRIC, progress=False)
    with_padding = sweep(model, padded[0], padded[1], METRIC, attention_mask=mask, progress=False)
    assert np.allclose(with_padding.isel(pos=slice(1, None)).values, without.values, atol=1e-10)
    assert (with_padding.isel(pos=0).values == with_padding.attrs["baseline"]).all()


def test_grouped_keys_and_values_have_columns_of_their_own():
    model = build(config(GRID["rotary_rms_gated_grouped"]), seed=21)
    clean, corrupted = prompts(model, seed=22)
    result = sweep_sites(model, corrupted, clean, METRIC, progress=False)
    assert result["k"].sizes == {"layer": 3, "kv_head": 2}
    assert result["q"].sizes == {"layer": 3, "head": 4}
    assert {str(name) for name in result if "_ci_" not in str(name)} == set(SITES)
    alone = sweep(model, corrupted, clean, METRIC, "v", ("layer", "head"), progress=False)
    assert np.array_equal(result["v"].values, alone.values)
    assert np.array_equal(result["v_ci_low"].values, alone.ci_low.values)


def test_chosen_layers_positions_and_heads_are_those_of_the_whole_sweep():
    model = build(config(GRID["learned_ln"]), seed=23)
    clean, corrupted = prompts(model, seed=24)
    over = ("pos", "layer", "head")
    whole = sweep(model, corrupted, clean, METRIC, "z", over, progress=False)
    some = sweep(model, corrupted, clean, METRIC, "z", over, layers=[-1, 0], positions=(4, 5), heads=2, progress=False)
    assert some.dims == over and list(some.layer.values) == [2, 0]
    assert np.allclose(some.values, whole.sel(pos=[4, 5], layer=[2, 0], head=[2]).values, atol=1e-12)


# ---------------------------------------------------------------------- interrupted


def test_an_interrupted_sweep_goes_on_from_its_checkpoint_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = build(config(GRID["learned_ln"]), seed=25)
    clean, corrupted = prompts(model, seed=26)
    arguments: Any = (model, corrupted, clean, METRIC, "z", ("layer", "pos", "head"))
    uninterrupted = sweep(*arguments, checkpoint=tmp_path / "whole", progress=False)
    walk, calls = PackedForward.run, []

    def interrupted(self: PackedForward, joining: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return walk(self, joining)

    monkeypatch.setattr(PackedForward, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(*arguments, checkpoint=tmp_path / "part", progress=False)
    resumed_at = len(calls) - 1
    resumed = sweep(*arguments, checkpoint=tmp_path / "part", progress=False)
    assert np.array_equal(resumed.values, uninterrupted.values)
    total = len(calls) - 1
    calls.clear()
    again = sweep(*arguments, checkpoint=tmp_path / "part", progress=False)
    assert not calls and np.array_equal(again.values, uninterrupted.values)
    assert resumed_at == 4 and total > 20


def test_a_checkpoint_of_another_sweep_is_refused(tmp_path: Path):
    model = build(config(GRID["learned_ln"]), seed=27)
    clean, corrupted = prompts(model, seed=28)
    sweep(model, corrupted, clean, METRIC, checkpoint=tmp_path / "c", progress=False)
    for other in ({"metric": Logit(1)}, {"site": "resid_mid"}, {"corrupted": corrupted.flip(0)}):
        given: Any = {"corrupted": corrupted, "clean": clean, "metric": METRIC} | other
        with pytest.raises(CheckpointError, match="another sweep"):
            sweep(model, **given, checkpoint=tmp_path / "c", progress=False)
    (tmp_path / "broken").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        sweep(model, corrupted, clean, METRIC, checkpoint=tmp_path / "broken", progress=False)


# ---------------------------------------------------------------------- bad input


def never(*_: Any) -> Any:
    raise AssertionError("a patched run began")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"site": "resid_prr"}, HookNotFoundError, "resid_pre"),
        ({"site": "scale"}, HookNotFoundError, "fits 2 points"),
        ({"over": ("layer", "position")}, ConfigError, "did you mean 'pos'"),
        ({"over": ("pos",)}, ConfigError, "'layer', and at most once"),
        ({"over": ("layer", "head")}, ConfigError, "'resid_pre' has no heads"),
        ({"site": "z", "over": ("layer", "neuron")}, ConfigError, "'z' has no neurons"),
        ({"direction": "denoise"}, ConfigError, "did you mean 'denoising'"),
        ({"layers": 3}, ConfigError, "allowed: -3 to 2"),
        ({"positions": [7]}, ConfigError, "allowed: -7 to 6"),
        ({"site": "z", "over": ("layer", "head"), "heads": 4}, ConfigError, "allowed: -4 to 3"),
        ({"heads": 1}, ConfigError, "does not take apart"),
        ({"clean": torch.zeros(2, 6, dtype=torch.long)}, ShapeError, "has 6 tokens, .* 7; .*make them equally long"),
        ({"clean": torch.zeros(1, 7, dtype=torch.long)}, ShapeError, "1 clean prompts and 2 corrupted ones"),
        ({"metric": Logit(11)}, TokenError, "allowed: 0 to 10"),
        ({"metric": Logit((1, 2, 3))}, ShapeError, "answers of shape \\(3,\\) for 2 prompts"),
        ({"metric": Logit(1, pos=7)}, ShapeError, "allowed: -7 to 6"),
        ({"metric": lambda logits: logits[:, -1]}, ShapeError, "one value a prompt"),
        ({"metric": "logit"}, ConfigError, "not a metric"),
        ({"metric": {}}, ConfigError, "at least one"),
        ({"confidence": 95.0}, ConfigError, "such as 0.95"),
        ({"corrupted": Zero(), "direction": "denoising"}, ConfigError, "direction='noising'"),
        ({"corrupted": Zero(site="z")}, ConfigError, "without a place"),
    ],
)
def test_bad_input_is_an_error_before_any_patched_run(
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    as_installed: None,
):
    model = build(config(SMALL, dtype=torch.float64), seed=29)
    clean, corrupted = prompts(model, seed=30)
    monkeypatch.setattr(PackedForward, "run", never)
    arguments: dict[str, Any] = {"corrupted": corrupted, "clean": clean, "metric": METRIC, "progress": False}
    with pytest.raises(error, match=message):
        sweep(model, **arguments | changes)


def test_an_answer_of_several_tokens_is_refused(plain: Run):
    model = build(config(SMALL, dtype=torch.float64), seed=31, tokenizer=Vocabulary("abcdefghijk"))
    with pytest.raises(TokenError, match="'ab'"):
        sweep(model, "abc", "abd", LogitDifference("ab", "c"), progress=False)


def test_a_cache_of_another_model_or_of_older_weights_is_refused():
    model, other = (build(config(SMALL, dtype=torch.float64), seed=seed) for seed in (32, 33))
    clean, corrupted = prompts(model, seed=34)
    _, cache = other.run_with_cache(clean)
    with pytest.raises(CacheError, match="another model"):
        sweep(model, corrupted, cache, METRIC, progress=False)
    _, cache = model.run_with_cache(clean)
    with torch.no_grad():
        model.blocks[0].attn.W_Q[0] += 1
    with pytest.raises(CacheError, match="weights changed"):
        sweep(model, corrupted, cache, METRIC, progress=False)


def test_a_cache_without_the_site_or_of_another_length_is_refused():
    model = build(config(SMALL, dtype=torch.float64), seed=35)
    clean, corrupted = prompts(model, seed=36)
    _, cache = model.run_with_cache(clean, names_filter="*hook_z")
    with pytest.raises(HookNotFoundError, match=r"blocks\.0\.hook_resid_pre"):
        sweep(model, corrupted, cache, METRIC, progress=False)
    with pytest.raises(HookNotFoundError, match="resid_post"):
        sweep(model, corrupted, cache, METRIC, "z", ("layer",), normalize=True, progress=False)
    with pytest.raises(ShapeError, match=r"\(2, 6\).*\(2, 7\)"):
        sweep(model, corrupted, cache.slice(pos=slice(0, 6)), METRIC, "z", ("layer",), progress=False)


def test_a_model_with_hooks_is_refused(plain: Run):
    with (
        plain.model.hooks(fwd_hooks=[(("z", 0), lambda z, hook: None)]),
        pytest.raises(ConfigError, match="hooks"),
    ):
        plain.model(plain.tokens)
        sweep(plain.model, plain.tokens, plain.tokens, METRIC_1, progress=False)


def test_a_sweep_changes_neither_model_nor_cache():
    model = build(config(GRID["learned_ln"]), seed=37)
    clean, corrupted = prompts(model, seed=38)
    _, cache = model.run_with_cache(clean)
    before, weights = {name: value.clone() for name, value in cache.items()}, model.weights_hash()
    sweep_sites(model, corrupted, cache, METRIC, sites=["resid_pre", "z", "pattern"], progress=False)
    assert all(torch.equal(cache[name], value) for name, value in before.items())
    assert model.weights_hash() == weights and not any(point.hooks for point in model.hook_points.values())


# ---------------------------------------------------------------------- unusual types, sizes and sources


def test_a_checkpoint_belongs_to_one_metric_function_mask_and_configuration(tmp_path: Path):
    model = build(config(SMALL, dtype=torch.float64), seed=39)
    _, tokens = prompts(model, seed=40)
    mask = torch.ones(N_PROMPTS, N_POS, dtype=torch.bool)
    mask[:, 0] = False
    first: dict[str, Any] = {"metric": lambda logits: logits[:, -1, 3]}
    other = build(config(SMALL, dtype=torch.float64, attn_scale=1.0), seed=39)
    sweep(model, Zero(), tokens, **first, checkpoint=tmp_path / "c", progress=False)
    cases: list[tuple[HookedTransformer, dict[str, Any]]] = [
        (model, {"metric": lambda logits: logits[:, -1, 4]}),
        (model, {"attention_mask": mask}),
        (other, {}),
    ]
    for changed_model, changes in cases:
        with pytest.raises(CheckpointError, match="another sweep"):
            sweep(changed_model, Zero(), tokens, **(first | changes), checkpoint=tmp_path / "c", progress=False)


def test_indices_may_be_of_any_integer_type(as_installed: None):
    model = build(config(SMALL, dtype=torch.float64), seed=41)
    clean, corrupted = prompts(model, seed=42)
    whole = sweep(model, corrupted, clean, METRIC, progress=False)
    for layers in (torch.tensor([0, 1]), np.arange(2), range(2), [np.int64(0), 1]):
        some: Any = sweep(model, corrupted, clean, METRIC, layers=layers, progress=False)  # pyright: ignore[reportArgumentType]
        assert np.allclose(some.values, whole.isel(layer=[0, 1]).values)
    one: Any = np.int64(2)
    assert np.allclose(sweep(model, corrupted, clean, METRIC, layers=one, progress=False).values[0], whole.values[2])


@pytest.mark.parametrize("layers", ["1", [1.0], [True], []])
def test_what_is_no_index_is_refused(layers: Any, as_installed: None):
    model = build(config(SMALL, dtype=torch.float64), seed=43)
    clean, corrupted = prompts(model, seed=44)
    with pytest.raises(ConfigError, match="layers = "):
        sweep(model, corrupted, clean, METRIC, layers=layers, progress=False)


def test_a_model_in_half_precision_is_measured_in_float32():
    model = build(config(SMALL, dtype=torch.bfloat16), seed=45)
    clean, corrupted = prompts(model, seed=46)
    result = sweep(model, corrupted, clean, Loss(), progress=False)
    assert result.dtype == np.float32 and np.isfinite(result.values).all()


def test_one_number_for_all_prompts_has_no_interval_over_them():
    model = build(config(SMALL, dtype=torch.float64), seed=47)
    clean, corrupted = prompts(model, seed=48)
    pooled = sweep(model, corrupted, clean, lambda logits: logits[:, -1, 3].mean(), progress=False)
    assert "ci_low" not in pooled.coords


def test_integer_and_boolean_metrics_are_numbers():
    model = build(config(SMALL, dtype=torch.float64), seed=49)
    clean, corrupted = prompts(model, seed=50)
    likely = int(model(corrupted)[0, -1].argmax())
    options: dict[str, Any] = {"normalize": False, "progress": False}
    right = sweep(model, corrupted, clean, lambda logits: logits[:, -1].argmax(-1) == likely, **options)
    as_floats = sweep(model, corrupted, clean, lambda logits: (logits[:, -1].argmax(-1) == likely).double(), **options)
    assert np.array_equal(right, as_floats) and set(np.unique(right.values)) <= {0.0, 0.5, 1.0}
    assert right.values.max() >= 0.5  # before any prompt differs, the unpatched answer


def test_a_mean_over_runs_of_another_model_or_of_older_weights_is_refused():
    model, other = (build(config(SMALL, dtype=torch.float64), seed=seed) for seed in (51, 52))
    _, tokens = prompts(model, seed=53)
    source = Mean(other.run_with_cache(tokens)[1])
    with pytest.raises(CacheError, match="another model"):
        sweep(model, source, tokens, METRIC, progress=False)
    with pytest.raises(CacheError, match="another model"), model.intervene(Mean(source.values, site="z")):
        model(tokens)
    _, stale = model.run_with_cache(tokens)
    with torch.no_grad():
        model.embed.W_E.add_(1.0)
    with pytest.raises(CacheError, match="weights changed"):
        Mean(stale)


def test_a_sweep_of_sites_refuses_a_small_budget_before_it_sweeps_the_first_site(monkeypatch: pytest.MonkeyPatch):
    model = build(config(SMALL, dtype=torch.float64), seed=54)
    clean, corrupted = prompts(model, seed=55)
    monkeypatch.setattr(PackedForward, "run", never)
    with pytest.raises(ConfigError, match="too small") as refused:
        sweep(model, corrupted, clean, METRIC, max_bytes=1, progress=False)
    enough_for_the_first = int(str(refused.value).split()[-1])
    with pytest.raises(ConfigError, match="too small"):
        sweep_sites(
            model, corrupted, clean, METRIC, ["resid_pre", "result"], max_bytes=enough_for_the_first, progress=False
        )


def test_a_twin_from_another_seed_is_the_same_model():
    model = build(config(SMALL), seed=9)
    twin = HookedTransformer(dataclasses.replace(model.cfg, seed=7))
    twin.load_state_dict(model.state_dict())
    clean, corrupted = (random_tokens(model.cfg, seed, 2, 5) for seed in (3, 4))
    _, cache = twin.run_with_cache(clean)
    assert np.array_equal(sweep(model, corrupted, cache, METRIC), sweep(model, corrupted, clean, METRIC))
    with model.intervene(Patch(cache, site="z", layer=1)):
        model(clean)
    other = HookedTransformer(dataclasses.replace(model.cfg, attn_scale=3.0))
    other.load_state_dict(model.state_dict())
    with pytest.raises(CacheError, match=r"another model than the one given: attn_scale = 3.0 .here 2"):
        sweep(model, corrupted, other.run_with_cache(clean)[1], METRIC)
