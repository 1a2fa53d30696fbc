"""Pictures: the attention explorer (`attention`), single-panel figures (`figures`, plotly) and pages (`report`)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.plot.explorer import AttentionExplorer, attention

__all__ = ["AttentionExplorer", "attention"]


def __getattr__(name: str) -> Any:
    """The explorer, imported when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from interp.plot import explorer

    return getattr(explorer, name)
