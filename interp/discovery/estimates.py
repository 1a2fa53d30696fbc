"""Estimates of edges' effects from a few gradients."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.discovery.changes import Changes, input_point
from interp.discovery.exact import ExactEffects
from interp.discovery.gradients import GradientInteractions, GradientRuns, Gradients, PathEnd
from interp.discovery.masked import EdgeRuns, Late
from interp.discovery.walk import INPUTS, Rule, Walk
from interp.model import Edge, EdgeGraph, HookedTransformer, Reader
from interp.precision import at_least_float32
from interp.progress import progress_bar

LINEAR = "writer batch late d_model, reader batch late d_model -> batch reader writer"
"""Differences in what is written times gradients of what is read."""

Kind = Literal["exact", "linear", "softmax", "local"]
"""What of an edge's effect is computed anew; see `Method`."""


@dataclass(frozen=True)
class Method:
    """How an edge's effect is estimated.

    Attributes:
        kind: "linear": the difference in what is written times the gradient of what is read. "softmax": queries and
            keys through their softmax instead. "local": every component anew, and its output times that gradient; the
            logits' readers by the metric itself.
        along: whether gradients are averaged along the way from the other run's embeddings.
        rule: how gradients flow back.
    """

    kind: Kind
    along: bool = False
    rule: Rule = field(default_factory=Rule)


METHODS: dict[str, Method] = {
    "exact": Method("exact"),
    "eap": Method("linear"),
    "eap_ig": Method("linear", along=True),
    "qk": Method("softmax"),
    "local": Method("local"),
    "local_ig": Method("local", along=True),
    "gim": Method("linear", rule=GradientInteractions()),
}
"""By name; "combined" is made of two of them. See `edge_scores`."""


@dataclass(frozen=True, eq=False)
class Between:
    """The edges between some writers and some readers.

    Attributes:
        graph: of the model.
        readers, writers: by number and in order.
    """

    graph: EdgeGraph
    readers: list[int]
    writers: list[int]

    @cached_property
    def there(self) -> Bool[Tensor, "reader writer"]:
        """Between which of them there is an edge."""
        return self.graph.edge_mask()[self.readers][:, self.writers]

    def edges(self, chosen: Bool[Tensor, "reader writer"]) -> list[Edge]:
        """Some of the edges, in the order of the graph."""
        places = [(self.readers[i], self.writers[j]) for i, j in (chosen & self.there).nonzero().tolist()]
        return [Edge(self.graph.writers[writer], self.graph.readers[reader]) for reader, writer in sorted(places)]

    def places(self, edges: list[Edge]) -> tuple[list[int], list[int]]:
        """In which row and which column each edge is."""
        numbers = self.graph.numbers
        rows = [self.readers.index(numbers[edge.reader]) for edge in edges]
        return rows, [self.writers.index(numbers[edge.writer]) for edge in edges]


@dataclass(frozen=True, eq=False)
class Estimates:
    """Effects of edges on a pair, estimated or exact.

    Attributes:
        runs: the pair. The run as it is has to hold `points_of_changes`.
        between: which edges are scored.
        steps, include: of methods along the way; see `GradientRuns`.
    """

    runs: EdgeRuns
    between: Between
    steps: int = 5
    include: PathEnd = "run"

    def effects(self, method: Method) -> Float[Tensor, "metric batch reader writer"]:
        """The metric's change for every edge, NaN where there is none; 0 for prompts whose two runs are the same."""
        values = self.zeros()
        if method.kind == "exact":
            return self.exactly(self.between.edges(self.between.there), values)
        gradients = GradientRuns(self.runs, self.steps if method.along else None, self.include, method.rule)
        together = any(plan.whole_batch for plan in self.runs.measured.plans)
        settings = self.runs.measured.settings
        with progress_bar("estimating edges", len(self.runs.starts), settings.progress) as advance:
            for late in self.runs.groups(*gradients.bytes(), together=together):
                found = gradients.of(late)
                with torch.no_grad():
                    for of_metric, of_one in zip(values, found, strict=True):
                        effects = _OfGroup(self, late, of_one).effects(method.kind)
                        pooled = of_one.pooled
                        of_metric[late.prompts] += effects.sum(dim=0) if pooled else effects
                advance(len(late.prompts))
        if method.kind == "local":
            of_logits = torch.tensor(self.between.readers) == len(self.runs.graph.readers) - 1
            self.exactly(self.between.edges(of_logits[:, None]), values)
        return values

    def zeros(self) -> Float[Tensor, "metric batch reader writer"]:
        """No effect of any edge: 0, and NaN where there is none."""
        baseline, there = self.runs.measured.baseline, self.between.there
        values = torch.zeros(*baseline.shape, *there.shape, dtype=baseline.dtype)
        return values.masked_fill(~there, torch.nan).to(baseline.device)

    def exactly(
        self, edges: list[Edge], values: Float[Tensor, "metric batch reader writer"]
    ) -> Float[Tensor, "metric batch reader writer"]:
        """Write some edges' exact effects into `values`."""
        if edges:
            rows, columns = (torch.tensor(at, device=values.device) for at in self.between.places(edges))
            values[:, :, rows, columns] = ExactEffects(self.runs, edges).effects()
        return values


