"""Texts as vectors, and the cosines between these."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import ConfigError, ShapeError, check_choice, describe
from interp.keywords import known_keywords
from interp.model import ActivationCache, LinearPooling, Pooling, check_one_stack, pool
from interp.precision import at_least_float32
from interp.text import AttentionMask, Ids, MaskedTokens, Text

if TYPE_CHECKING:
    from interp.model import HookedTransformer

Encoded = Text | Ids | MaskedTokens | ActivationCache
"""Texts, ids with what is beside them, or the cache of a run of these."""


@torch.no_grad()
@known_keywords
def embeddings(
    model: "HookedTransformer",
    input: Encoded,
    *,
    pooling: Pooling | None = None,
    normalize: bool | None = None,
    attention_mask: AttentionMask | None = None,
    token_types: Ids | None = None,
) -> Float[Tensor, "batch d_model"]:
    """One vector for each text, in float32 at least; padding has no part in it.

    Args:
        model: an encoder, or any other model.
        input: texts, ids, or the cache of a run (of everything, or of the last stream).
        pooling: "mean" over the tokens of the last stream, past the final norm where there is one; "cls", its first
            token; "pooler", what the model's pooler makes of that; None for the model's own, `cfg.pooling`.
        normalize: whether each vector is divided by its length; None for the model's own habit.
        attention_mask, token_types: as for a run.

    Raises `ConfigError` for a model that names no pooling and none given, for "pooler" where there is none, and for a
    `normalize` that is none of the three; what a run raises for its input; `CacheError` for a cache of another model,
    or of other weights, `HookNotFoundError` for one without the last stream.

    >>> vectors = embeddings(model, [clean, corrupted], pooling="mean")
    >>> vectors.shape
    torch.Size([2, 32])
    """
    pooling = chosen_pooling(model.cfg, pooling)
    if not isinstance(normalize, bool | None):
        raise ConfigError(f"normalize = {describe(normalize)}; allowed: True, False or None")
    last = last_stream(model)
    if isinstance(input, ActivationCache):
        if attention_mask is not None or token_types is not None:
            raise ShapeError("a cache brings its own mask and token types; give attention_mask= and token_types= with "
                             "texts or ids only")  # fmt: skip
        cache = input
        cache.check_made_by(model)
    else:
        options = {"attention_mask": attention_mask, "token_types": token_types}
        _, cache = model.base_run_with_cache(input, None, names_filter=last, **options)
    stream = cache[last]
    pooled = pooled_of(model, stream, tokens_of(cache, stream), pooling)
    return F.normalize(pooled, dim=-1) if (model.cfg.normalize_pooled if normalize is None else normalize) else pooled


@torch.no_grad()
@known_keywords
def cosine_similarity(
    model: "HookedTransformer", first: Encoded, second: Encoded | None = None, *, pooling: Pooling | None = None
) -> Float[Tensor, "first second"]:
    """The cosine between the vectors of each first text and each second one; None compares the first with each other.

    Arguments and errors as for `embeddings`. Texts of one call are padded beside each other.
    """
    mine = embeddings(model, first, pooling=pooling, normalize=True)
    others = mine if second is None else embeddings(model, second, pooling=pooling, normalize=True)
    return mine @ others.T


def chosen_pooling(cfg: TransformerConfig, pooling: Pooling | None) -> Pooling:
    """The pooling that is meant. Raises `ConfigError` for none, and for one that the model lacks."""
    check_one_stack(cfg, "a pooled text")
    if pooling is not None:
        check_choice("pooling", pooling, ("mean", "cls", "pooler"))
    found = cfg.pooling if pooling is None else pooling
    if found is None:
        raise ConfigError("this model does not say how it is pooled (cfg.pooling = None): give pooling='mean' or 'cls'")
    if found == "pooler" and cfg.pooling != "pooler":
        raise ConfigError(f"pooling = 'pooler', but this model has no pooler (cfg.pooling = {cfg.pooling!r}); allowed: "
                          "'mean', 'cls'")  # fmt: skip
    return found


def linear_pooling(cfg: TransformerConfig, pooling: Pooling | None) -> LinearPooling:
    """As `chosen_pooling`. Raises `ConfigError` for a pooling that is no linear map of the stream as well."""
    found = chosen_pooling(cfg, pooling)
    if found == "pooler":
        raise ConfigError("pooling = 'pooler' passes through a tanh, so that its result is no sum of what was written "
                          "to the stream; give pooling='mean' or 'cls'")  # fmt: skip
    return found


def last_stream(model: "HookedTransformer") -> str:
    """The point that shows what is pooled: the last stream, past the final norm where there is one."""
    cfg = model.cfg
    if cfg.norms_reads and cfg.normalization_type:
        return "ln_final.hook_normalized"
    if cfg.n_layers:
        return f"blocks.{cfg.n_layers - 1}.hook_resid_post"
    raise ConfigError("n_layers = 0 without a final norm: this model has no point that shows its last stream")


def tokens_of(cache: ActivationCache, stream: Float[Tensor, "batch pos d_model"]) -> Bool[Tensor, "batch pos"]:
    """Which positions of a cache are tokens."""
    if cache.attention_mask is None:
        return torch.ones(stream.shape[:2], dtype=torch.bool, device=stream.device)
    return cache.attention_mask.to(stream.device)


def pooled_of(
    model: "HookedTransformer",
    stream: Float[Tensor, "batch pos d_model"],
    is_token: Bool[Tensor, "batch pos"],
    pooling: Pooling,
) -> Float[Tensor, "batch d_model"]:
    """The pooled vectors as they are, not divided by their lengths, in float32 at least."""
    if pooling == "pooler":
        return at_least_float32(model.pooler.transformed(pool(stream, is_token, "cls")))
    return pool(at_least_float32(stream), is_token, pooling)
