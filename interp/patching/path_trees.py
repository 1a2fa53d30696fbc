"""Path patching on the full tree of paths (Goldowsky-Dill et al. 2023, section 3); see `path_sweeps.py`."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, describe
from interp.model import HookPair, layer_of
from interp.patching.nodes import Node
from interp.patching.pairs import Direction, Pair, Runs, Source
from interp.patching.path_sweeps import (
    Reaction,
    about_paths,
    check_reactions,
    final_norm_of,
    needed_points,
    read_instead,
    record,
    write_instead,
)
from interp.patching.sweeps import Metrics, as_named
from interp.results import check_confidence, labelled
from interp.text import AttentionMask

if TYPE_CHECKING:
    import xarray

    from interp.model import HookedTransformer

Tree = dict[Node, Any]
"""Below a place that reads: the components written anew there, each with the trees below its own inputs (by a node that
names the input), or None for one whose write comes from the other run."""


@torch.no_grad()
def path_tree(
    model: "HookedTransformer",
    corrupted: Source,
    clean: Source,
    metric: Metrics,
    paths: Sequence[Sequence[str]],
    *,
    norms: Reaction = "live",
    direction: Direction = "noising",
    attention_mask: AttentionMask | None = None,
    per_prompt: bool = False,
    confidence: float = 0.95,
) -> "xarray.DataArray":
    """The metric when only these paths carry the other run's activations.

    Args:
        corrupted, clean, metric: as for `patching.sweep`.
        paths: each from a sender to "logits", such as `["L0H1", "L5H2.v", "logits"]` or
            `["embed", "L0.mlp", "L3H0.q", "logits"]`. On the way heads are query heads, with an input each.
        norms: whether each component's norm is computed anew from what it reads. Norms on what is written (Gemma) keep
            their scales.
        direction, attention_mask, per_prompt, confidence: as for `path_sweep`.

    Returns:
        One value, or one for each metric and prompt as in `patching.sweep`.

    Raises as `path_sweep`; `ConfigError` for a path that cannot be, a component that is at once the start of one path
    and on the way of another into the same place, and for norms on the stream itself, where writes do not add up.
    """
    check_confidence(confidence)
    check_reactions(norms=norms)
    pair = Pair.of(model, corrupted, clean, direction, attention_mask)
    if model.cfg.normalizes_stream:
        raise ConfigError("norm_position = 'post' normalises the stream itself, so that no part of it is one path's")
    if any(isinstance(path, str) for path in paths):
        raise ConfigError(f"paths = {describe(paths)}: a list of paths is needed, each a list of names")
    tree = _tree([[Node.of(name, model, on_the_way=True) for name in path] for path in paths], model)
    metrics, names = as_named(metric)
    runs = pair.run(needed_points(model))
    readings = [runs.planned(m) for m in metrics.values()]
    final = runs.base.final + _TreeRun(runs, norms).change(tree)
    final_norm = final_norm_of(runs, norms)
    values = torch.stack([runs.whole_run(reading, final, final_norm) for reading in readings])
    written = "; ".join(" -> ".join(path) for path in paths)
    about = about_paths(runs, readings, "on paths", norms) | {"granularity": "paths", "paths": written}
    return labelled(values, [], names, per_prompt, confidence, about)


def _tree(paths: list[list[Node]], model: "HookedTransformer") -> Tree:
    """What is written anew below the logits. Raises `ConfigError` for paths that cannot be."""
    tree: Tree = {}
    if not paths:
        raise ConfigError("paths = []: at least one is needed")
    for path in paths:
        shown = " -> ".join(map(str, path))
        if len(path) < 2 or path[-1].kind != "logits" or path[0].reads or any(n.kind == "logits" for n in path[:-1]):
            raise ConfigError(f"{shown}: a path goes from a write, such as 'L0H1', to 'logits'")
        for earlier, later in itertools.pairwise(path):
            if not earlier.reaches(later, model.cfg.parallel_attn_mlp):
                raise ConfigError(f"{shown}: {later} does not read what {earlier} writes")
            if later.kind == "embed" or (later.kind == "head" and not later.reads):
                raise ConfigError(f"{shown}: {later} is on the way, so say by which input, such as {later}.v")
        place = tree
        for node in reversed(path[1:-1]):
            below = place.setdefault(Node(node.kind, node.layer, node.head), {})
            if below is None:
                raise ConfigError(f"{shown}: {node} starts another path into the same place")
            place = below.setdefault(node, {})
        if place.get(path[0], None) or (path[0] in place and place[path[0]] is not None):
            raise ConfigError(f"{shown}: {path[0]} is on the way of another path into the same place")
        place[path[0]] = None
    return tree


class _TreeRun:
    """Components computed anew along a tree of paths."""

    def __init__(self, runs: Runs, norms: Reaction):
        self.runs, self.model, self.norms, self.own = runs, runs.base.model, norms, runs.base.cache

    def change(self, tree: Tree) -> Float[Tensor, "batch pos d_model"]:
        """By how much the stream differs where a component with this tree below it reads."""
        total = torch.zeros_like(self.runs.base.final)
        for writer, below in tree.items():
            own = self._write(writer, self.own.__getitem__)
            total += (self._write(writer, self.runs.other) if below is None else self._anew(writer, below)) - own
        return total

    def _write(self, writer: Node, of: Callable[[str], Tensor]) -> Float[Tensor, "batch pos d_model"]:
        """What a component writes to the stream in one of the two runs."""
        if writer.kind != "head":
            return of("hook_embed" if writer.kind == "embed" else f"blocks.{writer.layer}.hook_mlp_out")
        scales = self.own.__getitem__ if self.norms == "frozen" else of
        return self._of_head(writer, of(f"blocks.{writer.layer}.attn.hook_z"), scales)

    def _of_head(self, writer: Node, z: Tensor, of: Callable[[str], Tensor]) -> Float[Tensor, "batch pos d_model"]:
        block, head = self.model.blocks[writer.layer], cast(int, writer.head)
        write = z[:, :, head] @ block.attn.W_O[head]
        if block.ln1_post.kind is None:
            return write
        return block.ln1_post.at_scale(write, of(f"blocks.{writer.layer}.ln1_post.hook_scale"))

    def _anew(self, writer: Node, below: Tree) -> Float[Tensor, "batch pos d_model"]:
        """What a component writes when its inputs differ by what the trees below them say."""
        layer, kept = writer.layer, {}
        hooks: list[HookPair] = []
        for reader, tree in below.items():
            change = self.change(tree)
            if writer.kind == "mlp":
                hooks.append(
                    (f"blocks.{layer}.hook_mlp_in", partial(read_instead, self.own["mlp_in", layer] + change, None))
                )
            else:
                head = cast(int, writer.head)
                shared = self.model.cfg.n_heads // self.model.cfg.n_key_value_heads
                place = head if reader.reads == "q" else head // shared
                stream = self.own["resid_pre", layer] + change
                hooks.append((f"blocks.{layer}.hook_{reader.reads}_input", partial(read_instead, stream, place)))
        if self.norms == "frozen":
            scales = [n for n in self.model.hook_points if n.endswith("hook_scale") and layer_of(n) == layer]
            hooks += [(name, partial(write_instead, self.own[name])) for name in scales]
        out = f"blocks.{layer}." + ("hook_mlp_out" if writer.kind == "mlp" else "attn.hook_z")
        hooks.append((out, partial(record, kept, out)))
        self.model.run_with_hooks(
            self.own["resid_pre", layer],
            fwd_hooks=hooks,
            start_at_layer=layer,
            stop_at_layer=layer + 1,
            attention_mask=self.runs.base.prompts.attention_mask,
        )
        return kept[out] if writer.kind == "mlp" else self._of_head(writer, kept[out], self.own.__getitem__)
