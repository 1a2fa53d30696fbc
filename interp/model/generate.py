"""Generation: the loop that predicts, samples and appends, with keys and values kept between its runs."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import ConfigError, ShapeError, describe
from interp.keywords import known_keywords
from interp.model.hooked_module import is_run
from interp.model.kv_cache import KVCache
from interp.model.loss import check_predicts_next_token
from interp.model.names import HookName
from interp.model.sampling import Sampling, is_number
from interp.progress import shown
from interp.text import Answer, AttentionMask, Ids, MaskedTokens, Text, token_ids

if TYPE_CHECKING:
    from interp.model.cache import ActivationCache
    from interp.model.transformer import HookedTransformer


@dataclass(frozen=True, eq=False)
class Generation:
    """What `generate` returns.

    Attributes:
        tokens: prompts and continuations, [batch, pos]; after a stop token a sequence repeats that token.
        n_prompt: how many of the positions are the prompt's.
        texts: the continuations as text up to the stop token, or None for a model without a tokenizer.
        cache: with `names_filter`, the activations of all positions but the last token's, which was never run. Of keys
            that a step could not see yet, scores are -inf, and patterns and biases of relative positions 0.
    """

    tokens: Int[Tensor, "batch pos"]
    n_prompt: int
    texts: list[str] | None
    cache: "ActivationCache | None"


def stream(
    model: "HookedTransformer",
    prompts: MaskedTokens,
    max_new_tokens: int,
    sampling: Sampling,
    stop_tokens: Sequence[int] = (),
    names_filter: HookName | Iterable[HookName] | None = None,
    caches: "list[ActivationCache] | None" = None,
) -> Iterator[Int[Tensor, "batch"]]:
    """The next token of every sequence, step after step; ends early when all have reached a stop token.

    The prompt is run once, every later step carries one position. With `caches`, each step's activations are appended.

    Raises, at once and not with the first step:
        ConfigError: prompt and continuation do not fit the context, or the model is not causal or has logits of other
            things than tokens.
        ShapeError: a prompt ends with padding, which would be what the first new token continues.
    """
    if not is_number(max_new_tokens, Integral) or max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens = {describe(max_new_tokens)}; allowed: 1 or more")
    check_predicts_next_token(model.cfg, "generation")
    mask = prompts.attention_mask
    if mask is not None and not mask[:, -1].all():
        row = int((~mask[:, -1]).nonzero()[0])
        raise ShapeError(f"attention_mask: sequence {row} ends with padding; prompts are padded on the left")
    n_prompt, n_ctx = prompts.ids.shape[1], model.cfg.n_ctx
    if n_prompt + max_new_tokens > n_ctx + 1:  # the last token is not run
        raise ConfigError(
            f"{n_prompt} tokens and max_new_tokens = {max_new_tokens} exceed the context, n_ctx = {n_ctx}; give "
            f"max_new_tokens= of at most {n_ctx + 1 - n_prompt}"
        )
    return _steps(model, prompts, max_new_tokens, sampling, stop_tokens, names_filter, caches)


def _steps(
    model: "HookedTransformer",
    prompts: MaskedTokens,
    max_new_tokens: int,
    sampling: Sampling,
    stop_tokens: Sequence[int],
    names_filter: HookName | Iterable[HookName] | None,
    caches: "list[ActivationCache] | None",
) -> Iterator[Int[Tensor, "batch"]]:
    device = prompts.ids.device
    generator = None if sampling.seed is None else torch.Generator(device).manual_seed(sampling.seed)
    stops = torch.tensor(list(stop_tokens), dtype=torch.long, device=device)
    n_prompt = prompts.ids.shape[1]
    kv_cache = KVCache(model.cfg.n_layers, n_prompt, n_final=n_prompt + max_new_tokens - 1)  # the last one is not run
    stopped = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    last = prompts.ids[:, -1]
    for _ in range(max_new_tokens):
        with torch.no_grad():
            if caches is None:
                if model.read_out_is_watched():  # hooks see every position
                    logits = model.base_run(prompts, kv_cache=kv_cache)
                else:
                    x = model.base_run(prompts, stop_at_layer=model.cfg.n_layers, kv_cache=kv_cache)
                    logits = model.unembed(model.read_out(x[:, -1:]))
            else:
                logits, cache = model.base_run_with_cache(prompts, names_filter=names_filter, kv_cache=kv_cache)
                caches.append(cache)
        last = torch.where(stopped, last, sampling.choose(logits[:, -1], generator))
        stopped = stopped | torch.isin(last, stops)
        yield last
        if stopped.all():
            return
        types = None if prompts.token_types is None else prompts.token_types[:, -1:]  # a text goes on in its type
        prompts = MaskedTokens(last[:, None], token_types=types, memory=prompts.memory)


def join_steps(caches: "list[ActivationCache]") -> "ActivationCache":
    """The caches of successive runs as one, along positions; keys that a step could not see yet are masked."""
    model = caches[0].model
    joined = {}
    for name in caches[0]:
        point = model.hook_points[name]
        parts = [cache[name] for cache in caches]
        if point.of_memory:  # the same in every step
            joined[name] = parts[-1]
            continue
        if "key_pos" in point.axes:
            n_keys = max(part.shape[-1] for part in parts)
            masked = float("-inf") if name.endswith("scores") else 0.0
            parts = [torch.nn.functional.pad(part, (0, n_keys - part.shape[-1]), value=masked) for part in parts]
        joined[name] = torch.cat(parts, dim=point.pos_axis)
    masks = [cache.attention_mask for cache in caches]
    mask = None
    if masks[0] is not None:  # the prompt's; what was generated is no padding
        mask = torch.cat([masks[0], *(torch.ones_like(masks[0][:, :1]) for _ in masks[1:])], dim=1)
    return type(caches[0])(joined, model, any(cache.edited for cache in caches), mask, caches[0].source_mask)


class GenerateOptions(TypedDict, total=False):
    """What `generate` and `stream` take besides the prompts and the number of tokens to add.

    Attributes:
        temperature, top_k, top_p, seed: see `Sampling`; by default the largest logit is taken.
        stop_tokens: a sequence that reaches one of them (an id, or the text of one token) ends there.
        attention_mask: as for calling the model.
    """

    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int | None
    stop_tokens: Answer
    attention_mask: AttentionMask | None


def _asked(
    model: "HookedTransformer", input: Text | Ids | MaskedTokens, options: GenerateOptions
) -> tuple[MaskedTokens, Sampling, list[int]]:
    """The prompts, how tokens are chosen, and the ids of the stop tokens."""
    prompts = model.masked_tokens(input, options.get("attention_mask"))
    stops = token_ids(options.get("stop_tokens", ()), model.to_single_token, model.cfg.d_vocab, "stop token")
    chosen = options.get("temperature", 0.0), options.get("top_k"), options.get("top_p"), options.get("seed")
    return prompts, Sampling(*chosen), stops.flatten().tolist()


class Generates:
    """`generate` and `stream`, for a model."""

    @is_run
    @known_keywords
    def generate(
        self,
        input: Text | Ids | MaskedTokens,
        max_new_tokens: int = 32,
        *,
        names_filter: HookName | Iterable[HookName] | None = None,
        progress: bool = True,
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """Predict, sample, append; the prompt runs once, then one position a step.

        Hooks act on every step; `hook.first_pos` tells them where in the sequence a step begins. The positions that
        interventions name count along the whole sequence, negative ones from the end of the prompt.

        Args:
            input: prompts, as text or token ids; of unequal length as left-padded ids with `attention_mask`. What
                `masked_tokens` makes may bring token types: new tokens have that of the prompt's last one.
            max_new_tokens: how many tokens to add at most; prompt and continuation must fit the context.
            names_filter: also return these activations of all positions run, as one cache ("*" for all).
            progress: show a progress bar on a terminal.
            options: temperature, top_k, top_p, seed, stop_tokens and attention_mask; see `GenerateOptions`.

        Raises `ConfigError` for sampling options out of range, a length beyond the context or a model that is not
        causal, `TokenError` for a stop token that is none; else as `forward`.
        """
        model = cast("HookedTransformer", self)
        prompts, sampling, stops = _asked(model, input, options)
        caches: list[ActivationCache] | None = None if names_filter is None else []
        steps = stream(model, prompts, max_new_tokens, sampling, stops, names_filter, caches)
        new = torch.stack(list(shown(steps, "generating", max_new_tokens, progress)), dim=1)
        texts = None
        if model.tokenizer is not None:
            rows = [list(itertools.takewhile(lambda token: token not in stops, row)) for row in new.tolist()]
            texts = [model.to_string(torch.tensor(row, dtype=torch.long)) for row in rows]
        cache = None if caches is None else join_steps(caches)
        return Generation(torch.cat([prompts.ids, new], dim=1), prompts.ids.shape[1], texts, cache)

    @is_run
    @known_keywords
    def stream(
        self,
        input: Text | Ids | MaskedTokens,
        max_new_tokens: int = 32,
        **options: Unpack[GenerateOptions],
    ) -> Iterator[Int[Tensor, "batch"]]:
        """As `generate`, one step at a time: the next token of every sequence."""
        model = cast("HookedTransformer", self)
        prompts, sampling, stops = _asked(model, input, options)
        return stream(model, prompts, max_new_tokens, sampling, stops)
