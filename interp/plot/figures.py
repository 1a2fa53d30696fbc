"""Single-panel plotly figures: a function from a result to a `plotly.graph_objects.Figure`.

All share one builder, `heatmap`. Nothing here changes plotly's templates or renderers.
"""

from __future__ import annotations

import math
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
        raise ShapeError(
            f"a pattern of shape {values.shape} does not fit {n} tokens; allowed: {(n, n)}, one head of one sequence, "
            "such as cache['pattern', layer][0, head]"
        )
    if attention_dir not in ("causal", "bidirectional"):
        raise ConfigError(f"attention_dir = {attention_dir!r}; allowed: 'causal' or 'bidirectional'")
    if not ((values >= -1e-6) & (values <= 1 + 1e-4)).all():
        raise RangeError("a pattern's entries lie between 0 and 1; draw other values with heatmap()")
    future = np.triu(np.ones((n, n), dtype=bool), k=1)
    if attention_dir == "causal":
        if np.any(values[future] != 0):
            raise RangeError("this pattern attends to later keys; say attention_dir='bidirectional'")
        values = np.where(future, np.nan, values)
    shown = [visible(token) for token in tokens]
    figure = heatmap(values, shown, shown, title=title, x="key", y="query", value="attention", limits=(0.0, 1.0))
    return figure.update_yaxes(scaleanchor="x", constrain="domain").update_xaxes(constrain="domain")


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

    Axes are integer positions with tick labels, because a categorical axis would merge equal labels into one. The
    figure grows with the number of rows and columns; where labels would run into each other, some are left out (all are
    in the hover text).

    Raises `ShapeError` if there are not as many labels as rows and columns.
    """
    import plotly.graph_objects as go

    z = _float32(values)
    if z.shape != (len(rows), len(columns)) or z.size == 0:
        raise ShapeError(f"values of shape {z.shape} with {len(rows)} row and {len(columns)} column labels")
    row_labels, column_labels = [_literal(r) for r in rows], [_literal(c) for c in columns]
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
    width, height = _extent(len(columns)), _extent(len(rows))
    dense = max(map(len, columns)) * 8 > width / len(columns)
    figure.update_xaxes(title_text=x, **_ticks(column_labels, width, -60 if dense else 0), side="top")
    figure.update_yaxes(title_text=y, **_ticks(row_labels, height, 0), autorange="reversed")
    above = 110 + (7 * max(map(len, columns)) if dense else 0)
    beside = 70 + 7 * max(map(len, rows))
    figure.update_layout(
        title={"text": _literal(title), "y": 1, "yanchor": "top", "pad": {"t": 14}},
        width=width + beside + 90,
        height=height + above + 30,
        margin={"l": beside, "r": 90, "t": above, "b": 30},
        plot_bgcolor="#eeeeee",
        coloraxis=colours | {"colorbar": {"title": {"text": value, "side": "right"}, "thickness": 12}},
    )
    return figure


def _extent(n: int) -> int:
    """Pixels for n rows or columns: 24 each, within reason."""
    return min(max(24 * n, 340 if n > 3 else 60 * n), 1400)


def _ticks(labels: Sequence[str], extent: int, angle: int) -> dict[str, Any]:
    every = math.ceil(len(labels) * 14 / extent)
    return {
        "tickmode": "array",
        "tickvals": list(range(0, len(labels), every)),
        "ticktext": list(labels[::every]),
        "tickangle": angle,
        "ticks": "outside",
        "ticklen": 4,
        "showgrid": False,
        "zeroline": False,
    }


def _literal(text: str) -> str:
    """Text as plotly shows it literally: nothing read as markup or as TeX."""
    return escape(text, quote=False).replace("$", "&#36;")


def _float32(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=np.float32)
