"""Values: activations of another run that are written somewhere, compared by content, with the model they are of."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.digests import digest_of
from interp.errors import HookNotFoundError, ShapeError, did_you_mean
from interp.model import ActivationCache, HookPoint, PairCache, signature
from interp.precision import HALVES, at_least_float32, autocast_devices

OF_QUERIES = ("hook_q", "hook_attn_scores", "hook_pattern", "hook_z", "hook_result")
"""The points of cross-attention whose first positions are those of the queries."""


PATTERNS_OF_SOURCE = (".cross_attn.hook_attn_scores", ".cross_attn.hook_pattern")
"""Those whose last positions are those of the source."""


class Values(Mapping[str, Tensor]):
    """Activations by full name that never change; equal and hashed by content.

    Attributes:
        made_by: the `signature` of the model whose run they are from, where that is known.
        attention_mask: which positions of that run were tokens rather than padding; None where all were, or where that
            is not known.
        source_mask: the same of the source, in a model that reads one.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        made_by: str | None = None,
        attention_mask: Bool[Tensor, "batch pos"] | None = None,
        source_mask: Bool[Tensor, "batch source_pos"] | None = None,
    ):
        self._tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        self._digest: str | None = None
        self.made_by, self.attention_mask, self.source_mask = made_by, attention_mask, source_mask

    def named(self, point: HookPoint) -> str:
        """By which name a point is known here: that within its stack, where these are of a run of the stack alone."""
        return point.name if point.name in self._tensors else point.key

    def mask_along(self, name: str) -> Bool[Tensor, "batch pos"] | None:
        """Which positions of what is held under a name were tokens: of the encoder, and of the keys and values of
        cross-attention, those of the source.
        """
        of_memory = ".cross_attn." in name and name.rsplit(".", 1)[1] not in OF_QUERIES and ".q_norm." not in name
        return self.source_mask if name.startswith("encoder.") or of_memory else self.attention_mask

    def padded(self, keys: bool = False) -> list[Bool[Tensor, "batch pos"]]:
        """The masks of what is held, as far as anything was padding; with `keys`, those of a pattern's keys too."""
        masks = [self.mask_along(name) for name in self]
        if keys and any(name.endswith(PATTERNS_OF_SOURCE) for name in self):
            masks.append(self.source_mask)
        return list({id(mask): mask for mask in masks if mask is not None}.values())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise HookNotFoundError(f"no values for {name!r}{did_you_mean(name, self._tensors)}")
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def digest(self) -> str:
        """A hash of names, shapes, dtypes and bits, and of the mask."""
        if self._digest is None:
            masks = {"attention_mask": self.attention_mask, "source_mask": self.source_mask}
            masked = {name: mask for name, mask in masks.items() if mask is not None}
            self._digest = digest_of({**self._tensors, **masked})
        return self._digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Values) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Values({', '.join(list(self)[:3])}{', ...' if len(self) > 3 else ''})"


@runtime_checkable
class TokenMeans(Protocol):
    """What knows the mean of activations over all tokens of a data set, such as a store of `interp.harvest`.

    Attributes:
        sites: the full names of the hook points whose means it knows.
        signature: of the model whose runs they are from.
        n_layers: of that model.
    """

    sites: tuple[str, ...]
    signature: str
    n_layers: int

    def mean_of(self, name: str) -> Tensor:
        """The mean at a point, in the shape that one token has there and in the dtype of the runs."""
        ...


def values_of(cache: ActivationCache | PairCache, names: Sequence[str] | None) -> Values:
    """Some of a cache's activations, or all. Raises `CacheError` for a cache older than its model's weights."""
    cache.check_weights()
    held = {name: cache[name] for name in (cache if names is None else names)}
    if isinstance(cache, PairCache):
        return Values(held, cache.signature, cache.decoder.attention_mask, cache.encoder.attention_mask)
    return Values(held, signature(cache.model), cache.attention_mask, cache.source_mask)


def fitted(
    values: Tensor,
    activation: Tensor,
    hook: HookPoint,
    whose: object,
    of_sequence: Mapping[int, list[int]] | None = None,
) -> Tensor:
    """Values in the shape of the activation that they replace: the one check that they fit.

    Axes that are missing or of size 1 stand for all. With `of_sequence`, the values are those of a whole sequence; in a
    run that carries a part of it they are cut to that part, and they must reach as far as `of_sequence` says that they
    are needed: which entries along which axes, or all of an axis that is not there.

    Under autocast the dtypes of a run differ from point to point, so there the values take that of the activation.

    Raises `ShapeError`, naming `whose` they are, for another shape or, without autocast, another dtype.
    """
    wrong = (
        f"{whose!r}: {values.dtype} values of shape {tuple(values.shape)} do not fit {hook.name}, "
        f"{activation.dtype} {tuple(activation.shape)} ({' '.join(hook.axes)})"
    )
    if values.dtype in HALVES and activation.dtype not in HALVES:
        wrong += "; values that were cached under torch.autocast fit other runs under it, or have to be converted"
    if (values.dtype != activation.dtype and not autocast_devices()) or values.ndim > activation.ndim:
        raise ShapeError(wrong)
    values = values.to(activation.dtype)
    try:
        if of_sequence is not None and hook.span is not None and hook.span.is_part:
            values = _part(values, activation, hook, whose, of_sequence.get(hook.pos_axis))
        return values.to(activation.device).expand(activation.shape)
    except RuntimeError:
        raise ShapeError(wrong) from None


def _part(values: Tensor, activation: Tensor, hook: HookPoint, whose: object, here: Sequence[int] | None) -> Tensor:
    """Values of a sequence at the positions of the run under way, as far as `here` (None: all) needs them."""
    span, n = hook.span, activation.shape[hook.pos_axis]
    axis = hook.pos_axis - activation.ndim
    assert span is not None
    if values.ndim >= -axis and (size := values.shape[axis]) != 1:
        last = span.first + max(here) if here is not None else (span.n_final or span.n_keys) - 1
        if last >= size:
            raise ShapeError(
                f"{whose!r}: its values for {hook.name} have {size} positions, and position {last} is to be written "
                f"as well; name the ones that they are for, such as pos=range({size})"
            )
        numbers = torch.arange(span.first, span.first + n, device=values.device)
        values = values.index_select(axis, numbers.clamp(max=size - 1))
    if "key_pos" in hook.axes and values.ndim and (size := values.shape[-1]) != 1:
        # Keys beyond those of the values come after every query that they are for: these are not seen anyway.
        values = values[..., : span.n_keys]
        if size < span.n_keys:
            unseen = activation[..., size:].to(values.device)
            values = torch.cat([values.expand(*activation.shape[:-1], size), unseen], dim=-1)
    return values


def mean_of_tokens(
    values: Float[Tensor, "batch ..."], mask: Bool[Tensor, "batch pos"], pos_axis: int, over_positions: bool
) -> Float[Tensor, "1 ..."]:
    """The mean over the prompts that have a token at a position, or over all tokens of all prompts; at least float32.

    The axes stay.
    """
    mask = mask.to(values.device).view([size if i in (0, pos_axis) else 1 for i, size in enumerate(values.shape)])
    over = (0, pos_axis) if over_positions else (0,)
    total = at_least_float32(values).where(mask, 0).sum(dim=over, keepdim=True)
    return total / mask.sum(dim=over, keepdim=True)
