"""ActivationCache: what one run left at its hook points, which `residual.py` and `read_out.py` take apart."""

import os
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import CheckpointError, ConfigError, HookNotFoundError, ShapeError, describe
from interp.files import load_tensors, save_tensors
from interp.indices import counted
from interp.model.derived import Kind, difference, gradients
from interp.model.names import HookName, resolve
from interp.model.provenance import Provenance
from interp.model.read_out import ReadOut

if TYPE_CHECKING:
    from interp.model.transformer import HookedTransformer

KIND = "interp.ActivationCache"
"""Of the files that `save` writes."""


class ActivationCache(ReadOut, Mapping[str, Tensor]):
    """Activations by name: `cache["blocks.0.attn.hook_z"]`, `cache["z", 0]`, `cache["z", -1]`.

    Attributes:
        model: the model that ran; decompositions read its weights, and refuse if these changed since.
        made_by: which model, with which weights, ran.
        edited: whether hooks edited anything in the run.
        kind: "run"; or, made of runs, "difference" (`cache - other`) or "gradient" (`cache.gradients()`). These can be
            read, stacked and decomposed as far as that is linear; what needs a run is refused (`CacheError`).
        attention_mask: [batch, pos], true for tokens and false for padding; None where nothing was padding.
        source_mask: the same of the memory that the run read, [batch, source_pos].

    >>> _, cache = model.run_with_cache(clean)
    >>> cache["pattern", -1].shape, "resid_post" in cache
    (torch.Size([1, 4, 10, 10]), False)
    """

    def __init__(
        self,
        activations: Mapping[str, Tensor],
        model: "HookedTransformer",
        edited: bool = False,
        attention_mask: Bool[Tensor, "batch pos"] | None = None,
        source_mask: Bool[Tensor, "batch source_pos"] | None = None,
    ):
        self._values = dict(activations)
        self.model, self.cfg, self.edited = model, model.cfg, edited
        self.attention_mask, self.source_mask = (
            None if mask is None or bool(mask.all()) else mask for mask in (attention_mask, source_mask)
        )
        self.made_by = Provenance.of(model)
        self.kind: Kind = "run"

    # ------------------------------------------------------------------ a mapping

    def __getitem__(self, name: HookName) -> Tensor:
        if isinstance(name, str) and name in self._values:
            return self._values[name]
        return self._values[held(name, list(self._values), list(self.model.hook_points), self.cfg.n_layers)]

    def stack(self, site: str | tuple[str, str]) -> Float[Tensor, "layer ..."]:
        """One site of all layers, stacked: `stack("pattern")` is [layer, batch, head, query_pos, key_pos].

        Where several parts of a block have a site, name the part too: `stack(("scale", "ln1"))`. Raises
        `HookNotFoundError` if the cache lacks a layer, `ConfigError` for a model without layers.
        """
        if not isinstance(site, str | tuple):
            raise HookNotFoundError(
                f"stack takes a short name, such as 'pattern' or ('scale', 'ln1'), not {describe(site)}"
            )
        short, *part = (site,) if isinstance(site, str) else site
        if self.cfg.n_layers == 0:
            raise ConfigError(f"n_layers = 0: there is no {short!r} to stack")
        return torch.stack([self[cast(HookName, (short, layer, *part))] for layer in range(self.cfg.n_layers)])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        size = sum({v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in self.values()}.values())
        what = "activation" if self.kind == "run" else self.kind
        return f"ActivationCache({counted(len(self), what)}, {size / 1e6:.3g} MB)"

    def is_current(self) -> bool:
        """Whether the model's weights are still those of the run (writes through `.data` are not seen)."""
        return self.made_by.is_of(self.model)

    def __copy__(self) -> "ActivationCache":
        """A cache of the same tensors and the same model."""
        return self.with_values(self._values)

    def __sub__(self, other: "ActivationCache") -> "ActivationCache":
        """The difference of two runs of this model, activation by activation; see `derived.difference`."""
        return difference(self, other)

    def gradients(self) -> "ActivationCache":
        """The gradients of a run with `gradient_of=`, under the names of their hook points: `gradients()["z", 3]`.

        Raises `HookNotFoundError` where the run kept none.
        """
        return gradients(self)

    # ------------------------------------------------------------------ moving, slicing, files

    def with_values(
        self, activations: Mapping[str, Tensor], mask: Tensor | None = None, source_mask: Tensor | None = None
    ) -> "ActivationCache":
        """Other activations of the same run; without a mask, of the same positions."""
        masks = (
            old if new is None else new for old, new in ((self.attention_mask, mask), (self.source_mask, source_mask))
        )
        twin = type(self)(activations, self.model, self.edited, *masks)
        twin.made_by, twin.kind = self.made_by, self.kind
        return twin

    def to(self, device: str | torch.device) -> "ActivationCache":
        """A cache with every tensor on `device`."""
        masks = (None if mask is None else mask.to(device) for mask in (self.attention_mask, self.source_mask))
        return self.with_values({name: value.to(device) for name, value in self.items()}, *masks)

    def slice(
        self,
        batch: int | slice | Sequence[int] | None = None,
        pos: int | slice | Sequence[int] | None = None,
    ) -> "ActivationCache":
        """A cache of some sequences and positions; axes stay, so an int leaves an axis of size 1.

        Scores and patterns are cut along their query positions. Raises `ShapeError` for an index out of range.
        """

        def cut(name: str, value: Tensor) -> Tensor:
            value = select(value, 0, batch, "batch")
            if pos is None:
                return value
            point = self.model.hook_points[name.removesuffix("_grad")]
            return value if point.of_memory else select(value, point.pos_axis, pos, "pos")

        mask, source = (None if held is None else select(held, 0, batch, "batch") for held in
                        (self.attention_mask, self.source_mask))  # fmt: skip
        mask = None if mask is None else select(mask, 1, pos, "pos")
        return self.with_values({name: cut(name, value) for name, value in self.items()}, mask, source)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all activations to one safetensors file, whole or not at all.

        Raises `CacheError` if the weights of the run are gone, so that the file could not say whose it is.
        """
        save_tensors(path, KIND, *self.to_file())

    def to_file(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors that a file holds, and what it says beside them. Raises as `save`."""
        tensors = dict(self)
        masks = {"attention_mask": self.attention_mask, "source_mask": self.source_mask}
        tensors |= {name: mask for name, mask in masks.items() if mask is not None}
        about = {"made_by": self.made_by.to_dict(), "names": list(self), "edited": self.edited, "holds": self.kind}
        return tensors, about

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: "HookedTransformer") -> "ActivationCache":
        """The cache that `save` wrote, bit for bit, on the model's device.

        Raises `CheckpointError` for a file that is no such cache, or was made by a model of another configuration.
        """
        return cls.from_file(path, *load_tensors(path, KIND, str(model.W_E.device)), model)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        tensors: Mapping[str, Tensor],
        about: Mapping[str, Any],
        model: "HookedTransformer",
    ) -> "ActivationCache":
        """What `to_file` returned, read from the file at `path`. Raises as `load`."""
        try:
            made_by, edited = Provenance.from_dict(about["made_by"]), about["edited"]
            kind: Kind = about["holds"]
            values = {name: tensors[name] for name in about["names"]}
        except (KeyError, ConfigError) as error:
            raise CheckpointError(f"{path} cannot be read as a saved ActivationCache: {error!r}") from error
        if differing := made_by.differences(model):
            raise CheckpointError(f"{path} was made by another model: {', '.join(differing)}")
        found = cls(values, model, edited, tensors.get("attention_mask"), tensors.get("source_mask"))
        found.kind = kind
        return found


