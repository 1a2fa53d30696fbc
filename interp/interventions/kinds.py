"""What can be done to a run, as values: frozen, hashable, combined with `+`, written to a file and read back.

An intervention says *where* and *what*. Where: a site (the short name of a hook point), and as far as given layers,
heads, positions and neurons; what is left out stands for all. What:

| value | writes |
|---|---|
| `Zero` | zero |
| `Patch` | the values of another run, prompt by prompt |
| `Mean` | the mean of other runs over prompts, for each position or over these too |
| `Resample` | the values of another run's prompts in a seeded random order |
| `Steer` | the value that is there plus a vector |
| `FreezePattern`, `FreezeNorms` | the attention patterns, the scales of the norms that another run had |

    with model.intervene(Zero(site="z", layer=3, head=1) + Steer(vector, site="resid_pre", layer=5, pos=-1)):
        logits = model(text)

The first four, without a place, are also what a sweep can write (`patching.sweep`).
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from interp.errors import (
    CacheError,
    CheckpointError,
    ConfigError,
    InterpError,
    ShapeError,
    did_you_mean,
)
from interp.files import load_tensors, save_tensors
from interp.indices import as_indices, is_index, layer_index
from interp.interventions.values import Values, values_of
from interp.model import ActivationCache, HookName, HookPair, HookPoint, layer_of, signature
from interp.precision import wide_mean

if TYPE_CHECKING:
    from interp.model import HookedTransformer

KIND, SCHEMA = "interp.Interventions", 1
"""Of the files that `save` writes."""

Index = int | Sequence[int] | None
"""One, several (kept as a tuple), or (None) all; negative ones count from the end."""

AXES = {"head": ("head", "kv_head"), "pos": ("query_pos", "pos"), "neuron": ("d_mlp",)}
"""Which axes of a hook point a word of an address speaks of."""


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """Where something is written; subclasses say what.

    Attributes:
        site: short name of a hook point, such as "z", "resid_pre" or "pattern"; `("scale", "ln1")` where several parts
            of a block have one.
        layer, head, pos, neuron: where of it. In keys and values `head` counts key-value heads, in a pattern `pos` is
            the query's position.

    Raises `ConfigError` for anything that is not an index, several, or None.
    """

    site: str | tuple[str, str] | None = None
    layer: Index = None
    head: Index = None
    pos: Index = None
    neuron: Index = None

    def __post_init__(self) -> None:
        kind = type(self).__name__
        words = self.site if isinstance(self.site, tuple) else (self.site,)
        if self.site is not None and not all(isinstance(word, str) for word in words):
            raise ConfigError(f"{kind}: site = {self.site!r}; allowed: a name, or a name and its part")
        for name in ("layer", "head", "pos", "neuron"):
            value = getattr(self, name)
            if value is None:
                continue
            try:
                several = as_indices(value)
            except TypeError:
                raise ConfigError(f"{kind}: {name} = {value!r}; allowed: int, several, None") from None
            if not several:
                raise ConfigError(f"{kind}: {name} = {value!r} names nothing")
            object.__setattr__(self, name, several[0] if is_index(value) else tuple(dict.fromkeys(several)))

    def __repr__(self) -> str:
        given = [f"{f.name}={v!r}" for f in dataclasses.fields(self) if (v := getattr(self, f.name)) != f.default]
        return f"{type(self).__name__}({', '.join(given)})"

    def __add__(self, other: "Intervention | Interventions") -> "Interventions":
        return Interventions((self,)) + other

    def value(self, name: str, activation: Tensor, axes: tuple[str, ...]) -> Tensor:
        """What the point `name` gets in place of `activation`, before it is cut down to the place."""
        raise TypeError(f"{type(self).__name__} writes nothing; take one of its subclasses")

    def points(self, model: "HookedTransformer") -> list[HookPoint]:
        """The hook points it writes to. Raises `HookNotFoundError` or `ConfigError`, naming the intervention."""
        if self.site is None:
            raise ConfigError(f"{self!r} has no place; say where, such as site='z', layer=0")
        n_layers = model.cfg.n_layers
        asked = range(n_layers) if self.layer is None else (self.layer,) if isinstance(self.layer, int) else self.layer
        short, *part = (self.site,) if isinstance(self.site, str) else self.site
        try:
            layers = [layer_index(i, n_layers, "layer") for i in asked]
            names = [model.resolve_hooks(cast(HookName, (short, i, *part)))[0] for i in dict.fromkeys(layers)]
        except InterpError as error:
            raise type(error)(f"{self!r}: {error}") from None
        return [model.hook_points[name] for name in names]

    def check(self, point: HookPoint, sizes: Mapping[str, int], dtype: torch.dtype) -> None:
        """Whether it can write to `point`, where the sizes of these axes are known.

        Raises `ConfigError` or `ShapeError`, naming the intervention.
        """
        for word, axes in AXES.items():
            if getattr(self, word) is not None:
                axis = next((axis for axis in axes if axis in point.axes), None)
                if axis is None:
                    raise ConfigError(f"{self!r}: {point.name} has no {word} (its axes: {' '.join(point.axes)})")
                if axis in sizes:
                    self._indices(word, sizes[axis])
        shape = [1 if axis == "1" else sizes.get(axis) for axis in point.axes]
        if None not in shape:
            self.edit(torch.empty(cast(list[int], shape), dtype=dtype, device="meta"), point)

    def _indices(self, word: str, size: int) -> list[int]:
        index = getattr(self, word)
        several = [index] if isinstance(index, int) else list(index)
        if bad := [i for i in several if not -size <= i < size]:
            raise ConfigError(f"{self!r}: {word} = {bad[0]}; allowed: {-size} to {size - 1}")
        return [i % size for i in several]

    def edit(self, activation: Tensor, hook: HookPoint) -> Tensor:
        """The hook: what is written where the address says, `activation` elsewhere."""
        written = self.value(hook.name, activation, hook.axes)
        try:
            if written.dtype != activation.dtype:
                raise RuntimeError
            written = written.to(activation.device).expand(activation.shape)
        except RuntimeError:
            raise ShapeError(
                f"{self!r}: {written.dtype} values of shape {tuple(written.shape)} do not fit {hook.name}, "
                f"{activation.dtype} {tuple(activation.shape)} ({' '.join(hook.axes)})"
            ) from None
        for word, axes in AXES.items():
            if getattr(self, word) is None:
                continue
            axis = next(i for i, axis in enumerate(hook.axes) if axis in axes)
            here = torch.zeros(activation.shape[axis], dtype=torch.bool)
            here[self._indices(word, activation.shape[axis])] = True
            here = here.view([-1 if i == axis else 1 for i in range(activation.ndim)])
            written = torch.where(here.to(activation.device), written, activation)
        return written


@dataclass(frozen=True, kw_only=True, repr=False)
class Zero(Intervention):
    """Zero ablation."""

    def value(self, name: str, activation: Tensor, axes: tuple[str, ...]) -> Tensor:
        """Zeros."""
        return torch.zeros_like(activation)


@dataclass(frozen=True, repr=False)
class Patch(Intervention):
    """Activations of another run in the place of these: prompt by prompt, or one prompt's for all.

    Attributes:
        values: an `ActivationCache`, or activations by full name. Of a cache only what the place names is kept.
    """

    values: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.values
        if isinstance(given, ActivationCache):
            given = values_of(given, None if self.site is None else [point.name for point in self.points(given.model)])
        if not isinstance(given, Mapping):
            raise ConfigError(f"{type(self).__name__} takes an ActivationCache, or activations by name, not {given!r}")
        object.__setattr__(self, "values", given if isinstance(given, Values) else Values(given))

    def check_model(self, model: "HookedTransformer") -> None:
        """Raises `CacheError` if the values are from a run of another model, or of other weights."""
        made_by = self.values.made_by
        if made_by is not None and made_by != signature(model):
            raise CacheError(f"{self!r}: its values were made by another model, or by other weights of this one")

    def value(self, name: str, activation: Tensor, axes: tuple[str, ...]) -> Tensor:
        """The other run's."""
        return self.values[name]


