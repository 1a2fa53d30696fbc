"""Edges and circuits over data sets: what one call on all pairs would return."""

from pathlib import Path
from typing import Any

import pytest
import torch
from same_results import assert_same, in_one_batch, random_pairs
from small import MORE, small_model

from interp import CheckpointError, ConfigError, HookedTransformer, ShapeError
from interp.discovery import (
    Subgraph,
    edge_scores,
    edge_scores_dataset,
    faithfulness,
    faithfulness_curve,
    faithfulness_curve_dataset,
    faithfulness_dataset,
)
from interp.interventions import Zero
from interp.jobs import JobFolder
from interp.metrics import Function, KLDivergence, Logit

LENGTHS = [6, 4, 6, 8, 4, 8, 6]
QUIET: dict[str, Any] = {"progress": False}
SURE: dict[str, Any] = {"confidence": 0.01}
"""Of random models' circuits nothing is certain; small intervals let their ratios through."""


def asked(arch: str = "two heads", seed: int = 1) -> tuple[HookedTransformer, Any, dict[str, Any]]:
    model = small_model(MORE[arch], seed)
    pairs = random_pairs(model, LENGTHS, seed)
    return model, pairs, in_one_batch(pairs)


@pytest.mark.parametrize("arch", [name for name in MORE if name != "norms on both sides"])
def test_scores_over_pairs_are_those_of_all_of_them_at_once(arch: str):
    model, pairs, once = asked(arch)
    for method in ("exact", "eap_ig", "combined"):
        expected = edge_scores(model, **once, method=method, probe=4, **QUIET)
        assert_same(edge_scores_dataset(model, pairs, method=method, probe=4, unit=3, **QUIET), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"per_prompt": True},
        {"normalize": True, "confidence": 0.5},
        {"positions": [-1, 2]},
        {"positions": [3], "per_prompt": True, "probe": 0},
        {"readers": ["logits", "L1H0.q"], "writers": ["L0.mlp", "embed"]},
        {"norms": "frozen", "direction": "denoising"},
        {"steps": 3, "include": "other", "probe": 0},
        {"metric": {"kl": KLDivergence(), "logit": Logit(3)}},
    ],
    ids=lambda options: " ".join(options),
)
def test_the_options_of_scores_mean_the_same_over_pairs(options: dict[str, Any]):
    model, pairs, once = asked("one kv head", seed=2)
    expected = edge_scores(model, **(once | options), **QUIET)
    assert_same(edge_scores_dataset(model, pairs, **options, unit=2, **QUIET), expected)


def test_zero_ablation_over_pairs():
    model, pairs, once = asked(seed=3)
    expected = edge_scores(model, **(once | {"corrupted": Zero()}), method="local", **QUIET)
    assert_same(edge_scores_dataset(model, pairs, method="local", ablation=Zero(), unit=4, **QUIET), expected)


def test_circuits_over_pairs_are_judged_as_all_of_them_at_once():
    model, pairs, once = asked("RMS, gated, rotary", seed=4)
    scores = edge_scores(model, **once, probe=0, **QUIET)
    circuits = {"few": Subgraph.top(scores, 5), "many": Subgraph.top(scores, 30)}
    for options in ({}, {"per_prompt": True}, {"positions": [-1, -2], "norms": "frozen"}):
        expected = faithfulness(model, circuits, **once, **options, **SURE, **QUIET)
        assert_same(faithfulness_dataset(model, pairs, circuits, unit=3, **options, **SURE, **QUIET), expected)
    single = faithfulness_dataset(model, pairs, circuits["few"], unit=3, **SURE, **QUIET)
    assert "circuit" not in single.dims and int(single.n_edges) == 5


@pytest.mark.parametrize("by", ["absolute", ("absolute", "signed")])
def test_curves_over_pairs_are_those_of_all_of_them_at_once(by: Any):
    model, pairs, once = asked("parallel", seed=5)
    scores = {name: edge_scores(model, **once, method=name, probe=0, **QUIET) for name in ("eap", "combined")}
    ask: dict[str, Any] = {"scores": scores, "fractions": (0.1, 0.5, 1.0), "by": by, **SURE, **QUIET}
    assert_same(faithfulness_curve_dataset(model, pairs, unit=3, **ask), faithfulness_curve(model, **once, **ask))


def test_scores_and_their_probe_are_kept_in_one_folder_and_other_questions_are_refused(tmp_path: Path):
    model, pairs, _ = asked(seed=6)
    first = edge_scores_dataset(model, pairs, folder=tmp_path, unit=3, **QUIET)
    for folder in (tmp_path, tmp_path / "probe"):
        assert len(JobFolder.at(folder).status().done) == 3
    assert first.identical(edge_scores_dataset(model, pairs, folder=tmp_path, unit=3, **QUIET))
    with pytest.raises(CheckpointError, match=r"method \('eap_ig' there, 'eap' here\)"):
        edge_scores_dataset(model, pairs, method="eap", folder=tmp_path, unit=3, **QUIET)
    with pytest.raises(CheckpointError, match=r"differs in: .*analysis"):
        faithfulness_dataset(model, pairs, Subgraph.whole(model), folder=tmp_path, unit=3, **QUIET)


@pytest.mark.usefixtures("as_installed")
def test_what_cannot_be_asked_of_pairs_is_refused_before_any_unit(tmp_path: Path):
    model, pairs, once = asked(seed=7)
    refused: list[tuple[str, dict[str, Any]]] = [
        ("method = 'eapig'", {"method": "eapig"}),
        ("norms = 'cold'", {"norms": "cold"}),
        ("unknown argument 'effects'", {"effects": True}),
        ("at the run that KLDivergence measures from", {"metric": KLDivergence(), "method": "eap"}),
        ("positions = 9", {"positions": 9}),
    ]
    for message, change in refused:
        with pytest.raises(ConfigError, match=message):
            edge_scores_dataset(model, pairs, folder=tmp_path / "job", **change, **QUIET)
    assert not (tmp_path / "job").exists()
    other = small_model(MORE["attention-only"])
    with pytest.raises(ShapeError, match="another shape"):
        faithfulness_dataset(model, pairs, Subgraph.whole(other), **QUIET)
    same = edge_scores(model, **once, probe=0, **QUIET) * 0
    with pytest.raises(ConfigError, match=r"over 7 prompts a gap of .* so that a ratio to it is noise"):
        faithfulness_dataset(model, pairs, Subgraph.top(same, 3), metric=of_each, **QUIET)


def of_each(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 0] * 0


def test_a_metric_whose_name_has_a_semicolon_is_one_metric():
    model, pairs, _ = asked(seed=8)
    named = Function(of_each, name="first; second")
    with pytest.raises(ConfigError, match=r"^first; second: the whole graph has"):
        faithfulness_dataset(model, pairs, Subgraph.whole(model), metric=named, **QUIET)
    several = {"one": named, "two": named}
    with pytest.raises(ConfigError, match=r"^first; second: the whole graph has"):
        faithfulness_dataset(model, pairs, Subgraph.whole(model), metric=several, **QUIET)
