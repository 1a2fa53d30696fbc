"""Circuit discovery, measured.

Run: python tests/benchmarks/discovery.py                 the calibration, then the times
     python tests/benchmarks/discovery.py calibration     scores beside known edges
     python tests/benchmarks/discovery.py smollm2         times on SmolLM2, as ratios to its own plain run
     python tests/benchmarks/discovery.py acdc            ACDC on SmolLM2, to its end

`calibration` asks every method on every circuit of the gallery (without the slow one), in the basis in which it was
declared and in a random one, with zero, mean and resample ablation. Beside each method stand its AUROC against the
circuit's edges, in which scores that differ by rounding alone are ties, and its hits, the share of known edges with an
effect whose score is over 10 % of it (`interp.discovery.auroc`, `hit`); beside ACDC precision and recall.

Every circuit is asked with 8 pairs of prompts drawn at random from its own inputs: the corrupted prompt has as many
words as the clean one, so that it differs in the words and never in the positions. The mean is over 64 other inputs, at
each position. Scores are of the answers' logit minus the mean logit, averaged over the positions with an answer
(`gallery_tasks.AnswerLogit`); ACDC takes the KL divergence at all positions, and a threshold of .001 nats.

`smollm2` takes one pair of 14 tokens that share 9, and says of every row how many plain runs of the clean prompt it
takes, both at their shortest and in turn. Exact effects are sampled (every so many readers) and scaled by their number;
a sample of these is held to single masked runs.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.core import ratio_of_minima
from gallery_tasks import ABLATIONS, METHODS, gallery_task

from circuits.gallery import entries
from interp import HookedTransformer
from interp.discovery import EdgeRuns, MethodName, acdc, auroc, edge_scores, hit, precision_recall
from interp.metrics import KLDivergence, LogitDifference
from interp.patching import Settings

if TYPE_CHECKING:
    import xarray
    from rich.table import Table

THRESHOLD = 1e-3
BASES: dict[str, int | None] = {"declared": None, "rotated": 0}
Pair = tuple[float, float]


@dataclass(frozen=True)
class Calibration:
    """What was found of one circuit.

    Attributes:
        of_methods: AUROC and hit of every method.
        of_acdc: precision and recall.
    """

    of_methods: dict[str, Pair]
    of_acdc: Pair


def calibration_of(name: str, basis: str, ablation: str, methods: Sequence[MethodName] = METHODS) -> Calibration:
    """Every method, and ACDC, on one circuit."""
    task = gallery_task(name, rotate=BASES[basis])
    other = task.other(ablation)
    asked: list[MethodName] = ["exact", *methods]
    scores = {
        method: edge_scores(task.model, other, task.clean, task.metric, method, probe=0, progress=False)
        for method in dict.fromkeys(asked)
    }
    exact = scores["exact"]
    of_methods = {
        method: (auroc(scores[method], task.known), hit(scores[method], exact, task.known)) for method in methods
    }
    divergence = KLDivergence(pos=None)
    found = acdc(task.model, other, task.clean, divergence, threshold=THRESHOLD, progress=False)
    return Calibration(of_methods, precision_recall(found, task.known))


def calibration(names: Sequence[str], bases: Sequence[str], ablations: Sequence[str]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=150)
    about = "8 pairs of prompts a circuit; methods: AUROC / hit; ACDC: precision / recall; see the script's docstring"
    table = Table("circuit", *METHODS, "acdc", title="Scores beside known edges", caption=about)
    summary = Table("mean over circuits", *METHODS, "acdc", title=f"Means over {len(names)} circuits", caption=about)
    for basis in bases:
        for ablation in ablations:
            found = {name: calibration_of(name, basis, ablation) for name in names}
            what = f"{ablation}, {basis} basis"
            table.add_section()
            table.add_row(f"[bold]{what}")
            for name, one in found.items():
                add_pairs(table, name, [*one.of_methods.values(), one.of_acdc])
            columns = zip(*([*one.of_methods.values(), one.of_acdc] for one in found.values()), strict=True)
            means = [mean_pair(column) for column in columns]
            add_pairs(table, "[bold]mean", means)
            add_pairs(summary, what, means, digits=3)
    console.print(table)
    console.print(summary)


def mean_pair(pairs: Iterable[Pair]) -> Pair:
    first, second = zip(*pairs, strict=True)
    return statistics.fmean(first), statistics.fmean(second)


def add_pairs(table: Table, name: str, pairs: Iterable[Pair], digits: int = 2) -> None:
    def written(value: float) -> str:
        return f"{value:.{digits}f}".replace("0.", ".", 1) if value < 1 else f"{value:.0f}"

    table.add_row(name, *(f"{written(first)} / {written(second)}" for first, second in pairs))


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
    torch.set_num_threads(getattr(given, "threads", 2))
    if given.part in (None, "smollm2"):
        smollm2(getattr(given, "rounds", 10), getattr(given, "every", 20))
    if given.part == "acdc":
        whole_acdc(given.threshold)


if __name__ == "__main__":
    main()
