"""Automatic circuit discovery: edges that can be dropped one after the other without the metric noticing.

Conmy et al. 2023, "Towards Automated Circuit Discovery", algorithm 1. Readers are visited from the logits down, the
writers of each in reverse; an edge is dropped for good, so that it carries the other run from then on, if the metric
then moves by less than a threshold. Each decision is made on what all earlier ones have left.

The decisions here are those of that loop, one by one, but most runs are made before it is known whether they are
needed: a *chain* runs the next k candidates dropped one after the other, all at once. The first that must stay ends the
chain; the decisions before it hold, the runs after it are lost. Two things make this cheap:

- As long as a layer's readers are decided, all readers before it are whole, so that runs begin at that layer.
- What leads into a component that nothing reads any more does nothing: it is dropped without a run. (Where the heads'
  writes of a layer pass a norm together, as in Gemma, into a layer of which no head is read any more, and only if
  attention has no bias.)

Known limits, both of which show on hand-built circuits: of components that stand in for each other (an OR gate) only
one is found when noising, since the other is dropped first and changes nothing; and which one that is depends on the
order.
"""

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Unpack, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.discovery.circuit_runs import CircuitRuns, check_one_metric, is_finite
from interp.discovery.options import AcdcOptions
from interp.discovery.subgraph import Subgraph
from interp.errors import ConfigError, check_choice, describe
from interp.indices import check_count, check_seed, counted
from interp.keywords import known_keywords
from interp.metrics import KLDivergence
from interp.model import EdgeGraph
from interp.patching import OneMetric, ResumeFile, Source, check_model, question_of, way_of, written_points
from interp.progress import progress_bar

if TYPE_CHECKING:
    from interp.model import HookedTransformer

Order = Literal["reversed", "forward", "shuffled"]
"""In which order the writers of a reader are tried."""

Change = Literal["growth", "absolute"]
"""Which change of the metric counts: how much it grows, or how far it moves."""

Place = tuple[int, int]
"""An edge: the places of its reader and its writer in the graph."""

MOST_AT_ONCE = 64
"""The longest chain."""

OVERHEAD = {"cpu": 3.0}
"""What a batch costs beside its runs, in runs, by device; measured on 14 tokens and d_model 576. 32 on all others."""

KEPT_PARTS = 32
"""Into how many parts the work is cut by the writing of its file: an interruption loses 3 % at most."""


@torch.no_grad()
@known_keywords
def acdc(
    model: "HookedTransformer",
    corrupted: Source | None,
    clean: Source,
    metric: OneMetric = KLDivergence(),  # noqa: B008
    *,
    threshold: int | float,
    change: Change | None = None,
    order: Order = "reversed",
    seed: int = 0,
    batch_size: int | None = None,
    **options: Unpack[AcdcOptions],
) -> Subgraph:
    """The edges that cannot be dropped, one after the other, without the metric noticing.

    Args:
        corrupted, clean: as for `faithfulness`.
        metric: whose mean over prompts decides; by default the divergence of the next token from the clean run.
        threshold: an edge is dropped if the metric changes by less than this, in the metric's units: from its value
            before the edge is dropped, with all edges dropped that were before.
        change: "growth" drops an edge whose metric grows by less than the threshold, falling included: for what is
            small where a circuit is good, as in the paper, and the default for `KLDivergence`. "absolute" drops it if
            the metric moves by less in either direction: the default for all others. With either, a threshold of 0
            keeps an edge that changes nothing.
        order: in which a reader's writers are tried: "reversed" (the paper's), "forward", or "shuffled". Readers are
            always visited from the logits down.
        seed: of a shuffled order.
        batch_size: how many runs at once at most; the result does not depend on it but for rounding.
        options: see `AcdcOptions`.

    Returns:
        The edges that stay; `found_by` says how, how many edges took a run, and how many runs were made (by a search
        that went on from a file, since then). An empty circuit comes with a warning.

    Raises, before any edge is tried, what `faithfulness` raises but for a gap within noise; `ConfigError` for a
    threshold below 0 or none, an unknown order or change, several metrics; `CheckpointError` for another search's file.
    """
    check_one_metric(metric)
    criterion = _Criterion.of(metric, threshold, change)
    check_choice("order", order, get_args(Order))
    tried = {"order": order, "seed": check_seed(seed) if order == "shuffled" else None}
    most = MOST_AT_ONCE if batch_size is None else check_count("batch_size", batch_size)
    check_model(model)
    candidates = _candidates(EdgeGraph.of(model), order, check_seed(seed))
    runs = CircuitRuns.of(model, corrupted, clean, metric, options)
    search = _Search.of(runs, criterion, candidates, tried)
    search.run(_Pace(OVERHEAD.get(runs.measured.baseline.device.type, 32.0), most))
    about = runs.measured.about()
    n = counted(len(runs.measured.baseline[0]), "prompt")
    said = [f"{about['metric']} {criterion}", way_of(about), f"{order} writers", n]
    found_by = f"acdc: {', '.join(said)}; {search.n_tried:,} edges tried in {search.n_runs:,} runs"
    found = Subgraph.of_mask(runs.graph, runs.graph.edge_mask() & ~search.dropped, found_by)
    if not len(found):
        was = float(runs.measured.baseline.mean())
        warnings.warn(
            f"threshold = {threshold:g} keeps no edge: dropping all, one by one, took the metric from {was:.4g} to "
            f"{search.now:.4g}, and no step was as large as the threshold",
            stacklevel=4,
        )
    return found


