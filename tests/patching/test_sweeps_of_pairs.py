"""Sweeps over data sets are the sweeps of one call on all pairs, whatever the units and whoever computes them."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grid import GRID, SEED, build, config
from same_results import assert_same, in_one_batch, random_pairs

from interp import CheckpointError, ConfigError, HookedTransformer, JobError, ShapeError, TokenError, Vocabulary
from interp.data import PromptPairs
from interp.interventions import Mean, Resample, Zero
from interp.jobs import JobFolder, ModelRef, part
from interp.metrics import KLDivergence, Logit, LogitDifference, Loss, Rank
from interp.patching import path_sweep, path_sweep_dataset, sweep, sweep_dataset

LENGTHS = [5, 7, 3, 7, 5, 5, 7]
QUIET: dict[str, Any] = {"progress": False}


def small(name: str = "learned_ln", **fields: Any) -> HookedTransformer:
    return build(config(GRID[name], **fields), SEED)


@pytest.mark.parametrize("name", list(GRID))
def test_a_sweep_over_pairs_is_the_sweep_of_all_of_them_at_once(name: str):
    model = small(name)
    pairs = random_pairs(model, LENGTHS)
    once = in_one_batch(pairs)
    places: list[tuple[str, Any]] = [("resid_pre", ("layer", "pos")), ("z", ("pos", "head", "layer"))]
    for site, over in places:
        expected = sweep(model, **once, site=site, over=over, **QUIET)
        asked = replace(pairs.metric, pos=-1) if model.cfg.predicts_masked_tokens else None
        assert_same(sweep_dataset(model, pairs, asked, site, over, unit=3, **QUIET), expected)


def test_the_options_of_a_sweep_mean_the_same_over_pairs():
    model = small("rotary_rms_gated_grouped")
    pairs = random_pairs(model, LENGTHS, seed=2)
    once = in_one_batch(pairs)
    several = {"difference": once["metric"], "divergence": KLDivergence()}
    options: list[dict[str, Any]] = [
        {"per_prompt": True},
        {"effects": True, "direction": "noising"},
        {"normalize": True, "confidence": 0.5},
        {"site": "attn_out", "over": ("layer",), "layers": [2, 0]},
        {"positions": [-1, 2, -7], "normalize": True},
        {"positions": [0], "per_prompt": True},
        {"site": "k", "over": ("head", "layer"), "heads": [1]},
        {"site": "post", "over": ("layer", "neuron"), "neurons": [3, 1], "layers": 1},
        {"site": "pattern", "over": ("layer", "pos", "head")},
        {"metric": several, "normalize": True},
        {"metric": Logit(3)},
        {"metric": Loss(), "direction": "noising"},
    ]
    for given in options:
        metric = given.get("metric", once["metric"])
        expected = sweep(model, **(once | given | {"metric": metric}), **QUIET)
        of_pairs = {name: value for name, value in given.items() if name != "metric"}
        for unit in (2, 100):
            asked = given.get("metric")
            assert_same(sweep_dataset(model, pairs, asked, unit=unit, **of_pairs, **QUIET), expected)


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_an_ablation_stands_for_the_corrupted_prompts(ablation: str):
    model = small("partial_rotary_parallel")
    pairs = random_pairs(model, [6] * 5, seed=3)
    once = in_one_batch(pairs)
    cache = model.run_with_cache(once["corrupted"])[1]
    source = Zero() if ablation == "zero" else Mean(cache, per_position=False)
    expected = sweep(model, **(once | {"corrupted": source}), site="z", over=("layer", "head"), **QUIET)
    found = sweep_dataset(model, pairs, site="z", over=("layer", "head"), ablation=source, unit=2, **QUIET)
    assert_same(found, expected)
    assert found.attrs["direction"] == "noising" and "target" not in found.attrs
    with pytest.raises(ConfigError, match="is not a run, so there is no other end"):
        sweep_dataset(model, pairs, site="z", over=("layer", "head"), ablation=source, normalize=True, **QUIET)


def test_resampling_draws_anew_in_every_unit_and_the_same_again_when_asked_again():
    model = small()
    pairs = random_pairs(model, [6] * 4, seed=4)
    pairs = pairs[[0, 0, 0, 0]]
    others = model.run_with_cache(torch.randint(11, (9, 6)))[1]
    ask: dict[str, Any] = {"ablation": Resample(others), "site": "z", "over": ("layer", "head"), "per_prompt": True}
    found = sweep_dataset(model, pairs, unit=1, **ask, **QUIET)
    assert not (found == found[0]).all()
    assert (found == sweep_dataset(model, pairs, unit=1, **ask, **QUIET)).all()


@pytest.mark.parametrize("name", ["learned_ln", "rotary_rms_gated_grouped", "shortformer_attn_only"])
def test_a_sweep_of_paths_over_pairs_is_that_of_all_of_them_at_once(name: str):
    model = small(name)
    pairs = random_pairs(model, LENGTHS, seed=5)
    once = in_one_batch(pairs)
    for options in ({}, {"positions": [-1, 1]}, {"positions": [0], "per_prompt": True}, {"normalize": True}):
        for receivers, senders in (("logits", "heads"), (["L2H1.q", "L1H0.v"], ["embed", "L0H2"])):
            expected = path_sweep(model, **once, receivers=receivers, senders=senders, **options, **QUIET)
            found = path_sweep_dataset(model, pairs, receivers=receivers, senders=senders, unit=3, **options, **QUIET)
            assert_same(found, expected)


def test_texts_become_tokens_as_in_one_call():
    words = Vocabulary(["<s>", *"abcdef"], bos="<s>")
    model = HookedTransformer(config(GRID["learned_ln"], d_vocab=7), tokenizer=words)
    pairs = PromptPairs(["a b c", "c d e"], ["a c c", "c d f"], ["a", "b"], ["b", "c"])
    expected = sweep(model, ["a c c", "c d f"], ["a b c", "c d e"], pairs.metric, **QUIET)
    found = sweep_dataset(model, pairs, unit=1, **QUIET)
    assert_same(found, expected)
    assert found.token.values.tolist() == ["a/c", "c/d", "c/f"]


def test_half_precision_over_pairs_is_that_of_its_units():
    model = small().to(torch.bfloat16)
    pairs = random_pairs(model, [6] * 4, seed=6)
    found = sweep_dataset(model, pairs, unit=2, per_prompt=True, **QUIET)
    for rows in (slice(0, 2), slice(2, 4)):
        expected = sweep(model, **in_one_batch(pairs[rows]), per_prompt=True, **QUIET)
        assert (found.values[rows] == expected.values).all()


def pairs_and_their_answers(model: HookedTransformer) -> Iterator[tuple[PromptPairs, int]]:
    """Pairs, and each answer of which the rank is the same in both runs of the first pair, but not of all."""
    for seed in itertools.count():
        pairs = random_pairs(model, LENGTHS, seed)
        logits = [[model(torch.tensor([ids]))[0, -1] for ids in prompts] for prompts in (pairs.clean, pairs.corrupted)]
        ranks = torch.stack([torch.stack(of).argsort(descending=True).argsort() for of in logits])
        gaps = (ranks[0] - ranks[1]).double()
        for answer in ((gaps[0] == 0) & (gaps.mean(0) != 0)).nonzero().flatten().tolist():
            yield pairs, answer


def test_pairs_between_whose_prompts_there_is_no_gap_are_normalized_by_that_of_all():
    model = small()
    pairs, answer = next(pairs_and_their_answers(model))
    expected = sweep(model, **(in_one_batch(pairs) | {"metric": Rank(answer)}), normalize=True, **QUIET)
    assert_same(sweep_dataset(model, pairs, Rank(answer), normalize=True, unit=1, **QUIET), expected)


# ---------------------------------------------------------------------- as a job


@pytest.mark.usefixtures("as_installed")
def test_autocast_around_the_call_does_not_change_the_numbers_that_are_kept(tmp_path: Path):
    model = small(dtype=torch.float32)
    pairs = random_pairs(model, LENGTHS, seed=12)
    of_numpy: Any = {"unit": np.int64(3), "max_bytes": np.int64(10**8)}
    plain = sweep_dataset(model, pairs, **of_numpy, **QUIET)
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(sweep_dataset(model, pairs, unit=3, max_bytes=10**8, **QUIET), plain)


def test_a_model_that_was_built_in_inference_mode_is_swept(tmp_path: Path):
    with torch.inference_mode():
        model = small()
    pairs = random_pairs(model, LENGTHS, seed=13)
    assert_same(sweep_dataset(model, pairs, unit=3, **QUIET), sweep(model, **in_one_batch(pairs), **QUIET))


@pytest.mark.apart
def test_workers_and_parts_give_the_same_bits_and_an_interrupted_sweep_goes_on(tmp_path: Path):
    model = small("rotary_rms_gated_grouped").to(torch.float32)
    pairs = random_pairs(model, LENGTHS, seed=7)
    ask: dict[str, Any] = {"site": "z", "over": ("layer", "head"), "unit": 2, **QUIET}
    here = sweep_dataset(model, pairs, **ask, folder=tmp_path / "here")
    there = sweep_dataset(model, pairs, **ask, folder=tmp_path / "there", workers=2)
    assert here.identical(there)
    with pytest.raises(JobError, match="2 of 4 units are missing"):
        sweep_dataset(model, pairs, **ask, folder=tmp_path / "parts", workers=part(1, 2))
    assert here.identical(sweep_dataset(model, pairs, **ask, folder=tmp_path / "parts"))
    ref = ModelRef.of(model).snapshotted(tmp_path / "there" / "model")
    assert here.identical(sweep_dataset(ref, pairs, **ask, folder=tmp_path / "there"))


def test_another_question_in_the_folder_is_refused_by_name(tmp_path: Path):
    model = small()
    pairs = random_pairs(model, LENGTHS, seed=8)
    sweep_dataset(model, pairs, folder=tmp_path, **QUIET)
    others: list[tuple[str, dict[str, Any]]] = [
        ("pairs", {"pairs": pairs[1:]}),
        ("model", {"model": build(config(GRID["learned_ln"]), SEED + 1)}),
        ("metric", {"metric": Logit(3)}),
        ("direction", {"direction": "noising"}),
        ("ablation", {"ablation": Zero()}),
        ("site", {"site": "mlp_out"}),
        ("positions", {"positions": [-1]}),
        ("pairs a unit", {"unit": 3}),
        ("max_bytes", {"max_bytes": 10**9}),
    ]
    for named, change in others:
        with pytest.raises(CheckpointError, match=f"differs in: (.*; )?{named} \\("):
            sweep_dataset(**({"model": model, "pairs": pairs, "folder": tmp_path} | change), **QUIET)
    shown = [{"effects": True}, {"normalize": True}, {"per_prompt": True}, {"confidence": 0.5}]
    for change in shown:  # how results are shown is no part of the question
        sweep_dataset(model, pairs, folder=tmp_path, **change, **QUIET)
    assert len(JobFolder.at(tmp_path).status().done) == 1


def of_all(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 0].mean()


def of_each(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 0]


def test_a_function_that_makes_one_number_of_several_prompts_is_refused_and_one_a_prompt_is_not():
    model = small()
    pairs = random_pairs(model, LENGTHS, seed=9)
    with pytest.raises(ConfigError, match="'of_all' made a single number of several prompts"):
        sweep_dataset(model, pairs, of_all, **QUIET)
    assert_same(sweep_dataset(model, pairs, of_each, unit=3, **QUIET),
                sweep(model, **(in_one_batch(pairs) | {"metric": of_each}), **QUIET))  # fmt: skip


@pytest.mark.usefixtures("as_installed")
def test_what_cannot_be_swept_is_refused_before_any_unit(tmp_path: Path):
    model = small()
    pairs = random_pairs(model, LENGTHS, seed=10)
    text = PromptPairs(["a"], ["b"], ["c"])
    longer_and_short = random_pairs(model, [*LENGTHS, 1])
    refused: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ConfigError, "pairs = .*; allowed: interp.data.PromptPairs", {"pairs": [("a", "b")]}),
        (TokenError, "no tokenizer", {"pairs": text}),
        (ShapeError, "5 tokens, the corrupted one 4", {"pairs": PromptPairs([[1, 2, 3, 4, 5]], [[1, 2, 3, 4]], [1])}),
        (ConfigError, "over = ", {"over": ("layer", "poss")}),
        (ConfigError, "layers = 9", {"layers": 9}),
        (ConfigError, "unit = 0", {"unit": 0}),
        (ConfigError, "direction = 'back'", {"direction": "back"}),
        (ConfigError, "ablation = 0", {"ablation": 0}),
        (ConfigError, "unknown argument 'folders'", {"folders": tmp_path}),
        (ConfigError, "unknown argument 'checkpoint'", {"checkpoint": tmp_path}),
        (ConfigError, "pos = 1 counts from the start, and these pairs differ in length", {"metric": Logit(1, pos=1)}),
        (ConfigError, "2 answers in correct for 7 pairs", {"metric": LogitDifference([1, 2], 3)}),
        (ConfigError, "give it no reference", {"metric": KLDivergence(torch.zeros(7, 7, 11))}),
        (ConfigError, "model = 3", {"model": 3}),
        (TokenError, "pair 7, of 1 tokens: a loss needs at least two", {"pairs": longer_and_short, "metric": Loss()}),
        (ShapeError, "pair 2, of 3 tokens: pos = -4", {"metric": Logit(1, pos=[-1, -4])}),
    ]
    for kind, message, change in refused:
        with pytest.raises(kind, match=message):
            sweep_dataset(**({"model": model, "pairs": pairs, "folder": tmp_path / "job"} | change), **QUIET)
    assert not (tmp_path / "job").exists()
