"""What a figure leaves in a notebook: its data, and a picture that needs nothing else."""

import copy
import pickle
from collections.abc import Iterator
from html import unescape

import plotly.graph_objects as go
import plotly.io
import pytest
import torch
from grid import Run

from interp.lens import expand_logits
from interp.plot import figures
from interp.plot.shown import DATA

FIGURES = {
    "heatmap": lambda: figures.heatmap(torch.eye(2), "ab", "ab", title="<script>"),
    "heatmaps": lambda: figures.heatmaps(torch.rand(3, 2, 2), "xyz", "ab", "ab"),
    "bars": lambda: figures.bars(torch.ones(2), "ab"),
    "curves": lambda: figures.curves({"a": ([0, 1], [1, 2])}, marks={"here": 1}),
    "table": lambda: figures.table({"word": ["a"], "value": ["1"]}),
    "eigenvalues": lambda: figures.eigenvalues(torch.tensor([1 + 1j, 1 - 1j, 2 + 0j])),
    "token_flow": lambda: figures.token_flow({(0, 0): torch.eye(2)}, ["a", "b"]),
}


@pytest.fixture(autouse=True)
def in_a_notebook() -> Iterator[None]:
    """The renderer that plotly chooses in a kernel of Jupyter, and at the end the one before."""
    before = plotly.io.renderers.default
    plotly.io.renderers.default = "plotly_mimetype"
    yield
    plotly.io.renderers.default = before


@pytest.mark.parametrize("kind", FIGURES)
def test_every_builders_figure_leaves_data_a_picture_and_words(kind: str):
    figure = FIGURES[kind]()
    for one in (figure, copy.deepcopy(figure), pickle.loads(pickle.dumps(figure))):
        bundle = one._repr_mimebundle_()
        assert set(bundle) == {DATA, "text/html", "text/plain"}
        page = bundle["text/html"]
        assert page.startswith("<iframe srcdoc=") and len(page) < 30_000
        assert "http" not in unescape(page).replace("http://www.w3.org/2000/svg", "")
        assert "<script>" not in page  # the frame's own markup is an attribute


def test_a_figure_of_another_kind_brings_plotlys_page(plain: Run):
    _, cache = plain.model.run_with_cache(plain.tokens[:1])
    figure = figures.path_sankey(expand_logits(cache, 1), pos=-1)
    assert "Plotly.newPlot" in figure._repr_mimebundle_()["text/html"]
    bars = figures.bars(torch.ones(2), "ab").add_trace(go.Pie(values=[1, 2]))
    assert "Plotly.newPlot" in bars._repr_mimebundle_()["text/html"]


def test_a_figure_that_our_picture_fails_on_says_so_and_brings_plotlys_page(monkeypatch: pytest.MonkeyPatch):
    def failing(*args: object) -> str:
        raise KeyError("shape")

    figure = figures.bars(torch.ones(2), "ab")
    monkeypatch.setattr("interp.plot.shown.light_figure", failing)
    with pytest.warns(UserWarning, match="plotly's own page, of megabytes: .*KeyError: 'shape'"):
        assert "Plotly.newPlot" in figure._repr_mimebundle_()["text/html"]


def test_a_renderer_that_the_reader_chose_is_followed():
    figure = figures.bars(torch.ones(2), "ab")
    plotly.io.renderers.default = "json"
    assert set(figure._repr_mimebundle_()) == {"application/json"}


def test_showing_a_figure_displays_the_same(monkeypatch: pytest.MonkeyPatch):
    displayed = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: displayed.append((set(bundle), raw)))
    figure = figures.bars(torch.ones(2), "ab")
    figure.show()
    figure._ipython_display_()
    assert displayed == 2 * [({DATA, "text/html", "text/plain"}, True)]
