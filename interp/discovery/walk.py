"""A walk through the blocks in which every reader may read a stream of its own: the arithmetic behind all of discovery.

Axes, beside those of the model:

- `mask`: runs of the same prompts that differ in what their readers read; 1 where all are the same.
- `reader`: the inputs of a block's heads (all queries, then all keys, then all values), or one of these kinds alone.
- `late`: positions from the first one on that can differ between runs. Before it a causal model computes what it
  computed, so that queries meet the keys and values of the run as it is there.

It is a plain loop over the blocks' own arithmetic, past their hook points. `Rule` says how gradients flow back through
it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from interp.model import Block, Input, Norm, rotate
from interp.patching import BaseRun, Reaction, heads_write
from interp.precision import at_least_float32

INPUTS: tuple[Input, ...] = ("q", "k", "v")
READ_HEADS = "mask head batch late d_model, head d_model d_head -> mask batch late head d_head"


class Rule:
    """How gradients flow back: as they are. `interp.discovery.gradients.GradientInteractions` changes them.

    Attributes:
        detached_scales: whether none flows through the scales of norms; `norm` has to agree.
    """

    detached_scales = False

    def softmax(self, scores: Float[Tensor, "*axes key_pos"]) -> Float[Tensor, "*axes key_pos"]:
        """A softmax over keys."""
        return scores.softmax(dim=-1)

    def norm(self, norm: Norm, x: Float[Tensor, "*axes size"]) -> Float[Tensor, "*axes size"]:
        """A norm that computes its scale from what it reads."""
        return norm.unhooked(x)

    def factor(self, x: Tensor) -> Tensor:
        """One of the two factors of a product: queries and keys of a score, pattern and values of what a head mixes, or
        what both factors of gated neurons read.
        """
        return x


@dataclass(frozen=True, eq=False)
class Attended:
    """What attention makes of what its heads read.

    Attributes:
        pattern: after the softmax.
        z: values mixed by it.
    """

    pattern: Float[Tensor, "row head late key_pos"]
    z: Float[Tensor, "row late head d_head"]


class Walk:
    """The blocks, for some prompts of a run and from a position on.

    Args:
        base: the run as it is.
        prompts: which of its sequences.
        start: the first of the late positions.
        norms: "frozen" keeps the scales that norms had in the run as it is; `base` has to hold them.
        rule: how gradients flow back.
    """

    def __init__(
        self, base: BaseRun, prompts: list[int], start: int, norms: Reaction = "live", rule: Rule | None = None
    ):
        self.base, self.model, self.cfg = base, base.model, base.model.cfg
        self.prompts, self.start, self.norms = prompts, start, norms
        self.rule = rule or Rule()

    @cached_property
    def rows(self) -> Int[Tensor, "batch"]:
        """The prompts as an index."""
        return torch.tensor(self.prompts, device=self.base.final.device)

    def late(self, name: str) -> Float[Tensor, "batch late *axes"]:
        """What the run as it is has at a point from `start` on."""
        return self.base.cache[name][self.rows, self.start :]

    def entering(self, layer: int) -> Float[Tensor, "1 batch late d_model"]:
        """The stream of the run as it is before a layer, or after the last."""
        if layer == self.cfg.n_layers:
            return self.base.final[self.rows, self.start :][None]
        return self.late(f"blocks.{layer}.hook_resid_pre")[None]

    def mid(self, layer: int) -> Float[Tensor, "1 batch late d_model"]:
        """What the MLP of a layer reads in the run as it is, before its norm."""
        x = self.entering(layer)
        return x if self.cfg.parallel_attn_mlp else x + self.late(f"blocks.{layer}.hook_attn_out")[None]

    # ------------------------------------------------------------------ attention

    def normed_for_heads(
        self, layer: int, streams: Float[Tensor, "mask reader batch late d_model"]
    ) -> Float[Tensor, "mask reader batch late d_model"]:
        """Streams through the norm before a layer's attention."""
        return self._normed(f"blocks.{layer}.ln1", self.model.blocks[layer].ln1, streams)

    def project(
        self,
        layer: int,
        input: Input,
        read: Float[Tensor, "mask head batch late d_model"],
        heads: slice = slice(None),
    ) -> Float[Tensor, "row late head d_head"]:
        """Queries, keys or values as attention meets them, of some of a layer's heads, each from a stream of its own
        that has passed the norm.

        A row is a prompt of a mask, prompts running fastest.
        """
        context, attn = self.base.contexts[layer], self.model.blocks[layer].attn
        if input != "v" and context.position_reads is not None:
            read = read + self._of(context.position_reads)
        W, b = (cast(Tensor, getattr(attn, f"{kind}_{input.upper()}"))[heads] for kind in "Wb")
        out = (einsum(read, W, READ_HEADS) + b).flatten(0, 1)
        if self.cfg.use_qk_norm and input != "v":
            name = f"blocks.{layer}.attn.{input}_norm"
            out = self._normed(name, attn.q_norm if input == "q" else attn.k_norm, out, heads)
        if context.rotation is not None and input != "v":
            cos, sin = (self._of_rows(part, len(out)) for part in context.rotation)
            out = rotate(out, (cos, sin))
        return self.rule.factor(out)

    def attended(self, layer: int, streams: Float[Tensor, "mask reader batch late d_model"]) -> Attended:
        """Attention, where every reader of the layer has a stream: all queries, all keys, all values."""
        n_heads, n_kv = self.cfg.n_heads, self.cfg.n_key_value_heads
        parts = self.normed_for_heads(layer, streams).split([n_heads, n_kv, n_kv], dim=1)
        q, k, v = (self.project(layer, input, part) for input, part in zip(INPUTS, parts, strict=True))
        pattern = self.pattern(layer, q, self.extended(k, self.base.keys(layer)))
        return Attended(pattern, self.mixed(layer, pattern, self.extended(v, self.base.values(layer))))

    def pattern(
        self,
        layer: int,
        q: Float[Tensor, "row_q late head d_head"],
        k: Float[Tensor, "row_k key_pos kv_head d_head"],
        heads: slice = slice(None),
    ) -> Float[Tensor, "row head late key_pos"]:
        """The pattern of some `heads`. One of the two may have fewer rows: the prompts once, for all masks."""
        attn, n_rows = self.model.blocks[layer].attn, max(len(q), len(k))
        q, k = (self._repeated(x, n_rows) for x in (q, k))
        scores = attn.scores(q, k, self.visible(layer, n_rows), self.bias(layer, n_rows, heads))
        return self.rule.softmax(at_least_float32(scores)).to(q.dtype)

    def mixed(
        self,
        layer: int,
        pattern: Float[Tensor, "row_pattern head late n_keys"],
        v: Float[Tensor, "row_v n_keys kv_head d_head"],
    ) -> Float[Tensor, "row late head d_head"]:
        """What some heads mix. One of the two may have fewer rows, as in `pattern`."""
        n_rows = max(len(pattern), len(v))
        pattern = self.rule.factor(self._repeated(pattern, n_rows))
        return self.model.blocks[layer].attn.mix(pattern, self._repeated(v, n_rows))

    def extended(
        self,
        late: Float[Tensor, "row late n d_head"],
        whole: Float[Tensor, "prompts pos kv_head d_head"],
        heads: slice = slice(None),
    ) -> Float[Tensor, "row key_pos n d_head"]:
        """Keys (values) of late positions after those that the run as it is has before."""
        if not self.start:
            return late
        before = self._repeated(whole[self.rows, : self.start, heads], len(late))
        return torch.cat([before, late], dim=1)

    def visible(self, layer: int, n_rows: int) -> Bool[Tensor, "row_or_1 1 late key_pos"]:
        """Which keys the late queries may attend to."""
        return self._of_rows(self.base.contexts[layer].visible.transpose(1, 2), n_rows).transpose(1, 2)

    def bias(self, layer: int, n_rows: int, heads: slice) -> Float[Tensor, "row_or_1 head late key_pos"] | None:
        """What the scores of some heads get for distances, where positions are relative."""
        bias = self.base.contexts[layer].bias
        return None if bias is None else self._of_rows(bias[:, heads].transpose(1, 2), n_rows).transpose(1, 2)

    def write_of_heads(
        self, layer: int, z: Float[Tensor, "row late head d_head"]
    ) -> tuple[Float[Tensor, "mask head batch late d_model"], Float[Tensor, "mask batch late d_model"]]:
        """What each head adds to the stream, and what attention adds: their sum and biases."""
        block = self.model.blocks[layer]
        z = z.unflatten(0, (-1, len(self.prompts)))
        writes = heads_write(block, z, None)
        out = writes.sum(dim=-2) + block.attn.b_O
        if block.ln1_post.kind is not None:
            scale = self._scale(f"blocks.{layer}.ln1_post", block.ln1_post, out)
            writes = block.ln1_post.at_scale(writes, scale[..., None, :])
            out = self._normed(f"blocks.{layer}.ln1_post", block.ln1_post, out)
        return writes.movedim(-2, 1), out

    def attn_out(
        self, layer: int, z: Float[Tensor, "row late head d_head"]
    ) -> Float[Tensor, "mask batch late d_model"]:
        """What attention adds to the stream."""
        block = self.model.blocks[layer]
        out = block.attn.write(z).unflatten(0, (-1, len(self.prompts)))
        return self._normed(f"blocks.{layer}.ln1_post", block.ln1_post, out)

    # ------------------------------------------------------------------ MLPs and norms

    def mlp(self, layer: int, stream: Float[Tensor, "mask batch late d_model"]) -> Tensor:
        """What a layer's MLP adds to the stream."""
        block = self.model.blocks[layer]
        read = self._normed(f"blocks.{layer}.ln2", block.ln2, stream)
        out = self._neurons(layer, block, self.rule.factor(read) if self.cfg.gated_mlp else read)
        return self._normed(f"blocks.{layer}.ln2_post", block.ln2_post, out)

    def _neurons(self, layer: int, block: Block, read: Float[Tensor, "mask batch late d_model"]) -> Tensor:
        flat, frozen = read.flatten(0, 1), self.norms == "frozen"
        if not self.cfg.norms_neurons or not (frozen or self.rule.detached_scales):
            return block.mlp(flat).unflatten(0, read.shape[:2])
        name = f"blocks.{layer}.mlp.ln.hook_scale"
        kept = self._repeated(self.late(name), len(flat)) if frozen else None
        with self.model.hooks(fwd_hooks=[(name, lambda x, hook: x.detach() if kept is None else kept)]):
            return block.mlp(flat).unflatten(0, read.shape[:2])

    def _normed(self, name: str, norm: Norm, x: Tensor, heads: slice | None = None) -> Tensor:
        if norm.kind is None:
            return x
        if self.norms == "live":
            return self.rule.norm(norm, x)
        scale = self.late(f"{name}.hook_scale")
        if heads is not None:  # of queries and keys, whose rows are prompts of masks
            scale = self._repeated(scale[..., heads, :], len(x))
        normed = norm.at_scale(x, scale)
        return normed if norm.b is None else normed + norm.b

    def _scale(self, name: str, norm: Norm, x: Tensor) -> Tensor:
        return norm.scale(x) if self.norms == "live" else self.late(f"{name}.hook_scale")

    # ------------------------------------------------------------------ tables of all prompts

    def _of(self, table: Shaped[Tensor, "batch_or_1 pos *axes"]) -> Tensor:
        return table[self.rows if len(table) > 1 else slice(None), self.start :]

    def _of_rows(self, table: Tensor, n_rows: int) -> Tensor:
        """The same for rows; one row where all prompts agree."""
        found = self._of(table)
        return found if len(found) == 1 else self._repeated(found, n_rows)

    @staticmethod
    def _repeated(x: Tensor, n_rows: int) -> Tensor:
        """Prompts once for each mask."""
        return x if len(x) == n_rows else x.repeat(n_rows // len(x), *[1] * (x.ndim - 1))
