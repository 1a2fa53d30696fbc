"""What all interventions have in common: where they write, how several are combined, and their files."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from interp.errors import CheckpointError, ConfigError, InterpError, describe, did_you_mean
from interp.files import load_tensors, save_tensors
from interp.indices import as_indices, is_index, layer_index
from interp.interventions.acting import Act, span_along
from interp.interventions.named import Named
from interp.interventions.values import Values, fitted
from interp.model import HookName, HookPair, HookPoint, Span

if TYPE_CHECKING:
    from interp.model import HookedEncoderDecoder, HookedTransformer, PairCache

    AnyStacks = HookedTransformer | HookedEncoderDecoder
    """A model of one stack, or of two."""

    HasStacks = AnyStacks | PairCache
    """What knows in which stack a site is."""

KIND, SCHEMA = "interp.Interventions", 1
"""Of the files that `save` writes."""

KINDS: dict[str, type["Intervention"]] = {}
"""Every kind of intervention by its name, as files spell it."""

Index = int | Sequence[int] | None
"""One, several (kept as a tuple), or (None) all; negative ones count from the end."""

Position = Index | Literal["generated"]
"""Positions along the whole sequence, negative ones from the end of the prompt; or all that come after the prompt."""

AXES = {
    "head": ("head", "kv_head"),
    "pos": ("query_pos", "pos"),
    "key_pos": ("key_pos", "source_pos"),
    "neuron": ("d_mlp",),
}
"""For each word of an address, the axes of a hook point that it may index."""

ADDRESS = ("site", "layer", *AXES)
"""The words of an address."""


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """An edit of a run: this class says where it writes, and its subclasses say what.

    Positions are columns of the batch, padding included, and count along the whole sequence: in `generate`, and in runs
    that continue a `kv_cache`, position 9 is written to once, by the run that carries it. Negative positions count from
    the end of the prompt. `pos="generated"` stands for every position after the prompt. (The first generated token is
    predicted at the last position of the prompt, pos=-1.)

    In a model of two stacks, layers, heads, neurons and positions are those of the stack that the site is in. Keys,
    values, scores and patterns of cross-attention have positions of the source, all of which every run carries.

    Attributes:
        site: short name of a hook point, such as "z", "resid_pre" or "pattern"; `("scale", "ln1")` where several parts
            of a block have one; `("z", "encoder")` where both stacks have one.
        layer, head, pos, neuron: where of it. In keys and values `head` counts key-value heads, in a pattern `pos` is
            the query's position.
        key_pos: in scores and patterns, the position of the key; in cross-attention that of the source, of its keys and
            values too.

    Raises `ConfigError` for anything that is not an index, several, or None.
    """

    of_sequence: ClassVar[bool] = False
    """Whether the positions of its `value` are those of the whole sequence, of which a run may carry a part."""

    site: str | tuple[str, ...] | None = None
    layer: Index = None
    head: Index = None
    pos: Position = None
    neuron: Index = None
    key_pos: Position = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        KINDS[cls.__name__] = cls

    def __post_init__(self) -> None:
        kind = type(self).__name__
        words = self.site if isinstance(self.site, tuple) else (self.site,)
        if self.site is not None and not all(isinstance(word, str) for word in words):
            raise ConfigError(f"{kind}: site = {describe(self.site)}; allowed: a name, or a name and its part")
        for name in ("layer", *AXES):
            value = getattr(self, name)
            positions = name.endswith("pos")
            if value is None or (positions and isinstance(value, str) and value == "generated"):
                continue
            try:
                several = as_indices(value)
            except TypeError:
                allowed = "int, several, 'generated', None" if positions else "int, several, None"
                raise ConfigError(f"{kind}: {name} = {describe(value)}; allowed: {allowed}") from None
            if not several:
                raise ConfigError(f"{kind}: {name} = {describe(value)} names nothing")
            object.__setattr__(self, name, several[0] if is_index(value) else tuple(dict.fromkeys(several)))

    def __repr__(self) -> str:
        given = [f"{f.name}={v!r}" for f in dataclasses.fields(self) if (v := getattr(self, f.name)) != f.default]
        return f"{type(self).__name__}({', '.join(given)})"

    def __add__(self, other: "Intervention | Interventions") -> "Interventions":
        return Interventions((self,)) + other

    def value(self, activation: Tensor, hook: HookPoint) -> Tensor:
        """What the point gets in place of `activation`, before it is cut down to the place."""
        raise TypeError(f"{type(self).__name__} writes nothing; take one of its subclasses")

    def check_model(self, model: "AnyStacks") -> None:
        """Raises `CacheError` if what is written cannot be from this model."""

    def points(self, model: "HasStacks") -> list[HookPoint]:
        """The hook points it writes to. Raises `HookNotFoundError` or `ConfigError`, naming the intervention."""
        if self.site is None:
            raise ConfigError(f"{self!r} has no place; say where, such as site='z', layer=0")
        try:
            stack, (short, *part) = model.stack_of(self.site)
            n_layers = stack.cfg.n_layers
            asked = range(n_layers) if self.layer is None else as_indices(self.layer)
            layers = [layer_index(i, n_layers, "layer") for i in asked]
            names = [stack.resolve_hooks(cast(HookName, (short, i, *part)))[0] for i in dict.fromkeys(layers)]
        except InterpError as error:
            raise type(error)(f"{self!r}: {error}") from None
        return [stack.hook_points[name] for name in names]

    def hooks(self, model: "AnyStacks") -> list[HookPair]:
        """The hooks that carry it out. What a run's own sizes decide is checked before the first block of that run.

        Raises `HookNotFoundError`, `ConfigError` or `CacheError`, naming the intervention.
        """
        self.check_model(model)
        found: list[HookPair] = []
        for point in self.points(model):
            stack = model.stack_holding(point)
            self._check_address(point, stack.axis_sizes)
            name = point.key if stack is model else point.name
            found.append((name, Act(self, point, stack.axis_sizes, stack.W_E.dtype)))
        return found

    def _check_address(self, point: HookPoint, sizes: Mapping[str, int]) -> None:
        """Raise `ConfigError` for words that mean nothing at a point, or that are out of range in every run."""
        for word, axes in AXES.items():
            if (given := getattr(self, word)) is None:
                continue
            axis = next((axis for axis in axes if axis in point.axes), None)
            if axis is None:
                way = "; the positions of the source are key_pos" if word == "pos" and point.of_memory else ""
                raise ConfigError(f"{self!r}: {point.name} has no {word} (its axes: {' '.join(point.axes)}){way}")
            if axis == "source_pos" and "generated" in (given if isinstance(given, tuple) else (given,)):
                raise ConfigError(f"{self!r}: {word} = 'generated', but at {point.name} these are positions of the "
                                  "source, none of which is generated")  # fmt: skip
            if axis in sizes:
                self._indices(word, sizes[axis])

    def _indices(self, word: str, size: int) -> list[int]:
        """Heads or neurons of `size`, counted from 0."""
        index = getattr(self, word)
        several = [index] if isinstance(index, int) else list(index)
        if bad := [i for i in several if not -size <= i < size]:
            raise ConfigError(f"{self!r}: {word} = {bad[0]}; allowed: {-size} to {size - 1}")
        return [i % size for i in several]

    def numbers(self, word: str, span: Span) -> dict[int | str, list[int]]:
        """For "pos" or "key_pos": each position as it was written, and its numbers in the sequence up to now.

        Raises `ConfigError` for positions that this sequence never has, or whose number cannot be known.
        """
        written = getattr(self, word)
        found: dict[int | str, list[int]] = {}
        for one in written if isinstance(written, tuple) else (written,):
            n_prompt = span.n_prompt
            if n_prompt is None and (one == "generated" or one < 0):
                raise ConfigError(
                    f"{self!r}: this run continues a kv_cache that does not know where the prompt ends, from which "
                    f"{word} = {one!r} counts; make it with KVCache(n_layers, n_prompt=), or count from the start"
                )
            if one == "generated":
                found[one] = list(range(cast(int, n_prompt), span.n_keys))
                continue
            lowest = None if n_prompt is None else -n_prompt
            if (lowest is not None and one < lowest) or (span.n_final is not None and one >= span.n_final):
                highest = "" if span.n_final is None else f" to {span.n_final - 1}"
                raise ConfigError(f"{self!r}: {word} = {one}; allowed: {lowest or 0}{highest}")
            found[one] = [one if one >= 0 else one + cast(int, n_prompt)]
        return found

    def places(self, activation: Tensor, hook: HookPoint) -> dict[int, list[int]]:
        """Which entries along which axes of `activation` are written to; axes that are not here stand for all."""
        found: dict[int, list[int]] = {}
        for word, axes in AXES.items():
            if getattr(self, word) is None:
                continue
            axis = next(i for i, axis in enumerate(hook.axes) if axis in axes)
            size = activation.shape[axis]
            if word.endswith("pos"):
                first = hook.first_pos if word == "pos" else 0
                span = span_along(word, hook) or Span(0, size, len(activation), n_prompt=size, n_final=size)
                numbers = [number - first for several in self.numbers(word, span).values() for number in several]
                found[axis] = [number for number in numbers if 0 <= number < size]
            else:
                found[axis] = self._indices(word, size)
        return found

    def try_on(self, activation: Tensor, hook: HookPoint) -> None:
        """Raise what `edit` would raise for an activation that has a shape and a dtype, but no data."""
        self.edit(activation, hook)

    def edit(self, activation: Tensor, hook: HookPoint) -> Tensor:
        """What is written where the address says, `activation` elsewhere."""
        places = self.places(activation, hook)
        if not all(places.values()):
            return activation  # it names positions of which this run carries none
        written = fitted(self.value(activation, hook), activation, hook, self, places if self.of_sequence else None)
        for axis, here in places.items():
            chosen = torch.zeros(activation.shape[axis], dtype=torch.bool)
            chosen[here] = True
            chosen = chosen.view([-1 if i == axis else 1 for i in range(activation.ndim)])
            written = torch.where(chosen.to(activation.device), written, activation)
        return written


@dataclass(frozen=True)
class Interventions:
    """Several interventions. They act one after another, in the order of `items`."""

    items: tuple[Intervention, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(self.items))
        for item in self.items:
            if not isinstance(item, Intervention):
                raise ConfigError(f"{describe(item)} is not an intervention; allowed: {', '.join(KINDS)}, or several")

    def __add__(self, other: "Intervention | Interventions") -> "Interventions":
        return Interventions(self.items + (other.items if isinstance(other, Interventions) else (other,)))

    def __iter__(self) -> Iterator[Intervention]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def hooks(self, model: "HookedTransformer") -> list[HookPair]:
        """The hooks of all interventions, in their order. Raises what `Intervention.hooks` raises."""
        return [pair for item in self for pair in item.hooks(model)]

    # ------------------------------------------------------------------ files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all. It holds the tensors, and in its metadata the rest as JSON.

        Of functions the name is saved, and of modules a hash of their weights. Raises `ConfigError` for one that has no
        name.
        """
        tensors: dict[str, Tensor] = {}
        described: list[dict[str, Any]] = []
        for number, item in enumerate(self):
            fields: dict[str, Any] = {}
            for f in dataclasses.fields(item):
                value = getattr(item, f.name)
                if isinstance(value, Values):
                    tensors |= {f"{number}/{f.name}/{name}": t for name, t in value.items()}
                    if value.attention_mask is not None:
                        tensors[f"{number}/{f.name}"] = value.attention_mask
                    masks = {"masked": value.attention_mask is not None, "source_masked": value.source_mask is not None}
                    if value.source_mask is not None:
                        tensors[f"{number}/{f.name} of the source"] = value.source_mask
                    value = {"tensors": list(value), "made_by": value.made_by, **masks}
                elif isinstance(value, Named):
                    if value.name is None:
                        raise ConfigError(
                            f"{item!r} cannot be saved: name its {f.name}, Named({describe(value)}, 'a name')"
                        )
                    value = {"function": value.name, "weights": value.weights()}
                fields[f.name] = value
            described.append({"kind": type(item).__name__, **fields})
        save_tensors(path, KIND, tensors, {"schema": SCHEMA, "interventions": described})

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], functions: Mapping[str, Callable[..., Any]] | None = None
    ) -> "Interventions":
        """What `save` wrote, equal to what was saved.

        Args:
            path: the file.
            functions: the functions and modules that were saved, by their names. A file brings no code.

        Raises `CheckpointError` for any other file or schema, a function that is not given, or a module that has other
        weights than the one that was saved.
        """
        tensors, about = load_tensors(path, KIND)
        try:
            if about["schema"] != SCHEMA:
                raise CheckpointError(f"{path} has schema {about['schema']}; this version reads {SCHEMA}")
            items = [
                _described(number, fields, tensors, functions or {})
                for number, fields in enumerate(about["interventions"])
            ]
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read as saved interventions: {error!r}") from error
        return cls(tuple(items))


