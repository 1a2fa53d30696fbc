"""Circuit discovery, measured.

Run: python tests/benchmarks/discovery.py calibration

`calibration` asks every method on every circuit of the gallery (without the slow one), in the basis in which it was
declared and in a random one, with zero, mean and resample ablation. Beside each method stand its AUROC against the
circuit's edges, in which scores that differ by rounding alone are ties, and its hits, the share of known edges with an
effect whose score is over 10 % of it (`interp.discovery.auroc`, `hit`); beside ACDC precision and recall.

Every circuit is asked with 8 pairs of prompts drawn at random from its own inputs: the corrupted prompt has as many
words as the clean one, so that it differs in the words and never in the positions. The mean is over 64 other inputs, at
each position. Scores are of the answers' logit minus the mean logit, averaged over the positions with an answer
(`gallery_tasks.AnswerLogit`); ACDC takes the KL divergence at all positions, and a threshold of .001 nats.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from gallery_tasks import ABLATIONS, METHODS, gallery_task

from circuits.gallery import entries
from interp.discovery import MethodName, acdc, auroc, edge_scores, hit, precision_recall
from interp.metrics import KLDivergence

if TYPE_CHECKING:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    asked = parts.add_parser("calibration", help="every method on every circuit of the gallery")
    fast = [name for name, one in entries().items() if not one.slow]
    asked.add_argument("--circuits", nargs="+", choices=fast, default=fast)
    asked.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    asked.add_argument("--ablations", nargs="+", choices=ABLATIONS, default=ABLATIONS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.part == "calibration":
        calibration(given.circuits, given.bases, given.ablations)


if __name__ == "__main__":
    main()
