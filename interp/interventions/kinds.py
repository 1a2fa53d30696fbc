"""The kinds of interventions: what each writes.

*Where* an intervention writes is said in the same way for all (`core.py`): by a site, which is the short name of a hook
point, and by layers, heads, positions and neurons. Those that are left out stand for all. *What* it writes:

| value | writes |
|---|---|
| `Zero` | zero |
| `Patch` | the values of another run, prompt by prompt |
| `Mean` | the mean of other runs over prompts, for each position or over these too, or that of a data set |
| `Resample` | the values of another run's prompts in a seeded random order |
| `Steer` | the value that is there plus a vector |
| `Apply` (`functions.py`) | what a function or a module makes of the value that is there, or of another site's |
| `FreezePattern`, `FreezeNorms` | the attention patterns, the scales of the norms that another run had |

The first four, without a place, are also what a sweep can write (`patching.sweep`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor

from interp.errors import CacheError, ConfigError, HookNotFoundError, ShapeError, describe
from interp.indices import as_indices, is_index, layer_index
from interp.interventions.core import Intervention
from interp.interventions.values import TokenMeans, Values, fitted, mean_of_tokens, values_of
from interp.model import ActivationCache, HookName, HookPoint, PairCache, Span, in_stack, layer_of, resolve, signature
from interp.precision import wide_mean

if TYPE_CHECKING:
    from interp.interventions.core import AnyStacks, HasStacks
    from interp.model import HookedTransformer


@dataclass(frozen=True, kw_only=True, repr=False)
class Zero(Intervention):
    """Zero ablation."""

    def value(self, activation: Tensor, hook: HookPoint) -> Tensor:
        """Zeros."""
        return torch.zeros_like(activation)


@dataclass(frozen=True, repr=False)
class Patch(Intervention):
    """Activations of another run in the place of these: prompt by prompt, or one prompt's for all.

    Attributes:
        values: an `ActivationCache`, or activations by full name. Of a cache only what the place names is kept.
    """

    of_sequence: ClassVar[bool] = True
    prompt_by_prompt: ClassVar[bool] = True
    """Whether each prompt gets the values of one prompt, at the same columns."""

    values: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.values
        if isinstance(given, ActivationCache | PairCache):
            names = None
            if self.site is not None and isinstance(given, PairCache):
                names = [point.name for point in self.points(given)]
            elif self.site is not None:
                names = [point.key for point in self.points(cast(ActivationCache, given).model)]
            given = values_of(given, names)
        if not isinstance(given, Mapping):
            raise ConfigError(
                f"{type(self).__name__} takes an ActivationCache, or activations by name, not {describe(given)}"
            )
        object.__setattr__(self, "values", given if isinstance(given, Values) else Values(given))

    def check_model(self, model: "AnyStacks") -> None:
        """Raises `CacheError` if the values are from a run of another model, of other weights, or of one of two stacks
        alone; `HookNotFoundError` for names that do not say which of two stacks they are in.
        """
        made_by, stacks = self.values.made_by, getattr(model, "stacks", {})
        if made_by is None:
            if stacks and (bad := [name for name in self.values if in_stack(name)[0] is None]):
                raise HookNotFoundError(f"{self!r}: {bad[0]!r} says no stack; names begin with "
                                        f"{' or '.join(repr(f'{stack}.') for stack in stacks)}")  # fmt: skip
        elif made_by != signature(model):
            if alone := [stack for stack, its in stacks.items() if made_by == signature(its)]:
                raise CacheError(
                    f"{self!r}: its values are from a run of the {alone[0]} alone; take the PairCache of a run of the "
                    f"whole model, or write into a run of model.{alone[0]}"
                )
            raise CacheError(f"{self!r}: its values were made by another model, or by other weights of this one")

    def held(self, activation: Tensor, hook: HookPoint) -> Tensor:
        """The values for a point. For an activation without data (on the meta device), values without data."""
        held = self.values[self.values.named(hook)]
        return held.to("meta") if activation.is_meta else held

    def value(self, activation: Tensor, hook: HookPoint) -> Tensor:
        """The other run's."""
        return self.held(activation, hook)

    def try_on(self, activation: Tensor, hook: HookPoint) -> None:
        """As `Intervention.try_on`. Also raises `ShapeError` if padding of the other run would replace tokens."""
        super().try_on(activation, hook)
        mask, span = self.values.mask_along(self.values.named(hook)), hook.span
        if self.prompt_by_prompt and "source_pos" in hook.axes and not hook.of_memory and span is not None:
            self._check_source(hook, span)
        if not self.prompt_by_prompt or mask is None or span is None:
            return
        columns = self.places(activation, hook).get(hook.pos_axis, range(span.n_new))
        numbers = [span.first + column for column in columns]
        real = mask[:, numbers].to("cpu")
        here = torch.ones_like(real) if span.attention_mask is None else span.attention_mask[:, numbers].cpu()
        if (bad := here & ~real).any():
            prompt, place = (int(i) for i in bad.nonzero()[0])
            raise ShapeError(
                f"{self!r}: position {numbers[place]} of prompt {prompt} is a token here and padding in the run that "
                "the values are from; pad both alike, or name positions that are tokens in both"
            )

    def _check_source(self, hook: HookPoint, span: Span) -> None:
        """Raise `ShapeError` where a pattern over the source is of sources that are padded otherwise."""
        theirs, source = self.values.source_mask, span.source
        if source is None:
            return
        ours = source.attention_mask
        one, other = (torch.ones(1, source.n_new, dtype=torch.bool) if mask is None else mask.cpu() for mask in
                      (theirs, ours))  # fmt: skip
        if one.shape[1] == other.shape[1] and (bad := one != other).any():
            prompt, place = (int(i) for i in bad.nonzero()[0])
            raise ShapeError(
                f"{self!r}: position {place} of source {prompt} is padding in one of the two runs alone, so that a "
                f"pattern over the source ({hook.name}) means other positions; pad both alike"
            )


