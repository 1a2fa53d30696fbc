"""Figures of attention patterns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, RangeError, ShapeError, check_choice
from interp.plot.heatmap import heatmap
from interp.plot.heatmaps import heatmaps
from interp.plot.labels import shown_tokens
from interp.plot.style import check_shares, float32

if TYPE_CHECKING:
    import plotly.graph_objects

AttentionDir = Literal["causal", "bidirectional"]


def pattern(
    pattern: Float[Tensor, "query_pos key_pos"] | Float[np.ndarray, "query_pos key_pos"],
    tokens: Sequence[str],
    source_tokens: Sequence[str] | None = None,
    *,
    title: str = "",
    attention_dir: AttentionDir | None = None,
) -> plotly.graph_objects.Figure:
    """One head's attention pattern: queries down, keys across, entries from 0 to 1.

    Args:
        pattern: one head of one sequence, such as `cache["pattern", layer][0, head]`; in cross-attention a rectangle,
            `cache["pattern", layer, "cross_attn"][0, head]`.
        tokens: a string a position; white space is made visible, repeated tokens stay apart.
        source_tokens: in cross-attention, those of the source, which are the keys; `tokens` are then the target's.
        title: above the figure.
        attention_dir: of self-attention. "causal", the default, leaves the keys after a query blank, as masked, not as
            0; "bidirectional" masks nothing.

    Raises:
        ShapeError: the pattern is not [len(tokens), len(tokens)], or in cross-attention [len(tokens),
            len(source_tokens)].
        RangeError: it has entries outside [0, 1], or attends to later keys and is called causal.
        ConfigError: another `attention_dir`, or one beside `source_tokens`.
        TokenError: tokens that are no strings.
    """
    sides = _Sides.of(tokens, source_tokens, attention_dir)
    values = sides.masked(float32(pattern), ())
    figure = heatmap(values, sides.down, sides.across, title=title, x=sides.x, y=sides.y, value="attention",
                     limits=(0.0, 1.0), max_height=1400)  # fmt: skip
    return figure.update_yaxes(scaleanchor="x", constrain="domain").update_xaxes(constrain="domain")


def patterns(
    patterns: Float[Tensor, "head query_pos key_pos"] | Float[np.ndarray, "head query_pos key_pos"],
    tokens: Sequence[str],
    source_tokens: Sequence[str] | None = None,
    *,
    names: Sequence[str] | None = None,
    title: str = "",
    attention_dir: AttentionDir | None = None,
    per_line: int = 4,
) -> plotly.graph_objects.Figure:
    """Several heads side by side, such as all of a layer, on one scale of colours.

    Args:
        patterns: of one sequence, such as `cache["pattern", layer][0]`.
        tokens, source_tokens: as for `pattern`; they are in the hover text, and beside few heads of short texts.
        names: of the heads; by default "head 0" and so on.
        title, attention_dir: as for `pattern`.
        per_line: how many stand side by side.

    Raises as `pattern`, and `ShapeError` for another number of names than of heads.
    """
    sides, values = _Sides.of(tokens, source_tokens, attention_dir), float32(patterns)
    names = [f"head {i}" for i in range(len(values))] if names is None else names
    return heatmaps(sides.masked(values, values.shape[:1] or (0,)), names, sides.down, sides.across, title=title,
                    x=sides.x, y=sides.y, value="attention", limits=(0.0, 1.0), per_line=per_line)  # fmt: skip


@dataclass(frozen=True)
class _Sides:
    """The tokens beside a pattern, and what is masked in it.

    Attributes:
        down, across: labels of the queries and the keys.
        attention_dir: of self-attention; None in cross-attention.
    """

    down: list[str]
    across: list[str]
    attention_dir: AttentionDir | None

    @classmethod
    def of(
        cls, tokens: Sequence[str], source_tokens: Sequence[str] | None, attention_dir: AttentionDir | None
    ) -> _Sides:
        if attention_dir is not None:
            check_choice("attention_dir", attention_dir, get_args(AttentionDir))
        down = shown_tokens(tokens, len(tokens))
        if source_tokens is None:
            return cls(down, down, attention_dir or "causal")
        if attention_dir is not None:
            raise ConfigError(
                f"attention_dir = {attention_dir!r}: with source_tokens= every query sees the whole source"
            )
        return cls(down, shown_tokens(source_tokens, len(source_tokens), "source_tokens"), None)

    @property
    def x(self) -> str:
        return "key" if self.attention_dir else "source"

    @property
    def y(self) -> str:
        return "query" if self.attention_dir else "target"

    def masked(self, values: np.ndarray, heads: tuple[int, ...]) -> np.ndarray:
        """Patterns [*heads, query_pos, key_pos], checked, with NaN where a causal head cannot look."""
        n_down, n_across = len(self.down), len(self.across)
        if values.shape != (*heads, n_down, n_across) or values.size == 0:
            fit = f"{n_down} tokens" if self.attention_dir else f"{n_down} target and {n_across} source tokens"
            allowed = f"[head, {n_down}, {n_across}], heads" if heads else f"{(n_down, n_across)}, one head"
            part = "" if self.attention_dir else ", 'cross_attn'"
            raise ShapeError(
                f"{'patterns' if heads else 'a pattern'} of shape {values.shape} {'do' if heads else 'does'} not fit "
                f"{fit}; allowed: {allowed} of one sequence, such as cache['pattern', layer{part}][0"
                f"{'' if heads else ', head'}]"
            )
        check_shares(values, "a pattern (draw other values with heatmap)")
        if self.attention_dir != "causal":
            return values
        future = np.triu(np.ones(values.shape[-2:], dtype=bool), k=1)
        if np.any(values[..., future] != 0):
            raise RangeError("this pattern attends to later keys; say attention_dir='bidirectional'")
        return np.where(future, np.float32(np.nan), values)
