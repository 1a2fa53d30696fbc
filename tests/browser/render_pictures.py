"""The README's pictures, from the real model in a real browser: `notebooks/pictures/*.png`, at most 200 KB each.

Run: interp fetch smollm2 && python tests/browser/render_pictures.py   (needs chromium on the path)
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from browsing import Explorer
from conftest import ARGUMENTS

from interp import HookedTransformer
from interp.heads import head_scores
from interp.metrics.kinds import LogitDifference
from interp.patching.sweeps import sweep
from interp.plot import attention, figures

FOLDER = Path(__file__).parents[2] / "notebooks" / "pictures"
LARGEST = 200_000
REPEATED = "The chicken didn't cross the road because it was too tired. The chicken didn't cross the road because it"
CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"


def explorer(model: HookedTransformer, page: Any, work: Path) -> None:
    """All heads on a repeated sentence, those that find the earlier copy first; one of them locked."""
    with torch.no_grad():
        _, cache = model.run_with_cache(REPEATED, names_filter=["*hook_pattern", "*hook_v"])
    found = head_scores(model, scores=["previous_token", "induction", "first_token"], n_prompts=8, progress=False)
    scores = {name: found[name] for name in ("previous_token", "induction", "first_token")}
    layer, head = divmod(int(scores["induction"].values.argmax()), model.cfg.n_heads)
    page_of_heads = attention(cache, tokens=REPEATED, scores=scores, sort_by="induction", head=(layer, head))
    page_of_heads.to_html(work / "explorer.html")
    page.set_viewport_size({"width": 1000, "height": 700})
    page.goto((work / "explorer.html").as_uri())
    drawn = Explorer(page)
    n = len(model.to_str_tokens(REPEATED))
    drawn.big.click(position=drawn.cell(n - 1, n - 13))  # from the second "it" to what followed the first


def heatmap(model: HookedTransformer, page: Any, work: Path) -> None:
    """The residual stream, layer by layer and position by position."""
    effect = sweep(model, CORRUPTED, CLEAN, LogitDifference(" Mary", " John"), normalize=True, progress=False)
    figure = figures.sweep(effect.transpose())
    figure.write_html(work / "sweep.html", config={"displayModeBar": False})
    page.set_viewport_size({"width": figure.layout.width + 16, "height": figure.layout.height + 16})
    page.goto((work / "sweep.html").as_uri())
    page.locator(".main-svg").first.wait_for()


PICTURES = {"explorer": explorer, "sweep": heatmap}


def main() -> None:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("chromium is not on the path (Debian: apt-get install chromium)")
    model = HookedTransformer.from_pretrained("smollm2-135m-instruct")
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as work:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        for name, draw in PICTURES.items():
            page = browser.new_page()
            draw(model, page, Path(work))
            target = FOLDER / f"{name}.png"
            page.screenshot(path=target)
            size = target.stat().st_size
            print(f"{target.name}: {size / 1000:.0f} KB")
            if size > LARGEST:
                raise SystemExit(f"{target} has {size} bytes; allowed: {LARGEST}")
        browser.close()


if __name__ == "__main__":
    main()