@dataclass(frozen=True)
class _Criterion:
    """What drops an edge: that the metric grows, or moves, by less than a threshold."""

    threshold: float
    grows: bool

    @classmethod
    def of(cls, metric: OneMetric, threshold: object, change: Change | None) -> "_Criterion":
        """Raises `ConfigError` for a threshold or a change that is none."""
        if not is_finite(threshold) or threshold < 0:
            raise ConfigError(f"threshold = {describe(threshold)}; allowed: a finite number, 0 or more")
        if change is not None:
            check_choice("change", change, get_args(Change))
        return cls(float(threshold), isinstance(metric, KLDivergence) if change is None else change == "growth")

    def drops(self, change: float) -> bool:
        """Whether an edge with this effect is dropped; not if that is not a number."""
        return (change if self.grows else abs(change)) < self.threshold

    def __str__(self) -> str:
        return f"{'grows' if self.grows else 'moves'} by less than {self.threshold:g}"


def _candidates(graph: EdgeGraph, order: Order, seed: int) -> list[list[Place]]:
    """All edges in the order in which they are tried, cut where runs begin at another component."""
    generator = torch.Generator().manual_seed(seed)
    groups: list[list[Place]] = []
    readers = list(reversed(list(enumerate(graph.readers))))
    for _, same in itertools.groupby(readers, lambda one: (one[1].layer, one[1].kind)):
        groups.append([])
        for place, reader in same:
            writers = list(range(graph.n_writers_of(reader)))
            if order == "shuffled":
                writers = torch.randperm(len(writers), generator=generator).tolist()
            groups[-1] += [(place, writer) for writer in (reversed(writers) if order == "reversed" else writers)]
    return groups


# ---------------------------------------------------------------------- the search


