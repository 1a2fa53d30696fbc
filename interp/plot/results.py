"""Figures of labelled arrays: sweeps, scores of heads, any other; and of losses.

A result brings its own axes, labels and words: what a figure says comes from `dims`, `coords` and `attrs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, ShapeError, describe, did_you_mean
from interp.plot.bars import bars
from interp.plot.heatmap import heatmap
from interp.plot.lines import curves
from interp.plot.said import capital, count_of, done_of, ends_of, measured_of, metric_of, metrics_of, prompts_of, word
from interp.plot.style import float32, in_full, printable
from interp.text import visible

if TYPE_CHECKING:
    import plotly.graph_objects
    import xarray

# ---------------------------------------------------------------------- labelled arrays


def array(
    result: xarray.DataArray | xarray.Dataset,
    name: str | None = None,
    *,
    title: str | None = None,
    value: str | None = None,
    signed: bool | None = None,
    limits: tuple[float, float] | None = None,
    also: Mapping[str, xarray.DataArray] | None = None,
) -> plotly.graph_objects.Figure:
    """Any labelled array: over two axes a heat-map, the first axis down and the second across; over one axis bars.

    Args:
        result: axes of size 1 beyond the second are left out. Beside an axis of positions, its tokens are the labels.
        name: of the variable to draw, where a Dataset was given, with what the Dataset says of itself.
        title: above the figure; by default what the array's `attrs` say of it.
        value: what the values are; by default the array's name.
        signed: centre the colours on 0; by default where there are values below 0.
        limits: ends of the colours.
        also: further numbers of the same axes for the hover text, by name.

    Raises:
        ConfigError: no labelled array of real numbers, or a name that is not there or not needed.
        ShapeError: more than two axes longer than 1, or nothing to draw.
    """
    result = _of_two_axes(_variable(result, name))
    if title is None:
        title = f"{done_of(result)}\n{measured_of(result)}".strip() if result.attrs else ""
    value = str(result.name or "value") if value is None else value
    numbers = result.to_numpy()
    signed = bool((numbers < 0).any()) if signed is None else signed
    labels = [axis_labels(result, str(dim)) for dim in result.dims]
    words = [_axis_title(result, str(dim)) for dim in result.dims]
    notes = _notes(result, dict(also or {}))
    if result.ndim == 1:
        return bars(
            numbers, labels[0][0], title=title, x=value, y=words[0], notes=notes.tolist() if notes is not None else None
        )
    (rows, row_names), (columns, column_names) = labels
    return heatmap(
        numbers,
        rows,
        columns,
        title=title,
        x=words[1],
        y=words[0],
        value=value,
        signed=signed,
        limits=limits,
        row_names=row_names,
        column_names=column_names,
        notes=None if notes is None else notes.tolist(),
    )


def _variable(result: Any, name: str | None) -> xarray.DataArray:
    """The array that a Dataset has under a name, with its intervals, and what both say of themselves."""
    if name is None or not hasattr(result, "data_vars"):
        if name is not None:
            raise ConfigError(f"name = {describe(name)}, but one array was given, not a Dataset of them")
        return result
    names = _names_of(result)
    if name not in names:
        raise ConfigError(f"name = {describe(name)}; allowed: {', '.join(names)}{did_you_mean(str(name), names)}")
    ends = {end: result[f"{name}_{end}"] for end in ("ci_low", "ci_high") if f"{name}_{end}" in result}
    return result[name].assign_coords(ends).assign_attrs(result.attrs | result[name].attrs)


def _names_of(result: xarray.Dataset) -> list[str]:
    """The variables that are no ends of intervals."""
    return [name for name in map(str, result.data_vars) if not name.endswith(("_ci_low", "_ci_high"))]


def sweep(
    result: xarray.DataArray, metric: str | None = None, *, title: str | None = None
) -> plotly.graph_objects.Figure:
    """How much patching each place changes the metric: 0, in the middle of the colours, is the run as it is.

    Of effects and fractions (`normalize=True`) these are its own numbers; else the run's metric (`baseline`) is taken
    off, and the hover text has both. Of single prompts of several the metric itself is drawn, because `baseline` is the
    mean of all. A sweep over two axes is a heat-map, the first axis down (`over=("layer", "pos")`
    puts tokens across; `result.transpose()` turns it round), over one axis bars. Intervals over prompts are in the
    hover text.

    Give it what a sweep returned, or a selection of that. xarray keeps `attrs` through arithmetic, so that a baseline
    which you have taken off would be taken off again here; `effects=True` measures changes.

    Args:
        result: from `patching.sweep` or `path_sweep`, or a variable of what `patching.sweep_sites` returns.
        metric: which one, where several were measured by name; not needed of a result that was cut to one of them.
        title: by default what the result says of itself.

    Raises as `array`, and `ConfigError` for a metric that is not there.
    """
    check_array(result, "patching.sweep and the like return")
    result, name = _of_one_metric(result, metric)
    about = result.attrs
    names = metrics_of(about)
    at = names.index(name) if name in names else None
    ends = [about.get(end) if at is None else _one_of(about.get(end), at) for end in ("baseline", "target")]
    base, target = (float(end) if isinstance(end, int | float) else None for end in ends)
    if (count_of(about) or 1) > 1 and "prompt" in result.coords:
        base = None  # both ends are means over all prompts, and say nothing of each
    measured = metric_of(result) or str(about.get("metric", ""))
    lines = [done_of(result), measured_of(result)]
    if about.get("values") == "fraction":
        value, also = "share of the gap", {}
    elif base is not None:
        of_metric = result + base if about.get("values") == "effect" else result
        value, also = "change", {measured or "value": of_metric}
        result = (of_metric - base if of_metric is result else result).assign_attrs(about)
        runs, other = ends_of(about)
        lines[1] += f": {base:.3g} {runs}" + ("" if target is None else f", {target:.3g} {other}")
    else:
        value, also = str(result.name or "effect"), {}
    written = "\n".join(line for line in lines if line) if title is None else title
    return array(result, title=written, value=value, signed=True, also=also)


def _of_one_metric(result: xarray.DataArray, metric: str | None) -> tuple[xarray.DataArray, str | None]:
    """The result of one metric and its name, None where metrics have none. Raises `ConfigError`, see `sweep`."""
    if "metric" not in {*result.dims, *result.coords}:
        if metric is not None:
            raise ConfigError(f"metric = {describe(metric)}, but the result has no axis of metrics to choose from")
        return result, None
    names = [str(name) for name in np.atleast_1d(result["metric"].to_numpy())]
    if metric not in names and not (metric is None and len(names) == 1):
        raise ConfigError(f"metric = {describe(metric)}; allowed: {', '.join(names)}{did_you_mean(str(metric), names)}")
    at = 0 if metric is None else names.index(metric)
    return result.isel(metric=at) if "metric" in result.dims else result, names[at]


def head_scores(
    scores: xarray.Dataset | xarray.DataArray, name: str | None = None, *, title: str | None = None
) -> plotly.graph_objects.Figure:
    """One score of all heads, layers down and heads across; from 0 to 1, or from -1 to 1 where it can be negative.

    Args:
        scores: from `heads.head_scores`, or one of its variables, or of `weights.copying_scores`.
        name: which score, such as "induction"; with its standard error in the hover text where there is one.
        title: by default the score's name and definition.

    Raises `ConfigError` for a score that is not there, `ShapeError` for numbers that are not [layer, head].
    """
    also: dict[str, Any] = {}
    one: Any = scores
    if hasattr(scores, "data_vars"):
        names = [str(variable) for variable in scores if not str(variable).endswith("_se")]
        if name not in names:
            raise ConfigError(f"name = {name!r}; allowed: {', '.join(names)}{did_you_mean(str(name), names)}")
        one = scores[name]
        also = {"standard error": scores[f"{name}_se"]} if f"{name}_se" in scores else {}
    elif name is not None:
        raise ConfigError(f"name = {name!r}, but one score was given, not a Dataset of them")
    check_array(one, "heads.head_scores returns, with a name, or one of its variables")
    if set(one.dims) != {"layer", "head"}:
        raise ShapeError(f"a score has the axes (layer, head), not {one.dims}")
    low, high = float(one.min()), float(one.max())
    negative = low < 0
    limits = (-1.0 if negative else 0.0, 1.0) if max(-low, high) <= 1 else None
    if title is None:
        of = str(scores.attrs.get("prompts", "")) if "n" in one.attrs else ""
        over = prompts_of(one) + {"": "", "given": " that were given"}.get(of, f": {of}")
        said = "; ".join(part for part in (str(one.attrs.get("definition", "")), over, _norms(one, scores)) if part)
        title = f"{capital(word(str(one.name or 'score')))} score\n{said}"
    also = {key: numbers.transpose("layer", "head") for key, numbers in also.items()}
    return array(one.transpose("layer", "head"), title=title, value=word(str(one.name or "score")), signed=negative,
                 limits=limits, also=also)  # fmt: skip


def _norms(*results: Any) -> str:
    return "norms' gains folded into the weights" if any(one.attrs.get("fold_norms") for one in results) else ""


def check_array(result: Any, what: str) -> None:
    """Raises `ConfigError` for anything but a labelled array, with what should be drawn in words."""
    if hasattr(result, "data_vars"):
        raise ConfigError(f"a Dataset holds several arrays; draw one of them, result[name] of "
                          f"{', '.join(_names_of(result))}")  # fmt: skip
    if not hasattr(result, "dims") or not hasattr(result, "coords"):
        raise ConfigError(f"this draws what {what}, a labelled array, not {type(result).__name__}")


def _of_two_axes(result: xarray.DataArray) -> xarray.DataArray:
    """The array without axes of size 1 beyond the second; those that say least are left out first."""
    check_array(result, "analyses return")
    if result.dtype.kind not in "biuf":
        raise ConfigError(f"a figure draws real numbers, not values of dtype {result.dtype}")
    for dim in ("metric", "prompt", "pos", *result.dims):
        if result.ndim > 2 and result.sizes.get(dim) == 1:
            result = result.isel({dim: 0})
    if result.ndim > 2 or result.ndim == 0 or result.size == 0:
        example = next((f"; take one, such as result.isel({dim}=0)" for dim in result.dims), "")
        raise ShapeError(f"a figure has one or two axes, not {dict(result.sizes)}{example if result.ndim > 2 else ''}")
    return result


BESIDE = ("label", "component")
"""Coordinates beside an axis that name its places, after the tokens of an axis of positions."""


def axis_labels(result: xarray.DataArray, dim: str) -> tuple[list[str], list[str]]:
    """Labels of an axis, and what its places are called under the pointer."""
    values = result[dim].to_numpy().tolist() if dim in result.coords else list(range(result.sizes[dim]))
    there = [str(coord) for coord in result.coords if result[coord].dims == (dim,)]
    if tokens := [coord for coord in ("token", f"{dim.removesuffix('_pos')}_token") if coord in there]:
        labels = [visible(str(token)) for token in result[tokens[0]].to_numpy().tolist()]
        return labels, [f"{word(dim)} {at}: “{token}”" for at, token in zip(values, labels, strict=True)]
    labels = [printable(str(value)) for value in values]
    if named := [coord for coord in BESIDE if coord in there and coord != dim]:
        labels = [printable(str(value)) for value in result[named[0]].to_numpy().tolist()]
    elif {"kind", "name"} <= set(there):  # sets of edges, such as "component" "L0H1", or "random" without a name
        both = zip(result["kind"].to_numpy().tolist(), result["name"].to_numpy().tolist(), strict=True)
        labels = [printable(f"{kind} {own}".strip()) for kind, own in both]
    return labels, [f"{word(dim)} {one}" for one in labels]


def _axis_title(result: xarray.DataArray, dim: str) -> str:
    """What an axis is; beside positions of a patched run, which of the prompts their tokens are of."""
    if "direction" not in result.attrs or dim != "pos" or "token" not in result.coords:
        return word(dim)
    which, several = ends_of(result.attrs)[0], "s" if (count_of(result.attrs) or 1) > 1 else ""
    return f"{word(dim)} (tokens of the {'' if which == 'as it is' else which + ' '}prompt{several})"


def _notes(result: xarray.DataArray, also: dict[str, Any]) -> np.ndarray | None:
    """The hover text of each place: its name, further numbers, and an interval, in lines."""
    lines: list[np.ndarray] = []
    if "label" in result.coords and result["label"].dims == result.dims:
        lines.append(result["label"].to_numpy().astype(object))
    for name, numbers in also.items():
        lines.append(_in_words(name, numbers.broadcast_like(result).transpose(*result.dims).to_numpy()))
    if "reason" in result.coords and result["reason"].dims == result.dims:
        lines.append(result["reason"].to_numpy().astype(object))
    ends = [result[end] for end in ("ci_low", "ci_high") if end in result.coords]
    if len(ends) == 2 and ends[0].dims == result.dims:
        share = f"{100 * result.attrs.get('confidence', 0.95):g} % interval"
        lines.append(_in_words(share, *(end.to_numpy() for end in ends)))
    if not lines:
        return None
    notes = np.empty(result.shape, dtype=object)
    for place in np.ndindex(*result.shape):
        notes[place] = "\n".join(str(line[place]) for line in lines if line[place])
    return notes


def _in_words(name: str, *numbers: np.ndarray) -> np.ndarray:
    """What each place has of one or two numbers, such as "interval 0.1000 to 0.2000"."""
    words = np.empty(numbers[0].shape, dtype=object)
    for place in np.ndindex(*words.shape):
        words[place] = f"{name} {' to '.join(in_full(float(one[place])) for one in numbers)}"
    return words


def _one_of(values: Any, at: int) -> Any:
    return values[at] if isinstance(values, list | tuple) and at < len(values) else values


# ---------------------------------------------------------------------- training


def loss_curves(
    losses: Mapping[str, Float[Tensor, " step"] | Sequence[float]],
    *,
    window: int = 10,
    phase_changes: Mapping[str, int | None] | None = None,
    levels: Mapping[str, int | float] | None = None,
    title: str = "",
) -> plotly.graph_objects.Figure:
    """Losses over the steps of training, each point the mean of `window` steps.

    Args:
        losses: a value a step, in nats, by name.
        window: how many steps to average; a rest of fewer at the end is left out.
        phase_changes: the steps to mark, by name; None (`training.phase_change` found none) marks nothing.
        levels: losses to compare with, such as that of a guess, ln d_vocab.
        title: above the figure.

    Raises `ShapeError` for fewer losses than a window holds.
    """
    for name, values in losses.items():
        if not 1 <= window <= len(values):
            raise ShapeError(f"{len(values)} losses {name!r} do not fill a window of {window}")
    means = {name: _means(float32(values), window) for name, values in losses.items()}
    lines = {name: ((np.arange(len(values)) + 0.5) * window, values) for name, values in means.items()}
    marks = {name: step for name, step in (phase_changes or {}).items() if step is not None}
    return curves(lines, title=title, x="step", y="loss (nats)", marks=marks, levels=levels)


def _means(values: Float[np.ndarray, " step"], window: int) -> Float[np.ndarray, " point"]:
    return values[: len(values) // window * window].reshape(-1, window).mean(axis=1)