@dataclass(frozen=True, repr=False)
class Mean(Patch):
    """Mean ablation: the mean of other runs over their prompts, which must not be padded: padding would count.

    Attributes:
        values: as for `Patch`.
        per_position: a mean for each position (the runs have as many as these), or one over all positions.
    """

    per_position: bool = True

    def __post_init__(self) -> None:
        _refuse_padding(self)
        super().__post_init__()

    def value(self, name: str, activation: Tensor, axes: tuple[str, ...]) -> Tensor:
        """The mean."""
        over = [0] if self.per_position else [0, axes.index("query_pos" if "query_pos" in axes else "pos")]
        values = self.values[name]
        return wide_mean(values, tuple(over), keepdim=True).to(values.dtype)


@dataclass(frozen=True, repr=False)
class Resample(Patch):
    """Resample ablation: for each prompt the activations of another one, drawn at random (Chan et al. 2022).

    The other runs must not be padded: padding would be drawn.

    Attributes:
        values: as for `Patch`.
        seed: of the draw, which is the same at every site.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        _refuse_padding(self)
        if not is_index(self.seed):
            raise ConfigError(f"Resample: seed = {self.seed!r}; allowed: an integer")
        super().__post_init__()

    def value(self, name: str, activation: Tensor, axes: tuple[str, ...]) -> Tensor:
        """Other prompts' activations; where there are as many as prompts in the run, none meets its own."""
        held, n = self.values[name], len(activation)
        generator = torch.Generator().manual_seed(self.seed)
        if len(held) == n > 1:
            order = torch.randperm(n, generator=generator)
            drawn = torch.empty_like(order)
            drawn[order] = order.roll(1)  # one cycle through all prompts
        else:
            drawn = torch.randint(len(held), (n,), generator=generator)
        return held[drawn.to(held.device)]


