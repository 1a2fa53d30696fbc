"""Runs that watch or change what flows through the hook points."""

import functools
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar, Unpack, cast, runtime_checkable

import torch
from torch import Tensor

from interp.config import EncoderDecoderConfig, TransformerConfig
from interp.errors import ConfigError, HookNotFiredError, describe
from interp.keywords import known_keywords
from interp.model.allocator import keep_freed_memory
from interp.model.cache import ActivationCache, entries_of_part
from interp.model.hooked_module import HookedModule, check_carried_out, is_run
from interp.model.hooks import Hook, HookPair, HookPoint, LastPointReached, as_pairs
from interp.model.names import STACKS, HookName, as_list, as_site, layer_of
from interp.model.options import (
    ReadOut,
    ReturnType,
    RunOptions,
    check_stream,
    layer_range,
    what_to_differentiate,
)
from interp.model.provenance import KEPT, Provenance, settle
from interp.model.recording import Differentiable, Logits, Recording, objective, stop_here
from interp.text import Ids, MaskedTokens, Memory, Text, check_mask

if TYPE_CHECKING:
    from interp.model.transformer import HookedTransformer


@runtime_checkable
class Edit(Protocol):
    """What `intervene` takes: something that knows which hooks carry it out on a given model.

    >>> class Silence:
    ...     def hooks(self, model):
    ...         return [(("mlp_out", 0), lambda activation, hook: torch.zeros_like(activation))]
    >>> with model.intervene(Silence()):
    ...     _, cache = model.run_with_cache(clean)
    >>> isinstance(Silence(), Edit), bool(cache["mlp_out", 0].any())
    (True, False)
    """

    def hooks(self, model: "HookedTransformer") -> list[HookPair]:
        """The hooks, in the order in which they act."""
        ...


Config = TypeVar("Config", bound=TransformerConfig | EncoderDecoderConfig)
"""That of one stack, or of two."""


