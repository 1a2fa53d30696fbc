"""What stands beside the pictures: a label for every position, and scores of heads as badges."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, RangeError, ShapeError, TokenError, describe
from interp.model import HookedTransformer
from interp.plot import still
from interp.plot.style import float32
from interp.text import as_ids, one_sequence, token_strings, visible

Tokens = str | Sequence[str] | Sequence[int] | Tensor | np.ndarray
"""The tokens of a run: its text, a string a position, or ids [pos] or [batch, pos]."""


@dataclass(frozen=True, eq=False)
class Score:
    """One number a head.

    Attributes:
        name: as the caller calls it.
        short: the shortest beginning of the name that tells it apart, for badges.
        color: of its badges.
        unit: 1 where all values lie in [-1, 1], else the largest size: badges and thresholds are parts of it.
        values: one a head.
    """

    name: str
    short: str
    color: str
    unit: float
    values: Float[np.ndarray, "layer head"]

    @property
    def signed(self) -> bool:
        """Whether some are negative."""
        return bool((self.values < 0).any())

    def worded(self, head: int) -> str:
        """The value of a head, counted over all layers, as the page has it."""
        value = float(self.values.flat[head])
        text = f"{value:.2f}" if self.unit == 1 else f"{float(f'{value:.3g}'):g}"
        text = text.lstrip("-") if not float(text) else text.replace("-", "\u2212")  # a zero has no sign
        return "+" * (self.signed and value > 0) + text


def token_labels(model: HookedTransformer | None, tokens: Any, n: int, batch: int, what: str) -> list[str]:
    """A label a position, from text, strings or ids; white space made visible. Raises `TokenError`.

    `model` is the one that read them; without it there are only strings to go by.
    """
    if tokens is None:
        return [str(i) for i in range(n)]
    if isinstance(tokens, str):
        tokens = _read_by(model, what).to_str_tokens(tokens)
    if not isinstance(tokens, Iterable) or isinstance(tokens, bytes):
        raise TokenError(f"{what} is text, a string a position, or ids, not {describe(tokens)}")
    ids = None
    if isinstance(tokens, Tensor | np.ndarray):
        ids = as_ids(tokens, what)
        if ids.ndim == 2 and not -len(ids) <= batch < len(ids):
            raise TokenError(f"{what} has {len(ids)} sequences, so there is none for batch = {batch}")
        ids = ids[batch] if ids.ndim == 2 else ids
    else:
        tokens = list(tokens)
        if tokens and all(isinstance(token, Integral) and not isinstance(token, bool) for token in tokens):
            ids = as_ids(tokens, what)
    if ids is not None:
        tokens = token_strings(_read_by(model, what).tokenizer, one_sequence(ids))
    return shown_tokens(tokens, n, what)


def _read_by(model: HookedTransformer | None, what: str) -> HookedTransformer:
    if model is None:
        raise TokenError(f"{what}: give a string a position, because this cache does not know which model read them")
    return model


def shown_tokens(tokens: Iterable[Any], n: int, what: str = "tokens") -> list[str]:
    """The n strings of a run, white space made visible. Raises `TokenError` for anything else."""
    labels = list(tokens)
    if not all(isinstance(token, str) for token in labels):
        raise TokenError(f"{what} is text, a string a position, or ids, not {describe(tokens)}")
    if len(labels) != n:
        raise TokenError(f"{what}: {len(labels)} tokens for {n} positions; is a bos missing or surplus?")
    return [visible(token) for token in labels]


def read_scores(scores: Mapping[str, Any] | None, layers: list[int], n_layers: int, heads: int) -> list[Score]:
    """Scores of the shown layers, checked. Raises `ConfigError`, `ShapeError` or `RangeError`, see `attention`."""
    if scores is None:
        return []
    if not hasattr(scores, "items"):
        raise ConfigError(f"scores is a mapping from names to numbers [layer, head], not {type(scores).__name__}")
    found: dict[str, np.ndarray] = {}
    for name, given in scores.items():
        if hasattr(scores, "data_vars") and str(name).endswith("_se") and str(name)[:-3] in scores:
            continue  # the standard error of one, which `head_scores` puts beside it
        if str(name) in found:
            raise ConfigError(f"two scores are called {str(name)!r}")
        values = _numbers(str(name), given, layers)
        if values.shape == (n_layers, heads):
            values = values[layers]
        if values.shape != (len(layers), heads):
            raise ShapeError(f"score {name!r} has shape {values.shape}; allowed: [layer, head] = {(n_layers, heads)}")
        if not np.isfinite(values).all():
            why = getattr(given, "attrs", {}).get("undefined")
            raise RangeError(f"score {name!r} has entries that are NaN or infinite"
                             f"{f' (undefined {why}); leave it out' if why else ''}")  # fmt: skip
        found[str(name)] = values
    colors = itertools.cycle(still.SCORE_COLORS)
    return [
        Score(name, _short(name, list(found)), next(colors), max(1.0, float(np.abs(values).max())), values)
        for name, values in found.items()
    ]


def source_of(scores: Any) -> str:
    """The prompts that a Dataset of `heads.head_scores` is of, in a sentence; "" for what does not say so."""
    about = getattr(scores, "attrs", {})
    prompts, n = str(about.get("prompts", "")), about.get("n", 0)
    if prompts.startswith("random repeats"):
        return f"Scores: of {n} random-repeat prompts, not of this text."
    given = "the prompt" if n == 1 else f"the {n} prompts"
    return f"Scores: of {given} given to head_scores." if prompts == "given" else ""


def _numbers(name: str, given: Any, layers: list[int]) -> np.ndarray:
    """A score as an array; a labelled one in the order of its labels."""
    if hasattr(given, "dims") and set(given.dims) == {"layer", "head"}:
        given = given.transpose("layer", "head")
        if "layer" in given.coords:
            if missing := set(layers) - set(given["layer"].to_numpy().tolist()):
                raise ShapeError(f"score {name!r} has no layer {min(missing)}")
            given = given.sel(layer=layers)
        given = (given.sortby("head") if "head" in given.coords else given).to_numpy()
    try:
        return float32(given)
    except ShapeError as error:
        raise ShapeError(f"score {name!r}: {error}") from None


def _short(name: str, names: Sequence[str]) -> str:
    for length in range(1, len(name)):
        if sum(other.casefold().startswith(name[:length].casefold()) for other in names) == 1:
            return name[:length].capitalize()
    return name
