"""Calibration: what scores and searches say of a model whose edges are known, because its circuit was built by hand.

The known edges are a `Subgraph`, or a graph with the names of edges as `circuits.Circuit.edges()` gives it.
"""

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.discovery.ranking import score_matrix
from interp.discovery.subgraph import Subgraph, check_subgraph
from interp.errors import ConfigError, describe
from interp.model import EdgeGraph

if TYPE_CHECKING:
    import xarray
    from networkx import MultiDiGraph

NOTHING = 1e-6
"""Scores below this share of the largest are nothing: they differ by rounding alone, and count as equal to 0."""

SHARE = 0.1
"""A score hits an effect if it is larger than this share of it."""


class PrecisionRecall(NamedTuple):
    """How a circuit that was found compares with the known one.

    Attributes:
        precision: the share of what was found that is known; NaN where nothing was found.
        recall: the share of what is known that was found.

    >>> found = Subgraph.of_names(model, ["embed -> logits", "L1.mlp -> logits"], "guessed")
    >>> known = Subgraph.of_names(model, ["embed -> logits"], "known")
    >>> precision_recall(found, known)
    PrecisionRecall(precision=0.5, recall=1.0)
    """

    precision: float
    recall: float


def known_edges(graph: EdgeGraph, edges: "Subgraph | MultiDiGraph") -> Subgraph:
    """The known edges as a subgraph of `graph`.

    A networkx graph says the name of each edge, such as "L0H0 -> L1H0.k", in its attribute `name`. Raises
    `ShapeError` for a subgraph of models of another shape, `HookNotFoundError` for a name that is no edge of the graph,
    `ConfigError` for an edge without a name, no edge at all, or anything else.
    """
    if isinstance(edges, Subgraph):
        edges.check_fits(graph)
        known = edges
    elif callable(getattr(edges, "edges", None)):
        names = [name for *_, name in cast(Any, edges).edges(data="name")]
        if None in names:
            raise ConfigError('the known edges have no name; allowed: an attribute "name", such as "L0H0 -> L1H0.k"')
        known = Subgraph.of_names(graph, names, "known")
    else:
        raise ConfigError(f"the known edges are {describe(edges)}; allowed: a Subgraph, or what Circuit.edges() gives")
    if not len(known):
        raise ConfigError("the known edges are none: there is nothing to compare with")
    return known


def auroc(scores: "xarray.DataArray", edges: "Subgraph | MultiDiGraph") -> float:
    """The chance that a known edge has a larger |score| than another edge; .5 for scores that know nothing.

    It is the area under the curve of true over false positives, computed from ranks (Mann and Whitney 1947). Edges with
    equal scores count half. Scores below 1e-6 of the largest count as equal: in a model built by hand most effects are
    exactly 0, and a rounding error of 1e-17 would outrank them. Edges without a score (NaN) are left out.

    So every known edge that the prompts do not make use of is a tie with the edges that are not there, and costs half a
    pair: on such models this is recall more than precision.

    Args:
        scores: as `edge_scores` returns them, of one metric, over [reader, writer].
        edges: the known edges: a `Subgraph`, or a graph as `circuits.Circuit.edges()` gives it.

    Raises as `score_matrix` and `known_edges`; `ConfigError` where the scored edges are all known, or none is.
    """
    from scipy.stats import rankdata

    sizes, known = _scored(scores, edges)
    n_known, n_others = int(known.sum()), int((~known).sum())
    if not n_known or not n_others:
        raise ConfigError(f"{n_known} of the {len(known)} scored edges are known; an AUROC compares known with others, "
                          "so there must be both")  # fmt: skip
    ranks = torch.from_numpy(rankdata(_without_rounding(sizes)))
    return float((ranks[known].sum() - n_known * (n_known + 1) / 2) / (n_known * n_others))


def hit(scores: "xarray.DataArray", exact: "xarray.DataArray", edges: "Subgraph | MultiDiGraph") -> float:
    """The share of known edges whose |score| is over 10 % of their |exact effect|.

    A method can rank an edge well and still miss its effect by orders of magnitude. A known edge without an effect
    (below 1e-6 of the largest) is left out, as one without a score is: these prompts and this ablation do not show it,
    so that no method can be blamed for not seeing it. `auroc` counts it.

    Args:
        scores, edges: as for `auroc`.
        exact: the exact effects of the same edges: `edge_scores(..., method="exact")` of the same runs.

    Raises as `auroc`; `ConfigError` for exact effects of other edges, or where no known edge has an effect.

    >>> from interp.metrics import LogitDifference
    >>> exact = edge_scores(model, corrupted, clean, LogitDifference("Mary", "John"), "exact", progress=False)
    >>> hit(exact, exact, Subgraph.top(exact, 5)), hit(0 * exact, exact, Subgraph.top(exact, 5))
    (1.0, 0.0)
    """
    (graph, matrix), (other, effects_of) = score_matrix(scores), score_matrix(exact)
    if graph != other or not torch.equal(matrix.isnan(), effects_of.isnan()):
        raise ConfigError("scores and exact are of different edges; score the same readers and writers of one model")
    (sizes, known), (effects, _) = _scored(scores, edges), _scored(exact, edges)
    effects = _without_rounding(effects)
    seen = known & (effects > 0)
    if not seen.any():
        raise ConfigError("no known edge has an effect here, so there is nothing to hit; other prompts or another "
                          "ablation may show one")  # fmt: skip
    return float((sizes[seen] > SHARE * effects[seen]).double().mean())


def precision_recall(found: Subgraph, edges: "Subgraph | MultiDiGraph") -> PrecisionRecall:
    """How much of a circuit that was found is known, and how much of the known one was found.

    Raises as `known_edges`.

    >>> found = Subgraph.of_names(model, ["embed -> logits", "L1.mlp -> logits"], "guessed")
    >>> precision_recall(found, found)
    PrecisionRecall(precision=1.0, recall=1.0)
    """
    check_subgraph("found", found)
    known = known_edges(found.graph, edges)
    both = len(found & known)
    return PrecisionRecall(both / len(found) if len(found) else float("nan"), both / len(known))


def _scored(
    scores: "xarray.DataArray", edges: "Subgraph | MultiDiGraph"
) -> tuple[Float[Tensor, "edge"], Bool[Tensor, "edge"]]:
    """The size of every score that is there, and whether its edge is known."""
    graph, matrix = score_matrix(scores)
    there = ~matrix.isnan()
    if not there.any():
        raise ConfigError("no edge has a score: all are NaN")
    return matrix[there].abs(), known_edges(graph, edges).mask[there]


def _without_rounding(sizes: Float[Tensor, "edge"]) -> Float[Tensor, "edge"]:
    """Sizes, those that are nothing beside the largest as 0."""
    return torch.where(sizes < NOTHING * sizes.max(), 0, sizes)
