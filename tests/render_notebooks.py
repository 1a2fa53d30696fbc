"""Execute the notebooks: every `notebooks/*.py` (jupytext, percent format) becomes the `.ipynb` beside it.

Run: python tests/render_notebooks.py [--check] [NAME ...]. With --check nothing is written: each notebook must run
without error output, and the cells on disk must be those of the source. (Outputs may differ in what depends on the
machine, such as the last digits of a float.)
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


def cells(notebook: Any) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


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
        elif not target.exists() or cells(nbformat.read(target, as_version=4)) != cells(rendered):
            stale.append(target.name)
    if stale:
        print(f"not what their sources give: {', '.join(stale)}; run python tests/render_notebooks.py")
    return len(stale)


if __name__ == "__main__":
    sys.exit(main())
