"""Figures of how circuits are judged: `faithfulness`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from interp.errors import ConfigError, ShapeError, describe, did_you_mean
from interp.indices import counted
from interp.patching import way_of
from interp.plot.lines import curves as line_curves
from interp.plot.said import count_of, metric_of
from interp.plot.style import literal

if TYPE_CHECKING:
    import plotly.graph_objects
    import xarray

RANDOM, WHOLE = "random", "full model"
"""What stands beside the methods in a curve; see `faithfulness_curve`."""

AREAS = {"absolute": ("cmd", "CMD"), "signed": ("cpr", "CPR")}
"""The area that sums a curve up, by how its circuits are ranked."""


def faithfulness(
    curves: xarray.Dataset, metric: str | None = None, *, by: str | None = None, title: str | None = None
) -> plotly.graph_objects.Figure:
    """How faithful circuits are by their size, a line for each method; sizes as shares of all edges, on a log axis.

    The full model is the level 1, the empty circuit is 0, and a random ranking is grey and dotted. Behind a method's
    name stands the area that sums its curve up, over the share and over its logarithm: CMD (0 is best) of circuits
    ranked by the sizes of scores, CPR of those ranked by sign. Bars are intervals over prompts. Sizes with and without
    dead ends are under the pointer.

    Args:
        curves: from `faithfulness_curve`.
        metric: which one, where several were measured by name.
        by: which ranking, where several were run; the first by default.
        title: by default what the result says of itself.

    Raises `ConfigError` for anything else, or a metric or ranking that is not there.
    """
    if not {"scores", "size"} <= set(getattr(curves, "dims", ())) or "faithfulness" not in curves:
        raise ConfigError("this draws what discovery.faithfulness_curve returns, a Dataset over scores and size, not "
                          f"{describe(curves)}")  # fmt: skip
    ranks = [str(rank) for rank in np.atleast_1d(curves["by"].to_numpy())] if "by" in curves.coords else []
    curves, by = _one(curves, "by", ranks[0] if by is None and ranks else by)
    curves, metric = _one(curves, "metric", metric)
    if "prompt" in curves.dims:
        curves = curves.mean("prompt", keep_attrs=True)
    if further := set(map(str, curves["faithfulness"].dims)) - {"scores", "size"}:
        raise ShapeError(f"a curve is over scores and size; take one along {', '.join(sorted(further))} first")
    size = curves["size"].to_numpy()
    names_of = [str(name) for name in curves["scores"].to_numpy()]
    of = {name: curves.isel(scores=place) for place, name in enumerate(names_of) if name != WHOLE}
    drawn = {name: one for name, one in of.items() if bool(one["faithfulness"].notnull().any())}
    if not drawn:
        raise ConfigError(f"no method has a curve by {by!r}; their scores have no sign")
    names = {name: name + _areas(one, by) for name, one in drawn.items()}
    figure = line_curves(
        {names[name]: (size, one["faithfulness"].to_numpy()) for name, one in drawn.items()},
        title=_title(curves, by, metric) if title is None else title,
        x="share of edges",
        y="faithfulness",
        levels={WHOLE: 1, "empty circuit": 0},
    )
    for trace, (name, one) in zip(cast(Any, figure.data), drawn.items(), strict=True):
        trace.update(mode="lines+markers", **_noted(one, names[name]))
        if name == RANDOM:
            trace.update(line={"color": "#888888", "dash": "dot", "width": 2})
    ticks = {"tickmode": "array", "tickvals": size, "ticktext": [literal(f"{100 * one:g} %") for one in size]}
    return figure.update_xaxes(type="log", **ticks).update_layout(showlegend=True, width=940)


def _one(curves: xarray.Dataset, dim: str, name: str | None) -> tuple[xarray.Dataset, str | None]:
    """The curves of one metric, or one ranking, and what it is called."""
    if dim not in curves.dims:
        if name is not None and (dim not in curves.coords or str(curves[dim].to_numpy()) != name):
            raise ConfigError(f"{dim} = {describe(name)}, but the result has no axis {dim!r} to choose from")
        return curves, name
    names = [str(one) for one in curves[dim].to_numpy()]
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        raise ConfigError(f"{dim} = {describe(name)}; allowed: {', '.join(names)}{did_you_mean(str(name), names)}")
    return curves.isel({dim: names.index(name)}), name


def _areas(one: xarray.Dataset, by: str | None) -> str:
    """What sums a method's curve up, to stand behind its name."""
    for rank, (area, word) in AREAS.items():
        if area in one and by in (rank, None):
            return f" ({word} {float(one[area]):.3f}, log {float(one['log_' + area]):.3f})"
    return ""


def _noted(one: xarray.Dataset, name: str) -> dict[str, Any]:
    """What stands under the pointer at each size, and the bars of intervals."""
    numbers = [one[count].to_numpy() for count in ("n_edges", "n_pruned")]
    notes = [f"{literal(name)}<br>{n:,.0f} edges, {m:,.0f} without dead ends" for n, m in zip(*numbers, strict=True)]
    more: dict[str, Any] = {"text": notes, "hovertemplate": "%{text}<br>faithfulness %{y:.4f}<extra></extra>"}
    if "faithfulness_ci_low" in one:
        middle, low, high = (one[f"faithfulness{end}"].to_numpy() for end in ("", "_ci_low", "_ci_high"))
        more["error_y"] = {"type": "data", "symmetric": False, "array": high - middle, "arrayminus": middle - low,
                           "thickness": 1, "width": 3}  # fmt: skip
    return more


def _title(curves: xarray.Dataset, by: str | None, metric: str | None) -> str:
    """What the curves say of themselves."""
    about = curves.attrs
    n = count_of(about) or 1
    run = [f"{metric or metric_of(curves) or about.get('metric', '')}, {way_of(about)}"]
    run += [counted(n, "prompt"), *([f"ratio {about['ratio']}"] if "ratio" in about and n > 1 else [])]
    ranked = f"circuits: {about.get('ranking', 'top')} edges by {by} scores" if by else ""
    ends = (
        f"{100 * about['confidence']:g} % intervals"
        if "faithfulness_ci_low" in curves and "confidence" in about
        else ""
    )
    second = "; ".join(part for part in (ranked, ends) if part)
    return "\n".join(line for line in ("Faithfulness of circuits by size", "; ".join(run), second) if line)
