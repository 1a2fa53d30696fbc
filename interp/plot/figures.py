"""Single-panel plotly figures: a function from a result to a `plotly.graph_objects.Figure`.

All share one builder, `heatmap`. Nothing here changes plotly's templates or renderers.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, RangeError, ShapeError
from interp.tokens import visible

if TYPE_CHECKING:
    import plotly.graph_objects


def pattern(
    pattern: Float[Tensor, "query_pos key_pos"] | Float[np.ndarray, "query_pos key_pos"],
    tokens: Sequence[str],
    *,
    title: str = "",
    attention_dir: Literal["causal", "bidirectional"] = "causal",
) -> plotly.graph_objects.Figure:
    """One head's attention pattern: queries down, keys across, entries from 0 to 1.

    Args:
        pattern: one head of one sequence, such as `cache["pattern", layer][0, head]`.
        tokens: a string a position; white space is made visible, repeated tokens stay apart.
        title: above the figure.
        attention_dir: "causal" leaves the keys after a query blank, as masked, not as 0.

    Raises:
        ShapeError: the pattern is not [len(tokens), len(tokens)].
        RangeError: it has entries outside [0, 1], or attends to later keys and is called causal.
    """
    values = _float32(pattern)
    n = len(tokens)
    if values.shape != (n, n) or n == 0:
        raise ShapeError(f"a pattern of shape {values.shape} does not fit {n} tokens; allowed: {(n, n)}")
    if attention_dir not in ("causal", "bidirectional"):
        raise ConfigError(f"attention_dir = {attention_dir!r}; allowed: 'causal' or 'bidirectional'")
    if not ((values >= -1e-6) & (values <= 1 + 1e-4)).all():
        raise RangeError("a pattern's entries lie between 0 and 1; draw other values with heatmap()")
    future = np.triu(np.ones((n, n), dtype=bool), k=1)
    if attention_dir == "causal":
        if np.any(values[future] != 0):
            raise RangeError("this pattern attends to later keys; say attention_dir='bidirectional'")
        values = np.where(future, np.nan, values)
    return heatmap(values, tokens, tokens, title=title, x="key", y="query", value="attention", limits=(0.0, 1.0))


def heatmap(
    values: Float[Tensor, "row column"] | Float[np.ndarray, "row column"],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    value: str = "value",
    signed: bool = False,
    limits: tuple[float, float] | None = None,
) -> plotly.graph_objects.Figure:
    """The builder of every heat-map: row 0 on top, NaN blank, labels as text, `signed` values centred on 0.

    Axes are integer positions with tick labels, because a categorical axis would merge equal labels into one.

    Raises `ShapeError` if there are not as many labels as rows and columns.
    """
    import plotly.graph_objects as go

    z = _float32(values)
    if z.shape != (len(rows), len(columns)) or z.size == 0:
        raise ShapeError(f"values of shape {z.shape} with {len(rows)} row and {len(columns)} column labels")
    row_labels, column_labels = [_label(r) for r in rows], [_label(c) for c in columns]
    names = np.array([[[r, c] for c in column_labels] for r in row_labels], dtype=object)
    figure = go.Figure(
        go.Heatmap(
            z=z,
            customdata=names,
            hovertemplate=f"{y} %{{y}}: “%{{customdata[0]}}”<br>{x} %{{x}}: “%{{customdata[1]}}”"
            f"<br>{value} %{{z:.4f}}<extra></extra>",
            hoverongaps=False,
            xgap=1,
            ygap=1,
            coloraxis="coloraxis",
        )
    )
    colours = {"colorscale": "RdBu", "cmid": 0.0} if signed else {"colorscale": "Blues"}
    if limits is not None:
        colours |= {"cmin": limits[0], "cmax": limits[1]}
    slant = 0 if max(map(len, column_labels)) <= 3 else -45
    figure.update_xaxes(title_text=x, **_ticks(column_labels, slant), side="top", constrain="domain")
    figure.update_yaxes(
        title_text=y, **_ticks(row_labels, 0), autorange="reversed", scaleanchor="x", constrain="domain"
    )
    figure.update_layout(
        title={"text": _literal(title)},
        width=520,
        height=500,
        margin={"l": 70, "r": 40, "t": 110, "b": 30},
        plot_bgcolor="#eeeeee",
        coloraxis=colours | {"colorbar": {"title": {"text": value}, "thickness": 12}},
    )
    return figure


def _ticks(labels: Sequence[str], angle: int) -> dict[str, Any]:
    return {
        "tickmode": "array",
        "tickvals": list(range(len(labels))),
        "ticktext": list(labels),
        "tickangle": angle,
        "ticks": "outside",
        "ticklen": 4,
        "showgrid": False,
        "zeroline": False,
    }


def _label(text: str) -> str:
    """A token as plotly shows it literally: white space visible, nothing read as markup or as TeX."""
    return _literal(visible(text))


def _literal(text: str) -> str:
    return escape(text, quote=False).replace("$", "&#36;")


def _float32(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=np.float32)