def _described(
    number: int, fields: dict[str, Any], tensors: Mapping[str, Tensor], functions: Mapping[str, Callable[..., Any]]
) -> Intervention:
    """One intervention from its description, the tensors of the file, and functions by name."""
    read: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict) and "function" in value:
            value = _found(value["function"], value["weights"], functions)
        elif isinstance(value, dict):
            held = {n: tensors[f"{number}/{name}/{n}"] for n in value["tensors"]}
            marked = {"masked": f"{number}/{name}", "source_masked": f"{number}/{name} of the source"}
            masks = [tensors[at] if value.get(said) else None for said, at in marked.items()]
            value = Values(held, value["made_by"], *masks)
        read[name] = tuple(value) if isinstance(value, list) else value
    kind = read.pop("kind")
    if kind not in KINDS:
        raise CheckpointError(f"unknown intervention {kind!r}; known: {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    return KINDS[kind](**read)


def _found(name: str, weights: str | None, functions: Mapping[str, Callable[..., Any]]) -> Named:
    if name not in functions:
        raise CheckpointError(f"the function {name!r} was saved by its name: give functions={{{name!r}: ...}}"
                              f"{did_you_mean(name, functions)}")  # fmt: skip
    found = Named(functions[name], name)
    if found.weights() != weights:
        raise CheckpointError(f"the module given as {name!r} has other weights than the one that was saved")
    return found
