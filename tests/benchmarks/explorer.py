"""What the attention explorer weighs and how long it takes. Run: python tests/benchmarks/explorer.py

For 12 x 12 heads x 128 tokens of random weights and, where the model is fetched, SmolLM2's 30 x 9 heads x 256 tokens:
bytes of the page; milliseconds from the start of navigation until all is drawn in chromium (the median of fresh pages);
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


def of_random_weights() -> AttentionExplorer:
    """The size that the budget is stated for."""
    cfg = TransformerConfig(n_layers=12, n_heads=12, d_model=768, n_ctx=128, d_vocab=1_000, seed=0)
    model = HookedTransformer(cfg)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.mul_(4)  # attention as uneven as a trained model's
        _, cache = model.run_with_cache(torch.randint(1_000, (1, 128)))
    scores = {name: torch.rand(12, 12) for name in ("previous", "induction", "duplicate", "first")}
    return attention(cache, [f" token{i}" for i in range(128)], scores, correct=1, incorrect=2)


def of_smollm2() -> AttentionExplorer:
    """A trained model and prose: this project's README."""
    model = HookedTransformer.from_pretrained("smollm2-135m-instruct")
    text = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
    ids = model.to_tokens(text)[:, :256]
    with torch.no_grad():
        _, cache = model.run_with_cache(ids)
    return attention(cache, ids, correct=" tired", incorrect=" wide")


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
        f"with the first token dropped {errors[1]:.4f}, {len(explorer.left_out)} heads left out"
    )


DRAWN = """([layer, head]) => {
    const { values } = document.querySelector("[data-ready]").explorer.matrix(layer, head);
    let text = "";
    for (const byte of new Uint8Array(values.buffer)) text += String.fromCharCode(byte);
    return btoa(text);
}"""


def largest_error(page: Any, explorer: AttentionExplorer, drop: bool) -> float:
    """Between the page and numpy, over all heads."""
    page.evaluate("drop => document.querySelector('[data-ready]').explorer.change({ drop })", drop)
    run, worst = explorer.runs[0], 0.0
    n = run.pattern.shape[-1]
    for at, head in np.ndindex(*run.pattern.shape[:2]):
        drawn = np.frombuffer(base64.b64decode(page.evaluate(DRAWN, [run.layers[at], head])), "<f4").reshape(n, n)
        want = run.pattern[at, head].astype(np.float64)
        rows = np.ones(n, dtype=bool)
        if drop:
            want[:, run.first] = 0
            rest = np.nansum(want, axis=-1)
            rows = rest >= 0.1
            want /= np.maximum(rest, 1e-12)[:, None]
        worst = max(worst, float(np.abs(np.nan_to_num(drawn) - np.nan_to_num(want))[rows].max(initial=0)))
    return worst


def main() -> int:
    """Both cases."""
    program = shutil.which("chromium")
    if program is None:
        print("no chromium on this machine", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for name, make in (("12 x 12 x 128", of_random_weights), ("SmolLM2, 30 x 9 x 256", of_smollm2)):
            try:
                start = time.perf_counter()
                explorer = make()
            except CheckpointError as error:
                print(f"{name}: skipped, {error}")
                continue
            print(f"{name}: {time.perf_counter() - start:.1f} s in Python, ", end="", flush=True)
            measure(browser, explorer, Path(folder) / "page.html")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
