"""What it takes to call a set of edges *the* circuit: that nothing is missing, and that nothing is there for nothing.

After Wang et al. 2022, section 4. F(C) is the metric of a circuit, with everything outside from the other run, N the
whole graph, K edges of C, and `-` takes edges out:

- *complete*: for every K, |F(C - K) - F(N - K)| is small. A circuit that lacks a part that only stands in for others
  (a backup) does what the model does, until these others are taken out of both.
- *minimal*: for every edge v of C there is a K for which |F(C - K - v) - F(C - K)| is large. An edge that stands in
  for another does nothing as long as the other is there.

There are too many K to try them all, so some are: random sets of several sizes, whole components, and for minimality
all edges into the same reader. What is found is therefore a lower bound of the worst.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.discovery.circuit_runs import CircuitRuns, check_one_metric, is_finite
from interp.discovery.options import ClaimOptions
from interp.discovery.subgraph import Subgraph
from interp.errors import ConfigError, describe
from interp.indices import check_count, check_seed, counted
from interp.keywords import known_keywords
from interp.model import EdgeGraph
from interp.patching import OneMetric, Source
from interp.results import Axis, array_of, as_variables, over_prompts

if TYPE_CHECKING:
    import xarray

    from interp.model import HookedTransformer

SIZES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of random sets, as shares of the circuit's edges."""


class _Set(NamedTuple):
    """Edges that are taken out: of which kind the set is ("random" and the like), its name, and its edges."""

    kind: str
    name: str
    mask: Bool[Tensor, "reader writer"]


# ---------------------------------------------------------------------- completeness


@dataclass(frozen=True, eq=False)
class Completeness:
    """How far a circuit and the model come apart as the same edges are taken out of both.

    Attributes:
        table: over `removed`, the sets K: what they are (`kind`, `name`, `n_removed`), the metric of what is left of
            the `circuit` and of the `model`, their `difference` with `difference_ci_low` and `_ci_high`, and whether
            that is `decided`, more than noise. Intervals hold for all sets together (Bonferroni).
        removed: the sets themselves, in the same order.
    """

    table: "xarray.Dataset"
    removed: tuple[Subgraph, ...]

    @property
    def worst(self) -> Subgraph | None:
        """The set with the largest difference that is not noise; None where no difference is decided."""
        decided = self.table["decided"].to_numpy()
        if not decided.any():
            return None
        return self.removed[int((abs(self.table["difference"].to_numpy()) * decided).argmax())]

    def __repr__(self) -> str:
        largest, n = float(abs(self.table["difference"]).max()), int(self.table["decided"].sum())
        return (f"Completeness({len(self.removed)} sets, differences up to {largest:.4g}, {n} of them more than noise "
                f"over {_prompts(self.table)}; worst: {self.worst})")  # fmt: skip


@torch.no_grad()
@known_keywords
def completeness(
    model: "HookedTransformer",
    circuit: Subgraph,
    corrupted: Source | None,
    clean: Source,
    metric: OneMetric,
    *,
    samples: int = 5,
    sizes: Sequence[float] = SIZES,
    seed: int = 0,
    **options: Unpack[ClaimOptions],
) -> Completeness:
    """Take edges of a circuit out of the circuit and out of the model, and compare what is left.

    It costs two runs for each set: nothing, every component of the circuit (all that it reads and writes there), random
    sets, and all of the circuit.

    Args:
        corrupted, clean, metric: as for `faithfulness`; one metric.
        samples: how many random sets of each size.
        sizes: of random sets, as shares of the circuit's edges, above 0 and below 1.
        seed: of the random sets.
        options: see `ClaimOptions`.

    Raises, before any circuit runs, what `faithfulness` raises (but for a gap within noise), and `ConfigError` for a
    circuit without edges, several metrics, and samples, sizes or a seed that are none.
    """
    check_one_metric(metric)
    mask, generator = _checked(circuit, samples, sizes, seed)
    runs = CircuitRuns.of(model, corrupted, clean, metric, options)
    circuit.check_fits(runs.graph)
    graph, edges = circuit.graph, circuit.graph.edge_mask()
    sets = [_Set("nothing", "", torch.zeros_like(mask)), *_components(graph, mask)]
    sets += [*_random(mask, samples, sizes, generator), _Set("circuit", "", mask)]
    left = [whole & ~removed.mask for whole in (mask, edges) for removed in sets]
    values = runs.values(left, "taking edges out", len(left))[0].unflatten(0, (2, len(sets)))  # [2 set batch]
    differences = values[0] - values[1]
    decided = _decided(runs, differences, len(sets))
    found = {"circuit": values[0].mean(dim=-1), "model": values[1].mean(dim=-1), "decided": decided}
    table = _table(runs, "removed", "difference", differences, len(sets))
    table = table.assign({name: ("removed", of.cpu().numpy()) for name, of in found.items()})
    table = table.assign_coords(_described("removed", sets)).assign_attrs(samples=samples, seed=seed)
    return Completeness(table, tuple(_subgraph(circuit, removed) for removed in sets))


