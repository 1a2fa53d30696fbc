"""Scores of edges and nodes: what each does to a metric, exactly or by an estimate that says how far it is off."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp.discovery.changes import points_of_changes
from interp.discovery.estimates import METHODS, Between, Estimates, Method, NodeEstimates
from interp.discovery.gradients import PathEnd
from interp.discovery.masked import EdgeRuns
from interp.discovery.options import EdgeOptions, ScoreOptions, split_options
from interp.discovery.probe import Probe, probed_edges
from interp.errors import ConfigError, check_choice, describe
from interp.indices import check_count
from interp.keywords import known_keywords
from interp.metrics import KLDivergence
from interp.model import Edge, EdgeGraph
from interp.patching import Metrics, Reaction, Source, check_model
from interp.results import Axis, as_array

if TYPE_CHECKING:
    import xarray

    from interp.model import HookedTransformer

MethodName = Literal["exact", "eap", "eap_ig", "qk", "local", "local_ig", "gim", "combined"]
"""How edges are scored; see `edge_scores`."""


@known_keywords
def edge_scores(
    model: "HookedTransformer",
    corrupted: Source | None,
    clean: Source,
    metric: Metrics,
    method: MethodName = "eap_ig",
    *,
    readers: Sequence[str] | None = None,
    writers: Sequence[str] | None = None,
    steps: int = 5,
    include: PathEnd = "run",
    probe: int = 20,
    **options: Unpack[ScoreOptions],
) -> "xarray.DataArray":
    """What every edge does to a metric: the metric when the edge carries the other run, minus that of the run as it is.

    With e_u what a writer writes in the run as it is, e'_u in the other run, d_u = e'_u - e_u, z_v what a reader reads,
    and L the metric:

    - `exact`: the edge patched, all else live. Blind to what only several edges do together.
    - `eap`: d_u . dL/dz_v, edge attribution patching (Syed et al. 2023). Exact where all from v on is linear; blind to
      saturation, where the gradient is small and the effect is not.
    - `eap_ig`: d_u . the mean of dL/dz_v over several runs, on the way from the other run's embeddings to those of the
      run as it is (Hanna et al. 2024). Exact as `eap`; sees saturation that the way passes through.
    - `qk`: as `eap`, but queries and keys through their softmax (the fix of AtP*, Kramar et al. 2024). Exact for these
      where all after the pattern is linear; blind to saturation after it, and of MLPs.
    - `local`: the reader's component computed anew from z_v + d_u, norms included, and the change of its output times
      the gradient with respect to that; edges into the logits by the metric itself, and so exact. Exact where all after
      the component is linear; blind to saturation after it.
    - `local_ig`: as `local`, with the gradients of `eap_ig`.
    - `gim`: as `eap`, with the backward rules of GIM (Edin et al. 2025), which weaken saturation and do not cure it.
    - `combined`: the larger of abs(`local`) and abs(`eap_ig`): a size, without a sign.

    The accuracy of single edges and the quality of the circuits that scores lead to are different things: `local` is
    nearest to the exact effects, `combined` gave the best circuits. Every estimate carries a probe that says how far it
    is off on this very question.

    Args:
        model, corrupted, clean, metric: as for `patching.sweep`. By default the clean prompt runs and edges carry the
            corrupted one's writes ("noising").
        method: see above. `exact` costs a fraction of a run for each edge; it says how much before it starts.
        readers, writers: only edges between these, by name ("L9H6.q", "L2.mlp", "logits"; "embed", "L0H1", "L2.mlp");
            None for all. Keys and values count by key-value head: where heads share them, "L23H1.v" is what all
            the heads read that share key-value head 1 of layer 23.
        steps: of `eap_ig`, `local_ig` and `combined`: in how many runs gradients are taken.
        include: which end of the way is among these: "run" takes k = 1 ... steps of the way, of which the last is the
            run as it is; "other" k = 0 ... steps - 1, as the code that came with the paper does. The two differ.
        probe: how many of the largest edges, and how many random ones, are patched exactly beside an estimate; and what
            layer 0 reads of the embeddings. 0 for none.
        options: see `ScoreOptions`.

    Returns:
        Effects over (reader, writer), by name, NaN where there is no edge; with a first axis `metric` where several
        were given by name, and with several prompts `ci_low` and `ci_high`, the interval of the mean. The coordinate
        `exact` has the probed edges' exact effects, NaN elsewhere. `attrs` as for `patching.sweep`, and method, steps,
        include, norms, `graph` (`EdgeGraph.to_json`), `n_unchanged` (prompts whose two runs are the same wherever edges
        carry the other one) and, of each metric, what `probe_n`, `probe_rms`, ... say (`probe.py`).

    Raises, before any long work:
        ConfigError: as `patching.sweep`; an unknown method; one that is blind to the metric, such as a divergence from
            the very run that is differentiated; a checkpoint for an estimate; norms on the stream itself.
        HookNotFoundError: an unknown reader or writer.
        ShapeError, TokenError, CacheError, CheckpointError: as `patching.sweep`.
    """
    question = ScoreQuestion.of(model, method, readers, writers, steps, include, probe)
    settings, of_runs = split_options(options)
    if method != "exact" and settings.checkpoint is not None:
        raise ConfigError(
            f"checkpoint = {describe(settings.checkpoint)}: only method='exact' keeps one, not {method!r}"
        )
    runs = EdgeRuns.of(model, corrupted, clean, metric, settings, also=points_of_changes(model), **of_runs)
    question.check_sees(runs)
    unchanged = n_unchanged(runs)
    if unchanged == len(runs.starts):
        warn_of_unchanged(runs.positions)
    estimates = question.estimates(runs)
    effects = question.effects(estimates)
    measured, between, about = runs.measured, question.between, question.about(runs.norms, runs.positions, unchanged)
    result = measured.result(effects, edge_axes(between), about, effects=True)
    if not question.probe:
        return result
    edges = probed_edges(between, effects.mean(dim=1), question.probe)
    exact = estimates.exactly(edges, torch.full_like(effects, torch.nan))
    shown = measured.result(exact, edge_axes(between), {}, effects=True)
    result = result.assign_coords(exact=(result.dims, shown.to_numpy()))
    result.attrs |= question.said_of_probe(edges, effects.mean(dim=1), exact.mean(dim=1), measured.names is not None)
    return result


@dataclass(frozen=True, eq=False)
class ScoreQuestion:
    """How edges are scored.

    Attributes:
        method, steps, include: as for `edge_scores`.
        between: which edges.
        probe: how many of the largest edges are patched exactly beside an estimate; 0 for none.
    """

    method: MethodName
    between: Between
    steps: int
    include: PathEnd
    probe: int

    @classmethod
    def of(
        cls,
        model: "HookedTransformer",
        method: MethodName,
        readers: Sequence[str] | None,
        writers: Sequence[str] | None,
        steps: int,
        include: PathEnd,
        probe: int,
    ) -> "ScoreQuestion":
        """Check what is asked. Raises as `edge_scores`."""
        check_model(model)
        check_choice("method", method, get_args(MethodName))
        check_choice("include", include, get_args(PathEnd))
        steps = check_count("steps", steps, least=1)
        probe = check_count("probe", probe, least=0)
        graph = EdgeGraph.of(model)
        between = Between(
            graph,
            _numbers("readers", readers, len(graph.readers), lambda name: graph.numbers[graph.reader(name)]),
            _numbers("writers", writers, len(graph.writers), lambda name: graph.numbers[graph.writer(name)]),
        )
        if not between.there.any():
            raise ConfigError(f"readers = {describe(readers)} read nothing that writers = {describe(writers)} write")
        return cls(method, between, steps, include, 0 if method == "exact" else probe)

    @property
    def used(self) -> list[Method]:
        """The methods that make the scores."""
        return [METHODS[name] for name in (("local", "eap_ig") if self.method == "combined" else (self.method,))]

    def check_sees(self, runs: EdgeRuns) -> None:
        """Raise `ConfigError` for a metric that the method is blind to."""
        _check_sees(runs, self.method, self.used, self.steps, self.include)

    def estimates(self, runs: EdgeRuns) -> Estimates:
        """What the edges of a pair do."""
        return Estimates(runs, self.between, self.steps, self.include)

    def effects(self, estimates: Estimates) -> Float[Tensor, "metric batch reader writer"]:
        """The scores, NaN where there is no edge."""
        effects = estimates.effects(self.used[0])
        if self.method == "combined":
            effects = torch.maximum(effects.abs(), estimates.effects(self.used[1]).abs())
        return effects

    def about(self, norms: Reaction, positions: list[int] | None, unchanged: int) -> dict[str, object]:
        """What was asked, as results say it in their `attrs`."""
        along = {"steps": self.steps, "include": self.include} if any(one.along for one in self.used) else {}
        about = _about(self.between.graph, norms, positions, unchanged)
        return {"granularity": "edges", "method": self.method, **along, **about}

    def said_of_probe(
        self,
        edges: list[Edge],
        effects: Float[Tensor, "metric reader writer"],
        exact: Float[Tensor, "metric reader writer"],
        several: bool,
    ) -> dict[str, object]:
        """How far estimates are off at some edges, from the means over prompts; a list where metrics are `several`."""
        rows, columns = self.between.places(edges)
        probes = []
        for estimated, found in zip(effects, exact, strict=True):
            both = [as_array(values[rows, columns].double()) for values in (estimated, found)]
            probes.append(Probe(both[0], both[1], edges, sizes=self.method == "combined").attrs())
        return {key: [one[key] for one in probes] if several else value for key, value in probes[0].items()}


@known_keywords
def node_scores(
    model: "HookedTransformer", corrupted: Source | None, clean: Source, metric: Metrics, **options: Unpack[EdgeOptions]
) -> "xarray.DataArray":
    """An estimate of what `patching.sweep` measures for every component, from one gradient: attribution patching.

    A write (`embed`, `L5H3`, `L5.mlp`) is scored by the difference between the two runs times the gradient of the
    metric with respect to it (Nanda 2023), which is the sum of the `eap` scores of its edges. Queries, keys and values
    (`L5H3.q`, `L5H1.k`, `L5H1.v`; of keys and values a key-value head) are those of the other run, as they meet in the
    scores: queries and keys are scored through the softmax, the QK fix of AtP* (Kramar et al. 2024, section 3.1.1),
    which is exact where all after the pattern is linear; values by their gradient.

    Args:
        model, corrupted, clean, metric, options: as for `edge_scores`.

    Returns:
        Effects over `component`, by name: all writers, then all heads' inputs. Otherwise as `edge_scores`, without a
        probe: `patching.sweep(..., site="z" or "q", effects=True)` is the exact answer, and cheap.

    Raises as `edge_scores`.
    """
    check_model(model)
    settings, of_runs = split_options(options)
    both = NodeEstimates.points(model)
    runs = EdgeRuns.of(model, corrupted, clean, metric, settings, also=points_of_changes(model), both=both, **of_runs)
    _check_sees(runs, "node_scores", [METHODS["qk"]], 1, "run")
    if (unchanged := n_unchanged(runs)) == len(runs.starts):
        warn_of_unchanged(runs.positions)
    nodes = NodeEstimates(runs)
    about = {"granularity": "nodes", **_about(runs.graph, runs.norms, runs.positions, unchanged)}
    return runs.measured.result(nodes.effects(), [Axis("component", nodes.names)], about, effects=True)


# ---------------------------------------------------------------------- checks


def _numbers(what: str, names: Sequence[str] | None, n: int, number: Any) -> list[int]:
    if names is None:
        return list(range(n))
    try:
        given = [names] if isinstance(names, str) else list(names)
    except TypeError:
        raise ConfigError(f"{what} = {describe(names)}; allowed: a list of names, or None for all") from None
    found = [number(name) for name in given]
    if not found or len(set(found)) < len(found):
        raise ConfigError(f"{what} = {describe(names)} names nothing, or something twice")
    return found


def _check_sees(runs: EdgeRuns, method: str, used: list[Method], steps: int, include: PathEnd) -> None:
    """A divergence has no gradient at the run that it is measured from. Raises `ConfigError`."""
    at_run_alone = [
        one for one in used if one.kind != "exact" and not (one.along and (steps > 1 or include == "other"))
    ]
    for metric, baseline in zip(runs.measured.metrics, runs.measured.baseline, strict=True):
        if at_run_alone and isinstance(metric, KLDivergence) and bool((baseline.abs() < 1e-6).all()):
            raise ConfigError(
                f"{method} takes the gradient at the run that {type(metric).__name__} measures from, where it is 0, so "
                "that every score would be 0; allowed: method='eap_ig' or 'local_ig' with several steps, 'exact', "
                "direction='denoising', or another metric"
            )


def n_unchanged(runs: EdgeRuns) -> int:
    """How many prompts' two runs are the same wherever edges carry the other one."""
    return sum(start == runs.n_pos for start in runs.starts)


def warn_of_unchanged(positions: list[int] | None) -> None:
    """Say that no edge has an effect."""
    where = "" if positions is None else " at and before the positions that are asked for"
    warnings.warn(
        f"both runs are the same for every prompt{where}, so that no edge has an effect: all scores are 0", stacklevel=4
    )


# ---------------------------------------------------------------------- results


def _about(graph: EdgeGraph, norms: Reaction, positions: list[int] | None, unchanged: int) -> dict[str, object]:
    return {
        "norms": norms,
        "positions": "together" if positions is None else " ".join(map(str, positions)) + ", together",
        "graph": graph.to_json(),
        "n_unchanged": unchanged,
    }


def edge_axes(between: Between) -> list[Axis]:
    """Readers and writers, by name."""
    graph = between.graph
    return [
        Axis("reader", [str(graph.readers[i]) for i in between.readers]),
        Axis("writer", [str(graph.writers[i]) for i in between.writers]),
    ]
