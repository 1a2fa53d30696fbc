"""What a component makes of a change in what one of its readers reads, all else being as in the run as it is."""

from dataclasses import dataclass
from typing import cast

from jaxtyping import Float
from torch import Tensor

from interp.discovery.walk import Walk
from interp.model import EdgeGraph, HookedTransformer, Input, Reader


def points_of_changes(model: HookedTransformer) -> tuple[str, ...]:
    """What the run as it is has to keep so that changes can be computed."""
    return (f"blocks.*.attn.{input_point(model, 'q')}", "blocks.*.attn.hook_pattern", "blocks.*.hook_attn_out")


def input_point(model: HookedTransformer, input: Input | None) -> str:
    """The point in attention at which queries and keys meet, or values are mixed."""
    rotated = model.cfg.positional_embedding_type == "rotary" and input != "v"
    return f"hook_rot_{input}" if rotated else f"hook_{input}"


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
        return self.pattern_of(reader, self._projected(reader, change))

    def pattern_of(
        self, reader: Reader, new: Float[Tensor, "row late 1 d_head"]
    ) -> Float[Tensor, "row head late key_pos"]:
        """By how much the patterns of `heads(reader)` differ with these queries (keys) of the reader."""
        walk, layer, heads = self.walk, reader.layer, self.heads(reader)
        if reader.input == "q":
            anew = walk.pattern(layer, new, walk.base.keys(layer)[walk.rows, :, self._kv_head(reader)], heads)
        else:
            q = walk.late(f"blocks.{layer}.attn.{input_point(walk.model, 'q')}")[:, :, heads]
            anew = walk.pattern(layer, q, walk.extended(new, walk.base.keys(layer), self._kv_head(reader)), heads)
        return (anew.unflatten(0, (-1, len(walk.prompts))) - self.pattern_as_it_is(reader)).flatten(0, 1)

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
        if reader.input == "v":
            return self.z_of_values(reader, self._projected(reader, change))
        values = self.walk.base.values(reader.layer)[self.walk.rows, :, self._kv_head(reader)]
        return self.walk.mixed(reader.layer, self.pattern(reader, change), values)

    def z_of_values(
        self, reader: Reader, new: Float[Tensor, "row late 1 d_head"]
    ) -> Float[Tensor, "row late head d_head"]:
        """By how much the output of `heads(reader)` differs with these values, at their own pattern."""
        walk, layer = self.walk, reader.layer
        values = walk.base.values(layer)[walk.rows, walk.start :, self._kv_head(reader)]
        moved = new.unflatten(0, (-1, len(walk.prompts))) - values
        return walk.mixed(layer, self.pattern_as_it_is(reader)[..., walk.start :], moved.flatten(0, 1))

    def _kv_head(self, reader: Reader) -> slice:
        """The key-value head that a head's reader belongs to."""
        head = cast(int, reader.head)
        head = head // (self.graph.n_heads // self.graph.n_key_value_heads) if reader.input == "q" else head
        return slice(head, head + 1)

    def _projected(
        self, reader: Reader, change: Float[Tensor, "writer batch late d_model"]
    ) -> Float[Tensor, "row late 1 d_head"]:
        """The reader's own queries, keys or values if it reads the stream plus each change."""
        head = cast(int, reader.head)
        streams = self._reads(reader, change)[:, None]
        read = self.walk.normed_for_heads(reader.layer, streams)
        return self.walk.project(reader.layer, cast(Input, reader.input), read, slice(head, head + 1))

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
