"""What a patched run and its source read, and whether the two correspond, position by position."""

from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import CacheError, ConfigError, ShapeError, describe
from interp.interventions import ADDRESS, Intervention
from interp.model import (
    ActivationCache,
    HookedEncoderDecoder,
    HookedTransformer,
    PairCache,
    SourceAndTarget,
    two_stacks,
)
from interp.text import AttentionMask, Ids, MaskedTokens, Memory, Text, token_strings

Prompt = (
    Text | Ids | MaskedTokens | SourceAndTarget | tuple[Text | Ids | MaskedTokens, Text | Ids | MaskedTokens | None]
)
"""A text, several of them, or token ids, checked or not; of an encoder with a decoder (source, target)."""

Source = Prompt | ActivationCache | PairCache | Intervention
"""Where activations come from: a run to make, a run that was made, or `Zero()`, `Mean(cache)`, `Resample(cache)`."""

AnyStacks = HookedTransformer | HookedEncoderDecoder
"""A model of one stack, or of two."""


def check_model(model: object) -> None:
    """Raise `ConfigError` unless it is a model of this package and of one stack, compiled or not.

    >>> check_model(model)  # nothing to say
    >>> check_model(model.blocks[0])
    Traceback (most recent call last):
    interp.errors.ConfigError: model = Block; allowed: a HookedTransformer
    """
    if two_stacks(model) is not None:
        raise ConfigError(f"model = {describe(model)}: this is defined for one stack, such as model.encoder; of an "
                          "encoder with a decoder, sweep and sweep_sites patch sites of both")  # fmt: skip
    if not isinstance(getattr(model, "cfg", None), TransformerConfig) or not hasattr(model, "hook_points"):
        raise ConfigError(f"model = {describe(model)}; allowed: a HookedTransformer")


def masked_prompts(
    model: AnyStacks, prompt: object, attention_mask: AttentionMask | None
) -> MaskedTokens | SourceAndTarget:
    """What a run of `model` reads, checked. Raises `ConfigError` for what is no prompt of an encoder with a decoder."""
    both = two_stacks(model)
    if both is None:
        if isinstance(prompt, SourceAndTarget):
            raise ConfigError("SourceAndTarget are read by an encoder with a decoder; this model has one stack")
        return cast(HookedTransformer, model).masked_tokens(cast(Any, prompt), attention_mask)
    if attention_mask is not None:
        raise ConfigError("attention_mask: source and target have one each; give what model.masked_tokens(source, "
                          "target, source_mask=, target_mask=) makes as the prompt")  # fmt: skip
    if isinstance(prompt, SourceAndTarget):
        return prompt
    if not isinstance(prompt, tuple) or len(prompt) != 2:
        raise ConfigError(f"{describe(prompt)} is no prompt of an encoder with a decoder; allowed: (source, target), a "
                          "SourceAndTarget; target may be None")  # fmt: skip
    return both.masked_tokens(*prompt)


def last_read(model: AnyStacks, prompts: MaskedTokens | SourceAndTarget) -> tuple[HookedTransformer, MaskedTokens]:
    """The stack whose logits are measured, and what it reads."""
    if (both := two_stacks(model)) is None:
        return cast(HookedTransformer, model), cast(MaskedTokens, prompts)
    return both.decoder, cast(SourceAndTarget, prompts).target


def check_corresponding(
    other: tuple[HookedTransformer, MaskedTokens],
    one: tuple[HookedTransformer, MaskedTokens],
    written: str,
    runs: str,
    of_what: str = "",
) -> None:
    """Positions of two prompts correspond if these are as many and as long, and padded alike. Raises `ShapeError`."""
    (_, others), (model, prompts) = other, one
    if len(others) != len(prompts):
        raise ShapeError(
            f"{len(others)} {written} prompts and {len(prompts)} {runs} ones: they are patched in pairs, so there "
            "must be as many of each"
        )
    if others.ids.shape != prompts.ids.shape:
        raise ShapeError(
            f"the {of_what}{written} prompt has {others.ids.shape[1]} tokens{_words(model, others)}, the {of_what}"
            f"{runs} one {prompts.ids.shape[1]}{_words(model, prompts)}; positions must correspond, so make them "
            "equally long"
        )
    if not torch.equal(others.is_token, prompts.is_token):
        raise ShapeError(f"the {of_what}{written} and {runs} prompts are padded differently, so positions do not "
                         "correspond")  # fmt: skip


def check_memories(
    sizes: set[int], mask: Bool[Tensor, "batch source_pos"] | None, memory: Memory, of_what: str, runs: str
) -> None:
    """Raise `ShapeError` unless another memory, of these sizes and this mask, is as long and padded alike."""
    n = memory.stream.shape[1]
    if other := sizes - {n}:
        raise ShapeError(f"the {of_what} has a source of {min(other)} positions, the {runs} prompt one of {n}; "
                         "positions of the source must correspond")  # fmt: skip
    same = torch.ones_like(memory.is_token) if mask is None else mask.to(memory.stream.device)
    if not torch.equal(same, memory.is_token):
        raise ShapeError(f"the sources of the {of_what} and of the {runs} prompt are padded differently, so positions "
                         "of the source do not correspond")  # fmt: skip


def _words(model: HookedTransformer, prompts: MaskedTokens) -> str:
    """How the first prompt was cut into tokens, where that can be said."""
    words = token_strings(model.tokenizer, prompts.ids[0].tolist()) if model.tokenizer is not None else []
    return f" ({'|'.join(words)})" if 0 < len(words) <= 40 else ""


def check_placeless(source: Intervention) -> None:
    """Raise `ConfigError` for an intervention that says a place, which is the sweep's to say."""
    given = [word for word in ADDRESS if getattr(source, word) is not None]
    if given:
        raise ConfigError(f"{source!r} says {given[0]}=, but here the sweep says where: give it without a place")


def check_cache(
    cache: ActivationCache | PairCache, model: AnyStacks, prompts: MaskedTokens | SourceAndTarget, what: str
) -> None:
    """A cache must be of this model, of these weights, and of as many prompts and positions, padded alike.

    Of a source the positions are looked at where they are patched. Raises `CacheError` or `ShapeError`.
    """
    both = two_stacks(model)
    if isinstance(cache, PairCache) != (both is not None):
        kind, of = ("a PairCache", "one stack") if isinstance(cache, PairCache) else ("of one stack", "two stacks")
        raise CacheError(
            f"the {what} cache is {kind}, and the model has {of}; give the cache of its own run_with_cache"
        )
    parts = cache.stacks.values() if isinstance(cache, PairCache) else [cache]
    models = [cast(HookedTransformer, model)] if both is None else both.stacks.values()
    for part, its in zip(parts, models, strict=True):
        part.check_made_by(its, f"the {what} cache")
    check_positions(cache.decoder if isinstance(cache, PairCache) else cache, *last_read(model, prompts), what)


def check_positions(cache: ActivationCache, model: HookedTransformer, prompts: MaskedTokens, what: str) -> None:
    """Raise `ShapeError` for the cache of a stack with other prompts or positions than these."""
    for name, value in cache.items():
        point = model.hook_points[name.removesuffix("_grad")]
        if "pos" in point.axes and value.shape[:2] != prompts.ids.shape:
            raise ShapeError(
                f"the {what} cache holds {tuple(value.shape[:2])} [batch, pos], the run has {tuple(prompts.ids.shape)}"
            )
    padded = MaskedTokens(prompts.ids, cache.attention_mask).is_token.to(prompts.ids.device)
    if not torch.equal(padded, prompts.is_token):
        raise ShapeError(f"the run of the {what} cache was padded differently, so positions do not correspond")
