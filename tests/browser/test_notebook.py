"""Notebooks in a browser: the figures of those of this project, and the explorer, exported and in JupyterLab."""

import os
import re
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from browsing import PATIENCE, Explorer
from nbconvert import HTMLExporter
from nbformat import v4
from render_notebooks import figures

from circuits.gallery.induction import induction_model
from interp.plot import AttentionExplorer, attention

Visit = Callable[..., Any]

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


NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda source: source.stem)
def test_an_exported_notebook_shows_every_figure_offline(source: Path, chromium: Any, tmp_path: Path):
    notebook = nbformat.read(source, as_version=4)
    page_file = tmp_path / "notebook.html"
    page_file.write_text(HTMLExporter().from_notebook_node(notebook)[0], encoding="utf-8")
    context = chromium.new_context()
    context.route("**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort())
    page = context.new_page()
    page.goto(page_file.as_uri(), wait_until="load")
    shown = page.eval_on_selector_all(".jp-RenderedImage img", "all => all.filter(i => i.naturalWidth > 99).length")
    context.close()
    assert shown == len(figures(notebook))


# ---------------------------------------------------------------------------------------------- JupyterLab


@pytest.fixture(scope="module")
def lab(explorer: AttentionExplorer, chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab on this machine alone, with a trusted notebook and one that is not."""
    pytest.importorskip("jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    (folder / "work").mkdir()
    for name in ("trusted", "untrusted"):
        nbformat.write(notebook_of(explorer), folder / "work" / f"{name}.ipynb")
    places = {f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    environment = (
        os.environ
        | places
        | {"JUPYTERLAB_SETTINGS_DIR": str(folder / "s"), "JUPYTERLAB_WORKSPACES_DIR": str(folder / "w")}
    )
    jupyter = [sys.executable, "-m"]
    subprocess.run(
        [*jupyter, "jupyter", "trust", str(folder / "work" / "trusted.ipynb")],
        env=environment,
        check=True,
        capture_output=True,
    )
    token = secrets.token_hex(16)
    options = [
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder / 'work'}",
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
    ]
    server = subprocess.Popen(
        [*jupyter, "jupyterlab", *options], env=environment, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
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
        port = int(found[0].rsplit(":", 1)[1])
        for _ in range(600):  # it says so just before it listens
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            threading.Event().wait(0.1)
        yield f"{found[0]}/lab/tree/NAME?reset&token={token}"
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
    assert "Attention of 2 layers x 1 heads" in picture.get_attribute("alt")
    assert page.get_by_text("induction: L1H0 1.00").first.is_visible()
    assert page.locator("[data-ready]").count() == 0
