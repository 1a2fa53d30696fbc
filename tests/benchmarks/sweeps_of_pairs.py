"""A sweep over a data set of SmolLM2-135M-Instruct (float32): two processes beside one, and a loop of TransformerLens.

Run: python -m pip install -e '.[gguf]' && interp fetch smollm2 && python tests/benchmarks/sweeps_of_pairs.py

- `workers` (the default): `sweep_dataset` of resid_pre, 30 layers x 14 positions, over 200 pairs of prompts, by one
  process of one thread and by two. Both start from nothing, so that loading the model counts; both give the same bits.
- `lens` (with '.[bench]'): the same sweep by `get_act_patch_resid_pre`, pair by pair, on a sample of the pairs, scaled
  to all of them, with one thread; compared cell by cell.

`--pairs` and `--sample` say how many.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import tempfile
import time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from interp.data import PromptPairs
from interp.jobs import ModelRef
from interp.patching import sweep_dataset

NAME, LENS_NAME = "smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"
NAMES = ("Mary", "John", "Anna", "Peter", "James", "Sarah", "David", "Emma", "Paul", "Lucy", "Mark", "Kate", "Tom",
         "Jane", "Alex")  # fmt: skip


def prompt(first: str, second: str, giver: str) -> str:
    return f"When {first} and {second} went to the store, {giver} gave a drink to"


def pairs_of(n: int) -> PromptPairs:
    """Indirect objects: n pairs of 14 tokens, which share the first nine."""
    names = list(itertools.permutations(NAMES, 2))[:n]
    clean, corrupted = ([prompt(a, b, giver) for (a, b), giver in zip(names, givers, strict=True)] for givers in
                        zip(*((b, a) for a, b in names), strict=True))  # fmt: skip
    return PromptPairs(clean, corrupted, [f" {a}" for a, _ in names], [f" {b}" for _, b in names])


def timed_sweep(pairs: PromptPairs, workers: int, snapshot: ModelRef) -> tuple[float, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        found = sweep_dataset(snapshot, pairs, folder=folder, unit=10, workers=workers, per_prompt=True, progress=False)
        return time.perf_counter() - start, found.to_numpy()


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


def by_workers(n: int) -> None:
    pairs = pairs_of(n)
    with tempfile.TemporaryDirectory() as folder:
        snapshot = ModelRef(NAME).snapshotted(folder)
        print(f"{n} pairs of {sorted(set(pairs.tokens(snapshot.load()).lengths))} tokens, resid_pre, layer x pos")
        times = {}
        for workers in (1, 2):
            times[workers], values = timed_sweep(pairs, workers, snapshot)
            print(
                f"{workers} worker(s) of one thread: {times[workers]:.1f} s, SHA-256 of {values.shape} {digest(values)}"
            )
        print(f"two are {times[1] / times[2]:.2f} x as fast as one")


def beside_lens(n: int, sample: int) -> None:
    import transformer_lens.patching as lens_patching  # pyright: ignore[reportMissingImports]
    import transformers
    from transformer_lens.model_bridge import TransformerBridge  # pyright: ignore[reportMissingImports]

    from interp import HookedTransformer
    from interp.checkpoints.fetch import local_path

    torch.set_num_threads(1)
    file = local_path(NAME)
    assert file is not None
    files: Any = {"gguf_file": file.name}
    hf = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, **files, attn_implementation="eager", dtype=torch.float32
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **files)
    model = HookedTransformer.from_pretrained(NAME)
    lens = TransformerBridge.boot_transformers(LENS_NAME, hf_model=hf, tokenizer=tokenizer, device="cpu")
    pairs = pairs_of(n)
    start = time.perf_counter()
    found = sweep_dataset(model, pairs, unit=10, per_prompt=True, progress=False).to_numpy()
    ours = time.perf_counter() - start
    tokens, theirs, largest = pairs.tokens(model), 0.0, 0.0
    for row in range(sample):
        corrupted, clean = (torch.tensor([ids[row]]) for ids in (tokens.corrupted, tokens.clean))
        correct, incorrect = tokens.correct[row], (tokens.incorrect or [])[row]
        start = time.perf_counter()
        with torch.no_grad():
            cache = lens.run_with_cache(clean)[1]
            patched = lens_patching.get_act_patch_resid_pre(
                lens, corrupted, cache, lambda logits, a=correct, b=incorrect: logits[0, -1, a] - logits[0, -1, b]
            )
        theirs += time.perf_counter() - start
        largest = max(largest, float(np.abs(patched.detach().numpy() - found[row]).max()))
    scaled = theirs / sample * n
    print(f"{n} pairs: {ours:.1f} s; TransformerLens on {sample} of them {theirs:.1f} s, scaled {scaled:.0f} s: "
          f"{scaled / ours:.0f} x; largest difference {largest:.1e}")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("workers", "lens"), default="workers")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--sample", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.part == "workers":
        by_workers(arguments.pairs)
    else:
        beside_lens(arguments.pairs, arguments.sample)
