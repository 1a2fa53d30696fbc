"""What all sweeps can be told: effects and fractions, positions, budgets, and work that goes on where it stopped."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from grid import GRID, SMALL, build, config
from torch import Tensor

from interp import CheckpointError, ConfigError, HookedTransformer
from interp.interventions import Mean, Zero
from interp.metrics import Function, KLDivergence, Logit, LogitDifference
from interp.patching import SweepOptions, path_sweep, path_tree, sweep, sweep_sites
from interp.patching.packed import PackedForward
from interp.patching.path_sweeps import _SenderRuns

METRIC = LogitDifference((1, 2), (3, 4), pos=-1)
QUIET: dict[str, Any] = {"progress": False}


def pair(model: HookedTransformer, seed: int) -> tuple[Tensor, Tensor]:
    """Corrupted and clean ids."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(model.cfg.d_vocab, (2, 6), generator=generator)
    corrupted = clean.clone()
    corrupted[:, 2:4] = (clean[:, 2:4] + 1) % model.cfg.d_vocab
    return corrupted, clean


Call = Callable[..., Any]

CALLS: dict[str, Call] = {
    "sweep": lambda m, c, d, **options: sweep(m, c, d, METRIC, "z", ("layer", "head"), **QUIET, **options),
    "sweep of sites": lambda m, c, d, **options: sweep_sites(m, c, d, METRIC, ["mlp_out"], **QUIET, **options)[
        "mlp_out"
    ],
    "path sweep": lambda m, c, d, **options: path_sweep(m, c, d, METRIC, "L2H1.v", **QUIET, **options),
    "path tree": lambda m, c, d, **options: path_tree(m, c, d, METRIC, [["L0H1", "L2H1.v", "logits"]], **options),
}


@pytest.mark.parametrize("name", CALLS)
def test_effects_are_values_minus_the_run_as_it_is_and_fractions_divide_them_by_the_gap(name: str):
    model = build(config(GRID["learned_ln"]), seed=1)
    prompts = pair(model, seed=2)
    call, direction = CALLS[name], {"direction": "noising"}
    raw, effect, fraction, both = (
        call(model, *prompts, per_prompt=True, **direction, **how)
        for how in ({}, {"effects": True}, {"normalize": True}, {"normalize": True, "effects": True})
    )
    baseline, target = (METRIC(model(ids)).detach().numpy() for ids in reversed(prompts))
    over_prompts = xarray.DataArray(baseline, dims="prompt")
    xarray.testing.assert_allclose(effect, (raw - over_prompts).assign_coords(effect.coords))
    xarray.testing.assert_allclose(fraction, effect / (target - baseline).mean())
    assert np.array_equal(both, fraction, equal_nan=True)
    shown = [result.attrs["values"] for result in (raw, effect, fraction, both)]
    assert shown == ["metric", "effect"] + 2 * ["fraction"]
    if name != "sweep of sites":  # whose arrays are called as their sites
        assert [result.name for result in (raw, effect, fraction, both)] == ["value", "effect"] + 2 * ["fraction"]
    assert raw.attrs["baseline"] == effect.attrs["baseline"] == pytest.approx(baseline.mean())
    assert fraction.attrs["target"] == pytest.approx(target.mean())


def test_the_interval_of_an_effect_is_that_of_differences_within_prompts():
    model = build(config(GRID["learned_ln"]), seed=3)
    prompts = pair(model, seed=4)
    each = sweep(model, *prompts, METRIC, effects=True, per_prompt=True, **QUIET)
    mean = sweep(model, *prompts, METRIC, effects=True, confidence=0.5, **QUIET)
    assert np.allclose(mean.ci_high - mean, each.std("prompt", ddof=1) / 2**0.5, atol=1e-12)  # t(.75, 1) = 1


@pytest.mark.parametrize("name", CALLS)
def test_every_call_knows_its_options(name: str, as_installed: None):
    model = build(config(SMALL, dtype=torch.float64), seed=5)
    prompts = pair(model, seed=6)
    for options, error, message in (
        ({"per_promt": True}, ConfigError, "unknown argument 'per_promt'.*did you mean per_prompt="),
        ({"effects": "yes"}, ConfigError, "effects = 'yes'; allowed: True or False"),
        ({"confidence": 95}, ConfigError, "such as 0.95"),
        ({"direction": "noise"}, ConfigError, "did you mean 'noising'"),
    ):
        with pytest.raises(error, match=message):
            CALLS[name](model, *prompts, **options)
    if name == "path tree":  # a single run, which is neither cut into portions nor interrupted
        with pytest.raises(ConfigError, match="unknown argument 'checkpoint'"):
            CALLS[name](model, *prompts, checkpoint="c")
    else:
        with pytest.raises(ConfigError, match="checkpoint = 3; allowed: a path, or None"):
            CALLS[name](model, *prompts, checkpoint=3)


