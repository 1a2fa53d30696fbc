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
- *Lazy* points are not computed until something asks for them by name.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from interp.errors import HookNotFoundError, ShapeError
from interp.model.names import HookName, layer_of

HookFn = Callable[[Tensor, "HookPoint"], Any]
"""What a caller supplies: sees an activation (or gradient) and returns its replacement, or None."""

HookPair = tuple[HookName | list[HookName], HookFn]
"""Where a hook goes, and what it does."""

Direction = Literal["fwd", "bwd"]


@dataclass(eq=False)
class Hook:
    """One caller's function, at every point its name resolved to.

    Attributes:
        fn: the caller's function.
        direction: "fwd" or "bwd".
        asked: the name as the caller wrote it, for messages.
        observes: a promise never to edit, which saves the copy (caches).
        fired: whether it ran since it was added.
        edited: whether it returned another tensor, or wrote to the one it was given.
        on_graph: whether a graph exists whose gradients it will see.
        live: whether it still acts on the gradients of such graphs.
    """

    fn: HookFn
    direction: Direction
    asked: Any
    observes: bool = False
    fired: bool = False
    edited: bool = False
    on_graph: bool = False
    live: bool = True


class HookPoint:
    """One named place in the forward pass.

    Attributes:
        name: full name, such as `blocks.0.attn.hook_pattern`; given by the model that contains the point.
        axes: names of the tensor's axes, such as `("batch", "head", "query_pos", "key_pos")`; "1" is an axis of size 1.
        meaning: one line for `hook_map()`.
        lazy: computed only when asked for.
        hooks: the active hooks, in the order in which they run.
        edited: whether a hook edited what passed here last.
    """

    _created = itertools.count()

    def __init__(self, axes: str, meaning: str, lazy: bool = False):
        self.name = ""
        self.axes = tuple(axes.split())
        self.meaning = meaning
        self.lazy = lazy
        self.hooks: list[Hook] = []
        self.edited = False
        self.order = next(HookPoint._created)  # components create their points in order of execution

    def layer(self) -> int:
        """The block this point is in. Raises `HookNotFoundError` outside the blocks."""
        found = layer_of(self.name)
        if found is None:
            raise HookNotFoundError(f"{self.name!r} is not inside a block, so it has no layer")
        return found

    @property
    def pos_axis(self) -> int:
        """The axis along which `pos_slice` cuts: "pos", or "query_pos" of a pattern."""
        return self.axes.index("query_pos" if "query_pos" in self.axes else "pos")

    def __call__(self, value: Tensor) -> Tensor:
        """The value that the model goes on with."""
        return self._run(value) if self.hooks else value

    def _run(self, value: Tensor) -> Tensor:
        self.edited = False
        callers_tensor = False  # a caller's hook may go on using the tensor that it was given or returned
        for hook in [hook for hook in self.hooks if hook.direction == "fwd"]:
            hook.fired = True
            if hook.observes:
                hook.fn(value.clone() if callers_tensor else value, self)
            else:
                value = self._replace(value.clone(), hook)
                callers_tensor = True
        if callers_tensor:
            value = value.clone()
        backward = [hook for hook in self.hooks if hook.direction == "bwd"]
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
    """Hooks as a list of (name, function). Raises `TypeError` for anything else."""
    wrong = f"{what} takes a list of (name, function) pairs, not "
    if not isinstance(hooks, Iterable):
        raise TypeError(f"{wrong}{hooks!r}")
    pairs = list(hooks)
    for item in pairs:
        if not (isinstance(item, tuple) and len(item) == 2 and callable(item[1])):
            raise TypeError(f"{wrong}one with the item {item!r}")
    return pairs
