"""What a component makes of a change in what one of its readers reads, all else being as in the run as it is."""

from dataclasses import dataclass
from typing import cast

from jaxtyping import Float
from torch import Tensor

from interp.discovery.walk import Walk
from interp.model import EdgeGraph, HookedTransformer, Reader


def points_of_changes(model: HookedTransformer) -> tuple[str, ...]:
    """What the run as it is has to keep so that changes can be computed."""
    q = "hook_rot_q" if model.cfg.positional_embedding_type == "rotary" else "hook_q"
    return (f"blocks.*.attn.{q}", "blocks.*.attn.hook_pattern", "blocks.*.hook_attn_out")


@dataclass(frozen=True, eq=False)
class Changes:
    """Changed reads, component by component.

    Attributes:
        walk: the prompts and positions.
        graph: names.
    """

    walk: Walk
    graph: EdgeGraph

    def heads(self, reader: Reader) -> slice:
        """The query heads whose attention a head's reader takes part in."""
        served = [cast(int, writer.head) for writer in self.graph.writes_of(reader)]
        return slice(served[0], served[-1] + 1)

    def pattern(
        self, reader: Reader, change: Float[Tensor, "writer batch late d_model"]
    ) -> Float[Tensor, "row head late key_pos"]:
        """By how much the patterns of `heads(reader)` differ if its queries or keys read the stream plus each change.

        A row is a prompt of a change, prompts running fastest.
        """
        walk, layer, heads = self.walk, reader.layer, self.heads(reader)
        own = slice(cast(int, reader.head), cast(int, reader.head) + 1)
        new = walk.project(layer, "q" if reader.input == "q" else "k", self._reads(reader, change)[:, None], own)
        if reader.input == "q":
            kv = cast(int, reader.head) // (self.graph.n_heads // self.graph.n_key_value_heads)
            anew = walk.pattern(layer, new, walk.base.keys(layer)[walk.rows, :, kv : kv + 1])
        else:
            rotary = walk.cfg.positional_embedding_type == "rotary"
            q = walk.late(f"blocks.{layer}.attn.{'hook_rot_q' if rotary else 'hook_q'}")[:, :, heads]
            anew = walk.pattern(layer, q, walk.extended(new, walk.base.keys(layer), own))
        as_it_is = self.pattern_as_it_is(reader)
        return (anew.unflatten(0, (-1, len(walk.prompts))) - as_it_is).flatten(0, 1)

    def pattern_as_it_is(self, reader: Reader) -> Float[Tensor, "batch head late key_pos"]:
        """The patterns of `heads(reader)` in the run as it is."""
        whole = self.walk.base.cache[f"blocks.{reader.layer}.attn.hook_pattern"]
        return whole[self.walk.rows, self.heads(reader), self.walk.start :]

    def z(
        self, reader: Reader, change: Float[Tensor, "writer batch late d_model"]
    ) -> Float[Tensor, "row late head d_head"]:
        """By how much the output of `heads(reader)` differs, rows as in `pattern`: at their own pattern, if the reader
        is of values; at their own values otherwise.
        """
        walk, layer = self.walk, reader.layer
        own = slice(cast(int, reader.head), cast(int, reader.head) + 1)
        if reader.input == "v":
            new = walk.project(layer, "v", self._reads(reader, change)[:, None], own)
            moved = new.unflatten(0, (-1, len(walk.prompts))) - walk.base.values(layer)[walk.rows, walk.start :, own]
            late_keys = self.pattern_as_it_is(reader)[..., walk.start :]
            return walk.mixed(layer, late_keys, moved.flatten(0, 1))
        kv = cast(int, reader.head) // (self.graph.n_heads // self.graph.n_key_value_heads)
        kv = kv if reader.input == "q" else cast(int, reader.head)
        return walk.mixed(layer, self.pattern(reader, change), walk.base.values(layer)[walk.rows, :, kv : kv + 1])

    def mlp_out(
        self, reader: Reader, change: Float[Tensor, "writer batch late d_model"]
    ) -> Float[Tensor, "writer batch late d_model"]:
        """What an MLP writes if it reads the stream plus each change."""
        return self.walk.mlp(reader.layer, self._reads(reader, change))

    def stream_after(
        self, reader: Reader, change: Float[Tensor, "writer batch late d_model"]
    ) -> Float[Tensor, "writer batch late d_model"]:
        """The stream after the reader's layer if it alone reads the stream plus each change."""
        walk, layer = self.walk, reader.layer
        if reader.kind == "logits":
            return self._reads(reader, change)
        if reader.kind == "mlp":
            after_attention = walk.entering(layer) + walk.late(f"blocks.{layer}.hook_attn_out")
            return after_attention + self.mlp_out(reader, change)
        x = walk.entering(layer) + self._attn_out(reader, change)
        if self.graph.attn_only:
            return x
        if self.graph.parallel_attn_mlp:
            return x + walk.late(f"blocks.{layer}.hook_mlp_out")
        return x + walk.mlp(layer, x)

    def _attn_out(self, reader: Reader, change: Tensor) -> Float[Tensor, "writer batch late d_model"]:
        """What attention adds to the stream."""
        walk, layer, heads = self.walk, reader.layer, self.heads(reader)
        moved, block = self.z(reader, change), walk.model.blocks[layer]
        if block.ln1_post.kind is None:
            W_O = block.attn.W_O[heads].flatten(0, 1)
            written = (moved.flatten(2) @ W_O).unflatten(0, (-1, len(walk.prompts)))
            return walk.late(f"blocks.{layer}.hook_attn_out") + written
        z = walk.late(f"blocks.{layer}.attn.hook_z").repeat(len(change), 1, 1, 1)
        z[:, :, heads] += moved
        return walk.write_of_heads(layer, z)[1]

    def _reads(self, reader: Reader, change: Tensor) -> Float[Tensor, "writer batch late d_model"]:
        """What the reader reads: the stream as it is plus each change."""
        walk = self.walk
        x = walk.mid(reader.layer) if reader.kind == "mlp" else walk.entering(reader.layer)
        return (x + change).to(x.dtype)
