"""Interventions that compute what they write: autoencoders, transcoders, projections, or any function."""

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from interp.errors import ConfigError, InterpError, ShapeError
from interp.interventions.acting import Act
from interp.interventions.core import Intervention
from interp.interventions.named import Named
from interp.model import HookName, HookPair, HookPoint, in_stack

if TYPE_CHECKING:
    from interp.interventions.core import AnyStacks


@dataclass(frozen=True, repr=False)
class Apply(Intervention):
    """What a function or a module makes of an activation, in the place of the activation.

        Apply(autoencoder, site="resid_post", layer=5)                              # the reconstruction
        Apply(ablated, error_of=autoencoder, site="resid_post", layer=5)            # what the edit of a feature changes
        Apply(transcoder, reads=("normalized", "ln2"), site="mlp_out", layer=5)     # reads one site, writes another
        Apply(lambda x: x - x @ probe @ probe.T, site="resid_mid", layer=range(8))  # a projection

    The function is given the whole activation that the run carries at the point, and makes a tensor of the same shape;
    the place (heads, positions, neurons) decides what of it is written. Gradients flow through it.

    Attributes:
        fn: the function or module; a `Named` one can be saved.
        reads: the site that it reads, in the same layer, if that is not the site that it writes. What it makes has the
            shape of the site that is written.
        error_of: a function whose error is added to what `fn` makes: the activation minus `error_of(read)`. With
            `error_of` equal to `fn` this is the activation itself, to the last bit. The error is a constant to
            gradients, so that they flow through `fn` alone. None drops the error.
    """

    fn: Any
    reads: str | tuple[str, ...] | None = field(default=None, kw_only=True)
    error_of: Any = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, given in (("fn", self.fn), ("error_of", self.error_of)):
            left_out = given is None and name == "error_of"
            object.__setattr__(self, name, given if left_out or isinstance(given, Named) else Named(cast(Any, given)))

    def hooks(self, model: "AnyStacks") -> list[HookPair]:
        """One hook a point, and one where it reads. Raises `ConfigError` if that comes later than what is written."""
        if self.reads is None:
            return super().hooks(model)
        pairs: list[HookPair] = []
        for name, act in super().hooks(model):
            written = model.hook_points[cast(str, name)]
            read = self._read_by(written, model)
            seen: list[Tensor] = []
            reading = copy.copy(self)
            reading.__dict__["_seen"] = seen
            cast(Act, act).item = reading
            pairs += [(read.key if name == written.key else read.name, _Keep(seen)), (name, act)]
        return pairs

    def _read_by(self, written: HookPoint, model: "AnyStacks") -> HookPoint:
        short, *part = (self.reads,) if isinstance(self.reads, str) else cast(tuple[str, ...], self.reads)
        stack = model.stack_holding(written)
        said, within = in_stack((short, written.layer(), *part)) if stack is not model else (None, None)
        if said is not None and not written.name.startswith(f"{said}."):
            raise ConfigError(f"{self!r}: it reads the {said} and writes {written.name}; reads and writes are of one "
                              "layer")  # fmt: skip
        asked = (short, written.layer(), *part) if said is None else within
        try:
            (name,) = stack.resolve_hooks(cast(HookName, asked))
        except InterpError as error:
            raise type(error)(f"{self!r}: {error}") from None
        point = stack.hook_points[name]
        if point.order > written.order:
            raise ConfigError(f"{self!r}: {point.name} comes after {written.name}, so it cannot be read for that")
        return point

    def try_on(self, activation: Tensor, hook: HookPoint) -> None:
        """Only the place is tried on: the function is called when the run comes to it."""
        self.places(activation, hook)

    def value(self, activation: Tensor, hook: HookPoint) -> Tensor:
        """`fn(read)`, with the error of `error_of` where that is given."""
        seen = self.__dict__.get("_seen")
        if self.reads is not None and not seen:
            raise ConfigError(f"{self!r} reads another site than it writes, which takes a run: model.intervene(...)")
        read = seen.pop() if seen else activation
        made = self._call(self.fn, read, activation, hook)
        if self.error_of is None:
            return made
        with torch.no_grad():
            known = made if self.error_of == self.fn else self._call(self.error_of, read, activation, hook)
        return activation.detach() + (made - known.detach())

    def _call(self, fn: Named, read: Tensor, activation: Tensor, hook: HookPoint) -> Tensor:
        made = fn(read.clone())  # a function that works in place changes a tensor of its own
        if not isinstance(made, Tensor) or made.shape != activation.shape or made.device != activation.device:
            what = type(made).__name__
            if isinstance(made, Tensor):
                what = f"a tensor of shape {tuple(made.shape)} on {made.device}"
            raise ShapeError(
                f"{self!r}: {fn!r} made {what} of {tuple(read.shape)}; at {hook.name} it must make "
                f"{tuple(activation.shape)} ({' '.join(hook.axes)}) on {activation.device}"
            )
        return made


class _Keep:
    """The hook that keeps what a function will read."""

    def __init__(self, seen: list[Tensor]):
        self.seen = seen

    def __call__(self, activation: Tensor, hook: HookPoint) -> None:
        self.seen[:] = [activation]