def held(name: HookName, names: Sequence[str], points: Sequence[str], n_layers: int) -> str:
    """Which of the names that a cache has a name stands for; `points` are those that the model has.

    Raises `HookNotFoundError`, which tells what no point is called from what this cache lacks.
    """
    try:
        found = resolve(name, names, n_layers)
    except HookNotFoundError as error:
        try:
            known = resolve(name, points, n_layers)[0]
        except HookNotFoundError:
            raise error from None
        raise HookNotFoundError(
            f"{known!r} is a point of this model, but this cache does not hold it; name it in names_filter= "
            "(a lazy point is cached only where it is named), in a run that reaches it (stop_at_layer=)"
        ) from None
    if len(found) > 1:
        raise HookNotFoundError(f"{name!r} fits {len(found)} cached activations: {', '.join(found[:4])} ...")
    return found[0]


def select(value: Tensor, axis: int, index: int | slice | Sequence[int] | None, what: str) -> Tensor:
    """Some entries along an axis, which stays. Raises `ShapeError` out of range, or where nothing is selected.

    >>> select(torch.arange(6).reshape(2, 3), 1, -1, "pos")
    tensor([[2],
            [5]])
    """
    if index is None:
        return value
    chosen = entries(index, value.shape[axis], what)
    if chosen == list(range(chosen[0], chosen[0] + len(chosen))):
        return value.narrow(axis, chosen[0], len(chosen))
    return value.index_select(axis, torch.tensor(chosen, device=value.device))


def entries(index: int | slice | Sequence[int], size: int, what: str) -> list[int]:
    """Which of `size` entries an index stands for, counted from 0. Raises `ShapeError` as `select` does."""
    if isinstance(index, slice):
        chosen = list(range(size))[index]
    else:
        wanted = index.tolist() if isinstance(index, Tensor | np.ndarray) else index
        wanted = list(wanted) if isinstance(wanted, Sequence) else [wanted]
        for i in wanted:
            if isinstance(i, bool) or not isinstance(i, Integral) or not -size <= int(i) < size:
                raise ShapeError(f"{what} = {describe(i)}; allowed: integers from {-size} to {size - 1}, or a slice")
        chosen = [int(i) % size for i in wanted]
    if not chosen:
        raise ShapeError(f"{what} = {describe(index)} selects nothing of {size}")
    return chosen


def entries_of_part(index: int | slice | Sequence[int], first: int, n: int, what: str) -> list[int]:
    """As `entries` of the first n + `first` positions of a sequence, as far as they are among the last `n`.

    Raises `ShapeError` if none is.
    """
    here = [i - first for i in entries(index, first + n, what) if i >= first]
    if not here:
        raise ShapeError(
            f"{what} = {describe(index)} counts along the whole sequence, and this run carries positions {first} to "
            f"{first + n - 1} of it"
        )
    return here
