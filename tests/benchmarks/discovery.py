"""Circuit discovery, measured.

Run: python tests/benchmarks/discovery.py                 the calibration, the hidden circuits, then the times
     python tests/benchmarks/discovery.py calibration     scores beside known edges
     python tests/benchmarks/discovery.py hidden          the same of circuits that are hidden in larger models
     python tests/benchmarks/discovery.py smollm2         times on SmolLM2, as ratios to its own plain run
     python tests/benchmarks/discovery.py acdc            ACDC on SmolLM2, to its end

`calibration` asks every method on every circuit of the gallery (without the slow one), in the basis in which it was
declared and in a random one, with zero, mean and resample ablation. Beside each method stand its AUROC against the
circuit's edges, in which scores that differ by rounding alone are ties, and its hits, the share of known edges with an
effect whose score is over 10 % of it (`interp.discovery.auroc`, `hit`); beside ACDC precision and recall.

Every circuit is asked with 8 pairs of prompts drawn at random from its own inputs (`circuits.benchmark.prompt_pairs`):
the corrupted prompt has as many words as the clean one and another answer, so that it differs in the words and never in
the positions. The mean is over 32 others, at each position. Scores are of the difference of the two answers' logits at
the last position; ACDC takes the KL divergence at all positions, and a threshold of .001 nats.

`hidden` asks the same of tasks of `circuits.benchmark`: each circuit alone in a random basis, and hidden in two larger
models among random weights and other heads (`SIZES`), with softmax and steps that are saturated and with such that are
not (`SOFTNESS`). A row is the mean over the circuits.

`smollm2` takes one pair of 14 tokens that share 9, and says of every row how many plain runs of the clean prompt it
takes, both at their shortest and in turn. Exact effects are sampled (every so many readers) and scaled by their number;
a sample of these is held to single masked runs.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.core import ratio_of_minima
from gallery_tasks import ABLATIONS, METHODS, gallery_task

from circuits.benchmark import CIRCUITS, SIZES, SOFTNESS, Task, make_task
from circuits.gallery import entries
from interp import HookedTransformer
from interp.discovery import EdgeRuns, MethodName, Subgraph, acdc, auroc, edge_scores, hit, precision_recall
from interp.errors import ConfigError
from interp.interventions import Zero
from interp.metrics import KLDivergence, LogitDifference, Metric
from interp.model import EdgeGraph
from interp.patching import Settings, Source

if TYPE_CHECKING:
    import xarray
    from networkx import MultiDiGraph
    from rich.table import Table
    from torch import Tensor

ABOUT = "8 pairs of prompts a circuit; methods: AUROC / hit; ACDC: precision / recall; see the script's docstring"
THRESHOLD = 1e-3
OF_PAIRS = ["zero", "resample"]
"""The ablations for which pairs of prompts are enough."""

BASES: dict[str, int | None] = {"declared": None, "rotated": 0}
Pair = tuple[float, float]
"""AUROC and hit, or precision and recall."""


def calibration_of(name: str, basis: str, ablation: str) -> list[Pair]:
    """Every method, and ACDC, on one circuit."""
    task = gallery_task(name, rotate=BASES[basis])
    return calibrated(task.model, task.other(ablation), task.clean, task.metric, task.known)


def calibration_of_task(task: Task, ablation: str) -> list[Pair]:
    """Every method, and ACDC, on one hidden circuit."""
    other = Zero() if ablation == "zero" else task.corrupted
    return calibrated(task.model, other, task.clean, task.pairs.metric, task.edges)


def calibrated(
    model: HookedTransformer, other: Source, clean: Tensor, metric: Metric, known: Subgraph | MultiDiGraph
) -> list[Pair]:
    """AUROC and hit of every method on one model, and precision and recall of ACDC."""
    scores = [edge_scores(model, other, clean, metric, method, probe=0, progress=False) for method in METHODS]
    exact = scores[METHODS.index("exact")]
    found = acdc(model, other, clean, KLDivergence(pos=None), threshold=THRESHOLD, progress=False)
    return [*((auroc(one, known), hit(one, exact, known)) for one in scores), precision_recall(found, known)]


def calibration(names: Sequence[str], bases: Sequence[str], ablations: Sequence[str]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    console, names = Console(width=150), with_tasks(names)
    table = Table("circuit", *METHODS, "acdc", title="Scores beside known edges", caption=ABOUT)
    summary = Table("mean over circuits", *METHODS, "acdc", title=f"Means over {len(names)} circuits", caption=ABOUT)
    for basis in bases:
        for ablation in ablations:
            found = {name: calibration_of(name, basis, ablation) for name in names}
            what = f"{ablation}, {basis} basis"
            table.add_section()
            table.add_row(f"[bold]{what}")
            for name, one in found.items():
                add_pairs(table, [name], one)
            add_pairs(table, ["[bold]mean"], means(found.values()))
            add_pairs(summary, [what], means(found.values()), digits=3)
    console.print(table)
    console.print(summary)


def with_tasks(names: Sequence[str]) -> list[str]:
    """The circuits that have pairs of prompts, and edges beside the known ones. Why others are left out is printed."""
    found = []
    for name in names:
        try:
            task = gallery_task(name)
        except ConfigError as error:
            print(f"left out: {error}")
        else:
            if task.known.number_of_edges() < EdgeGraph.of(task.model).n_edges:
                found.append(name)
            else:
                print(f"left out: circuit {name!r}: every edge is known")
    return found


def hidden(names: Sequence[str], sizes: Sequence[str], softness: Sequence[str], ablations: Sequence[str]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    title = f"Scores beside the true edges of hidden circuits: means over {', '.join(names)}"
    table = Table("hidden in", "edges", *METHODS, "acdc", title=title, caption=ABOUT)
    found: dict[tuple[str, str], dict[str, list[list[Pair]]]] = {}
    n_edges: dict[tuple[str, str], list[int]] = {}
    for which in itertools.product(sizes, softness):
        tasks = [make_task(name, *which) for name in names]
        found[which] = {ablation: [calibration_of_task(task, ablation) for task in tasks] for ablation in ablations}
        n_edges[which] = sorted(task.edges.graph.n_edges for task in tasks)
    for ablation in ablations:
        table.add_section()
        table.add_row(f"[bold]{ablation}")
        for which, of_ablation in found.items():
            few, many = n_edges[which][0], n_edges[which][-1]
            add_pairs(table, [", ".join(which), f"{few:,} to {many:,}"], means(of_ablation[ablation]))
    Console(width=150).print(table)


def means(found: Iterable[list[Pair]]) -> list[Pair]:
    """The mean of each column of the table."""
    columns = zip(*found, strict=True)
    return [
        (statistics.fmean(one for one, _ in pairs), statistics.fmean(other for _, other in pairs)) for pairs in columns
    ]


def add_pairs(table: Table, first: Sequence[str], pairs: Iterable[Pair], digits: int = 2) -> None:
    def written(value: float) -> str:
        return f"{value:.{digits}f}".replace("0.", ".", 1) if value < 1 else f"{value:.0f}"

    table.add_row(*first, *(f"{written(one)} / {written(other)}" for one, other in pairs))


# ---------------------------------------------------------------------- times on a real model

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"
ESTIMATES: dict[MethodName, float | None] = {
    "eap": 3, "eap_ig": 12, "local": 40, "gim": None, "qk": None, "local_ig": None, "combined": None,
}  # fmt: skip
"""What an estimate may take, in plain runs."""


def row(work: str, found: float, target: float | None, unit: str = "plain runs") -> None:
    print(f"{work:58} {found:7.2f} {unit}" + ("" if target is None else f" (target {target:g})"), flush=True)


def smollm2(rounds: int, every: int) -> None:
    """Print the rows."""
    model = HookedTransformer.from_pretrained("smollm2-135m-instruct")
    metric, clean, corrupted = LogitDifference(" Mary", " John"), model.to_tokens(CLEAN), model.to_tokens(CORRUPTED)
    runs = EdgeRuns.of(model, corrupted, clean, metric, Settings(progress=False))
    shape = runs.graph.edge_mask().shape

    def plain() -> None:
        with torch.no_grad():
            model(clean)

    print(f"{clean.shape[1]} tokens that share {runs.starts[0]}, {torch.get_num_threads()} threads")
    for n, target in ((1, 0.8), (4, 4.0), (8, 8.0)):
        masks = torch.rand(n, *shape, generator=torch.Generator().manual_seed(n))
        found = ratio_of_minima(lambda masks=masks: runs.metrics(masks), plain, rounds)
        row(f"masked runs, {n} at once", found, target)
    for method, target in ESTIMATES.items():
        found = ratio_of_minima(
            lambda method=method: edge_scores(model, corrupted, clean, metric, method, probe=0, progress=False),
            plain,
            rounds if target else 2,
        )
        row(f"edge_scores, {method}", found, target)
    one_run = min(seconds(plain) for _ in range(2 * rounds))
    exactly = partial(edge_scores, model, corrupted, clean, metric, "exact", progress=False)
    exact_effects(runs, exactly, one_run, every)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def exact_effects(runs: EdgeRuns, exactly: Callable[..., xarray.DataArray], one_run: float, every: int) -> None:
    """Print the rows of exact effects, of one in `every` readers, and hold a sample to single masked runs."""
    readers = [str(reader) for reader in runs.graph.readers[every // 2 :: every]]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    exact = exactly(readers=readers)
    taken, n = time.perf_counter() - start, int(exact.count())
    row(
        f"exact effects, {n:,} of {runs.graph.n_edges:,}: an edge's time into a run's", one_run * n / taken, 40, "times"
    )
    estimated = taken / n * runs.graph.n_edges
    print(f"  all edges: about {estimated:.0f} s; one run an edge: {one_run * runs.graph.n_edges:.0f} s")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"  memory: {used / 1e6:.2f} GB at most, of which {(used - before) / 1e6:.2f} GB more than before")
    numbers, edges = runs.graph.numbers, runs.graph.edges()
    sampled = [edge for edge in edges[:: 16 * every] if str(edge.reader) in readers]
    sampled += [edge for edge in edges if str(edge.reader) in readers][:: max(1, n // 64)]
    masks = torch.zeros(len(sampled), *runs.graph.edge_mask().shape)
    for mask, edge in zip(masks, sampled, strict=True):
        mask[numbers[edge.reader], numbers[edge.writer]] = 1
    single = runs.metrics(masks)[0, :, 0] - runs.measured.baseline[0]
    found = torch.tensor([float(exact.sel(reader=str(e.reader), writer=str(e.writer))) for e in sampled])
    largest = float((found - single).abs().max())
    print(f"  largest difference from a masked run, {len(sampled)} edges: {largest:.1e} logits")
    assert largest < 1e-4


def whole_acdc(threshold: float) -> None:
    """ACDC on SmolLM2, to its end."""
    model = HookedTransformer.from_pretrained("smollm2-135m-instruct")
    start = time.perf_counter()
    found = acdc(model, CORRUPTED, CLEAN, threshold=threshold)
    print(f"{found!r}\n{found.found_by}\n{time.perf_counter() - start:.0f} s, {len(found)} edges, "
          f"{len(found.pruned())} on paths from the embeddings to the logits")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part")
    asked = parts.add_parser("calibration", help="every method on every circuit of the gallery")
    fast = [name for name, one in entries().items() if not one.slow]
    asked.add_argument("--circuits", nargs="+", choices=fast, default=fast)
    asked.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    asked.add_argument("--ablations", nargs="+", choices=ABLATIONS, default=ABLATIONS)
    larger = parts.add_parser("hidden", help="every method on circuits hidden in larger models")
    larger.add_argument("--circuits", nargs="+", choices=fast, default=CIRCUITS)
    larger.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    larger.add_argument("--softness", nargs="+", choices=SOFTNESS, default=list(SOFTNESS))
    larger.add_argument("--ablations", nargs="+", choices=OF_PAIRS, default=OF_PAIRS)
    times = parts.add_parser("smollm2", help="times on SmolLM2")
    search = parts.add_parser("acdc", help="ACDC on SmolLM2, to its end")
    search.add_argument("--threshold", type=float, default=0.1)
    for part in (times, search):
        part.add_argument("--threads", type=int, default=2)
    times.add_argument("--rounds", type=int, default=10)
    times.add_argument("--every", type=int, default=20, help="of so many readers one has its edges patched exactly")
    given = parser.parse_args()
    if given.part in (None, "calibration"):
        torch.set_num_threads(1)
        calibration(getattr(given, "circuits", fast), getattr(given, "bases", list(BASES)),
                    getattr(given, "ablations", ABLATIONS))  # fmt: skip
    if given.part in (None, "hidden"):
        torch.set_num_threads(1)
        hidden(getattr(given, "circuits", CIRCUITS), getattr(given, "sizes", list(SIZES)),
               getattr(given, "softness", list(SOFTNESS)), getattr(given, "ablations", OF_PAIRS))  # fmt: skip
    torch.set_num_threads(getattr(given, "threads", 2))
    if given.part in (None, "smollm2"):
        smollm2(getattr(given, "rounds", 10), getattr(given, "every", 20))
    if given.part == "acdc":
        whole_acdc(given.threshold)


if __name__ == "__main__":
    main()
