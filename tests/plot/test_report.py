import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import networkx
import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from interp import ConfigError, HookedTransformer, TransformerConfig
from interp.plot import attention, figures, report
from interp.plot.shown import in_frame

HOSTILE = "</script><script>alert(1)</script>\"'&%{x}$"
TOKENS = [HOSTILE, "b"]


def graph() -> networkx.MultiDiGraph:
    drawn = networkx.MultiDiGraph()
    drawn.add_node(HOSTILE, layer=0, kind="head")
    drawn.add_node("L1H0", layer=1, kind="head")
    drawn.add_edge(HOSTILE, "L1H0", "Q")
    return drawn


DRAWN: dict[str, Callable[[], Any]] = {
    "pattern": lambda: figures.pattern(torch.eye(2), TOKENS, title=HOSTILE),
    "patterns": lambda: figures.patterns(torch.eye(2).expand(5, 2, 2), TOKENS, title=HOSTILE),
    "many": lambda: figures.patterns(torch.eye(2).expand(20, 2, 2), TOKENS, title=HOSTILE),
    "heatmap": lambda: figures.heatmap(
        np.array([[1, np.nan]]), ["a"], TOKENS, title=HOSTILE, text=[[HOSTILE, "c"]], notes=[[HOSTILE, "d"]]
    ),
    "bars": lambda: figures.bars(np.array([1.0, -2.0, np.nan]), [HOSTILE, "a", "b"], text=[HOSTILE, "a", "b"]),
    "curves": lambda: figures.curves(
        {HOSTILE: ([1, 2, 3], [1.0, np.nan, 2.0]), "b": ([1, 2], [1.0, 2.0])}, marks={HOSTILE: 2}, levels={HOSTILE: 1}
    ),
    "table": lambda: figures.table({HOSTILE: [HOSTILE, "b"], "n": [1.0, -2.0]}, signed="n", title=HOSTILE),
    "eigenvalues": lambda: figures.eigenvalues(torch.tensor([1 + 1j, -2j]), title=HOSTILE),
    "circuit": lambda: figures.circuit(graph(), title=HOSTILE),
    "token flow": lambda: figures.token_flow({(0, 0): torch.eye(2)}, TOKENS, title=HOSTILE),
}
"""Every kind of figure that a page draws, with text in it that would be markup."""


@pytest.fixture
def page(tmp_path: Path) -> str:
    panels = [report.Panel(make(), HOSTILE) for make in DRAWN.values()]
    report.write_page(tmp_path / "page.html", HOSTILE, HOSTILE, panels)
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_page_loads_nothing_from_anywhere(page: str):
    assert not re.search(r"<(script|img|iframe|link)\b[^>]*\b(src|href)=", page)
    assert not re.search(r"@import|url\(http|https?://(?!www\.w3\.org/2000/svg)", page)


def test_a_page_of_every_figure_weighs_kilobytes(page: str):
    assert len(page.encode()) < 90_000
    assert "plotly" not in page.lower()
    assert page.count('<figure class="panel') == page.count("<h2>") == len(DRAWN)


def test_plotlys_own_page_holds_its_script_once_however_many_figures(tmp_path: Path):
    panel = report.Panel(DRAWN["pattern"](), HOSTILE)
    report.write_page(tmp_path / "page.html", HOSTILE, HOSTILE, [panel, panel], plotly=True)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("plotly.js v") == 1
    assert page.count('class="plotly-graph-div"') == 2
    assert "<script>alert(1)" not in page


def test_titles_captions_and_tokens_cannot_become_markup(page: str):
    assert "<script>alert(1)" not in page
    assert page.count("<script>") == 1


def test_a_figure_that_only_plotly_draws_is_refused_and_says_how(tmp_path: Path):
    import plotly.graph_objects as go

    panel = report.Panel(go.Figure(go.Sankey()), "c")
    with pytest.raises(ConfigError, match="not sankey; give plotly=True"):
        report.write_page(tmp_path / "page.html", "t", "i", [panel])
    assert not (tmp_path / "page.html").exists()


