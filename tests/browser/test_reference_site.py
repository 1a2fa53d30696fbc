"""The reference in a real browser, opened from a disk: the search, formulas, light and dark, narrow and wide."""

from pathlib import Path
from typing import Any

import pytest
from browsing import Visit
from measuring import CONTRAST, check_fits

from interp.commands.reference import packages, rooms, write_site

pytest.importorskip("pdoc")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    write_site(folder)
    return folder


def search(page: Any, text: str) -> Any:
    """What is found first, once it is."""
    page.locator("input[type=search]").fill(text)
    found = page.locator(".search-result > a")
    found.first.wait_for()
    return found


@pytest.mark.parametrize("start", ["index.html", "interp/lens.html"])
def test_typing_a_name_finds_its_page_from_anywhere(start: str, site: Path, visit: Visit):
    page = visit(site / start, within=site.as_uri())
    found = search(page, "run_with_cache")
    addresses = [one.get_attribute("href") for one in found.all()]
    assert any(one.endswith("interp/model.html#HookedTransformer.run_with_cache") for one in addresses[:3]), addresses
    found = search(page, "copying_scores")
    found.first.click()
    page.locator("[id=copying_scores]").wait_for()
    assert page.url == f"{site.as_uri()}/interp/weights.html#copying_scores"


def test_a_question_finds_its_recipe(site: Path, visit: Visit):
    page = visit(site / "index.html", within=site.as_uri())
    found = search(page, "ablate a head over a corpus")
    assert found.first.get_attribute("href") == "how_do_i.html#ablate-a-head-over-a-corpus"
    found.first.click()
    page.locator("h3", has_text="Ablate a head over a corpus").wait_for()


def test_a_formula_is_drawn_with_indices_and_powers(site: Path, visit: Visit):
    page = visit(site / "interp/weights.html")
    formula = page.locator("#qk_circuit .formula").first
    assert formula.inner_html() == "W<sub>E</sub> W<sub>QK</sub> W<sub>E</sub><sup>T</sup>"
    index, whole = formula.locator("sub").first.bounding_box(), formula.bounding_box()
    assert index["y"] > whole["y"] and index["height"] < whole["height"]


def test_a_type_leads_to_where_it_is_explained_and_a_name_to_its_recipes(site: Path, visit: Visit):
    page = visit(site / "interp/lens.html", within=site.as_uri())
    page.locator("#direct_attribution .signature a", has_text="Answer").first.click()
    assert page.url == f"{site.as_uri()}/interp/text.html#Answer"
    page.go_back()
    page.locator("#direct_attribution .recipes a").first.click()
    assert page.url == f"{site.as_uri()}/how_do_i.html#find-out-which-part-of-the-model-wrote-a-logit"
    assert page.locator("h3[id=find-out-which-part-of-the-model-wrote-a-logit]").count() == 1


def test_the_first_page_has_the_rooms_in_order(site: Path, visit: Visit):
    titles = visit(site / "index.html", within=site.as_uri()).locator("dl.rooms dt").all_inner_texts()
    assert titles == ["How do I ...", *(room for package in packages() for room in rooms(package))]


CONTRASTS = (
    "() => {"
    + CONTRAST
    + """
  const paper = (one) => {
    const color = getComputedStyle(one).backgroundColor;
    return !/, 0\\)$/.test(color) || !one.parentElement ? color : paper(one.parentElement);
  };
  const words = 'h1, h2, h3, p, li, dt, dd, a, code, .param, .name, .def, .annotation, pre span';
  const said = [...document.querySelectorAll(words)];
  return said.filter((one) => one.checkVisibility() && one.textContent.trim()).map((one) => {
    const style = getComputedStyle(one);
    return [one.textContent.slice(0, 40), parseFloat(style.fontSize), contrast(style.color, paper(one))];
  });
}"""
)
"""How every text of a page begins, its size and its contrast."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["index.html", "how_do_i.html", "interp/heads.html"])
def test_all_text_is_large_and_dark_enough(page: str, scheme: str, site: Path, visit: Visit):
    measured = visit(site / page, within=site.as_uri(), color_scheme=scheme).evaluate(CONTRASTS)
    assert len(measured) > 50
    assert not [one for one in measured if one[1] < 10 or one[2] < 4.5][:5]


@pytest.mark.parametrize("width", [500, 1280, 1920])
def test_no_page_is_wider_than_the_window(width: int, site: Path, visit: Visit):
    for page in ("index.html", "how_do_i.html", "interp/lens.html", "interp/weights.html", "circuits/language.html"):
        opened = visit(site / page, within=site.as_uri(), viewport={"width": width, "height": 800})
        check_fits(opened)
