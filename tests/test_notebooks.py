import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import sync_playwright
from render_notebooks import figures

HERE = Path(__file__).parent
NOTEBOOKS = sorted((HERE.parent / "notebooks").glob("*.py"))


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda source: source.stem)
def test_a_notebook_runs_without_error_output_and_is_what_its_source_says(source: Path):
    command = [sys.executable, str(HERE / "render_notebooks.py"), "--check", source.stem]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda source: source.stem)
def test_a_notebook_stays_under_1_5_megabytes(source: Path):
    assert source.with_suffix(".ipynb").stat().st_size < 1_500_000


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda source: source.stem)
def test_an_exported_notebook_shows_every_figure_offline(source: Path, tmp_path: Path):
    chromium = shutil.which("chromium")
    if chromium is None and not os.environ.get("CI"):
        pytest.skip("no chromium on this machine")
    assert chromium is not None, "CI needs chromium: apt-get install chromium"
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    page_file = tmp_path / "notebook.html"
    page_file.write_text(HTMLExporter().from_notebook_node(notebook)[0], encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.route("**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort())
        page.goto(page_file.as_uri(), wait_until="load")
        shown = page.eval_on_selector_all(".jp-RenderedImage img", "all => all.filter(i => i.naturalWidth > 99).length")
        browser.close()
    assert shown == len(figures(notebook))
