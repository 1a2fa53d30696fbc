"""Faithfulness: how much of what a model does on a pair of prompts a circuit does alone.

With m the metric, C a circuit, N the whole graph, and everything outside a circuit from the other run:

    f(C) = (m(C) - m(empty)) / (m(N) - m(empty))

It is 1 for the whole graph, 0 for the empty circuit, and above 1 for a circuit that leaves out what holds the metric
back: 1 is faithful, more is not better (Wang et al. 2022, section 4; Hanna et al. 2024, section 3). Over several
circuits of growing size two areas sum it up (Mueller et al. 2025, "MIB", section 3):

- CPR, the integral of f over the share of edges, of circuits ranked by signed scores: how well circuits *perform*;
- CMD, the integral of |1 - f|, of circuits ranked by the scores' sizes: how far circuits are from the *model*.

Most of the linear axis lies above 20 % of the edges, where every method does well; `log_cpr` and `log_cmd` are the
means over the logarithm of the share, in which each decade counts alike.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Unpack, cast, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.discovery.circuit_runs import CircuitRuns, check_seed, is_finite
from interp.discovery.options import JudgingOptions
from interp.discovery.ranking import RankBy, is_signed, labelled, score_matrix
from interp.discovery.subgraph import Subgraph
from interp.errors import ConfigError, ShapeError, check_choice, describe
from interp.keywords import known_keywords
from interp.model import EdgeGraph
from interp.patching import Metrics, Source, check_model
from interp.results import Axis, as_variables, interval_margin, over_prompts

if TYPE_CHECKING:
    import xarray

    from interp.model import HookedTransformer

Ratio = Literal["of means", "mean of ratios"]
"""How prompts are put together: the ratio of the means over prompts, or the mean of each prompt's ratio."""

