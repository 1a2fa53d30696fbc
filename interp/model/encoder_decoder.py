"""HookedEncoderDecoder: two stacks, of which the second attends to what the first has made of a source.

    memory = encoder(source)
    logits = decoder(target, memory)

Both are a `HookedTransformer`, and can be run as such. The pair adds what belongs to both: names that begin with
`encoder.` or `decoder.`, runs from a source and a target to logits with hooks, caches and gradients in both stacks, and
generation, for which the encoder runs once.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Unpack, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from interp.config import EncoderDecoderConfig
from interp.errors import ConfigError, HookNotFoundError, ShapeError, describe, did_you_mean, naming
from interp.keywords import known_keywords
from interp.model.allocator import keep_freed_memory
from interp.model.components import Unembed
from interp.model.generate import GenerateOptions, Generation
from interp.model.hooked import Watched
from interp.model.hooked_module import check_carried_out, is_run
from interp.model.hooks import HookPair, HookPoint, Running, as_pairs
from interp.model.names import STACKS, HookMap, HookName, as_list, in_stack, of_stack, resolve, stack_of, stack_with
from interp.model.options import ReadOut, ReturnType, what_to_differentiate
from interp.model.pair_cache import OWN_POSITIONS, PairCache
from interp.model.recording import Differentiable, Recording, objective
from interp.model.saved import SavedPair
from interp.model.stacks import SourceAndTarget
from interp.model.transformer import HookedTransformer
from interp.text import AttentionMask, Ids, MaskedTokens, Memory, Text, is_text

Source = Text | Ids | MaskedTokens
"""What a stack reads: a text, several of them, or token ids."""


class HookedEncoderDecoder(Watched[EncoderDecoderConfig], SavedPair):
    """An encoder and a decoder with a hook point at every step (Vaswani et al. 2017).

    Args:
        cfg: the two architectures, or its fields as a dictionary.
        tokenizer: of the source, see `HookedTransformer`.
        target_tokenizer: of the target; None for the same.
        device: where the parameters live; "meta" allocates nothing.
        init_weights: False leaves the weights uninitialised, for a caller who fills them.

    Attributes:
        encoder: the stack that reads the source. Its last stream is the memory.
        decoder: the stack that reads the target and the memory.

    Raises as `HookedTransformer`.
    """

    encoder_type: ClassVar[type[HookedTransformer]] = HookedTransformer
    decoder_type: ClassVar[type[HookedTransformer]] = HookedTransformer
    cfg: EncoderDecoderConfig

    @known_keywords
    def __init__(
        self,
        cfg: EncoderDecoderConfig | Mapping[str, Any],
        tokenizer: Any = None,
        target_tokenizer: Any = None,
        device: str | torch.device | None = None,
        init_weights: bool = True,
    ):
        super().__init__()
        self.cfg = cfg if isinstance(cfg, EncoderDecoderConfig) else EncoderDecoderConfig.from_dict(cfg)
        self.encoder = self.encoder_type(self.cfg.encoder, tokenizer, device, init_weights)
        shared = self.encoder.embed if self.cfg.share_embeddings else None
        of_target = tokenizer if target_tokenizer is None else target_tokenizer
        self.decoder = self.decoder_type(self.cfg.decoder, of_target, device, init_weights, shared)
        self.name_hook_points()

    @property
    def stacks(self) -> dict[str, HookedTransformer]:
        """The two stacks by the words with which names of their points begin."""
        return {"encoder": self.encoder, "decoder": self.decoder}

    @property
    def unembed(self) -> Unembed:
        """The decoder's."""
        return self.decoder.unembed

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                decoder = self.__dict__.get("_modules", {}).get("decoder")  # not there yet while it is being made
                if decoder is None or name.startswith("_") or name not in dir(decoder):
                    raise
                ways = " or ".join(f"model.{stack}.{name}" for stack in STACKS)
                raise AttributeError(f"{type(self).__name__} has no {name!r}, its stacks have: say {ways}") from None

    # ------------------------------------------------------------------ runs

    @known_keywords
    def forward(
        self,
        source: Source | SourceAndTarget,
        target: Source | None = None,
        return_type: ReturnType | ReadOut = "logits",
        loss_per_token: bool = False,
        source_mask: AttentionMask | None = None,
        target_mask: AttentionMask | None = None,
    ) -> Any:
        """Run the encoder on the source, and the decoder on the target and what the encoder made of it.

        Args:
            source: text, or several (padded on the left and masked where their lengths differ); token ids [batch,
                source_pos] or [source_pos].
            target: token ids as the decoder reads them, [batch, pos] or [pos], from the start token on: the logits at
                a position are of the token after it. Text gets the start token in front. None is the start token alone,
                so that the logits are of the first word.
            return_type: "logits" [batch, pos, d_vocab_out]; "loss", the mean cross-entropy in nats over the next tokens
                of all targets; "both" as (logits, loss); None.
            loss_per_token: a loss for every predicted token, [batch, pos - 1].
            source_mask, target_mask: true or 1 for tokens and false or 0 for padding, as `attention_mask` of
                `HookedTransformer.forward`.

        Raises as `HookedTransformer.forward`; `ShapeError` for another number of targets than sources.
        """
        prompts = self.masked_tokens(source, target, source_mask, target_mask)
        self.decoder.check_options(return_type, loss_per_token, None, None, None)
        return self.decoder.base_run(self._with_memory(prompts), return_type, loss_per_token)

    base_forward = forward

    @is_run
    def encode(self, source: Source, source_mask: AttentionMask | None = None) -> Memory:
        """What the encoder makes of a source: the memory that a run of the decoder reads."""
        prompts = self.encoder.masked_tokens(source, source_mask)
        return Memory(self.encoder.base_run(prompts, _itself), prompts.attention_mask)

    def _with_memory(self, prompts: SourceAndTarget) -> MaskedTokens:
        """What the decoder reads; the encoder runs for it."""
        return dataclasses.replace(prompts.target, memory=self.encode(prompts.source))

    def masked_tokens(
        self,
        source: Source | SourceAndTarget,
        target: Source | None = None,
        source_mask: AttentionMask | None = None,
        target_mask: AttentionMask | None = None,
    ) -> SourceAndTarget:
        """Checked ids and masks of source and target, as every run reads them. Raises as `forward`."""
        if isinstance(source, SourceAndTarget):
            if not (target is source_mask is target_mask is None):
                raise ShapeError("SourceAndTarget bring targets and masks; give target= and masks with ids only")
            return source
        with naming("source"):
            read = self.encoder.masked_tokens(source, source_mask)
        if target is None:
            target = torch.full((len(read), 1), self.cfg.start_token, device=read.ids.device)
        elif is_text(target):
            if target_mask is not None:
                raise ShapeError("texts bring their own mask; give target_mask= with ids only")
            with naming("target"):
                target, target_mask = self.to_target_tokens(target)
        with naming("target"):
            told = self.decoder.read_tokens(target, target_mask)
        return SourceAndTarget(read, told)

    def to_target_tokens(self, text: Text) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """Token ids of one target text or several, each after the start token, and which of them are no padding.

        Shorter ones are padded on the left. Raises `TokenError`.
        """
        ids, mask = self.decoder.to_tokens_and_mask(text)
        ids, mask, rows = F.pad(ids, (1, 0)), F.pad(mask, (1, 0)), torch.arange(len(ids), device=ids.device)
        start = mask.int().argmax(dim=1) - 1
        ids[rows, start], mask[rows, start] = self.cfg.start_token, True
        return ids, mask

    def to_target_str_tokens(self, text: str) -> list[str]:
        """The tokens of one target text as strings, from the start token on: the labels of its positions.

        Those of the source are `model.encoder.to_str_tokens(source)`. Raises `TokenError`.
        """
        return self.decoder.to_str_tokens(self.to_target_tokens(text)[0])

    @is_run
    @known_keywords
    def run_with_hooks(
        self,
        source: Source | SourceAndTarget,
        target: Source | None = None,
        return_type: ReturnType = "logits",
        fwd_hooks: Iterable[HookPair] = (),
        bwd_hooks: Iterable[HookPair] = (),
        source_mask: AttentionMask | None = None,
        target_mask: AttentionMask | None = None,
    ) -> Any:
        """One run with hooks that live for this call; returns what the run returns.

        Raises as `forward`, and as `HookedTransformer.run_with_hooks` for hooks.
        """
        forward, backward = as_pairs(fwd_hooks, "fwd_hooks"), as_pairs(bwd_hooks, "bwd_hooks")
        active = self._attach(forward, "fwd") + self._attach(backward, "bwd")
        try:
            output = self.base_run(source, target, return_type, source_mask=source_mask, target_mask=target_mask)
        finally:
            self._detach(active, graphs=False)
        check_carried_out(active, "in this run", later=True)
        return output

    @is_run
    @known_keywords
    def run_with_cache(
        self,
        source: Source | SourceAndTarget,
        target: Source | None = None,
        return_type: ReturnType = "logits",
        names_filter: HookName | Iterable[HookName] | None = None,
        device: str | torch.device | None = None,
        pos_slice: None = None,
        incl_bwd: bool = False,
        gradient_of: Differentiable | None = None,
        loss_per_token: bool = False,
        source_mask: AttentionMask | None = None,
        target_mask: AttentionMask | None = None,
    ) -> tuple[Any, PairCache]:
        """One run, and what flowed through the hook points of both stacks.

        Args:
            source, target, return_type, loss_per_token, source_mask, target_mask: as for calling the model.
            names_filter: which points; None stands for all that are not lazy.
            device: where the cache is kept.
            pos_slice: not here, for source and target have positions of their own; cut `cache.encoder` and
                `cache.decoder` with `slice(pos=)`.
            incl_bwd, gradient_of: as for `HookedTransformer.run_with_cache`; gradients reach both stacks.

        Raises as `run_with_hooks`; `ConfigError` for a `pos_slice`, or something that cannot be differentiated.
        """
        if pos_slice is not None:
            raise ConfigError(f"pos_slice = {describe(pos_slice)}: {OWN_POSITIONS}")
        gradient_of = what_to_differentiate(incl_bwd, gradient_of, None)
        reached = {name for asked in as_list(names_filter) for name in self.resolve_hooks(asked)}
        keep_freed_memory()
        prompts = self.masked_tokens(source, target, source_mask, target_mask)
        self.decoder.check_options(return_type, loss_per_token, None, None, None)
        outputs = None
        if gradient_of is not None:
            told = prompts.target
            values_of = objective(gradient_of, self.decoder, told.ids, told, told.attention_mask, whole=(self, prompts))
            outputs = self.decoder.with_values(values_of, told, return_type, loss_per_token)
        points = {name: point for name, point in self.hook_points.items() if name in reached}
        recording = Recording(points, device, None, graph=outputs is not None)

        def run(returned: Any) -> Any:
            return self.base_run(prompts, None, returned, loss_per_token and outputs is None)

        stops = return_type is None and outputs is None
        output, edited = self._recorded(run, return_type, recording, names_filter, outputs, stops)
        caches = []
        for (stack, model), masks in zip(self.stacks.items(), prompts.masks, strict=True):
            edited_here = any(in_stack(name)[0] == stack for name in edited)
            kept = (None if mask is None else recording.part(mask) for mask in masks)
            caches.append(model.cache_type(of_stack(stack, recording.kept), model, edited_here, *kept))
        return output, PairCache(*caches)

    base_run_with_hooks, base_run_with_cache = run_with_hooks, run_with_cache

    @is_run
    @known_keywords
    def generate(
        self,
        source: Source,
        max_new_tokens: int = 32,
        *,
        target: Source | None = None,
        source_mask: AttentionMask | None = None,
        target_mask: AttentionMask | None = None,
        names_filter: HookName | Iterable[HookName] | None = None,
        progress: bool = True,
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """Predict, sample, append. The encoder runs once; keys and values of the memory are made once.

        Hooks act on the encoder's run and on every step of the decoder. Positions of the decoder that interventions
        name count along the target.

        Args:
            source, source_mask: as for calling the model.
            max_new_tokens: how many tokens to add at most; all must fit the decoder's context.
            target, target_mask: how the targets begin; None is the start token.
            names_filter: also return these activations, of the encoder's run and of all positions run in the decoder.
            progress: show a progress bar on a terminal.
            options: temperature, top_k, top_p, seed and stop_tokens; see `GenerateOptions`. By default a sequence ends
                at the `stop_token` of the config, where there is one.

        Returns:
            The targets from the start token on, as `HookedTransformer.generate` returns them; its cache is a
            `PairCache`.

        Raises as `HookedTransformer.generate`.
        """
        if "attention_mask" in options:
            raise ConfigError("attention_mask: source and target have one each; give source_mask= or target_mask=")
        if self.cfg.stop_token is not None:
            options = cast(GenerateOptions, {"stop_tokens": self.cfg.stop_token, **options})
        wanted: dict[str, list[str]] = {stack: [] for stack in STACKS}
        for asked in () if names_filter is None else as_list(names_filter):
            for name in self.resolve_hooks(asked):
                stack, _, key = name.partition(".")
                wanted[stack].append(key)
        prompts = self.masked_tokens(source, target, source_mask, target_mask)
        # Of both stacks a cache knows whether hooks edited the run: of each at least one point is looked at.
        looked_at = {
            stack: None if names_filter is None else names or ["hook_embed"] for stack, names in wanted.items()
        }
        of_encoder = None
        with torch.no_grad():
            if (names := looked_at["encoder"]) is None:
                stream = self.encoder.base_run(prompts.source, _itself)
            else:
                stream, of_encoder = self.encoder.base_run_with_cache(prompts.source, _itself, names_filter=names)
        begun = dataclasses.replace(prompts.target, memory=Memory(stream, prompts.source.attention_mask))
        told = self.decoder.generate(
            begun, max_new_tokens, names_filter=looked_at["decoder"], progress=progress, **options
        )
        if of_encoder is None or told.cache is None:
            return told
        kept = {"encoder": of_encoder, "decoder": told.cache}
        caches = (cache if wanted[stack] else cache.with_values({}) for stack, cache in kept.items())
        return dataclasses.replace(told, cache=PairCache(*caches))

    # ------------------------------------------------------------------ names

    def name_hook_points(self, sizes: Mapping[str, int] | None = None) -> None:
        """Find every `HookPoint` of both stacks; its name begins with the word of its stack.

        To be called again after a part with points of its own was put into a stack. Raises `ConfigError` for `sizes`,
        which each stack has of its own.
        """
        if sizes is not None:
            raise ConfigError(f"sizes = {describe(sizes)}: each stack has its own; give them to its name_hook_points")
        for model in self.stacks.values():
            model.name_hook_points()
        of_stacks = ((stack, *item) for stack, model in self.stacks.items() for item in model.hook_points.items())
        self.hook_points = {f"{stack}.{name}": point for stack, name, point in of_stacks}
        self.n_blocks = max(model.n_blocks for model in self.stacks.values())
        for name, point in self.hook_points.items():
            point.name = name

    def _running_of(self, points: Iterable[HookPoint]) -> Iterable[Running]:
        return {point.running for point in points}  # each stack has its own runs

    def hook_map(self) -> HookMap:
        """The table of all hook points of both stacks: name, shape, meaning, and whether the point is lazy."""
        return HookMap(
            dataclasses.replace(row, name=f"{stack}.{row.name}")
            for stack, model in self.stacks.items()
            for row in model.hook_map().values()
        )

    def resolve_hooks(self, asked: HookName | Iterable[HookName] | None) -> list[str]:
        """Full names for names in any form, as `HookedTransformer.resolve_hooks`; a short name may name its stack.

        `("pattern", 3, "encoder")` is the encoder's, `("pattern", 3, "cross_attn")` the decoder's cross-attention.
        Raises `HookNotFoundError` for a name that fits nothing, or points of both stacks.
        """
        return super().resolve_hooks(asked)

    def _named(self, asked: HookName) -> list[str]:
        stack, _ = in_stack(asked)
        if isinstance(asked, tuple) and stack is None:
            stack = stack_with({word: model.hook_points for word, model in self.stacks.items()}, asked)
        if stack is None and isinstance(asked, str) and not set(asked) & set("*?["):
            near = did_you_mean(asked, self.hook_points)
            raise HookNotFoundError(f"{asked!r} names nothing here: names begin with 'encoder.' or 'decoder.'{near}")
        if stack is None:
            return super()._named(asked)
        model = self.stacks[stack]
        return resolve(asked, [f"{stack}.{name}" for name in model.hook_points], model.n_blocks)

    def stack_of(self, site: str | tuple[str, ...]) -> tuple[HookedTransformer, tuple[str, ...]]:
        """The stack that a site without a layer, `("pattern", "cross_attn")`, is in, and the site within it.

        Raises `HookNotFoundError` where it is in none, or in both.
        """
        stack, within = stack_of({word: model.hook_points for word, model in self.stacks.items()}, site)
        return self.stacks[stack], within

    def stack_holding(self, point: HookPoint) -> HookedTransformer:
        """The stack that has this point."""
        return next(model for model in self.stacks.values() if model.hook_points.get(point.key) is point)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        """What `.to()` and the like do; the config goes on naming the dtype of the parameters."""
        super()._apply(fn, recurse)
        if self.cfg.dtype != self.decoder.cfg.dtype:
            self.cfg = dataclasses.replace(self.cfg, encoder=self.encoder.cfg, decoder=self.decoder.cfg)
        return self


def _itself(read: Tensor) -> Tensor:
    """Reads a run out at its last stream."""
    return read
