"""Scores depend on the prompts alone: not on how many run at once, in which order, or beside which others."""

from typing import Any

import numpy as np
import pytest
import torch
from small import MORE, SEPARATE, scores_of, small_model, small_pair

from interp import ConfigError
from interp.discovery import MethodName
from interp.interventions import Zero
from interp.metrics import KLDivergence, LogitDifference, Loss

SOME = ["one kv head", "parallel", "RMS, gated, rotary", "norms on both sides", "bidirectional"]


def same(found: np.ndarray, expected: np.ndarray, atol: float = 1e-5) -> bool:
    return np.allclose(found, expected, atol=atol, rtol=1e-5, equal_nan=True)


@pytest.mark.apart
def test_four_prompts_score_alike_in_any_batch_and_order():
    order = [2, 0, 3, 1]
    for seed, name in enumerate(SOME, start=1):
        model = small_model(MORE[name] | {"dtype": torch.float32}, seed)
        corrupted, clean = small_pair(seed, batch=4, n=5)
        corrupted[1, :2], corrupted[2, :4] = clean[1, :2], clean[2, :4]  # their runs differ from other positions on
        for method in SEPARATE:
            together = scores_of(model, corrupted, clean, method)
            shuffled = scores_of(model, corrupted[order], clean[order], method, max_bytes=300_000)
            assert same(shuffled, together[order]), (name, method)
            assert same(scores_of(model, corrupted[[2]], clean[[2]], method), together[[2]]), (name, method)


@pytest.mark.apart
def test_the_mean_over_prompts_is_that_of_single_ones_whatever_the_sizes_of_batches():
    model, (corrupted, clean) = small_model({}, 1), small_pair(1, batch=5)
    for method in SEPARATE:
        single = np.mean([scores_of(model, corrupted[[i]], clean[[i]], method)[0] for i in range(5)], axis=0)
        for max_bytes in (600_000, 1_300_000, 2_000_000_000):  # of which some leave a ragged last batch
            mean = scores_of(model, corrupted, clean, method, per_prompt=False, max_bytes=max_bytes)
            assert same(mean, single, 1e-10), (method, max_bytes)


@pytest.mark.parametrize(
    ("name", "zero"),
    [
        ("two heads", False),
        pytest.param("RMS, gated, rotary", True, marks=pytest.mark.apart),
        pytest.param("norms on both sides", False, marks=pytest.mark.apart),
        pytest.param("bidirectional", True, marks=pytest.mark.apart),
        pytest.param("shortformer", False, marks=pytest.mark.apart),
    ],
)
def test_padded_prompts_score_as_they_do_alone(name: str, zero: bool):
    model, (corrupted, clean) = small_model(MORE[name], 1), small_pair(1, batch=2)
    lengths = [6, 4]
    mask = torch.tensor([[0] * (6 - n) + [1] * n for n in lengths])
    for method in SEPARATE:
        padded = scores_of(model, Zero() if zero else corrupted, clean, method, attention_mask=mask)
        for i, n in enumerate(lengths):
            alone = Zero() if zero else corrupted[[i], -n:]
            assert same(padded[[i]], scores_of(model, alone, clean[[i], -n:], method), 1e-9), (method, n)


@pytest.mark.apart
def test_metrics_that_read_many_positions_or_all_prompts_at_once_do_not_depend_on_batches_either():
    model, (corrupted, clean) = small_model({}, 2), small_pair(2, batch=4)

    def cubed(logits: torch.Tensor) -> torch.Tensor:
        return (logits[:, -1, 3] - logits[:, 0, 7]) ** 3 / 100

    difference = LogitDifference([1, 2, 3, 4], 5, pos=None)
    metrics: dict[str, Any] = {"loss": Loss(), "function": cubed, "difference": difference}
    for method in SEPARATE:
        for what, metric in metrics.items():
            together = scores_of(model, corrupted, clean, method, metric=metric)
            budget = 2_300_000 if what == "function" else 600_000  # all prompts together, or less than two
            small = scores_of(model, corrupted, clean, method, metric=metric, max_bytes=budget)
            assert same(small, together, 1e-9), (method, what)
            if what != "difference":
                one = scores_of(model, corrupted[[3]], clean[[3]], method, metric=metric)
                assert same(one, together[[3]], 1e-9), (method, what)
    divergence = KLDivergence(pos=None)
    for method in ("exact", "eap_ig"):
        together = scores_of(model, corrupted, clean, method, metric=divergence)
        assert same(scores_of(model, corrupted[[3]], clean[[3]], method, metric=divergence), together[[3]], 1e-9)


@pytest.mark.apart
def test_half_precision_neither_overflows_nor_goes_astray():
    for seed, name in enumerate(["two heads", "RMS, gated, rotary", "norms on both sides"], start=1):
        model = small_model(MORE[name], seed)
        corrupted, clean = small_pair(seed)
        with torch.no_grad():
            model.W_E.mul_(8)
            model.unembed.W_U.mul_(200)  # scores of thousands, gradients times differences beyond 65,504
        expected: dict[MethodName, np.ndarray] = {m: scores_of(model, corrupted, clean, m) for m in SEPARATE}
        for dtype, within in ((torch.float16, 0.02), (torch.bfloat16, 0.1)):
            half = small_model(MORE[name] | {"dtype": dtype}, seed)
            half.load_state_dict({key: value.to(dtype) for key, value in model.state_dict().items()})
            for method, wanted in expected.items():
                found, there = scores_of(half, corrupted, clean, method), np.isfinite(wanted)
                assert np.array_equal(np.isfinite(found), there), (dtype, name, method)
                error = np.abs(found[there] - wanted[there]).max() / np.abs(wanted[there]).max()
                assert error < within, (dtype, name, method, error)


def test_norms_on_the_stream_itself_are_refused_by_every_method():
    model, (corrupted, clean) = small_model({"norm_position": "post"}), small_pair()
    for method in SEPARATE:
        with pytest.raises(ConfigError, match="post"):
            scores_of(model, corrupted, clean, method)
