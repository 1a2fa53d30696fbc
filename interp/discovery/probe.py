"""The probe of an estimate: some edges patched exactly, and how far the estimate is off there."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.discovery.estimates import Between
from interp.model import Edge


@dataclass(frozen=True, eq=False)
class Probe:
    """Estimates beside exact effects, for one metric.

    Attributes:
        estimated, exact: effects of the probed edges, means over prompts.
        edges: which.
        sizes: whether the estimates are sizes without a sign.
    """

    estimated: Float[np.ndarray, "edge"]
    exact: Float[np.ndarray, "edge"]
    edges: list[Edge]
    sizes: bool

    def attrs(self) -> dict[str, object]:
        """What a result says of it: `probe_n` edges, and in the metric's units the root mean square of the errors
        (`probe_rms`), the largest error and the edge that it is made at, the largest *miss*, an effect minus an
        estimate that is too small, and its edge; and Spearman's rank correlation of the sizes.
        """
        exact = np.abs(self.exact) if self.sizes else self.exact
        error = self.estimated - exact
        missed = np.abs(self.exact) - np.abs(self.estimated)
        worst, most_missed = int(np.abs(error).argmax()), int(missed.argmax())
        return {
            "probe_n": len(self.edges),
            "probe_rms": float(np.sqrt((error**2).mean())),
            "probe_rank_correlation": rank_correlation(np.abs(self.estimated), np.abs(self.exact)),
            "probe_largest_error": float(error[worst]),
            "probe_largest_error_edge": str(self.edges[worst]),
            "probe_largest_miss": float(max(0.0, missed[most_missed])),
            "probe_largest_miss_edge": str(self.edges[most_missed]) if missed[most_missed] > 0 else "",
        }


def rank_correlation(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> float:
    """Spearman's, with ties at their mean rank; NaN where one of the two is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (x, y)]
    sizes = [float(np.sqrt((r**2).sum())) for r in ranks]
    return float((ranks[0] * ranks[1]).sum() / (sizes[0] * sizes[1])) if all(sizes) else float("nan")


def probed_edges(between: Between, effects: Float[Tensor, "metric reader writer"], k: int) -> list[Edge]:
    """The k edges of the largest mean estimates, k others at random (the same each time), and what layer 0 reads of the
    embeddings: gradients see little of what follows from there.

    Of several metrics, which have units of their own, sizes are shares of the largest estimate of each.
    """
    graph, there = between.graph, between.there
    of_metrics = effects.abs().cpu()
    largest = of_metrics[:, there].amax(dim=1).clamp(min=torch.finfo(of_metrics.dtype).tiny)
    sizes = (of_metrics / largest[:, None, None]).amax(dim=0)
    places = there.nonzero()
    order = sizes[there].argsort(descending=True, stable=True)
    rest = order[k:].sort().values  # in the order of the graph, so that chance does not depend on the estimate
    at_random = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(0))[:k]]
    chosen = torch.zeros_like(there)
    chosen[tuple(places[torch.cat([order[:k], at_random])].T)] = True
    in_first_layer = torch.tensor([graph.readers[reader].layer == 0 for reader in between.readers])
    from_embeddings = torch.tensor([graph.writers[writer].kind == "embed" for writer in between.writers])
    return between.edges(chosen | (in_first_layer[:, None] & from_embeddings))
