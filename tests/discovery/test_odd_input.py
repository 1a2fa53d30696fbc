"""What nobody should give, and what somebody will: other types, files, modes and sizes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import ByHand
from small import METRIC, edge_runs, small_model, small_pair

from interp import CheckpointError, ConfigError, HookedTransformer, HookNotFoundError, ShapeError
from interp.discovery import (
    OnlyCircuit,
    Subgraph,
    acdc,
    edge_scores,
    faithfulness,
    faithfulness_curve,
    from_mib,
    node_scores,
    precision_recall,
    stability,
    to_mib,
)
from interp.metrics import LogitDifference, Loss, Probability
from interp.patching import sweep

CORRUPTED, CLEAN = small_pair()
JUNK: list[Any] = [None, True, 3, 0.5, "x", ["x"], {}, np.array([1, 2]), torch.tensor([1.0, 2.0]), object()]


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return small_model({}).to(torch.float32)


def scores(model: HookedTransformer, method: Any = "eap", **options: Any) -> Any:
    return edge_scores(model, CORRUPTED, CLEAN, METRIC, method, **{"probe": 0, "progress": False} | options)


def test_an_option_of_another_type_is_refused_by_name(model: HookedTransformer, as_installed: None):
    options = ("direction", "confidence", "progress", "per_prompt", "normalize", "checkpoint", "readers", "writers")
    fine = {("direction", None), ("confidence", 0.5), ("progress", True), ("per_prompt", True), ("normalize", True)}
    fine |= {
        ("checkpoint", None),
        ("checkpoint", "x"),
        ("readers", None),
        ("writers", None),
    }  # "x" is another's refusal
    for name in options:
        for given in [*JUNK, 0, "", [], ["noising"]]:
            if isinstance(given, list | dict | np.ndarray | torch.Tensor) or (name, given) not in fine:
                with pytest.raises((ConfigError, HookNotFoundError), match=f"{name} = |component|reader"):
                    scores(model, **{name: given})
    with pytest.raises(ConfigError, match="direction = 0"):
        sweep(model, CORRUPTED, CLEAN, METRIC, direction=0)  # pyright: ignore


def test_what_is_no_model_is_refused_as_such(model: HookedTransformer, as_installed: None):
    circuit, found = Subgraph.whole(model), scores(model)
    for given in [*JUNK, model.cfg, circuit.graph]:
        calls = [
            lambda given=given: edge_scores(given, CORRUPTED, CLEAN, METRIC),
            lambda given=given: node_scores(given, CORRUPTED, CLEAN, METRIC),
            lambda given=given: sweep(given, CORRUPTED, CLEAN, METRIC),
            lambda given=given: faithfulness(given, circuit, CORRUPTED, CLEAN, METRIC),
            lambda given=given: faithfulness_curve(given, CORRUPTED, CLEAN, METRIC, found),
            lambda given=given: acdc(given, CORRUPTED, CLEAN, METRIC, threshold=1),
        ]
        for call in calls:
            with pytest.raises(ConfigError, match=r"model = .*; allowed: a HookedTransformer"):
                call()


def test_what_is_no_circuit_mask_or_list_of_edges_is_refused_as_such(model: HookedTransformer, as_installed: None):
    circuit = Subgraph.whole(model)
    for given in JUNK:
        for call in (to_mib, lambda given: precision_recall(given, circuit)):
            with pytest.raises(ConfigError, match="allowed: a Subgraph"):
                call(given)
        with pytest.raises(ConfigError, match="allowed: a Subgraph"), model.intervene(OnlyCircuit(given, CORRUPTED)):
            pass
        with pytest.raises(ShapeError, match="allowed: truth values"):
            Subgraph.of_mask(model, given)
        with pytest.raises(ShapeError, match="masks are"):
            edge_runs(model, CORRUPTED, CLEAN).metrics(given)
        if not isinstance(given, str):  # a circuit that could not be read back
            with pytest.raises(ConfigError, match="found_by"):
                Subgraph(circuit.graph, circuit.packed, given)
    for given in (None, 3, torch.tensor(1)):
        with pytest.raises(HookNotFoundError, match="names = "):
            Subgraph.of_names(model, given)  # pyright: ignore
    assert Subgraph.of_mask(model, circuit.mask.numpy()) == circuit  # pyright: ignore


def test_two_circuits_whose_names_are_spelt_alike_are_refused(model: HookedTransformer, as_installed: None):
    circuits: Any = {1: Subgraph.whole(model), "1": Subgraph.empty(model)}
    with pytest.raises(ConfigError, match="spelt alike"):
        faithfulness(model, circuits, CORRUPTED, CLEAN, METRIC)


def test_a_seed_that_no_generator_takes_is_refused(model: HookedTransformer, as_installed: None):
    with pytest.raises(ConfigError, match="seed = "):
        acdc(model, CORRUPTED, CLEAN, METRIC, threshold=1, order="shuffled", seed=10**30)
    with pytest.raises(ConfigError, match="by = "):
        stability(scores(model, per_prompt=True), 3, by=np.array(["signed", "x"]))  # pyright: ignore


def test_scores_of_one_of_several_metrics_rank_as_they_do_alone_and_from_a_file_that_made_arrays_of_lists(
    model: HookedTransformer, tmp_path: Path
):
    import xarray

    metrics = {"one": METRIC, "opposite": LogitDifference(7, 3), "likely": Probability(3)}
    several = edge_scores(model, CORRUPTED, CLEAN, metrics, "eap", probe=0, progress=False)
    several.to_netcdf(tmp_path / "scores.nc")
    for name, metric in metrics.items():
        alone = edge_scores(model, CORRUPTED, CLEAN, metric, "eap", probe=0, progress=False)
        for found in (several, xarray.load_dataarray(tmp_path / "scores.nc")):
            assert Subgraph.top(found.sel(metric=name), 9, "signed") == Subgraph.top(alone, 9, "signed")
            with pytest.raises(ConfigError, match=r"scores\.sel"):
                Subgraph.top(found.isel(metric=0, drop=True), 9, "signed")


def test_inference_mode_is_named_where_no_gradient_flows_and_exact_effects_are_the_same_there(model: HookedTransformer):
    exact = scores(model, "exact")
    with torch.inference_mode():
        assert np.allclose(scores(model, "exact"), exact, equal_nan=True, atol=1e-6)
        for call in (scores, lambda model: node_scores(model, CORRUPTED, CLEAN, METRIC)):
            with pytest.raises(ConfigError, match="inference mode"):
                call(model)
        _, cache = model.run_with_cache(CORRUPTED)
    same = edge_scores(model, cache, CLEAN, METRIC, probe=0, progress=False)
    assert np.allclose(same, scores(model, "eap_ig"), equal_nan=True, atol=1e-6)


def test_a_budget_may_be_larger_than_any_memory(model: HookedTransformer):
    for method in ("eap", "exact"):
        assert np.allclose(scores(model, method, max_bytes=10**30), scores(model, method), equal_nan=True, atol=1e-6)


def test_metrics_of_many_logits_read_as_many_prompts_at_once_as_the_budget_takes(monkeypatch: pytest.MonkeyPatch):
    model, pair = small_model({"d_vocab": 500}), small_pair(batch=6)
    unembed, seen = type(model.unembed).forward, list[int]()

    def watched(self: Any, x: torch.Tensor) -> torch.Tensor:
        seen.append(x.numel() // x.shape[-1])
        return unembed(self, x)

    monkeypatch.setattr(type(model.unembed), "forward", watched)
    of_prompt = 8 * 5 * 500 * 8  # eight tensors of float64 logits at five positions
    for budget, n_prompts in ((2 * of_prompt + 1, 2), (10**9, 6)):
        seen.clear()
        runs = edge_runs(model, *pair, Loss(), max_bytes=budget)
        assert max(seen) == 5 * n_prompts
    seen.clear()
    runs.metrics(torch.stack([runs.graph.edge_mask().double()] * 3))
    assert max(seen) == 5 * 6
    seen.clear()
    found = [edge_scores(model, *pair, Loss(), probe=0, progress=False, max_bytes=b).values for b in (10**7, 10**9)]
    assert np.allclose(found[0], found[1], equal_nan=True, atol=1e-12)
    with pytest.raises(ConfigError, match=r"max_bytes = .* is too small"):
        edge_scores(model, *pair, Loss(), steps=5, max_bytes=5 * of_prompt)


def test_what_no_parser_and_no_memory_takes_is_refused_as_no_circuit(model: HookedTransformer):
    circuit = Subgraph.whole(model)
    own, theirs = json.loads(circuit.to_json()), json.loads(to_mib(circuit))
    huge = own["graph"] | {"n_layers": 10**9}
    for text in ("[" * 100_000, json.dumps(own | {"graph": huge}), json.dumps(own | {"schema": True})):
        with pytest.raises(CheckpointError):
            Subgraph.from_json(text)
    edge = next(iter(theirs["edges"]))
    twice = json.dumps(theirs)[:-2] + f', "{edge}": {{"score": 5, "in_graph": false}}}}}}'
    with pytest.raises(CheckpointError, match="is there twice"):
        from_mib(model, twice)
    theirs["edges"][edge]["score"] = 10**400
    for text in ("[" * 100_000, json.dumps(theirs)):
        with pytest.raises(CheckpointError):
            from_mib(model, text)


def test_the_largest_edges_of_each_of_several_metrics_are_probed_whatever_its_units(model: HookedTransformer):
    def small(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, -1, 5] / 1000

    both = edge_scores(model, CORRUPTED, CLEAN, {"large": METRIC, "small": small}, "eap", probe=4, progress=False)
    for name in ("large", "small"):
        scored = both.sel(metric=name)
        reader, writer = np.unravel_index(np.nanargmax(abs(scored.to_numpy())), scored.shape)
        assert np.isfinite(scored["exact"].to_numpy()[reader, writer])


def test_runs_that_differ_only_after_the_positions_asked_for_are_said_to_be_the_same_there(model: HookedTransformer):
    corrupted, clean = small_pair(same=3)
    with pytest.warns(UserWarning, match="before the positions that are asked for"):
        edge_scores(model, corrupted, clean, METRIC, positions=[1], progress=False)
    with pytest.raises(ConfigError, match="the positions that are asked for"):
        faithfulness(model, Subgraph.whole(model), corrupted, clean, METRIC, positions=[1])


def test_gim_detaches_the_scale_of_the_norm_on_neurons_as_those_of_all_others():
    solu = small_model({"act_fn": "solu_ln"}, seed=2)
    found = edge_scores(solu, CORRUPTED, CLEAN, METRIC, "gim", probe=0, per_prompt=True, progress=False)
    wanted = ByHand(solu, CORRUPTED, CLEAN, METRIC).gim().numpy()
    assert np.allclose(found, wanted, equal_nan=True, atol=1e-10)
