"""Hook points: the named places in a model where a tensor can be seen and changed.

A `HookPoint` sits in the forward pass as `x = self.hook_resid_pre(x)`. Without hooks that returns `x` and costs a
call. Rules that hold everywhere:

- A forward hook `fn(activation, hook) -> tensor | None` receives a copy that no cache and no earlier hook holds. It may
  edit it in place or return another tensor of the same shape, dtype and device; the model goes on with that tensor, so
  clone what you keep and mean to change later.
- A backward hook `fn(gradient, hook) -> tensor | (tensor,) | None` does the same to the gradient that flows back
  through the point.
- Hooks at one point run in the order in which they were added, backward hooks too.
- Hooks belong to the model: runs in several threads at once would see each other's.
- A run with a `kv_cache`, and every step of `generate`, carries a part of its sequence. `hook.span` says which part:
  the first position that a hook sees is number `hook.first_pos` of the sequence. The keys of a pattern always start
  with the sequence itself, at number 0.
- What cross-attention reads from a memory has the positions of the source, all of which every run carries. There
  `hook.span` is that of the source.
- *Lazy* points are not computed until something asks for them by name.
"""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.errors import HookNotFoundError, ShapeError, describe
from interp.model.names import HookName, layer_of

HookFn = Callable[[Tensor, "HookPoint"], Any]
"""What a caller supplies: sees an activation (or gradient) and returns its replacement, or None."""

HookPair = tuple[HookName | list[HookName], HookFn]
"""Where a hook goes, and what it does."""

HookDirection = Literal["fwd", "bwd"]
"""Whether a hook is given the activation of the forward pass, or its gradient of the backward pass."""


@dataclass(frozen=True, eq=False)
class Span:
    """Which positions of its sequence a run carries.

    Attributes:
        first: the number of the run's first position in the sequence: how many its `kv_cache` held before.
        n_new: how many positions the run carries.
        batch: how many sequences.
        n_prompt: how many positions the prompt has; the later ones are generated. None where that is not known: in a
            run that continues a `kv_cache` which was made without `n_prompt=`.
        n_final: how many positions the sequence can have in the end; None where that is not known.
        attention_mask: which of the positions up to now are tokens rather than padding; None where all are.
        source_mask: which positions of the memory are tokens; None for a model that reads none.
    """

    first: int
    n_new: int
    batch: int
    n_prompt: int | None
    n_final: int | None
    attention_mask: Bool[Tensor, "batch n_keys"] | None = None
    source_mask: Bool[Tensor, "batch source_pos"] | None = None

    @property
    def is_part(self) -> bool:
        """Whether other runs carry other positions of the same sequence, or may come to do so."""
        return self.first > 0 or self.n_final != self.n_new

    @property
    def n_keys(self) -> int:
        """How many positions of the sequence have been run when this run ends."""
        return self.first + self.n_new

    @cached_property  # for every hook on keys of the memory asks, and on a GPU the answer takes a wait
    def source(self) -> "Span | None":
        """The positions of the memory, all of which every run carries; None for a model that reads none."""
        if self.source_mask is None:
            return None
        n = self.source_mask.shape[1]
        return Span(0, n, self.batch, n, n, None if bool(self.source_mask.all()) else self.source_mask)


class RunHook:
    """A hook function that hears of every run before its first block, and can say what it never came to do.

    >>> class Counting(RunHook):
    ...     seen = 0
    ...     def __call__(self, activation, hook):
    ...         self.seen += 1
    ...     def undone(self):
    ...         return "" if self.seen else "nothing was counted"
    >>> counting = Counting()
    >>> _ = model.run_with_hooks(clean, fwd_hooks=[("*hook_z", counting)])
    >>> counting.seen
    2
    """

    def __call__(self, activation: Tensor, hook: "HookPoint") -> Tensor | None:
        """The hook itself."""
        raise NotImplementedError

    def begin(self, span: Span) -> None:
        """Called before the first block of a run. Raises if it cannot act on that run."""

    def undone(self) -> str | None:
        """What of it was never carried out, for an error message, or None."""