# ---------------------------------------------------------------------- positions of paths


@torch.no_grad()
@pytest.mark.parametrize("name", ["learned_ln", "partial_rotary_parallel", "post_rms_gated_grouped"])
def test_senders_are_replaced_at_the_chosen_positions_alone(name: str, as_installed: None):
    model = build(config(GRID[name]), seed=7)
    corrupted, clean = pair(model, seed=8)
    senders = ["embed", "L0H1", "L0.mlp"]
    (_, theirs), (_, ours) = model.run_with_cache(corrupted), model.run_with_cache(clean)
    cases: list[tuple[Any, list[int]]] = [(3, [3]), ([-1, 2], [5, 2]), (np.arange(6), [0, 1, 2, 3, 4, 5])]
    for positions, kept in cases:
        spliced = {name: value.clone() for name, value in ours.items()}
        for point in spliced:
            if point.endswith(("resid_pre", "hook_z", "mlp_out")):
                spliced[point][:, kept] = theirs[point][:, kept]
        cache = model.run_with_cache(corrupted)[1]
        cache._values.update(spliced)
        options: dict[str, Any] = {"senders": senders, "mlps": "frozen", "per_prompt": True, **QUIET}
        result = path_sweep(model, corrupted, clean, METRIC, "L1H0.v", positions=positions, **options)
        whole = path_sweep(model, cache, clean, METRIC, "L1H0.v", **options)
        assert np.allclose(result.values, whole.values, atol=1e-10)
        assert result.attrs["positions"] == " ".join(map(str, kept)) + ", together"
    nowhere = path_sweep(model, corrupted, clean, METRIC, "L1H0.v", positions=0, effects=True, senders=senders, **QUIET)
    assert np.allclose(nowhere, 0, atol=1e-12)  # the prompts differ later
    with pytest.raises(ConfigError, match="positions = 6; allowed: -6 to 5"):
        path_sweep(model, corrupted, clean, METRIC, "L1H0.v", positions=6, **QUIET)


def test_a_path_sweep_to_the_logits_says_whether_mlps_are_between():
    model = build(config(GRID["learned_ln"]), seed=9)
    prompts = pair(model, seed=10)
    live, frozen = (path_sweep(model, *prompts, METRIC, "logits", mlps=mlps, **QUIET) for mlps in ("live", "frozen"))
    assert (live.attrs["paths"], frozen.attrs["paths"]) == ("direct and through MLPs", "direct")
    last = live.sel(layer=2) - frozen.sel(layer=2)
    assert np.abs(last).max() > 1e-6  # the MLP of the last layer reads its heads
    attn_only = build(config(GRID["bidirectional_attn_only_no_norm"]), seed=11)
    assert path_sweep(attn_only, *pair(attn_only, seed=12), METRIC, "logits", **QUIET).attrs["paths"] == "direct"


@torch.no_grad()
def test_embed_stands_for_tokens_and_positions_together():
    model = build(config(GRID["learned_ln"]), seed=13)
    _, clean = pair(model, seed=14)
    with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: x * 0), ("hook_pos_embed", lambda x, hook: x * 0)]):
        _, silent = model.run_with_cache(clean)
    result = path_tree(model, Zero(), clean, METRIC, [["embed", "L0.mlp", "logits"]], norms="live", effects=True)
    _, ours = model.run_with_cache(clean)
    mlp_in = ours["mlp_in", 0] if ("mlp_in", 0) in ours else ours["resid_mid", 0]
    block = model.blocks[0]
    anew = block.mlp(block.ln2(mlp_in - ours["resid_pre", 0] + silent["resid_pre", 0]))
    final = ours["resid_post", -1] + anew - ours["mlp_out", 0]
    expected = METRIC(model.unembed(model.ln_final(final))) - METRIC(model(clean))
    assert float(result) == pytest.approx(float(expected.mean()), abs=1e-9)


