"""Modules whose hook points have names, and hooks that live for a `with` block or until they are removed."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, Self, TypeVar, get_args

from torch import nn

from interp.errors import HookNotFiredError, check_choice
from interp.model.hooks import (
    Hook,
    HookDirection,
    HookFn,
    HookPair,
    HookPoint,
    LastPointReached,
    RunHook,
    Running,
    as_pairs,
)
from interp.model.names import HookInfo, HookMap, HookName, as_list, layer_of, resolve

P = ParamSpec("P")
Returned = TypeVar("Returned")


def is_run(method: Callable[P, Returned]) -> Callable[P, Returned]:
    """A method that runs its `HookedModule`. Where it raises, the hooks on that know that they were cut short."""

    @functools.wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> Returned:
        try:
            return method(*args, **kwargs)
        except LastPointReached:  # which is how a run ends of which nothing more is asked for
            raise
        except BaseException:
            for module in args[:1]:
                points: dict[str, HookPoint] = vars(module).get("hook_points", {})  # none before they are named
                for hook in itertools.chain(*(point.hooks for point in points.values())):
                    hook.cut_short = True
            raise

    return run


class HookedModule(nn.Module):
    """A module with named hook points. Derive from it to hook a module of your own:

    >>> class Probe(HookedModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.linear, self.hook_score = torch.nn.Linear(64, 1), HookPoint("batch pos 1", "the probe's answer")
    ...         self.name_hook_points()
    ...
    ...     def forward(self, x):
    ...         return self.hook_score(self.linear(x))
    >>> probe, x = Probe(), torch.randn(2, 3, 64)
    >>> with probe.hooks([("hook_score", lambda score, hook: score + 1)]):
    ...     more = probe(x)
    >>> torch.equal(more, probe(x) + 1)
    True

    Points of modules inside it are found as well, whatever class these have. A name is the path to the point.

    Attributes:
        hook_points: every point by its name, in the order in which they were made.
        axis_sizes: the axes whose size is fixed.
        running: what the points share.
        n_blocks: how many blocks there are: one more than the highest number in a name `blocks.l.`.
    """

    hook_points: dict[str, HookPoint]
    axis_sizes: dict[str, int]
    running: Running
    n_blocks: int

    @is_run
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What `forward` returns."""
        return super().__call__(*args, **kwargs)

    def name_hook_points(self, sizes: Mapping[str, int] | None = None) -> None:
        """Find every `HookPoint` below this module and name it.

        To be called at the end of `__init__`, and again after a part with points of its own was put in.

        Args:
            sizes: the axes whose size is fixed; None for those that were said before.
        """
        found = {
            f"{path}.{attribute}".lstrip("."): point
            for path, module in self.named_modules()
            for attribute, point in vars(module).items()
            if isinstance(point, HookPoint)
        }
        self.hook_points = dict(sorted(found.items(), key=lambda item: item[1].order))
        self.running = Running()
        for name, point in self.hook_points.items():
            point.name, point.key, point.running = name, name, self.running
            self.running.hooks += [hook for hook in point.hooks if hook not in self.running.hooks]
        self.axis_sizes = dict(vars(self).get("axis_sizes", {}) if sizes is None else sizes)
        self.n_blocks = 1 + max((layer for layer in map(layer_of, self.hook_points) if layer is not None), default=-1)

    def hook_map(self) -> HookMap:
        """The table of all hook points of this model: name, shape, meaning, and whether the point is lazy."""

        def shape(point: HookPoint) -> str:
            return (
                "any"
                if not point.axes
                else " ".join(
                    f"{axis}={self.axis_sizes[axis]}" if axis in self.axis_sizes else axis for axis in point.axes
                )
            )

        return HookMap(HookInfo(name, shape(p), p.meaning, p.lazy) for name, p in self.hook_points.items())

    def resolve_hooks(self, asked: HookName | Iterable[HookName] | None) -> list[str]:
        """Full names for names in any form; None stands for every point that is not lazy.

        A glob whose last part is nothing but wildcards (`*`, `blocks.0.*`) leaves lazy points out, too; every other
        name takes all that it fits. Raises `HookNotFoundError` for a name that fits nothing.
        """
        names, found = list(self.hook_points), set()
        for one in as_list(asked):
            fits = names if one is None else self._named(one)
            if one is None or (isinstance(one, str) and not one.rsplit(".", 1)[-1].strip("*?")):
                fits = [name for name in fits if not self.hook_points[name].lazy]
            found.update(fits)
        return [name for name in names if name in found]

    def _named(self, asked: HookName) -> list[str]:
        """Full names for one name, lazy points among them."""
        return resolve(asked, list(self.hook_points), self.n_blocks)

    def add_hook(self, name: HookName | list[HookName], fn: HookFn, dir: HookDirection = "fwd") -> None:
        """Add a hook that stays until `reset_hooks`. Raises `HookNotFoundError` before anything is changed."""
        check_choice("dir", dir, get_args(HookDirection))
        self._attach(as_pairs([(name, fn)], "add_hook"), dir)

    def reset_hooks(self) -> None:
        """Remove every hook from every point; backward hooks still there stop acting on existing graphs, too."""
        on_points = [hook for point in self.hook_points.values() for hook in point.hooks]
        shared = [hook for running in self._running_of(self.hook_points.values()) for hook in running.hooks]
        self._detach([*on_points, *shared], graphs=True)

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
            HookNotFiredError: the block ended and a hook never ran. It is not raised where the last run in the block
                ended with an error that the block caught: that error says what stopped the run.
        """
        forward, backward = as_pairs(fwd_hooks, "fwd_hooks"), as_pairs(bwd_hooks, "bwd_hooks")
        for asked, _ in forward + backward:
            self.resolve_hooks(asked)
        active = self._attach(forward, "fwd") + self._attach(backward, "bwd")
        try:
            yield self
        finally:
            self._detach(active, graphs=True)
        check_carried_out(active, "inside the block")

    def _attach(self, pairs: list[HookPair], direction: HookDirection, observes: bool = False) -> list[Hook]:
        places = [(self.resolve_hooks(asked), Hook(fn, direction, asked, observes)) for asked, fn in pairs]
        return [self._put(hook, names) for names, hook in places]

    def _put(self, hook: Hook, names: Iterable[str]) -> Hook:
        """One hook at all points with these full names."""
        points = [self.hook_points[name] for name in names]
        for point in points:
            point.hooks.append(hook)
        for running in self._running_of(points):
            running.hooks.append(hook)
        return hook

    def _running_of(self, points: Iterable[HookPoint]) -> Iterable[Running]:
        """What these points share with others: one for all, where they are not of several stacks."""
        return (self.running,)

    def _detach(self, hooks: Iterable[Hook], graphs: bool) -> None:
        """Remove hooks from all points; with `graphs`, from the autograd graphs they are already part of too."""
        gone = set(hooks)
        for point in self.hook_points.values():
            if point.hooks:
                point.hooks = [hook for hook in point.hooks if hook not in gone]
        for running in self._running_of(self.hook_points.values()):
            running.hooks = [hook for hook in running.hooks if hook not in gone]
        for hook in gone if graphs else ():
            hook.live = False


def check_carried_out(hooks: Iterable[Hook], where: str, later: bool = False) -> None:
    """Raise `HookNotFiredError` for a hook that never ran, or that did not come to do all that it was meant to do.

    A hook whose last run ended with an error is passed over: whoever caught that error knows why.
    With `later`, a backward hook need only be part of a graph.
    """
    for hook in hooks:
        if hook.cut_short:
            continue
        if not (hook.fired or (later and hook.on_graph)):
            cause = (
                "no forward pass reached it"
                if hook.direction == "fwd"
                else "no gradient flowed through it (was grad mode on, and backward called there?)"
            )
            raise HookNotFiredError(f"the {hook.direction} hook on {hook.asked!r} never ran {where}: {cause}")
        if isinstance(hook.fn, RunHook) and (undone := hook.fn.undone()):
            raise HookNotFiredError(f"{undone} {where}")
