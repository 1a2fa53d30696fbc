"""The explorer's looks in a real browser: its themes, the contrast and size of all text in every mode, its layout."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsing import HEADS, LAYERS, MINUS, SCORES, TOKENS, Explorer, N, Show, Visit, close, run
from measuring import WRITTEN, check_fits, check_looks

from interp import ActivationCache
from interp.plot import AttentionExplorer, attention, still

RULES = {
    "nothing": ("light", "", "", "light"),
    "system": ("dark", "", "", "dark"),
    "jupyter dark": ("light", "", 'data-jp-theme-light="false"', "dark"),
    "jupyter light": ("dark", "", 'data-jp-theme-light="true"', "light"),
    "html dark": ("light", 'theme="dark"', "", "dark"),
    "html light": ("dark", 'theme="light"', "", "light"),
    "vscode dark": ("light", "", 'class="vscode-dark"', "dark"),
    "vscode light": ("dark", "", 'class="vscode-light"', "light"),
    "vscode contrast": ("light", "", 'class="vscode-high-contrast"', "dark"),
}


@pytest.mark.parametrize("rule", list(RULES))
def test_dark_mode_follows_the_page_and_else_the_system(rule: str, small_page: str, visit: Visit, tmp_path: Path):
    system, html, body, expected = RULES[rule]
    (tmp_path / "page.html").write_text(f"<!doctype html><html {html}><body {body}>{small_page}", encoding="utf-8")
    page = Explorer(visit(tmp_path / "page.html", color_scheme=system))
    paper = page.host.locator("section").evaluate("e => getComputedStyle(e).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 25, 30)"}[expected]


def test_the_theme_may_change_while_the_page_is_open(page: Explorer):
    section = page.host.locator("section")
    page.page.emulate_media(color_scheme="dark")
    assert section.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(21, 25, 30)"
    page.page.evaluate("document.body.dataset.jpThemeLight = 'true'")
    assert section.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(255, 255, 255)"


PLAIN: dict[str, Any] = {"kind": 0, "run": 0, "view": 0, "sort": 0, "only": False, "drop": False, "own": False}
MODES: list[dict[str, Any]] = [
    *({"kind": kind, "run": which, "view": view} for kind in range(3) for which in range(4) for view in range(2)),
    *({"sort": sort, "only": only, "least": 0.1, "lock": [7, 2]} for sort in range(4) for only in (False, True)),
    {"sort": 1, "only": True, "least": 1.0, "by": 0},
    {"sort": 1, "only": True, "least": 1.0, "by": 0, "view": 1},
    *({"drop": True, "run": which, "kind": kind} for which in (0, 3) for kind in (0, 2)),
    {"own": True, "kind": 2},
]
"""What a reader may set, beyond `PLAIN`."""


@pytest.mark.parametrize(("scheme", "width"), [("light", 480), ("dark", 480), ("light", 1280), ("dark", 1920)])
def test_text_in_every_mode_has_a_contrast_of_4_5_and_10_pixels_and_is_whole(
    explorer: AttentionExplorer, scheme: str, width: int, show: Show
):
    options: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}}
    page = show(explorer, **options)
    page.host.evaluate(WRITTEN)
    for i, mode in enumerate(MODES):
        pair = mode.get("lock", [(i * 2) % N, [None, 1][i % 2]])
        page.change(**{**PLAIN, "lock": [None, None], "head": (i * 5) % 12, "pair": pair, **mode})
        check_looks(page, 60, (mode, pair))
    check_fits(page.page)


def test_no_javascript_shows_the_picture_and_the_summary(explorer: AttentionExplorer, visit: Visit, tmp_path: Path):
    explorer.to_html(tmp_path / "page.html")
    page = visit(tmp_path / "page.html", java_script_enabled=False)
    picture = page.locator("figure img")
    assert picture.is_visible()
    assert picture.bounding_box()["width"] > 50
    assert page.get_by_text("induction: L1H0 0.90").is_visible()
    assert page.locator("canvas").count() == 0


def test_with_javascript_the_picture_gives_way(page: Explorer):
    assert not page.page.locator("figure").is_visible()
    assert page.map.is_visible()


def test_duplicate_tokens_and_white_space_stay_apart(page: Explorer):
    labels = page.strip.locator("bdi").all_inner_texts()
    assert labels == ["the", "·cat", "the", "·the", "⏎", "a</b>", "cat", "·", "end"]
    page.change(pair=[8, 2])
    assert "key 2 “the”" in page.readout.inner_text()
    page.change(pair=[8, 3])
    assert "key 3 “·the”" in page.readout.inner_text()


def test_hostile_tokens_and_names_stay_text(show: Show):
    hostile = [
        "</script><script>window.broken = 1</script>",
        "<img src=x onerror='window.broken = 2'>",
        "${window.broken = 3}",
    ]
    tokens = (hostile * 3)[:N]
    explorer = attention(run(), tokens, {hostile[0]: SCORES["induction"], hostile[1]: SCORES["previous"]})
    page = show(explorer)
    page.change(pair=[7, 1], head=4)
    assert page.strip.locator("bdi").nth(1).inner_text() == hostile[1].replace(" ", "·")
    assert hostile[0] in page.readout.inner_text()
    assert page.page.evaluate("window.broken") is None
    assert page.host.locator("img, script").count() == 2  # the still picture and the data


def test_a_text_of_one_token_claims_nothing_when_it_is_dropped(show: Show):
    page = show(attention(run(torch.arange(1)[None])))
    page.choose("drop first token")
    assert page.matrix(0, 0) == [None]
    assert "on average" not in page.readout.inner_text()


def test_a_long_token_is_cut_in_the_strip_and_whole_under_the_pointer(show: Show):
    tokens = ["x" * 300, *TOKENS[1:]]
    page = show(attention(run(), tokens, {"a score with a name of some length " * 3: SCORES["induction"]}))
    long = page.strip.locator("bdi").first
    assert long.bounding_box()["width"] < 300
    assert long.get_attribute("title") == f"0 “{tokens[0]}”"
    assert page.host.locator("[name=by]").bounding_box()["width"] < 300
    ink = page.big.evaluate(  # nothing is drawn at the left edge, where a longer label would be cut off
        "canvas => [...canvas.getContext('2d').getImageData(0, 60, 2, canvas.height - 60).data].some(Boolean)"
    )
    assert not ink


def test_tokens_above_a_head_stand_upright_where_its_columns_are_wide_enough(show: Show):
    above = {}
    for name, n, word in (("a word", 4, "chicken"), ("many words", 18, "chicken"), ("a long word", 4, "x" * 12)):
        page = show(attention(run(torch.arange(n)[None] % 12), [word] * n))
        above[name] = page.host.evaluate("host => host.explorer.frame().above")
    assert above["a word"] == 32 < min(above["many words"], above["a long word"]) - 10


def test_a_head_beyond_the_budget_keeps_a_pooled_map_of_every_kind_and_run_and_says_so(visit: Visit, tmp_path: Path):
    clean, patched = (run(torch.randint(12, (1, 120))) for _ in range(2))
    explorer = attention(
        clean, scores=SCORES, patched=patched, correct=1, incorrect=2, kind="attention", page_bytes=150_000
    )
    assert explorer.pooled
    explorer.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size <= 150_000
    page = Explorer(visit(tmp_path / "page.html"))
    gone = [(layer, head) for _, layer, head in explorer.pooled]
    assert f"{len(gone)} of 12 heads" in page.host.locator(".note").first.inner_text()
    for kind, name in enumerate(("attention", "weighted", "contribution")):
        for i, of in enumerate(("clean", "patched", "difference")):
            page.change(kind=kind, run=i)
            for layer, head in (gone[0], gone[-1]):
                high, drawn = page.pooled(layer, head)
                want = still.pool(explorer.values(layer, head, name, of), high)
                close(drawn, want, 0.01 * float(np.nanmax(np.abs(want))) + 1e-6)
    layer, head = gone[0]
    page.host.evaluate(WRITTEN)
    page.change(view=1)
    names = [one["text"] for one in page.host.evaluate("host => host.written")]
    assert [f"L{layer}H{head} \u25a6" in names for layer, head in gone] == [True] * len(gone)
    page.change(kind=0, run=0, view=0, head=layer * HEADS + head, pair=[119, 0])
    assert "pooled to save space" in page.readout.inner_text()
    said = re.search(r"largest of queries (\d+) to 119, keys 0 to (\d+): ([\d.]+)", page.readout.inner_text())
    assert said
    block = explorer.values(layer, head)[int(said[1]) :, : int(said[2]) + 1]
    assert abs(float(said[3]) - np.nanmax(block)) < 0.02
    page.choose("drop first token")
    assert "no token can be dropped" in page.readout.inner_text()
    page.choose("drop first token")
    assert set(page.matrix(layer, head)) == {None}
    kept = next(at for at in np.ndindex(LAYERS, HEADS) if at not in gone)
    close(page.matrix(*kept), explorer.values(*kept), 0.004)


@pytest.mark.parametrize("width", [500, 1500])
def test_nothing_is_cut_off_whatever_the_width(width: int, explorer: AttentionExplorer, show: Show):
    page = show(explorer, viewport={"width": width, "height": 800})
    check_fits(page.page)


def test_a_map_that_opens_on_a_low_head_shows_whole_rows(show: Show):
    for layer in (7, 20, 29):
        page = show(attention(run(n_layers=30), TOKENS, head=(layer, 2)))
        for view in ("heads", "keys of one query"):
            page.choose(view)
            box, ring = page.map.locator("xpath=..").bounding_box(), page.host.locator(".map i").bounding_box()
            scrolled = page.host.locator(".map").evaluate("e => e.scrollTop")
            rows = [page.host.evaluate("(host, i) => host.explorer.spot(i)", head) for head in range(HEADS + 1)]
            step = max(y for _, y in rows) if view == "heads" else rows[1][1]
            assert scrolled > 0
            assert scrolled % step == 0
            assert ring["y"] >= box["y"]
            assert ring["y"] + ring["height"] <= box["y"] + box["height"] + 1


def test_modes_that_lack_their_data_cannot_be_chosen_and_say_why(show: Show):
    cache = run()
    bare = ActivationCache({name: value for name, value in cache.items() if "hook_v" not in name}, cache.model)
    page = show(attention(bare))
    assert page.host.locator("input[name=kind]:disabled").count() == 2
    lacking = "the cache lacks hook_v of some layer; widen names_filter="
    assert page.host.get_by_title(lacking).count() == 1
    said = (
        f"Not offered: value-weighted ({lacking}); logit contribution (give correct=, on the command line --correct)."
    )
    assert page.host.locator(".why").inner_text() == said
    lines = "inputs => inputs.map(e => getComputedStyle(e.nextSibling).textDecorationLine)"
    assert page.host.locator("input[name=kind]").evaluate_all(lines) == ["none"] * 3
    assert page.host.locator("input[name=run]").count() == 0


def test_names_of_runs_that_are_markup_stay_text(show: Show):
    names = ("<img src=x onerror='window.broken = 1'>", "</span><script>window.broken = 2</script>")
    page = show(attention(run(), TOKENS, patched=run(seed=4), run_names=names))
    page.change(run=3, pair=[5, 2])
    labels = page.host.locator("[name=run] + span").all_inner_texts()
    assert labels == [*names, "difference", "side by side"]
    assert page.page.evaluate("window.broken") is None
    assert page.host.locator("img, script").count() == 2  # the still picture and the data


def test_a_map_of_keys_is_as_wide_as_its_names_and_keys_need_and_its_keys_stay_in_view(show: Show):
    names = {"a head with a long name": "L0H0"}
    one = attention(run(n_heads=1), TOKENS, names=names)
    for width in (300, 1280):
        page = show(one, viewport={"width": width, "height": 700})
        page.choose("keys of one query")
        grid = page.host.evaluate("host => host.explorer.grid()")
        assert grid["dx"] > 5
        ring, canvas = page.host.locator(".map i").bounding_box(), page.map.bounding_box()
        assert abs(ring["width"] - grid["wide"]) <= 1
        assert abs(canvas["width"] - grid["wide"]) <= 1
    page = show(attention(run(n_layers=30), TOKENS, head=(29, 0)))
    page.choose("keys of one query")
    box, keys, ring = (page.host.locator(of).bounding_box() for of in (".map", "canvas.top", ".map i"))
    assert page.host.locator(".map").evaluate("e => e.scrollTop") > 500
    assert keys["y"] == box["y"]
    assert keys["y"] + keys["height"] <= ring["y"] + 3
    assert ring["y"] + ring["height"] <= box["y"] + box["height"]
    page.choose("heads")
    assert not page.host.locator("canvas.top").is_visible()


def test_numbers_stand_beside_a_small_head_and_below_a_large_one(show: Show):
    for n, beside in ((3, True), (14, False)):
        page = show(attention(run(torch.arange(n)[None] % 12)), viewport={"width": 1280, "height": 900})
        head, said = page.big.bounding_box(), page.host.locator(".said").bounding_box()
        assert (said["x"] > head["x"] + head["width"]) == beside
        assert (said["y"] >= head["y"] + head["height"]) != beside


def test_a_filter_that_no_head_passes_says_so_and_what_cannot_filter_is_not_shown(show: Show):
    page = show(attention(run(), TOKENS, SCORES))
    page.host.evaluate(WRITTEN)
    for view in (0, 1):
        page.change(sort=1, by=0, only=True, least=1, view=view)
        assert "no such head" in [one["text"] for one in page.host.evaluate("host => host.written.splice(0)")]
    page = show(attention(run(), TOKENS))
    for name in ("least", "only", "by"):
        assert not page.host.locator(f"[name={name}]").is_visible()
    page.host.get_by_label("order").select_option(label="by the locked cell")
    assert page.host.locator("[name=least]").is_visible()
    assert page.host.locator("[name=only]").is_visible()


def test_small_numbers_in_cells_have_the_digits_that_they_need_and_zero_no_sign(show: Show):
    model = run().model
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_O.mul_(0.01)
        _, cache = model.run_with_cache(torch.arange(N)[None])
    explorer = attention(cache, TOKENS, correct=1, incorrect=2, kind="contribution", head=(1, 1))
    page = show(explorer, viewport={"width": 1280, "height": 900})
    page.host.evaluate(WRITTEN)
    page.change(pair=[3, None])
    drawn = [one["text"] for one in page.host.evaluate("host => host.written")]
    values = explorer.values(1, 1, "contribution")
    heads = [explorer.values(layer, head, "contribution") for layer, head in np.ndindex(LAYERS, HEADS)]
    largest = float(np.nanmax(np.abs(heads)))
    digits = 1 - int(np.floor(np.log10(largest)))
    assert digits > 2
    strongest = float(values.flat[np.nanargmax(np.abs(values))])
    assert f"{strongest:.{digits}f}".replace("-", MINUS) in drawn
    assert [text for text in drawn if re.fullmatch(f"[-{MINUS}][0.]+", text)] == []
