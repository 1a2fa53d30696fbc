"""Split inputs: what single heads read where hooks edit the heads' own copies of the stream (`hook_q_input`, ...).

All heads read one stream through one matrix product. Where a head's copy was edited, that head reads its copy instead;
everywhere else the shared product stands, to the last bit.
"""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from interp.config import TransformerConfig
from interp.model.hooks import HookPoint
from interp.model.norms import Norm


@dataclass(frozen=True, eq=False)
class SplitInput:
    """What each head reads of its own copy, after the norm.

    Attributes:
        own: the read itself.
        difference: `own` minus the shared read; exactly 0 where nothing was edited, and carries gradients there.
        edited: where the copy was edited.
    """

    own: Float[Tensor, "batch pos n d_model"]
    difference: Float[Tensor, "batch pos n d_model"]
    edited: Bool[Tensor, "batch pos n 1"]


@dataclass(frozen=True, eq=False)
class SplitInputs:
    """Of queries (n = head), keys and values (n = kv_head); None: nobody asked."""

    q: SplitInput | None = None
    k: SplitInput | None = None
    v: SplitInput | None = None


SHARED = SplitInputs()
"""All heads read the same."""


class SplitPoints(NamedTuple):
    """The lazy points of a block at which its heads' copies of the stream can be edited."""

    attn_in: HookPoint
    q: HookPoint
    k: HookPoint
    v: HookPoint


@dataclass(frozen=True, eq=False)
class Reading:
    """How the heads of a block come from the stream to what they read.

    Attributes:
        norm: the norm in between, or None.
        imposed_scale: what a hook put in place of that norm's scale, so that split inputs are taken at it too, or None.
        positions: what is added, after the norm, to what queries and keys read (shortformer), or None.
    """

    norm: Norm | None
    imposed_scale: Float[Tensor, "batch pos 1"] | None
    positions: Float[Tensor, "batch pos d_model"] | None

    def read(self, x: Float[Tensor, "batch pos n d_model"]) -> Float[Tensor, "batch pos n d_model"]:
        """Copies of the stream after the norm, past its hook points."""
        if self.norm is None:
            return x
        if self.imposed_scale is None:
            return self.norm.unhooked(x)
        at_scale = self.norm.at_scale(x, self.imposed_scale.unsqueeze(2))
        return at_scale if self.norm.b is None else at_scale + self.norm.b


def split_inputs(
    cfg: TransformerConfig, points: SplitPoints, x: Float[Tensor, "batch pos d_model"], reading: Reading
) -> SplitInputs:
    """Fire these points, as far as they have hooks, on the stream `x` before the norm."""
    if not any(point.hooks for point in points):
        return SHARED
    heads, kv_heads = cfg.n_heads, cfg.n_key_value_heads
    moved = None  # how edits of `hook_attn_in` move each head's copy of the stream
    if points.attn_in.hooks:
        copies = x.unsqueeze(2).expand(-1, -1, kv_heads, -1)
        edited = points.attn_in(copies)
        moved = None if edited is copies else edited - copies
    return SplitInputs(
        q=_split_input(points.q, x, heads, moved, reading, reading.positions),
        k=_split_input(points.k, x, kv_heads, moved, reading, reading.positions),
        v=_split_input(points.v, x, kv_heads, moved, reading, None),
    )


def _split_input(
    hook: HookPoint, x: Tensor, n: int, moved: Tensor | None, reading: Reading, positions: Tensor | None
) -> SplitInput | None:
    if not hook.hooks and moved is None:
        return None
    shared = x.unsqueeze(2).expand(-1, -1, n, -1)
    own = hook(shared if moved is None else shared + moved.repeat_interleave(n // moved.shape[2], dim=2))
    if own is shared:
        return None
    own_read = reading.read(own)
    difference = own_read - reading.read(shared.contiguous())
    if positions is not None:
        own_read = own_read + positions.unsqueeze(2)
    return SplitInput(own_read, difference, (own != shared).any(-1, keepdim=True))
