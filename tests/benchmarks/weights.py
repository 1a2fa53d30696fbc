"""The algebra of weights on SmolLM2-135M-Instruct (30 layers of 9 heads, 49,152 tokens, float32).

Run: interp fetch smollm2 && python tests/benchmarks/weights.py [composition | largest]

Each part runs in a process of its own: composition of all 270 x 270 pairs of heads, compared with dense products; and
the ten largest entries of one head's 49,152 x 49,152 OV circuit, over the time that its matrix product alone takes.
Peak memory is the most that the process held above what it held with the model loaded.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from interp import FactoredMatrix, HookedTransformer
from interp.budget import BLOCK_BYTES
from interp.weights import composition_scores, ov_circuit, top_entries

NAME = "smollm2-135m-instruct"
ROUNDS = 3


def peak() -> float:
    """The most memory that this process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def held() -> float:
    """What it holds now (without /proc: the most so far, which makes less of what comes)."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * resource.getpagesize() / 1e9 if pages.exists() else peak()


def seconds(run: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def composition(model: HookedTransformer) -> None:
    """All pairs, Q, K and V, raw."""
    before = held()
    times = [seconds(lambda: composition_scores(model, progress=False)) for _ in range(ROUNDS)]
    memory, median = peak() - before, statistics.median(times)
    print(f"composition of all pairs: {median:.1f} s (of {ROUNDS} runs {min(times):.1f} to {max(times):.1f})")
    print(f"composition: peak memory above the model {memory:.2f} GB")
    scores, OV, QK = composition_scores(model, progress=False), model.OV, model.QK
    worst = 0.0
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        l1, l2 = sorted(torch.randperm(30, generator=generator)[:2].tolist())
        h1, h2 = torch.randint(9, (2,), generator=generator).tolist()
        A = OV[l1, h1].dense().double()
        for kind, circuit in (("Q", QK[l2, h2]), ("K", QK[l2, h2].T), ("V", OV[l2, h2])):
            B = circuit.dense().double()
            got = float(scores.sel(kind=kind, writer_layer=l1, writer_head=h1, reader_layer=l2, reader_head=h2))
            worst = max(worst, abs(got - float((A @ B).norm() / (A.norm() * B.norm()))))
    print(f"composition: largest difference to dense products on 60 sampled pairs {worst:.1e}")


def multiply(matrix: FactoredMatrix) -> None:
    """Every entry of the matrix, a block of rows at a time, none of them kept."""
    rows, columns = matrix.shape
    block = BLOCK_BYTES // (4 * columns)
    entries = torch.empty(block, columns)
    for start in range(0, rows, block):
        torch.mm(matrix.A[start : start + block], matrix.B, out=entries[: rows - start])


def largest(model: HookedTransformer) -> None:
    """Top-10 of the OV circuit of L5H1."""
    before = held()
    circuit = ov_circuit(model, 5, 1)
    top = top_entries(circuit, 10, progress=False)
    memory = peak() - before
    ratios = []
    for _ in range(ROUNDS):
        alone = seconds(lambda: multiply(circuit))
        ratios.append(seconds(lambda: top_entries(circuit, 10, progress=False)) / alone)
    print(f"largest entries / matrix product alone: {statistics.median(ratios):.2f}")
    print(
        f"largest entries: peak memory above the model {memory:.2f} GB; the matrix would take {49_152**2 * 4e-9:.1f} GB"
    )
    found = ", ".join(f"{read!r} -> {write!r} {value:.2f}" for read, write, value in top.named(model)[:3])
    print(f"largest entries: {found}")


if __name__ == "__main__":
    parts = {"composition": composition, "largest": largest}
    if len(sys.argv) > 1:
        with torch.no_grad():
            parts[sys.argv[1]](HookedTransformer.from_pretrained(NAME))
    else:
        for part in parts:
            subprocess.run([sys.executable, __file__, part], check=True)
