"""Results over prompts: means, intervals of Student's t, and what is left out of them."""

import math

import numpy as np
import pytest
import torch
from grid import random_tensor

from interp.results import Axis, over_prompts
from interp.results.axes import t_quantile


def test_t_quantiles_are_those_of_closed_forms_and_of_the_tables():
    for p in (0.6, 0.9, 0.975, 0.9995):
        assert t_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-12)
        assert t_quantile(p, 2) == pytest.approx((2 * p - 1) / math.sqrt(2 * p * (1 - p)), rel=1e-12)
    for p, degrees, table in (
        (0.975, 4, 2.776445),
        (0.95, 30, 1.697261),
        (0.995, 9, 3.249836),
        (0.975, 2000, 1.961151),
    ):
        assert t_quantile(p, degrees) == pytest.approx(table, abs=5e-7)


def test_an_interval_is_the_mean_and_so_many_standard_errors_on_either_side():
    values = random_tensor(1, 5, 3, seed=1)
    result = over_prompts(values, [Axis("layer", [0, 1, 2])], None, False, 0.95, {"n": 5}, "value")
    error = values[0].std(dim=0).numpy() / math.sqrt(5)
    assert result.dims == ("layer",) and result.attrs == {"n": 5, "confidence": 0.95}
    assert np.allclose(result.ci_high - result, 2.7764451 * error) and np.allclose(
        result - result.ci_low, 2.7764451 * error
    )


def test_one_number_for_all_prompts_has_no_interval_also_beside_what_was_not_measured():
    values = torch.ones(1, 4, 2)
    values[..., 1] = torch.nan
    result = over_prompts(values, [Axis("sender", [0, 1])], None, False, 0.95, {}, "value")
    assert "ci_low" not in result.coords and np.array_equal(result, [1.0, np.nan], equal_nan=True)
    kept = over_prompts(values, [Axis("sender", [0, 1])], ["m"], True, 0.95, {}, "value")
    assert kept.dims == ("metric", "prompt", "sender") and kept.name == "value"
