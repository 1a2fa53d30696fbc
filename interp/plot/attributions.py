"""Figures of what the residual stream says: the logit lens, direct contributions to a logit, and paths to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, ShapeError, check_choice, describe
from interp.indices import check_count
from interp.model import LogitAttribution, Rows
from interp.plot.bars import bars
from interp.plot.heatmap import heatmap
from interp.plot.results import axis_labels
from interp.plot.said import count_of, places_of, prompts_of
from interp.plot.style import LONGEST_IN_CELL, clip
from interp.text import visible

if TYPE_CHECKING:
    import plotly.graph_objects
    import xarray

MOST_BARS = 30
"""How many parts of an attribution are shown unless a caller says so."""


def lens(
    result: xarray.Dataset, color: Literal["prob", "kl"] = "prob", *, title: str | None = None
) -> plotly.graph_objects.Figure:
    """The most likely token at every layer and position; the rest of the top k, and the divergence, under the pointer.

    Args:
        result: of one sequence, from `logit_lens`; of several, `result.isel(prompt=0)`.
        color: "prob", the most likely token's probability, or "kl", KL(model || layer) in nats.
        title: by default what is drawn, and of which of several prompts.

    Raises:
        ConfigError: no result of `logit_lens` with `top_k` of at least 1, or another `color`.
        ShapeError: several sequences.
    """
    needed = ("top_token", "top_prob", "kl")
    if not hasattr(result, "data_vars") or any(name not in result for name in needed) or "top" not in result.dims:
        raise ConfigError(
            f"this draws what logit_lens returns, with top_k= of 1 or more: a Dataset with {', '.join(needed)}, and an "
            "axis `top`"
        )
    check_choice("color", color, ("prob", "kl"))
    if result.sizes.get("prompt", 1) > 1:
        raise ShapeError(f"{result.sizes['prompt']} sequences; take one: result.isel(prompt=0)")
    result = result.isel(prompt=0) if "prompt" in result.dims else result
    for chosen in ("layer", "pos"):
        result = result if chosen in result.dims else result.expand_dims(chosen)
    if title is None:
        which = prompts_of(result) if (count_of(result.attrs) or 1) > 1 else ""
        said = [which, *places_of(result), "of an edited run" if result.attrs.get("edited") else ""]
        title = "Logit lens: the most likely next token, read off the stream at each layer\n"
        title += ", ".join(part for part in said if part)
    tokens = result["top_token"].transpose("layer", "pos", "top").to_numpy()
    probs = result["top_prob"].transpose("layer", "pos", "top").to_numpy()
    divergence = result["kl"].transpose("layer", "pos")
    notes = [
        [
            _ranking(tokens[i, j], probs[i, j]) + f"\nKL {float(divergence[i, j]):.3f} nats"
            for j in range(tokens.shape[1])
        ]
        for i in range(tokens.shape[0])
    ]
    best = [[clip(visible(str(token)), LONGEST_IN_CELL) for token in row] for row in tokens[..., 0]]
    values = probs[..., 0] if color == "prob" else divergence.to_numpy()
    rows, row_names = axis_labels(divergence, "layer")
    columns, column_names = axis_labels(divergence, "pos")
    return heatmap(
        values,
        rows,
        columns,
        title=title,
        x="position",
        y="layer",
        value="probability" if color == "prob" else "KL (nats)",
        limits=(0.0, 1.0) if color == "prob" else None,
        row_names=row_names,
        column_names=column_names,
        notes=notes,
        text=best,
    )


def _ranking(tokens: np.ndarray, probs: np.ndarray) -> str:
    return "\n".join(
        f"{i + 1}. “{visible(str(t))}” {p:.4f}" for i, (t, p) in enumerate(zip(tokens, probs, strict=True))
    )


def contributions(
    result: xarray.Dataset | LogitAttribution,
    top_k: int | None = None,
    *,
    prompt: int | None = None,
    pos: int | None = None,
    title: str | None = None,
) -> plotly.graph_objects.Figure:
    """What each part of the model adds to a logit, a logit difference or a cosine, as signed bars that sum to it.

    Args:
        result: from `direct_attribution` (any `by`), from `cache.logit_attrs`, or from `similarity_attribution` by
            component.
        top_k: show so many parts, the largest first, and the others together in a last bar. None for the components in
            the order of the model, or for the largest 30 of a finer split.
        prompt, pos: the place, where the result has several.
        title: by default the sum, and how many parts there are; of a result that was cut to some, what these sum to.

    Raises:
        ConfigError: not such a result, or `top_k` below 1.
        ShapeError: several places and none chosen, or one out of range.

    >>> from interp.lens import direct_attribution
    >>> _, cache = model.run_with_cache(clean)
    >>> shown = contributions(direct_attribution(cache, "Mary", "John", pos=-1))
    >>> shown.layout.title.text
    "Direct contributions to logit 'Mary' − logit 'John': ..."
    """
    labels, values, components = _parts(result, prompt, pos)
    if top_k is None and not components and len(labels) > MOST_BARS + 1:
        top_k = MOST_BARS
    top_k = None if top_k is None else check_count("top_k", top_k)
    if title is None:
        total, whole = float(values.sum()), _whole(result, prompt, pos)
        where = place_of(result, prompt, pos)
        title = f"Direct contributions to {logit_of(result)}: "
        if whole is None or math.isclose(total, whole, abs_tol=1e-3 * float(np.abs(values).sum())):
            title += f"{total:.3f}\n{len(labels)} parts, which sum to it{where}"
        else:  # of parts that were chosen before
            title += f"{whole:.3f}\n{len(labels)} of its parts, which sum to {total:.3f}{where}"
    if top_k is not None:
        labels, values = _largest(labels, values, top_k)
    unit = "cosine" if _is_of_cosine(result) else "logits"
    return bars(values, labels, title=title, x=f"contribution ({unit})")


def paths(
    result: LogitAttribution,
    top_k: int = MOST_BARS,
    *,
    prompt: int | None = None,
    pos: int | None = None,
    title: str | None = None,
) -> plotly.graph_objects.Figure:
    """What the most important paths add to a logit or a logit difference, those of the largest size first.

    Args and errors as for `contributions`; `result` is what `lens.expand_logits` returns.
    """
    if not isinstance(result, Rows):
        raise ConfigError(f"this draws what lens.expand_logits returns, not {type(result).__name__}")
    if title is None:
        _, values, _ = _parts(result, prompt, pos)
        where = place_of(result, prompt, pos)
        title = f"Paths to {logit_of(result)}: {float(values.sum()):.3f}\n{len(result)} terms, which sum to it{where}"
    return contributions(result, top_k, prompt=prompt, pos=pos, title=title)


def at_one_place(result: Rows, prompt: int | None, pos: int | None) -> Float[Tensor, " row"]:
    """The rows at one place. Raises `ShapeError` as `_place`."""
    values = result.values
    if values.ndim != 3:
        raise ShapeError(
            f"rows of shape {tuple(values.shape[1:])}; allowed: [batch, pos], as cache.logit_attrs has them"
        )
    place = _place({"prompt": values.shape[1], "pos": values.shape[2]}, prompt, pos)
    return values[:, place["prompt"], place["pos"]].detach().float().cpu()


def _place(sizes: Mapping[Any, int], prompt: int | None, pos: int | None) -> dict[str, int]:
    """A place on each of the axes `prompt` and `pos` that are there.

    Raises `ShapeError` where an axis has several places and none is chosen, or the chosen one is not there.
    """
    place = {}
    for name, chosen, example in (("prompt", prompt, 0), ("pos", pos, -1)):
        if name not in sizes:
            if chosen is not None:
                raise ShapeError(f"{name} = {describe(chosen)}, but the result has no such axis")
            continue
        size = sizes[name]
        if chosen is None and size != 1:
            raise ShapeError(f"{size} places along {name}; choose one, such as {name}={example}")
        if chosen is not None and (isinstance(chosen, bool) or not -size <= chosen < size):
            raise ShapeError(f"{name} = {describe(chosen)}; allowed: {-size} to {size - 1}")
        place[name] = chosen or 0
    return place


def _whole(result: Any, prompt: int | None, pos: int | None) -> float | None:
    """What all parts sum to at one place, where the result says it."""
    if isinstance(result, Rows):
        return None
    of = result["cosine" if _is_of_cosine(result) else "logit"]
    return float(of.isel(_place(of.sizes, prompt, pos)).to_numpy().item())


def _parts(result: Any, prompt: int | None, pos: int | None) -> tuple[list[str], np.ndarray, bool]:
    """Names of all parts, what each adds at one place, and whether they are whole components in the model's order."""
    if isinstance(result, Rows):
        return list(result.labels), at_one_place(result, prompt, pos).numpy(), True
    if _is_of_cosine(result):
        if further := set(map(str, result["attribution"].dims)) - {"component", "prompt"}:
            raise ShapeError(f"bars are of components alone, not also over {', '.join(sorted(further))}; draw a map: "
                             'figures.array(result.isel(prompt=0), "attribution")')  # fmt: skip
        shares = result["attribution"].isel(_place(result["cosine"].sizes, prompt, pos))
        return [str(name) for name in shares["component"].to_numpy()], shares.to_numpy(), True
    if not hasattr(result, "data_vars") or "attribution" not in result or "logit" not in result:
        raise ConfigError(
            f"this draws what direct_attribution or cache.logit_attrs returns, not {type(result).__name__}"
        )
    from interp.lens import attribution_table

    result = result.isel(_place(result["logit"].sizes, prompt, pos))
    if not result["attribution"].dims:
        raise ShapeError("bars are of several parts, not of one; keep the axis component with [i], not i")
    parts = attribution_table(
        result, max(1, result["attribution"].size + (result["rest"].size if "rest" in result else 0))
    )
    whole = "rest" not in result
    if whole:
        parts = parts.loc[[str(name) for name in result["component"].to_numpy()]]
    return [str(name) for name in parts.index], parts["attribution"].to_numpy(), whole


