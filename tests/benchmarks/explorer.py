"""What the attention explorer weighs and how long it takes. Run: python tests/benchmarks/explorer.py

For 12 x 12 heads x 128 tokens of random weights and, where the model is fetched, SmolLM2's 30 x 9 heads on 256, 408 and
1,000 tokens: seconds of the model's run, and of run and page together, in brackets those of the processor, which count
where the machine has other work; bytes of the page;
milliseconds from the start of navigation until all is drawn in chromium (the median of fresh pages);
requests beyond the page; the largest difference between what the page decodes and numpy, before and (for queries that
leave a tenth or more to the others) after the first token is dropped.
"""

from __future__ import annotations

import base64
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from playwright.sync_api import sync_playwright

from interp import CheckpointError, HookedTransformer, TransformerConfig
from interp.plot import AttentionExplorer, attention

ROUNDS = 5


def of_random_weights(n: int = 128) -> AttentionExplorer:
    """The size that the budget is stated for."""
    cfg = TransformerConfig(n_layers=12, n_heads=12, d_model=768, n_ctx=n, d_vocab=1_000, seed=0)
    model = HookedTransformer(cfg)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.mul_(4)  # attention as uneven as a trained model's
        _, cache = model.run_with_cache(torch.randint(1_000, (1, n)))
    scores = {name: torch.rand(12, 12) for name in ("previous", "induction", "duplicate", "first")}
    return attention(cache, [f" token{i}" for i in range(n)], scores, correct=1, incorrect=2)


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(started: tuple[float, float]) -> str:
    """Seconds that have passed, and those of the processor."""
    wall, processor = (now - then for now, then in zip(clocks(), started, strict=True))
    return f"{wall:.1f} s ({processor:.1f} s)"


def of_smollm2(n: int) -> AttentionExplorer:
    """A trained model and prose: this project's README."""
    model = HookedTransformer.from_pretrained("smollm2-135m-instruct")
    text = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
    ids = model.to_tokens(text)[:, :n]
    with torch.no_grad():
        model(ids[:, :2])  # which reads the weights
        started = clocks()
        _, cache = model.run_with_cache(ids)
    print(f"model run {since(started)}, ", end="", flush=True)
    explorer = attention(cache, ids)
    print(f"with its page {since(started)}, ", end="", flush=True)
    return explorer


def measure(browser: Any, explorer: AttentionExplorer, path: Path) -> None:
    """Print a line of numbers."""
    explorer.to_html(path)
    times, requests = [], []
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.on("request", lambda request: requests.append(request.url))
    for _ in range(ROUNDS):
        page.goto("about:blank")
        page.goto(path.as_uri())
        page.wait_for_selector("[data-ready]", timeout=60_000)
        times.append(int(page.get_attribute("[data-ready]", "data-ready")))
    errors = [largest_error(page, explorer, drop) for drop in (False, True)]
    page.close()
    outside = [url for url in requests if url not in ("about:blank", path.as_uri())]
    print(
        f"{path.stat().st_size / 1e6:.2f} MB, ready after {statistics.median(times):.0f} ms "
        f"({min(times)} to {max(times)}), {len(outside)} requests, largest error {errors[0]:.4f}, "
        f"with the first token dropped {errors[1]:.4f}, {len(explorer.pooled)} heads pooled"
    )


DRAWN = """([layer, head]) => {
    const { values } = document.querySelector("[data-ready]").explorer.matrix(layer, head);
    let text = "";
    for (const byte of new Uint8Array(values.buffer)) text += String.fromCharCode(byte);
    return btoa(text);
}"""


def largest_error(page: Any, explorer: AttentionExplorer, drop: bool) -> float:
    """Between the page and numpy, over all heads."""
    page.evaluate("drop => document.querySelector('[data-ready]').explorer.change({ drop, kind: 0 })", drop)
    run, worst = explorer.stacks["decoder"].runs[0], 0.0
    n = run.pattern.shape[-1]
    pooled = {(layer, head) for _, layer, head in explorer.pooled}
    for at, head in np.ndindex(*run.pattern.shape[:2]):
        if (run.layers[at], head) in pooled:
            continue
        drawn = np.frombuffer(base64.b64decode(page.evaluate(DRAWN, [run.layers[at], head])), "<f4").reshape(n, n)
        want = run.pattern[at, head].astype(np.float64)
        rows = np.ones(n, dtype=bool)
        if drop:
            want[:, run.ends[0]] = 0
            rest = np.nansum(want, axis=-1)
            rows = rest >= 0.1
            want /= np.maximum(rest, 1e-12)[:, None]
        worst = max(worst, float(np.abs(np.nan_to_num(drawn) - np.nan_to_num(want))[rows].max(initial=0)))
    return worst


def main() -> int:
    """All cases."""
    program = shutil.which("chromium")
    if program is None:
        print("no chromium on this machine", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        cases = [("12 x 12", of_random_weights, 128), *(("SmolLM2, 30 x 9", of_smollm2, n) for n in (256, 408, 1_000))]
        for name, make, n in cases:
            print(f"{name} x {n}: ", end="", flush=True)
            try:
                started = clocks()
                explorer = make(n)
            except CheckpointError as error:
                print(f"skipped, {error}")
                continue
            print(f"{since(started)} in Python with the model's weights, ", end="", flush=True)
            measure(browser, explorer, Path(folder) / "page.html")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
