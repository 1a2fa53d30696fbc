"""The explorer of an encoder with a decoder in a real browser: stacks to choose from, and two lists of tokens."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from browsing import Explorer, Show, Visit, close, saved
from measuring import WRITTEN, check_fits, check_looks

from interp import EncoderDecoderConfig, HookedEncoderDecoder, PairCache, TransformerConfig
from interp.plot import AttentionExplorer, attention, still

SOURCE = ["<b>the", " red", " house", " is", " old", "."]
TARGET = ["<s>", "la", " maison", " rouge"]
STACKS = {"encoder": (2, 3), "decoder": (3, 2), "cross_attn": (3, 2)}
"""Layers and heads of each stack, in the order of the page."""


def run(n_source: int = len(SOURCE), n_target: int = len(TARGET)) -> PairCache:
    """A random pair's run, the last token of the source padding."""
    sizes: dict[str, Any] = {"d_head": 4, "n_ctx": 64, "d_vocab": 12, "seed": 3, "attn_only": True}
    encoder = TransformerConfig(
        n_layers=2, n_heads=3, d_model=12, attention_dir="bidirectional", d_vocab_out=0, **sizes
    )
    decoder = TransformerConfig(n_layers=3, n_heads=2, d_model=8, d_memory=12, **sizes)
    model = HookedEncoderDecoder(EncoderDecoderConfig(encoder=encoder, decoder=decoder))
    mask = torch.ones(1, n_source)
    mask[0, -1] = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("W_Q"):
                parameter.mul_(8)  # uneven attention
        source, target = torch.arange(n_source)[None] % 12, torch.arange(n_target)[None] % 12
        return model.run_with_cache(source, target, source_mask=mask)[1]


@pytest.fixture(scope="module")
def explorer() -> AttentionExplorer:
    scores = {"cross_attn": {"last": np.arange(6).reshape(3, 2) / 6}, "encoder": {"next": np.eye(2, 3)}}
    return attention(run(), TARGET, scores, source_tokens=SOURCE, correct=1, incorrect=2, kind="attention")


@pytest.fixture
def page(explorer: AttentionExplorer, show: Show) -> Explorer:
    return show(explorer)


def colours_of(tokens: Any) -> list[list[int] | None]:
    """The background of each token as red, green and blue; None where it is masked."""
    script = "e => getComputedStyle(e).backgroundColor.match(/\\d+/g).map(Number)"
    every = [tokens.nth(i) for i in range(tokens.count())]
    return [None if "masked" in one.get_attribute("class") else one.evaluate(script) for one in every]


def shades_of(values: np.ndarray) -> list[list[int] | None]:
    """The colours that these shares have, None where NaN."""
    table = still.between(still.PALETTE["light"]["positive"], 256)
    return [
        None if np.isnan(v) else [int(table[round(255 * float(v) ** 0.5)][j : j + 2], 16) for j in (1, 3, 5)]
        for v in values
    ]


def near(got: list[list[int] | None], want: list[list[int] | None]) -> bool:
    """Equal but for rounding, and masked in the same places."""
    values = [np.array([one or [-99, -99, -99] for one in some]) for some in (got, want)]
    return len(got) == len(want) and np.abs(values[0] - values[1]).max() <= 6


def test_each_stack_is_chosen_in_the_page_and_has_its_own_heads_tokens_and_values(
    page: Explorer, explorer: AttentionExplorer
):
    assert page.host.locator("input[name=stack]:checked").input_value() == "2"
    for label, (name, (layers, heads)) in zip(("encoder", "decoder", "cross-attention"), STACKS.items(), strict=True):
        page.choose(label)
        assert page.selection["stack"] == name
        assert page.map.get_attribute("aria-label").startswith(f"Map of {layers * heads} heads")
        for at in np.ndindex(layers, heads):
            close(page.matrix(*at), explorer.values(*at, stack=name), 0.00002)  # pyright: ignore[reportArgumentType]
        page.map.hover(position=page.thumbnail(layers - 1, heads - 1))
        assert f"L{layers - 1}{'X' if name == 'cross_attn' else 'H'}{heads - 1}" in page.readout.inner_text()
        labels = [one.replace(" ", "·") for one in (SOURCE if name == "encoder" else TARGET)]
        assert page.strip.locator("bdi").all_inner_texts() == labels
        assert page.sources.is_visible() == (name == "cross_attn")
        assert page.host.locator("input[name=role]").first.is_visible() == (name != "cross_attn")
        assert page.host.get_by_label("drop last token").is_visible() == (name != "decoder")
        assert page.host.locator(".badge").is_visible() == (name != "decoder")


def test_what_the_encoder_lacks_cannot_be_chosen_there_and_says_why(page: Explorer, explorer: AttentionExplorer):
    page.choose("logit contribution")
    close(page.matrix(2, 1), explorer.values(2, 1, "contribution"), 0.01)
    page.choose("encoder")
    assert page.host.locator("input[name=kind]:disabled").count() == 1
    assert page.host.get_by_title("the encoder writes to no logit").count() == 1
    assert page.state["kind"] == 0
    close(page.matrix(1, 1), explorer.values(1, 1, stack="encoder"), 0.00002)
    page.choose("decoder")
    assert page.host.locator("input[name=kind]:disabled").count() == 0