def _is_of_cosine(result: Any) -> bool:
    """Whether an attribution is what `similarity_attribution` returns."""
    return hasattr(result, "data_vars") and {"attribution", "cosine"} <= set(map(str, result.data_vars))


def logit_of(result: Any) -> str:
    """Which logit an attribution is of, where it says so."""
    attrs = vars(result) if isinstance(result, Rows) else getattr(result, "attrs", {})
    if _is_of_cosine(result):
        return f"the cosine of two texts, {attrs['pooling']} pooling"
    right, wrong = str(attrs.get("correct", "")), str(attrs.get("incorrect", ""))
    if not right or len(right + wrong) > 60:
        return "a logit (difference)"
    return f"logit {right}" + ("" if wrong in ("", "none") else f" \u2212 logit {wrong}")


def place_of(result: Any, prompt: int | None, pos: int | None) -> str:
    """The place that a title is of, from what was chosen now and before; "" where there is but one."""
    chosen = {"prompt": prompt, "position": pos}
    said = [f"{name} {at}" for name, at in chosen.items() if at is not None]
    if not isinstance(result, Rows):
        said += [prompts_of(result)] if prompt is None and (count_of(result.attrs) or 1) > 1 else []
        said += places_of(result)
        said += ["of an edited run"] if result.attrs.get("edited") else []
    return "".join(f"; {part}" for part in said)


def _largest(labels: list[str], values: np.ndarray, top_k: int) -> tuple[list[str], np.ndarray]:
    """The largest by size, and the sum of the others."""
    order = np.argsort(-np.abs(values), kind="stable")
    shown, others = order[:top_k], order[top_k:]
    labels, sizes = [labels[i] for i in shown], values[shown]
    if len(others):
        labels, sizes = [*labels, f"the other {len(others):,}"], np.append(sizes, values[others].sum())
    return labels, sizes
