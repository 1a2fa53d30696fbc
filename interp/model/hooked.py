"""Runs that watch or change what flows through the hook points."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypedDict, Unpack, cast, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from interp.config import TransformerConfig
from interp.errors import CacheError, ConfigError, HookNotFiredError, check_choice
from interp.indices import layer_index
from interp.model.allocator import keep_freed_memory
from interp.model.cache import ActivationCache, entries_of_part, select
from interp.model.generate import KVCache
from interp.model.hooks import Direction, Hook, HookFn, HookPair, HookPoint, RunHook, Running, as_pairs
from interp.model.names import HookInfo, HookMap, HookName, as_list, layer_of, resolve
from interp.model.provenance import KEPT, Provenance, settle
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


class RunOptions(TypedDict, total=False):
    """What a run takes besides its input and return type; see `HookedTransformer.forward`."""

    loss_per_token: bool
    start_at_layer: int | None
    stop_at_layer: int | None
    attention_mask: AttentionMask | None
    kv_cache: KVCache | None


class Hooked(nn.Module):
    """A module whose hook points have names, and which can be run under their eyes.

    A subclass calls `name_hook_points` when it is built; its `forward` takes what `HookedTransformer.forward` takes.
    """

    cfg: TransformerConfig
    hook_points: dict[str, HookPoint]
    axis_sizes: dict[str, int]
    running: Running

    def name_hook_points(self, sizes: Mapping[str, int]) -> None:
        """Find every `HookPoint` below this module and name it; `sizes` are the axes whose size is fixed."""
        found = {
            f"{path}.{attribute}".lstrip("."): point
            for path, module in self.named_modules()
            for attribute, point in vars(module).items()
            if isinstance(point, HookPoint)
        }
        self.hook_points = dict(sorted(found.items(), key=lambda item: item[1].order))
        self.running = Running()
        for name, point in self.hook_points.items():
            point.name, point.running = name, self.running
        self.axis_sizes = dict(sizes)

    # ------------------------------------------------------------------ which model this is

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

    # ------------------------------------------------------------------ hook points and hooks

    def hook_map(self) -> HookMap:
        """The table of all hook points of this model: name, shape, meaning, and whether the point is lazy."""

        def shape(point: HookPoint) -> str:
            return " ".join(
                f"{axis}={self.axis_sizes[axis]}" if axis in self.axis_sizes else axis for axis in point.axes
            )

        return HookMap(HookInfo(p.name, shape(p), p.meaning, p.lazy) for p in self.hook_points.values())

    def resolve_hooks(self, asked: HookName | Iterable[HookName] | None) -> list[str]:
        """Full names for names in any form; None stands for every point that is not lazy.

        A glob whose last part is nothing but wildcards (`*`, `blocks.0.*`) leaves lazy points out, too; every other
        name takes all that it fits. Raises `HookNotFoundError` for a name that fits nothing.
        """
        names, found = list(self.hook_points), set()
        for one in as_list(asked):
            fits = names if one is None else resolve(one, names, self.cfg.n_layers)
            if one is None or (isinstance(one, str) and not one.rsplit(".", 1)[-1].strip("*?")):
                fits = [name for name in fits if not self.hook_points[name].lazy]
            found.update(fits)
        return [name for name in names if name in found]

    def add_hook(self, name: HookName | list[HookName], fn: HookFn, dir: Direction = "fwd") -> None:
        """Add a hook that stays until `reset_hooks`. Raises `HookNotFoundError` before anything is changed."""
        check_choice("dir", dir, get_args(Direction))
        self._attach(as_pairs([(name, fn)], "add_hook"), dir)

    def reset_hooks(self) -> None:
        """Remove every hook from every point; backward hooks still there stop acting on existing graphs, too."""
        self._detach([hook for point in self.hook_points.values() for hook in point.hooks], graphs=True)

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Iterable[HookPair] = (),
        bwd_hooks: Iterable[HookPair] = (),
    ) -> Iterator[Self]:
        """Hooks that live for the `with` block, also when an exception ends it.

        Backward hooks act on gradients computed inside the block.

        Raises:
            HookNotFoundError: a name matches nothing (before the block begins).
            HookNotFiredError: the block ended and a hook never ran.
        """
        forward, backward = as_pairs(fwd_hooks, "fwd_hooks"), as_pairs(bwd_hooks, "bwd_hooks")
        for asked, _ in forward + backward:
            self.resolve_hooks(asked)
        active = self._attach(forward, "fwd") + self._attach(backward, "bwd")
        try:
            yield self
        finally:
            self._detach(active, graphs=True)
        _check_carried_out(active, "inside the block")

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

    def _attach(self, pairs: list[HookPair], direction: Direction, observes: bool = False) -> list[Hook]:
        places = [(self.resolve_hooks(asked), Hook(fn, direction, asked, observes)) for asked, fn in pairs]
        for names, hook in places:
            for name in names:
                self.hook_points[name].hooks.append(hook)
            self.running.hooks.append(hook)
        return [hook for _, hook in places]

    def _detach(self, hooks: Iterable[Hook], graphs: bool) -> None:
        """Remove hooks from all points; with `graphs`, from the autograd graphs they are already part of too."""
        gone = set(hooks)
        for point in self.hook_points.values():
            point.hooks = [hook for hook in point.hooks if hook not in gone]
        self.running.hooks = [hook for hook in self.running.hooks if hook not in gone]
        for hook in gone if graphs else ():
            hook.live = False

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
        _check_carried_out(active, "in this run", later=True)
        return output

    def run_with_cache(
        self,
        input: Text | Ids | MaskedTokens,
        return_type: ReturnType = "logits",
        names_filter: HookName | Iterable[HookName] | None = None,
        device: str | torch.device | None = None,
        pos_slice: int | slice | Sequence[int] | None = None,
        incl_bwd: bool = False,
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
            incl_bwd: also the gradient of the loss at each point that it depends on, as `name + "_grad"`; needs
                `return_type="loss"`. No parameter's `.grad` is touched.

        On Linux the first call lets freed memory stay with the process (`allocator.py`), for the caches to come.

        Raises as `run_with_hooks`; `ConfigError` for `incl_bwd` without a scalar loss.
        """
        if incl_bwd and (return_type != "loss" or options.get("loss_per_token")):
            raise ConfigError("incl_bwd differentiates the mean loss: pass return_type='loss', loss_per_token=False")
        reached = {name for asked in as_list(names_filter) for name in self._reached(asked, options)}
        keep_freed_memory()
        kept: dict[str, Tensor] = {}
        in_graph: dict[str, Tensor] = {}

        def part(value: Tensor, pos_axis: int) -> Tensor:
            value = value.detach()
            if pos_slice is not None:  # a copy, so that the whole tensor is not held
                value = select(value, pos_axis, pos_slice, "pos").clone()
            return value if device is None else value.to(device)

        def keep(value: Tensor, hook: HookPoint) -> Tensor:
            if hook.name in kept:
                raise CacheError(
                    f"{hook.name} ran twice in one cached run: by a run inside a hook, or in another thread"
                )
            kept[hook.name] = part(value, hook.pos_axis)
            if incl_bwd:
                in_graph[hook.name] = value
            return value

        model = cast("HookedTransformer", self)
        if options.get("start_at_layer") is None:
            input = model.masked_tokens(input, options.pop("attention_mask", None))
            kv_cache = options.get("kv_cache")
            if kv_cache is not None and pos_slice is not None:
                pos_slice = entries_of_part(pos_slice, kv_cache.n_pos, input.ids.shape[1], "pos_slice")
        elif isinstance(input, Tensor):
            input = input.clone()  # the cache must not hold the caller's own tensor
        callers = [hook for point in self.hook_points.values() for hook in point.hooks]
        for hook in callers:
            hook.edited = False
        # A hook that only observes lets lazy values pass beside the graph, so gradients need one that takes part in it.
        names = [name for name in self.hook_points if name in reached]
        active = self._attach([(name, keep) for name in names], "fwd", observes=not incl_bwd)
        try:
            with torch.set_grad_enabled(incl_bwd or torch.is_grad_enabled()):
                output = self(input, return_type, **options)
                if incl_bwd:
                    for name, gradient in _gradients(output, in_graph).items():
                        kept[f"{name}_grad"] = part(gradient, self.hook_points[name].pos_axis)
        finally:
            self._detach(active, graphs=True)
        if missing := [name for name in names if name not in kept]:
            raise HookNotFiredError(f"{len(missing)} points never ran in this run, {missing[0]!r} first among them")
        if options.get("stop_at_layer") is not None:
            output = output.clone()  # nor hand out one of its own
        edited = any(hook.edited for hook in callers if hook.direction == "fwd")
        if isinstance(input, MaskedTokens):
            mask = input.attention_mask
        else:
            mask = check_mask(options.get("attention_mask"), cast(Tensor, input))
        return output, ActivationCache(kept, model, edited, None if mask is None else part(mask, 1))

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
            raise HookNotFiredError(f"{asked!r} is not reached by a run with {limits}")
        return found

    def _layer_range(self, start: int | None, stop: int | None) -> tuple[int, int]:
        n = self.cfg.n_layers
        first = 0 if start is None else layer_index(start, n, "start_at_layer", end=True)
        last = n if stop is None else layer_index(stop, n, "stop_at_layer", end=True)
        if first > last:
            raise ConfigError(f"start_at_layer = {start} comes after stop_at_layer = {stop}")
        return first, last


def _check_carried_out(hooks: Iterable[Hook], where: str, later: bool = False) -> None:
    """Raise `HookNotFiredError` for a hook that never ran, or that did not come to do all that it was meant to do.

    With `later`, a backward hook need only be part of a graph.
    """
    for hook in hooks:
        if not (hook.fired or (later and hook.on_graph)):
            cause = (
                "no forward pass reached it"
                if hook.direction == "fwd"
                else "no gradient flowed through it (was grad mode on, and backward called there?)"
            )
            raise HookNotFiredError(f"the {hook.direction} hook on {hook.asked!r} never ran {where}: {cause}")
        if isinstance(hook.fn, RunHook) and (undone := hook.fn.undone()):
            raise HookNotFiredError(f"{undone} {where}")


def _gradients(loss: Tensor, in_graph: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of the loss at each value that it depends on."""
    if not loss.requires_grad:
        raise HookNotFiredError("incl_bwd: no gradient flows (inference mode, or no parameter requires one)")
    inputs = {name: value for name, value in in_graph.items() if value.requires_grad}
    gradients = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, retain_graph=True)
    return {name: gradient for name, gradient in zip(inputs, gradients, strict=True) if gradient is not None}
