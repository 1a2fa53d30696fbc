"""The figure of where information can move between tokens: `token_flow`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, RangeError, ShapeError
from interp.model import head_label
from interp.plot.graph_figures import WIDEST, Look, add_line, finish
from interp.plot.labels import shown_tokens
from interp.plot.style import COLORS, LETTER, check_shares, clip, columns_of, float32, ticks

if TYPE_CHECKING:
    import plotly.graph_objects


def token_flow(
    patterns: Mapping[tuple[int, int], Float[Tensor, "query_pos key_pos"] | Float[np.ndarray, "query_pos key_pos"]],
    tokens: Sequence[str],
    *,
    at_least: int | float = 0.3,
    title: str = "",
) -> plotly.graph_objects.Figure:
    """Where information can move: tokens across, layers upwards, a line for each strong entry of a pattern.

    A line goes from the key, as it enters the layer, to the query, as it leaves it; its width is the attention. Below
    the title stands from which entry on lines are drawn.

    Args:
        patterns: of some heads, by layer and head: `{(5, 1): cache["pattern", 5][0, 1], ...}`.
        tokens: a string a position.
        at_least: entries from here on are drawn.
        title: above the figure.

    Raises:
        ShapeError: a pattern is not [len(tokens), len(tokens)].
        ConfigError: no heads at all, or called otherwise than (layer, head).
        TokenError: tokens that are no strings.
        RangeError: `at_least` is not above 0 and at most 1, or above all entries, or a pattern has entries outside
            [0, 1].
    """
    import plotly.graph_objects as go

    from interp.plot.shown import Figure

    n, shown = len(tokens), shown_tokens(tokens, len(tokens))
    if not 0 < at_least <= 1:
        raise RangeError(f"at_least = {at_least}; allowed: above 0, at most 1")
    if not isinstance(patterns, Mapping) or not patterns or any(not _is_head(head) for head in patterns):
        raise ConfigError("patterns is a mapping from (layer, head) to a pattern, of at least one head")
    layers = sorted({layer for layer, _ in patterns})
    figure = Figure()
    beside = {layer: sorted(head for at, head in patterns if at == layer) for layer in layers}
    for number, ((layer, head), given) in enumerate(sorted(patterns.items())):
        values = float32(given)
        if values.shape != (n, n) or n == 0:
            raise ShapeError(f"the pattern of {head_label(layer, head)} has shape {values.shape}; allowed: {(n, n)}")
        check_shares(values, f"the pattern of {head_label(layer, head)}")
        level, name = layers.index(layer), head_label(layer, head)
        bend = 0.12 * (beside[layer].index(head) - (len(beside[layer]) - 1) / 2)  # so that no head hides another
        for i, (query, key) in enumerate(np.argwhere(values >= at_least).tolist()):
            weight = float(values[query, key])
            note = f"{name}: {query} “{shown[query]}” attends {weight:.3f}\nto {key} “{shown[key]}”"
            look = Look(name, COLORS[number % len(COLORS)], 0.5 + 3.5 * weight)
            add_line(figure, *_swing(key, query, level, bend), look, note, legend=i == 0)
    if not figure.data:
        most = max(float(float32(given).max()) for given in patterns.values())
        raise RangeError(f"at_least = {at_least}, but the largest entry is {most:.3g}: there is nothing to draw")
    dots = [(x, y) for y in range(len(layers) + 1) for x in range(n)]
    figure.add_trace(
        go.Scatter(x=[x for x, _ in dots], y=[y for _, y in dots], mode="markers", showlegend=False, hoverinfo="skip",
                   marker={"size": 9, "color": "#ffffff", "line": {"color": "#555555", "width": 1}})
    )  # fmt: skip
    labels, width = [clip(token) for token in shown], min(160 + 60 * n, WIDEST)
    angle = -60 if LETTER * max(map(columns_of, labels)) > (width - 120) / n else 0
    figure.update_xaxes(**ticks(labels, width - 120, angle), range=[-0.6, n - 0.4])
    names = [f"into {layer}" for layer in layers] + [f"out of {layers[-1]}"]
    figure.update_yaxes(title_text="layer", tickmode="array", tickvals=list(range(len(names))), ticktext=names,
                        gridcolor="#eeeeee", zeroline=False, range=[-0.3, len(layers) + 0.3])  # fmt: skip
    below = LETTER * max(map(columns_of, labels)) if angle else 20
    written = title if "\n" in title else f"{title or 'Attention between tokens'}\nentries of {at_least:g} or more"
    figure = finish(figure, written, width, 60 + 110 * len(layers))
    return figure.update_layout(margin_b=50 + below, height=figure.layout.height + below)


def _swing(start: int, end: int, level: int, bend: int | float) -> tuple[np.ndarray, np.ndarray]:
    """A line to the next level whose middle is off the straight line by `bend`."""
    along = np.linspace(0, 1, 25, dtype=np.float32)  # the pointer finds points, not lines
    return (1 - along) * start + along * end + 4 * bend * along * (1 - along), level + along


def _is_head(key: Any) -> bool:
    return isinstance(key, tuple) and len(key) == 2 and all(isinstance(i, Integral) for i in key)