@torch.no_grad()
def test_a_path_through_shared_keys_names_the_head_that_it_goes_on_from():
    model = build(config(GRID["rotary_rms_gated_grouped"]), seed=15)
    prompts = pair(model, seed=16)
    ours: Any = {"direction": "noising", "effects": True, "norms": "frozen"}
    one, other = (
        path_tree(model, *prompts, METRIC, [["L0H1", "L2H1.k", head, "logits"]], **ours) for head in ("L2H2", "L2H3")
    )
    assert abs(float(one) - float(other)) > 1e-6
    both = path_tree(model, *prompts, METRIC, [["L0H1", "L2H1.k", h, "logits"] for h in ("L2H2", "L2H3")], **ours)
    assert float(both) == pytest.approx(float(one) + float(other), abs=1e-9)
    for path, message in (
        (["L0H1", "L2H1.k", "logits"], "L2H1.k serves L2H2, L2H3; name the one"),
        (["L0H1", "L2H1.k", "L2H0", "logits"], "serves L2H2, L2H3"),
        (["L0H1", "L2H1.q", "L2H2", "logits"], "L2H2 is on the way, so say by which input: L2H2.q, L2H1.k, L2H1.v"),
    ):
        with pytest.raises(ConfigError, match=message):
            path_tree(model, *prompts, METRIC, [path])


# ---------------------------------------------------------------------- interrupted

LONG: dict[str, Call] = {
    "sweep": lambda m, c, d, **o: sweep(m, c, d, METRIC, "z", ("layer", "pos", "head"), **QUIET, **o),
    "sweep of sites": lambda m, c, d, **o: sweep_sites(m, c, d, METRIC, ["resid_pre", "z"], **QUIET, **o).to_array(),
    "path sweep": lambda m, c, d, **o: path_sweep(m, c, d, METRIC, "logits", **QUIET, **o),
}


