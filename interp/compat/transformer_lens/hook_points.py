"""`HookPoint` and `HookedRootModule`: hooks that are permanent or not, belong to a context, and have a memory, `ctx`.

A hook is called as `fn(activation, hook=point)`. What TransformerLens does on hooks of torch, this does on the core's.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, partialmethod
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

import interp
from interp.compat.transformer_lens.utils import Slice, SliceInput
from interp.errors import HookNotFoundError, check_choice, describe, did_you_mean
from interp.model import Hook, HookDirection, Norm, keep_freed_memory

HookFunction = Callable[..., Any]
NamesFilter = Callable[[str], bool] | Sequence[str] | str | None
Direction = Literal["fwd", "bwd", "both"]
HookPairs = Iterable[tuple[str | Callable[[str], bool], HookFunction]]

CACHING = ("names_filter", "incl_bwd", "device", "remove_batch_dim", "pos_slice")
"""What `run_with_cache` takes itself, and does not hand on to the model."""


@dataclass(eq=False)
class LensHandle(Hook):
    """One hook at one point.

    Attributes:
        is_permanent: whether only `including_permanent=True` removes it.
        context_level: the depth of the `hooks` block that it belongs to, or None.
        point: where it is.
    """

    is_permanent: bool = False
    context_level: int | None = None
    point: "HookPoint | None" = None

    @property
    def hook(self) -> "LensHandle":
        """Itself: what has `remove`."""
        return self

    def remove(self) -> None:
        """Take it off its point; graphs that it is part of are left alone from now on."""
        self.live = False
        if self.point is not None:
            self.point.hooks = [hook for hook in self.point.hooks if hook is not self]


class HookPoint(interp.HookPoint, nn.Module):
    """A named place in a forward pass: the core's, and a module, so that users put it into modules of their own.

    Attributes:
        ctx: whatever hooks want to remember between runs.
    """

    _norm: tuple[Norm, ...] = ()  # in a tuple, so as not to become a part of this

    def __init__(self, axes: str = "", meaning: str = "", lazy: bool = False):
        nn.Module.__init__(self)
        interp.HookPoint.__init__(self, axes, meaning, lazy)
        self.ctx: dict[Any, Any] = {}

    @classmethod
    def over(cls, point: interp.HookPoint, norm: Norm | None = None) -> "HookPoint":
        """The same place; with an RMS norm its hooks see what the norm multiplies by its gain, not the product."""
        made = cls()
        vars(made).update(vars(point), _norm=() if norm is None else (norm,))
        return made

    forward = interp.HookPoint.__call__

    @property
    def gain(self) -> Tensor:
        """What its RMS norm multiplies by."""
        return cast(Tensor, self._norm[0].w).detach()

    fwd_hooks = property(lambda self: self._of("fwd"), doc="The forward hooks, in the order in which they run.")
    bwd_hooks = property(lambda self: self._of("bwd"), doc="The backward hooks, in the order in which they run.")

    def _of(self, direction: str) -> list[LensHandle]:
        return [hook for hook in self.hooks if isinstance(hook, LensHandle) and hook.direction == direction]

    def add_hook(
        self,
        hook: HookFunction,
        dir: HookDirection = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
        observes: bool = False,
    ) -> None:
        """Add a hook, before all others with `prepend`; one that `observes` never edits, and gets no copy."""
        check_choice("dir", dir, ("fwd", "bwd"))
        called = partial(_before_gain, hook, dir == "bwd") if self._norm else partial(_as_keyword, hook)
        handle = LensHandle(called, dir, self.name, observes, is_permanent=is_permanent, context_level=level)
        handle.point = self
        self.hooks.insert(0 if prepend else len(self.hooks), handle)

    add_perma_hook = partialmethod(add_hook, is_permanent=True)

    def remove_hooks(self, dir: Direction = "fwd", including_permanent: bool = False, level: int | None = None) -> None:
        """Remove hooks of a direction: those of one level or of all, and permanent ones if asked."""
        check_choice("dir", dir, ("fwd", "bwd", "both"))
        for handle in (*self.fwd_hooks, *self.bwd_hooks):
            meant = not handle.is_permanent and level in (None, handle.context_level)
            if dir in (handle.direction, "both") and (including_permanent or meant):
                handle.remove()

    def clear_context(self) -> None:
        """Forget `ctx`."""
        self.ctx = {}


def _as_keyword(hook: HookFunction, value: Tensor, point: Any) -> Any:
    return hook(value, hook=point)


def _before_gain(hook: HookFunction, backward: bool, value: Tensor, point: Any) -> Any:
    """A hook on what an RMS norm multiplies by its gain, or on the gradient there."""
    gain = point.gain
    given = value * gain if backward else torch.where(gain == 0, 0, value / gain)
    before = given._version
    result = hook(given, hook=point)
    (result,) = result if isinstance(result, tuple) else (result,)
    if result is None and given._version == before:
        return None
    result = given if result is None else result
    return torch.where(gain == 0, 0, result / gain) if backward else result * gain


class HookedRootModule(nn.Module):
    """A module whose hook points have names; call `setup` at the end of `__init__`.

    Attributes:
        mod_dict: all modules below this one by their paths; hook_dict: the hook points among them.
        is_caching: whether caching hooks were added since the last reset.
        context_level: how many `hooks` blocks are open.
    """

    mod_dict: dict[str, nn.Module]
    hook_dict: dict[str, HookPoint]

    def __init__(self, *args: Any):
        super().__init__()
        self.is_caching, self.context_level = False, 0

    def setup(self) -> None:
        """Find all hook points, and name them and all other modules."""
        self.mod_dict = {name: module for name, module in self.named_modules() if name}
        self.hook_dict = {name: point for name, point in self.mod_dict.items() if isinstance(point, HookPoint)}
        for name, module in self.mod_dict.items():
            vars(module)["name"] = name
        for name, point in self.hook_dict.items():
            point.key = name

    def hook_points(self) -> Iterable[HookPoint]:
        """All of them."""
        return self.hook_dict.values()

    def remove_all_hook_fns(self, direction: Direction = "both", *args: Any, **options: Any) -> None:
        """Remove hooks from all points, as `HookPoint.remove_hooks`."""
        for point in self.hook_points():
            point.remove_hooks(direction, *args, **options)

    def clear_contexts(self) -> None:
        """Forget what hooks remembered in `ctx`."""
        for point in self.hook_points():
            point.clear_context()

    def reset_hooks(self, clear_contexts: bool = True, *args: Any, **options: Any) -> None:
        """As `remove_all_hook_fns`, with what hooks remembered."""
        if clear_contexts:
            self.clear_contexts()
        self.remove_all_hook_fns(*args, **options)
        self.is_caching = False

    def check_hooks_to_add(self, hook_point: HookPoint, hook_point_name: str, *args: Any, **options: Any) -> None:
        """For subclasses, which may refuse a hook of `add_hook` here."""

    def check_and_add_hook(self, hook_point: HookPoint, hook_point_name: str, *hook: Any, **options: Any) -> None:
        """`HookPoint.add_hook`, if `check_hooks_to_add` does not refuse it."""
        self.check_hooks_to_add(hook_point, hook_point_name, *hook, **options)
        hook_point.add_hook(*hook, **options)

    def add_hook(self, name: str | Callable[[str], bool], hook: HookFunction, *args: Any, **options: Any) -> None:
        """`HookPoint.add_hook` at the point of this name, or at all whose name a predicate is true of."""
        for point in self._named(name):
            self.check_and_add_hook(point, point.name, hook, *args, **options)

    add_perma_hook = partialmethod(add_hook, is_permanent=True)

    def _add(self, fwd_hooks: HookPairs, bwd_hooks: HookPairs = (), **options: Any) -> None:
        """Hooks of both directions at once, whether their points are switched on or not."""
        for direction, pairs in (("fwd", fwd_hooks), ("bwd", bwd_hooks)):
            for name, hook in pairs:
                for point in self._named(name):
                    point.add_hook(hook, cast(HookDirection, direction), **options)

    def _named(self, name: str | Callable[[str], bool]) -> list[HookPoint]:
        if callable(name):  # it means points that are switched on, unless all that it is true of are off
            points = [point for key, point in self.hook_dict.items() if name(key)]
            return [point for point in points if self._is_computed(point)] or points
        if name not in self.hook_dict:
            raise HookNotFoundError(f"{describe(name)} is no hook point{did_you_mean(str(name), self.hook_dict)}")
        return [self.hook_dict[name]]

    @contextmanager
    def hooks(
        self,
        fwd_hooks: HookPairs = (),
        bwd_hooks: HookPairs = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator["HookedRootModule"]:
        """Hooks that live for the `with` block; without `reset_hooks_end` they stay."""
        self.context_level += 1
        try:
            self._add(fwd_hooks, bwd_hooks, level=self.context_level)
            yield self
        finally:
            if reset_hooks_end:
                self.reset_hooks(clear_contexts, level=self.context_level)
            self.context_level -= 1

    def run_with_hooks(
        self,
        *model_args: Any,
        fwd_hooks: HookPairs = (),
        bwd_hooks: HookPairs = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **model_kwargs: Any,
    ) -> Any:
        """One run with these hooks, which are gone after it; so backward hooks need `reset_hooks_end=False`."""
        bwd_hooks = list(bwd_hooks)
        if bwd_hooks and reset_hooks_end:
            warnings.warn("the hooks end with run_with_hooks, before a backward pass: pass reset_hooks_end=False, or "
                          "call the model in a block of model.hooks(...)", stacklevel=2)  # fmt: skip
        with self.hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            return self(*model_args, **model_kwargs)

    # ------------------------------------------------------------------ caches

    def get_caching_hooks(
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: str | torch.device | None = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
        pos_slice: Slice | SliceInput = None,
    ) -> tuple[dict[str, Tensor], list[tuple[str, HookFunction]], list[tuple[str, HookFunction]]]:
        """A dictionary, and the hooks that fill it in a run: forward ones, and backward ones with `incl_bwd`.

        Points that are named are kept; without a filter or by a predicate, those that are not switched off. An empty
        list, and a predicate that is true of nothing, keep nothing.
        """
        kept, positions = {} if cache is None else cache, Slice.unwrap(pos_slice)
        self.is_caching = True

        def keep(value: Tensor, hook: HookPoint, suffix: str) -> None:
            value = value.detach().to(device)
            value = value[0] if remove_batch_dim else value
            of_heads = hook.name.endswith(("hook_q", "hook_k", "hook_v", "hook_z", "hook_result"))
            axis = hook.pos_axis - len(hook.axes) if hook.axes else -3 if of_heads else -2
            kept[hook.name + suffix] = positions.apply(value, axis) if value.ndim >= -axis else value

        names = [point.name for point in self._filtered(names_filter)]
        forward = [(name, partial(keep, suffix="")) for name in names]
        return kept, forward, [(name, partial(keep, suffix="_grad")) for name in names if incl_bwd]

    def _filtered(self, asked: NamesFilter) -> list[HookPoint]:
        names = (asked,) if isinstance(asked, str) else asked
        if isinstance(names, list | tuple | set):
            return [point for name, point in self.hook_dict.items() if name in names]
        if asked is not None and not callable(asked):
            raise ValueError("names_filter must be a string, list of strings, or function")
        computed = [point for point in self.hook_points() if self._is_computed(point)]
        return computed if asked is None else [point for point in computed if asked(point.name)]

    def _is_computed(self, point: HookPoint) -> bool:
        """Whether a point is kept that nobody named."""
        return True

    def add_caching_hooks(self, names_filter: NamesFilter = None, *args: Any, **options: Any) -> dict[str, Tensor]:
        """Hooks that fill a dictionary in every run until they are reset; the dictionary. See `get_caching_hooks`."""
        kept, *hooks = self.get_caching_hooks(names_filter, *args, **options)
        self._add(*hooks)
        return kept

    def cache_all(self, cache: dict[str, Tensor] | None, *args: Any, **options: Any) -> None:
        """As `add_caching_hooks` of every point."""
        self.add_caching_hooks(None, *args, cache=cache, **options)

    def cache_some(self, cache: dict[str, Tensor] | None, names: NamesFilter, *args: Any, **options: Any) -> None:
        """As `add_caching_hooks`."""
        self.add_caching_hooks(names, *args, cache=cache, **options)

    def run_with_cache(
        self, *model_args: Any, reset_hooks_end: bool = True, clear_contexts: bool = False, **options: Any
    ) -> tuple[Any, Any]:
        """One run, and a dictionary of what flowed through its points.

        Options are those of `get_caching_hooks` (but `cache`), and of calling the module. With `incl_bwd` the output,
        one number, is differentiated as by `output.backward()`, which adds to the gradients of the parameters too; the
        gradients at the points are kept as `name + "_grad"`.
        """
        keep_freed_memory()
        own = {name: options.pop(name) for name in CACHING if name in options}
        kept, forward, backward = self.get_caching_hooks(**own)
        with self.hooks((), backward, reset_hooks_end, clear_contexts):
            # A hook that only observes lets lazy values pass beside the graph, where no gradient comes by.
            self._add(forward, level=self.context_level, observes=not backward)
            output = self(*model_args, **options)
            if own.get("incl_bwd"):
                output.backward()
        return output, kept