@dataclass(frozen=True, repr=False)
class Mean(Patch):
    """Mean ablation: the mean of other runs over their prompts, or of a data set. Padding does not count.

    Attributes:
        values: as for `Patch`. Of activations by name alone it is not known what was padding: all count. Or a store of
            harvested activations (`interp.harvest.Store`), of which only the means that the place names are kept.
        per_position: a mean for each position, or one over all positions. Positions are columns of the (padded) batch,
            as everywhere: the mean at a column is over the prompts that have a token there, so that in a batch padded
            on the left positions correspond from the end. The run that is written to has as many columns. By default
            it is for each position; of a store it is over all positions, where texts have no columns in common.

    Raises `ConfigError` if no prompt has a token in some column, or for means per position of a store;
    `HookNotFoundError` for a store without the place.
    """

    prompt_by_prompt: ClassVar[bool] = False

    per_position: bool | None = None

    def __post_init__(self) -> None:
        if isinstance(given := self.values, TokenMeans):
            if self.per_position:
                raise ConfigError("Mean: a store has one mean over all positions, for its texts have no columns in "
                                  "common; leave per_position out")  # fmt: skip
            means = {name: given.mean_of(name)[None, None] for name in self._named(given)}
            object.__setattr__(self, "values", Values(means, given.signature))
            object.__setattr__(self, "per_position", False)
        elif self.per_position is None:
            object.__setattr__(self, "per_position", True)
        super().__post_init__()
        for mask in cast(Values, self.values).padded() if self.per_position else ():
            if (real := mask.any(dim=0)).all():
                continue
            first, last = (int(i) for i in real.nonzero()[[0, -1], 0])
            raise ConfigError(f"Mean: some columns are padding in every prompt, so there is no mean there; cut the "
                              f"cache, such as cache.slice(pos=slice({first}, {last + 1}))")  # fmt: skip

    def _named(self, store: TokenMeans) -> list[str]:
        """The sites of a store that the place names; all without a place."""
        if self.site is None:
            return list(store.sites)
        short, *part = (self.site,) if isinstance(self.site, str) else self.site
        layers = as_indices(range(store.n_layers) if self.layer is None else self.layer)
        names, missing = dict[str, None](), None
        for layer in layers:
            try:
                names |= dict.fromkeys(resolve(cast(HookName, (short, layer, *part)), store.sites, store.n_layers))
            except HookNotFoundError as error:
                missing = error
        if missing is not None and (self.layer is not None or not names):
            raise HookNotFoundError(f"Mean: the store does not hold that: {missing}")
        return list(names)

    def value(self, activation: Tensor, hook: HookPoint) -> Tensor:
        """The mean. Raises `ConfigError` for scores of padded prompts, which are -inf at padding."""
        values, mask = self.held(activation, hook), self.values.mask_along(self.values.named(hook))
        scores = hook.name.endswith("attn_scores")
        if scores and "source_pos" in hook.axes:
            mask = self.values.source_mask
        if mask is None:
            over = (0,) if self.per_position else (0, hook.pos_axis)
            return wide_mean(values, over, keepdim=True).to(values.dtype)
        if scores:
            raise ConfigError(f"{self!r}: scores are -inf where a key is padding, so those of padded prompts have no "
                              "mean; take the pattern, or cut the cache to columns without padding")  # fmt: skip
        return mean_of_tokens(values, mask, hook.pos_axis, not self.per_position).to(values.dtype)


