"""A run to patch, and where the activations come from that are written into it."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError, HookNotFoundError, check_choice, describe
from interp.interventions import Intervention, Patch
from interp.metrics import JudgedRun, MetricPlan
from interp.model import (
    STACKS,
    ActivationCache,
    HookedEncoderDecoder,
    HookedTransformer,
    PairCache,
    SourceAndTarget,
    in_stack,
    two_stacks,
)
from interp.patching.packed import BaseRun
from interp.patching.prompts import (
    AnyStacks,
    Source,
    check_cache,
    check_corresponding,
    check_memories,
    check_model,
    check_placeless,
    check_positions,
    last_read,
    masked_prompts,
)
from interp.precision import at_least_float32
from interp.text import AttentionMask, MaskedTokens

PatchDirection = Literal["denoising", "noising"]
"""Whether clean activations are written into the corrupted run (denoising), or corrupted ones into the clean run."""

Reaction = Literal["live", "frozen"]
"""Whether a part is computed anew from what it reads, or keeps what it had."""

ROLES: dict[str, tuple[str, str]] = {"denoising": ("corrupted", "clean"), "noising": ("clean", "corrupted")}
"""By direction: which prompt runs, and whose activations are written."""


def way_of(about: Mapping[str, object]) -> str:
    """How a result of patching came about, from its `attrs`: "denoising", "noising", or "zero ablation".

    An ablation writes no other prompt's activations, so that it is called by its own name: "zero", "mean" and
    "resample", or that of another intervention.

    >>> way_of({"direction": "denoising"}), way_of({"direction": "noising", "ablation": "zero"})
    ('denoising', 'zero ablation')
    """
    ablation = str(about.get("ablation", "none"))
    return str(about.get("direction", "")) if ablation == "none" else f"{ablation.partition('(')[0].lower()} ablation"


def check_reactions(given: Mapping[str, object]) -> None:
    """Raise `ConfigError` unless each option is "live" or "frozen".

    >>> check_reactions({"norms": "thawed"})
    Traceback (most recent call last):
    interp.errors.ConfigError: norms = 'thawed'; allowed: 'live', 'frozen'
    """
    for name, value in given.items():
        check_choice(name, value, get_args(Reaction))


@dataclass(frozen=True, eq=False)
class TwoStacks:
    """What runs where the model is an encoder with a decoder.

    Attributes:
        model: both.
        read: source and target of the run that is patched.
    """

    model: HookedEncoderDecoder
    read: SourceAndTarget


@dataclass(frozen=True, eq=False)
class PromptPair:
    """What runs, and what is written into it.

    Attributes:
        model: whose last stream is measured: of an encoder with a decoder, the decoder.
        direction: "denoising" or "noising".
        prompts: of the run that is patched; with the memory that it reads, if it reads one.
        source: the other prompts, the cache of its run, or an intervention without a place.
        both: the whole model and the prompts, where `model` is its decoder; else None.
    """

    model: HookedTransformer
    direction: PatchDirection
    prompts: MaskedTokens
    source: MaskedTokens | SourceAndTarget | ActivationCache | PairCache | Intervention
    both: TwoStacks | None = None

    @classmethod
    def of(
        cls,
        model: AnyStacks,
        corrupted: Source,
        clean: Source,
        direction: PatchDirection | None,
        attention_mask: AttentionMask | None,
    ) -> "PromptPair":
        """Check the two and say which is which. Raises as `patching.sweep` does."""
        both = two_stacks(model)
        if both is None:
            check_model(model)
        hooked = [point.name for point in model.hook_points.values() if point.hooks]
        if hooked:
            raise ConfigError(f"the model has hooks, at {hooked[0]!r} first; patched runs take none: leave the with "
                              "block, or call reset_hooks()")  # fmt: skip
        if model.n_blocks == 0:
            raise ConfigError("n_layers = 0: this model has no layer to patch")
        if direction is None:
            direction = "noising" if isinstance(corrupted, Intervention) else "denoising"
        check_choice("direction", direction, get_args(PatchDirection))
        runs, written = ROLES[direction]
        run, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
        if isinstance(run, ActivationCache | PairCache | Intervention):
            other = "noising" if direction == "denoising" else "denoising"
            raise ConfigError(
                f"{direction} runs the {runs} prompt, so it takes its text or ids, not {describe(run)}; or say "
                f"direction={describe(other)}"
            )
        read = masked_prompts(model, run, attention_mask)
        if isinstance(source, Intervention):
            check_placeless(source)
            if isinstance(source, Patch):
                source.check_model(model)
        elif isinstance(source, ActivationCache | PairCache):
            check_cache(source, model, read, written)
        else:
            source = masked_prompts(model, source, attention_mask)
            check_corresponding(last_read(model, source), last_read(model, read), written, runs)
        if both is None:
            return cls(cast(HookedTransformer, model), direction, cast(MaskedTokens, read), source)
        read = cast(SourceAndTarget, read)
        with torch.no_grad():
            prompts = dataclasses.replace(read.target, memory=both.encode(read.source))
        return cls(both.decoder, direction, prompts, source, TwoStacks(both, read))

    @property
    def whole(self) -> AnyStacks:
        """The model that was asked about."""
        return self.model if self.both is None else self.both.model

    @property
    def n_pos(self) -> int:
        """Positions of the run that is measured."""
        return self.prompts.ids.shape[1]

    @property
    def n_source(self) -> int | None:
        """Positions of the memory that it reads; None where it reads none."""
        return None if self.prompts.memory is None else self.prompts.memory.stream.shape[1]

    def run(self, names: list[str], also: Sequence[str] = (), target: bool = False) -> "PairRuns":
        """Make the runs that are needed.

        Args:
            names: the points to keep of both runs, by their names in the model that was asked about.
            also: those of the patched run alone.
            target: whether the other's last stream has to be there.

        Raises `HookNotFoundError` for a cache that lacks a point, `ConfigError` for a target that does not exist, and
        `ShapeError` where the two sources do not correspond, but positions of the source are patched.
        """
        self._check_sources(names)
        last = f"blocks.{self.model.cfg.n_layers - 1}.hook_resid_post"
        last = last if self.both is None else f"decoder.{last}"
        source, final = self.source, None
        if isinstance(source, Intervention):
            if target:
                raise ConfigError(
                    f"{source!r} is not a run, so there is no other end to measure against: leave normalize out, and "
                    "give KLDivergence a reference"
                )
            written = source
        elif isinstance(source, ActivationCache | PairCache):
            final = _held(source, last) if target else source.get(last)
            written = Patch({name: _held(source, name) for name in names})
        else:
            with torch.no_grad():
                runs = cast(HookedTransformer, self.whole)
                _, cache = runs.base_run_with_cache(
                    cast(MaskedTokens, source), return_type=None, names_filter=[*names, last]
                )
            final = cache[last]
            written = Patch(cache)
        wanted = [*names, *also]
        if self.both is None:
            return PairRuns(self, BaseRun.of(self.model, self.prompts, wanted), written, final)
        of_stacks = {stack: [within for said, within in map(in_stack, wanted) if said == stack] for stack in STACKS}
        encoder = None
        if of_stacks["encoder"]:
            encoder = BaseRun.of(self.both.model.encoder, self.both.read.source, of_stacks["encoder"])
        return PairRuns(self, BaseRun.of(self.model, self.prompts, of_stacks["decoder"]), written, final, encoder)

    def _check_sources(self, names: list[str]) -> None:
        """Where positions of the source are patched, those of both sources must correspond. Raises `ShapeError`."""
        memory, (runs, written) = self.prompts.memory, ROLES[self.direction]
        points = {name: self.whole.hook_points[name] for name in names}
        in_encoder = [name for name in names if self.both is not None and name.startswith("encoder.")]
        along = {name: point.axes.index("source_pos") for name, point in points.items() if "source_pos" in point.axes}
        if memory is None or not (in_encoder or along):
            return
        if self.both is not None:
            run = self.both.model.encoder, self.both.read.source
            if isinstance(self.source, SourceAndTarget):
                check_corresponding((run[0], self.source.source), run, written, runs, "source of the ")
            elif isinstance(self.source, PairCache):
                check_positions(self.source.encoder, *run, written)
        of_cache = self.source if isinstance(self.source, ActivationCache | PairCache) else None
        if of_cache is not None:
            sizes = {of_cache[name].shape[axis] for name, axis in along.items() if name in of_cache}
            decoder = of_cache.decoder if isinstance(of_cache, PairCache) else of_cache
            check_memories(sizes, decoder.source_mask, memory, f"{written} cache", runs)
        elif isinstance(self.source, MaskedTokens) and self.source.memory is not None:
            other = self.source.memory
            check_memories({other.stream.shape[1]}, other.attention_mask, memory, f"{written} prompt", runs)


def _held(cache: ActivationCache | PairCache, name: str) -> Tensor:
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
        encoder: the encoder's part of the run that is patched, where anything of it is patched; `base` is the
            decoder's.
    """

    pair: PromptPair
    base: BaseRun
    source: Intervention
    final: Float[Tensor, "batch pos d_model"] | None
    encoder: BaseRun | None = None

    @property
    def ablation(self) -> Intervention | None:
        """What is written in place of another prompt's activations, or None."""
        return self.source if isinstance(self.pair.source, Intervention) else None

    def written(self, name: str) -> Tensor:
        """The whole activation that the source has at a point."""
        own = self.as_it_is(name)
        return self.source.edit(own, self.pair.whole.hook_points[name]).to(own.device)

    def as_it_is(self, name: str) -> Tensor:
        """The whole activation at a point in the run that is patched."""
        stack, within = (None, name) if self.pair.both is None else in_stack(name)
        base = self.encoder if stack == "encoder" else self.base
        assert base is not None
        return base.cache[within]

    @property
    def judged(self) -> JudgedRun:
        """What metrics are applied to. A divergence without a reference is from the clean run's logits."""
        model, clean = self.base.model, self.base.final if self.pair.direction == "noising" else self.final

        def reference(positions: Int[Tensor, "batch read"]) -> Tensor:
            if clean is None:
                raise ConfigError("KLDivergence() is from the clean run, whose last stream is not known here: give it "
                                  "a reference, or cache the last resid_post as well")  # fmt: skip
            return model.unembed(model.read_out(at_positions(clean, positions)))

        if (both := self.pair.both) is not None:
            return JudgedRun.of(both.model, both.read, reference)
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
        """What the final norm makes of the last streams."""
        norm = self.base.model.ln_final
        if norms == "live" or norm.kind is None:
            return norm.unhooked(streams)
        normalized = norm.at_scale(streams, norm.scale(at_positions(self.base.final, plan.positions))[prompts])
        return normalized if norm.b is None else normalized + norm.b

    def measure_normalized(
        self, plan: MetricPlan, normalized: Float[Tensor, "row read d_model"], prompts: Int[Tensor, "row"]
    ) -> Float[Tensor, "row"]:
        """As `measure`, from what the final norm made of the last streams."""
        model = self.base.model
        if plan.space == "stream":
            return plan.score(at_least_float32(normalized), prompts)
        read = model.after_norm(normalized)
        logits = model.unembed(read) if plan.tokens is None else model.unembed.of_tokens(read, plan.tokens[prompts])
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
        cfg = self.base.model.cfg
        whole = cfg.d_model if plan.space == "stream" else cfg.d_vocab_out
        n_read = whole if plan.tokens is None else plan.tokens.shape[1]
        return 8 * plan.positions.shape[1] * n_read * max(4, self.base.final.element_size())


def at_positions(stream: Float[Tensor, "batch pos d_model"], positions: Int[Tensor, "batch read"]) -> Tensor:
    """The stream at each prompt's own positions, [batch, read, d_model].

    >>> stream = torch.arange(6.0).reshape(1, 3, 2)
    >>> at_positions(stream, torch.tensor([[2, 0]]))
    tensor([[[4., 5.],
             [0., 1.]]])
    """
    return stream[torch.arange(len(stream), device=stream.device)[:, None], positions]