# ---------------------------------------------------------------------- minimality


@dataclass(frozen=True, eq=False)
class Minimality:
    """For each edge of a circuit, the set K without which it matters most.

    Attributes:
        table: over `edge`: the largest `effect` of taking it out too, F(C - K - v) - F(C - K), with `effect_ci_low` and
            `_ci_high`; what the set is (`kind`, `n_removed`); whether the edge `matters`: that the effect is more than
            noise; and whether it is `undecided`: that there are effects, all within noise. Intervals hold for all sets
            of an edge together (Bonferroni), not for all edges.
        removed: the sets K, in the same order.
    """

    table: "xarray.Dataset"
    removed: tuple[Subgraph, ...]

    @property
    def idle(self) -> list[str]:
        """The edges that have no effect with any of the sets, but for rounding."""
        known = self.table["matters"] | self.table["undecided"]
        return self.table["edge"].to_numpy()[~known.to_numpy()].tolist()

    def __repr__(self) -> str:
        matters, undecided = (int(self.table[name].sum()) for name in ("matters", "undecided"))
        return (f"Minimality({self.table.sizes['edge']} edges: {matters} matter, {len(self.idle)} have no effect, "
                f"{undecided} have effects within noise over {_prompts(self.table)})")  # fmt: skip


@torch.no_grad()
@known_keywords
def minimality(
    model: "HookedTransformer",
    circuit: Subgraph,
    corrupted: Source | None,
    clean: Source,
    metric: OneMetric,
    *,
    n: int | None = None,
    samples: int = 3,
    sizes: Sequence[float] = SIZES,
    seed: int = 0,
    **options: Unpack[ClaimOptions],
) -> Minimality:
    """Take each edge out of what is left of a circuit without some others, and see whether it matters.

    The sets K are: nothing, random ones (the same for all edges), and all other edges into the same reader. It costs
    about `samples * len(sizes) + 2` runs for each edge. What counts as more than noise holds for all these sets at
    once, which takes more than a handful of prompts; over fewer, most edges stay undecided.

    Args:
        corrupted, clean, metric: as for `faithfulness`; one metric.
        n: try so many of the circuit's edges, drawn at random; None for all.
        samples, sizes, seed: as for `completeness`.
        options: see `ClaimOptions`.

    Raises as `completeness`; `ConfigError` for more edges than there are.
    """
    check_one_metric(metric)
    mask, generator = _checked(circuit, samples, sizes, seed)
    n = check_count("n", len(circuit) if n is None else n, len(circuit))
    runs = CircuitRuns.of(model, corrupted, clean, metric, options)
    circuit.check_fits(runs.graph)
    tried = (mask if n == len(circuit) else _random_subset(mask, n, generator)).nonzero().tolist()
    shared = [_Set("nothing", "", torch.zeros_like(mask)), *_random(mask, samples, sizes, generator)]
    n_sets = len(shared) + 1
    values = runs.values(_left(mask, tried, shared), "taking edges out", 2 * n_sets * n)[0]
    without, with_edge = values.unflatten(0, (n, n_sets, 2)).unbind(dim=2)  # [edge set batch]
    effects = without - with_edge
    decided, size = _decided(runs, effects, n_sets), effects.mean(dim=-1).abs()
    matters, moves = decided.any(dim=1), runs.beyond_rounding(effects, runs.measured.baseline[0]).any(dim=2).any(dim=1)
    best = torch.where(decided.any(dim=1, keepdim=True), size.where(decided, -1), size).argmax(dim=1)
    chosen = [
        _without_edge(_sets_of(mask, edge, shared)[i], edge) for edge, i in zip(tried, best.tolist(), strict=True)
    ]
    table = _table(runs, "edge", "effect", effects[torch.arange(n), best], n_sets)
    kinds = {"matters": matters, "undecided": moves & ~matters}
    table = table.assign({name: ("edge", of.cpu().numpy()) for name, of in kinds.items()})
    names = [f"{circuit.graph.writers[writer]} -> {circuit.graph.readers[reader]}" for reader, writer in tried]
    table = table.assign_coords(_described("edge", chosen) | {"edge": array_of(names, [n])})
    table = table.drop_vars("name").assign_attrs(samples=samples, seed=seed)
    return Minimality(table, tuple(_subgraph(circuit, removed) for removed in chosen))


def _sets_of(mask: Tensor, edge: list[int], shared: list[_Set]) -> list[_Set]:
    """The sets that an edge is tried with; each may hold the edge itself."""
    same_reader = torch.zeros_like(mask)
    same_reader[edge[0]] = mask[edge[0]]
    return [*shared, _Set("same reader", "", same_reader)]


