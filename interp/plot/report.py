"""Pages: figures and words in one HTML file that opens offline."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from interp.files import atomic_path

if TYPE_CHECKING:
    import plotly.graph_objects

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1120px; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a;
       background: #fff; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; } figcaption { max-width: 520px; }
"""


@dataclass(frozen=True)
class Panel:
    """A figure and the sentence under it."""

    figure: plotly.graph_objects.Figure
    caption: str


def write_page(path: str | os.PathLike[str], title: str, introduction: str, panels: Sequence[Panel]) -> None:
    """One self-contained HTML file: plotly's script is inside, once; titles and captions are text, never HTML."""
    figures = "".join(
        f"<figure>{_div(panel.figure, i)}<figcaption>{escape(panel.caption)}</figcaption></figure>"
        for i, panel in enumerate(panels)
    )
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1><p>{escape(introduction)}</p>"
        f'<div class="figures">{figures}</div></body></html>'
    )
    with atomic_path(path) as file:
        file.write_text(page, encoding="utf-8", errors="backslashreplace")


def _div(figure: plotly.graph_objects.Figure, number: int) -> str:
    return figure.to_html(
        full_html=False,
        include_plotlyjs=number == 0,
        include_mathjax=False,
        div_id=f"figure-{number}",
        config={"displaylogo": False, "modeBarButtonsToRemove": ["sendChartToCloud"], "plotlyServerURL": ""},
    )
