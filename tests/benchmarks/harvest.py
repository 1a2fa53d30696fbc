"""Harvesting SmolLM2-135M-Instruct, and reading the store: beside the forward passes that must happen, within one run.

Run: python tests/benchmarks/harvest.py [--tokens 100000] [--layer 14] [--parts speed memory batches]

- speed: a harvest of one site, from texts to the store, beside forward passes of the layers that it needs on the same
  batches, in turn: after each unit is harvested the same rows run bare. (On a machine that others use, take turns.)
- memory: the largest memory of the process that drives, for a corpus and one ten times as large.
- batches: 2,048 shuffled rows of a store of 500 MB, once it has been read.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch

from interp import HookedTransformer
from interp.data import Texts
from interp.harvest import Store, harvest
from interp.harvest.harvesting import HarvestWork

NAME = "smollm2-135m-instruct"
WORDS = "the of and model attention layer stream writes reads token it is a because between under every".split()  # noqa: SIM905


def texts(n_tokens: int) -> Iterator[str]:
    """Texts of some hundred words, of about so many tokens together."""
    draw = random.Random(0)
    for _ in range(n_tokens // 200):
        yield " ".join(draw.choices(WORDS, k=200))


def ids(n_tokens: int) -> Iterator[list[int]]:
    """The same without a tokenizer."""
    draw = random.Random(0)
    for _ in range(n_tokens // 200):
        yield [draw.randrange(1000, 40_000) for _ in range(200)]


def speed(n_tokens: int, layer: int) -> None:
    model, bare = HookedTransformer.from_pretrained(NAME), 0.0
    compute = HarvestWork.compute

    def both(self: HarvestWork, unit: int) -> Any:
        nonlocal bare
        made = compute(self, unit)
        start = time.perf_counter()
        with torch.no_grad():
            for prompts, _ in self.tokens.unit(unit).batches(self.batch, model.W_E.device):
                model(prompts, None, stop_at_layer=layer + 1)
        bare += time.perf_counter() - start
        return made

    HarvestWork.compute = both
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        store = harvest(model, Texts(texts(n_tokens)), ("resid_post", layer), folder=folder)
        harvested = time.perf_counter() - start - bare
        print(f"{len(store):,} tokens, resid_post of layer {layer}: {harvested:.1f} s, forward passes {bare:.1f} s: "
              f"{harvested / bare:.3f} x   (target 1.1)", flush=True)  # fmt: skip
    HarvestWork.compute = compute


def peak(n_tokens: int) -> None:
    model = HookedTransformer.from_pretrained(NAME)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        harvest(model, Texts(ids(n_tokens)), "hook_embed", folder=folder, progress=False)
    print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def memory(n_tokens: int) -> None:
    for n in (n_tokens, 10 * n_tokens):
        command = [sys.executable, __file__, "--peak", str(n)]
        before, after = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
        print(f"{n:,} tokens: peak memory {after / 1e3:.0f} MB, with the model alone {before / 1e3:.0f} MB", flush=True)


def batches() -> None:
    model = HookedTransformer.from_pretrained(NAME)
    n_tokens = 500_000_000 // (2 * model.cfg.d_model)
    with tempfile.TemporaryDirectory() as folder:
        store = harvest(model, Texts(ids(n_tokens)), "hook_embed", folder=folder, progress=False)
        store["hook_embed"].mean()
        for shards in (8, 32):
            times = []
            start = time.perf_counter()
            for batch in Store.open(folder).batches(2048, seed=0, shards=shards):
                times.append(1000 * (time.perf_counter() - start))
                assert batch["hook_embed"].shape == (2048, 576) or len(times) == n_tokens // 2048 + 1
                start = time.perf_counter()
            size = len(store) * 2 * model.cfg.d_model / 1e6
            ordered = sorted(times)
            print(f"2,048 shuffled rows of {size:.0f} MB, {shards} of {len(store.units)} units at a time: median "
                  f"{statistics.median(times):.1f} ms, 95 % within {ordered[int(0.95 * len(ordered))]:.1f} ms, mean "
                  f"{statistics.mean(times):.1f} ms   (target 30 ms)", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--layer", type=int, default=14)
    parser.add_argument("--parts", nargs="*", default=["speed", "memory", "batches"])
    parser.add_argument("--peak", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak is not None:
        peak(options.peak)
        return
    if "batches" in options.parts:
        batches()
    if "memory" in options.parts:
        memory(options.tokens)
    if "speed" in options.parts:
        speed(options.tokens, options.layer)


if __name__ == "__main__":
    main()
