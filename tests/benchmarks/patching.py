"""Patching SmolLM2-135M-Instruct (float32) beside what one would use instead, as ratios within one run.

Run: python -m pip install -e '.[bench]' && interp fetch smollm2 && python tests/benchmarks/patching.py

All sides hold the same weights (transformers' own reading of the GGUF file), and every sweep is compared cell by cell
before its time counts. `--parts` chooses among sweeps, nnsight and long (prompts of 64 tokens).

- TransformerLens: `get_act_patch_resid_pre`, `get_act_patch_attn_head_out_all_pos` on its bridge, in eager mode.
- nnsight: a loop over traces that sets one position of one layer's input.
- The floor: the multiplications that must happen, at the rate of a 2048^3 matrix product in the same run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import nnsight  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
import transformer_lens.patching as lens_patching  # pyright: ignore[reportMissingImports]
import transformers
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge  # pyright: ignore[reportMissingImports]

from interp import HookedTransformer
from interp.checkpoints.fetch import local_path
from interp.metrics.kinds import LogitDifference
from interp.patching.sweeps import sweep

NAME = "smollm2-135m-instruct"
CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"
DIFFERENT = "After Anna plus Peter drove from a market; Peter sent the book for"
MIDDLE = (
    " Then they all went home, and on the way they talked about the weather, the garden, and what to cook for the "
    "evening; nobody was in a hurry, since the next day was a holiday. Later in the night, after a long walk,"
)


def seconds(run: Callable[[], Any], rounds: int = 1) -> tuple[float, Any]:
    """Median time of some rounds, and the last result."""
    times = []
    result = None
    for _ in range(rounds):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def product_rate() -> float:
    """Multiply-adds a second of a 2048^3 product."""
    a = torch.randn(2048, 2048)
    return 2048**3 / seconds(lambda: a @ a, 7)[0]


def row(what: str, ours: float, theirs: float, peer: str, target: str = "") -> None:
    print(f"{what:62} {ours:8.2f} s {theirs:8.2f} s {theirs / ours:7.1f} x {peer}   {target}", flush=True)


class Sides:
    """The same weights three times."""

    def __init__(self) -> None:
        path = local_path(NAME)
        if path is None or not path.exists():
            raise SystemExit("first: interp fetch smollm2")
        eager: Any = {"attn_implementation": "eager", "dtype": torch.float32}
        files: Any = {"gguf_file": path.name}
        self.hf: Any = transformers.AutoModelForCausalLM.from_pretrained(path.parent, **files, **eager).eval()
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(path.parent, **files)
        self.ours = HookedTransformer.from_pretrained(NAME)
        self.lens: Any = TransformerBridge.boot_transformers(
            "HuggingFaceTB/SmolLM2-135M-Instruct", hf_model=self.hf, tokenizer=tokenizer, device="cpu"
        )
        self.nnsight: Any = nnsight.NNsight(
            transformers.AutoModelForCausalLM.from_pretrained(path.parent, **files, **eager).eval()
        )
        answers = [self.ours.to_single_token(" Mary"), self.ours.to_single_token(" John")]
        self.metric = LogitDifference(*answers)
        self.difference = lambda logits: logits[0, -1, answers[0]] - logits[0, -1, answers[1]]

    def ids(self, text: str) -> Tensor:
        """Tokens, the same for all sides."""
        return self.ours.to_tokens(text)

    def check(self, name: str, ours: Any, theirs: Tensor | np.ndarray) -> None:
        """Every cell equal to 1e-3 in logits."""
        worst = float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())
        print(f"  {name}: largest difference of {ours.size} cells {worst:.1e}")
        if not worst < 1e-3:
            raise AssertionError(f"{name} gives other numbers")


def work(sides: Sides, clean: Tensor, corrupted: Tensor) -> float:
    """Multiply-adds that a resid_pre sweep cannot do without: positions from the patch on, in every later layer.

    In the last layer the logit difference at the end needs keys and values everywhere, the rest at one position.
    """
    cfg, n = sides.ours.cfg, clean.shape[1]
    per_position = cfg.d_model * cfg.d_head * 2 * (cfg.n_heads + cfg.n_key_value_heads) + 3 * cfg.d_model * cfg.d_mlp
    with torch.no_grad():
        caches = [sides.ours.run_with_cache(ids, names_filter="*resid_pre")[1] for ids in (clean, corrupted)]
    total = 0
    for layer in range(cfg.n_layers):
        changed = (caches[0]["resid_pre", layer] != caches[1]["resid_pre", layer]).any(-1)[0]
        for start in changed.nonzero()[:, 0].tolist():
            scores = [2 * cfg.n_heads * cfg.d_head * (query + 1) for query in range(start, n)]
            total += (cfg.n_layers - 1 - layer) * ((n - start) * per_position + sum(scores))
            total += (n - start - 1) * 2 * cfg.d_model * cfg.d_head * cfg.n_key_value_heads + per_position + scores[-1]
    return total


def resid_sweep(sides: Sides, what: str, clean: Tensor, corrupted: Tensor, target: str) -> None:
    """All layers and positions."""
    ours, cache = sides.ours, sides.ours.run_with_cache(clean)[1]
    run = lambda: sweep(ours, corrupted, cache, sides.metric, progress=False)  # noqa: E731
    run()
    before, result = seconds(run, 3)
    _, lens_cache = sides.lens.run_with_cache(clean)
    theirs, expected = seconds(
        lambda: lens_patching.get_act_patch_resid_pre(sides.lens, corrupted, lens_cache, sides.difference)
    )
    rate, floor = product_rate(), work(sides, clean, corrupted)
    after, _ = seconds(run, 3)
    own = statistics.median([before, after])
    sides.check(what, result.values, expected.detach().numpy())
    row(what, own, theirs, "TransformerLens", target)
    print(f"  over the floor of {floor / rate:.2f} s: {own / (floor / rate):.2f}")


def beside_nnsight(sides: Sides, what: str, clean: Tensor, corrupted: Tensor) -> None:
    """The same sweep as a loop of traces."""
    ours, cache = sides.ours, sides.ours.run_with_cache(clean)[1]
    run = lambda: sweep(ours, corrupted, cache, sides.metric, progress=False)  # noqa: E731
    run()
    own, result = seconds(run, 3)
    theirs, expected = seconds(lambda: nnsight_sweep(sides, clean, corrupted))
    sides.check(f"{what}, nnsight", result.values, expected)
    row(what, own, theirs, "nnsight")


def nnsight_sweep(sides: Sides, clean: Tensor, corrupted: Tensor) -> np.ndarray:
    """One trace a cell."""
    layers, n = sides.nnsight.model.layers, clean.shape[1]
    with torch.no_grad(), sides.nnsight.trace(clean):
        held = nnsight.save([layer.input for layer in layers])
    found = np.zeros((len(held), n))
    for i in range(len(held)):
        for pos in range(n):
            with torch.no_grad(), sides.nnsight.trace(corrupted):
                layers[i].input[:, pos] = held[i][:, pos]
                logits = nnsight.save(sides.nnsight.lm_head.output[:, -1:])
            found[i, pos] = float(sides.difference(logits))
    return found


def head_sweep(sides: Sides, what: str, clean: Tensor, corrupted: Tensor, target: str) -> None:
    """All heads' z, at all positions together."""
    ours, cache = sides.ours, sides.ours.run_with_cache(clean)[1]
    run = lambda: sweep(ours, corrupted, cache, sides.metric, "z", ("layer", "head"), progress=False)  # noqa: E731
    run()
    before, result = seconds(run, 3)
    _, lens_cache = sides.lens.run_with_cache(clean)
    theirs, expected = seconds(
        lambda: lens_patching.get_act_patch_attn_head_out_all_pos(sides.lens, corrupted, lens_cache, sides.difference)
    )
    after, _ = seconds(run, 3)
    sides.check(what, result.values, expected.detach().numpy())
    row(what, statistics.median([before, after]), theirs, "TransformerLens", target)


