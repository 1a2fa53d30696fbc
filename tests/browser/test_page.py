"""The explorer's page in a real browser: what it shows, and what a reader can do with it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from browsing import Explorer

from circuits.gallery.induction import induction_model
from interp import ActivationCache, HookedTransformer, TransformerConfig
from interp.plot import AttentionExplorer, attention, still

Visit = Callable[..., Any]

MINUS = "\u2212"
N, LAYERS, HEADS = 9, 3, 4
TOKENS = ["the", " cat", "the", " the", "\n", "a</b>", "cat", " ", "end"]
SCORES = {
    "induction": np.array([[0.1, 0.2, 0.3, 0.4], [0.9, 0.0, 0.5, 0.1], [0.0, 0.7, 0.2, 0.1]]),
    "previous": np.array([[0.8, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1]]),
}


def run(tokens: torch.Tensor | None = None, sharpness: float = 6.0, **fields: Any) -> ActivationCache:
    shape: dict[str, Any] = {
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "d_model": 16,
        "n_ctx": 128,
        "d_vocab": 12,
        "seed": 3,
    }
    model = HookedTransformer(TransformerConfig(**shape | fields))
    with torch.no_grad():
        for block in model.blocks:  # uneven attention
            block.attn.W_Q.mul_(sharpness)
        return model.run_with_cache(torch.arange(N)[None] % 12 if tokens is None else tokens)[1]


@pytest.fixture(scope="module")
def explorer() -> AttentionExplorer:
    patched = run(torch.arange(N).flip(0)[None])
    return attention(run(), TOKENS, SCORES, correct=1, incorrect=2, patched=patched, patched_tokens=TOKENS[::-1])


@pytest.fixture
def page(explorer: AttentionExplorer, visit: Visit, tmp_path: Path) -> Explorer:
    explorer.to_html(tmp_path / "page.html")
    return Explorer(visit(tmp_path / "page.html"))


def close(got: list[float | None], want: np.ndarray, atol: float) -> None:
    values = np.array(got, dtype=float).reshape(want.shape)
    np.testing.assert_array_equal(np.isnan(values), np.isnan(want))
    np.testing.assert_allclose(np.nan_to_num(values), np.nan_to_num(want), rtol=0, atol=atol)


# ---------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(("n", "atol"), [(N, 0.00002), (100, 0.004)])  # of few entries each takes two bytes
def test_values_in_the_page_are_within_004_of_numpys(n: int, atol: float, visit: Visit, tmp_path: Path):
    clean, patched = (run(torch.randint(12, (1, n))) for _ in range(2))
    explorer = attention(clean, patched=patched, correct=1, incorrect=2)
    explorer.to_html(tmp_path / "page.html")
    page = Explorer(visit(tmp_path / "page.html"))
    for i, of in enumerate(("clean", "patched", "difference")):
        page.change(run=i)
        for layer, head in ((0, 0), (1, 3), (2, 2)):
            close(page.matrix(layer, head), explorer.values(layer, head, "attention", of), atol * (1 + (i == 2)))


@pytest.mark.parametrize(("kind", "name"), [(1, "weighted"), (2, "contribution")])
def test_weighted_values_are_within_004_of_their_factor(
    page: Explorer, explorer: AttentionExplorer, kind: int, name: str
):
    page.change(kind=kind)
    for layer, head in np.ndindex(LAYERS, HEADS):
        want = explorer.values(layer, head, name)  # pyright: ignore[reportArgumentType]
        factor = np.nanmax(np.abs(want / np.maximum(explorer.values(layer, head), 1e-9)))
        close(page.matrix(layer, head), want, 0.0005 * float(factor))


@pytest.mark.parametrize("dir", ["causal", "bidirectional"])
def test_dropping_the_first_token_divides_the_rest_again_and_says_how_much_went(dir: str, visit: Visit, tmp_path: Path):
    cache = run(attention_dir=dir)
    explorer = attention(cache, TOKENS)
    explorer.to_html(tmp_path / "page.html")
    page = Explorer(visit(tmp_path / "page.html"))
    page.choose("drop first token")
    for layer, head in np.ndindex(LAYERS, HEADS):
        want = explorer.values(layer, head).copy()
        close(page.lost(layer, head), want[:, 0], 0.004)
        want[:, 0] = np.nan
        rest = np.nansum(want, axis=1, keepdims=True)
        drawn = np.array(page.matrix(layer, head), dtype=float).reshape(N, N)
        rows = rest[:, 0] > 0.02
        close(drawn[rows].ravel().tolist(), (want / rest)[rows], 0.001)
        assert rows.sum() >= 2
    held = explorer.values(0, 0)[1:, 0].mean()
    page.change(head=0)
    assert "dropped with token 0 “the”" in page.readout.inner_text()
    shown = re.search(r"“the”: ([\d.]+) of a query", page.readout.inner_text())
    assert shown
    assert abs(float(shown[1]) - held) < 0.004
    assert "masked or dropped" in page.host.locator(".legend").inner_text()


def test_windows_and_padding_are_masked_and_not_zero(visit: Visit, tmp_path: Path):
    mask = torch.ones(1, N, dtype=torch.bool)
    mask[0, :2] = False
    model = run(window_size=(3, 100, 4)).model
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.arange(N)[None], attention_mask=mask)
    explorer = attention(cache, TOKENS)
    explorer.to_html(tmp_path / "page.html")
    page = Explorer(visit(tmp_path / "page.html"))
    for layer in range(LAYERS):
        close(page.matrix(layer, 1), explorer.values(layer, 1), 0.004)
        assert page.matrix(layer, 1)[5 * N + 1] is None
    page.change(head=0, pair=[7, 2])
    assert re.search(r"A\s+masked", page.readout.inner_text())
    assert "padding" in page.strip.locator("bdi").nth(1).get_attribute("class")


def test_a_hand_built_induction_head_draws_its_exact_stripe(visit: Visit, tmp_path: Path):
    text = "!abcabcabc"
    model = induction_model("!abc", n_ctx=len(text))
    with torch.no_grad():
        _, cache = model.run_with_cache(text)
    explorer = attention(cache, text, head=(1, 0))
    explorer.to_html(tmp_path / "page.html")
    page = Explorer(visit(tmp_path / "page.html"))
    drawn = np.array(page.matrix(1, 0), dtype=float).reshape(10, 10)
    close(page.matrix(1, 0), explorer.values(1, 0), 0.00002)
    for query in range(4, 10):
        followers = [key for key in range(1, query + 1) if text[key - 1] == text[query]]
        stripe = np.zeros(query + 1)
        stripe[followers] = 1 / len(followers)
        np.testing.assert_allclose(drawn[query, : query + 1], stripe, atol=0.00002)
    colours = page.big.evaluate(  # the stripe's cells have the darkest colours of their rows
        "(canvas, cells) => cells.map(([x, y]) => canvas.getContext('2d').getImageData(x, y, 1, 1).data[0])",
        [[page.cell(9, key)["x"] - 8, page.cell(9, key)["y"] - 8] for key in range(10)],
    )
    assert sorted(range(10), key=lambda key: colours[key])[:2] == [4, 7]


# ---------------------------------------------------------------------------------------------- a reader's hands


def test_hovering_previews_a_head_a_click_locks_it_and_escape_unlocks_it(page: Explorer):
    page.map.hover(position=page.thumbnail(1, 2))
    assert "L1H2" in page.readout.inner_text()
    assert page.selection["head"] is None
    page.map.click(position=page.thumbnail(1, 2))
    assert (page.selection["layer"], page.selection["head"]) == (1, 2)
    page.map.hover(position=page.thumbnail(2, 3))
    assert "L1H2 (locked)" in page.readout.inner_text()
    page.map.press("Escape")
    assert page.selection["head"] is None
    page.map.hover(position=page.thumbnail(2, 2))
    assert "L2H2" in page.readout.inner_text()
    page.map.click(position=page.thumbnail(2, 2))
    page.map.click(position=page.thumbnail(2, 2))
    assert page.selection["head"] is None


def test_arrow_keys_move_between_heads_and_enter_locks(page: Explorer):
    page.change(head=0)
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowUp", "ArrowDown"):
        page.map.press(key)
    assert page.state["head"] == HEADS + 1
    page.map.press("Enter")
    assert (page.selection["layer"], page.selection["head"]) == (1, 1)
    page.map.press("ArrowRight")
    assert (page.selection["layer"], page.selection["head"]) == (1, 2)


def test_hovering_previews_a_cell_a_click_locks_it_and_escape_unlocks_it(page: Explorer):
    page.big.hover(position=page.cell(5, 3))
    assert page.state["pair"] == [5, 3]
    assert "query 5 “a</b>” (patched: “·the”) → key 3 “·the” (patched: “a</b>”)" in page.readout.inner_text()
    page.strip.locator("bdi").nth(0).hover()
    page.big.click(position=page.cell(6, 2))
    page.big.hover(position=page.cell(8, 1))
    assert page.state["pair"] == [6, 2]
    assert (page.selection["query"], page.selection["key"]) == (6, 2)
    page.big.press("ArrowUp")
    page.big.press("ArrowLeft")
    assert (page.selection["query"], page.selection["key"]) == (5, 1)
    page.big.press("Escape")
    assert page.state["pair"] == [None, None]
    page.big.press("ArrowDown")
    page.big.press("ArrowDown")
    assert page.state["pair"] == [1, 0]


def test_tokens_preview_lock_and_pair_and_the_toggle_turns_query_into_key(page: Explorer):
    page.over_token(6)
    assert page.state["pair"] == [6, None]
    page.strip.locator("bdi").nth(6).click()
    page.over_token(2)
    assert page.state["pair"] == [6, 2]
    page.map.hover(position=page.thumbnail(0, 0))
    assert page.state["pair"] == [6, None]
    assert "query 6 “cat”" in page.readout.inner_text()
    assert "(locked)" in page.readout.inner_text()
    page.strip.press("ArrowRight")
    assert (page.selection["query"], page.selection["key"]) == (7, None)
    page.strip.press("Escape")
    assert page.selection["query"] is None
    page.choose("key")
    page.over_token(4)
    assert page.state["pair"] == [None, 4]
    assert "key 4 “⏎”" in page.readout.inner_text()


@pytest.mark.parametrize("role", ["query", "key"])
def test_the_strip_is_coloured_by_the_token_at_hand(page: Explorer, explorer: AttentionExplorer, role: str):
    page.choose(role)
    page.change(head=5)
    page.over_token(4)
    values = explorer.values(1, 1)
    line = values[4] if role == "query" else values[:, 4]
    colours = still.between(still.PALETTE["light"]["positive"], 256)
    for i, value in enumerate(line):
        token = page.strip.locator("bdi").nth(i)
        if np.isnan(value):
            assert "masked" in token.get_attribute("class")
            continue
        shown = token.evaluate("e => getComputedStyle(e).backgroundColor.match(/\\d+/g).map(Number)")
        near = [int(colours[round(255 * max(0.0, value) ** 0.5)][j : j + 2], 16) for j in (1, 3, 5)]
        np.testing.assert_allclose(shown, near, atol=6)


def test_the_readout_gives_all_numbers_of_a_pair(page: Explorer, explorer: AttentionExplorer):
    page.change(head=6, pair=[8, 3])
    rows = [re.split(r"\t+", line) for line in page.readout.inner_text().splitlines() if "\t" in line]
    table = {row[0]: [float(cell.replace(MINUS, "-")) for cell in row[1:]] for row in rows[1:]}
    assert rows[0][-3:] == ["clean", "patched", "difference"]
    assert list(table) == ["A", "|v W_O|", "A |v W_O|", f"contribution to logit “1” {MINUS} logit “2”"]
    for label, kind, atol in (("A", "attention", 0.004), ("A |v W_O|", "weighted", 0.05)):
        want = [explorer.values(1, 2, kind, r)[8, 3] for r in ("clean", "patched", "difference")]  # pyright: ignore
        np.testing.assert_allclose(table[label], want, atol=2 * atol)
    assert "induction 0.50, previous 0.10" in page.readout.inner_text()


def test_sorting_and_filtering_by_a_badge(page: Explorer):
    page.host.locator("select").select_option(label="I: induction")
    page.choose("sort")
    order = np.argsort(-SCORES["induction"].ravel(), kind="stable")
    for i in (0, 1, 4):
        page.map.hover(position=page.thumbnail(i // HEADS, i % HEADS))
        assert page.state["head"] == order[i]
    height = page.map.bounding_box()["height"]
    page.choose("filter")
    page.host.locator("input[type=range]").fill("0.6")
    assert page.map.bounding_box()["height"] < height  # 2 of 12 heads
    page.map.hover(position=page.thumbnail(0, 1))
    assert page.state["head"] == order[1]
    page.map.hover(position={"x": page.thumbnail(0, 2)["x"], "y": 12})
    assert page.state["head"] == order[1]


def test_an_initial_order_can_be_asked_for(visit: Visit, tmp_path: Path):
    attention(run(), TOKENS, SCORES, sort_by="previous").to_html(tmp_path / "page.html")
    page = Explorer(visit(tmp_path / "page.html"))
    assert page.state["head"] == 0
    assert page.host.locator("select").input_value() == "1"
    assert page.host.get_by_label("sort").is_checked()


def test_a_page_says_its_title_and_note_above_the_heads(visit: Visit, tmp_path: Path):
    title, note = "Attention of <b>m</b> on “the cat”", "Scores: of 16 prompts & not of this text."
    attention(run(), TOKENS, SCORES, title=title, note=note).to_html(tmp_path / "page.html")
    page = Explorer(visit(tmp_path / "page.html"))
    assert page.page.title() == title
    heading, below = page.host.locator("h2"), page.host.locator(".note")
    assert (heading.inner_text(), below.inner_text()) == (title, note)
    tops = [one.bounding_box()["y"] for one in (heading, below, page.host.locator("header"), page.map)]
    assert tops == sorted(tops)
    (tmp_path / "copy.html").write_bytes(saved(page, "HTML"))
    copy = Explorer(visit(tmp_path / "copy.html"))
    assert (copy.page.title(), copy.host.locator("h2").inner_text()) == (title, title)


def test_a_page_may_open_on_contributions_with_its_head_in_view(visit: Visit, tmp_path: Path):
    cache = run(n_layers=24, n_heads=2)
    explorer = attention(cache, TOKENS, correct=1, incorrect=2, kind="contribution", head=(23, 1))
    explorer.to_html(tmp_path / "page.html")
    page = Explorer(visit(tmp_path / "page.html"))
    assert page.host.locator("input[name=kind]:checked").input_value() == "2"
    assert "contribution to logit “1”" in page.host.locator(".legend").inner_text()
    close(page.matrix(23, 1), explorer.values(23, 1, "contribution"), 0.01)
    ring, box = page.host.locator(".map i").bounding_box(), page.host.locator(".map").bounding_box()
    assert box["y"] <= ring["y"] <= box["y"] + box["height"] - ring["height"]


# ---------------------------------------------------------------------------------------------- looks


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


@pytest.fixture(scope="module")
def small_page() -> str:
    """A page with one of everything that has text."""
    tokens = ["a", "b"]
    cache = run(torch.arange(2)[None], n_layers=1, n_heads=2)
    explorer = attention(cache, tokens, {"x": np.array([[0.9, 0.1]])}, page_bytes=900_000)
    return explorer._repr_mimebundle_()["text/html"]


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


CONTRASTS = """host => {
    const light = (colour) => {
        const linear = (c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(linear);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (e) => {
        const { backgroundColor: c, backgroundImage: i } = getComputedStyle(e);
        if (i.startsWith("repeating")) return i.match(/rgb\\([^)]*\\)/g);
        return /, 0\\)$/.test(c) ? ground(e.parentElement) : [c];
    };
    const found = [];
    for (const e of host.shadowRoot.querySelectorAll("*")) {
        const text = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
        if (e.localName === "style" || !text) continue;
        for (const below of ground(e)) {
            const [low, high] = [light(getComputedStyle(e).color), light(below)].sort((a, b) => a - b);
            found.push([(high + 0.05) / (low + 0.05), e.localName + " " + e.textContent.slice(0, 30)]);
        }
    }
    return found.sort((a, b) => a[0] - b[0]).slice(0, 3).concat([[found.length, "elements"]]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_a_contrast_of_4_5(explorer: AttentionExplorer, scheme: str, visit: Visit, tmp_path: Path):
    explorer.to_html(tmp_path / "page.html")
    page = Explorer(visit(tmp_path / "page.html", color_scheme=scheme))
    for kind in (0, 2):
        for query in range(N):
            page.change(kind=kind, head=(query * 5) % 12, pair=[query, None])
            *worst, count = page.host.evaluate(CONTRASTS)
            assert count[0] > 40
            assert worst[0][0] >= 4.5, worst


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


def test_hostile_tokens_and_names_stay_text(visit: Visit, tmp_path: Path):
    hostile = [
        "</script><script>window.broken = 1</script>",
        "<img src=x onerror='window.broken = 2'>",
        "${window.broken = 3}",
    ]
    tokens = (hostile * 3)[:N]
    explorer = attention(run(), tokens, {hostile[0]: SCORES["induction"], hostile[1]: SCORES["previous"]})
    explorer.to_html(tmp_path / "page.html")
    page = Explorer(visit(tmp_path / "page.html"))
    page.change(pair=[7, 1], head=4)
    assert page.strip.locator("bdi").nth(1).inner_text() == hostile[1].replace(" ", "·")
    assert hostile[0] in page.readout.inner_text()
    assert page.page.evaluate("window.broken") is None
    assert page.host.locator("img, script").count() == 2  # the still picture and the data


def test_a_text_of_one_token_claims_nothing_when_it_is_dropped(visit: Visit, tmp_path: Path):
    attention(run(torch.arange(1)[None])).to_html(tmp_path / "page.html")
    page = Explorer(visit(tmp_path / "page.html"))
    page.choose("drop first token")
    assert page.matrix(0, 0) == [None]
    assert "on average" not in page.readout.inner_text()


def test_a_long_token_is_cut_in_the_strip_and_whole_under_the_pointer(visit: Visit, tmp_path: Path):
    tokens = ["x" * 300, *TOKENS[1:]]
    attention(run(), tokens, {"a score with a name of some length " * 3: SCORES["induction"]}).to_html(
        tmp_path / "p.html"
    )
    page = Explorer(visit(tmp_path / "p.html"))
    long = page.strip.locator("bdi").first
    assert long.bounding_box()["width"] < 300
    assert long.get_attribute("title") == f"0 “{tokens[0]}”"
    assert page.host.locator("select").bounding_box()["width"] < 300
    ink = page.big.evaluate(  # nothing is drawn at the left edge, where a longer label would be cut off
        "canvas => [...canvas.getContext('2d').getImageData(0, 60, 2, canvas.height - 60).data].some(Boolean)"
    )
    assert not ink


def test_what_was_left_out_is_said_and_hatched(visit: Visit, tmp_path: Path):
    long = torch.arange(120)[None] % 12
    explorer = attention(run(long), scores=SCORES, page_bytes=70_000)
    assert explorer.left_out
    explorer.to_html(tmp_path / "page.html")
    page = Explorer(visit(tmp_path / "page.html"))
    layer, head = explorer.left_out[0]
    assert f"{len(explorer.left_out)} of 12 heads" in page.host.locator(".note").first.inner_text()
    page.change(head=layer * HEADS + head)
    assert "left out of the page" in page.readout.inner_text()
    assert set(page.matrix(layer, head)) == {None}
    kept = next(at for at in np.ndindex(LAYERS, HEADS) if at not in explorer.left_out)
    close(page.matrix(*kept), explorer.values(*kept), 0.004)


@pytest.mark.parametrize("width", [500, 1500])
def test_nothing_is_cut_off_whatever_the_width(width: int, explorer: AttentionExplorer, visit: Visit, tmp_path: Path):
    explorer.to_html(tmp_path / "page.html")
    page = Explorer(visit(tmp_path / "page.html", viewport={"width": width, "height": 800}))
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width


def test_modes_that_lack_their_data_cannot_be_chosen_and_say_why(visit: Visit, tmp_path: Path):
    cache = run()
    bare = ActivationCache({name: value for name, value in cache.items() if "hook_v" not in name}, cache.model)
    attention(bare).to_html(tmp_path / "page.html")
    page = Explorer(visit(tmp_path / "page.html"))
    assert page.host.locator("input[name=kind]:disabled").count() == 2
    assert page.host.get_by_title("the cache lacks hook_v").count() == 1
    assert "hook_v" in page.host.locator(".note").first.inner_text()
    assert page.host.locator("input[name=run]").count() == 0


def test_screen_readers_find_names_and_roles(page: Explorer):
    assert page.host.get_by_label("Map of 12 heads").count() == 1
    assert page.strip.get_by_role("option").count() == N
    assert (
        page.host.locator("section").get_attribute("aria-label")
        == "Attention of 3 layers x 4 heads over 9 tokens, clean and patched"
    )
    page.over_token(3)
    assert page.host.locator("[aria-selected=true]").get_attribute("title") == "3 “·the”"
    assert page.strip.get_attribute("aria-activedescendant") == "t3"
    assert page.readout.get_attribute("role") == "status"


# ---------------------------------------------------------------------------------------------- files


def saved(page: Explorer, kind: str) -> bytes:
    with page.page.expect_download() as download:
        page.host.get_by_role("button", name=f"save {kind}").click()
    assert download.value.suggested_filename == f"attention.{kind.lower()}"
    return Path(download.value.path()).read_bytes()


def test_pictures_are_saved_from_the_page(page: Explorer):
    page.change(head=3)
    assert saved(page, "PNG").startswith(b"\x89PNG")
    svg = ElementTree.fromstring(saved(page, "SVG"))
    texts = [node.text for node in svg.iter() if node.tag.endswith("text")]
    assert texts[:4] == ["the", "the", "·cat", "·cat"]
    assert next(node.text for node in svg.iter() if node.tag.endswith("title")) == "L0H3"


def test_the_saved_page_is_an_explorer_of_its_own(
    page: Explorer, explorer: AttentionExplorer, visit: Visit, tmp_path: Path
):
    (tmp_path / "copy.html").write_bytes(saved(page, "HTML"))
    copy = Explorer(visit(tmp_path / "copy.html"))
    close(copy.matrix(2, 1), explorer.values(2, 1), 0.004)
    assert copy.page.locator("figure img").count() == 1


def test_a_page_may_hold_an_explorer_twice_and_another_one(
    explorer: AttentionExplorer, small_page: str, visit: Visit, tmp_path: Path
):
    own = explorer._repr_mimebundle_()["text/html"]
    (tmp_path / "page.html").write_text(f"<!doctype html><body>{own}{small_page}{own}", encoding="utf-8")
    page = visit(tmp_path / "page.html")
    explorers = [Explorer(page, i) for i in range(3)]
    assert [len(e.matrix(0, 0)) for e in explorers] == [N * N, 4, N * N]
    explorers[0].change(head=7)
    assert explorers[2].state["head"] != 7


def test_the_widgets_module_draws_and_sends_the_selection(explorer: AttentionExplorer, visit: Visit, tmp_path: Path):
    pytest.importorskip("anywidget")
    widget = explorer.widget()
    (tmp_path / "page.html").write_text("<!doctype html><body><div id=here></div>", encoding="utf-8")
    page = visit(tmp_path / "page.html")
    page.evaluate(
        """async ([source, meta]) => {
            const module = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
            window.sent = [];
            const values = { _meta: meta };
            const model = {
                get: (name) => values[name],
                set: (name, value) => (values[name] = value),
                save_changes: () => sent.push(values.selection),
            };
            module.default.render({ model, el: document.getElementById("here") });
        }""",
        [str(widget._esm), json.loads(json.dumps(widget._meta))],
    )
    drawn = Explorer(page)
    drawn.map.click(position=drawn.thumbnail(2, 1))
    drawn.big.click(position=drawn.cell(4, 2))
    assert page.evaluate("sent.at(-1)") == {"layer": 2, "head": 1, "query": 4, "key": 2}
