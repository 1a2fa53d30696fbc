"""The cosine of two texts, split into what each part of the model wrote for it.

The cosine is `a . b / (|a| |b|)`, with `a` and `b` the pooled vectors. Pooling is linear in the last stream, and the
last stream is a sum of writes, each carried through the norms after it at the scales that they had in the run. With the
lengths as they are, the cosine is therefore the sum of the shares of these writes, and no share is an approximation.
"""

from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ShapeError, check_choice
from interp.keywords import known_keywords
from interp.model import ActivationCache, LinearPooling, Pooling, pool, pooling_weights
from interp.precision import without_autocast
from interp.results import array_of, as_array
from interp.similarity.vectors import Encoded, last_stream, linear_pooling, tokens_of
from interp.text import MaskedTokens, token_strings

if TYPE_CHECKING:
    import xarray as xr

    from interp.model import HookedTransformer

NEEDED = ("hook_embed", "hook_pos_embed", "hook_token_type_embed", "hook_scale", "hook_z", "hook_mlp_out")
"""How the names of the points end that a decomposition of the last stream needs."""


@torch.no_grad()
@without_autocast()
@known_keywords
def similarity_attribution(
    model: "HookedTransformer",
    first: Encoded,
    second: Encoded,
    *,
    by: Literal["component", "position", "both"] = "component",
    pooling: Pooling | None = None,
) -> "xr.Dataset":
    """What each part of the model, in its run on `first`, wrote for the cosine with `second`.

    Args:
        model: an encoder, or any other model.
        first: the texts whose runs are split; or a cache of everything, such as that of a run with interventions.
        second: the texts that they are compared with, one for each or one for all. To split these runs, swap the two.
        by: what to split the cosine into:

            - "component": embeddings, each head ("L5H11"), each MLP ("3_mlp_out") and "bias", all biases together, over
              `component`;
            - "position": the same at each position of the first text, over `component` and `pos`;
            - "both": each part in the run on `first` with each part in the run on `second`, over `component` and
              `other_component`.
        pooling: "mean" or "cls"; None for the model's own.

    Returns:
        `attribution` over the axes named and `prompt`, in float64, and `cosine` over `prompt`, to which the shares of a
        prompt sum. Where hooks edited the run, rows named "edits" hold what they added.

    Raises:
        ConfigError: another `by`; a pooling that is not linear ("pooler"), or none.
        ShapeError: other numbers of texts than described, or a pooled vector of length 0.
        HookNotFoundError: a cache lacks an activation that is needed.
        CacheError: a cache of another model, or of other weights.
    """
    check_choice("by", by, ("component", "position", "both"))
    pooling = linear_pooling(model.cfg, pooling)
    (mine, ids), (theirs, _) = (_cached(model, given) for given in (first, second))
    vectors, others = (_vectors(model, cache, pooling) for cache in (mine, theirs))
    if len(others) not in (1, len(vectors)):
        raise ShapeError(f"{len(vectors)} first texts and {len(others)} second ones; allowed: one for each, or one")
    lengths, other_lengths = (one.norm(dim=-1, keepdim=True) for one in (vectors, others))
    if not (lengths.all() and other_lengths.all()):
        raise ShapeError("a pooled vector has length 0, so that it has no direction to compare")
    units = (others / other_lengths).expand_as(vectors)
    shares, labels, other_labels = [], [], []
    for prompt in range(len(vectors)):  # one at a time: all rows of one are as large as a cache
        rows, labels = _rows(mine, prompt, pooling)  # [component, pos, d_model]
        rows = rows / lengths[prompt]
        if by == "both":
            columns, other_labels = _rows(theirs, prompt % len(others), pooling)
            shares.append(rows.sum(dim=1) @ (columns.sum(dim=1) / other_lengths[prompt % len(others)]).T)
        else:
            own = rows @ units[prompt]
            shares.append(own if by == "position" else own.sum(dim=1))
    values = torch.stack(shares, dim=1)  # [component, prompt, ...]
    cosine = (vectors / lengths * units).sum(dim=-1)
    axes = ("component", "prompt", *{"component": (), "position": ("pos",), "both": ("other_component",)}[by])
    coords: dict[str, Any] = {"component": labels, "prompt": range(len(vectors))}
    if by == "both":
        coords["other_component"] = other_labels
    if by == "position":
        coords |= _positions(model, mine, ids, values.shape[2])
    return _dataset(values, cosine, axes, coords, {"by": by, "pooling": pooling, "edited": int(mine.edited)}, model)


def _cached(model: "HookedTransformer", given: Encoded) -> tuple[ActivationCache, Tensor | None]:
    """The run that is split, and its ids where they are known."""
    if isinstance(given, ActivationCache):
        given.check_made_by(model)
        return given, None
    prompts = given if isinstance(given, MaskedTokens) else model.masked_tokens(given)
    last = [last_stream(model), *([f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"] if model.cfg.n_layers else [])]
    names = [name for name in model.hook_points if name.endswith(NEEDED)]
    return model.base_run_with_cache(prompts, None, names_filter=[*names, *last])[1], prompts.ids


def _vectors(
    model: "HookedTransformer", cache: ActivationCache, pooling: LinearPooling
) -> Float[Tensor, "batch d_model"]:
    stream = cache[last_stream(model)].double()
    return pool(stream, tokens_of(cache, stream), pooling)


def _rows(
    cache: ActivationCache, prompt: int, pooling: LinearPooling
) -> tuple[Float[Tensor, "component pos d_model"], list[str]]:
    """What each part wrote for the pooled vector of one prompt, at each position."""
    one = cache.slice(batch=[prompt])
    stack = one.get_full_resid_decomposition(expand_neurons=False, apply_ln=True)
    values = stack.values[:, 0].double()
    weights = pooling_weights(tokens_of(one, stack.values[0])[0], pooling, values.dtype)
    return values * weights[:, None], stack.labels


def _positions(model: "HookedTransformer", cache: ActivationCache, ids: Tensor | None, n_pos: int) -> dict[str, Any]:
    """The coordinates of positions: their tokens, where these are known, and which are padding."""
    coords: dict[str, Any] = {"pos": range(n_pos)}
    if ids is not None:
        words = token_strings(model.tokenizer, ids.flatten().tolist())
        coords["token"] = (("prompt", "pos"), array_of(words, ids.shape))
    if cache.attention_mask is not None:
        coords["is_token"] = (("prompt", "pos"), as_array(cache.attention_mask))
    return coords


def _dataset(
    values: Tensor,
    cosine: Float[Tensor, "prompt"],
    axes: tuple[str, ...],
    coords: dict[str, Any],
    about: dict[str, Any],
    model: "HookedTransformer",
) -> "xr.Dataset":
    import xarray as xr

    attrs = {**about, "unit": "cosine similarity", "n": len(cosine), "model": model.weights_hash()}
    variables = {"attribution": (axes, as_array(values)), "cosine": ("prompt", as_array(cosine))}
    return xr.Dataset(variables, coords, attrs)