class Watched(HookedModule, Generic[Config]):
    """A model whose weights are known by a hash, and whose runs can be edited, recorded and differentiated."""

    cfg: Config
    base_forward: Callable[..., Any]
    """The `forward` that cached runs and analyses call. A subclass with a `forward` of its own says which that is."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in vars(cls) and "base_forward" not in vars(cls):
            warnings.warn(
                f"{cls.__name__} has a forward of its own, which cached runs, sweeps and other analyses go past. Say "
                "`base_forward = forward` in the class where it is the computation that they should see, or "
                f"`base_forward = {cls.__bases__[0].__name__}.base_forward` where it only serves its callers",
                stacklevel=2,
            )

    @is_run
    def base_run(self, *args: Any, **options: Any) -> Any:
        """What calling the model returns, past what a subclass has made of `forward`.

        All runs of this package are such runs; its methods `base_run_with_cache` and `base_run_with_hooks` are those
        without `base_`, past a subclass as well. Where `forward` is not overridden the model is called, so that torch's
        own hooks and compiled forms count.
        """
        cls = type(self)
        return (self if cls.forward is cls.base_forward else self.base_forward)(*args, **options)

    def weights_hash(self) -> str:
        """A hash of all parameters and buffers, bit for bit; equal for equal weights on any device.

        It is kept until a weight changes (other than through `.data`).
        """
        made = Provenance.of(self)
        made.settle()
        return cast(str, made.weights)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        settle(self)
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        settle(self)  # before the parts below this module are loaded
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles take: everything but hooks, and what this model was last known by."""
        return {name: value for name, value in self.__dict__.items() if name not in KEPT}

    @contextmanager
    def intervene(self, *edits: Edit) -> Iterator[Self]:
        """Edits that act for the `with` block, in this order; `interp.interventions` has a vocabulary of them.

        Raises, naming the edit:
            HookNotFoundError, ConfigError: a site, layer, head or neuron that is not there (before the block begins).
            ShapeError, ConfigError: values or positions that do not fit the run (before its first block).
            HookNotFiredError: the block ended and one was never carried out, or not at all positions that it names
                (unless the last run in it raised an error, which the block caught).
        """
        for edit in edits:
            if not isinstance(edit, Edit):
                raise ConfigError(f"{type(edit).__name__} is no edit; allowed: interp.interventions, such as Zero(...)")
        with self.hooks(fwd_hooks=[pair for edit in edits for pair in edit.hooks(cast(Any, self))]):
            yield self

    def _recorded(
        self,
        run: Callable[[Any], Any],
        return_type: ReturnType | ReadOut,
        recording: Recording,
        asked: HookName | Iterable[HookName] | None,
        outputs: Callable[[Logits], tuple[Any, Tensor]] | None,
        stops: bool,
    ) -> tuple[Any, set[str]]:
        """What a run returns whose points are recorded, and the names of the points that hooks edited.

        Args:
            run: from a return type to what the run returns.
            return_type: of the run.
            recording: takes what flows by at its points.
            asked: how the caller named these, for messages.
            outputs: what is made of the logits and differentiated, or None.
            stops: whether the run may end at the last point that somebody watches.
        """
        callers = {name: point.hooks for name, point in self.hook_points.items() if point.hooks}
        for hook in itertools.chain(*callers.values()):
            hook.edited = False
        # A hook that only observes lets lazy values pass beside the graph, so gradients need one that takes part in it.
        active = [self._put(Hook(recording.keep, "fwd", asked, observes=outputs is None), recording.names.values())]
        if stops:
            last = [name for name, point in self.hook_points.items() if point.hooks][-1]
            active.append(self._put(Hook(stop_here, "fwd", last, observes=True), [last]))
        try:
            output = run(return_type) if outputs is None else self._differentiated(run, outputs, recording)
        except LastPointReached:
            output = None
        finally:
            self._detach(active, graphs=True)
        if missing := [name for name in recording.names.values() if name not in recording.kept]:
            raise HookNotFiredError(f"{len(missing)} points never ran in this run, {missing[0]!r} first among them")
        return output, {
            name for name, hooks in callers.items() if any(hook.edited and hook.direction == "fwd" for hook in hooks)
        }

    def _differentiated(
        self,
        run: Callable[[Any], Any],
        outputs: Callable[[Logits], tuple[Any, Tensor]],
        recording: Recording,
    ) -> Any:
        """The run, and the gradients of the values at what it recorded; returns what the run returns."""
        unembed, outer = getattr(self, "unembed", None), torch.is_grad_enabled()
        values: list[Tensor] = []

        def read_out(read: Tensor) -> Any:
            output, differentiated = outputs(Logits(unembed, read))
            values.append(differentiated)
            return output

        with torch.enable_grad():
            output = run(read_out)
            recording.differentiate(values[0])
        if outer:
            return output
        return tuple(part.detach() for part in output) if isinstance(output, tuple) else output.detach()