class _OfGroup:
    """One metric's effects on some prompts, from its gradients."""

    def __init__(self, of: Estimates, late: Late, gradients: Gradients):
        runs = of.runs
        self.of, self.graph, self.gradients = of, runs.graph, gradients
        self.walk = Walk(runs.base, late.prompts, late.start, runs.norms)
        self.changes = Changes(self.walk, runs.graph)
        self.difference = runs.written(late).difference
        self.moves = self.difference.flatten(1).any(dim=1)  # others write the same in both runs

    def effects(self, kind: Kind) -> Float[Tensor, "batch reader writer"]:
        """Of all edges; 0 where there is none, so that it can be added."""
        device = self.difference.device
        found = self.difference.new_zeros(len(self.walk.prompts), len(self.graph.readers), len(self.graph.writers))
        if kind != "local":
            self._linear(found)
        for number in self.of.between.readers if kind != "linear" else ():
            reader = self.graph.readers[number]
            anew = reader.input in ("q", "k") or (kind == "local" and reader.kind != "logits")
            if anew and len(writers := self._writers(reader)):
                found[:, number, writers] = self._through(reader, self.difference[writers]).T
        rows, columns = (
            torch.tensor(numbers, device=device) for numbers in (self.of.between.readers, self.of.between.writers)
        )
        return found[:, rows][:, :, columns]

    def _writers(self, reader: Reader) -> Int[Tensor, "writer"]:
        """Those that are asked for, reach the reader, and write something else in the other run."""
        wanted = torch.tensor(self.of.between.writers, device=self.moves.device)
        return wanted[(wanted < self.graph.n_writers_of(reader)) & self.moves[wanted]]

    def _linear(self, found: Float[Tensor, "batch reader writer"]) -> None:
        """Differences times gradients of reads, a layer at a time."""
        first = 0
        for gradient in self.gradients.reads:
            of_layer = self.graph.readers[first : first + len(gradient)]
            n = max(self.graph.n_writers_of(reader) for reader in of_layer)
            scores = einsum(self.difference[:n], gradient.to(self.difference.dtype), LINEAR)
            found[:, first : first + len(of_layer), :n] = scores
            first += len(of_layer)
        found.masked_fill_(~self.graph.edge_mask().to(found.device), 0)  # an MLP reads heads that its layer's do not

    def _through(
        self, reader: Reader, difference: Float[Tensor, "writer batch late d_model"]
    ) -> Float[Tensor, "writer batch"]:
        """The change of a component's output times the gradient of that."""
        layer, batch = reader.layer, len(self.walk.prompts)
        if reader.kind == "mlp":
            change = self.changes.mlp_out(reader, difference) - self.walk.late(f"blocks.{layer}.hook_mlp_out")
            return _product(change, self.gradients.mlp_outs[layer]).sum(dim=(2, 3))
        heads = self.changes.heads(reader)
        if reader.input == "v":
            change, gradient = self.changes.z(reader, difference), self.gradients.z[layer][:, :, heads]
        else:
            change, gradient = self.changes.pattern(reader, difference), self.gradients.patterns[layer][:, heads]
        return _product(change.unflatten(0, (-1, batch)), gradient).sum(dim=(2, 3, 4))


def _product(change: Float[Tensor, "*axes"], gradient: Float[Tensor, "..."]) -> Float[Tensor, "*axes"]:
    """Entry by entry, in float32 at least: products and sums of half-precision numbers overflow."""
    return at_least_float32(change) * at_least_float32(gradient)


class NodeEstimates:
    """Attribution patching of every component, with queries and keys through their softmax.

    Args:
        runs: the pair. The run as it is has to hold `points_of_changes`, both `points`.
    """

    def __init__(self, runs: EdgeRuns):
        self.runs, self.graph = runs, runs.graph
        self.inputs = [reader for reader in runs.graph.readers if reader.head is not None]

    @property
    def names(self) -> list[str]:
        """All writers, then all heads' inputs."""
        return [*map(str, self.graph.writers), *map(str, self.inputs)]

    @staticmethod
    def points(model: HookedTransformer) -> tuple[str, ...]:
        """What both runs have to hold: queries and keys as they meet, and values."""
        return tuple(f"blocks.*.attn.{input_point(model, input)}" for input in INPUTS)

    def effects(self) -> Float[Tensor, "metric batch component"]:
        """The metric's estimated change for each."""
        runs, measured = self.runs, self.runs.measured
        gradients = GradientRuns(runs)
        everything = Between(self.graph, list(range(len(self.graph.readers))), list(range(len(self.graph.writers))))
        of_edges = Estimates(runs, everything)
        values = measured.baseline.new_zeros(*measured.baseline.shape, len(self.names))
        together = any(plan.whole_batch for plan in measured.plans)
        for late in runs.groups(*gradients.bytes(), together=together):
            for of_metric, found in zip(values, gradients.of(late), strict=True):
                with torch.no_grad():
                    of_group = _OfGroup(of_edges, late, found)
                    writes = of_group.effects("linear").sum(dim=1)
                    effects = torch.cat([writes, *(self._of_input(of_group, reader) for reader in self.inputs)], dim=1)
                    of_metric[late.prompts] += effects.sum(dim=0) if found.pooled else effects
        return values

    def _of_input(self, group: _OfGroup, reader: Reader) -> Float[Tensor, "batch 1"]:
        """What a head's queries, keys or values of the other run do."""
        walk, layer, heads = group.walk, reader.layer, group.changes.heads(reader)
        assert reader.head is not None
        own = slice(reader.head, reader.head + 1)
        name = f"blocks.{layer}.attn.{input_point(walk.model, reader.input)}"
        other = self.runs.runs.written(name)[walk.rows, walk.start :, own]
        if self.runs.positions is not None:
            asked = torch.tensor([p for p in self.runs.positions if p >= walk.start], device=other.device) - walk.start
            other = walk.late(name)[:, :, own].index_copy(1, asked, other[:, asked])
        if reader.input == "v":
            change = group.changes.z_of_values(reader, other)
            return _product(change, group.gradients.z[layer][:, :, heads]).sum(dim=(1, 2, 3))[:, None]
        change = group.changes.pattern_of(reader, other)
        return _product(change, group.gradients.patterns[layer][:, heads]).sum(dim=(1, 2, 3))[:, None]
