"""Pictures: the attention explorer, single-panel figures, and pages.

`attention(...)` shows all heads of a run at once, linked to its tokens. `figures` has a plotly figure for each kind of
result. `report` joins figures and words into one page that opens offline. Everything is imported when it is first asked
for, so that this package costs nothing to those who draw nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.plot import figures, report
    from interp.plot.attention_cell import attention_of_cell
    from interp.plot.explorer import AttentionExplorer, attention
    from interp.plot.style import clip

__all__ = ["AttentionExplorer", "attention", "attention_of_cell", "clip", "figures", "report"]

FILES = {
    "AttentionExplorer": "explorer",
    "attention": "explorer",
    "attention_of_cell": "attention_cell",
    "clip": "style",
}


def __getattr__(name: str) -> Any:
    """What is offered, imported when it is first asked for; `figures` and `report` are modules."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"interp.plot.{FILES.get(name, name)}")
    return getattr(module, name) if name in FILES else module
