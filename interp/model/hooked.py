"""Runs that watch or change what flows through the hook points."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypedDict, Unpack, cast, runtime_checkable

import torch
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import ConfigError, HookNotFiredError, describe
from interp.indices import layer_index
from interp.keywords import known_keywords
from interp.model.allocator import keep_freed_memory
from interp.model.cache import ActivationCache, entries_of_part
from interp.model.hooked_module import HookedModule, check_carried_out
from interp.model.hooks import Hook, HookPair, as_pairs
from interp.model.kv_cache import KVCache
from interp.model.names import HookName, as_list, layer_of
from interp.model.provenance import KEPT, Provenance, settle
from interp.model.recording import Differentiable, LastPointReached, Logits, Recording, objective, stop_here
from interp.text import AttentionMask, Ids, MaskedTokens, Text, check_mask

if TYPE_CHECKING:
    from interp.model.transformer import HookedTransformer


@runtime_checkable
class Edit(Protocol):
    """What `intervene` takes: something that knows which hooks carry it out on a given model."""

    def hooks(self, model: "HookedTransformer") -> list[HookPair]:
        """The hooks, in the order in which they act."""
        ...


ReturnType = Literal["logits", "loss", "both"] | None

ReadOut = Callable[[Tensor], Any]
"""A function of what the unembedding reads, [batch, pos, d_model]."""


class RunOptions(TypedDict, total=False):
    """What a run takes besides its input and return type; see `HookedTransformer.forward`."""

    loss_per_token: bool
    start_at_layer: int | None
    stop_at_layer: int | None
    attention_mask: AttentionMask | None
    kv_cache: KVCache | None


class Hooked(HookedModule):
    """A model that can be run under the eyes of its hook points.

    Its `forward` takes what `HookedTransformer.forward` takes.
    """

    cfg: TransformerConfig
    cache_type: ClassVar[type[ActivationCache]] = ActivationCache
    """What cached runs return; a subclass may say another one."""

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
            HookNotFiredError: the block ended and one was never carried out, or not at all positions that it names.
        """
        model = cast("HookedTransformer", self)
        for edit in edits:
            if not isinstance(edit, Edit):
                raise ConfigError(f"{type(edit).__name__} is no edit; allowed: interp.interventions, such as Zero(...)")
        with self.hooks(fwd_hooks=[pair for edit in edits for pair in edit.hooks(model)]):
            yield self

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
            output = self(input, return_type, **options)
        finally:
            self._detach(active, graphs=False)
        check_carried_out(active, "in this run", later=True)
        return output

    @known_keywords
    def run_with_cache(
        self,
        input: Text | Ids | MaskedTokens,
        return_type: ReturnType = "logits",
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
        gradient_of = self._what_to_differentiate(incl_bwd, gradient_of, options)
        reached = {name for asked in as_list(names_filter) for name in self._reached(asked, options)}
        keep_freed_memory()
        model, kv_cache = cast("HookedTransformer", self), options.get("kv_cache")
        if options.get("start_at_layer") is None:
            input = model.masked_tokens(input, options.pop("attention_mask", None))
            entering, tokens, mask = input.ids, input.ids, input.attention_mask
        else:
            entering = model.check_stream(input).clone()  # the cache must not hold the caller's own tensor
            input, tokens, mask = entering, None, check_mask(options.get("attention_mask"), entering)
        if kv_cache is not None and pos_slice is not None:
            pos_slice = entries_of_part(pos_slice, kv_cache.n_pos, entering.shape[1], "pos_slice")
        outputs = None
        if gradient_of is not None:
            outputs = self._objective(gradient_of, return_type, entering, tokens, mask, options)
        callers = [hook for point in self.hook_points.values() for hook in point.hooks]
        for hook in callers:
            hook.edited = False
        names = [name for name in self.hook_points if name in reached]
        recording = Recording(device, pos_slice, graph=outputs is not None)
        # A hook that only observes lets lazy values pass beside the graph, so gradients need one that takes part in it.
        active = [self._put(Hook(recording.keep, "fwd", names_filter, observes=outputs is None), names)]
        if return_type is None and outputs is None and kv_cache is None and options.get("stop_at_layer") is None:
            last = [name for name, point in self.hook_points.items() if point.hooks][-1]
            active.append(self._put(Hook(stop_here, "fwd", last, observes=True), [last]))
        try:
            if outputs is None:
                output = self(input, return_type, **options)
            else:
                output = self._differentiated(input, outputs, options, recording)
        except LastPointReached:
            output = None
        finally:
            self._detach(active, graphs=True)
        if missing := [name for name in names if name not in recording.kept]:
            raise HookNotFiredError(f"{len(missing)} points never ran in this run, {missing[0]!r} first among them")
        if options.get("stop_at_layer") is not None:
            output = cast(Tensor, output).clone()  # nor hand out one of its own
        edited = any(hook.edited for hook in callers if hook.direction == "fwd")
        mask = None if mask is None else recording.part(mask)
        return output, self.cache_type(recording.kept, model, edited, mask)

    def _what_to_differentiate(
        self, incl_bwd: bool, gradient_of: Differentiable | None, options: RunOptions
    ) -> Differentiable | None:
        if incl_bwd and gradient_of is not None:
            raise ConfigError("incl_bwd = True is gradient_of='loss': give one of the two")
        asked = "loss" if incl_bwd else gradient_of
        if asked is not None and options.get("stop_at_layer") is not None:
            raise ConfigError("a gradient is that of something made of the logits, so it excludes stop_at_layer")
        if asked is not None and torch.is_inference_mode_enabled():
            raise ConfigError("no gradient flows in inference mode; torch.no_grad() around the run is fine")
        return asked

    def _objective(
        self,
        asked: Differentiable,
        return_type: ReturnType,
        entering: Tensor,
        tokens: Tensor | None,
        mask: Tensor | None,
        options: RunOptions,
    ) -> Callable[[Logits], tuple[Any, Tensor]]:
        """From the logits, what the run returns and what is differentiated. Runs of references are made here."""
        model = cast("HookedTransformer", self)
        per_token = options.get("loss_per_token", False)
        model.check_options(return_type, per_token, options.get("start_at_layer"), None, options.get("kv_cache"))
        values_of = objective(asked, model, entering, tokens, mask)

        def outputs(logits: Logits) -> tuple[Any, Tensor]:
            if return_type is None:
                values = values_of(logits)
                return values, values
            output = model.output_of(logits.whole, tokens, mask, return_type, per_token)
            return output, values_of(logits)

        return outputs

    def _differentiated(
        self,
        input: MaskedTokens | Tensor,
        outputs: Callable[[Logits], tuple[Any, Tensor]],
        options: RunOptions,
        recording: Recording,
    ) -> Any:
        """The run, and the gradients of the values at what it recorded; returns what the run returns."""
        unembed, outer = cast("HookedTransformer", self).unembed, torch.is_grad_enabled()
        values: list[Tensor] = []

        def read_out(read: Tensor) -> Any:
            output, differentiated = outputs(Logits(unembed, read))
            values.append(differentiated)
            return output

        options = cast(RunOptions, {**options, "loss_per_token": False})  # `outputs` sees to that
        with torch.enable_grad():
            output = self(input, read_out, **options)
            recording.differentiate(values[0], self.hook_points)
        if outer:
            return output
        return tuple(part.detach() for part in output) if isinstance(output, tuple) else output.detach()

    def _reached(self, asked: HookName | list[HookName] | None, options: RunOptions) -> list[str]:
        """The points that `asked` names and a run with these options passes; an error if there are none."""
        start, stop = options.get("start_at_layer"), options.get("stop_at_layer")
        first, last = self._layer_range(start, stop)

        def passed(name: str) -> bool:
            layer = layer_of(name)
            if layer is not None:
                return first <= layer < last
            if name.startswith("ln_final"):
                return stop is None
            read_by_heads = name == "hook_pos_embed" and self.cfg.positional_embedding_type == "shortformer"
            return start is None or read_by_heads

        found = [name for name in self.resolve_hooks(asked) if passed(name)]
        if not found:
            limits = f"start_at_layer = {start}, stop_at_layer = {stop}"
            raise HookNotFiredError(f"{describe(asked)} is not reached by a run with {limits}")
        return found

    def _layer_range(self, start: int | None, stop: int | None) -> tuple[int, int]:
        n = self.cfg.n_layers
        first = 0 if start is None else layer_index(start, n, "start_at_layer", end=True)
        last = n if stop is None else layer_index(stop, n, "stop_at_layer", end=True)
        if first > last:
            raise ConfigError(f"start_at_layer = {start} comes after stop_at_layer = {stop}")
        return first, last