@pytest.mark.parametrize("name", LONG)
def test_an_interrupted_call_goes_on_with_any_budget_and_any_way_of_showing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = build(config(GRID["learned_ln"]), seed=17)
    prompts = pair(model, seed=18)
    whole = LONG[name](model, *prompts, per_prompt=True, effects=True)
    kind, method = (_SenderRuns, "final") if name == "path sweep" else (PackedForward, "run")
    work, calls = getattr(kind, method), []

    def interrupted(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return work(self, *arguments)

    monkeypatch.setattr(kind, method, interrupted)
    with pytest.raises(KeyboardInterrupt):
        LONG[name](model, *prompts, checkpoint=tmp_path / "c", max_bytes=300_000)
    LONG[name](model, *prompts, checkpoint=tmp_path / "c", confidence=0.9)
    calls.clear()
    shown = LONG[name](model, *prompts, checkpoint=tmp_path / "c", per_prompt=True, effects=True, max_bytes=400_000)
    assert not calls
    np.testing.assert_allclose(shown.values, whole.values, atol=1e-10)


@pytest.mark.parametrize("name", LONG)
def test_another_question_is_refused_and_what_differs_is_named(name: str, tmp_path: Path):
    model, other = (build(config(GRID["learned_ln"]), seed=seed) for seed in (19, 20))
    corrupted, clean = pair(model, seed=21)
    LONG[name](model, corrupted, clean, checkpoint=tmp_path / "c", direction="noising")
    changes: list[tuple[str, tuple[Any, Any, Any], dict[str, Any]]] = [
        ("model", (other, corrupted, clean), {}),
        ("direction", (model, clean, corrupted), {"direction": "denoising"}),
        ("other prompts", (model, corrupted.flip(0), clean), {}),
        ("other prompts", (model, Zero(), clean), {}),
        ("other prompts", (model, Mean(model.run_with_cache(corrupted)[1]), clean), {}),
        ("attention mask", (model, corrupted, clean), {"attention_mask": [[0] + [1] * 5] * 2}),
    ]
    for part, arguments, options in changes:
        with pytest.raises(CheckpointError, match=rf"another sweep \(it differs in: .*{part}"):
            LONG[name](*arguments, checkpoint=tmp_path / "c", **({"direction": "noising"} | options))


def test_every_part_of_a_path_sweeps_question_counts(tmp_path: Path):
    model = build(config(GRID["learned_ln"]), seed=22)
    prompts = pair(model, seed=23)
    first: dict[str, Any] = {"metric": METRIC, "receivers": "L2H1.v", "checkpoint": tmp_path / "c", **QUIET}
    path_sweep(model, *prompts, **first)
    changes: list[tuple[str, dict[str, Any]]] = [
        ("metric", {"metric": Logit(1)}),
        ("metric", {"metric": {"one": METRIC}}),
        ("metric", {"metric": KLDivergence(prompts[1])}),
        ("receivers", {"receivers": "L2H0.v"}),
        ("senders", {"senders": "mlps"}),
        ("mlps", {"mlps": "frozen"}),
        ("norms", {"norms": "frozen"}),
        ("positions", {"positions": 3}),
    ]
    for part, change in changes:
        with pytest.raises(CheckpointError, match=part):
            path_sweep(model, *prompts, **(first | change))


SCRIPT = """
import json, sys
sys.path.insert(0, TESTS)
import torch
from grid import GRID, build, config
from interp.metrics import Logit, LogitDifference
from interp.patching import sweep
from interp.patching.packed import PackedForward

def capturing(answer):
    weights = {"first": 1.0, "second": torch.tensor([float(answer)])}
    def metric(logits):
        parts = [sum(x[answer] for x in row) for row in logits.softmax(-1)]
        return torch.stack(parts) * weights["first"]
    return metric

model = build(config(GRID["learned_ln"]), seed=1)
tokens = torch.arange(12).view(2, 6) % 11
calls, work = [], PackedForward.run

def counted(self, joining):
    if len(calls) == STOP:
        raise KeyboardInterrupt
    calls.append(1)
    return work(self, joining)

PackedForward.run = counted
metrics = {"captured": capturing(ANSWER), "answer": LogitDifference(1, [2, 3])}
try:
    over = ("layer", "pos", "head")
    result = sweep(model, tokens.flip(0), tokens, metrics, "z", over, checkpoint=FILE, progress=False)
    print(json.dumps([len(calls), result.values.tolist()]))
except KeyboardInterrupt:
    print(json.dumps([len(calls), None]))
"""


@pytest.mark.apart
def test_a_sweep_goes_on_in_another_process_and_refuses_a_function_that_captured_another_value(tmp_path: Path):
    def in_a_process(stop: int, answer: int, file: str, seed: int) -> Any:
        words = {"STOP": stop, "ANSWER": answer, "FILE": repr(str(tmp_path / file)), "TESTS": repr(sys.path[0])}
        code = SCRIPT
        for word, value in words.items():
            code = code.replace(word, str(value))
        script = tmp_path / f"{file}_{stop}_{answer}.py"
        script.write_text(code, encoding="utf-8")
        env = os.environ | {"PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        return subprocess.run([sys.executable, script], env=env, capture_output=True, text=True)

    total, whole = json.loads(in_a_process(1000, 3, "whole", 1).stdout)
    first, nothing = json.loads(in_a_process(4, 3, "part", 2).stdout)
    rest, resumed = json.loads(in_a_process(1000, 3, "part", 3).stdout)
    assert nothing is None and first == 4 and first + rest == total and resumed == whole
    refused = in_a_process(1000, 4, "part", 4)
    assert refused.returncode == 1 and "CheckpointError" in refused.stderr and "differs in: metric" in refused.stderr


def test_a_metric_that_cannot_be_told_from_others_is_refused_before_the_work(tmp_path: Path):
    model = build(config(SMALL, dtype=torch.float64), seed=24)
    prompts = pair(model, seed=25)
    probe = torch.nn.Linear(1, 1)

    def metric(logits: Tensor) -> Tensor:
        return logits[:, -1, 3] + 0 * next(probe.parameters())[0, 0]

    with pytest.raises(ConfigError, match=r"uses Linear.*key_text="):
        sweep(model, *prompts, metric, checkpoint=tmp_path / "c", **QUIET)
    sweep(model, *prompts, metric, **QUIET)
    one = sweep(model, *prompts, Function(metric, key_text="probe 1"), checkpoint=tmp_path / "c", **QUIET)
    again = sweep(model, *prompts, Function(metric, key_text="probe 1"), checkpoint=tmp_path / "c", **QUIET)
    assert np.array_equal(one, again)
    with pytest.raises(CheckpointError, match="metric"):
        sweep(model, *prompts, Function(metric, key_text="probe 2"), checkpoint=tmp_path / "c", **QUIET)


def test_a_source_that_says_which_keys_is_refused():
    model = build(config(SMALL), seed=3)
    _, clean = pair(model, 4)
    with pytest.raises(ConfigError, match="says key_pos="):
        sweep(model, Zero(key_pos=1), clean, METRIC, "pattern", **QUIET)


def test_the_docstring_of_the_options_names_all_of_them():
    assert SweepOptions.__doc__ is not None
    assert [name for name in SweepOptions.__annotations__ if name not in SweepOptions.__doc__] == []