class Hooked(Watched[TransformerConfig]):
    """A model that can be run under the eyes of its hook points.

    Its `forward` takes what `HookedTransformer.forward` takes.
    """

    cfg: TransformerConfig
    cache_type: ClassVar[type[ActivationCache]] = ActivationCache
    """What cached runs return; a subclass may say another one."""

    def stack_of(self, site: str | tuple[str, ...]) -> tuple["HookedTransformer", tuple[str, ...]]:
        """The stack that a site without a layer is in, and the site within it: this model has one stack, itself.

        Raises `ConfigError` for what is no site, or says a stack.
        """
        parts = as_site(site)
        if said := [part for part in parts if part in STACKS]:
            raise ConfigError(f"site = {describe(site)} says {said[0]!r}, and this model has one stack: leave the word "
                              "out, or give what is of both, the pair or the PairCache of its run")  # fmt: skip
        return cast("HookedTransformer", self), parts

    def stack_holding(self, point: HookPoint) -> "HookedTransformer":
        """The stack that has a point: this model has one, itself."""
        return cast("HookedTransformer", self)

    @is_run
    @known_keywords
    def run_with_hooks(
        self,
        input: Text | Ids | MaskedTokens,
        return_type: ReturnType = "logits",
        fwd_hooks: Iterable[HookPair] = (),
        bwd_hooks: Iterable[HookPair] = (),
        **options: Unpack[RunOptions],
    ) -> Any:
        """One run with hooks that live for this call, also when it raises; returns what the run returns.

        Backward hooks stay on the graph that this call builds: they act when the caller differentiates the result.

        Raises what `forward` raises, and before the run:
            HookNotFoundError: a name matches nothing.
            HookNotFiredError: a name matches only points that a run with these options does not reach; after the run,
                a hook did not run after all, or no gradient can reach a backward hook.
        """
        forward, backward = as_pairs(fwd_hooks, "fwd_hooks"), as_pairs(bwd_hooks, "bwd_hooks")
        for asked, _ in forward + backward:
            self._reached(asked, options)
        active = self._attach(forward, "fwd") + self._attach(backward, "bwd")
        try:
            output = self.base_run(input, return_type, **options)
        finally:
            self._detach(active, graphs=False)
        check_carried_out(active, "in this run", later=True)
        return output

    @is_run
    @known_keywords
    def run_with_cache(
        self,
        input: Text | Ids | MaskedTokens,
        return_type: ReturnType | ReadOut = "logits",
        names_filter: HookName | Iterable[HookName] | None = None,
        device: str | torch.device | None = None,
        pos_slice: int | slice | Sequence[int] | None = None,
        incl_bwd: bool = False,
        gradient_of: Differentiable | None = None,
        **options: Unpack[RunOptions],
    ) -> tuple[Any, ActivationCache]:
        """One run, and what flowed through its hook points (detached from the graph).

        Args:
            input, return_type, options: as for calling the model.
            names_filter: which points; None stands for all that are not lazy.
            device: where the cache is kept.
            pos_slice: the positions to keep (for scores and patterns: query positions); the others take no memory. They
                count along the sequence: in a run that continues a `kv_cache`, from the first position in that, and
                negative ones from the end of this run.
            incl_bwd: also the gradient of the mean loss: the same as `gradient_of="loss"`.
            gradient_of: "loss", a metric of `interp.metrics`, or a function of the logits [batch, pos, d_vocab] to one
                value a prompt or a single one. Its gradient at each point that it depends on is kept as
                `name + "_grad"`; where there are several values, that of their sum. It needs no trainable parameter,
                touches no parameter's `.grad`, and works where gradients are switched off.

        With `return_type=None` the run ends at the last point that the cache or a hook of the caller's watches, and
        with `gradient_of` it returns the values of that, from the logits that it needs and no others.

        On Linux the first call lets freed memory stay with the process (`allocator.py`), for the caches to come.

        Raises as `run_with_hooks`; `ConfigError` for something that cannot be differentiated.
        """
        stop = options.get("stop_at_layer")
        gradient_of = what_to_differentiate(incl_bwd, gradient_of, stop)
        reached = {name for asked in as_list(names_filter) for name in self._reached(asked, options)}
        keep_freed_memory()
        model, kv_cache = cast("HookedTransformer", self), options.get("kv_cache")
        if options.get("start_at_layer") is None:
            beside = options.pop("attention_mask", None), options.pop("token_types", None), options.pop("memory", None)
            input = model.masked_tokens(input, *beside)
            entering, tokens, mask = input.ids, input.ids, input.attention_mask
        else:
            # The cache must not hold the caller's own tensor.
            entering = check_stream(input, self.cfg, model.W_E).clone()
            input, tokens, mask = entering, None, check_mask(options.get("attention_mask"), entering)
        memory = options.get("memory") if tokens is None else cast(MaskedTokens, input).memory
        if kv_cache is not None and pos_slice is not None:
            pos_slice = entries_of_part(pos_slice, kv_cache.n_pos, entering.shape[1], "pos_slice")
        outputs = None
        if gradient_of is not None:
            prompts = None if tokens is None else cast(MaskedTokens, input)
            outputs = self._objective(gradient_of, return_type, entering, prompts, mask, options)
            options = cast(RunOptions, {**options, "loss_per_token": False})  # `outputs` sees to that
        points = {name: point for name, point in self.hook_points.items() if name in reached}
        recording = Recording(points, device, pos_slice, graph=outputs is not None)
        stops = return_type is None and outputs is None and kv_cache is None and stop is None
        run = functools.partial(self.base_run, input, **options)
        output, edited = self._recorded(run, return_type, recording, names_filter, outputs, stops)
        if stop is not None:
            output = cast(Tensor, output).clone()  # nor hand out one of its own
        masks = mask, memory.attention_mask if isinstance(memory, Memory) else None
        kept = (None if one is None else recording.part(one, of_memory=i > 0) for i, one in enumerate(masks))
        return output, self.cache_type(recording.kept, model, bool(edited), *kept)

    base_run_with_hooks, base_run_with_cache = run_with_hooks, run_with_cache

    def _objective(
        self,
        asked: Differentiable,
        return_type: ReturnType | ReadOut,
        entering: Tensor,
        prompts: MaskedTokens | None,
        mask: Tensor | None,
        options: RunOptions,
    ) -> Callable[[Logits], tuple[Any, Tensor]]:
        """From the logits, what the run returns and what is differentiated. Runs of references are made here."""
        model = cast("HookedTransformer", self)
        per_token = options.get("loss_per_token", False)
        model.check_options(return_type, per_token, options.get("start_at_layer"), None, options.get("kv_cache"))
        values_of = objective(asked, model, entering, prompts, mask)
        return self.with_values(values_of, prompts, return_type, per_token)

    def with_values(
        self,
        values_of: Callable[[Logits], Tensor],
        prompts: MaskedTokens | None,
        return_type: ReturnType | ReadOut,
        loss_per_token: bool,
    ) -> Callable[[Logits], tuple[Any, Tensor]]:
        """From the logits, what a run on these prompts returns and the values; without a return type, these twice."""
        model, ids = cast("HookedTransformer", self), None if prompts is None else prompts.ids
        mask = None if prompts is None else prompts.attention_mask
        if callable(return_type) or return_type == "pooled" or return_type == "classes":
            raise ConfigError(
                f"return_type = {describe(return_type)} has no logits, so it excludes gradient_of: say None"
            )

        def outputs(logits: Logits) -> tuple[Any, Tensor]:
            values = values_of(logits)
            if return_type is None:
                return values, values
            return model.output_of(logits.whole, ids, mask, return_type, loss_per_token), values

        return outputs

    def _reached(self, asked: HookName | list[HookName] | None, options: RunOptions) -> list[str]:
        """The points that `asked` names and a run with these options passes; an error if there are none."""
        start, stop = options.get("start_at_layer"), options.get("stop_at_layer")
        first, last = layer_range(self.cfg.n_layers, start, stop)

        def passed(name: str) -> bool:
            layer = layer_of(name)
            if layer is not None:
                return first <= layer < last
            if name.startswith("ln_final"):
                return stop is None
            if name.startswith("mlm_head"):
                return stop is None
            read_by_heads = {"shortformer": "hook_pos_embed", "relative": "rel_bias.hook_bias"}
            return start is None or name == read_by_heads.get(self.cfg.positional_embedding_type)

        found = [name for name in self.resolve_hooks(asked) if passed(name)]
        if not found:
            limits = f"start_at_layer = {start}, stop_at_layer = {stop}"
            raise HookNotFiredError(f"{describe(asked)} is not reached by a run with {limits}")
        return found
