"""The explorer without a mouse or without eyes: every mode by keys, and labels that say what is shown."""

import numpy as np
from browsing import TOKENS, Explorer, N, Show, run

from interp.plot import attention


def press(page: Explorer, *keys: str) -> None:
    for key in keys:
        page.page.keyboard.press(key)


def focused(page: Explorer) -> str:
    """The name of the control, or the role of the part, that has the focus."""
    script = "host => (e => e ? e.name || e.getAttribute('role') || e.textContent : '')(host.shadowRoot.activeElement)"
    return page.host.evaluate(script)


def test_tab_reaches_every_control_and_every_part(page: Explorer):
    seen: list[str] = []
    for _ in range(40):
        press(page, "Tab")
        if (name := focused(page)) and (not seen or name != seen[-1]):
            seen.append(name)
    controls = ["kind", "run", "role", "drop", "own", "view", "sort", "by", "least", "only", "PNG", "SVG", "HTML"]
    assert seen[: len(controls) + 2] == [*controls, "listbox", "application"]


def test_every_mode_is_set_by_keys_and_the_labels_say_which(page: Explorer):
    def said() -> str:
        return f"{page.map.get_attribute('aria-label')} | {page.big.get_attribute('aria-label')}"

    page.change(head=6)
    assert "Map of 12 heads: attention, clean. Arrow keys move" in said()
    assert "Head L1H2: attention, clean; query down, key across. Arrow keys move" in said()
    page.host.locator("[name=kind]").first.focus()
    press(page, "ArrowRight")
    assert (page.state["kind"], "|v W_O|, clean" in said()) == (1, True)
    press(page, "ArrowRight")
    assert "contribution to logit “1” \u2212 logit “2”, clean" in said()
    page.host.locator("[name=run]").first.focus()
    for i, name in enumerate(("patched", "difference", "side by side"), start=1):
        press(page, "ArrowRight")
        assert (page.state["run"], said().count(f", {name}")) == (i, 2)
    page.host.locator("[name=view]").first.focus()
    press(page, "ArrowRight")
    assert f"what query {N - 1} “end” gives to each key" in said()
    for name in ("drop", "own", "only"):
        page.host.locator(f"[name={name}]").focus()
        press(page, "Space")
        assert page.state[name] is True
    page.host.locator("[name=least]").focus()
    press(page, "End")
    assert page.state["least"] == 1
    page.host.get_by_label("order").select_option(label="by badge")
    assert "Map of 0 heads" in said()


def test_keys_go_from_key_to_key_in_the_map_of_one_query_and_lock_a_cell(page: Explorer):
    page.choose("keys of one query")
    page.change(head=5)
    page.map.focus()
    press(page, "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft")
    assert page.state["pair"] == [N - 1, 1]
    press(page, "ArrowDown", "Enter")
    assert page.selection == {"stack": "decoder", "layer": 1, "head": 2, "query": N - 1, "key": 1}
    press(page, "ArrowRight")
    assert (page.selection["query"], page.selection["key"]) == (N - 1, 2)
    press(page, *["ArrowRight"] * N)
    assert page.selection["key"] == N - 1
    press(page, "Escape")
    assert (page.selection["head"], page.selection["key"]) == (None, None)


def test_screen_readers_find_names_and_roles(page: Explorer):
    assert page.host.get_by_label("Map of 12 heads").count() == 1
    assert page.strip.get_by_role("option").count() == N
    section = page.host.locator("section")
    assert section.get_attribute("aria-label") == "Attention of 3 layers x 4 heads over 9 tokens, clean and patched"
    assert page.strip.get_attribute("aria-activedescendant") is None
    page.over_token(3)
    assert page.host.locator("[aria-selected=true]").get_attribute("title") == "3 “·the”"
    assert page.strip.get_attribute("aria-activedescendant") == "t3"
    assert page.readout.get_attribute("role") == "status"


def test_arrow_keys_follow_the_rows_of_a_map_whose_layers_take_several(show: Show):
    scores = {"s": np.arange(64).reshape(2, 32) / 64}
    page = show(
        attention(run(n_layers=2, n_heads=32, d_model=64), TOKENS, scores), viewport={"width": 1000, "height": 900}
    )
    page.change(head=3)
    page.map.focus()
    press(page, "ArrowDown")
    assert page.state["head"] == 3 + 8
    press(page, "ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight")
    assert page.state["head"] == 32 + 3 + 1
    for head in (0, 7, 8, 31, 32, 63):
        x, y = page.host.evaluate("(host, i) => host.explorer.spot(i)", head)
        page.map.hover(position={"x": x + 12, "y": y + 12})
        assert page.state["head"] == head
    widths = page.host.locator(".map").evaluate("e => [e.scrollWidth, e.clientWidth]")
    assert widths[0] <= widths[1]
