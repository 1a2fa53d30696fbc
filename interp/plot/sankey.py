"""The most important paths to a logit as ribbons: `path_sankey`."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.errors import ConfigError
from interp.indices import check_count
from interp.model import LogitAttribution, Rows
from interp.plot.attributions import at_one_place, logit_of, place_of
from interp.plot.graph_figures import WIDEST, finish
from interp.plot.style import NEGATIVE, POSITIVE, clip, literal

if TYPE_CHECKING:
    import plotly.graph_objects

LAST_STEP = 0.6
"""How much further the last column is than another, in widths of a column: its labels stand before it, not behind."""


@dataclass(frozen=True)
class _Link:
    """A step of a path: from one component to the next, and what paths of one sign carry along it."""

    start: str
    end: str
    positive: bool


def path_sankey(
    result: LogitAttribution,
    top_k: int = 20,
    *,
    prompt: int | None = None,
    pos: int | None = None,
    title: str | None = None,
) -> plotly.graph_objects.Figure:
    """The most important paths as ribbons from their sources through heads to the logit.

    A ribbon is as wide as what its paths add to the logit (difference), blue where they raise it and red where they
    lower it; paths that share a step share its ribbon. Sources that are read directly, and biases, are ribbons too.

    Args:
        result: from `lens.expand_logits`.
        top_k: so many paths, the largest first.
        prompt, pos: the place, where the result has several.
        title: by default what is shown of the whole.

    Raises:
        ConfigError: another result, `top_k` below 1, or nothing but zeros.
        ShapeError: several places and none chosen, or one out of range.
    """
    if not isinstance(result, Rows):
        raise ConfigError(f"this draws what lens.expand_logits returns, not {type(result).__name__}")
    top_k = check_count("top_k", top_k)
    values = at_one_place(result, prompt, pos)
    order = values.abs().argsort(descending=True, stable=True)[:top_k].tolist()
    flows = _flows([result.labels[row] for row in order], values[order].tolist())
    if not flows:
        raise ConfigError("every path adds 0, so that there is nothing to draw")
    names = sorted({name for link in flows for name in (link.start, link.end)}, key=_along)
    x, y = _columns(names, flows)
    if title is None:
        shown, whole = float(values[order].sum()), float(values.sum())
        of = f"{len(order)} of {len(result):,}"
        where = place_of(result, prompt, pos)
        title = f"Paths to {logit_of(result)}\nthe largest {of}; they add {shown:.3f} of {whole:.3f}{where}"
    figure = _ribbons(names, flows, x, y)
    crowd = max(sum(1 for other in x if other == one) for one in x)
    column = max(105, min(170, 1300 // len(set(x))))  # labels stand beside their nodes
    width = 180 + round(column * (len(set(x)) + LAST_STEP))
    return finish(figure, title, width, 160 + 40 * crowd, most=max(WIDEST, width))


def _flows(labels: Sequence[str], values: Sequence[float]) -> dict[_Link, float]:
    """The steps of these paths to the logit, and how much all that take one add together, by size."""
    flows: dict[_Link, float] = defaultdict(float)
    for label, value in zip(labels, values, strict=True):
        for start, end in itertools.pairwise([*label.split(" -> "), "logit"]):
            flows[_Link(start, end, value >= 0)] += abs(value)
    return {link: size for link, size in flows.items() if size > 1e-6 * max(flows.values())}


def _ribbons(
    names: Sequence[str], flows: Mapping[_Link, float], x: Sequence[float], y: Sequence[float]
) -> plotly.graph_objects.Figure:
    """Nodes at these places with the flows between them."""
    import plotly.graph_objects as go

    from interp.plot.shown import Figure

    node = {
        "label": [literal(clip(name)) for name in names],
        "x": x,
        "y": y,
        "pad": 14,
        "thickness": 14,
        "color": "#8a8a8a",
        "hovertemplate": "%{label}<extra></extra>",
    }
    link = {
        "source": [names.index(link.start) for link in flows],
        "target": [names.index(link.end) for link in flows],
        "value": list(flows.values()),
        "color": [_faint(POSITIVE if link.positive else NEGATIVE) for link in flows],
        "customdata": ["raises the logit" if link.positive else "lowers the logit" for link in flows],
        "hovertemplate": "%{source.label} → %{target.label}<br>%{customdata} by %{value:.4f}<extra></extra>",
    }
    return Figure(go.Sankey(arrangement="snap", node=node, link=link, textfont={"color": "#000000", "size": 12}))


def _along(name: str) -> tuple[int | float, int, str]:
    """Where a component stands on the way to the logit: sources, then layers with heads before the MLP, the logit."""
    if head := re.fullmatch(r"L(\d+)H(\d+)", name):
        return (2 * int(head[1]), int(head[2]), name)
    if written := re.fullmatch(r"(\d+)_(?:attn|cross_attn|mlp)_out", name):
        return (2 * int(written[1]) + 1, 0, name)
    return (math.inf if name == "logit" else -1, 0, name)


def _columns(names: Sequence[str], flows: Mapping[_Link, float]) -> tuple[list[float], list[float]]:
    """Places of the nodes from 0 to 1: a column for each step that is there, and in it room by size.

    The last column, whose labels stand before it, keeps more room than the others to the labels behind the one before.
    """
    steps = sorted({_along(name)[0] for name in names})
    at = [steps.index(_along(name)[0]) for name in names]
    last = len(steps) - 1 + LAST_STEP
    x = [_inside(last if step == len(steps) - 1 else step, last) for step in at]
    size = {
        name: max(
            sum(s for link, s in flows.items() if link.start == name),
            sum(s for link, s in flows.items() if link.end == name),
        )
        for name in names
    }
    y = []
    for name, column in zip(names, x, strict=True):
        beside = [other for other, at in zip(names, x, strict=True) if at == column]
        room = sum(size[other] for other in beside)
        before = sum(size[other] for other in beside[: beside.index(name)])
        y.append(min(max((before + size[name] / 2) / room, 0.001), 0.999))
    return x, y


def _inside(step: int | float, last: int | float) -> float:
    """Plotly places nodes only strictly between 0 and 1."""
    return 0.001 + 0.998 * step / max(last, 1)


def _faint(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.45)"