@dataclass(eq=False)
class Hook:
    """One caller's function, at every point its name resolved to.

    Attributes:
        fn: the caller's function.
        direction: "fwd" or "bwd".
        asked: the name as the caller wrote it, for messages.
        observes: a promise never to edit, which saves the copy (caches).
        fired: whether it ran since it was added.
        cut_short: whether the last run that was asked for since then ended with an error.
        edited: whether it returned another tensor, or wrote to the one it was given.
        on_graph: whether a graph exists whose gradients it will see.
        live: whether it still acts on the gradients of such graphs.
    """

    fn: HookFn
    direction: HookDirection
    asked: Any
    observes: bool = False
    fired: bool = False
    cut_short: bool = False
    edited: bool = False
    on_graph: bool = False
    live: bool = True


class LastPointReached(Exception):
    """Ends a run of which nothing more is asked for."""


class Running:
    """What all hook points of a model share: the hooks on them, and the run that is under way.

    Attributes:
        hooks: every hook, in the order in which they were added.
        span: which positions the innermost run under way carries, or None between runs.
    """

    def __init__(self) -> None:
        self.hooks: list[Hook] = []
        self.span: Span | None = None

    @contextmanager
    def over(self, span: Span) -> Iterator[None]:
        """A run over these positions, which may be one inside a hook of another run."""
        outer, self.span = self.span, span
        try:
            for hook in self.hooks:
                hook.cut_short = False
                if isinstance(hook.fn, RunHook):
                    hook.fn.begin(span)
            yield
        finally:
            self.span = outer

    def __reduce__(self) -> tuple[Any, ...]:
        """A copied model starts without hooks and without a run."""
        return Running, ()


