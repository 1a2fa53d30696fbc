"""States of the explorer that few readers reach, and texts and sizes that few models have."""

import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from browsing import TOKENS, Explorer, N, Show, run, saved
from conftest import ARGUMENTS

from interp.plot import attention

WALK = """host => {
    const { state, change } = host.explorer, said = [], drawn = new Set();
    const { fillText } = CanvasRenderingContext2D.prototype;
    CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
        drawn.add(text);
        fillText.call(this, text, ...rest);
    };
    for (const run of [0, 1, 2, 3]) for (const kind of [0, 1, 2]) for (const drop of [false, true])
        for (const view of [0, 1]) for (const sort of [0, 3]) {
            const pair = [70 + run, 3 + kind], head = (state.head + 5) % 48;
            change({ run, kind, drop, view, sort, head, pair, lock: sort ? pair : [null, null], own: !state.own });
            said.push(host.shadowRoot.querySelector(".one").innerText);
        }
    return [said, [...drawn]];
}"""


def test_no_state_of_a_page_whose_heads_are_pooled_breaks_it(show: Show):
    size = {"n_layers": 4, "n_heads": 12, "d_model": 48}
    base, other = (run(ids[None] % 12, **size) for ids in (torch.arange(100), torch.arange(100).flip(0)))
    explorer = attention(base, patched=other, correct=1, page_bytes=300_000)
    assert 10 < len(explorer.pooled) < 40
    said, drawn = show(explorer).host.evaluate(WALK)
    assert len(said) == 96 and not [one for one in said if "NaN" in one or "undefined" in one]
    assert any("no token can be dropped" in one for one in said)
    assert "masked" not in drawn and "pooled" in " ".join(drawn)  # what is not known of a head is not masked in it


@pytest.mark.parametrize("width", [700, 1000, 1280, 1400, 1920])
def test_no_head_is_cut_off_where_scrollbars_take_room(chromium: Any, tmp_path: Path, width: int):
    attention(run(torch.arange(8)[None], n_layers=30, n_heads=9, d_model=18)).to_html(tmp_path / "page.html")
    with_scrollbars = chromium.browser_type.launch(
        executable_path=shutil.which("chromium"), args=ARGUMENTS, ignore_default_args=["--hide-scrollbars"]
    )
    page = with_scrollbars.new_page(viewport={"width": width, "height": 900})
    page.goto((tmp_path / "page.html").as_uri())
    room = Explorer(page).host.locator(".map").evaluate("map => [map.scrollWidth, map.clientWidth, map.offsetWidth]")
    with_scrollbars.close()
    assert room[0] == room[1] < room[2]  # nothing to scroll sideways, beside a bar that takes room


def test_a_saved_picture_takes_no_name_of_a_head_for_markup(show: Show):
    page = show(attention(run(), TOKENS, names={"<b> & co": "L0H0"}, head=(0, 0)))
    title = next(node for node in ElementTree.fromstring(saved(page, "SVG")).iter() if node.tag.endswith("title"))
    assert title.text == "L0H0 <b> & co: attention"


def test_words_from_right_to_left_keep_their_numbers_beside_them(show: Show):
    words = ["בראשית", "ברא", "אלהים", "את", "השמים", "ואת", "הארץ", "x", "."]
    page = show(attention(run(sharpness=1.0), words))
    page.change(pair=[6, None])
    where = """readout => {
        const text = readout.lastChild.firstChild, range = document.createRange(), found = [];
        for (const { 0: entry, index } of text.data.matchAll(/\\d+ “.*?” [\\d.]+/g)) {
            const left = (at) => {
                range.setStart(text, at), range.setEnd(text, at + 1);
                return range.getBoundingClientRect().left;
            };
            found.push([left(index), left(index + entry.lastIndexOf("“")), left(index + entry.length - 1)]);
        }
        return found;
    }"""
    page.page.set_viewport_size({"width": 2400, "height": 900})  # all in one line
    entries = page.readout.evaluate(where)
    assert len(entries) == 6
    flat = [x for entry in entries for x in entry]
    assert flat == sorted(flat)


def test_the_map_of_a_model_of_thousands_of_heads_is_drawn_to_its_end(show: Show):
    page = show(attention(run(torch.arange(3)[None], n_layers=80, n_heads=64, d_model=64)), device_scale_factor=2)
    page.choose("keys of one query")
    script = """canvas => {
        const { data } = canvas.getContext("2d").getImageData(canvas.width - 9, canvas.height - 3, 1, 1);
        return data[3];
    }"""
    assert page.map.evaluate(script) == 255
    assert page.map.evaluate("canvas => canvas.clientHeight") == 14 * 80 * 64


def test_filtering_by_a_badge_holds_in_the_map_of_keys_too(page: Explorer, show: Show):
    page.choose("keys of one query")
    page.change(by=0, only=True, least=0.45)
    assert page.host.evaluate("host => host.explorer.order()") == [4, 6, 9]
    bare = show(attention(run(), TOKENS))
    bare.change(view=1, only=True)  # as a stack without badges finds it
    assert len(bare.host.evaluate("host => host.explorer.order()")) == 12


@pytest.mark.parametrize("key", ["Alt+ArrowDown", "Control+ArrowRight", "Meta+Enter"])
def test_keys_that_belong_to_the_browser_are_left_to_it(page: Explorer, key: str):
    page.change(head=5)
    page.map.focus()
    page.page.keyboard.press(key)
    assert page.state["head"] == 5 and page.selection["head"] is None


def test_where_no_query_but_the_dropped_one_saw_it_no_average_is_told(show: Show):
    mask = torch.zeros(1, N, dtype=torch.bool)
    mask[0, 0] = True
    with torch.no_grad():
        _, cache = run(attention_dir="bidirectional").model.run_with_cache(torch.arange(N)[None], attention_mask=mask)
    page = show(attention(cache, TOKENS))
    page.choose("drop first token")
    assert "on average" not in page.readout.inner_text()
    assert np.isnan(np.array(page.matrix(0, 0), dtype=float)[:N]).all()


def test_every_head_has_its_name_below_it_in_the_ink_of_the_theme(page: Explorer):
    script = """(canvas, [x, y, wide]) => {
        const { data } = canvas.getContext("2d").getImageData(x, y, wide, 14);
        let darkest = 255;
        for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200) darkest = Math.min(darkest, data[i]);
        return darkest;
    }"""
    for sort in (0, 1, 3):  # with badges, and with what the locked cell has
        page.change(sort=sort, by=-1, lock=[7, 2], pair=[7, 2], least=0.05)
        for i in range(12):
            x, y = page.host.evaluate("(host, i) => host.explorer.spot(i)", i)
            thumb = page.host.evaluate("host => host.explorer.spot(1)[0]") - 6
            assert page.map.evaluate(script, [x + 3, y + thumb + 4, thumb]) < 90, (sort, i)