Ranking = Literal["top", "greedy"]
"""Which n edges make a circuit: the first n of a ranking, or n grown from the logits (`Subgraph.top`, `.greedy`)."""

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all edges at which circuits are compared, as the MIB benchmark has them."""

RANDOM, WHOLE = "random", "full model"
"""What stands in every curve beside the scores that are given."""


@torch.no_grad()
@known_keywords
def faithfulness(
    model: "HookedTransformer",
    circuits: Subgraph | Mapping[str, Subgraph] | Sequence[Subgraph],
    corrupted: Source | None,
    clean: Source,
    metric: Metrics,
    *,
    ratio: Ratio = "of means",
    **options: Unpack[JudgingOptions],
) -> "xarray.Dataset":
    """How much of what the model does each circuit does alone.

    Args:
        circuits: one, several by name, or several.
        corrupted, clean, metric: as for `patching.sweep`; the clean prompt runs unless `direction` says otherwise.
        ratio: "of means" divides the mean over prompts by the mean gap. "mean of ratios" divides prompt by prompt, so
            that prompts with a small gap count as much as any other; the two differ.
        options: see `JudgingOptions`.

    Returns:
        `faithfulness` and the metric itself, `value`, each with `_ci_low` and `_ci_high` over several prompts; how
        many edges the circuit has, `n_edges`, and without dead ends, `n_pruned`. Over `circuit` where several are
        given, and `metric` first where several are given by name. The interval of a ratio of means is linearised (the
        delta method). With `per_prompt`, a prompt's faithfulness is its share of the ratio: their mean is the result.
        `attrs` are those of sweeps, with the metric of the whole graph (`baseline`) and the empty circuit (`empty`).

    Raises, before any circuit runs:
        ConfigError: no circuit; equal prompts; a metric of which the whole graph and the empty circuit have the same,
            by its interval over prompts or but for rounding; and what sweeps refuse.
        ShapeError: a circuit of models of another shape.
    """
    check_choice("ratio", ratio, get_args(Ratio))
    names, several = _circuits(circuits)
    runs = CircuitRuns.of(model, corrupted, clean, metric, options)
    for subgraph in several:
        subgraph.check_fits(runs.graph)
    ends = _ends(runs, ratio)
    values = runs.values((subgraph.mask for subgraph in several), "running circuits", len(several))
    result = _judged(runs, values, ends, ratio, [Axis("circuit", names or list(range(len(several))))])
    result = result.assign(
        n_edges=("circuit", [len(subgraph) for subgraph in several]),
        n_pruned=("circuit", [len(subgraph.pruned()) for subgraph in several]),
    )
    return result.isel(circuit=0, drop=True) if isinstance(circuits, Subgraph) else result


def _circuits(given: object) -> tuple[list[str] | None, list[Subgraph]]:
    """Their names, where they have some, and the circuits. Raises `ConfigError`."""
    names = list(map(str, given)) if isinstance(given, Mapping) else None
    several: object = [given] if isinstance(given, Subgraph) else given
    if isinstance(given, Mapping):
        several = list(given.values())
    if not isinstance(several, Sequence) or not several or not all(isinstance(one, Subgraph) for one in several):
        raise ConfigError(f"circuits = {describe(given)}; allowed: a Subgraph, or several, such as Subgraph.top makes")
    if names is not None and len(set(names)) < len(names):
        raise ConfigError(f"circuits = {describe(given)}: two of the names are spelt alike")
    return names, list(several)


# ---------------------------------------------------------------------- the ratio


_Ends = tuple[Float[Tensor, "metric batch"], Float[Tensor, "metric batch"]]
"""The metric of the whole graph, and of the empty circuit."""


def _ends(runs: CircuitRuns, ratio: Ratio) -> _Ends:
    """The metric of the whole graph and the empty circuit. Raises `ConfigError` where their gap is noise."""
    whole, empty = runs.ends()
    gap, measured = whole - empty, runs.measured
    margins = interval_margin(gap, runs.settings.confidence)
    decided = runs.decided(gap, whole, runs.settings.confidence)
    for i in (~decided).nonzero()[:, 0].tolist():
        mean, margin = float(gap[i].mean()), float(margins[i])
        interval = f", interval {mean - margin:.4g} to {mean + margin:.4g}" if margin else ""
        raise ConfigError(
            f"{measured.plans[i].name}: the whole graph has {float(whole[i].mean()):.4g}, the empty circuit "
            f"{float(empty[i].mean()):.4g}, over {gap.shape[1]} prompts a gap of {mean:.4g}{interval}, so that a ratio "
            "to it is noise; give more prompts, or ones that the metric tells apart"
        )
    if ratio == "mean of ratios" and not (clear := runs.beyond_rounding(gap, whole)).all():
        bad = int((~clear).any(dim=0).nonzero()[0, 0])
        raise ConfigError(f"ratio = 'mean of ratios': prompt {bad} has no gap to divide by; leave it out, or take "
                          "'of means'")  # fmt: skip
    return whole, empty


def _shares(
    values: Float[Tensor, "metric circuit batch"], ends: _Ends, ratio: Ratio, linearised: bool
) -> Float[Tensor, "metric circuit batch"]:
    """For each prompt a number whose mean over prompts is the faithfulness.

    Those of a ratio of means, f = mean(part) / mean(gap), are part / mean(gap); `linearised`, they are
    f + (part - f gap) / mean(gap), whose spread over prompts is, to first order, that of f.
    """
    whole, empty = (end[:, None] for end in ends)
    part, gap = values - empty, whole - empty
    if ratio == "mean of ratios":
        return part / gap
    shares = part / gap.mean(dim=-1, keepdim=True)
    if not linearised:
        return shares
    f = shares.mean(dim=-1, keepdim=True)
    return f + (part - f * gap) / gap.mean(dim=-1, keepdim=True)


def _judged(
    runs: CircuitRuns,
    values: Float[Tensor, "metric circuit batch"],
    ends: _Ends,
    ratio: Ratio,
    axes: list[Axis],
) -> "xarray.Dataset":
    """`faithfulness` and `value` over the axes of circuits, with intervals, and what they say of themselves."""
    import xarray

    measured, settings = runs.measured, runs.settings
    cells = [len(axis.indices) for axis in axes]
    shares = _shares(values, ends, ratio, linearised=not settings.per_prompt)
    by_prompt = [of.movedim(-1, 1).unflatten(2, cells) for of in (values, shares)]
    value = measured.result(by_prompt[0], axes, {"norms": runs.engine.norms, "ratio": ratio})
    share = over_prompts(
        by_prompt[1], axes, measured.names, settings.per_prompt, settings.confidence, {}, "faithfulness"
    )
    empty = ends[1].mean(dim=1).tolist()
    about = value.attrs | {"empty": empty[0] if len(empty) == 1 else empty, "confidence": settings.confidence}
    about.pop("values")  # "metric", which holds for one of two
    return xarray.Dataset(as_variables("faithfulness", share) | as_variables("value", value), attrs=about)


# ---------------------------------------------------------------------- curves


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
    curves = _Curves.of(model, scores, fractions, ranking, by, check_seed(seed))
    runs = CircuitRuns.of(model, corrupted, clean, metric, options)
    ends = _ends(runs, ratio)
    there = [circuit for circuit in curves.circuits if circuit is not None]
    found = runs.values((circuit.mask for circuit in there), "running circuits", len(there))
    values = found.new_full((len(found), len(curves.circuits), found.shape[2]), math.nan)
    values[:, [circuit is not None for circuit in curves.circuits]] = found
    result = curves.labelled(_judged(runs, values, ends, ratio, curves.axes))
    result = result.assign(_areas(result)).assign_attrs(ranking=ranking, seed=seed)
    return result.isel(by=0, drop=True) if isinstance(by, str) else result


@dataclass(frozen=True)
class _Curves:
    """The circuits of some curves.

    Attributes:
        ranks: how scores rank edges.
        names: of the scores, and of what stands beside them.
        fractions: shares of all edges.
        circuits: for each of these in turn, the last fastest; None where scores have no sign to rank by.
    """

    ranks: list[RankBy]
    names: list[str]
    fractions: list[float]
    circuits: list[Subgraph | None]

    @classmethod
    def of(
        cls,
        model: "HookedTransformer",
        scores: "xarray.DataArray | Mapping[str, xarray.DataArray]",
        fractions: Sequence[int | float],
        ranking: Ranking,
        by: RankBy | Sequence[RankBy],
        seed: int,
    ) -> "_Curves":
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
        return cls(ranks, [*named, RANDOM, WHOLE], shares, circuits)

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