def test_every_number_of_a_large_map_is_under_the_pointer_of_a_light_page(tmp_path: Path):
    names = [f"token {i}" for i in range(400)]
    panel = report.Panel(figures.heatmap(torch.randn(30, 400), range(30), names, signed=True), "c")
    report.write_page(tmp_path / "page.html", "t", "i", [panel])
    assert (tmp_path / "page.html").stat().st_size < 300_000


def test_a_figure_for_a_paper_is_a_whole_svg_file_with_its_legend_and_without_variables(tmp_path: Path):
    for name, make in DRAWN.items():
        path = tmp_path / f"{name}.svg"
        if name == "table":
            with pytest.raises(ConfigError, match="no tables of words; write_page does"):
                report.write_svg(path, make())
            assert not path.exists()
            continue
        report.write_svg(path, make())
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg", name
        assert "var(" not in path.read_text(encoding="utf-8"), name
        said = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
        assert name != "curves" or {HOSTILE, "b"} <= set(said)
        height = float(root.attrib["height"])
        assert all(float(one.get("y", 0)) <= height for one in root.iter("{http://www.w3.org/2000/svg}text")), name


def test_a_figure_for_a_paper_that_only_plotly_draws_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"write_svg draws .* not sankey; write it with figure\.write_image"):
        report.write_svg(tmp_path / "figure.svg", go.Figure(go.Sankey()))


def test_a_page_of_figures_without_captions_is_refused_by_what_a_panel_is(tmp_path: Path, as_installed: None):
    with pytest.raises(ConfigError, match=r"panels are of Panel\(figure, caption\), not Figure"):
        report.write_page(tmp_path / "page.html", "t", "i", [DRAWN["pattern"]()])
    assert not (tmp_path / "page.html").exists()


def test_figures_that_plotly_lays_out_and_what_is_none_are_refused_in_words(tmp_path: Path, as_installed: None):
    sizes: Any = {"width": 300, "height": 200, "margin": {"l": 9, "r": 9, "t": 9, "b": 9}}
    upright = go.Figure(go.Bar(x=["a", "b"], y=[3, 4])).update_layout(**sizes)
    own = [go.Figure(go.Scatter(x=[1, 2], y=[3, 4])), go.Figure(go.Heatmap(z=[[1, 2]])), go.Figure(), upright]
    for figure in own:
        with pytest.raises(ConfigError, match=r"as interp\.plot\.figures makes them.* give plotly=True"):
            report.write_page(tmp_path / "page.html", "t", "i", [report.Panel(figure, "mine")])
        with pytest.raises(ConfigError, match=r"as interp\.plot\.figures makes them.* figure\.write_image"):
            report.write_svg(tmp_path / "figure.svg", figure)
    for none in (None, np.eye(2)):
        panel: Any = report.Panel(none, "")  # pyright: ignore[reportArgumentType]
        with pytest.raises(ConfigError, match=f"not {type(none).__name__}"):
            report.write_page(tmp_path / "page.html", "t", "i", [panel])
        with pytest.raises(ConfigError, match=f"not {type(none).__name__}"):
            report.write_svg(tmp_path / "figure.svg", panel.figure)
    assert list(tmp_path.iterdir()) == []
    report.write_page(tmp_path / "page.html", "t", "i", [report.Panel(own[0], "mine")], plotly=True)


def test_an_explorer_is_told_that_it_writes_its_own_pictures(tmp_path: Path, as_installed: None):
    model = HookedTransformer(TransformerConfig(n_layers=1, d_model=8, n_heads=2, n_ctx=4, d_vocab=5))
    explorer: Any = attention(model.run_with_cache(torch.tensor([[1, 2]]))[1])
    with pytest.raises(ConfigError, match=r"to_svg\(path, layer, head\)"):
        report.write_svg(tmp_path / "figure.svg", explorer)


def test_two_runs_write_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        report.write_page(tmp_path / name, "t", "i", [report.Panel(make(), "c") for make in DRAWN.values()])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_circuit_without_edges_is_a_picture_of_its_nodes(tmp_path: Path):
    graph = networkx.MultiDiGraph()
    graph.add_node("L0H0", layer=0, kind="head")
    figure = figures.circuit(graph, title="Alone")
    report.write_svg(tmp_path / "alone.svg", figure)
    assert "L0H0" in [node.text for node in ElementTree.parse(tmp_path / "alone.svg").iter()]
    assert "plotly" not in in_frame(figure)
