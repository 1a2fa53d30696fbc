"""What a result says of itself, from its `attrs` and the coordinates that were chosen, in words for titles."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from interp.indices import counted, is_index
from interp.patching import ROLES, way_of
from interp.text import visible

if TYPE_CHECKING:
    import xarray

SAID_ELSEWHERE = ("prompt", "metric", "label", "reason", "ci_low", "ci_high")
"""Coordinates that are no places: a title has the first two where it speaks of them, the others are of single cells."""

WORDS = {
    "pos": "position",
    "query_pos": "query position",
    "key_pos": "attended position",
    "source_pos": "source position",
    "kv_head": "key-value head",
    "kl": "KL divergence",
}
"""What axes are called in a figure, where not by their own names."""


def word(name: str) -> str:
    """What an axis or a score is called in a figure."""
    return WORDS.get(name, name.replace("_", " "))


def ends_of(about: Mapping[str, Any]) -> tuple[str, str]:
    """Which run is patched and which the other one is: an ablation has no other prompt."""
    if about.get("ablation", "none") != "none":
        return "as it is", ""
    return ROLES.get(str(about.get("direction")), ("as it is", "in the other run"))


def done_of(result: xarray.DataArray) -> str:
    """What was done, such as "Patching z, denoising, head 3"; the name of a result that does not say."""
    about = result.attrs
    said = [*_analysis(result), *(["norms frozen"] if about.get("norms") == "frozen" else [])]
    if "site" not in about and about.get("positions", "together") != "together":  # of a sweep they are an axis
        said.append(f"positions {about['positions']}")
    said += places_of(result)
    said += ["from an edited run"] if about.get("edited") else []
    return capital(", ".join(part for part in said if part))


def _analysis(result: xarray.DataArray) -> list[str]:
    """Which analysis a result is of, and how it was done."""
    about, name = result.attrs, word(str(result.name or ""))
    way, method = way_of(about), str(about.get("method", ""))
    if "site" in about:
        return [f"{way} of {_site(about)}"] if about.get("ablation", "none") != "none" else [
            f"Patching {_site(about)}", way]  # fmt: skip
    if {"receivers", "paths"} <= set(about):
        return [f"Paths to {about['receivers']} ({about['paths']})", way]
    if about.get("granularity") == "paths" and "paths" in about:
        return [f"Paths {about['paths']}", way]
    if about.get("granularity") in ("edges", "nodes"):
        of = "edges" if about["granularity"] == "edges" else "components, attribution patching"
        return [f"Effects of {of}", method, way]
    if {"samples", "n_edges", "by"} <= set(about) and method:  # of a bootstrap over prompts
        return [f"{name} of edges among the best {about['n_edges']} by {about['by']} scores", method, way]
    if "n_sets" in about:  # of edges that are taken out of a circuit
        return [{"difference": "Circuit minus model", "effect": "Edges of a circuit"}.get(name, name), way]
    if {"correct", "incorrect"} <= set(about):
        wrong = about["incorrect"]
        of = f"logit {about['correct']}" + ("" if wrong == "none" else f" \u2212 logit {wrong}")
        return [f"{name} of {of}"]
    return [name, str(about.get("intervention", "")), str(about.get("circuit", "")), way or method]


def _site(about: Mapping[str, Any]) -> str:
    site, stack = str(about["site"]), about.get("stack")
    return site if not stack or site.startswith(f"{stack}.") else f"{site} of the {stack}"


def capital(text: str) -> str:
    """Text with a capital first letter, and all others as they are."""
    return text[:1].upper() + text[1:]


def places_of(result: xarray.DataArray | xarray.Dataset) -> list[str]:
    """The places that were taken along axes which are no longer there, such as "head 3" or "position 2"."""
    said = []
    for name in map(str, result.coords):
        if not result[name].dims and name not in SAID_ELSEWHERE and not name.endswith("token"):
            at = visible(str(result[name].item()))
            token = "token" if name == "pos" else f"{name.removesuffix('_pos')}_token"
            beside = token in result.coords and not result[token].dims
            said.append(f"{word(name)} {at}" + (f" “{visible(str(result[token].item()))}”" if beside else ""))
    return said


def count_of(about: Mapping[str, Any], name: str = "n") -> int | None:
    """A number of things that a result says; None where it says none, as attributes of a user's own may."""
    said: Any = about.get(name)
    return operator.index(said) if is_index(said) else None


def prompts_of(result: xarray.DataArray | xarray.Dataset, n: int | None = None) -> str:
    """How many prompts the numbers are means over, or which one of them they are of; "" where that is not known."""
    about = result.attrs
    n = count_of(about) if n is None else n
    several = "" if n is None else counted(n, "prompt")
    texts, tokens, samples = (count_of(about, name) for name in ("n_texts", "n_tokens", "samples"))
    if texts is not None and tokens is not None:
        return f"{counted(tokens, 'token')} of {counted(texts, 'text')}"
    if samples is not None and "n_edges" in about and several:
        return f"{counted(samples, 'draw')} of {several}"
    if "prompt" in result.dims and result.sizes["prompt"] > 1:
        return several
    if "prompt" in result.coords and n != 1:
        return f"prompt {result['prompt'].to_numpy().item()}" + ("" if n is None else f" of {n}")
    return several if n in (None, 1) else f"mean of {several}"


def metric_of(result: xarray.DataArray | xarray.Dataset) -> str:
    """The one of several metrics that was taken; "" where none was, or there is but one."""
    taken = "metric" in result.coords and not result["metric"].dims and len(metrics_of(result.attrs)) != 1
    return str(result["metric"].item()) if taken else ""


def metrics_of(about: Mapping[str, Any]) -> list[str]:
    """The names of the metrics that were measured; none where these have none, or an attribute is a user's own."""
    try:
        names = json.loads(about.get("metrics", "[]"))
    except (TypeError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def measured_of(result: xarray.DataArray, metric: str | None = None) -> str:
    """The metric and the prompts, in a line."""
    about = result.attrs
    metric = metric or metric_of(result)
    said = [metric or str(about.get("metric") or about.get("definition") or about.get(str(result.name)) or "")]
    said[0] = said[0] or str(about.get("unit", ""))
    said += [f"{about['pooling']} pooling"] if about.get("pooling") else []
    said += ["norms' gains folded into the weights"] if about.get("fold_norms") else []
    said += [f"ratio {about['ratio']}"] if about.get("ratio") and (count_of(about) or 1) > 1 else []
    return ", ".join(part for part in [*said, prompts_of(result)] if part)
