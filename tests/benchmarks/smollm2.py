"""SmolLM2-135M-Instruct (float32) beside transformers, as ratios within one run.

Run: interp fetch smollm2 && python tests/benchmarks/smollm2.py

Both load the same GGUF file. Results are compared before anything is timed. Every ratio is that of the shortest times
of many runs taken in turn, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import transformers
from core import ratio_of_minima
from torch import Tensor

from interp import ActivationCache, HookedTransformer
from interp.checkpoints.fetch import local_path

NAME = "smollm2-135m-instruct"
SIZES = {(4, 100): 30, (1, 14): 150, (1, 512): 30}
"""Sequences and positions of a run, and how often it is timed."""


def bytes_held(cache: ActivationCache) -> int:
    """Bytes of all activations, memory that several share counted once."""
    storages = [value.untyped_storage() for value in cache.values()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def compare(what: str, ours: Tensor, theirs: Tensor) -> None:
    """Print how far the logits are apart; an error if that is more than rounding."""
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    print(f"{what}: largest difference of the logits / largest logit: {difference:.1e}", flush=True)
    assert difference < 1e-4


def with_attention(model: HookedTransformer, attention: Any) -> HookedTransformer:
    """The same weights with another `attn_implementation`."""
    twin = HookedTransformer(dataclasses.replace(model.cfg, attn_implementation=attention), init_weights=False)
    twin.load_state_dict(model.state_dict())
    return twin


class Benchmark:
    """Both models, and the rows of the table; `speed` multiplies the numbers of rounds."""

    def __init__(self, speed: float) -> None:
        path = local_path(NAME)
        if path is None:
            raise SystemExit(f"{NAME} is not known")
        self.folder, self.file, self.speed = path.parent, path.name, speed
        self.ours = HookedTransformer.from_pretrained(NAME)
        generator = torch.Generator().manual_seed(0)
        self.inputs = {size: torch.randint(100, self.ours.cfg.d_vocab, size, generator=generator) for size in SIZES}

    def theirs(self, attention: str) -> Any:
        """The model in transformers."""
        return transformers.AutoModelForCausalLM.from_pretrained(
            self.folder, gguf_file=self.file, attn_implementation=attention, dtype=torch.float32
        ).eval()

    def row(self, name: str, first: Callable[[], object], second: Callable[[], object], rounds: int) -> None:
        """Print a ratio."""
        print(f"{name}: {ratio_of_minima(first, second, max(3, int(rounds * self.speed))):.3f}", flush=True)

    def forward(self, attention: str) -> None:
        """Forward passes of every size."""
        theirs = self.theirs(attention)
        ours = self.ours if attention == "eager" else with_attention(self.ours, attention)
        for size, rounds in SIZES.items():
            tokens = self.inputs[size]
            compare(f"{attention}, {size}", ours(tokens), theirs(tokens).logits)
            row = f"forward, {size[0]} x {size[1]} tokens / transformers {attention}"
            self.row(row, lambda: ours(tokens), lambda: theirs(tokens), rounds)  # noqa: B023

    def caching(self) -> None:
        """Cached runs beside runs of the same model."""
        ours = self.ours
        for size in ((4, 100), (1, 14)):
            tokens, rounds = self.inputs[size], SIZES[size]
            logits, cache = ours.run_with_cache(tokens)
            assert torch.equal(logits, ours(tokens))
            row = f"run_with_cache, everything, {size[0]} x {size[1]} tokens / own forward"
            self.row(row, lambda: ours.run_with_cache(tokens), lambda: ours(tokens), rounds)  # noqa: B023
            print(f"    the cache holds {bytes_held(cache) / 1e6:.0f} MB")
            del cache
        tokens = self.inputs[4, 100]
        row = "run_with_cache, patterns, 4 x 100 tokens / own forward"
        self.row(row, lambda: ours.run_with_cache(tokens, names_filter="*hook_pattern"), lambda: ours(tokens), 15)

    def generate(self) -> None:
        """Greedy generation of 64 tokens."""
        ours, theirs = self.ours, self.theirs("eager")
        prompt = ours.to_tokens("Once upon a time there was a little dragon who")
        options: Any = {"max_new_tokens": 64, "min_new_tokens": 64, "do_sample": False, "pad_token_id": 2}

        def here() -> Tensor:
            return ours.generate(prompt, 64, progress=False).tokens

        def there() -> Tensor:
            return theirs.generate(prompt, **options)

        assert torch.equal(here(), there())
        self.row("generate 64 tokens, greedy / transformers' generate", here, there, 12)


def main() -> None:
    """Print the rows that are asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*", default=["eager", "sdpa", "caching", "generate"])
    parser.add_argument("--speed", type=float, default=1.0, help="multiplies the numbers of rounds")
    asked = parser.parse_args()
    with torch.no_grad():
        benchmark = Benchmark(asked.speed)
        for row in asked.rows:
            if row in ("eager", "sdpa"):
                benchmark.forward(row)
            else:
                getattr(benchmark, row)()


if __name__ == "__main__":
    main()