def long_prompts(sides: Sides, length: int, shared: bool) -> None:
    """Sweeps on longer prompts; TransformerLens on 30 of the cells, which all cost it the same, scaled up."""
    first, second = (f"When Mary and John went to the store, {name} stopped.{MIDDLE}" for name in ("John", "Mary"))
    ends = [sides.ids(text)[:, : length - 5] for text in (first, second)]
    tail = sides.ids(" John gave a drink to")
    clean, corrupted = (torch.cat([end, tail], dim=1) for end in ends)
    if not shared:
        corrupted = corrupted.clone()
        corrupted[0, 0] = sides.ids("After")[0, 0]
    if clean.shape[1] != length:
        raise AssertionError(f"the prompt has {clean.shape[1]} tokens")
    cache, lens_cache = sides.ours.run_with_cache(clean)[1], sides.lens.run_with_cache(clean)[1]
    with torch.no_grad():
        one, _ = seconds(lambda: sides.lens(corrupted), 2)
        patched, _ = seconds(
            lambda: [
                sides.lens.run_with_hooks(
                    corrupted,
                    fwd_hooks=[(f"blocks.{i}.hook_resid_pre", lambda x, hook: _set(x, lens_cache[hook.name], 9))],
                )
                for i in range(30)
            ]
        )
    kind = "same up to position 9" if shared else "different from the first token on"
    sites: list[Any] = [("resid_pre", ("layer", "pos"), 30 * length), ("z", ("layer", "head"), 270)]
    for site, over, cells in sites:
        run = lambda: sweep(sides.ours, corrupted, cache, sides.metric, site, over, progress=False)  # noqa: B023, E731
        own, _ = seconds(run, 1)
        what = f"{site}, {length} tokens, {kind}"
        row(what, own, patched / 30 * cells, "TransformerLens", f"({cells} cells there from 30; one run {one:.2f} s)")


def _set(x: Tensor, clean: Tensor, pos: int) -> Tensor:
    x[:, pos] = clean[:, pos]
    return x


def main() -> None:
    parser = argparse.ArgumentParser()
    parts = ["sweeps", "nnsight", "long"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    wanted = parser.parse_args().parts
    sides = Sides()
    clean, corrupted, different = (sides.ids(text) for text in (CLEAN, CORRUPTED, DIFFERENT))
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, product {product_rate() / 1e9:.0f} GMAC/s")
    first = "resid_pre, 30 layers x 14 positions"
    with torch.no_grad():
        if "sweeps" in wanted:
            resid_sweep(sides, first, clean, corrupted, "target 60")
            resid_sweep(sides, "the same, different from the first token on", clean, different, "target 15")
            head_sweep(sides, "z, 30 layers x 9 heads, all positions", clean, corrupted, "target 25")
        if "nnsight" in wanted:
            beside_nnsight(sides, first, clean, corrupted)
        if "long" in wanted:
            for shared in (True, False):
                long_prompts(sides, 64, shared)


if __name__ == "__main__":
    main()
