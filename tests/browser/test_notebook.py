"""Notebooks in a browser: the figures of those of this project, and the explorer, exported and in JupyterLab."""

import os
import re
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from browsing import PATIENCE, Explorer, Visit
from measuring import FAULTS
from nbconvert import HTMLExporter
from nbformat import v4
from render_notebooks import figures

from circuits.gallery.induction import induction_model
from interp.plot import AttentionExplorer, attention

TEXT = "!abacb"


@pytest.fixture(scope="module")
def explorer() -> AttentionExplorer:
    with torch.no_grad():
        _, cache = induction_model().run_with_cache(TEXT)
    return attention(cache, TEXT, {"induction": np.array([[0.0], [1.0]])})


def notebook_of(explorer: AttentionExplorer) -> Any:
    """A notebook with the explorer as the output of a cell, as the kernel would have left it."""
    output = v4.new_output("execute_result", explorer._repr_mimebundle_(), execution_count=1)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return v4.new_notebook(cells=[v4.new_code_cell("explorer", execution_count=1, outputs=[output])], metadata=kernel)


def assert_draws_the_stripe(page: Explorer) -> None:
    drawn = np.array(page.matrix(1, 0), dtype=float).reshape(6, 6)
    assert drawn[3, 2] == drawn[5, 3] == 1  # what followed the earlier a, and the earlier b
    assert np.nansum(drawn[[3, 5]]) < 2.0001
    page.map.click(position=page.thumbnail(1, 0))
    assert (page.selection["layer"], page.selection["head"]) == (1, 0)


def test_an_exported_notebook_draws_it_without_a_network(explorer: AttentionExplorer, chromium: Any, tmp_path: Path):
    html, _ = HTMLExporter().from_notebook_node(notebook_of(explorer))
    (tmp_path / "export.html").write_text(html, encoding="utf-8")
    context = chromium.new_context(viewport={"width": 1100, "height": 900})
    context.route("http*://**", lambda route: route.abort())  # the export's own template asks for scripts
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto((tmp_path / "export.html").as_uri())
    drawn = Explorer(page)
    assert_draws_the_stripe(drawn)
    assert drawn.host.locator("section").evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(255, 255, 255)"
    context.close()


def shown_figures(notebook: Any, folder: Path, chromium: Any) -> list[str]:
    """Of every frame in which an export, offline, has a picture with a size, what its title says."""
    page_file = folder / "notebook.html"
    page_file.write_text(HTMLExporter().from_notebook_node(notebook)[0], encoding="utf-8")
    assert page_file.stat().st_size < 1_500_000
    context = chromium.new_context()
    context.route("**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort())
    page = context.new_page()
    page.goto(page_file.as_uri(), wait_until="load")
    seen = [frame.evaluate(SEEN) for frame in page.frames[1:]]
    context.close()
    return [title for title, width, height, fits in seen if width > 99 and height > 40 and fits]


SEEN = """() => {
  const box = document.querySelector('.drawing > svg, .drawing > table').getBoundingClientRect();
  const room = Math.abs(frameElement.clientHeight - document.documentElement.offsetHeight) < 9;
  return [document.querySelector('h2').textContent, box.width, box.height, room];
}"""
"""The title of a framed picture, its size, and whether the frame is as high as what is in it."""

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda source: source.stem)
def test_an_exported_notebook_shows_every_figure_offline(source: Path, chromium: Any, tmp_path: Path):
    notebook = nbformat.read(source, as_version=4)
    assert len(shown_figures(notebook, tmp_path, chromium)) == len(figures(notebook))