@dataclass(eq=False)
class _Search:
    """A search on its way.

    Attributes:
        runs: of any circuits.
        criterion: what drops an edge.
        candidates: the edges in order, in groups.
        file: for each edge in order, the metric with it dropped, where that decided.
        dropped: the edges that are dropped so far.
        now: the mean metric with these dropped.
        needed: of the writers, which are read by something that leads to the logits.
        n_tried, n_runs: how many edges were decided by a run, and how many runs were made.
    """

    runs: CircuitRuns
    criterion: _Criterion
    candidates: list[list[Place]]
    file: ResumeFile
    dropped: Bool[Tensor, "reader writer"]
    now: float
    needed: Bool[Tensor, "writer"]
    n_tried: int = 0
    n_runs: int = 0

    @classmethod
    def of(
        cls, runs: CircuitRuns, criterion: _Criterion, candidates: list[list[Place]], tried: dict[str, object]
    ) -> "_Search":
        """A search before its first decision, with what its file knows. Raises `CheckpointError`."""
        measured, graph, engine = runs.measured, runs.graph, runs.engine
        path, question = measured.settings.checkpoint, dict[str, object]()
        if path is not None:
            asked = {"search": "acdc", "threshold": criterion.threshold, "grows": criterion.grows, **tried}
            asked |= {"norms": engine.norms, "positions": engine.positions}
            question = question_of(measured, written_points(engine.model), asked)
        file = ResumeFile(path, question, {"edges": measured.baseline[:, :, None].repeat(1, 1, graph.n_edges)})
        file.restore()
        nothing = torch.zeros_like(graph.edge_mask())
        now = float(measured.baseline.mean())
        return cls(runs, criterion, candidates, file, nothing, now, nothing[0].clone())

    def run(self, pace: "_Pace") -> None:
        """Decide about all edges. What is decided is in the file, whatever ends this."""
        known = self.file.done["edges"].clone()
        decided: list[int] = []
        with progress_bar("dropping edges", len(known), self.runs.settings.progress) as advance:
            try:
                for numbers, group in self._groups():
                    for number in self._decided(numbers, group, known, pace):
                        decided.append(number)
                        if len(decided) * KEPT_PARTS > len(known):
                            self._keep(decided)
                    advance(len(group), f"{int(self.dropped.sum()):,} dropped")
            finally:
                self._keep(decided)

    def _groups(self) -> Iterator[tuple[list[int], list[Place]]]:
        """The groups with their edges' numbers in the whole order; edges that need no run are dropped on the way."""
        first = 0
        for group in self.candidates:
            leading = [self._leads_on(reader) for reader, _ in group]
            tried = [i for i, leads in enumerate(leading) if leads]
            if self.criterion.drops(0.0):
                for place in itertools.compress(group, [not leads for leads in leading]):
                    self.dropped[place] = True
            yield [first + i for i in tried], [group[i] for i in tried]
            first += len(group)

    def _leads_on(self, reader: int) -> bool:
        """Whether what a reader reads can move anything that leads to the logits."""
        graph, one = self.runs.graph, self.runs.graph.readers[reader]
        if one.kind == "logits":
            return True
        writes = graph.writes_of(one)
        block = self.runs.engine.model.blocks[one.layer]
        if one.kind == "head" and block.ln1_post.kind is not None:
            # The heads of a layer pass one norm together: each moves its scale, and so what the others write, and what
            # the bias adds, which belongs to no edge.
            if bool(block.attn.b_O.any()):
                return True
            writes = [writer for writer in graph.writers if writer.kind == "head" and writer.layer == one.layer]
        return any(bool(self.needed[graph.numbers[writer]]) for writer in writes)

    def _decided(
        self, numbers: list[int], group: list[Place], known: Bool[Tensor, "edge"], pace: "_Pace"
    ) -> Iterator[int]:
        """Decide about a group's edges in order; yields the number of each that took a run."""
        values, begin = self.file.values["edges"][0], 0  # [batch edge]
        while begin < len(group):
            if known[numbers[begin]]:
                self._decide(group[begin], float(values[:, numbers[begin]].mean()))
                begin += 1
                continue
            chain = group[begin : begin + pace.length()]
            found = self._run_chain(chain)
            for place, value in zip(chain, found, strict=True):
                values[:, numbers[begin]] = value
                dropped = self._decide(place, float(value.mean()))
                pace.saw(dropped)
                yield numbers[begin]
                begin += 1
                if not dropped:
                    break

    def _run_chain(self, chain: list[Place]) -> Float[Tensor, "edge batch"]:
        """The metric with the first, the first two, ... of some edges dropped, and all that were before."""
        masks = self.dropped.repeat(len(chain), 1, 1)
        for i, place in enumerate(chain):
            masks[(slice(i, None), *place)] = True
        self.n_runs += len(chain)
        return self.runs.ablated(masks)[0]

    def _decide(self, place: Place, value: float) -> bool:
        """Drop an edge or keep it, by the metric with it dropped."""
        self.n_tried += 1
        if dropped := self.criterion.drops(value - self.now):
            self.dropped[place] = True
            self.now = value
        else:
            self.needed[place[1]] = True
        return dropped

    def _keep(self, decided: list[int]) -> None:
        if decided:
            self.file.keep("edges", torch.tensor(decided))
            decided.clear()


class _Pace:
    """How long a chain is worth running, from how often edges were dropped of late.

    Of k runs, (1 - p^k) / (1 - p) are needed on average where each edge is dropped with probability p; a batch of k
    costs as much as `overhead` + k runs.
    """

    def __init__(self, overhead: float, most: int):
        self.overhead, self.most = overhead, most
        self.drops, self.seen = 1.0, 2.0

    def saw(self, dropped: bool) -> None:
        """Another edge was decided; edges count less the longer ago they were."""
        self.drops, self.seen = 0.98 * self.drops + dropped, 0.98 * self.seen + 1

    def length(self) -> int:
        """How many edges to run ahead: with which most decisions are made for what it costs."""
        p, best, needed, power = self.drops / self.seen, (0.0, 1), 0.0, 1.0
        for k in range(1, self.most + 1):
            needed, power = needed + power, power * p
            best = max(best, (needed / (self.overhead + k), k))
        return best[1]