def _without_edge(removed: _Set, edge: list[int]) -> _Set:
    rest = removed.mask.clone()
    rest[tuple(edge)] = False
    return removed._replace(mask=rest)


def _left(mask: Tensor, tried: list[list[int]], shared: list[_Set]) -> Iterator[Bool[Tensor, "reader writer"]]:
    """What is left of the circuit, for each edge and each set: without the edge, and with it."""
    for edge in tried:
        for removed in _sets_of(mask, edge, shared):
            left = mask & ~removed.mask
            for there in (False, True):
                left = left.clone()
                left[tuple(edge)] = there
                yield left


# ---------------------------------------------------------------------- sets, and what is said of them


def _checked(circuit: object, samples: object, sizes: object, seed: object) -> tuple[Tensor, torch.Generator]:
    """The circuit's edges, and a source of random sets. Raises `ConfigError`."""
    if not isinstance(circuit, Subgraph) or not len(circuit):
        raise ConfigError(f"circuit = {describe(circuit)}; allowed: a Subgraph with at least one edge")
    check_count("samples", samples)
    several = list(sizes) if isinstance(sizes, Sequence) and not isinstance(sizes, str) else []
    if not several or not all(is_finite(s) and 0 < s < 1 for s in several):
        raise ConfigError(f"sizes = {describe(sizes)}; allowed: shares of the circuit, above 0 and below 1")
    return circuit.mask, torch.Generator().manual_seed(check_seed(seed))


def _components(graph: EdgeGraph, mask: Tensor) -> Iterator[_Set]:
    """All that a component reads and writes within the circuit, for each that does; the logits last."""
    for place, writer in enumerate(graph.writers):
        own = torch.zeros_like(mask)
        own[:, place] = mask[:, place]
        rows = [graph.numbers[reader] for reader in graph.reads_of(writer)]
        own[rows] = mask[rows]
        if own.any():
            yield _Set("component", str(writer), own)
    own = torch.zeros_like(mask)
    own[-1] = mask[-1]
    if own.any():
        yield _Set("component", "logits", own)


def _random(mask: Tensor, samples: int, sizes: Sequence[float], generator: torch.Generator) -> Iterator[_Set]:
    """Random sets of each size, of at least one edge."""
    n = int(mask.sum())
    for size in sizes:
        for _ in range(samples):
            yield _Set("random", "", _random_subset(mask, max(1, round(size * n)), generator))


def _random_subset(
    mask: Bool[Tensor, "reader writer"], n: int, generator: torch.Generator
) -> Bool[Tensor, "reader writer"]:
    """So many of a mask's edges, each set of n equally likely."""
    places = mask.flatten().nonzero()[:, 0]
    chosen = torch.zeros(mask.numel(), dtype=torch.bool)
    chosen[places[torch.randperm(len(places), generator=generator)[:n]]] = True
    return chosen.view_as(mask)


def _of_each(runs: CircuitRuns, n_sets: int) -> float:
    """The confidence of each of several intervals that hold together."""
    return 1 - (1 - runs.settings.confidence) / n_sets


def _table(
    runs: CircuitRuns, dim: str, name: str, differences: Float[Tensor, "cell batch"], n_sets: int
) -> "xarray.Dataset":
    """Mean differences over prompts with intervals that hold for so many sets together."""
    import xarray

    axis, confidence = Axis(dim, list(range(len(differences)))), _of_each(runs, n_sets)
    mean = over_prompts(differences.T[None], [axis], None, False, confidence, {}, name)
    about = runs.measured.about() | {"confidence": runs.settings.confidence, "n_sets": n_sets}
    return xarray.Dataset(as_variables(name, mean), attrs=about)


def _decided(runs: CircuitRuns, differences: Float[Tensor, "*cells batch"], n_sets: int) -> Bool[Tensor, "*cells"]:
    """Which mean differences are more than noise, of so many sets together."""
    sizes = runs.measured.baseline[0].expand_as(differences)
    return runs.decided(differences, sizes, _of_each(runs, n_sets))


def _prompts(table: "xarray.Dataset") -> str:
    """Over how many prompts a result was measured, in words."""
    return counted(table.attrs["n"], "prompt")


def _described(dim: str, sets: Sequence[_Set]) -> dict[str, tuple[str, object]]:
    return {
        "kind": (dim, array_of([one.kind for one in sets], [len(sets)])),
        "name": (dim, array_of([one.name for one in sets], [len(sets)])),
        "n_removed": (dim, [int(one.mask.sum()) for one in sets]),
    }


def _subgraph(circuit: Subgraph, removed: _Set) -> Subgraph:
    found_by = f"{removed.kind} {removed.name}".strip() + f" of {circuit.found_by or 'a circuit'}"
    return Subgraph.of_mask(circuit.graph, removed.mask, found_by)
