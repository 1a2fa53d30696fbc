"""Faithfulness and its curves, against runs with hooks and sums by hand."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from grid import GRID, SEED, build, config
from small import random_circuit
from torch import Tensor

from interp import ConfigError, HookedTransformer, ShapeError, discovery
from interp.discovery import OnlyCircuit, Subgraph
from interp.discovery.masked import EdgeRuns
from interp.interventions import Mean, Zero
from interp.metrics import Function, LogitDifference
from interp.model import EdgeGraph
from interp.results.axes import t_quantile

METRIC = LogitDifference(1, 3)
faithfulness: Any = discovery.faithfulness  # given words from lists, and what is no argument
faithfulness_curve: Any = discovery.faithfulness_curve
N_PROMPTS = 6


def small(name: str = "learned_ln", **changes: Any) -> HookedTransformer:
    return build(config(GRID[name], **{"n_layers": 2, "n_heads": 2} | changes), SEED)


def prompts(model: HookedTransformer, n: int = N_PROMPTS, seed: int = SEED) -> tuple[Tensor, Tensor]:
    """Corrupted and clean ids of which the model, as far as can be, has the metric larger on the clean ones."""
    generator = torch.Generator().manual_seed(seed)
    one, two = torch.randint(model.cfg.d_vocab, (2, 20 * n, 6), generator=generator)
    two[:, 0] = one[:, 0]
    values = [METRIC(model(ids)).detach() for ids in (one, two)]
    far = (values[0] - values[1]).abs().argsort(descending=True)[:n]
    swapped = (values[0] < values[1])[far, None]
    return torch.where(swapped, one[far], two[far]), torch.where(swapped, two[far], one[far])


def scores_of(model: HookedTransformer, seed: int = SEED, **attrs: Any) -> xarray.DataArray:
    """Random scores as `edge_scores` would return them."""
    graph = EdgeGraph.of(model)
    values = torch.randn(graph.edge_mask().shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values[~graph.edge_mask()] = math.nan
    about = {"graph": graph.to_json(), "method": "eap", "direction": "noising", "model": model.weights_hash()}
    names = {"reader": list(map(str, graph.readers)), "writer": list(map(str, graph.writers))}
    return xarray.DataArray(values.numpy(), dims=["reader", "writer"], coords=names, attrs=about | attrs)


@torch.no_grad()
def by_hooks(model: HookedTransformer, circuit: Subgraph, corrupted: Any, clean: Tensor) -> np.ndarray:
    with model.intervene(OnlyCircuit(circuit, corrupted)):
        return METRIC(model(clean)).numpy()


# ---------------------------------------------------------------------- faithfulness


@pytest.mark.parametrize("name", ["learned_ln", "rotary_rms_gated_grouped", "gemma_like"])
def test_it_is_the_metric_of_the_circuit_alone_between_those_of_the_empty_circuit_and_the_model(name: str):
    per_layer = {"window_size": None, "rotary_base": 10_000.0, "rotary_scaling": None} if name == "gemma_like" else {}
    model = small(name, **per_layer)
    corrupted, clean = prompts(model)
    circuits = {f"{share}": random_circuit(model, share) for share in (0.3, 0.9)}
    circuits |= {"none": Subgraph.empty(model), "all": Subgraph.whole(model)}
    found = faithfulness(model, circuits, corrupted, clean, METRIC)
    ends = [by_hooks(model, circuits[end], corrupted, clean).mean() for end in ("none", "all")]
    for circuit, subgraph in circuits.items():
        value = by_hooks(model, subgraph, corrupted, clean).mean()
        one = found.sel(circuit=circuit)
        assert float(one.value) == pytest.approx(value, abs=1e-9)
        assert float(one.faithfulness) == pytest.approx((value - ends[0]) / (ends[1] - ends[0]), abs=1e-9)
        assert (int(one.n_edges), int(one.n_pruned)) == (len(subgraph), len(subgraph.pruned()))
    assert float(found.faithfulness.sel(circuit="none")) == 0
    assert float(found.faithfulness.sel(circuit="all")) == 1
    assert found.attrs["baseline"] == pytest.approx(ends[1])
    assert found.attrs["empty"] == pytest.approx(ends[0])
    assert found.attrs["ratio"] == "of means"


def test_one_circuit_has_no_axis_and_a_list_is_numbered():
    model = small()
    corrupted, clean = prompts(model)
    circuit = random_circuit(model, 0.6)
    alone = faithfulness(model, circuit, corrupted, clean, METRIC)
    listed = faithfulness(model, [Subgraph.empty(model), circuit], corrupted, clean, METRIC)
    assert alone.faithfulness.dims == ()
    assert listed["circuit"].to_numpy().tolist() == [0, 1]
    assert float(alone.faithfulness) == pytest.approx(float(listed.faithfulness[1]), abs=1e-12)


def test_what_is_outside_can_carry_zeros_or_means_and_the_direction_can_be_turned():
    model = small()
    corrupted, clean = prompts(model)
    _, cache = model.run_with_cache(corrupted)
    circuit = random_circuit(model, 0.7)
    one = clean[:1]  # over several prompts the gap that zeros make may be noise
    asked: list[tuple[Any, Any, Tensor, Tensor, dict[str, Any]]] = [(Zero(), Zero(), one, one, {})]
    asked += [(Mean(cache), Mean(cache), one, one, {})]
    asked += [(corrupted, clean, clean, corrupted, {"direction": "denoising"})]
    for given, written, other, run, options in asked:
        found = faithfulness(model, circuit, given, other, METRIC, **options)
        assert float(found.value) == pytest.approx(by_hooks(model, circuit, written, run).mean(), abs=1e-9)
        assert found.attrs["direction"] == options.get("direction", "noising")


def test_a_ratio_of_means_and_a_mean_of_ratios_differ_and_each_has_its_interval():
    model = small()
    corrupted, clean = prompts(model)
    circuit = random_circuit(model, 0.8)
    empty, whole = Subgraph.empty(model), Subgraph.whole(model)
    value, low, high = (by_hooks(model, each, corrupted, clean) for each in (circuit, empty, whole))
    part, gap = value - low, high - low
    t = t_quantile(0.95, N_PROMPTS - 1)
    means = part.mean() / gap.mean()
    residual = (part - means * gap) / gap.mean()
    for ratio, center, spread in (("of means", means, residual), ("mean of ratios", (part / gap).mean(), part / gap)):
        found = faithfulness(model, circuit, corrupted, clean, METRIC, ratio=ratio, confidence=0.9)
        margin = t * spread.std(ddof=1) / N_PROMPTS**0.5
        assert float(found.faithfulness) == pytest.approx(center, abs=1e-9)
        assert float(found.faithfulness_ci_low) == pytest.approx(center - margin, abs=1e-9)
        assert float(found.faithfulness_ci_high) == pytest.approx(center + margin, abs=1e-9)
        by_prompt = faithfulness(model, circuit, corrupted, clean, METRIC, ratio=ratio, per_prompt=True)
        assert by_prompt.faithfulness.dims == ("prompt",)
        assert float(by_prompt.faithfulness.mean()) == pytest.approx(center, abs=1e-9)
    assert abs(means - (part / gap).mean()) > 1e-6


def test_several_metrics_have_an_axis_each_with_its_own_ends():
    model = small()
    corrupted, clean = prompts(model)
    circuit = random_circuit(model, 0.8)
    both = faithfulness(model, {"c": circuit}, corrupted, clean, {"difference": METRIC, "twice": lambda logits: 2 *
                        METRIC(logits)})  # fmt: skip
    assert both.faithfulness.dims == ("metric", "circuit")
    assert float(both.value[1, 0]) == pytest.approx(2 * float(both.value[0, 0]))
    assert float(both.faithfulness[1, 0]) == pytest.approx(float(both.faithfulness[0, 0]))


def test_a_gap_within_noise_is_refused():
    model = small()
    corrupted, clean = prompts(model, n=4)
    circuit = random_circuit(model, 0.8)
    there_and_back = torch.cat([corrupted, clean]), torch.cat([clean, corrupted])
    with pytest.raises(ConfigError, match=r"interval .* noise; give more prompts"):
        faithfulness(model, circuit, *there_and_back, METRIC)
    never = Function(lambda logits: 1 + 0 * logits[:, 0, 0], name="always one")
    with pytest.raises(ConfigError, match="always one: the whole graph has 1, the empty circuit 1, over 1 prompts"):
        faithfulness(model, circuit, corrupted[:1], clean[:1], never)
    with pytest.raises(ConfigError, match="always one"):
        faithfulness(model, circuit, corrupted, clean, {"fine": METRIC, "not": never})
    mixed = torch.cat([corrupted, clean[:1]]), torch.cat([clean, clean[:1]])
    with pytest.raises(ConfigError, match="prompt 4 has no gap"):
        faithfulness(model, circuit, *mixed, METRIC, ratio="mean of ratios")
    faithfulness(model, circuit, *mixed, METRIC)


def test_results_do_not_depend_on_the_budget_or_on_equal_circuits_beside():
    model = small()
    corrupted, clean = prompts(model)
    several = [random_circuit(model, share) for share in (0.5, 0.7, 0.9)]
    once = faithfulness(model, several, corrupted, clean, METRIC)
    again = faithfulness(model, [*several, *several], corrupted, clean, METRIC, max_bytes=200_000)
    assert np.allclose(again.faithfulness, np.tile(once.faithfulness, 2), atol=1e-9)


def test_padded_prompts_are_judged_as_they_are_alone():
    model = small("rotary_rms_gated_grouped")
    corrupted, clean = prompts(model, n=4)
    circuit = random_circuit(model, 0.8)
    mask = torch.ones_like(clean)
    mask[2, :2] = 0
    options = {
        "per_prompt": True,
        "confidence": 0.1,
    }  # of four prompts the gap may be near to noise
    together = faithfulness(model, circuit, corrupted, clean, METRIC, attention_mask=mask, **options).value
    alone = faithfulness(model, circuit, corrupted[2:3, 2:], clean[2:3, 2:], METRIC)
    others = faithfulness(model, circuit, corrupted[[0, 1, 3]], clean[[0, 1, 3]], METRIC, **options)
    assert float(together[2]) == pytest.approx(float(alone.value), abs=1e-9)
    assert np.allclose(together[[0, 1, 3]], others.value, atol=1e-9)


def test_half_precision_judges_its_gap_by_its_own_rounding():
    model = small(dtype=torch.bfloat16)
    corrupted, clean = prompts(model)
    circuit = random_circuit(model, 0.9)
    found = faithfulness(model, {"c": circuit, "all": Subgraph.whole(model)}, corrupted, clean, METRIC)
    assert float(found.faithfulness.sel(circuit="all")) == 1
    almost = Function(lambda logits: 1 + 1e-3 * logits[:, -1, 1].tanh(), name="almost one")
    with pytest.raises(ConfigError, match="almost one"):
        faithfulness(model, circuit, corrupted[:1], clean[:1], almost)


# ---------------------------------------------------------------------- curves

FRACTIONS = (0.05, 0.2, 0.5, 1.0)


def test_a_curve_is_the_faithfulness_of_circuits_of_each_ranking_and_size():
    model = small()
    corrupted, clean = prompts(model)
    scores = {"eap": scores_of(model, 1), "exact": scores_of(model, 2)}
    for ranking, make in (("top", Subgraph.top), ("greedy", Subgraph.greedy)):
        found = faithfulness_curve(model, corrupted, clean, METRIC, scores, fractions=FRACTIONS, ranking=ranking)
        assert found.faithfulness.dims == ("by", "scores", "size")
        assert found["scores"].to_numpy().tolist() == ["eap", "exact", "random", "full model"]
        assert found["size"].to_numpy().tolist() == list(FRACTIONS)
        for by in ("absolute", "signed"):
            for method in scores:
                circuits = [make(scores[method], int(f * 46), by) for f in FRACTIONS]
                alone = faithfulness(model, circuits, corrupted, clean, METRIC)
                one = found.sel(by=by, scores=method)
                for name in ("faithfulness", "faithfulness_ci_low", "value", "n_edges", "n_pruned"):
                    assert np.allclose(one[name], alone[name], atol=1e-9), (ranking, by, method, name)
        assert (found.faithfulness.sel(scores="full model") == 1).all()
        assert np.allclose(found.faithfulness.sel(size=1.0), 1)
        assert found.n_edges.sel(scores="random", by="signed").to_numpy().tolist() == [2, 9, 23, 46]
        assert found.attrs["ranking"] == ranking


def test_areas_are_trapezoids_of_the_signed_ranking_for_cpr_and_of_the_absolute_one_for_cmd():
    model = small()
    corrupted, clean = prompts(model)
    found = faithfulness_curve(model, corrupted, clean, METRIC, scores_of(model), fractions=FRACTIONS)
    for method in ("eap", "random"):
        signed, absolute = (found.faithfulness.sel(by=by, scores=method).to_numpy() for by in ("signed", "absolute"))
        cpr = sum((b - a) * (signed[i] + signed[i + 1]) / 2 for i, (a, b) in enumerate(itertools.pairwise(FRACTIONS)))
        gaps, log = abs(1 - absolute), [math.log(f) for f in FRACTIONS]
        log_cmd = sum((b - a) * (gaps[i] + gaps[i + 1]) / 2 for i, (a, b) in enumerate(itertools.pairwise(log)))
        assert float(found.cpr.sel(scores=method)) == pytest.approx(cpr)
        assert float(found.log_cmd.sel(scores=method)) == pytest.approx(log_cmd / (log[-1] - log[0]))
    whole = found.sel(scores="full model")
    assert [float(whole[name]) for name in ("cpr", "log_cpr", "cmd", "log_cmd")] == pytest.approx([0.95, 1, 0, 0])
    assert (found.cpr.attrs["by"], found.cmd.attrs["by"]) == ("signed", "absolute")
    by_prompt = faithfulness_curve(
        model, corrupted, clean, METRIC, scores_of(model), fractions=FRACTIONS, per_prompt=True
    )
    assert by_prompt.faithfulness.dims == ("prompt", "by", "scores", "size")
    assert np.allclose(by_prompt.cmd, found.cmd)


def test_one_ranking_has_no_axis_and_its_own_areas_and_a_random_one_is_the_same_for_a_seed():
    model = small()
    corrupted, clean = prompts(model)
    curves = [
        faithfulness_curve(model, corrupted, clean, METRIC, scores_of(model), fractions=FRACTIONS, by=by, seed=seed)
        for by, seed in (("absolute", 1), ("signed", 1), ("absolute", 2))
    ]
    assert curves[0].faithfulness.dims == ("scores", "size")
    assert "cpr" not in curves[0]
    assert "cmd" not in curves[1]
    randoms = [curve.faithfulness.sel(scores="random").to_numpy() for curve in curves]
    assert np.allclose(randoms[0], randoms[1])
    assert not np.allclose(randoms[0], randoms[2])


def test_scores_without_a_sign_have_no_signed_curve():
    model = small()
    corrupted, clean = prompts(model)
    scores = {"sizes": abs(scores_of(model)).assign_attrs(scores_of(model, method="combined").attrs)}
    found = faithfulness_curve(model, corrupted, clean, METRIC, scores, fractions=FRACTIONS)
    assert found.sel(by="signed", scores="sizes").faithfulness.isnull().all()
    assert math.isnan(found.cpr.sel(scores="sizes"))
    assert found.sel(by="absolute").faithfulness.notnull().all()


@pytest.mark.apart
def test_scores_that_edge_scores_makes_are_judged_under_their_own_names():
    model = small()
    corrupted, clean = prompts(model)
    scores = {
        method: discovery.edge_scores(model, corrupted, clean, METRIC, method, probe=0, progress=False)
        for method in ("exact", "eap", "combined")
    }
    found = faithfulness_curve(model, corrupted, clean, METRIC, scores, fractions=FRACTIONS)
    assert found.cmd.notnull().all()
    assert found.cpr.isnull().to_numpy().tolist() == [False, False, True, False, False]
    assert found.cmd.sel(scores="exact") < found.cmd.sel(scores="random")
    alone = faithfulness_curve(model, corrupted, clean, METRIC, scores["eap"], fractions=FRACTIONS)
    assert np.allclose(alone.cpr.sel(scores="eap"), found.cpr.sel(scores="eap"))
    zeros = discovery.edge_scores(model, None, clean, METRIC, "exact", ablation=Zero(), probe=0, progress=False)
    one = {"fractions": FRACTIONS, "by": "absolute"}
    by_option = faithfulness_curve(model, None, clean[:1], METRIC, zeros, ablation=Zero(), **one)
    assert by_option.equals(faithfulness_curve(model, Zero(), clean[:1], METRIC, zeros, **one))


# ---------------------------------------------------------------------- bad input


def test_what_cannot_be_judged_is_refused_before_any_circuit_runs(monkeypatch: pytest.MonkeyPatch, as_installed: None):
    model, other = small(), small(n_heads=4)
    corrupted, clean = prompts(model)
    monkeypatch.setattr(EdgeRuns, "metrics", lambda self, masks: pytest.fail("a circuit ran"))
    circuit, scores = random_circuit(model, 0.5), scores_of(model)
    with pytest.raises(ConfigError, match="equal"):
        faithfulness(model, circuit, clean, clean, METRIC)
    _, cache = model.run_with_cache(clean)
    with pytest.raises(ConfigError, match="equal"):
        faithfulness(model, circuit, cache, clean, METRIC)
    for nothing in ([], {}, scores, [circuit, "b"]):
        with pytest.raises(ConfigError, match="allowed: a Subgraph"):
            faithfulness(model, nothing, corrupted, clean, METRIC)
    with pytest.raises(ShapeError, match="another shape"):
        faithfulness(model, [circuit, Subgraph.whole(other)], corrupted, clean, METRIC)
    with pytest.raises(ConfigError, match="did you mean 'of means'"):
        faithfulness(model, circuit, corrupted, clean, METRIC, ratio="of mean")
    asked: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"scores": {}}, ConfigError, "at least one"),
        ({"scores": {"random": scores}}, ConfigError, "taken"),
        ({"scores": scores_of(other)}, ShapeError, "another shape"),
        ({"scores": scores.assign_attrs(model="0")}, ConfigError, "other weights .* Subgraph.top"),
        ({"scores": scores[:-1]}, ConfigError, "fractions end at"),
        ({"scores": scores.expand_dims(prompt=2)}, ShapeError, "prompt"),
        ({"fractions": (0.5, 0.1)}, ConfigError, "ascending"),
        ({"fractions": (0.0, 0.1)}, ConfigError, "above 0"),
        ({"fractions": (0.5, 1.1)}, ConfigError, "at most 1"),
        ({"fractions": (0.5, math.nan)}, ConfigError, "fractions"),
        ({"fractions": (0.5,)}, ConfigError, "two or more"),
        ({"fractions": 0.5}, ConfigError, "fractions = 0.5"),
        ({"ranking": "greedily"}, ConfigError, "did you mean 'greedy'"),
        ({"by": "signs"}, ConfigError, "did you mean 'signed'"),
        ({"by": []}, ConfigError, "names nothing"),
        ({"by": ["signed", "signed"]}, ConfigError, "twice"),
        ({"seed": 0.5}, ConfigError, "seed = 0.5"),
        ({"seed": None}, ConfigError, "seed = None"),
        ({"effects": True}, ConfigError, "unknown argument 'effects'"),
    ]
    for given, error, said in asked:
        with pytest.raises(error, match=said):
            faithfulness_curve(model, corrupted, clean, METRIC, **{"scores": scores} | given)
    model.add_hook(("resid_pre", 0), lambda x, hook: None)
    with pytest.raises(ConfigError, match="has hooks"):
        faithfulness(model, circuit, corrupted, clean, METRIC)


def test_scores_of_a_part_of_the_edges_can_be_judged_as_far_as_they_go():
    model = small()
    corrupted, clean = prompts(model)
    part = scores_of(model)[5:]
    found = faithfulness_curve(model, corrupted, clean, METRIC, part, fractions=(0.1, 0.3), by="absolute")
    assert found.n_edges.sel(scores="eap").to_numpy().tolist() == [4, 13]
