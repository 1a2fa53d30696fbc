"""The page of `interp demo` in a real browser: the two heads, and the lecture's table beside them."""

from pathlib import Path

import pytest
from browsing import Explorer, Visit
from measuring import WRITTEN, check_fits, check_looks

from circuits.commands.demo import demo


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("demo") / "induction.html"
    demo(out=file, quiet=True)
    return file


def test_the_page_opens_on_the_match_with_the_lectures_table_beside_it(written: Path, visit: Visit):
    for width, scheme in ((1280, "light"), (1920, "dark")):
        page = Explorer(visit(written, viewport={"width": width, "height": 900}, color_scheme=scheme))
        panels = [page.page.locator("figure.panel").nth(i).bounding_box() for i in range(4)]
        heads, table, predictions, readings = panels
        assert heads["y"] == table["y"]
        assert heads["x"] + heads["width"] < table["x"] == predictions["x"]
        assert table["y"] + table["height"] <= predictions["y"]
        assert max(one["y"] + one["height"] for one in panels[:3]) <= readings["y"]
        blank = abs(heads["height"] - table["height"] - predictions["height"])
        assert blank < 0.15 * heads["height"]
        page.host.evaluate(WRITTEN)
        page.change(pair=page.state["pair"], all=True)
        check_looks(page, 30, (width, scheme))
    assert page.selection == {"stack": "decoder", "layer": 1, "head": 0, "query": 5, "key": None}
    assert "query 5 “b” (locked): 3 “a” 1.0000" in page.readout.inner_text()
    assert "L1H0 induction (locked) previous token 0.41, induction 1.00" in page.readout.inner_text()
    page.choose("logit contribution")
    assert "contribution to logit “a”" in page.host.locator(".legend").inner_text()


def test_a_narrow_window_has_the_panels_below_each_other_and_nothing_cut_off(written: Path, visit: Visit):
    page = Explorer(visit(written, viewport={"width": 480, "height": 900}))
    panels = [page.page.locator("figure.panel").nth(i).bounding_box() for i in range(4)]
    assert len({one["x"] for one in panels}) == 1
    assert [one["y"] for one in panels] == sorted(one["y"] for one in panels)
    check_fits(page.page)
