"""Generation: keys and values kept between runs, sampling, and the loop that predicts, samples and appends."""

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import ConfigError, ShapeError, describe
from interp.indices import is_index
from interp.keywords import known_keywords
from interp.model.loss import check_predicts_tokens
from interp.model.names import HookName
from interp.precision import at_least_float32
from interp.progress import shown
from interp.text import Answer, AttentionMask, Ids, MaskedTokens, Text, token_ids

if TYPE_CHECKING:
    from interp.model.cache import ActivationCache
    from interp.model.transformer import HookedTransformer


class LayerKeysValues:
    """Keys (rotated, where the model rotates) and values of the positions that one layer has seen."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self._next: tuple[Tensor, Tensor] | None = None

    def extend(
        self, k: Float[Tensor, "batch new kv_head d_head"], v: Float[Tensor, "batch new kv_head d_head"]
    ) -> tuple[Float[Tensor, "batch n_keys kv_head d_head"], Float[Tensor, "batch n_keys kv_head d_head"]]:
        """All keys and values up to now; they are kept only when the run has ended well (`commit`)."""
        if self.keys is not None and self.values is not None:
            k, v = torch.cat([self.keys, k], dim=1), torch.cat([self.values, v], dim=1)
        self._next = (k, v)
        return k, v

    def commit(self) -> None:
        """Keep what the run that just ended added."""
        if self._next is not None:
            self.keys, self.values = self._next
        self._next = None


class KVCache:
    """What attention needs of earlier positions, so that a run carries only the new ones.

    Pass the same object to one run after another: `model(prompt, kv_cache=cache)`, then `model(next, kv_cache=cache)`.
    A run that fails leaves it as it was.

    Positions of hooks and interventions count along the whole sequence. Where the prompt ends, which negative positions
    and "generated" ones refer to, only who makes the cache can know: `generate` says it.

    Attributes:
        n_prompt: how many positions the prompt has, or None where that was not said.
        n_final: how many positions the sequence can have in the end, or None where that was not said.
        layers: keys and values of each layer.
        mask: which of the positions seen are real tokens, or None where all are.
        n_pos: how many positions were seen.
        batch: of how many sequences, or None before the first run.

    Copies (`copy.deepcopy`) go on from here independently of the original; nothing that is held is ever written to.

    Raises `ConfigError` for counts that are none.
    """

    def __init__(self, n_layers: int, n_prompt: int | None = None, n_final: int | None = None):
        for name, given, least in (("n_layers", n_layers, 0), ("n_prompt", n_prompt, 1), ("n_final", n_final, 1)):
            if not (is_index(given) and cast(int, given) >= least) and not (given is None and name != "n_layers"):
                raise ConfigError(f"{name} = {describe(given)}; allowed: {least} or more")
        self.n_prompt, self.n_final = n_prompt, n_final
        self.layers = [LayerKeysValues() for _ in range(n_layers)]
        self.mask: Bool[Tensor, "batch n_pos"] | None = None
        self.n_pos = 0
        self.batch: int | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "KVCache":
        made = copy.copy(self)
        made.layers = [copy.copy(layer) for layer in self.layers]
        return made

    def check_fits(self, cfg: TransformerConfig) -> None:
        """Raise `ConfigError` for a model that has other layers, heads or sizes than what is held."""
        held = [tuple(layer.keys.shape[2:]) for layer in self.layers if layer.keys is not None]
        here = (cfg.n_key_value_heads, cfg.d_head)
        if len(self.layers) != cfg.n_layers or any(shape != here for shape in held):
            what = f"{len(self.layers)} layers" + (f" of keys {held[0]} [kv_head, d_head]" if held else "")
            raise ConfigError(f"kv_cache is of another model, with {what}; here are {cfg.n_layers} layers of {here}")

    def whole_mask(
        self, batch: int, n_new: int, mask: Bool[Tensor, "batch new"] | None, device: torch.device
    ) -> Bool[Tensor, "batch n_keys"] | None:
        """The mask of the positions seen and the new ones together. Raises `ShapeError` for another batch."""
        if self.batch not in (None, batch):
            raise ShapeError(f"kv_cache holds {self.batch} sequences; this run has {batch}")
        if self.mask is None and mask is None:
            return None
        past = torch.ones(batch, self.n_pos, dtype=torch.bool, device=device) if self.mask is None else self.mask
        new = torch.ones(batch, n_new, dtype=torch.bool, device=device) if mask is None else mask
        return torch.cat([past, new], dim=1)

    def commit(self, batch: int, n_new: int, mask: Bool[Tensor, "batch n_keys"] | None) -> None:
        """Keep what a run that ended well has added."""
        for layer in self.layers:
            layer.commit()
        self.mask, self.batch, self.n_pos = mask, batch, self.n_pos + n_new


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from the logits.

    Attributes:
        temperature: divides the logits; 0 takes the largest (greedy), so that only `top_k=1` goes with it.
        top_k: keep the k largest logits.
        top_p: then keep the smallest set of tokens whose probabilities reach p (Holtzman et al. 2020, section 3.1).
        seed: of the random choices; None takes torch's global generator.

    Raises `ConfigError` for values out of range, or `top_k` or `top_p` beside a temperature of 0.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        given, k, p, seed = self.temperature, self.top_k, self.top_p, self.seed
        for right, message in (
            (
                _is_number(given, Real) and 0 <= given < float("inf"),
                f"temperature = {describe(given)}; allowed: 0 or more",
            ),
            (k is None or (_is_number(k, Integral) and k >= 1), f"top_k = {describe(k)}; allowed: 1 or more"),
            (p is None or (_is_number(p, Real) and 0 < p <= 1), f"top_p = {describe(p)}; allowed: above 0, up to 1"),
            (
                seed is None or (_is_number(seed, Integral) and -(2**63) <= seed < 2**64),
                f"seed = {describe(seed)}; allowed: an integer of 64 bits",
            ),
        ):
            if not right:
                raise ConfigError(message)
        for name, without_effect in (("top_k", k not in (None, 1)), ("top_p", p not in (None, 1))):
            if without_effect and given == 0:
                raise ConfigError(
                    f"{name} = {getattr(self, name)} chooses among tokens to sample from, and temperature = 0 samples "
                    "none; give a temperature above 0"
                )

    def probabilities(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, "batch d_vocab"]:
        """The distribution the next token is drawn from, in float32 at least."""
        logits = at_least_float32(logits)
        if self.temperature == 0 or self.top_k == 1:
            return torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            kept = logits.topk(self.top_k, dim=-1).indices
            logits = torch.full_like(logits, float("-inf")).scatter(-1, kept, logits.gather(-1, kept))
        probabilities = logits.softmax(dim=-1)
        if self.top_p is not None:
            ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
            before = ordered.cumsum(dim=-1) - ordered  # what the more probable tokens reach without this one
            probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered.where(before < self.top_p, 0))
        return probabilities / probabilities.sum(dim=-1, keepdim=True)

    def choose(self, logits: Float[Tensor, "batch d_vocab"], generator: torch.Generator | None) -> Int[Tensor, "batch"]:
        """A token a sequence."""
        if self.temperature == 0 or self.top_k == 1:
            return logits.argmax(dim=-1)
        return torch.multinomial(self.probabilities(logits), 1, generator=generator)[:, 0]


@dataclass(frozen=True, eq=False)
class Generation:
    """What `generate` returns.

    Attributes:
        tokens: prompts and continuations, [batch, pos]; after a stop token a sequence repeats that token.
        n_prompt: how many of the positions are the prompt's.
        texts: the continuations as text up to the stop token, or None for a model without a tokenizer.
        cache: with `names_filter`, the activations of all positions but the last token's, which was never run.
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
    if not _is_number(max_new_tokens, Integral) or max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens = {describe(max_new_tokens)}; allowed: 1 or more")
    if model.cfg.attention_dir != "causal":
        raise ConfigError(f"attention_dir = {model.cfg.attention_dir!r}: only a causal model predicts the next token")
    check_predicts_tokens(model.cfg, "generation")
    mask = prompts.attention_mask
    if mask is not None and not mask[:, -1].all():
        row = int((~mask[:, -1]).nonzero()[0])
        raise ShapeError(f"attention_mask: sequence {row} ends with padding; prompts are padded on the left")
    n_prompt, n_ctx = prompts.ids.shape[1], model.cfg.n_ctx
    if n_prompt + max_new_tokens > n_ctx + 1:  # the last token is not run
        raise ConfigError(
            f"{n_prompt} tokens and max_new_tokens = {max_new_tokens} exceed the context, n_ctx = {n_ctx}"
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
                if model.ln_final.is_watched():  # hooks see every position
                    logits = model(prompts, kv_cache=kv_cache)
                else:
                    x = model(prompts, stop_at_layer=model.cfg.n_layers, kv_cache=kv_cache)
                    logits = model.unembed(model.ln_final(x[:, -1:]))
            else:
                logits, cache = model.run_with_cache(prompts, names_filter=names_filter, kv_cache=kv_cache)
                caches.append(cache)
        last = torch.where(stopped, last, sampling.choose(logits[:, -1], generator))
        stopped = stopped | torch.isin(last, stops)
        yield last
        if stopped.all():
            return
        prompts = MaskedTokens(last[:, None])


def join_steps(caches: "list[ActivationCache]") -> "ActivationCache":
    """The caches of successive runs as one, along positions; keys that a step could not see yet are masked."""
    from interp.model.cache import ActivationCache

    model = caches[0].model
    joined = {}
    for name in caches[0]:
        point = model.hook_points[name]
        parts = [cache[name] for cache in caches]
        if "key_pos" in point.axes:
            n_keys = max(part.shape[-1] for part in parts)
            masked = float("-inf") if name.endswith("scores") else 0.0
            parts = [torch.nn.functional.pad(part, (0, n_keys - part.shape[-1]), value=masked) for part in parts]
        joined[name] = torch.cat(parts, dim=point.pos_axis)
    masks = [cache.attention_mask for cache in caches]
    mask = None
    if masks[0] is not None:  # the prompt's; what was generated is no padding
        mask = torch.cat([masks[0], *(torch.ones_like(masks[0][:, :1]) for _ in masks[1:])], dim=1)
    return ActivationCache(joined, model, any(cache.edited for cache in caches), mask)


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
            input: prompts, as text or token ids; of unequal length as left-padded ids with `attention_mask`.
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
