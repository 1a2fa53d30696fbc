"""Figures that are there wherever a notebook is read.

By itself plotly leaves in a notebook its data alone, which JupyterLab, Jupyter Notebook and VS Code draw; in an export
by nbconvert, or where plotly's extension is not installed, the place is blank. A figure of this package leaves the
picture of light.py beside the data, in a frame of its own, so that its style and its script touch nothing else.
"""

from __future__ import annotations

import warnings
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io

from interp.errors import ConfigError
from interp.plot.hover import plain
from interp.plot.light import light_figure
from interp.plot.style import unwrapped

DATA = "application/vnd.plotly.v1+json"
"""The type under which plotly leaves a figure's data."""

HERE = Path(__file__).parent

FITS = """
for (const when of ["load", "resize"])
  addEventListener(when, () => { frameElement.style.height = document.documentElement.offsetHeight + 4 + "px"; });
"""
"""A script of the frame: it is as high as what is in it, also where a narrower cell breaks lines."""

STYLE = "body { margin: 0; padding: 0; max-width: none; } .panel { display: block; margin: 0; }"
"""Beside light.css: a frame has no margins of its own."""


class Figure(go.Figure):
    """A plotly figure whose notebook output also has a picture that needs no plotly.

    Where another renderer is chosen (`plotly.io.renderers.default`), that one is followed.
    """

    def show(self, *args: Any, **kwargs: Any) -> None:
        """Show the figure as plotly does; in a notebook, with the picture beside the data."""
        if args or kwargs or plotly.io.renderers.default != "plotly_mimetype":
            super().show(*args, **kwargs)
            return
        from IPython.display import display

        display(self._repr_mimebundle_(), raw=True)

    def _ipython_display_(self) -> None:
        """Called by IPython before it asks for anything else."""
        if plotly.io.renderers.default == "plotly_mimetype":
            self.show()
        else:
            super()._ipython_display_()

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        bundle = super()._repr_mimebundle_(*args, **kwargs)
        if set(bundle) != {DATA}:
            return bundle
        title = self.layout.title.text or "a figure"
        return bundle | {"text/html": in_frame(self), "text/plain": f"Figure: {plain(unwrapped(title))}"}


def in_frame(figure: go.Figure) -> str:
    """A figure as HTML for a notebook: light.py's picture, or plotly's page where it is of another kind."""
    layout, least = figure.layout, ""  # our picture fits a cell of any width: what is wider scrolls
    width, height = layout.width or 700, layout.height or 450
    try:
        page = _page(figure)
    except ConfigError:  # another kind of figure
        page, least = _of_plotly(figure), f"; min-width: {width}px"
    except (LookupError, TypeError, ValueError) as error:  # the reader added what light.py does not know
        warnings.warn(f"this figure is shown by plotly's own page, of megabytes: it has what our picture of it does "
                      f"not know ({type(error).__name__}: {error})", stacklevel=2)  # fmt: skip
        page, least = _of_plotly(figure), f"; min-width: {width}px"
    return (
        f'<iframe srcdoc="{escape(page)}" width="100%" height="{height + 40}" style="border: 0{least}" '
        'title="figure"></iframe>'
    )


def _of_plotly(figure: go.Figure) -> str:
    return figure.to_html(include_plotlyjs=True, include_mathjax=False)


def _page(figure: go.Figure) -> str:
    # An export is on white paper, whatever the reader's system prefers.
    style = (HERE / "light.css").read_text(encoding="utf-8").replace("(prefers-color-scheme: dark)", "not all")
    script = (HERE / "light.js").read_text(encoding="utf-8")
    inside = light_figure(figure, "figure")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><style>{style}{STYLE}</style>'
        f"<body><figure class='panel'>{inside}</figure><script>{script}{FITS}</script></body></html>"
    )
