"""What every component writes to the stream, in the two runs of a pair."""

from typing import TYPE_CHECKING

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError
from interp.interventions import Intervention
from interp.model import Block, EdgeGraph, Writer
from interp.patching.pairs import PairRuns
from interp.patching.prompts import check_model

if TYPE_CHECKING:
    from interp.model import HookedTransformer

EMBED = "blocks.0.hook_resid_pre"
"""What the embeddings write: those of tokens and positions together, where the stream has both."""


def check_writes_add_up(model: "HookedTransformer") -> None:
    """Raise `ConfigError` for norms on the stream itself, under which it is no sum of what components write, and for
    writes of cross-attention, which are no component's here.

    >>> check_writes_add_up(model)  # nothing to say
    """
    check_model(model)
    if model.cfg.cross_attention:
        raise ConfigError("this model attends to a memory, and cross-attention writes to the stream as well: edges and "
                          "paths are not defined for it")  # fmt: skip
    if model.cfg.normalizes_stream:
        raise ConfigError("norm_position = 'post' normalises the stream itself, so that no part of it is one "
                          "component's write: edges and paths are not defined")  # fmt: skip


def written_points(model: "HookedTransformer") -> list[str]:
    """What is needed of both runs: all that is written, and the scales of norms on the way of heads' writes.

    >>> written_points(model)[:2]
    ['blocks.0.hook_resid_pre', 'blocks.0.attn.hook_z']
    """
    ends = ("attn.hook_z", "hook_mlp_out", "ln1_post.hook_scale")
    return [EMBED, *(name for name in model.hook_points if name.endswith(ends))]


def read_points(model: "HookedTransformer") -> list[str]:
    """What is needed besides of the run that is patched: the norms' scales, and what MLPs read.

    >>> read_points(model)[:2]
    ['blocks.0.ln1.hook_scale', 'blocks.0.hook_mlp_in']
    """
    return [
        name for name in model.hook_points if name.endswith(("hook_scale", "hook_mlp_in")) and "ln_final" not in name
    ]


def heads_write(
    block: Block, z: Float[Tensor, "*axes head d_head"], scale: Float[Tensor, "*axes 1"] | None
) -> Float[Tensor, "*axes head d_model"]:
    """What each head adds to the stream: `z W_O`, through the norm on what is written, where there is one, at a scale
    that it had.

    >>> _, cache = model.run_with_cache(clean)
    >>> each = heads_write(model.blocks[0], cache["z", 0], None)
    >>> torch.allclose(each.sum(dim=-2) + model.blocks[0].attn.b_O, cache["attn_out", 0], atol=1e-5)
    True
    """
    writes = einsum(z, block.attn.W_O, "... head d_head, head d_head d_model -> ... head d_model")
    return writes if scale is None else block.ln1_post.at_scale(writes, scale[..., None, :])


class Writes:
    """What components write in the runs of a pair, over all positions.

    A norm on what heads write (Gemma) acts at the scale that it had: in the run that is patched, or in the other one.
    What is no run, such as `Zero()` or a mean, has no scale of its own, and is written at that of the run as it is.

    Args:
        runs: of the pair.
        frozen: whether norms keep the scales of the run that is patched everywhere.
    """

    def __init__(self, runs: PairRuns, frozen: bool = False):
        self.runs, self.model = runs, runs.base.model
        self.own_scales = frozen or isinstance(runs.pair.source, Intervention)

    def of(self, writer: Writer, other: bool) -> Float[Tensor, "batch pos d_model"]:
        """One component's, in the run as it is or in the other one."""
        if writer.head is None:
            return self._held(EMBED if writer.kind == "embed" else f"blocks.{writer.layer}.hook_mlp_out", other)
        return self.of_heads(writer.layer, other)[:, :, writer.head]

    def of_heads(self, layer: int, other: bool) -> Float[Tensor, "batch pos head d_model"]:
        """Those of a layer's heads."""
        z = self._held(f"blocks.{layer}.attn.hook_z", other)
        return heads_write(self.model.blocks[layer], z, self.scale(layer, other))

    def scale(self, layer: int, other: bool = False) -> Float[Tensor, "batch pos 1"] | None:
        """What the norm on the way of a layer's heads divided by, or None."""
        if self.model.blocks[layer].ln1_post.kind is None:
            return None
        return self._held(f"blocks.{layer}.ln1_post.hook_scale", other and not self.own_scales)

    def _held(self, name: str, other: bool) -> Tensor:
        return self.runs.written(name) if other else self.runs.base.cache[name]

    def all(
        self, graph: EdgeGraph, other: bool, prompts: list[int], start: int = 0
    ) -> Float[Tensor, "writer batch pos d_model"]:
        """Those of all writers in their order, of some prompts from a position on."""
        rows = torch.tensor(prompts, device=self.runs.base.final.device)

        def part(name: str) -> Tensor:
            return self._held(name, other)[rows, start:]

        found = [part(EMBED)[None]]
        for layer, block in enumerate(self.model.blocks):
            scale = self.scale(layer, other)
            z = part(f"blocks.{layer}.attn.hook_z")
            writes = heads_write(block, z, None if scale is None else scale[rows, start:])
            found.append(writes.movedim(2, 0))
            if not graph.attn_only:
                found.append(part(f"blocks.{layer}.hook_mlp_out")[None])
        return torch.cat(found)
