"""Stability of the best edges under other draws of prompts, against loops over `Subgraph.top`."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from grid import GRID, SEED, config
from small import METRIC, small_model, small_pair

from interp import ConfigError, ShapeError
from interp.discovery import Subgraph, edge_scores, stability
from interp.model import EdgeGraph

GRAPH = EdgeGraph.of(config(GRID["learned_ln"], n_layers=1, n_heads=2))


def scores(n_prompts: int, noise: float, seed: int = SEED) -> xarray.DataArray:
    """Scores of prompts that agree but for noise."""
    generator = torch.Generator().manual_seed(seed)
    shape = GRAPH.edge_mask().shape
    common = torch.randn(shape, generator=generator, dtype=torch.float64)
    values = common + noise * torch.randn((n_prompts, *shape), generator=generator, dtype=torch.float64)
    values[:, ~GRAPH.edge_mask()] = math.nan
    names = {"reader": list(map(str, GRAPH.readers)), "writer": list(map(str, GRAPH.writers))}
    about = {"graph": GRAPH.to_json(), "method": "eap", "direction": "noising", "metric": "a metric", "model": "0"}
    return xarray.DataArray(values.numpy(), dims=["prompt", "reader", "writer"], coords=names, attrs=about)


def jaccard(one: Subgraph, other: Subgraph) -> float:
    return len(one & other) / len(one | other)


@pytest.mark.parametrize("by", ["absolute", "signed"])
def test_the_mean_over_many_draws_is_that_over_all_draws_there_are(by: Any):
    given, n = scores(3, 1.0), 4
    best = Subgraph.top(given.mean("prompt", keep_attrs=True), n, by)
    each, counts = [], np.zeros(GRAPH.edge_mask().shape)
    for draw in itertools.product(range(3), repeat=3):
        drawn = Subgraph.top(given.isel(prompt=list(draw)).mean("prompt", keep_attrs=True), n, by)
        each.append(jaccard(drawn, best))
        counts += drawn.mask.numpy() / 27
    found = stability(given, n, samples=4000, by=by)
    assert float(found.jaccard) == pytest.approx(np.mean(each), abs=0.03)
    frequency = found.frequency.to_numpy()
    assert np.array_equal(np.isnan(frequency), ~GRAPH.edge_mask().numpy())
    assert np.abs(np.nan_to_num(frequency) - counts).max() < 0.04
    assert np.nansum(frequency) == pytest.approx(n)
    assert min(each) <= float(found.jaccard_ci_low) <= float(found.jaccard) <= float(found.jaccard_ci_high) <= max(each)


def test_prompts_that_agree_are_stable_and_noise_is_not():
    agreeing, noisy = (stability(scores(8, noise), 5, samples=200) for noise in (0.0, 20.0))
    assert float(agreeing.jaccard) == float(agreeing.jaccard_ci_low) == 1
    assert set(np.unique(agreeing.frequency.to_numpy()[GRAPH.edge_mask().numpy()])) == {0, 1}
    assert float(noisy.jaccard) < 0.8
    assert agreeing.attrs["n"] == 8
    assert agreeing.attrs["metric"] == "a metric"


def test_draws_are_seeded():
    given = scores(5, 1.0)
    some, again, other = (stability(given, 5, samples=50, seed=seed) for seed in (1, 1, 2))
    assert some.equals(again)
    assert not some.equals(other)


def test_edges_that_are_not_scored_are_not_among_the_best():
    given = scores(4, 1.0)
    given[:, -1] = math.nan
    found = stability(given, 3, samples=50)
    assert found.frequency[-1].isnull().all()
    assert float(found.frequency.sum()) == pytest.approx(3)


def test_scores_that_edge_scores_makes_for_each_prompt_can_be_drawn():
    model = small_model({})
    given = edge_scores(model, *small_pair(batch=4), METRIC, "eap", per_prompt=True, probe=0, progress=False)
    found = stability(given, 10, samples=50, by="signed")
    assert 0 < float(found.jaccard) <= 1
    assert found.attrs["method"] == "eap"


def test_what_says_nothing_is_refused(as_installed: None):
    given = scores(4, 1.0)
    asked: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"scores_per_prompt": given[:2]}, ConfigError, "scores of 2 prompts; allowed: 3 or more. Of one"),
        ({"scores_per_prompt": given[0]}, ShapeError, "per_prompt=True"),
        ({"scores_per_prompt": None}, ShapeError, "per_prompt=True"),
        ({"scores_per_prompt": given.expand_dims(metric=2)}, ShapeError, "metric"),
        ({"n": 0}, ConfigError, "n = 0; allowed: 1 to"),
        ({"n": 10_000}, ConfigError, "n = 10000"),
        ({"samples": 0}, ConfigError, "samples = 0"),
        ({"seed": 1.5}, ConfigError, "seed = 1.5"),
        ({"by": "sign"}, ConfigError, "did you mean 'signed'"),
        ({"confidence": 1}, ConfigError, "confidence"),
        ({"sample": 10}, ConfigError, "did you mean samples="),
        ({"scores_per_prompt": given.assign_attrs(method="combined"), "by": "signed"}, ConfigError, "sizes"),
    ]
    for wrong, error, said in asked:
        with pytest.raises(error, match=said):
            stability(**{"scores_per_prompt": given, "n": 3} | wrong)
