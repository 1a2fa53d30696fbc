"""The README's pictures, in a real browser, of real models or circuits of the gallery: `notebooks/pictures/*.png`.

Run: interp fetch smollm2 && interp fetch minilm && python tests/browser/render_pictures.py [NAME ...]
(needs chromium on the path; without names it draws all of them, in some minutes)
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from browsing import Explorer
from conftest import ARGUMENTS

from circuits import gallery
from interp import HookedTransformer
from interp.commands.reference import write_site
from interp.data import PromptPairs
from interp.discovery import Subgraph, edge_scores_dataset
from interp.heads import head_scores
from interp.metrics import LogitDifference
from interp.patching import sweep, sweep_dataset
from interp.plot import attention, figures
from interp.similarity import similarity_attribution

FOLDER = Path(__file__).parents[2] / "notebooks" / "pictures"
LARGEST = 150_000
REPEATED = "The chicken didn't cross the road because it was too tired. The chicken didn't cross the road because it"
CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"


def smollm2() -> HookedTransformer:
    return HookedTransformer.from_pretrained("smollm2-135m-instruct")


def opened(page: Any, file: Path, width: int, height: int) -> None:
    page.set_viewport_size({"width": width, "height": height})
    page.goto(file.as_uri())


def drawn(figure: Any, page: Any, work: Path) -> None:
    """A figure of plotly, as large as it is."""
    figure.write_html(work / "figure.html", config={"displayModeBar": False})
    opened(page, work / "figure.html", figure.layout.width + 16, figure.layout.height + 16)
    page.locator(".main-svg").first.wait_for()


def explorer(page: Any, work: Path) -> None:
    """All heads on a repeated sentence, those that find the earlier copy first; one of them locked."""
    model = smollm2()
    with torch.no_grad():
        _, cache = model.run_with_cache(REPEATED, names_filter=["*hook_pattern", "*hook_v"])
    found = head_scores(model, scores=["previous_token", "induction"], n_prompts=8, progress=False)
    scores = {name: found[name] for name in ("previous_token", "induction")}
    layer, head = divmod(int(scores["induction"].values.argmax()), model.cfg.n_heads)
    options: Any = {"title": "SmolLM2 on a sentence that comes twice", "sort_by": "induction", "head": (layer, head)}
    attention(cache, tokens=REPEATED, scores=scores, **options).to_html(work / "explorer.html")
    opened(page, work / "explorer.html", 940, 684)
    shown = Explorer(page)
    n = len(model.to_str_tokens(REPEATED))
    shown.big.click(position=shown.cell(n - 1, n - 13))  # from the second "it" to what followed the first


def by_hand(page: Any, work: Path) -> None:
    """What feeds what in the induction model that is built by hand."""
    drawn(figures.circuit(gallery.entry("induction").build(), title="Induction, by hand"), page, work)


def residual(page: Any, work: Path) -> None:
    """The residual stream, layer by layer and position by position."""
    metric = LogitDifference(" Mary", " John")
    effect = sweep(smollm2(), CORRUPTED, CLEAN, metric, normalize=True, progress=False)
    drawn(figures.sweep(effect.transpose()), page, work)


def circuit(page: Any, work: Path) -> None:
    """The edges that name the indirect object, found on sixteen pairs."""
    pairs = PromptPairs.shipped("ioi")[:16]
    scores = edge_scores_dataset(smollm2(), pairs, method="eap_ig", probe=0, progress=False)
    drawn(figures.circuit(Subgraph.top(scores, 30), scores=scores, pruned=True), page, work)


def heads(page: Any, work: Path) -> None:
    """What each head does for 32 pairs of prompts."""
    pairs = PromptPairs.shipped("ioi")[:32]
    effect = sweep_dataset(smollm2(), pairs, site="z", over=("layer", "head"), normalize=True, progress=False)
    drawn(figures.sweep(effect.transpose()), page, work)


def translation(page: Any, work: Path) -> None:
    """Which word of the source a word of the target comes from: cross-attention of the translator built by hand."""
    model = gallery.pair("translate").build().compile()
    source, target = "<s> the red house .", "la maison rouge"
    _, both = model.run_with_cache(source, target)
    options: Any = {"title": "From “the red house” to “la maison rouge”", "lock_query": 1, "lock_key": 3}
    attention(both, target, source_tokens=source, **options).to_html(work / "translation.html")
    opened(page, work / "translation.html", 1000, 510)
    Explorer(page)


def similarity(page: Any, work: Path) -> None:
    """What each part of MiniLM adds to the cosine of two sentences."""
    model = HookedTransformer.from_pretrained("all-minilm-l6-v2")
    texts = "The cat sat on the mat.", "A feline rested on the rug."
    parts = similarity_attribution(model, *texts).attribution.isel(prompt=0).to_series()
    parts = parts[parts.abs().sort_values(ascending=False).index]
    rest = f"the other {len(parts) - 10} parts"
    drawn(
        figures.bars(
            torch.tensor([*parts[:10], parts[10:].sum()]),
            [*parts.index[:10], rest],
            title=f"“{texts[0]}” and “{texts[1]}”: cosine {parts.sum():.3f}",
            x="part of the cosine",
        ),
        page,
        work,
    )


def reference(page: Any, work: Path) -> None:
    """A recipe in the site that `interp docs` writes."""
    write_site(work / "reference")
    opened(page, work / "reference" / "how_do_i.html", 1100, 620)


PICTURES = {
    "explorer": explorer,
    "by_hand": by_hand,
    "sweep": residual,
    "circuit": circuit,
    "heads": heads,
    "translation": translation,
    "similarity": similarity,
    "reference": reference,
}


def main(names: list[str]) -> None:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("chromium is not on the path (Debian: apt-get install chromium)")
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        for name in names or PICTURES:
            page, target = browser.new_page(), FOLDER / f"{name}.png"
            with tempfile.TemporaryDirectory() as work:
                PICTURES[name](page, Path(work))
                page.screenshot(path=target)
            size = target.stat().st_size
            print(f"{target.name}: {size / 1000:.0f} KB")
            if size > LARGEST:
                raise SystemExit(f"{target} has {size} bytes; allowed: {LARGEST}")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
