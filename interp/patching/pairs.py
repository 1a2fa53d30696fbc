"""A run to patch, and where the activations come from that are written into it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import CacheError, ConfigError, HookNotFoundError, ShapeError, check_choice, describe
from interp.interventions import ADDRESS, Intervention, Patch
from interp.metrics import JudgedRun, MetricPlan
from interp.model import ActivationCache
from interp.patching.packed import BaseRun
from interp.precision import at_least_float32
from interp.text import AttentionMask, Ids, MaskedTokens, Text, token_strings

if TYPE_CHECKING:
    from interp.model import HookedTransformer

Prompt = Text | Ids | MaskedTokens
"""A text, several of them, or token ids, checked or not."""

Source = Prompt | ActivationCache | Intervention
"""Where activations come from: a run to make, a run that was made, or `Zero()`, `Mean(cache)`, `Resample(cache)`."""

PatchDirection = Literal["denoising", "noising"]

Reaction = Literal["live", "frozen"]
"""Whether a part is computed anew from what it reads, or keeps what it had."""

ROLES: dict[str, tuple[str, str]] = {"denoising": ("corrupted", "clean"), "noising": ("clean", "corrupted")}
"""By direction: which prompt runs, and whose activations are written."""


def check_reactions(given: Mapping[str, object]) -> None:
    """Raise `ConfigError` unless each option is "live" or "frozen"."""
    for name, value in given.items():
        check_choice(name, value, get_args(Reaction))


def check_model(model: object) -> None:
    """Raise `ConfigError` unless it is a model of this package, compiled or not."""
    if not isinstance(getattr(model, "cfg", None), TransformerConfig) or not hasattr(model, "hook_points"):
        raise ConfigError(f"model = {describe(model)}; allowed: a HookedTransformer")


@dataclass(frozen=True, eq=False)
class PromptPair:
    """What runs, and what is written into it.

    Attributes:
        model: whose runs they are.
        direction: "denoising" or "noising".
        prompts: of the run that is patched.
        source: the other prompts, the cache of its run, or an intervention without a place.
    """

    model: "HookedTransformer"
    direction: PatchDirection
    prompts: MaskedTokens
    source: MaskedTokens | ActivationCache | Intervention

    @classmethod
    def of(
        cls,
        model: "HookedTransformer",
        corrupted: Source,
        clean: Source,
        direction: PatchDirection | None,
        attention_mask: AttentionMask | None,
    ) -> "PromptPair":
        """Check the two and say which is which. Raises as `patching.sweep` does."""
        check_model(model)
        hooked = [point.name for point in model.hook_points.values() if point.hooks]
        if hooked:
            raise ConfigError(f"the model has hooks, at {hooked[0]!r} first; patched runs take none: leave the with "
                              "block, or call reset_hooks()")  # fmt: skip
        if model.cfg.n_layers == 0:
            raise ConfigError("n_layers = 0: this model has no layer to patch")
        if direction is None:
            direction = "noising" if isinstance(corrupted, Intervention) else "denoising"
        check_choice("direction", direction, get_args(PatchDirection))
        runs, written = ROLES[direction]
        run, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
        if isinstance(run, ActivationCache | Intervention):
            other = "noising" if direction == "denoising" else "denoising"
            raise ConfigError(
                f"{direction} runs the {runs} prompt, so it takes its text or ids, not {describe(run)}; or say "
                f"direction={describe(other)}"
            )
        prompts = model.masked_tokens(run, attention_mask)
        if isinstance(source, Intervention):
            _check_placeless(source)
            if isinstance(source, Patch):
                source.check_model(model)
            return cls(model, direction, prompts, source)
        if isinstance(source, ActivationCache):
            check_cache(source, model, prompts, written)
            return cls(model, direction, prompts, source)
        others = model.masked_tokens(source, attention_mask)
        if len(others) != len(prompts):
            raise ShapeError(
                f"{len(others)} {written} prompts and {len(prompts)} {runs} ones: they are patched in pairs, so there "
                "must be as many of each"
            )
        if others.ids.shape != prompts.ids.shape:
            raise ShapeError(
                f"the {written} prompt has {others.ids.shape[1]} tokens{_words(model, others)}, the {runs} one "
                f"{prompts.ids.shape[1]}{_words(model, prompts)}; positions must correspond, so make them equally long"
            )
        if not torch.equal(others.is_token, prompts.is_token):
            raise ShapeError(f"the {written} and {runs} prompts are padded differently, so positions do not correspond")
        return cls(model, direction, prompts, others)

    def run(self, names: list[str], also: Sequence[str] = (), target: bool = False) -> "PairRuns":
        """Make the runs that are needed.

        Args:
            names: the points to keep of both runs.
            also: those of the patched run alone.
            target: whether the other's last stream has to be there.

        Raises `HookNotFoundError` for a cache that lacks a point, `ConfigError` for a target that does not exist.
        """
        last = f"blocks.{self.model.cfg.n_layers - 1}.hook_resid_post"
        source, final = self.source, None
        if isinstance(source, Intervention):
            if target:
                raise ConfigError(
                    f"{source!r} is not a run, so there is no other end to measure against: leave normalize out, and "
                    "give KLDivergence a reference"
                )
            written = source
        elif isinstance(source, ActivationCache):
            final = _held(source, last) if target else source.get(last)
            written = Patch({name: _held(source, name) for name in names})
        else:
            with torch.no_grad():
                _, cache = self.model.run_with_cache(source, return_type=None, names_filter=[*names, last])
            final = cache[last]
            written = Patch(cache)
        return PairRuns(self, BaseRun.of(self.model, self.prompts, [*names, *also]), written, final)


def _words(model: "HookedTransformer", prompts: MaskedTokens) -> str:
    """How the first prompt was cut into tokens, where that can be said."""
    words = token_strings(model.tokenizer, prompts.ids[0].tolist()) if model.tokenizer is not None else []
    return f" ({'|'.join(words)})" if 0 < len(words) <= 40 else ""


def _check_placeless(source: Intervention) -> None:
    given = [word for word in ADDRESS if getattr(source, word) is not None]
    if given:
        raise ConfigError(f"{source!r} says {given[0]}=, but here the sweep says where: give it without a place")


def check_cache(cache: ActivationCache, model: "HookedTransformer", prompts: MaskedTokens, what: str) -> None:
    """A cache must be of this model, of these weights, and of as many prompts and positions, padded alike.

    Raises `CacheError` or `ShapeError`.
    """
    if differing := cache.made_by.differences(model):
        if cache.model is model:
            raise CacheError(f"the model's weights changed after the {what} cache was made: run it again")
        raise CacheError(f"the {what} cache was made by another model than the one given: {'; '.join(differing)}")
    for name, value in cache.items():
        point = model.hook_points[name.removesuffix("_grad")]
        if "pos" in point.axes and value.shape[:2] != prompts.ids.shape:
            raise ShapeError(
                f"the {what} cache holds {tuple(value.shape[:2])} [batch, pos], the run has {tuple(prompts.ids.shape)}"
            )
    padded = MaskedTokens(prompts.ids, cache.attention_mask).is_token.to(prompts.ids.device)
    if not torch.equal(padded, prompts.is_token):
        raise ShapeError(f"the run of the {what} cache was padded differently, so positions do not correspond")


def _held(cache: ActivationCache, name: str) -> Tensor:
    if name not in cache:
        raise HookNotFoundError(f"this needs {name!r}, which the cache does not hold; widen its names_filter=")
    return cache[name]


@dataclass(frozen=True, eq=False)
class PairRuns:
    """The runs of a pair.

    Attributes:
        pair: what was run.
        base: the run that is patched.
        source: what is written into it.
        final: the last stream of the other prompt, where that is known.
    """

    pair: PromptPair
    base: BaseRun
    source: Intervention
    final: Float[Tensor, "batch pos d_model"] | None

    @property
    def ablation(self) -> Intervention | None:
        """What is written in place of another prompt's activations, or None."""
        return self.source if isinstance(self.pair.source, Intervention) else None

    def written(self, name: str) -> Tensor:
        """The whole activation that the source has at a point."""
        own = self.base.cache[name]
        return self.source.edit(own, self.base.model.hook_points[name]).to(own.device)

    @property
    def judged(self) -> JudgedRun:
        """What metrics are applied to. A divergence without a reference is from the clean run's logits."""
        model, clean = self.base.model, self.base.final if self.pair.direction == "noising" else self.final

        def reference(positions: Int[Tensor, "batch read"]) -> Tensor:
            if clean is None:
                raise ConfigError("KLDivergence() is from the clean run, whose last stream is not known here: give it "
                                  "a reference, or cache the last resid_post as well")  # fmt: skip
            return model.unembed(model.ln_final.unhooked(at_positions(clean, positions)))

        return JudgedRun.of(model, self.base.prompts, reference)

    def measure(
        self,
        plan: MetricPlan,
        streams: Float[Tensor, "row read d_model"],
        prompts: Int[Tensor, "row"],
        norms: Reaction = "live",
    ) -> Float[Tensor, "row"]:
        """A metric's values, from the last streams at the positions that it reads, and which prompts these are of.

        With frozen norms the final one keeps the scale that it had in the run that is patched.
        """
        return self.measure_normalized(plan, self.normalized(plan, streams, prompts, norms), prompts)

    def normalized(
        self,
        plan: MetricPlan,
        streams: Float[Tensor, "row read d_model"],
        prompts: Int[Tensor, "row"],
        norms: Reaction = "live",
    ) -> Float[Tensor, "row read d_model"]:
        """What the unembedding reads there."""
        norm = self.base.model.ln_final
        if norms == "live" or norm.kind is None:
            return norm.unhooked(streams)
        normalized = norm.at_scale(streams, norm.scale(at_positions(self.base.final, plan.positions))[prompts])
        return normalized if norm.b is None else normalized + norm.b

    def measure_normalized(
        self, plan: MetricPlan, normalized: Float[Tensor, "row read d_model"], prompts: Int[Tensor, "row"]
    ) -> Float[Tensor, "row"]:
        """As `measure`, from what the unembedding reads."""
        model = self.base.model
        if plan.tokens is None:
            logits = model.unembed(normalized)
        else:
            logits = model.unembed.of_tokens(normalized, plan.tokens[prompts])
        return plan.score(at_least_float32(logits), prompts)

    def whole_run(
        self,
        plan: MetricPlan,
        final: Float[Tensor, "batch pos d_model"],
        max_bytes: int,
        norms: Reaction = "live",
    ) -> Float[Tensor, "batch"]:
        """The metric of one run of all prompts, from its last stream; of as many at once as the budget takes."""
        prompts = torch.arange(len(final), device=final.device)
        streams = at_positions(final, plan.positions)
        if plan.whole_batch:
            return self.measure(plan, streams, prompts, norms)
        at_once = min(len(final), max(1, max_bytes // self.bytes_of_logits(plan)))
        parts = zip(streams.split(at_once), prompts.split(at_once), strict=True)
        return torch.cat([self.measure(plan, part, of, norms) for part, of in parts])

    def bytes_of_logits(self, plan: MetricPlan) -> int:
        """What a metric takes of one run of one prompt.

        That is up to eight tensors as large as the logits that it reads: these, in float32, normalised, exponentiated,
        multiplied with a reference's, and what these steps leave behind until they return.
        """
        n_tokens = self.base.model.cfg.d_vocab_out if plan.tokens is None else plan.tokens.shape[1]
        return 8 * plan.positions.shape[1] * n_tokens * max(4, self.base.final.element_size())


def at_positions(stream: Float[Tensor, "batch pos d_model"], positions: Int[Tensor, "batch read"]) -> Tensor:
    """The stream at each prompt's own positions, [batch, read, d_model]."""
    return stream[torch.arange(len(stream), device=stream.device)[:, None], positions]
