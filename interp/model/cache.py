"""ActivationCache: what one run left at its hook points; `residual.py` takes the residual stream in it apart."""

import os
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import CheckpointError, ConfigError, HookNotFoundError, ShapeError, describe
from interp.files import load_tensors, save_tensors
from interp.model.names import HookName, resolve
from interp.model.provenance import Provenance
from interp.model.residual import ResidualStream

if TYPE_CHECKING:
    from interp.model.transformer import HookedTransformer

KIND = "interp.ActivationCache"
"""Of the files that `save` writes."""


class ActivationCache(ResidualStream, Mapping[str, Tensor]):
    """Activations by name: `cache["blocks.0.attn.hook_z"]`, `cache["z", 0]`, `cache["z", -1]`.

    Attributes:
        model: the model that ran; decompositions read its weights, and refuse if these changed since.
        made_by: which model, with which weights, ran.
        edited: whether hooks edited anything in the run.
        attention_mask: [batch, pos], true for tokens and false for padding; None where nothing was padding.
    """

    def __init__(
        self,
        activations: Mapping[str, Tensor],
        model: "HookedTransformer",
        edited: bool = False,
        attention_mask: Bool[Tensor, "batch pos"] | None = None,
    ):
        self._values = dict(activations)
        self.model, self.cfg, self.edited = model, model.cfg, edited
        self.attention_mask = None if attention_mask is None or bool(attention_mask.all()) else attention_mask
        self.made_by = Provenance.of(model)

    # ------------------------------------------------------------------ a mapping

    def __getitem__(self, name: HookName) -> Tensor:
        if isinstance(name, str) and name in self._values:
            return self._values[name]
        try:
            found = resolve(name, list(self._values), self.cfg.n_layers)
        except HookNotFoundError as error:
            try:
                known = resolve(name, list(self.model.hook_points), self.cfg.n_layers)[0]
            except HookNotFoundError:
                raise error from None
            raise HookNotFoundError(
                f"{known!r} is a point of this model, but this cache does not hold it; name it in names_filter= "
                "(a lazy point is cached only where it is named), in a run that reaches it (stop_at_layer=)"
            ) from None
        if len(found) > 1:
            raise HookNotFoundError(f"{name!r} fits {len(found)} cached activations: {', '.join(found[:4])} ...")
        return self._values[found[0]]

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
        return f"ActivationCache({len(self)} activation{'s' * (len(self) != 1)}, {size / 1e6:.3g} MB)"

    def is_current(self) -> bool:
        """Whether the model's weights are still those of the run (writes through `.data` are not seen)."""
        return self.made_by.is_of(self.model)

    def __copy__(self) -> "ActivationCache":
        """A cache of the same tensors and the same model."""
        return self._with(self._values)

    # ------------------------------------------------------------------ moving, slicing, files

    def _with(self, activations: Mapping[str, Tensor], mask: Tensor | None = None) -> "ActivationCache":
        """Other activations of the same run; without a mask, of the same positions."""
        twin = type(self)(activations, self.model, self.edited, self.attention_mask if mask is None else mask)
        twin.made_by = self.made_by
        return twin

    def to(self, device: str | torch.device) -> "ActivationCache":
        """A cache with every tensor on `device`."""
        mask = self.attention_mask
        return self._with(
            {name: value.to(device) for name, value in self.items()}, None if mask is None else mask.to(device)
        )

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
            return select(value, self.model.hook_points[name.removesuffix("_grad")].pos_axis, pos, "pos")

        mask = self.attention_mask
        if mask is not None:
            mask = select(select(mask, 0, batch, "batch"), 1, pos, "pos")
        return self._with({name: cut(name, value) for name, value in self.items()}, mask)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all activations to one safetensors file, whole or not at all.

        Raises `CacheError` if the weights of the run are gone, so that the file could not say whose it is.
        """
        tensors = dict(self)
        if self.attention_mask is not None:
            tensors["attention_mask"] = self.attention_mask
        about = {"made_by": self.made_by.to_dict(), "names": list(self), "edited": self.edited}
        save_tensors(path, KIND, tensors, about)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: "HookedTransformer") -> "ActivationCache":
        """The cache that `save` wrote, bit for bit, on the model's device.

        Raises `CheckpointError` for a file that is no such cache, or was made by a model of another configuration.
        """
        tensors, about = load_tensors(path, KIND, str(model.W_E.device))
        try:
            made_by, edited = Provenance.from_dict(about["made_by"]), about["edited"]
            values = {name: tensors[name] for name in about["names"]}
        except (KeyError, ConfigError) as error:
            raise CheckpointError(f"{path} cannot be read as a saved ActivationCache: {error!r}") from error
        if differing := made_by.differences(model):
            raise CheckpointError(f"{path} was made by another model: {', '.join(differing)}")
        return cls(values, model, edited, tensors.get("attention_mask"))


def select(value: Tensor, axis: int, index: int | slice | Sequence[int] | None, what: str) -> Tensor:
    """Some entries along an axis, which stays. Raises `ShapeError` out of range, or where nothing is selected."""
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