class HookPoint:
    """One named place in the forward pass.

    Attributes:
        name: full name, such as `blocks.0.attn.hook_pattern`; given by the model that contains the point.
        key: the name within its own stack of blocks: the same, but in a model of two stacks, whose full names begin
            with `encoder.` or `decoder.`.
        axes: names of the tensor's axes, such as `("batch", "head", "query_pos", "key_pos")`; "1" is an axis of size 1.
            Empty where they are not stated: any tensor.
        meaning: one line for `hook_map()`.
        lazy: computed only when asked for.
        hooks: the active hooks, in the order in which they run.
        edited: whether a hook edited what passed here last.
        running: what it shares with the other points of its model.

    >>> point = model.hook_points["blocks.1.attn.hook_z"]
    >>> point.axes, point.layer()
    (('batch', 'pos', 'head', 'd_head'), 1)
    """

    _created = itertools.count()

    def __init__(self, axes: str = "", meaning: str = "", lazy: bool = False):
        self.name = self.key = ""
        self.axes = tuple(axes.split())
        self.meaning = meaning
        self.lazy = lazy
        self.hooks: list[Hook] = []
        self.edited = False
        self.running = Running()
        self.order = next(HookPoint._created)  # components create their points in order of execution

    @cached_property
    def pos_axis(self) -> int:
        """The axis along which `pos_slice` cuts: "pos", or "query_pos" of a pattern; "source_pos" of what was read
        from a memory, which it does not cut (`of_memory`).

        Raises `ShapeError` for a point without an axis of positions.
        """
        for axis in ("query_pos", "pos", "source_pos"):
            if axis in self.axes:
                return self.axes.index(axis)
        shown = " ".join(self.axes) if self.axes else "not stated"
        raise ShapeError(f"{self.name!r} has no axis of positions (its axes: {shown})")

    @property
    def of_memory(self) -> bool:
        """Whether its positions are those of the memory alone, as those of the keys of cross-attention."""
        return "source_pos" in self.axes and "query_pos" not in self.axes

    def layer(self) -> int:
        """The block this point is in. Raises `HookNotFoundError` outside the blocks."""
        found = layer_of(self.key)
        if found is None:
            raise HookNotFoundError(f"{self.name!r} is not inside a block, so it has no layer")
        return found

    @property
    def span(self) -> Span | None:
        """Which positions of its sequence the run under way carries, at points `of_memory` those of the source; None
        outside a run.
        """
        span = self.running.span
        return span.source if span is not None and self.of_memory else span

    @property
    def first_pos(self) -> int:
        """The number in the sequence of the first position that a hook sees here; 0 unless a `kv_cache` goes before."""
        return 0 if self.span is None else self.span.first

    def __call__(self, value: Tensor) -> Tensor:
        """The value that the model goes on with."""
        return self._run(value) if self.hooks else value

    def _run(self, value: Tensor) -> Tensor:
        self.edited = False
        if len(self.hooks) == 1 and self.hooks[0].observes:  # one cache and nobody else
            self.hooks[0].fired = True
            self.hooks[0].fn(value, self)
            return value
        backward: list[Hook] = []
        callers_tensor = False  # a caller's hook may go on using the tensor that it was given or returned
        for hook in tuple(self.hooks):
            if hook.direction == "bwd":
                backward.append(hook)
                continue
            hook.fired = True
            if hook.observes:
                hook.fn(value.clone() if callers_tensor else value, self)
            else:
                value = self._replace(value.clone(), hook)
                callers_tensor = True
        if callers_tensor:
            value = value.clone()
        return self._watch_gradient(value, backward) if backward else value

    def _replace(self, own: Tensor, hook: Hook) -> Tensor:
        """Call `hook` on a tensor it owns; what it returns, else that tensor with its edits."""
        shape, dtype, device = own.shape, own.dtype, own.device
        version = None if own.is_inference() else own._version
        place = f"{self.name} ({hook.direction})"
        try:
            result = hook.fn(own, self)
        except Exception as error:
            error.add_note(f"raised by the hook at {place}")
            raise
        if hook.direction == "bwd" and isinstance(result, tuple) and len(result) == 1:
            (result,) = result
        if result is None:
            result = own
        if not isinstance(result, Tensor):
            raise ShapeError(
                f"the hook at {place} returned {type(result).__name__}; allowed: a tensor of shape "
                f"{tuple(shape)}, or None"
            )
        if result is not own or version is None or own._version != version:
            hook.edited = self.edited = True
        for what, got, want in (
            ("shape", tuple(result.shape), tuple(shape)),
            ("dtype", result.dtype, dtype),
            ("device", result.device, device),
        ):
            if got != want:
                axes = f" ({' '.join(self.axes)})" if what == "shape" else ""
                raise ShapeError(f"the hook at {place} gave back {what} {got}; it must be {want}{axes}")
        return result

    def _watch_gradient(self, value: Tensor, hooks: list[Hook]) -> Tensor:
        """Let backward hooks see the gradient that will flow through here, if one will."""
        if not (value.requires_grad and torch.is_grad_enabled()):
            return value
        value = value.view_as(value)  # a node of its own, so that points sharing a tensor keep their order

        def on_gradient(gradient: Tensor) -> Tensor:
            for hook in hooks:
                if hook.live:
                    hook.fired = True
                    gradient = self._replace(gradient.clone(), hook)
            return gradient

        value.register_hook(on_gradient)
        for hook in hooks:
            hook.on_graph = True
        return value

    def __getstate__(self) -> dict[str, Any]:
        """A copied or pickled model starts without the original's hooks."""
        return self.__dict__ | {"hooks": [], "edited": False}

    def __repr__(self) -> str:
        return f"HookPoint({self.name!r}, [{' '.join(self.axes)}])"


def as_pairs(hooks: Iterable[HookPair], what: str) -> list[HookPair]:
    """Hooks as a list of (name, function). Raises `TypeError` for anything else, and for a function that takes other
    arguments than (activation, hook).
    """
    wrong = f"{what} takes a list of (name, function) pairs, not "
    if not isinstance(hooks, Iterable):
        raise TypeError(f"{wrong}{describe(hooks)}")
    pairs = list(hooks)
    for item in pairs:
        if not (isinstance(item, tuple) and len(item) == 2 and callable(item[1])):
            raise TypeError(f"{wrong}one with the item {describe(item)}")
        _check_arguments(*item)
    return pairs


def _check_arguments(asked: Any, fn: HookFn) -> None:
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some functions written in C do not say what they take
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        name = getattr(fn, "__name__", type(fn).__name__)
        raise TypeError(
            f"the hook on {describe(asked)} is {name}{signature}; a hook is called as fn(activation, hook): {error}"
        ) from None
