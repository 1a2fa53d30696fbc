"""Execute the notebooks: every `notebooks/*.py` (jupytext, percent format) becomes the `.ipynb` beside it.

Run: python tests/render_notebooks.py [--check] [NAME ...]. With --check nothing is written: each notebook must run
without error output, and the cells on disk must be those of the source, with a still image beside every figure.
(Outputs may differ in what depends on the machine, such as the last digits of a float.)

A figure leaves its data, which JupyterLab and VS Code draw, and a picture of some kilobytes for whatever does not: an
export by nbconvert, or a notebook where plotly's extension is not installed (`interp/plot/shown.py`). Neither needs a
network, a browser or a setting, so that whoever runs a notebook gets what this script writes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
PLOTLY = "application/vnd.plotly.v1+json"


def render(source: Path) -> Any:
    """The executed notebook. Raises `RuntimeError` where a cell writes to stderr; cells that raise do so here."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    NotebookClient(notebook, timeout=600, record_timing=False, resources={"metadata": {"path": FOLDER}}).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                raise RuntimeError(f"{source.name} writes to stderr: {output['text']}")
    notebook.metadata.pop("language_info", None)  # the version of whatever python ran it
    return notebook


def figures(notebook: Any) -> list[Any]:
    """The data of every output that is a plotly figure, by MIME type."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output.data for output in outputs if PLOTLY in output.get("data", {})]


def cells(notebook: Any) -> list[tuple[str, str]]:
    """Kind and text of every cell."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def current(found: Any, rendered: Any) -> bool:
    """Whether the notebook on disk has the cells and figures of the rendered one, and all their pictures."""
    drawn = figures(found)
    complete = len(drawn) == len(figures(rendered)) and all("text/html" in data for data in drawn)
    return complete and cells(found) == cells(rendered)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    sources = [source for source in sorted(FOLDER.glob("*.py")) if not options.names or source.stem in options.names]
    stale = []
    for source in sources:
        target = source.with_suffix(".ipynb")
        rendered = render(source)
        if not options.check:
            target.write_text(nbformat.writes(rendered) + "\n", encoding="utf-8")
        elif not target.exists() or not current(nbformat.read(target, as_version=4), rendered):
            stale.append(target.name)
    if stale:
        print(f"not what their sources give: {', '.join(stale)}; run python tests/render_notebooks.py")
    return len(stale)


if __name__ == "__main__":
    sys.exit(main())
