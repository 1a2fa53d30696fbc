"""Where a metric reads: a position, the place of a token, or by default the last one, where that means something."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from grid import GRID, SEED, build, config

from interp import ConfigError, HookedTransformer, ShapeError, TokenError, Vocabulary
from interp.data import PromptPairs
from interp.discovery import acdc, edge_scores, edge_scores_dataset
from interp.metrics import (
    JudgedRun,
    KLDivergence,
    Logit,
    LogitDifference,
    LogProbability,
    Metric,
    Probability,
    Rank,
)
from interp.patching import path_sweep, sweep, sweep_dataset

WORDS = ["[PAD]", *"abcdefgh", "[MASK]", "[SEP]"]
MASK = WORDS.index("[MASK]")
CLEAN = [[1, MASK, 2, 3, 10], [4, 5, MASK, 6, 10], [MASK, 7, 8, 1, 10]]
CORRUPTED = [[2, MASK, 2, 3, 10], [4, 6, MASK, 6, 10], [MASK, 7, 7, 1, 10]]
QUIET: dict[str, Any] = {"progress": False}


def model_of(name: str) -> HookedTransformer:
    return build(config(GRID[name]), SEED, Vocabulary(WORDS, sep=" "))


def defaults(ids: torch.Tensor) -> list[Metric]:
    return [
        Logit("a"),
        LogitDifference("a", "b"),
        LogProbability("a"),
        Probability("a"),
        Rank("a"),
        KLDivergence(ids),
    ]


@pytest.mark.parametrize("name", ["bert_like", "modernbert_like"])
def test_no_metric_reads_the_end_of_a_masked_text_by_itself(name: str):
    model, clean, corrupted = model_of(name), torch.tensor(CLEAN), torch.tensor(CORRUPTED)
    logits, pairs = model(clean), PromptPairs(CLEAN, CORRUPTED, [1] * 3, [2] * 3)
    told = r"pos='\[MASK\]', pos=model.get_token_position\('\[MASK\]', text\), or pos=-1"
    for metric in defaults(corrupted):
        calls = [
            lambda metric=metric: metric(logits, model, clean),
            lambda metric=metric: sweep(model, corrupted, clean, metric, **QUIET),
            lambda metric=metric: model.run_with_cache(clean, None, gradient_of=metric),
        ]
        for call in calls:
            with pytest.raises(ConfigError, match=told):
                call()
    with pytest.raises(ConfigError, match=told):
        sweep_dataset(model, pairs, **QUIET)
    if not model.cfg.normalizes_stream:  # else nothing is defined along edges
        for call in (
            lambda: acdc(model, corrupted, clean, threshold=0.1, **QUIET),
            lambda: edge_scores(model, corrupted, clean, pairs.metric, **QUIET),
            lambda: edge_scores_dataset(model, pairs, **QUIET),
            lambda: path_sweep(model, corrupted, clean, pairs.metric, "logits", **QUIET),
        ):
            with pytest.raises(ConfigError, match=told):
                call()


def test_models_that_predict_the_next_token_read_the_last_position():
    for name in ("learned_ln", "bidirectional_attn_only_no_norm"):
        model, ids = model_of(name), torch.tensor(CLEAN)
        for metric in defaults(torch.tensor(CORRUPTED)):
            last: Any = replace(metric, pos=-1)
            assert torch.equal(metric(model(ids), model, ids), last(model(ids), model, ids))
            assert metric == last and hash(metric) == hash(last)
            run = JudgedRun.of(model, model.masked_tokens(ids))
            assert metric.key(run) == last.key(run)


def test_a_copied_or_pickled_metric_still_knows_that_nobody_said_where():
    model, ids = model_of("bert_like"), torch.tensor(CLEAN)
    for again in (copy.deepcopy(Logit("a")), pickle.loads(pickle.dumps(Logit("a"))), replace(Logit("b"), answer="a")):
        with pytest.raises(ConfigError, match="masked tokens"):
            again(model(ids), model, ids)


@pytest.mark.parametrize("name", ["bert_like", "learned_ln"])
def test_a_token_is_read_where_it_stands_in_each_prompt(name: str):
    model, ids = model_of(name), torch.tensor(CLEAN)
    logits = model(ids)
    places = [row.index(MASK) for row in CLEAN]
    for metric in defaults(torch.tensor(CORRUPTED)):
        found = replace(metric, pos="[MASK]")(logits, model, ids)
        for row, place in enumerate(places):
            alone = replace(metric, pos=place)(logits, model, ids)
            assert found[row] == alone[row]
    swept = sweep(model, torch.tensor(CORRUPTED), ids, Logit("a", pos="[MASK]"), per_prompt=True, **QUIET)
    for row, place in enumerate(places):
        pair = torch.tensor([CORRUPTED[row]]), torch.tensor([CLEAN[row]])
        one = sweep(model, *pair, Logit("a", pos=place), **QUIET)
        assert np.allclose(swept.isel(prompt=row), one, atol=1e-10)
    assert swept.attrs["metric"] == "logit of 'a' at '[MASK]'"
    _, cache = model.run_with_cache(ids, None, gradient_of=Logit("a", pos="[MASK]"))
    last = cache["blocks.2.hook_resid_post_grad"]  # nothing after it mixes positions
    assert [row.abs().sum(-1).nonzero().flatten().tolist() for row in last] == [[place] for place in places]


def test_padding_with_the_same_id_is_no_such_token():
    model = model_of("bert_like")
    ids, mask = torch.tensor([[MASK, MASK, 1, 2], [3, MASK, 1, 2]]), torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    logits = model(ids, attention_mask=mask)
    metric = Logit("a", pos="[MASK]")
    assert torch.equal(metric(logits, model, ids, mask), logits[:, 1, 1])
    with pytest.raises(TokenError, match=r"pos = '\[MASK\]' stands 2 times in prompt 0"):
        metric(logits, model, ids)


@pytest.mark.usefixtures("as_installed")
def test_a_token_that_names_no_place_is_refused():
    model, ids = model_of("bert_like"), torch.tensor(CLEAN)
    logits = model(ids)
    cases: list[tuple[Metric, Any, str]] = [
        (Logit("a", pos="c"), (model, ids), "pos = 'c' stands 0 times in prompt 1"),
        (Logit("a", pos="[MASK] a"), (model, ids), r"pos: '\[MASK\] a' is 2 tokens"),
        (Logit("a", pos="[MSK]"), (model, ids), r"pos: unknown word '\[MSK\]'.*did you mean '\[MASK\]'"),
        (Logit("a", pos="[MASK]"), (model,), "give tokens="),
        (Logit(1, pos="[MASK]"), (None, ids), "is text: give model="),
    ]
    for metric, given, message in cases:
        with pytest.raises(TokenError, match=message):
            metric(logits, *given)


def test_both_prompts_of_a_pair_hold_the_token_at_one_place():
    model, metric = model_of("bert_like"), Logit("a", pos="[MASK]")
    clean, moved = torch.tensor(CLEAN), torch.tensor([*CORRUPTED[:2], [7, MASK, 7, 1, 10]])
    with pytest.raises(ShapeError, match=r"'\[MASK\]' stands at position 1 of prompt 2 and at 0 of the other"):
        sweep(model, moved, clean, metric, **QUIET)
    pairs = PromptPairs(CLEAN, moved.tolist(), [1] * 3, [2] * 3)
    for unit in (1, 3):
        with pytest.raises(ShapeError, match=r"stands at position 0 of prompt 2 and at 1 of the other"):
            sweep_dataset(model, pairs, replace(pairs.metric, pos="[MASK]"), unit=unit, **QUIET)


def test_pairs_of_unequal_length_are_read_at_their_own_masks():
    model = model_of("bert_like")
    clean, corrupted = [*CLEAN, [1, MASK, 10]], [*CORRUPTED, [2, MASK, 10]]
    pairs = PromptPairs(clean, corrupted, [1, 2, 3, 4], [2, 3, 4, 5])
    metric = replace(pairs.metric, pos="[MASK]")
    for options in ({}, {"unit": 2}):
        found = sweep_dataset(model, pairs, metric, over=("layer",), per_prompt=True, **options, **QUIET)
        for row in range(4):
            own = LogitDifference(row + 1, row + 2, pos=clean[row].index(MASK))
            alone = sweep(
                model, torch.tensor([corrupted[row]]), torch.tensor([clean[row]]), own, over=("layer",), **QUIET
            )
            assert np.allclose(found.isel(prompt=row), alone, atol=1e-10)
    lacking = PromptPairs([*clean, [1, 2]], [*corrupted, [2, 2]], [1] * 5, [2] * 5)
    with pytest.raises(TokenError, match="stands 0 times in prompt 4"):
        sweep_dataset(model, lacking, replace(lacking.metric, pos="[MASK]"), unit=1, **QUIET)