@dataclass(frozen=True, repr=False)
class Resample(Patch):
    """Resample ablation: for each prompt the activations of another one, drawn at random (Chan et al. 2022).

    The other runs must not be padded: padding would be drawn.

    Attributes:
        values: as for `Patch`.
        seed: of the draw, which is the same at every site.

    >>> _, cache = model.run_with_cache([corrupted, clean])
    >>> with model.intervene(Resample(cache, site="z", layer=1, head=2)):
    ...     logits = model(clean)
    """

    seed: int = 0

    def __post_init__(self) -> None:
        if not is_index(self.seed):
            raise ConfigError(f"Resample: seed = {describe(self.seed)}; allowed: an integer")
        super().__post_init__()
        for mask in cast(Values, self.values).padded(keys=True):
            whole = mask.all(dim=0).nonzero()[:, 0].tolist()
            columns = f", or to columns that all prompts have: cache.slice(pos={whole})" if whole else ""
            raise ConfigError(
                f"Resample takes runs of equally long prompts, for it would draw padding; here "
                f"{int((~mask).any(dim=1).sum())} of {len(mask)} are padded. Cut the cache to some prompts: "
                f"cache.slice(batch={mask.all(dim=1).nonzero()[:, 0].tolist()}){columns}"
            )

    def value(self, activation: Tensor, hook: HookPoint) -> Tensor:
        """Other prompts' activations; where there are as many as prompts in the run, none meets its own."""
        held, n = self.held(activation, hook), len(activation)
        generator = torch.Generator().manual_seed(self.seed)
        if len(held) == n > 1:
            order = torch.randperm(n, generator=generator)
            drawn = torch.empty_like(order)
            drawn[order] = order.roll(1)  # one cycle through all prompts
        else:
            drawn = torch.randint(len(held), (n,), generator=generator)
        return held[drawn.to(held.device)]


@dataclass(frozen=True, repr=False)
class FreezePattern(Patch):
    """Attention patterns as another run had them."""

    site: str | tuple[str, ...] | None = field(default="pattern", kw_only=True)


@dataclass(frozen=True, repr=False)
class FreezeNorms(Patch):
    """The scales of the norms as another run had them, which makes the norms linear.

    Without `layer` these are all norms of the model; with `layer`, those of the layers that it names.
    """

    def __post_init__(self) -> None:
        if isinstance(self.values, ActivationCache | PairCache):
            scales = [name for name in self.values if name.endswith("hook_scale")]
            object.__setattr__(self, "values", values_of(self.values, scales))
        super().__post_init__()

    def points(self, model: "HasStacks") -> list[HookPoint]:
        """The scales of the norms. Raises `ConfigError` for a model without norms."""
        model = cast("HookedTransformer", model)
        if self.layer is not None and hasattr(model, "stacks"):
            raise ConfigError(f"{self!r}: layer = {self.layer} of which stack? Say Patch(cache, site=('scale', 'ln1', "
                              f"'encoder'), layer={self.layer}), or leave layer out for all norms")  # fmt: skip
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
            raise ConfigError(f"Steer: direction is a tensor, not {describe(self.direction)}")
        if isinstance(self.scale, str) or not hasattr(self.scale, "__float__"):
            raise ConfigError(f"Steer: scale = {describe(self.scale)}; allowed: a number")
        object.__setattr__(self, "scale", float(self.scale))

    def value(self, activation: Tensor, hook: HookPoint) -> Tensor:
        """`activation + scale * direction`."""
        direction = self.direction["direction"]
        return activation + self.scale * fitted(direction, activation, hook, self, self.places(activation, hook))
