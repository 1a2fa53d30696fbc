"""Files: figures and words in one HTML page that opens offline, and a figure alone as SVG."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from interp.errors import ConfigError
from interp.files import atomic_path
from interp.plot.explorer import AttentionExplorer
from interp.plot.light import light_figure, lone_picture, room_above

if TYPE_CHECKING:
    import plotly.graph_objects

HERE = Path(__file__).parent

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1120px; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a;
       background: #fff; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; } figcaption { max-width: 520px; }
"""
"""Of a page with plotly's script."""

WIDE = 560
"""Pixels from which on a figure has the whole width of a page."""


@dataclass(frozen=True)
class Panel:
    """A figure, or an explorer of attention, and the sentence under it."""

    figure: plotly.graph_objects.Figure | AttentionExplorer
    caption: str


def write_page(
    path: str | os.PathLike[str], title: str, introduction: str, panels: Sequence[Panel], *, plotly: bool = False
) -> None:
    """One self-contained HTML file, which asks for nothing from anywhere; titles and captions are text, never HTML.

    Args:
        path: of the file.
        title: of the page, and above it.
        introduction: the sentence below the title.
        panels: figures with their captions.
        plotly: put plotly's script (4.8 MB) into the page, once, with its tools for zooming and saving. Without it
            figures are SVG and a small script, with the same text under the pointer and at the arrow keys.

    Raises `ConfigError` for panels that are none, and for a figure that has to be drawn by plotly
    (`figures.path_sankey`, and one of your own that plotly lays out), unless plotly is True.
    """
    if other := [type(panel).__name__ for panel in panels if not isinstance(panel, Panel)]:
        raise ConfigError(f"panels are of Panel(figure, caption), not {other[0]}")
    shown = [panel.figure for panel in panels if not isinstance(panel.figure, AttentionExplorer)]
    if other := [type(one).__name__ for one in shown if not hasattr(one, "to_plotly_json")]:
        raise ConfigError(f"a panel has a figure, such as interp.plot.figures makes, or an explorer, not {other[0]}")
    first = next((i for i, panel in enumerate(panels) if not isinstance(panel.figure, AttentionExplorer)), 0)
    align = _same_tops if plotly else _same_rooms
    drawn = [
        _plotly_figure(panel, i, top, script=i == first) if plotly else _light_figure(panel, i, top)
        for i, (panel, top) in enumerate(zip(panels, align(panels), strict=True))
    ]
    figures = "".join(_beside(panels, drawn))
    style = STYLE if plotly else (HERE / "light.css").read_text(encoding="utf-8")
    script = "" if plotly else f"<script>{(HERE / 'light.js').read_text(encoding='utf-8')}</script>"
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{style}</style></head><body><main><h1>{escape(title)}</h1><p>{escape(introduction)}</p>"
        f'<div class="figures">{figures}</div></main>{script}</body></html>'
    )
    with atomic_path(path) as file:
        file.write_text(page, encoding="utf-8", errors="backslashreplace")


def _beside(panels: Sequence[Panel], drawn: Sequence[str]) -> Iterator[str]:
    """The panels, where after a small explorer the next two stand beside it, one above the other.

    Its parts cannot align with those of figures, and it is about as high as two.
    """
    row: list[str] = []
    for panel, html in zip(panels, drawn, strict=True):
        if row or (isinstance(panel.figure, AttentionExplorer) and not panel.figure.wide):
            row.append(html)
        else:
            yield html
        if len(row) == 3:
            yield f'<div class="beside">{"".join(row)}</div>'
            row = []
    if row:
        yield f'<div class="beside">{"".join(row)}</div>'


def _is_narrow(panel: Panel) -> bool:
    """Whether a figure may stand beside another one."""
    return not isinstance(panel.figure, AttentionExplorer) and (_layout(panel).get("width") or 0) <= WIDE


def _layout(panel: Panel) -> dict[str, Any]:
    return cast(Any, panel.figure).to_plotly_json()["layout"]


def _rooms(panels: Sequence[Panel]) -> list[int | float]:
    """The pixels above the axes of each narrow figure with labels there, as maps have them; 0 of all others."""
    return [room_above(_layout(panel)) if _is_narrow(panel) else 0.0 for panel in panels]


def _same_rooms(panels: Sequence[Panel]) -> list[int | float]:
    """For each figure of a light page the least room above its axes, such that maps side by side align."""
    rooms = _rooms(panels)
    return [max(rooms) if own else 0.0 for own in rooms]


def _same_tops(panels: Sequence[Panel]) -> list[int | float]:
    """For each figure of plotly's its margin above, such that maps side by side align, whatever their titles."""
    rooms = _rooms(panels)
    tops = [0.0 if isinstance(panel.figure, AttentionExplorer) else _layout(panel).get("margin", {}).get("t", 0.0)
            for panel in panels]  # fmt: skip
    most = max((top for top, room in zip(tops, rooms, strict=True) if room), default=0.0)
    return [most if room else top for top, room in zip(tops, rooms, strict=True)]


def write_svg(path: str | os.PathLike[str], figure: plotly.graph_objects.Figure) -> None:
    """One figure as an SVG file for a paper: with real text, in light colours, with its legend and without its title.

    An explorer of attention writes its own, `attention(...).to_svg(path, layer, head)`.

    Args:
        path: of the file.
        figure: from `figures`.

    Raises `ConfigError` for an explorer, for a table, and for a figure that has to be drawn by plotly
    (`figures.path_sankey`, and one of your own that plotly lays out).

    >>> from interp.plot import figures
    >>> write_svg("pattern.svg", figures.pattern(torch.eye(2), ["a", "b"]))
    """
    if isinstance(figure, AttentionExplorer):
        raise ConfigError("an explorer of attention writes its own pictures: to_svg(path, layer, head)")
    with atomic_path(path) as file:
        file.write_text(lone_picture(figure), encoding="utf-8", errors="backslashreplace")


def _light_figure(panel: Panel, number: int, above: int | float) -> str:
    drawn = panel.figure
    if isinstance(drawn, AttentionExplorer):
        wide, inside = drawn.wide, drawn._repr_mimebundle_(["text/html"])["text/html"]
    else:
        wide, inside = not _is_narrow(panel), light_figure(drawn, f"figure-{number}", above)
    below = f"<figcaption>{escape(panel.caption)}</figcaption>"
    return f'<figure class="panel{" wide" * wide}">{inside}{below}</figure>'


def _plotly_figure(panel: Panel, number: int, top: int | float, script: bool) -> str:
    if isinstance(panel.figure, AttentionExplorer):
        return _light_figure(panel, number, 0.0)
    layout, drawn = _layout(panel), panel.figure
    if (added := top - layout.get("margin", {}).get("t", 0.0)) and "height" in layout:
        drawn = copy.deepcopy(drawn).update_layout(height=layout["height"] + added, margin_t=top)
    page = drawn.to_html(
        full_html=False,
        include_plotlyjs=script,
        include_mathjax=False,
        div_id=f"figure-{number}",
        config={"displaylogo": False, "modeBarButtonsToRemove": ["sendChartToCloud"], "plotlyServerURL": ""},
    )
    return f"<figure>{page}<figcaption>{escape(panel.caption)}</figcaption></figure>"
