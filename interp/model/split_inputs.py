"""What single heads read, where hooks edit the heads' own copies of the stream (`hook_q_input` and its kin).

All heads read one stream through one matrix product. Where a head's copy was edited, that head reads its copy instead;
everywhere else the shared product stands, to the last bit.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Bool, Float
from torch import Tensor

from interp.model.hooks import HookPoint

if TYPE_CHECKING:
    from interp.model.transformer import Block


@dataclass(frozen=True, eq=False)
class PrivateRead:
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
class PrivateReads:
    """Of queries (n = head), keys and values (n = kv_head); None: nobody asked."""

    q: PrivateRead | None = None
    k: PrivateRead | None = None
    v: PrivateRead | None = None


def private_reads(
    block: "Block",
    x: Float[Tensor, "batch pos d_model"],
    imposed_scale: Float[Tensor, "batch pos 1"] | None,
    positions: Float[Tensor, "batch pos d_model"] | None,
) -> PrivateReads:
    """Fire the block's lazy read points, as far as they have hooks.

    `x` is the stream before the norm. With a scale that a hook imposed on the norm, the private reads are taken at that
    scale too. `positions` are added to what queries and keys read, after the norm (shortformer).
    """
    heads, kv_heads = block.cfg.n_heads, block.cfg.n_key_value_heads
    moved = None  # how edits of `hook_attn_in` move each head's copy of the stream
    if block.hook_attn_in.hooks:
        copies = x.unsqueeze(2).expand(-1, -1, kv_heads, -1)
        edited = block.hook_attn_in(copies)
        moved = None if edited is copies else edited - copies

    return PrivateReads(
        q=_private_read(block, block.hook_q_input, x, heads, moved, imposed_scale, positions),
        k=_private_read(block, block.hook_k_input, x, kv_heads, moved, imposed_scale, positions),
        v=_private_read(block, block.hook_v_input, x, kv_heads, moved, imposed_scale, None),
    )


def _private_read(
    block: "Block",
    hook: HookPoint,
    x: Tensor,
    n: int,
    moved: Tensor | None,
    imposed_scale: Tensor | None,
    positions: Tensor | None,
) -> PrivateRead | None:
    if not hook.hooks and moved is None:
        return None
    shared = x.unsqueeze(2).expand(-1, -1, n, -1)
    own = hook(shared if moved is None else shared + moved.repeat_interleave(n // moved.shape[2], dim=2))
    if own is shared:
        return None
    own_read = _after_norm(block, own, imposed_scale)
    difference = own_read - _after_norm(block, shared.contiguous(), imposed_scale)
    if positions is not None:
        own_read = own_read + positions.unsqueeze(2)
    return PrivateRead(own_read, difference, (own != shared).any(-1, keepdim=True))


def _after_norm(block: "Block", x: Tensor, imposed_scale: Tensor | None) -> Tensor:
    if not block.pre_norm:
        return x
    if imposed_scale is None:
        return block.ln1.unhooked(x)
    at_scale = block.ln1.at_scale(x, imposed_scale.unsqueeze(2))
    return at_scale if block.ln1.b is None else at_scale + block.ln1.b
