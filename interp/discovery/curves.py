"""Curves: the faithfulness of circuits of growing size, and the areas that sum them up.

Over circuits of growing size two areas sum faithfulness up (Mueller et al. 2025, "MIB", section 3):

- CPR, the integral of f over the share of edges, of circuits ranked by signed scores: how well circuits *perform*;
- CMD, the integral of |1 - f|, of circuits ranked by the scores' sizes: how far circuits are from the *model*.

Most of the linear axis lies above 20 % of the edges, where every method does well; `log_cpr` and `log_cmd` are the
means over the logarithm of the share, in which each decade counts alike.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Unpack, cast, get_args

import numpy as np
import torch

from interp.discovery.circuit_runs import CircuitRuns, is_finite
from interp.discovery.faithfulness import Ends, Judge, Ratio
from interp.discovery.options import JudgingOptions
from interp.discovery.ranking import RankBy, is_signed, labelled, score_matrix
from interp.discovery.subgraph import Subgraph
from interp.errors import ConfigError, ShapeError, check_choice, describe
from interp.indices import check_seed
from interp.keywords import known_keywords
from interp.model import EdgeGraph
from interp.patching import Metrics, Numbers, Source, check_model
from interp.results import Axis

if TYPE_CHECKING:
    import xarray

    from interp.model import HookedTransformer

Ranking = Literal["top", "greedy"]
"""Which n edges make a circuit: the first n of a ranking, or n grown from the logits (`Subgraph.top`, `.greedy`)."""

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all edges at which circuits are compared, as the MIB benchmark has them."""

RANDOM, WHOLE = "random", "full model"
"""What stands in every curve beside the scores that are given."""


@torch.no_grad()
@known_keywords
def faithfulness_curve(
    model: "HookedTransformer",
    corrupted: Source | None,
    clean: Source,
    metric: Metrics,
    scores: "xarray.DataArray | Mapping[str, xarray.DataArray]",
    *,
    fractions: Sequence[int | float] = FRACTIONS,
    ranking: Ranking = "top",
    by: RankBy | Sequence[RankBy] = ("absolute", "signed"),
    ratio: Ratio = "of means",
    seed: int = 0,
    **options: Unpack[JudgingOptions],
) -> "xarray.Dataset":
    """The faithfulness of circuits of growing size, for one or several ways to score edges.

    Args:
        corrupted, clean, metric, ratio: as for `faithfulness`.
        scores: of all edges of this model, as `edge_scores` returns them; or several by name.
        fractions: sizes as shares of all edges, ascending; a circuit has the whole number of edges below.
        ranking: the first n edges, or n grown from the logits.
        by: how scores rank edges; see `Subgraph.top`. By default both ways are run.
        seed: of a random ranking.
        options: see `JudgingOptions`.

    Returns:
        Over `by` (where several are asked), `scores` (their names) and `size` (the shares): `faithfulness` and `value`
        as `faithfulness` returns them, `n_edges` and `n_pruned`. Over `scores`: `cpr` and `log_cpr` of the signed
        ranking, `cmd` and `log_cmd` of the absolute one, by the trapezoidal rule over the shares that are asked; the
        logarithmic ones are divided by the length of their axis. Beside the scores stand "random", a random ranking,
        and "full model". Scores without a sign (method "combined") are NaN where a signed ranking is asked.

    Raises, before any circuit runs, what `faithfulness` raises, and:
        ConfigError: scores of another model, of too few edges, or with a name that is taken; an unknown ranking;
            fractions that do not ascend from above 0 to at most 1, or fewer than two.
        ShapeError: scores of models of another shape, or with an axis that is not reader or writer.
    """
    check_choice("ratio", ratio, get_args(Ratio))
    check_model(model)
    curves = Curves.of(model, scores, fractions, ranking, by, check_seed(seed))
    runs = CircuitRuns.of(model, corrupted, clean, metric, options)
    judge = Judge.of(runs, ratio)
    judge.check_ends(ends := runs.ends())
    found = runs.values((circuit.mask for circuit in curves.there), "running circuits", len(curves.there))
    return curves.result(judge, runs.measured.numbers(found.mT), ends)


