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
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, SupportsIndex, cast

import torch
from torch import Tensor

from interp.errors import ConfigError, HookNotFoundError, ShapeError, did_you_mean

HookFn = Callable[[Tensor, "HookPoint"], Any]
"""What a caller supplies: sees an activation (or gradient) and returns its replacement, or None."""

HookName = str | tuple[str, SupportsIndex] | tuple[str, SupportsIndex, str] | Callable[[str], bool]
"""How points are named: in full, as a glob, short (`("pattern", 3)`, `("scale", 0, "ln2")`), or by a predicate."""

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

    def __deepcopy__(self, memo: dict[int, Any]) -> "HookPoint":
        """A copied model starts without the original's hooks."""
        twin = HookPoint(" ".join(self.axes), self.meaning, self.lazy)
        twin.name, twin.order = self.name, self.order
        return twin

    def __repr__(self) -> str:
        return f"HookPoint({self.name!r}, [{' '.join(self.axes)}])"


def layer_of(name: str) -> int | None:
    """The block number in a full name, or None outside the blocks."""
    found = re.match(r"blocks\.(\d+)\.", name)
    return int(found[1]) if found else None


def as_indices(index: Any) -> list[int]:
    """One index or several, of whatever integer type, as plain integers. Raises `TypeError` for anything else."""
    several = [index] if is_index(index) else list(index)
    if isinstance(index, str) or any(isinstance(i, bool) for i in several):
        raise TypeError(f"{index!r} is no index")
    return [operator.index(i) for i in several]


def is_index(value: object) -> bool:
    """Whether it is one integer, of Python, numpy or torch, and no truth value."""
    try:
        operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return False
    return not isinstance(value, bool) and not getattr(value, "ndim", 0)


def layer_index(layer: SupportsIndex, n_layers: int, what: str, *, end: bool = False) -> int:
    """`layer` counted from 0, where negative ones count from the end; with `end`, n_layers stands for after the last.

    Raises `ConfigError` out of range.
    """
    highest = n_layers if end else n_layers - 1
    if not is_index(layer) or not -n_layers <= (index := operator.index(layer)) <= highest:
        raise ConfigError(f"{what} = {layer!r}; allowed: {-n_layers} to {highest} (the model has {n_layers} layers)")
    return index + n_layers if index < 0 else index


def resolve(asked: HookName, names: Sequence[str], n_layers: int) -> list[str]:
    """The full names that `asked` stands for, in the order of `names`.

    Layers may be negative, in full names as well. Raises `HookNotFoundError` where nothing answers, or where a short
    name fits several points.
    """
    if callable(asked):
        found = [name for name in names if asked(name)]
        if not found:
            raise HookNotFoundError(f"the predicate {asked!r} is true of none of the {len(names)} names here")
        return found
    if isinstance(asked, tuple):
        return [_resolve_short(asked, names, n_layers)]
    if not isinstance(asked, str):
        raise HookNotFoundError(
            f"{asked!r} is not a name; allowed: a full name, a glob, (name, layer), (name, layer, part) or a predicate"
        )

    full = re.sub(r"^blocks\.(-\d+)\.", lambda match: f"blocks.{int(match[1]) + n_layers}.", asked)
    if full in names:
        return [full]
    if f"hook_{full}" in names:
        return [f"hook_{full}"]
    if any(sign in full for sign in "*?["):
        if found := [name for name in names if fnmatchcase(name, full)]:
            return found
        raise HookNotFoundError(f"the glob {asked!r} matches none of the {len(names)} names here")
    short = full.removeprefix("hook_")
    if any(name.endswith(f".hook_{short}") for name in names):
        raise HookNotFoundError(
            f"{asked!r} is in every layer: say ({short!r}, layer), or '*hook_{short}' for all of them"
        )
    raise HookNotFoundError(f"{asked!r} names nothing here{_range_hint(full, n_layers)}{did_you_mean(full, names)}")


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


def as_list(asked: HookName | Iterable[HookName] | None) -> list[HookName | None]:
    """One name, or several, as a list. Raises `HookNotFoundError` for a list without items."""
    if asked is None or isinstance(asked, str) or callable(asked):
        return [asked]
    if not isinstance(asked, Iterable):
        raise HookNotFoundError(f"{asked!r} is not a name, a predicate or a list of them")
    if isinstance(asked, tuple):  # a short name; several names come in a list
        return [cast(HookName, asked)]
    if not (several := list(asked)):
        raise HookNotFoundError("an empty list names nothing; None stands for every point that is not lazy")
    return cast(list[HookName | None], several)


def _resolve_short(asked: tuple[Any, ...], names: Sequence[str], n_layers: int) -> str:
    if len(asked) not in (2, 3) or not isinstance(asked[0], str) or not is_index(asked[1]):
        raise HookNotFoundError(
            f"{asked!r} is not a short name; allowed: (name, layer) such as ('pattern', 3), or "
            "(name, layer, part) such as ('scale', 3, 'ln1'); several names go in a list"
        )
    short = asked[0].removeprefix("hook_")
    try:
        layer = layer_index(asked[1], n_layers, "layer")
    except ConfigError as error:
        raise HookNotFoundError(f"{asked!r}: {error}") from None
    here = [name for name in names if layer_of(name) == layer]
    found = [name for name in here if name.endswith(f".hook_{short}")]
    if len(asked) == 3:
        found = [name for name in found if asked[2] in name.split(".")]
    if len(found) == 1:
        return found[0]
    if found:
        parts = " or ".join(repr(name.split(".")[-2]) for name in found)
        raise HookNotFoundError(f"{asked!r} fits {len(found)} points; add which part, {parts}, as a third item")
    shorts = [name.rsplit("hook_", 1)[1] for name in here]
    raise HookNotFoundError(f"{asked!r} names nothing in layer {layer}{did_you_mean(short, shorts)}")


def _range_hint(name: str, n_layers: int) -> str:
    found = re.match(r"blocks\.(-?\d+)\.", name)
    outside = found and not 0 <= int(found[1]) < n_layers
    return f" (this model has {n_layers} layers, counted from 0)" if outside else ""


@dataclass(frozen=True)
class HookInfo:
    """A row of `hook_map()`: full name, axes with their sizes where the model fixes them, meaning, laziness."""

    name: str
    shape: str
    meaning: str
    lazy: bool


class HookMap(Mapping[str, HookInfo]):
    """Every hook point of a model in order of execution: a mapping, a table in a terminal, HTML in a notebook."""

    def __init__(self, rows: Iterable[HookInfo]):
        self._rows = {row.name: row for row in rows}

    def __getitem__(self, name: str) -> HookInfo:
        if name not in self._rows:
            raise HookNotFoundError(f"{name!r} names nothing here{did_you_mean(name, self._rows)}")
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __rich__(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table("name", "shape", "meaning", title=f"{len(self)} hook points, in order of execution")
        for row in self.values():
            table.add_row(*map(Text, (row.name, row.shape, row.meaning + (" (lazy)" if row.lazy else ""))))
        return table

    def __repr__(self) -> str:
        from rich.console import Console

        console = Console(width=160)
        with console.capture() as text:
            console.print(self)
        return text.get()

    def _repr_html_(self) -> str:
        from html import escape

        cells = "".join(
            f"<tr><td><code>{escape(row.name)}</code></td><td>{escape(row.shape)}</td>"
            f"<td>{escape(row.meaning)}{' <em>(lazy)</em>' if row.lazy else ''}</td></tr>"
            for row in self.values()
        )
        return (
            f"<table><thead><tr><th>name</th><th>shape</th><th>meaning</th></tr></thead><tbody>{cells}</tbody></table>"
        )
