"""Scores of edges, and how circuits are judged, over data sets: the results of one call on all pairs, as jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.data import PromptPairs
from interp.digests import digest_of
from interp.discovery.changes import points_of_changes
from interp.discovery.circuit_runs import CircuitRuns
from interp.discovery.curves import FRACTIONS, Curves, Ranking
from interp.discovery.estimates import Between
from interp.discovery.exact import ExactEffects
from interp.discovery.faithfulness import Ends, Judge, Ratio, checked_circuits, circuit_axes, with_sizes
from interp.discovery.gradients import PathEnd
from interp.discovery.masked import EdgeRuns
from interp.discovery.options import JudgingDatasetOptions, ScoreDatasetOptions
from interp.discovery.probe import probed_edges
from interp.discovery.ranking import RankBy
from interp.discovery.scores import MethodName, ScoreQuestion, edge_axes, warn_of_unchanged
from interp.discovery.subgraph import Subgraph
from interp.errors import check_choice
from interp.indices import check_seed, chosen_indices
from interp.jobs import AnyModel, JobOptions, ModelRef
from interp.keywords import known_keywords
from interp.model import Edge
from interp.patching import (
    Metrics,
    Numbers,
    PairsGroup,
    PairsWork,
    Reaction,
    check_reactions,
    check_writes_add_up,
    fields_of_pairs,
    numbers_of,
    with_ends,
)
from interp.results import Axis

if TYPE_CHECKING:
    import xarray


# ---------------------------------------------------------------------- scores


@known_keywords
def edge_scores_dataset(
    model: AnyModel,
    pairs: PromptPairs,
    metric: Metrics | None = None,
    method: MethodName = "eap_ig",
    *,
    readers: Sequence[str] | None = None,
    writers: Sequence[str] | None = None,
    steps: int = 5,
    include: PathEnd = "run",
    probe: int = 20,
    **options: Unpack[ScoreDatasetOptions],
) -> "xarray.DataArray":
    """What every edge does to a metric, over a data set, as a job: what `edge_scores` would return for all pairs.

    The probe's edges are those of the largest mean scores over all pairs. They are patched exactly in a second job, in
    the folder "probe" inside the first one's.

    Args:
        model, pairs, metric: as for `patching.sweep_dataset`.
        method, readers, writers, steps, include, probe: as for `edge_scores`.
        options: see `ScoreDatasetOptions`.

    Raises as `edge_scores` and `patching.sweep_dataset`.
    """
    fields, job = _fields(model, pairs, metric, options, effects=True)
    live = fields["model"].load()
    question = ScoreQuestion.of(live, method, readers, writers, steps, include, probe)
    work = ScoreWork(**fields, question=question)
    about, between = work.check(), question.between
    found = work.of_all_pairs(job)
    numbers, unchanged = numbers_of(found, work.settings), int(found["unchanged"][0].sum())
    if unchanged == len(pairs):
        warn_of_unchanged(work.positions)
    about |= question.about(work.norms, work.positions, unchanged)
    result = _over_edges(numbers, between, between.there, work, about)
    if not question.probe:
        return result
    effects = _matrix(numbers.values.mean(dim=1), between.there)
    edges = probed_edges(between, effects, question.probe)
    probed = ProbeWork(**fields, edges=edges)
    if (folder := job.get("folder")) is not None:
        job["folder"] = Path(folder) / "probe"
    exact = numbers_of(probed.of_all_pairs(job), work.settings)
    there = torch.zeros_like(between.there)
    there[between.places(edges)] = True
    # Edges come in the graph's order, a mask's entries in that of its rows and columns.
    rows, columns = between.places(edges)
    order = sorted(range(len(edges)), key=lambda i: (rows[i], columns[i]))
    exact = replace(exact, values=exact.values[:, :, order])
    shown = _over_edges(exact, between, there, work, {})
    result = result.assign_coords(exact=(result.dims, shown.to_numpy()))
    of_exact = _matrix(exact.values.mean(dim=1), there)
    result.attrs |= question.said_of_probe(edges, effects, of_exact, work.names is not None)
    return result


@dataclass(frozen=True, eq=False)
class EdgeWork(PairsWork):
    """What edges do over pairs of prompts.

    Attributes:
        norms: "live" or "frozen".
        positions: where edges carry the other run, as columns of the batch of all pairs; None for everywhere.
    """

    norms: Reaction
    positions: list[int] | None

    def asked(self) -> dict[str, Any]:
        """How edges are ablated."""
        return {"norms": self.norms, "positions": self.positions}

    def runs(self, group: PairsGroup, also: tuple[str, ...] = ()) -> EdgeRuns:
        """The runs of some pairs."""
        runs = EdgeRuns.of(
            group.model, group.corrupted, group.clean, group.metric, group.settings, norms=self.norms, also=also
        )
        return runs.only_at(group.columns(self.positions))


@dataclass(frozen=True, eq=False)
class ScoreWork(EdgeWork):
    """Scores of edges.

    Attributes:
        question: how they are scored.
    """

    question: ScoreQuestion

    def asked(self) -> dict[str, Any]:
        """The method, and which edges."""
        question = self.question
        between = {"readers": question.between.readers, "writers": question.between.writers}
        along = {"steps": question.steps, "include": question.include}
        return {"analysis": "edge scores", "method": question.method, **between, **along, **super().asked()}

    def check(self) -> dict[str, object]:
        """As of any pairs. Also raises `ConfigError` for a metric that the method is blind to."""
        self.question.check_sees(self.runs(self.first_group))
        return super().check()

    def measure(self, group: PairsGroup) -> dict[str, Tensor]:
        """The scores of all edges, without the places between them, and whose two runs are the same."""
        runs = self.runs(group, points_of_changes(group.model))
        effects = self.question.effects(self.question.estimates(runs))
        same = torch.tensor([[start == runs.n_pos for start in runs.starts]])
        return {**with_ends(runs.measured, effects[:, :, self.question.between.there]), "unchanged": same}


@dataclass(frozen=True, eq=False)
class ProbeWork(EdgeWork):
    """Exact effects of some edges.

    Attributes:
        edges: which.
    """

    edges: list[Edge]

    def asked(self) -> dict[str, Any]:
        """Which edges."""
        return {"analysis": "exact effects", "edges": list(map(str, self.edges)), **super().asked()}

    def measure(self, group: PairsGroup) -> dict[str, Tensor]:
        """Their effects."""
        runs = self.runs(group, points_of_changes(group.model))
        return with_ends(runs.measured, ExactEffects(runs, self.edges).effects())


def _fields(
    model: AnyModel, pairs: PromptPairs, metric: Metrics | None, options: Mapping[str, Any], effects: bool
) -> tuple[dict[str, Any], JobOptions]:
    """The fields of `EdgeWork`, checked, and the options of its job. Raises what is wrong."""
    others = {name: value for name, value in options.items() if name not in ("norms", "positions")}
    norms, positions = options.get("norms", "live"), options.get("positions")
    check_reactions({"norms": norms})
    fields, job = fields_of_pairs(model, pairs, metric, {**others, "effects": effects}, default="noising")
    check_writes_add_up(fields["model"].load())
    where = None if positions is None else chosen_indices("positions", positions, fields["tokens"].n_pos)
    return {**fields, "norms": norms, "positions": where}, job


def _over_edges(
    numbers: Numbers,
    between: Between,
    there: Bool[Tensor, "reader writer"],
    work: PairsWork,
    about: Mapping[str, object],
) -> "xarray.DataArray":
    """Effects of edges [metric, batch, edge] as a result over readers and writers, NaN where there is none.

    Means and intervals are taken before, so that no prompt needs a whole matrix.
    """
    import xarray

    flat = numbers.result(
        [Axis("edge", list(range(numbers.values.shape[2])))], work.names, work.settings, about, effects=True
    )
    axes = edge_axes(between)
    dims = (*flat.dims[:-1], *(axis.name for axis in axes))

    def matrix(values: np.ndarray) -> np.ndarray:
        whole = np.full((*values.shape[:-1], *there.shape), np.nan, dtype=values.dtype)
        whole[..., there.numpy()] = values
        return whole

    coords: dict[str, Any] = {axis.name: np.array(axis.indices, dtype=object) for axis in axes}
    for name, coord in flat.drop_vars("edge").coords.items():
        coords[str(name)] = (dims, matrix(coord.to_numpy())) if "edge" in coord.dims else coord
    return xarray.DataArray(matrix(flat.to_numpy()), coords, dims, flat.name, flat.attrs)


def _matrix(
    values: Float[Tensor, "metric edge"], there: Bool[Tensor, "reader writer"]
) -> Float[Tensor, "metric reader writer"]:
    whole = values.new_full((len(values), *there.shape), torch.nan)
    whole[:, there] = values
    return whole


# ---------------------------------------------------------------------- how circuits are judged


@known_keywords
def faithfulness_dataset(
    model: AnyModel,
    pairs: PromptPairs,
    circuits: Subgraph | Mapping[str, Subgraph] | Sequence[Subgraph],
    metric: Metrics | None = None,
    *,
    ratio: Ratio = "of means",
    **options: Unpack[JudgingDatasetOptions],
) -> "xarray.Dataset":
    """The faithfulness of circuits over a data set, as a job: what `faithfulness` would return for all pairs.

    Args:
        model, pairs, metric: as for `patching.sweep_dataset`.
        circuits, ratio: as for `faithfulness`.
        options: see `JudgingDatasetOptions`.

    Raises as `faithfulness` and `patching.sweep_dataset`; that there is no gap to divide by, when all units are done.
    """
    check_choice("ratio", ratio, get_args(Ratio))
    names, several = checked_circuits(circuits)
    work, job = CircuitWork.of(model, pairs, several, metric, options)
    judge, numbers, ends = work.judged(ratio, job)
    result = with_sizes(judge.judged(numbers, ends, circuit_axes(names, several)), several)
    return result.isel(circuit=0, drop=True) if isinstance(circuits, Subgraph) else result


@known_keywords
def faithfulness_curve_dataset(
    model: AnyModel,
    pairs: PromptPairs,
    scores: "xarray.DataArray | Mapping[str, xarray.DataArray]",
    metric: Metrics | None = None,
    *,
    fractions: Sequence[int | float] = FRACTIONS,
    ranking: Ranking = "top",
    by: RankBy | Sequence[RankBy] = ("absolute", "signed"),
    ratio: Ratio = "of means",
    seed: int = 0,
    **options: Unpack[JudgingDatasetOptions],
) -> "xarray.Dataset":
    """Curves of faithfulness over a data set, as a job: what `faithfulness_curve` would return for all pairs.

    Args:
        model, pairs, metric: as for `patching.sweep_dataset`.
        scores, fractions, ranking, by, ratio, seed: as for `faithfulness_curve`.
        options: see `JudgingDatasetOptions`.

    Raises as `faithfulness_curve` and `faithfulness_dataset`.
    """
    check_choice("ratio", ratio, get_args(Ratio))
    curves = Curves.of(ModelRef.of(model).load(), scores, fractions, ranking, by, check_seed(seed))
    work, job = CircuitWork.of(model, pairs, curves.there, metric, options)
    return curves.result(*work.judged(ratio, job))


@dataclass(frozen=True, eq=False)
class CircuitWork(EdgeWork):
    """Metrics of circuits.

    Attributes:
        circuits: by their edges.
    """

    circuits: list[Bool[Tensor, "reader writer"]]

    @classmethod
    def of(
        cls,
        model: AnyModel,
        pairs: PromptPairs,
        circuits: list[Subgraph],
        metric: Metrics | None,
        options: Mapping[str, Any],
    ) -> tuple["CircuitWork", JobOptions]:
        """The work, and the options of its job. Raises what is wrong with them."""
        fields, job = _fields(model, pairs, metric, options, effects=False)
        work = cls(**fields, circuits=[circuit.mask for circuit in circuits])
        live = fields["model"].load()
        for circuit in circuits:
            circuit.check_fits(live)
        return work, job

    def asked(self) -> dict[str, Any]:
        """Which circuits."""
        digest = digest_of({str(i): circuit for i, circuit in enumerate(self.circuits)})
        return {"analysis": "circuits", "circuits": digest, **super().asked()}

    def measure(self, group: PairsGroup) -> dict[str, Tensor]:
        """The metrics of all circuits, and of both ends."""
        runs = CircuitRuns(self.runs(group))
        whole, empty = runs.ends()
        values = runs.values(self.circuits, "running circuits", len(self.circuits))
        return {**with_ends(runs.measured, values.mT), "whole": whole, "empty": empty}

    def judged(self, ratio: Ratio, job: JobOptions) -> tuple[Judge, Numbers, Ends]:
        """Do the job: who judges, and the metrics of the circuits and of both ends.

        Raises `ConfigError` where the gap between both ends is noise.
        """
        (metrics, about), found = self.tried(), self.of_all_pairs(job)
        numbers, ends = numbers_of(found, self.settings), (found["whole"], found["empty"])
        said = {**about, **numbers.about(self.names), "norms": self.norms}
        judge = Judge(ratio, self.settings, self.model.load().cfg.dtype, metrics, self.names, said)
        judge.check_ends(ends)
        return judge, numbers, ends
