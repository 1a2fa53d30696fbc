"""The compiler of circuits at scale: a vocabulary of a thousand words, and the verification of a large table.

Run: python tests/benchmarks/compiler.py [compile | verify]

`compile` writes the induction circuit for 1,000 words in a process of its own, for each policy of ties: seconds, and
the most memory that the process held above what it held with everything imported. `verify` takes a table of 3,600
entries (7,200 neurons), over all its 3,600 inputs: inputs a second, and how many plain runs of the model that takes,
both at their shortest and in turn.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.core import ratio_of_minima

from circuits import Circuit, copy, match, shift

WORDS, TABLE = 1000, 60


def peak() -> float:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def induction(ties: str, n_words: int = WORDS) -> Circuit:
    """The induction circuit over many words."""
    c = Circuit([f"w{i}" for i in range(n_words)], n_ctx=32, bos="w0")
    prev = c.space("prev", c.tok)
    c.head("previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
    c.head("induction", qk=match(c.tok, prev), ov=copy(c.tok, c.out), ties=ties)  # pyright: ignore[reportArgumentType]
    return c


def compile_one(ties: str) -> None:
    """Print the row of one policy of ties."""
    induction(ties, n_words=3).compile()  # imports what is needed only then
    before, start = peak(), time.perf_counter()
    model = induction(ties).compile()
    seconds, memory = time.perf_counter() - start, peak() - before
    print(f"compile, {WORDS:,} words, ties {ties!r}: {seconds:.2f} s (target 2), {memory:.0f} MB more (target 300), "
          f"width {model.cfg.d_model:,}, heads of {model.cfg.d_head:,}", flush=True)  # fmt: skip


def addition() -> Circuit:
    """Addition of two numbers below `TABLE`, modulo it, by a table."""
    words = [f"n{i}" for i in range(TABLE)]
    c = Circuit(["!", *words, "="], n_ctx=4, bos="!")
    a, b = c.space("a", words), c.space("b", words)
    for place, space in ((1, a), (2, b)):
        c.head(space.name, qk=match(c.pos, c.pos, {3: place}), ov=copy(c.tok, space, {word: word for word in words}))
    sums = {(words[i], words[j]): words[(i + j) % TABLE] for i in range(TABLE) for j in range(TABLE)}
    c.mlp("sum", (a, b), c.out, sums)
    return c


def verify(rounds: int = 4) -> None:
    """Print the row."""
    c = addition()
    model, texts = c.compile(), [f"! n{i} n{j} =" for i in range(TABLE) for j in range(TABLE)]
    tokens, taken = c.tokens(texts), []

    def checked() -> None:
        start = time.perf_counter()
        assert c.verify(texts, model=model, progress=False).ok
        taken.append(time.perf_counter() - start)

    with torch.no_grad():
        found = ratio_of_minima(checked, lambda: model(tokens), rounds)
    each = f"{len(texts) / min(taken):,.0f} inputs a second, {found:.2f} plain runs of the model"
    print(f"verify, {TABLE**2:,} entries in {model.cfg.d_mlp:,} neurons: {each}")


def main() -> None:
    torch.set_num_threads(1)
    part = sys.argv[1] if len(sys.argv) > 1 else None
    if part in ("mean", "latest"):
        compile_one(part)
        return
    for ties in ("mean", "latest") if part in (None, "compile") else ():
        subprocess.run([sys.executable, __file__, ties], check=True)
    if part in (None, "verify"):
        verify()


if __name__ == "__main__":
    main()