@dataclass(frozen=True)
class Curves:
    """The circuits of some curves.

    Attributes:
        ranks: how scores rank edges.
        names: of the scores, and of what stands beside them.
        fractions: shares of all edges.
        circuits: for each of these in turn, the last fastest; None where scores have no sign to rank by.
        several: whether several ways to rank were asked.
        about: what results say of these choices.
    """

    ranks: list[RankBy]
    names: list[str]
    fractions: list[float]
    circuits: list[Subgraph | None]
    several: bool
    about: dict[str, object]

    @classmethod
    def of(
        cls,
        model: "HookedTransformer",
        scores: "xarray.DataArray | Mapping[str, xarray.DataArray]",
        fractions: Sequence[int | float],
        ranking: Ranking,
        by: RankBy | Sequence[RankBy],
        seed: int,
    ) -> "Curves":
        """Check what is asked, and make the circuits. Raises as `faithfulness_curve`."""
        check_choice("ranking", ranking, get_args(Ranking))
        graph, ranks, shares = EdgeGraph.of(model), _ranks(by), _fractions(fractions)
        named = dict(scores) if isinstance(scores, Mapping) else {_name_of(scores): scores}
        _check_scores(named, model, shares[-1])
        chosen = Subgraph.top if ranking == "top" else Subgraph.greedy
        sizes = [_n_of(share, graph) for share in shares]
        circuits: list[Subgraph | None] = []
        for rank in ranks:
            for of_method in named.values():
                signed = rank == "absolute" or is_signed(of_method)
                circuits += [chosen(of_method, n, rank) if signed else None for n in sizes]
            circuits += [chosen(_random_scores(graph, seed), n, "absolute") for n in sizes]
            circuits += [Subgraph.whole(graph)] * len(sizes)
        about: dict[str, object] = {"ranking": ranking, "seed": seed}
        return cls(ranks, [*named, RANDOM, WHOLE], shares, circuits, not isinstance(by, str), about)

    @property
    def there(self) -> list[Subgraph]:
        """The circuits to run."""
        return [circuit for circuit in self.circuits if circuit is not None]

    def result(self, judge: Judge, numbers: Numbers, ends: Ends) -> "xarray.Dataset":
        """The curves, from the metrics of the circuits that were run."""
        values = numbers.values.new_full((*numbers.baseline.shape, len(self.circuits)), math.nan)
        values[:, :, [circuit is not None for circuit in self.circuits]] = numbers.values
        result = self.labelled(judge.judged(replace(numbers, values=values), ends, self.axes))
        result = result.assign(_areas(result)).assign_attrs(self.about)
        return result if self.several else result.isel(by=0, drop=True)

    @property
    def axes(self) -> list[Axis]:
        """Those of the circuits."""
        sizes = list(range(len(self.fractions)))
        return [Axis("by", list(map(str, self.ranks))), Axis("scores", self.names), Axis("size", sizes)]

    def labelled(self, result: "xarray.Dataset") -> "xarray.Dataset":
        """A result with shares along its axis of sizes, and how many edges the circuits have."""
        cells = [len(axis.indices) for axis in self.axes]
        counts = {
            "n_edges": [math.nan if one is None else len(one) for one in self.circuits],
            "n_pruned": [math.nan if one is None else len(one.pruned()) for one in self.circuits],
        }
        result = result.assign_coords(size=self.fractions)
        return result.assign({n: (("by", "scores", "size"), np.reshape(of, cells)) for n, of in counts.items()})


def _areas(result: "xarray.Dataset") -> "dict[str, xarray.DataArray]":
    """CPR of the signed ranking and CMD of the absolute one, linear and over the logarithm."""
    import xarray

    share, found = result["size"].to_numpy(), dict[str, xarray.DataArray]()
    mean = result["faithfulness"].mean("prompt") if "prompt" in result.dims else result["faithfulness"]
    log = np.log(share)
    for name, rank, height in (("cpr", "signed", mean), ("cmd", "absolute", abs(1 - mean))):
        if rank in result["by"]:
            of_rank = height.sel(by=rank, drop=True).transpose(..., "size")
            for prefix, at, length in (("", share, 1.0), ("log_", log, log[-1] - log[0])):
                area = np.trapezoid(of_rank.to_numpy(), at, axis=-1) / length
                found[prefix + name] = xarray.DataArray(area, dims=of_rank.dims[:-1], attrs={"by": rank})
    return found


def _ranks(by: object) -> list[RankBy]:
    ranks = [by] if isinstance(by, str) or not isinstance(by, Sequence) else list(by)
    for rank in ranks:
        check_choice("by", rank, get_args(RankBy))
    if not ranks or len(set(ranks)) < len(ranks):
        raise ConfigError(f"by = {describe(by)} names nothing, or something twice")
    return cast("list[RankBy]", ranks)


def _fractions(given: object) -> list[float]:
    several = list(given) if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str) else []
    fine = all(is_finite(one) and 0 < one <= 1 for one in several)
    if not fine or len(several) < 2 or any(a >= b for a, b in itertools.pairwise(several)):
        raise ConfigError(f"fractions = {describe(given)}; allowed: two or more, ascending, above 0 and at most 1; for "
                          "circuits of your own choice there is faithfulness")  # fmt: skip
    return [float(one) for one in several]


def _n_of(share: float, graph: EdgeGraph) -> int:
    """The whole number of edges below a share of all."""
    return int(share * graph.n_edges + 1e-9)  # .29 * 100 is 28.999999999999996


def _name_of(scores: object) -> str:
    return str(getattr(scores, "attrs", {}).get("method", "scores"))


def _check_scores(named: Mapping[str, "xarray.DataArray"], model: "HookedTransformer", most: float) -> None:
    """Raise unless scores are of this model, and of at least the share `most` of its edges."""
    graph = EdgeGraph.of(model)
    if not named:
        raise ConfigError("scores = {}: at least one is needed")
    for name, scores in named.items():
        if name in (RANDOM, WHOLE):
            raise ConfigError(f"scores: the name {name!r} is taken by what stands in every curve; give another")
        theirs, matrix = score_matrix(scores)
        if theirs != graph:
            raise ShapeError(
                f"the scores {name!r} are of {theirs} of another shape than this model's {graph}; edges that both have "
                "can be given to faithfulness as Subgraph.of_names(model, names)"
            )
        if scores.attrs.get("model", model.weights_hash()) != model.weights_hash():
            raise ConfigError(
                f"the scores {name!r} were made on other weights than this model has; to judge them here all the same, "
                "give faithfulness the circuits, such as Subgraph.top(scores, n)"
            )
        n = int((~matrix.isnan()).sum())
        if n < _n_of(most, graph):
            raise ConfigError(f"the scores {name!r} are of {n:,} of {graph.n_edges:,} edges, so that fractions end at "
                              f"{n / graph.n_edges:.3g}; asked: {most:g}")  # fmt: skip


def _random_scores(graph: EdgeGraph, seed: int) -> "xarray.DataArray":
    """A random order of all edges, as scores."""
    there = graph.edge_mask()
    values = torch.full(there.shape, math.nan, dtype=torch.float64)
    values[there] = torch.randperm(graph.n_edges, generator=torch.Generator().manual_seed(seed)).double()
    return labelled(graph, values, {"method": RANDOM})
