"""Pages without plotly's script in a real browser: the pointer, the keyboard, dark mode, no JavaScript."""

import re
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
import torch
from browsing import Visit
from every_figure import every_figure
from measuring import FAULTS, TOPS, check_fits

from interp.plot import figures, report

VALUES = np.array([[1.0, -0.5, np.nan], [0.25, 0.0, 2.0]])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    graph = networkx.MultiDiGraph()
    for name, layer in (("L0H0", 0), ("L1H1", 1)):
        graph.add_node(name, layer=layer, kind="head")
    graph.add_edge("L0H0", "L1H1", "K")
    shown = [
        figures.heatmap(
            VALUES, ["up", "down"], ["the", "</b>", "the"], title="A map\nbelow", x="pos", y="row", signed=True
        ),
        figures.patterns(torch.eye(2).expand(4, 2, 2), ["a", "b"], title="Heads"),
        figures.bars(np.array([1.0, -2.0]), ["one", "two"], title="Bars"),
        figures.circuit(graph, title="Circuit"),
        figures.curves({"a": ([1, 2, 3], [1.0, 2.0, 3.0]), "b": ([1, 2], [0.0, 1.0])}, title="Curves", x="step"),
        figures.table({"name": ["a", "b"], "n": [1.0, -2.5]}, title="Table", signed="n"),
    ]
    file = tmp_path_factory.mktemp("pages") / "page.html"
    report.write_page(file, "All", "Some figures.", [report.Panel(one, "A caption.") for one in shown])
    return file


def drawing(page: Any, number: int) -> Any:
    one = page.locator(".panel").nth(number).locator(".drawing")
    page.locator(".drawing[data-lit]").nth(4).wait_for()
    return one


def test_the_pointer_reads_cells_bars_edges_and_points(written: Path, visit: Visit):
    page = visit(written)
    of_map = drawing(page, 0)
    image = of_map.locator("image").bounding_box()
    page.mouse.move(image["x"] + image["width"] * 0.5, image["y"] + image["height"] * 0.25)
    assert of_map.locator(".tip").inner_text() == "row 0: “up”\npos 1: “</b>”\nvalue -0.5000"
    page.mouse.move(image["x"] + image["width"] * 0.9, image["y"] + image["height"] * 0.25)
    assert of_map.locator(".tip").is_hidden()  # a blank cell
    second = drawing(page, 1).locator("image").nth(1).bounding_box()
    page.mouse.move(second["x"] + second["width"] * 0.75, second["y"] + second["height"] * 0.75)
    assert drawing(page, 1).locator(".tip").inner_text() == "head 1\nquery 1: “b”\nkey 1: “b”\nattention 1.0000"
    drawing(page, 2).locator("rect").nth(1).hover()
    assert drawing(page, 2).locator(".tip").inner_text() == "two\nvalue -2.0000"
    edge = drawing(page, 3).locator("path[stroke-width]").first.bounding_box()
    page.mouse.move(edge["x"] + edge["width"] / 2, edge["y"] + edge["height"] / 2)
    assert drawing(page, 3).locator(".tip").inner_text() == "L0H0 → L1H1, K"


def test_arrow_keys_read_the_cells_and_escape_hides_them(written: Path, visit: Visit):
    page = visit(written)
    of_map = drawing(page, 0)
    of_map.locator("svg").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    tip = of_map.locator(".tip")
    assert tip.inner_text() == "row 1: “down”\npos 1: “</b>”\nvalue 0.0000" and tip.get_attribute("role") == "status"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    assert tip.inner_text() == "blank"
    page.keyboard.press("Alt+ArrowDown")  # the browser's own
    assert tip.inner_text() == "blank"
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    drawing(page, 4).locator("svg").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert drawing(page, 4).locator(".tip").inner_text() == "a\nstep 2\n2.0000"


@pytest.fixture(scope="module")
def drawn() -> dict[str, Any]:
    return every_figure()


@pytest.fixture(scope="module")
def every(drawn: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of every figure, light and plotly's own."""
    folder = tmp_path_factory.mktemp("every")
    panels = {name: report.Panel(figure, f"The figure {name}.") for name, figure in drawn.items()}
    light = [panel for name, panel in panels.items() if not name.startswith("path_sankey")]
    report.write_page(folder / "light.html", "Every figure", "All.", light)
    report.write_page(folder / "plotly.html", "Every figure", "All.", list(panels.values()), plotly=True)
    return {kind: folder / f"{kind}.html" for kind in ("light", "plotly")}


def faults(page: Any) -> list[Any]:
    """What is wrong with the texts of a page, figure by figure, and whether maps side by side are level."""
    shown = page.locator("main > .figures > figure")
    found = [fault for i in range(shown.count()) for fault in shown.nth(i).evaluate(FAULTS)]
    rows: dict[int, set[int]] = {}
    for start, top in shown.evaluate_all(TOPS):
        rows.setdefault(round(start), set()).add(round(top))
    return found + [["not level", tops] for tops in rows.values() if max(tops) - min(tops) > 1]


def test_every_function_that_makes_a_figure_is_looked_at(drawn: dict[str, Any]):
    assert {name.split()[0] for name in drawn} == set(figures.__all__) - {"COLORS"}


@pytest.mark.parametrize("width", [520, 1280, 1920])
def test_every_text_of_every_figure_can_be_read_in_both_themes(width: int, every: dict[str, Path], visit: Visit):
    for scheme in ("light", "dark"):
        page = visit(every["light"], color_scheme=scheme, viewport={"width": width, "height": 900})
        page.locator(".drawing[data-lit]").nth(20).wait_for()
        assert faults(page) == [], scheme
        check_fits(page)


def test_every_text_of_every_figure_can_be_read_in_plotlys_own_page(every: dict[str, Path], visit: Visit):
    page = visit(every["plotly"], viewport={"width": 1280, "height": 900})
    page.locator(".svg-container").nth(25).wait_for()
    assert faults(page) == []


def test_a_tall_map_fits_a_screen(every: dict[str, Path], visit: Visit):
    page = visit(every["light"], viewport={"width": 1280, "height": 800})
    for title in ("Patching resid_pre, denoising", "Logit lens"):
        one = page.locator(".panel", has=page.get_by_role("heading", name=title)).first
        assert one.bounding_box()["height"] <= 800


def test_faults_would_be_found(written: Path, visit: Visit):
    page = visit(written)
    page.evaluate(
        """() => {
          const [one, other] = document.querySelectorAll('.drawing svg text');
          one.setAttribute('x', other.getAttribute('x')); one.setAttribute('y', other.getAttribute('y'));
          document.querySelectorAll('h2')[1].style.fontSize = '9px';
          document.querySelectorAll('h2')[2].style.color = '#bbbbbb';
          document.querySelectorAll('.drawing')[2].querySelector('text').setAttribute('x', '-300');
        }"""
    )
    assert {fault[0] for fault in faults(page)} >= {"overlapping", "small", "faint", "clipped"}


def test_without_javascript_the_pictures_are_there(written: Path, visit: Visit):
    page = visit(written, java_script_enabled=False)
    assert page.locator("figure svg[role=img]").count() == 5
    assert re.search("A map. below", page.locator("figure svg").first.get_attribute("aria-label"))
    assert page.locator("table td").all_inner_texts() == ["a", "1", "b", "-2.5"]
