"""Results of patching as labelled arrays, with intervals over prompts and a record of how they came about."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, describe
from interp.text import MaskedTokens, token_strings

if TYPE_CHECKING:
    import xarray

    from interp.model import HookedTransformer


@dataclass(frozen=True)
class Axis:
    """An axis of a result: its name, its indices (or names in their place), and a second coordinate beside these (name
    and strings), or None.
    """

    name: str
    indices: list[int] | list[str]
    beside: tuple[str, list[str]] | None = None


def position_labels(model: "HookedTransformer", prompts: MaskedTokens) -> list[str]:
    """What stands at each position: the token, or those of several prompts with strokes between (three at most).

    Padding counts where there is nothing else.

    >>> from interp.text import MaskedTokens
    >>> position_labels(model, MaskedTokens(model.to_tokens(["Mary gave", "John gave"])))
    ['Mary/John', 'gave']
    """
    ids = prompts.ids.flatten().tolist()
    words = dict(zip(ids, token_strings(model.tokenizer, ids), strict=True))
    labels = []
    for column, real in zip(prompts.ids.T, prompts.is_token.T, strict=True):
        found = list(dict.fromkeys(words[i] for i in (column[real] if real.any() else column).tolist()))
        labels.append("/".join(found[:3]) + ("/…" if len(found) > 3 else ""))
    return labels


def over_prompts(
    values: Float[Tensor, "metric batch *cells"],
    axes: list[Axis],
    metrics: list[str] | None,
    per_prompt: bool,
    confidence: float,
    attrs: dict[str, object],
    name: str,
) -> "xarray.DataArray":
    """The mean over prompts with an interval, or all prompts.

    Args:
        values: one for each metric, prompt and cell.
        axes: of the cells.
        metrics: names, where the first axis should stay.
        per_prompt: keep the prompts.
        confidence: of the interval.
        attrs: what else the result should say of itself.
        name: of the result, in a word; not one of an axis.

    >>> values = torch.tensor([[[1.0, 4.0], [3.0, 4.0]]])  # [metric, prompt, cell]
    >>> mean = over_prompts(values, [Axis("layer", [0, 1])], None, False, 0.95, {}, "effect")
    >>> mean.values.tolist(), float(mean.ci_low[1])
    ([2.0, 4.0], 4.0)
    """
    import xarray

    n_prompts = values.shape[1]
    dims = ["metric", "prompt", *(axis.name for axis in axes)]
    coords: dict[str, object] = {axis.name: _index(axis.indices) for axis in axes}
    coords |= {a.beside[0]: (a.name, array_of(a.beside[1], [len(a.indices)])) for a in axes if a.beside}
    coords |= {"prompt": list(range(n_prompts)), "metric": metrics or [""]}
    every = xarray.DataArray(values.detach().cpu().numpy(), dims=dims, coords=coords, name=name, attrs=attrs)
    if per_prompt:
        result = every
    else:
        result = every.mean("prompt", keep_attrs=True)
        same = (values == values[:, :1]) | values.isnan()
        pooled = bool(same.all())  # one number for all prompts has no spread over them
        if n_prompts > 1 and not pooled:
            margin = t_quantile((1 + confidence) / 2, n_prompts - 1) * every.std("prompt", ddof=1) / n_prompts**0.5
            result = result.assign_coords(ci_low=result - margin, ci_high=result + margin)
            result.attrs["confidence"] = confidence
    return result if metrics else result.isel(metric=0, drop=True)


def interval_margin(values: Float[Tensor, "*cells batch"], confidence: float) -> Float[Tensor, "*cells"]:
    """Half the width of the interval around the mean over prompts (Student's t), in float64.

    It is 0 where there is one prompt, or one number for all of them: without a spread there is nothing to judge by.

    >>> interval_margin(torch.tensor([1.0, 2.0, 3.0]), confidence=0.95)
    tensor(2.4841, dtype=torch.float64)
    >>> interval_margin(torch.tensor([2.0]), confidence=0.95)
    tensor(0., dtype=torch.float64)
    """
    n, wide = values.shape[-1], values.double()
    if n == 1:
        return torch.zeros_like(wide[..., 0])
    return t_quantile((1 + confidence) / 2, n - 1) * wide.std(dim=-1) / n**0.5


def as_variables(name: str, result: "xarray.DataArray") -> "dict[str, xarray.DataArray]":
    """A result as variables of a Dataset: itself, and the ends of its intervals as "<name>_ci_low" and the like.

    >>> from interp.data import PromptPairs
    >>> from interp.patching import sweep_dataset
    >>> pairs = PromptPairs([clean, corrupted], [corrupted, clean], ["Mary", "John"], ["John", "Mary"])
    >>> list(as_variables("z", sweep_dataset(model, pairs, site="z", over=("layer", "head"), progress=False)))
    ['z', 'z_ci_low', 'z_ci_high']
    """
    bounds = [str(coord) for coord in result.coords if str(coord).startswith("ci_")]
    plain = result.drop_vars(bounds)
    return {name: plain} | {f"{name}_{bound}": result[bound].drop_vars(bounds) for bound in bounds}


def _index(indices: list[int] | list[str]) -> object:
    names = [one for one in indices if isinstance(one, str)]
    return array_of(names, [len(names)]) if names else indices


def check_confidence(confidence: float) -> None:
    """Raises `ConfigError` for one that is none.

    >>> check_confidence(95)
    Traceback (most recent call last):
    interp.errors.ConfigError: confidence = 95; allowed: above 0 and below 1, such as 0.95
    """
    if not isinstance(confidence, Real) or not 0 < confidence < 1:
        raise ConfigError(f"confidence = {describe(confidence)}; allowed: above 0 and below 1, such as 0.95")


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t distribution with so many degrees of freedom.

    >>> round(t_quantile(0.975, degrees=2), 3)
    4.303
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def array_of(strings: Sequence[str], shape: Sequence[int]) -> np.ndarray:
    """Strings as an array of objects, since numpy's own strings lose what ends in a null character.

    >>> array_of(["a", "b", "c", "d"], (2, 2)).shape
    (2, 2)
    """
    flat = np.empty(len(strings), dtype=object)
    flat[:] = strings
    return flat.reshape(tuple(shape))


def as_array(values: Any) -> np.ndarray:
    """A tensor as an array, in float32 where numpy knows no such type; anything else as it is.

    >>> as_array(torch.ones(2, dtype=torch.bfloat16)).dtype
    dtype('float32')
    """
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