def _refuse_padding(source: Patch) -> None:
    given = source.values
    if isinstance(given, ActivationCache) and given.attention_mask is not None:
        raise ConfigError(
            f"{type(source).__name__} takes runs of equally long prompts; in this one "
            f"{int((~given.attention_mask).any(dim=1).sum())} of {len(given.attention_mask)} are padded"
        )


@dataclass(frozen=True, repr=False)
class FreezePattern(Patch):
    """Attention patterns as another run had them."""

    site: str | tuple[str, str] | None = field(default="pattern", kw_only=True)


@dataclass(frozen=True, repr=False)
class FreezeNorms(Patch):
    """The scales of all norms as another run had them, which makes the norms linear; with `layer`, those of layers."""

    def __post_init__(self) -> None:
        if isinstance(self.values, ActivationCache):
            scales = [name for name in self.values if name.endswith("hook_scale")]
            object.__setattr__(self, "values", values_of(self.values, scales))
        super().__post_init__()

    def points(self, model: "HookedTransformer") -> list[HookPoint]:
        """The scales of the norms. Raises `ConfigError` for a model without norms."""
        asked = None if self.layer is None else (self.layer,) if isinstance(self.layer, int) else self.layer
        layers = asked and [layer_index(i, model.cfg.n_layers, f"{self!r}: layer") for i in asked]
        found = [
            point
            for name, point in model.hook_points.items()
            if name.endswith("hook_scale") and (layers is None or layer_of(name) in layers)
        ]
        if not found:
            raise ConfigError(f"{self!r}: this model has no norms there")
        return found


@dataclass(frozen=True, repr=False)
class Steer(Intervention):
    """A vector added to what is there (Turner et al. 2023).

    Attributes:
        direction: of the size of the last axis, or any shape that broadcasts to the activation.
        scale: its factor.
    """

    direction: Any
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.direction, Tensor):
            object.__setattr__(self, "direction", Values({"direction": self.direction.clone()}))
        if not isinstance(self.direction, Values):
            raise ConfigError(f"Steer: direction is a tensor, not {self.direction!r}")
        if isinstance(self.scale, str) or not hasattr(self.scale, "__float__"):
            raise ConfigError(f"Steer: scale = {self.scale!r}; allowed: a number")
        object.__setattr__(self, "scale", float(self.scale))

    def value(self, name: str, activation: Tensor, axes: tuple[str, ...]) -> Tensor:
        """`activation + scale * direction`."""
        direction = self.direction["direction"].to(activation.device)
        try:
            if direction.dtype != activation.dtype:
                raise RuntimeError
            return activation + self.scale * direction.expand(activation.shape)
        except RuntimeError:
            raise ShapeError(
                f"{self!r}: a direction of {direction.dtype} {tuple(direction.shape)} does not fit {name}, "
                f"{activation.dtype} {tuple(activation.shape)} ({' '.join(axes)})"
            ) from None


