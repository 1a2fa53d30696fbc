"""Figures of attention patterns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import RangeError, ShapeError, check_choice
from interp.plot.builder import heatmap, heatmaps
from interp.plot.labels import shown_tokens
from interp.plot.style import check_shares, float32

if TYPE_CHECKING:
    import plotly.graph_objects

AttentionDir = Literal["causal", "bidirectional"]


def pattern(
    pattern: Float[Tensor, "query_pos key_pos"] | Float[np.ndarray, "query_pos key_pos"],
    tokens: Sequence[str],
    *,
    title: str = "",
    attention_dir: AttentionDir = "causal",
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
        ConfigError: another `attention_dir`.
        TokenError: tokens that are no strings.
    """
    values = float32(pattern)
    n = len(tokens)
    if values.shape != (n, n) or n == 0:
        raise ShapeError(
            f"a pattern of shape {values.shape} does not fit {n} tokens; allowed: {(n, n)}, one head of one sequence, "
            "such as cache['pattern', layer][0, head]"
        )
    values, shown = _masked(values, attention_dir), shown_tokens(tokens, n)
    figure = heatmap(values, shown, shown, title=title, x="key", y="query", value="attention", limits=(0.0, 1.0))
    return figure.update_yaxes(scaleanchor="x", constrain="domain").update_xaxes(constrain="domain")


def patterns(
    patterns: Float[Tensor, "head query_pos key_pos"] | Float[np.ndarray, "head query_pos key_pos"],
    tokens: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    title: str = "",
    attention_dir: AttentionDir = "causal",
    per_line: int = 4,
) -> plotly.graph_objects.Figure:
    """Several heads side by side, such as all of a layer, on one scale of colours.

    Args:
        patterns: of one sequence, such as `cache["pattern", layer][0]`.
        tokens: a string a position; they are in the hover text.
        names: of the heads; by default "head 0" and so on.
        title, attention_dir: as for `pattern`.
        per_line: how many stand side by side.

    Raises as `pattern`, and `ShapeError` for another number of names than of heads.
    """
    values, n = float32(patterns), len(tokens)
    if values.ndim != 3 or values.shape[1:] != (n, n) or values.size == 0:
        raise ShapeError(
            f"patterns of shape {values.shape} do not fit {n} tokens; allowed: [head, {n}, {n}], heads of one "
            "sequence, such as cache['pattern', layer][0]"
        )
    names = [f"head {i}" for i in range(len(values))] if names is None else names
    values, shown = _masked(values, attention_dir), shown_tokens(tokens, n)
    return heatmaps(values, names, shown, shown, title=title, x="key", y="query", value="attention",
                    limits=(0.0, 1.0), per_line=per_line)  # fmt: skip


def _masked(values: np.ndarray, attention_dir: str) -> np.ndarray:
    """Patterns [..., query_pos, key_pos], checked, with NaN where a causal head cannot look."""
    check_choice("attention_dir", attention_dir, get_args(AttentionDir))
    check_shares(values, "a pattern (draw other values with heatmap)")
    if attention_dir == "bidirectional":
        return values
    future = np.triu(np.ones(values.shape[-2:], dtype=bool), k=1)
    if np.any(values[..., future] != 0):
        raise RangeError("this pattern attends to later keys; say attention_dir='bidirectional'")
    return np.where(future, np.float32(np.nan), values)