def test_a_token_of_either_text_colours_the_other_text_and_a_click_locks_it(
    page: Explorer, explorer: AttentionExplorer
):
    page.change(head=3)
    values, (sources, targets) = explorer.values(1, 1), (page.sources.locator("bdi"), page.strip.locator("bdi"))
    page.over_token(2)
    assert page.state["pair"] == [2, None]
    assert near(colours_of(sources), shades_of(values[2]))
    assert "target 2 “·maison”: " in page.readout.inner_text()
    sources.nth(4).hover()
    assert page.state["pair"] == [None, 4]
    assert near(colours_of(targets), shades_of(values[:, 4]))
    assert "source 4 “·old”: " in page.readout.inner_text()
    targets.nth(3).click()
    targets.nth(0).hover()
    assert page.state["pair"] == [3, None]
    assert near(colours_of(sources), shades_of(values[3]))
    sources.nth(1).hover()
    assert page.state["pair"] == [3, 1]
    assert "target 3 “·rouge” → source 1 “·red” (locked)" in page.readout.inner_text()
    sources.nth(1).click()
    assert page.selection == {"stack": "cross_attn", "layer": None, "head": None, "query": 3, "key": 1}
    sources.nth(2).hover()
    assert page.state["pair"] == [3, 1]
    page.sources.press("Escape")
    assert page.selection["query"] is None


def test_arrow_keys_move_within_the_text_that_has_the_focus(page: Explorer):
    page.sources.press("ArrowRight")
    page.sources.press("ArrowRight")
    page.sources.press("Enter")
    assert (page.selection["query"], page.selection["key"]) == (None, 1)
    assert page.sources.get_attribute("aria-activedescendant") == "s1"
    page.strip.press("ArrowRight")
    assert (page.selection["query"], page.selection["key"]) == (0, 1)
    for _ in range(9):
        page.strip.press("ArrowRight")
        page.sources.press("ArrowRight")
    assert (page.selection["query"], page.selection["key"]) == (3, 5)
    page.big.press("ArrowUp")
    assert (page.selection["query"], page.selection["key"]) == (2, 5)
    assert page.host.locator("[aria-selected=true]").all_inner_texts() == [".", "·maison"]
    assert page.sources.get_attribute("aria-label").startswith("Source tokens")


def test_a_cell_of_a_rectangle_is_the_one_under_the_pointer(show: Show):
    for n_source, n_target in ((40, 3), (3, 40), (6, 4)):
        page = show(attention(run(n_source, n_target)))
        for pair in ((n_target - 1, 0), (0, n_source - 1), (n_target // 2, n_source // 2)):
            page.big.hover(position=page.cell(*pair))
            assert page.state["pair"] == list(pair)


def test_a_locked_token_and_a_head_are_kept_where_the_next_stack_has_them(page: Explorer):
    page.strip.locator("bdi").nth(2).click()
    page.map.click(position=page.thumbnail(1, 0))
    page.choose("decoder")
    assert (page.selection["query"], page.selection["key"], page.selection["head"]) == (2, None, None)
    page.choose("encoder")
    assert page.selection["query"] is None
    page.strip.locator("bdi").nth(3).click()
    page.choose("cross-attention")
    assert (page.selection["query"], page.selection["key"]) == (None, 3)
    assert (page.selection["layer"], page.selection["head"]) == (1, 0)


def test_dropping_the_ends_of_the_source_divides_the_rest_again_and_says_how_much_went(
    page: Explorer, explorer: AttentionExplorer
):
    page.choose("drop first token")
    page.choose("drop last token")
    for layer, head in np.ndindex(3, 2):
        want = explorer.values(layer, head).copy()
        close(page.lost(layer, head), want[:, 0] + want[:, 4], 0.0001)  # the sixth is padding
        want[:, [0, 4]] = np.nan
        close(page.matrix(layer, head), want / np.nansum(want, axis=1, keepdims=True), 0.001)
    assert "dropped with tokens 0 “<b>the” and 4 “·old”: " in page.readout.inner_text()
    page.change(pair=[1, 2])
    assert "A of the first and last tokens" in page.readout.inner_text()
    page.choose("decoder")
    assert page.state["tail"] is False
    close(page.lost(0, 0), explorer.values(0, 0, stack="decoder")[:, 0], 0.0001)


def test_a_saved_page_and_picture_have_both_texts(
    page: Explorer, explorer: AttentionExplorer, visit: Visit, tmp_path: Path
):
    svg = ElementTree.fromstring(saved(page, "SVG"))
    texts = [node.text for node in svg.iter() if node.tag.endswith("text")]
    assert texts == [token.replace(" ", "·") for token in [*TARGET, *SOURCE]]
    assert saved(page, "PNG").startswith(b"\x89PNG")
    page.choose("encoder")
    (tmp_path / "copy.html").write_bytes(saved(page, "HTML"))
    copy = Explorer(visit(tmp_path / "copy.html"))
    close(copy.matrix(2, 1), explorer.values(2, 1), 0.00002)
    assert copy.sources.locator("bdi").all_inner_texts()[0] == SOURCE[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_two_texts_have_contrast_and_fit_a_narrow_cell(explorer: AttentionExplorer, scheme: str, show: Show):
    options: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": 480, "height": 800}}
    page = show(explorer, **options)
    page.host.evaluate(WRITTEN)
    for stack, view, drop in np.ndindex(3, 2, 2):
        for pair in ([0, None], [1, 2], [None, 3]):
            page.change(stack=stack, view=view, drop=bool(drop), head=4, pair=pair)
            check_looks(page, 40, (stack, view, drop, pair))
    check_fits(page.page)