KINDS: dict[str, type[Intervention]] = {
    kind.__name__: kind for kind in (Zero, Patch, Mean, Resample, FreezePattern, FreezeNorms, Steer)
}


@dataclass(frozen=True)
class Interventions:
    """Several, acting in this order."""

    items: tuple[Intervention, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(self.items))
        for item in self.items:
            if not isinstance(item, Intervention):
                raise ConfigError(f"{item!r} is not an intervention; allowed: {', '.join(KINDS)}, or several")

    def __add__(self, other: "Intervention | Interventions") -> "Interventions":
        return Interventions(self.items + (other.items if isinstance(other, Interventions) else (other,)))

    def __iter__(self) -> Iterator[Intervention]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def hooks(self, model: "HookedTransformer") -> list[HookPair]:
        """The hooks that carry them out. What the run's own sizes decide is checked when its first tensor passes.

        Raises `HookNotFoundError`, `ConfigError` or `ShapeError`, naming the intervention.
        """
        sizes, dtype = model.axis_sizes, model.W_E.dtype
        for item in self:
            if isinstance(item, Patch):
                item.check_model(model)
        places = [(item, point) for item in self for point in item.points(model)]
        for item, point in places:
            item.check(point, sizes, dtype)

        def check_run(embedded: Tensor, hook: HookPoint) -> None:
            batch, n = embedded.shape[:2]
            known = {**sizes, "batch": batch, "pos": n, "query_pos": n}  # keys may be more: a cache may hold some
            for item, point in places:
                item.check(point, known, dtype)

        edits: list[HookPair] = [(point.name, item.edit) for item, point in places]
        return [("hook_embed", check_run), *edits] if edits else []

    # ------------------------------------------------------------------ files

    def save(self, path: str | os.PathLike[str]) -> None:
        """One safetensors file, whole or not at all: the tensors, and in its metadata the rest as JSON."""
        tensors: dict[str, Tensor] = {}
        described: list[dict[str, Any]] = []
        for number, item in enumerate(self):
            fields: dict[str, Any] = {}
            for f in dataclasses.fields(item):
                value = getattr(item, f.name)
                if isinstance(value, Values):
                    tensors |= {f"{number}/{f.name}/{name}": t for name, t in value.items()}
                    value = {"tensors": list(value), "made_by": value.made_by}
                fields[f.name] = value
            described.append({"kind": type(item).__name__, **fields})
        save_tensors(path, KIND, tensors, {"schema": SCHEMA, "interventions": described})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Interventions":
        """What `save` wrote, equal to what was saved. Raises `CheckpointError` for any other file or schema."""
        tensors, about = load_tensors(path, KIND)
        try:
            if about["schema"] != SCHEMA:
                raise CheckpointError(f"{path} has schema {about['schema']}; this version reads {SCHEMA}")
            items = [_described(number, fields, tensors) for number, fields in enumerate(about["interventions"])]
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read as saved interventions: {error!r}") from error
        return cls(tuple(items))


def _described(number: int, fields: dict[str, Any], tensors: Mapping[str, Tensor]) -> Intervention:
    """One intervention from its description and the tensors of the file."""
    read: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            held = {n: tensors[f"{number}/{name}/{n}"] for n in value["tensors"]}
            value = Values(held, value["made_by"])
        read[name] = tuple(value) if isinstance(value, list) else value
    kind = read.pop("kind")
    if kind not in KINDS:
        raise CheckpointError(f"unknown intervention {kind!r}; known: {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    return KINDS[kind](**read)
