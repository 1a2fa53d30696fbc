"""The explorer's page in a real browser: what it shows, and what a reader can do with it."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from browsing import HEADS, LAYERS, MINUS, SCORES, TOKENS, Explorer, N, Show, Visit, close, run, saved

from circuits.gallery.induction import induction_model
from interp import ConfigError
from interp.plot import AttentionExplorer, attention, still

# ---------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(("n", "atol"), [(N, 0.00002), (100, 0.004)])  # of few entries each takes two bytes
def test_values_in_the_page_are_within_004_of_numpys(n: int, atol: float, show: Show):
    clean, patched = (run(torch.randint(12, (1, n))) for _ in range(2))
    explorer = attention(clean, patched=patched, correct=1, incorrect=2, kind="attention")
    page = show(explorer)
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
def test_dropping_the_first_token_divides_the_rest_again_and_says_how_much_went(dir: str, show: Show):
    cache = run(attention_dir=dir)
    explorer = attention(cache, TOKENS)
    page = show(explorer)
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


def test_windows_and_padding_are_masked_and_not_zero(show: Show):
    mask = torch.ones(1, N, dtype=torch.bool)
    mask[0, :2] = False
    model = run(window_size=(3, 100, 4)).model
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.arange(N)[None], attention_mask=mask)
    explorer = attention(cache, TOKENS)
    page = show(explorer)
    for layer in range(LAYERS):
        close(page.matrix(layer, 1), explorer.values(layer, 1), 0.004)
        assert page.matrix(layer, 1)[5 * N + 1] is None
    page.change(head=0, pair=[7, 2])
    assert re.search(r"A\s+masked", page.readout.inner_text())
    assert "padding" in page.strip.locator("bdi").nth(1).get_attribute("class")


def test_a_hand_built_induction_head_draws_its_exact_stripe(show: Show):
    text = "!abcabcabc"
    model = induction_model("!abc", n_ctx=len(text))
    with torch.no_grad():
        _, cache = model.run_with_cache(text)
    explorer = attention(cache, text, head=(1, 0))
    page = show(explorer)
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
    page.host.locator("[name=by]").select_option(label="I: induction")
    page.host.get_by_label("order").select_option(label="by badge")
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


def test_badges_have_true_values_with_their_signs_and_sort_by_value_or_by_size(show: Show):
    effects = np.array([[0.25, -8.0, 0.0, 1.0], [2.0, -4.0, 4.2, -0.004], [-0.5, 0.0, 0.0, 0.1]])
    explorer = attention(run(), TOKENS, {"effect": effects})
    assert "effect: L0H1 -8, L1H2 +4.2, L1H1 -4, L1H0 +2, L0H3 +1" in repr(explorer).replace(MINUS, "-")
    page = show(explorer)
    page.page.evaluate("""host => {
        window.drawn = [];
        const { fillText } = CanvasRenderingContext2D.prototype;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
            drawn.push(text);
            fillText.call(this, text, ...rest);
        };
    }""")
    for order, first in (("by badge", [6, 4, 3]), ("by badge, either sign", [1, 6, 5]), ("by layer", [0, 1, 2])):
        page.host.get_by_label("order").select_option(label=order)
        for i, head in enumerate(first):
            page.map.hover(position=page.thumbnail(0, i))
            assert page.state["head"] == head
    page.change(least=0.5, head=7)
    assert page.page.evaluate("drawn.filter(text => text.startsWith('E '))")[-3:] == [
        f"E {MINUS}8",
        f"E {MINUS}4",
        "E +4.2",
    ]
    assert page.host.locator("output").inner_text() == "0.50 of the largest size, 8"
    assert f"effect {MINUS}0.004" in page.readout.inner_text()


def test_a_score_that_rounds_to_zero_has_no_sign(show: Show):
    scores = {"loss": np.where(np.arange(12).reshape(3, 4) == 6, -0.25, -0.0), "gain": np.full((3, 4), -0.004)}
    page = show(attention(run(), TOKENS, scores))
    for head, said in ((5, "loss 0.00, gain 0.00"), (6, f"loss {MINUS}0.25, gain 0.00")):
        page.change(head=head)
        assert said in page.readout.inner_text()


def test_heads_of_a_hand_built_circuit_have_the_names_that_it_declares(show: Show):
    model = induction_model()
    _, cache = model.run_with_cache("!abacb")
    explorer = attention(cache, "!abacb", {"s": np.array([[0.1], [0.9]])})
    assert "s: L1H0 induction 0.90, L0H0 previous 0.10" in repr(explorer)
    page = show(explorer)
    page.map.hover(position=page.thumbnail(0, 0))
    assert "L0H0 previous" in page.readout.inner_text()
    named = show(attention(cache, "!abacb", names={"mine": "L0H0", "embed": "embed"}))
    named.change(head=0)
    assert "L0H0 mine" in named.readout.inner_text()
    with pytest.raises(ConfigError, match="a mapping from names to heads"):
        attention(cache, names={"mine": 3})  # pyright: ignore[reportArgumentType]


def test_heads_sort_and_filter_by_what_the_locked_query_gives_to_the_locked_key(
    explorer: AttentionExplorer, page: Explorer
):
    page.host.get_by_label("order").select_option(label="by the locked cell")
    assert page.host.locator("output").inner_text() == "(click a cell to lock it)"
    page.page.evaluate("document.querySelector('[data-ready]').explorer.change({ least: 0.1 })")
    for kind, which, name, of in (
        (0, 0, "attention", "clean"),
        (0, 1, "attention", "patched"),
        (1, 0, "weighted", "clean"),
    ):
        page.change(kind=kind, run=which, lock=[7, 2], pair=[7, 2], only=False)
        values = np.array([explorer.values(*at, name, of)[7, 2] for at in np.ndindex(LAYERS, HEADS)])  # pyright: ignore
        order = np.argsort(-values, kind="stable")
        shown = [page.host.evaluate("(host, i) => host.explorer.order()[i]", i) for i in range(LAYERS * HEADS)]
        np.testing.assert_allclose(values[shown], values[order], atol=0.002 * values.max())
        page.change(only=True)
        top = 1.0 if not kind else max(float(np.nanmax(explorer.values(*at, name))) for at in np.ndindex(LAYERS, HEADS))  # pyright: ignore
        assert len(page.host.evaluate("host => host.explorer.order()")) == (values >= 0.1 * top).sum()
    page.change(lock=[None, None], pair=[None, None])
    assert page.host.evaluate("host => host.explorer.order()") == list(range(LAYERS * HEADS))


@pytest.mark.parametrize("drop", [False, True])
def test_the_map_of_keys_shows_what_one_query_gives_to_every_key_in_all_heads(
    explorer: AttentionExplorer, page: Explorer, drop: bool
):
    page.choose("keys of one query")
    page.change(drop=drop)
    assert (
        page.host.evaluate("host => host.explorer.grid().query") == N - 1
    )  # the last token, as long as none is chosen
    page.change(lock=[6, None], pair=[6, None])
    for which in range(3):
        page.change(run=which)
        for layer, head in ((0, 1), (2, 3)):
            row = page.host.evaluate(
                "(host, [head, q]) => [...host.explorer.line(head, q)].map(v => isNaN(v) ? null : v)",
                [layer * HEADS + head, 6],
            )
            close(row, np.array(page.matrix(layer, head), dtype=float).reshape(N, N)[6], 1e-6)
    page.change(run=0)
    grid = page.host.evaluate("host => host.explorer.grid()")
    assert grid["query"] == 6
    at = {"x": grid["left"] + 3.5 * grid["dx"], "y": 14 * 7 + 6}
    page.map.hover(position=at)
    assert (page.state["head"], page.state["pair"]) == (7, [6, 3])
    page.map.click(position=at)
    assert page.selection == {"stack": "decoder", "layer": 1, "head": 3, "query": 6, "key": 3}
    ring = page.host.locator(".map i").bounding_box()
    assert abs(ring["y"] + 7 - page.map.bounding_box()["y"] - at["y"]) < 3
    page.map.press("ArrowDown")
    assert page.selection["layer"] == 2


def test_a_page_opens_on_what_its_caller_locked(show: Show):
    cache = run()
    between = [attention(cache).values(*at)[7, 2] for at in np.ndindex(LAYERS, HEADS)]
    for name, options, expected in (
        ("cell", {"lock_query": 7, "lock_key": -7}, {"layer": None, "head": None, "query": 7, "key": 2}),
        ("query", {"lock_query": -1, "head": (1, 2)}, {"layer": 1, "head": 2, "query": N - 1, "key": None}),
        ("key", {"lock_key": 3, "head": (2, 0)}, {"layer": 2, "head": 0, "query": None, "key": 3}),
        ("nothing", {}, {"layer": None, "head": None, "query": None, "key": None}),
    ):
        page = show(attention(cache, TOKENS, SCORES, **options))  # pyright: ignore
        assert page.selection == {"stack": "decoder"} | expected
        assert page.state["pair"] == [expected["query"], expected["key"]]
        assert page.host.locator("input[name=role]:checked").input_value() == str(int(name == "key"))
        if name == "cell":
            assert page.state["head"] == int(np.argmax(between))
    with pytest.raises(ConfigError, match="lock_query = 9; allowed: -9 to 8"):
        attention(cache, lock_query=9)
    with pytest.raises(ConfigError, match="sees no key 8 in any head"):
        attention(cache, lock_query=3, lock_key=8)


def test_two_runs_stand_side_by_side_with_their_difference_under_the_names_that_they_were_given(show: Show):
    base, tuned = run(), run(seed=4)  # two models
    explorer = attention(base, TOKENS, patched=tuned, run_names=("base", "tuned"))
    assert "9 tokens, base and tuned" in repr(explorer)
    page = show(explorer, viewport={"width": 1400, "height": 900})
    page.choose("side by side")
    page.change(head=5)
    assert "tuned \u2212 base" in page.host.locator(".legend").inner_text()
    close(page.matrix(1, 1), explorer.values(1, 1, run="difference"), 0.001)
    frame = page.host.evaluate("host => host.explorer.frame()")
    assert frame["many"] == 3
    for panel, (name, kind) in enumerate((("clean", "positive"), ("patched", "positive"))):
        colours = still.between(still.PALETTE["light"][kind], 256)
        values = explorer.values(1, 1, run=name)  # pyright: ignore[reportArgumentType]
        for q, k in ((3, 1), (8, 4), (6, 6)):
            at = page.cell(q, k)
            x, y = at["x"] + panel * frame["step"], at["y"]
            script = "(c, [x, y]) => [...c.getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3)"
            want = [int(colours[round(255 * float(values[q, k]) ** 0.5)][j : j + 2], 16) for j in (1, 3, 5)]
            np.testing.assert_allclose(page.big.evaluate(script, [x, y]), want, atol=6)
    at = page.cell(7, 2)
    page.big.hover(position={"x": at["x"] + 2 * frame["step"], "y": at["y"]})
    assert page.state["pair"] == [7, 2]
    assert re.search(r"base\s+tuned\s+difference", page.readout.inner_text())
    with pytest.raises(ConfigError, match="two different names"):
        attention(base, patched=tuned, run_names=("a", "a"))


def test_tokens_are_those_of_the_run_that_is_shown(page: Explorer):
    labels = [token.replace(" ", "·").replace("\n", "⏎") for token in TOKENS]
    strip = page.strip.locator("bdi")
    page.change(pair=[7, 1])
    assert "query 7 “·” (patched: “·cat”) → key 1 “·cat” (patched: “·”)" in page.readout.inner_text()
    page.change(run=1)
    assert strip.all_inner_texts() == labels[::-1]
    assert strip.nth(0).get_attribute("title") == "0 “end”"
    assert "query 7 “·cat” (clean: “·”) → key 1 “·” (clean: “·cat”)" in page.readout.inner_text()
    svg = ElementTree.fromstring(saved(page, "SVG"))
    assert [node.text for node in svg.iter() if node.tag.endswith("text")] == labels[::-1] * 2
    page.page.evaluate("""() => {
        window.drawn = [];
        const { fillText } = CanvasRenderingContext2D.prototype;
        CanvasRenderingContext2D.prototype.fillText = function (...given) {
            drawn.push(given[0]);
            fillText.apply(this, given);
        };
    }""")
    page.change(run=3, pair=[None, None], head=HEADS + 2)
    assert strip.all_inner_texts() == labels
    page.page.evaluate("drawn.length = 0")
    page.change(pair=[3, None])  # the head alone: its rows, then the columns of three panels
    drawn = page.page.evaluate("drawn.filter(text => text !== 'dropped')")
    at = drawn.index("the", drawn.index("L1H2"))
    assert drawn[at : at + 4 * N] == [*labels, *labels, *labels[::-1], *labels]


def test_a_page_of_two_runs_may_open_on_their_difference_in_the_head_that_differs_most(show: Show):
    base, other = run(), run(torch.arange(N).flip(0)[None])
    for which, kind in (("side by side", "attention"), ("difference", "contribution")):
        explorer = attention(base, TOKENS, patched=other, run=which, kind=kind, correct=1, incorrect=2)  # pyright: ignore
        page = show(explorer)
        assert page.host.locator("input[name=run]:checked + span").inner_text() == which
        changes = [np.nansum(np.abs(explorer.values(*at, kind, "difference"))) for at in np.ndindex(LAYERS, HEADS)]  # pyright: ignore
        assert page.state["head"] == int(np.argmax(changes))
    with pytest.raises(ConfigError, match="without patched="):
        attention(base, run="difference")
    with pytest.raises(ConfigError, match="did you mean 'difference'"):
        attention(base, patched=other, run="diference")  # pyright: ignore[reportArgumentType]


def test_an_initial_order_can_be_asked_for(show: Show):
    page = show(attention(run(), TOKENS, SCORES, sort_by="previous"))
    assert page.state["head"] == 0
    assert page.host.locator("[name=by]").input_value() == "1"
    assert page.host.get_by_label("order").input_value() == "1"


def test_a_page_says_its_title_and_note_above_the_heads(show: Show, visit: Visit, tmp_path: Path):
    title, note = "Attention of <b>m</b> on “the cat”", "Scores: of 16 prompts & not of this text."
    page = show(attention(run(), TOKENS, SCORES, title=title, note=note))
    assert page.page.title() == title
    heading, below = page.host.locator("h2"), page.host.locator(".note")
    assert (heading.inner_text(), below.inner_text()) == (title, note)
    tops = [one.bounding_box()["y"] for one in (heading, below, page.host.locator("header"), page.map)]
    assert tops == sorted(tops)
    (tmp_path / "copy.html").write_bytes(saved(page, "HTML"))
    copy = Explorer(visit(tmp_path / "copy.html"))
    assert (copy.page.title(), copy.host.locator("h2").inner_text()) == (title, title)


def test_a_page_may_open_on_contributions_with_its_head_in_view(show: Show):
    cache = run(n_layers=24, n_heads=2)
    explorer = attention(cache, TOKENS, correct=1, incorrect=2, kind="contribution", head=(23, 1))
    page = show(explorer)
    assert page.host.locator("input[name=kind]:checked").input_value() == "2"
    assert "contribution to logit “1”" in page.host.locator(".legend").inner_text()
    close(page.matrix(23, 1), explorer.values(23, 1, "contribution"), 0.01)
    ring, box = page.host.locator(".map i").bounding_box(), page.host.locator(".map").bounding_box()
    assert box["y"] <= ring["y"] <= box["y"] + box["height"] - ring["height"]


# ---------------------------------------------------------------------------------------------- files


def test_pictures_are_saved_from_the_page(page: Explorer):
    page.change(head=3)
    assert saved(page, "PNG").startswith(b"\x89PNG")
    page.choose("keys of one query")  # whose keys are in the picture as well
    sizes = [canvas.evaluate("c => c.height") for canvas in (page.host.locator("canvas.top"), page.map, page.big)]
    assert int.from_bytes(saved(page, "PNG")[20:24], "big") == max(sizes[0] + sizes[1], sizes[2]) + 16
    svg = ElementTree.fromstring(saved(page, "SVG"))
    texts = [node.text for node in svg.iter() if node.tag.endswith("text")]
    assert texts == [*page.strip.locator("bdi").all_inner_texts()] * 2
    assert next(node.text for node in svg.iter() if node.tag.endswith("title")) == "L0H3: attention, clean"


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
    assert page.evaluate("sent.at(-1)") == {
        "stack": "decoder", "layer": 2, "head": 1, "query": 4, "key": 2
    }  # fmt: skip
