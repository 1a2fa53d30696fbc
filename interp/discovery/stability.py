"""Stability: whether the same edges would have been found from other prompts of the same kind."""

from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.discovery.ranking import RankBy, best_places, labelled, ranked, score_matrix
from interp.errors import ConfigError, ShapeError, check_choice
from interp.indices import check_count, check_seed
from interp.keywords import known_keywords
from interp.model import EdgeGraph
from interp.results import check_confidence

if TYPE_CHECKING:
    import xarray

LEAST_PROMPTS = 3

SAID = ("method", "metric", "direction", "ablation", "model", "graph")
"""What scores say of themselves that holds for the result too."""


@known_keywords
def stability(
    scores_per_prompt: "xarray.DataArray",
    n: int,
    *,
    samples: int = 1000,
    seed: int = 0,
    by: RankBy = "absolute",
    confidence: float = 0.95,
) -> "xarray.Dataset":
    """How much the n best edges depend on which prompts were scored: a bootstrap over prompts.

    Each sample draws as many prompts as there are, with replacement, takes the mean of their scores, and compares its
    n best edges with those of all prompts by the Jaccard index: the share of the edges in either set that are in both.

    Args:
        scores_per_prompt: [prompt, reader, writer], as `edge_scores(..., per_prompt=True)` returns them.
        n: so many edges.
        samples: how many times prompts are drawn.
        seed: of the draws.
        by: which edges are best; see `Subgraph.top`.
        confidence: of the interval.

    Returns:
        `jaccard`, the mean over samples, with `jaccard_ci_low` and `jaccard_ci_high`, between which the middle
        `confidence` of the samples lie; `frequency` [reader, writer], the share of samples in which an edge is among
        the best; NaN where there is no score.

    Raises:
        ConfigError: fewer than three prompts; a number that is none or out of range; what `Subgraph.top` refuses.
        ShapeError: scores without an axis `prompt`, or with a further one.
    """
    import xarray

    samples, seed = check_count("samples", samples), check_seed(seed)
    check_confidence(confidence)
    graph, values = _of_prompts(scores_per_prompt, by)
    mean = values.mean(dim=0)
    n = check_count("n", n, int((~mean.isnan()).sum()))
    best = _best(mean, n, by)
    draws = np.random.default_rng(seed).multinomial(len(values), [1 / len(values)] * len(values), samples)
    times, common = torch.zeros(graph.n_edges, dtype=torch.float64), []
    for weights in torch.from_numpy(draws / len(values)):
        drawn = _best(weights @ values, n, by)
        times[drawn] += 1
        common.append(len(np.intersect1d(drawn, best, assume_unique=True)))
    jaccard = np.array([both / (2 * n - both) for both in common])
    low, high = np.quantile(jaccard, [(1 - confidence) / 2, (1 + confidence) / 2])
    there = graph.edge_mask()
    frequency = torch.full(there.shape, torch.nan, dtype=torch.float64)
    frequency[there] = (times / samples).where(~mean.isnan(), torch.nan)
    return xarray.Dataset(
        {
            "jaccard": jaccard.mean(),
            "jaccard_ci_low": low,
            "jaccard_ci_high": high,
            "frequency": labelled(graph, frequency, {}),
        },
        attrs={word: scores_per_prompt.attrs[word] for word in SAID if word in scores_per_prompt.attrs}
        | {"n_edges": n, "by": by, "samples": samples, "seed": seed, "n": len(values), "confidence": confidence},
    )


def _best(values: Float[Tensor, "edge"], n: int, by: RankBy) -> np.ndarray:
    """The places of the n best edges."""
    return best_places(values.abs() if by == "absolute" else values, n)


def _of_prompts(scores: "xarray.DataArray", by: RankBy) -> tuple[EdgeGraph, Float[Tensor, "prompt edge"]]:
    """For each prompt, scores of all edges in order, counted as `by` says but with their signs."""
    if "prompt" not in getattr(scores, "dims", ()):
        raise ShapeError("scores_per_prompt has no axis 'prompt'; edge_scores(..., per_prompt=True) keeps it")
    if (n := scores.sizes["prompt"]) < LEAST_PROMPTS:
        raise ConfigError(
            f"scores of {n} prompts; allowed: {LEAST_PROMPTS} or more. Of one prompt every draw is the same, and two "
            "can only be drawn alone or together, which says nothing about others"
        )
    check_choice("by", by, get_args(RankBy))
    several = [scores.isel(prompt=i, drop=True) for i in range(n)]
    if by == "signed":
        graphs, rows = zip(*(ranked(one, by) for one in several), strict=True)
    else:
        graphs, matrices = zip(*map(score_matrix, several), strict=True)
        rows = [matrix[graphs[0].edge_mask()] for matrix in matrices]
    return graphs[0], torch.stack([*rows])