CELLS = (
    "import torch, plotly.graph_objects as go\nfrom interp.plot import figures",
    "figures.heatmap(torch.eye(3), 'abc', 'abc', title='a map' + ' of many words' * 9)",
    "figures.curves({'line': ([0, 1], [1, 2])}, title='lines').show()",
    "figure = figures.bars(torch.ones(2), 'ab', title='bars')\nfigure.update_layout(height=300)",
    "figures.table({'word': ['a'], 'value': ['1']}, title='a table')",
)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A notebook without any setting, as `jupyter nbconvert --execute` leaves it."""
    folder = tmp_path_factory.mktemp("executed")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in CELLS], metadata=kernel)
    nbformat.write(notebook, folder / "mine.ipynb")
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", "--inplace", "mine.ipynb"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return nbformat.read(folder / "mine.ipynb", as_version=4)


def test_a_notebook_that_anyone_executes_keeps_its_figures_when_exported(executed: Any, chromium: Any, tmp_path: Path):
    assert shown_figures(executed, tmp_path, chromium) == ["a map" + " of many words" * 9, "lines", "bars", "a table"]
    assert len(nbformat.writes(executed)) < 200_000


def test_in_a_narrow_window_figures_wrap_their_titles_and_scroll_within_themselves(
    executed: Any, visit: Visit, tmp_path: Path
):
    for cell in executed.cells:  # the pictures alone, without the page around them, which asks for scripts
        pictures = [o.data["text/html"] for o in cell.get("outputs", ()) if "text/html" in o.get("data", {})]
        (tmp_path / f"{len(pictures)}.html").write_text("".join(pictures), encoding="utf-8")
        page = visit(tmp_path / f"{len(pictures)}.html", viewport={"width": 420, "height": 900})
        for frame in page.frames[1:]:
            assert frame.locator("body").evaluate(FAULTS) == []
            assert frame.evaluate("frameElement.getBoundingClientRect().right") <= 420
            assert frame.evaluate(SEEN)[3]


# ---------------------------------------------------------------------------------------------- JupyterLab


@pytest.fixture(scope="module")
def lab(
    explorer: AttentionExplorer, executed: Any, chromium: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a JupyterLab on this machine alone, with a trusted notebook and one that is not."""
    pytest.importorskip("jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    (folder / "work").mkdir()
    for name in ("trusted", "untrusted"):
        nbformat.write(notebook_of(explorer), folder / "work" / f"{name}.ipynb")
    nbformat.write(executed, folder / "work" / "executed.ipynb")
    environment = os.environ | {f"JUPYTER_{kind}_DIR": str(folder / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / "s"), "JUPYTERLAB_WORKSPACES_DIR": str(folder / "w")}
    trust = [sys.executable, "-m", "jupyter", "trust", str(folder / "work" / "trusted.ipynb")]
    subprocess.run(trust, env=environment, check=True, capture_output=True)
    token = secrets.token_hex(16)
    options = [*LAB_OPTIONS, f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder / 'work'}"]
    with serving([sys.executable, "-m", "jupyterlab", *options], environment) as address:
        yield f"{address}/lab/tree/NAME?reset&token={token}"


LAB_OPTIONS = (
    "--no-browser",
    "--allow-root",
    "--ServerApp.ip=127.0.0.1",
    "--ServerApp.port=0",
    "--LabApp.news_url=",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.extension_manager=readonly",
)
"""It is reached from this machine alone, and asks for nothing outside."""


@contextmanager
def serving(command: list[str], environment: Mapping[str, str]) -> Iterator[str]:
    """A server while the block runs, by the address that it says on its standard error."""
    server = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    assert server.stderr is not None
    reader = threading.Thread(target=server.stderr.read, daemon=True)  # a full pipe would stop the server
    try:
        said = []
        for line in server.stderr:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+(?=/lab)", line):
                break
        else:
            raise AssertionError("JupyterLab did not start: " + "".join(said))
        reader.start()
        wait_until_it_listens(int(found[0].rsplit(":", 1)[1]))
        yield found[0]
    finally:
        server.terminate()
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        if reader.is_alive():
            reader.join()
        server.stderr.close()


def wait_until_it_listens(port: int) -> None:
    """A server says its address just before that. Whether it came to listen, the page that is asked for tells."""
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        threading.Event().wait(0.1)


def open_notebook(lab: str, name: str, visit: Visit) -> Any:
    within = lab.split("/lab/")[0]
    return visit(lab.replace("NAME", f"{name}.ipynb"), within=within)


def test_a_trusted_notebook_in_jupyterlab_draws_it(lab: str, visit: Visit):
    page = Explorer(open_notebook(lab, "trusted", visit))
    assert_draws_the_stripe(page)
    page.page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    assert page.host.locator("section").evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(21, 25, 30)"


def test_an_untrusted_notebook_in_jupyterlab_shows_the_picture_and_the_summary(lab: str, visit: Visit):
    page = open_notebook(lab, "untrusted", visit)
    picture = page.locator(".jp-OutputArea-output figure img, .jp-OutputArea-output img").first
    picture.wait_for()
    assert picture.evaluate("e => e.naturalWidth") > 50
    assert "Attention of 2 layers x 1 head " in picture.get_attribute("alt")
    assert page.get_by_text("induction: L1H0 induction 1.00").first.is_visible()
    assert page.locator("[data-ready]").count() == 0


def test_a_notebook_that_anyone_executes_shows_its_figures_in_jupyterlab(lab: str, visit: Visit):
    page = open_notebook(lab, "executed", visit)
    drawn = page.locator(".jp-RenderedPlotly .svg-container")
    drawn.nth(3).wait_for()
    assert drawn.count() == 4 and page.locator("iframe").count() == 0  # plotly draws the data; nothing is shown twice
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")  # on white paper in the dark theme as well
    paper = "e => getComputedStyle(e.querySelector('.main-svg')).backgroundColor"
    assert set(drawn.evaluate_all(f"all => all.map({paper})")) == {"rgb(255, 255, 255)"}
