"""Running only a circuit: an edit of an ordinary run, under which every edge outside the circuit carries another run.

It stands on the public hook points alone, so that it goes with caches, hooks and gradients, and is the slow reference
for `masked.py`, with which it shares no arithmetic.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp.discovery.subgraph import Subgraph, check_subgraph
from interp.errors import ConfigError, HookNotFoundError, ShapeError, describe
from interp.interventions import ADDRESS, Intervention, Mean, Patch, Resample, Zero
from interp.model import (
    ActivationCache,
    EdgeGraph,
    HookPair,
    HookPoint,
    PairCache,
    RunHook,
    SourceAndTarget,
    Span,
)
from interp.patching import EMBED, Source, check_writes_add_up, written_points
from interp.precision import at_least_float32, wide
from interp.text import AttentionMask, Ids, MaskedTokens, Text

if TYPE_CHECKING:
    from interp.model import Block, HookedTransformer


@dataclass(frozen=True, eq=False)
class OnlyCircuit:
    """An edit under which a model runs only a circuit: every other edge carries the corrupted run.

        with model.intervene(OnlyCircuit(circuit, corrupted)):
            logits, cache = model.base_run_with_cache(clean)

    A reader v reads `z_v + sum over writers u outside the circuit of (e'_u - e_u)`: what the stream has there, in which
    every write e_u is live, with what is written in the corrupted run, e'_u, in place of the writes whose edge to v is
    outside. So an empty circuit gives the corrupted run, and the whole graph the run as it is.

    `embed` is what the embeddings of tokens and positions write together, an MLP's write includes its bias `b_out`, and
    biases of attention belong to no edge. In a cache that is made under it, the points of the stream hold the sum of
    the live writes, except for the last one, which holds what the logits read. An edit of the same run that changes
    what is written has to stand before this one.

    Attributes:
        circuit: its edges carry the run that is made under the edit.
        corrupted: what all others carry: prompts, an `ActivationCache` of their run, `Zero()`, `Mean(cache)` or
            `Resample(cache)`. A corrupted run has the prompts, positions and padding of the run under the edit.
        attention_mask: of corrupted prompts, if they are padded token ids.

    Raises as the edit begins:
        ShapeError: the circuit is of models of another shape.
        ConfigError: norms on the stream itself (`norm_position="post"`), no layers, another kind of intervention, or
            one that says where; a mean or other prompts' writes where heads' writes pass a norm (Gemma), whose scale
            they do not have; prompts to run where the model has hooks already.
        HookNotFoundError: a cache lacks a point that is needed.
        CacheError: a cache is of another model, or of other weights.

    Raises as a run begins:
        ShapeError: another number of prompts or positions than the corrupted run, or other padding.
        ConfigError: a run that continues a `kv_cache`, `generate`, or a run that starts at a later layer.
    """

    circuit: Subgraph
    corrupted: Source
    attention_mask: AttentionMask | None = None

    def hooks(self, model: "HookedTransformer") -> list[HookPair]:
        """The hooks that carry it out."""
        check_subgraph("circuit", self.circuit)
        self.circuit.check_fits(model)
        outside = self.circuit.graph.edge_mask() & ~self.circuit.mask
        return masked_edges(model, outside.to(torch.float64), self.corrupted, self.attention_mask)

    def __repr__(self) -> str:
        return f"OnlyCircuit({self.circuit!r}, {describe(self.corrupted)})"


def masked_edges(
    model: "HookedTransformer",
    mask: Float[Tensor, "reader writer"],
    corrupted: Source,
    attention_mask: AttentionMask | None = None,
) -> list[HookPair]:
    """The hooks under which each edge carries the other run to a degree: 0 the run as it is, 1 the corrupted one.

    They are differentiable in the mask. Raises as `OnlyCircuit`, and `ShapeError` for a mask of another shape.
    """
    check_writes_add_up(model)
    if model.cfg.n_layers == 0:
        raise ConfigError("n_layers = 0: this model has no layer, so that nothing but the embeddings is written")
    graph = EdgeGraph.of(model)
    if tuple(mask.shape) != (len(graph.readers), len(graph.writers)):
        raise ShapeError(f"mask is {describe(mask)}; allowed: {graph}")
    run = _MaskedRun(model, mask, _source(model, corrupted, attention_mask))
    return [([name for name in model.hook_points if name in run.points], run)]


def _source(model: "HookedTransformer", given: Source, attention_mask: AttentionMask | None) -> Intervention:
    """What is written in place of the live writes. Raises as `OnlyCircuit`."""
    needed = written_points(model)
    if isinstance(given, Intervention):
        if type(given) not in (Zero, Patch, Mean, Resample):
            raise ConfigError(f"{given!r} does not say what other edges carry; allowed: Zero(), Mean(cache), "
                              "Resample(cache), a cache or prompts")  # fmt: skip
        if words := [word for word in ADDRESS if getattr(given, word) is not None]:
            raise ConfigError(f"{given!r} says {words[0]}=, but here the circuit says where: give it without a place")
        if isinstance(given, Mean | Resample) and model.cfg.norm_position == "both":
            raise ConfigError(f"{given!r}: heads' writes pass a norm here, for which it has no scale of its own; give "
                              "prompts, the cache of a run, or Zero()")  # fmt: skip
        source = given
    elif isinstance(given, ActivationCache):
        source = Patch(given)
    elif isinstance(given, PairCache | SourceAndTarget):
        raise ConfigError(f"{describe(given)} is of an encoder with a decoder, whose circuits are not run alone")
    else:
        if hooked := [point.name for point in model.hook_points.values() if point.hooks]:
            raise ConfigError(f"the model has hooks, at {hooked[0]!r} first, which would act on the corrupted run too; "
                              "make that run before, and give its cache")  # fmt: skip
        with torch.no_grad():
            prompts = model.masked_tokens(cast("Text | Ids | MaskedTokens", given), attention_mask)
            _, cache = model.base_run_with_cache(prompts, return_type=None, names_filter=needed)
        source = Patch(cache)
    source.check_model(model)
    if isinstance(source, Patch) and (missing := [name for name in needed if name not in source.values]):
        raise HookNotFoundError(f"this needs {missing[0]!r}, which the cache does not hold; widen its names_filter=")
    return source


class _MaskedRun(RunHook):
    """The one hook at all these points: it keeps the changes of what is written, and adds them to what is read.

    Attributes:
        points: where it acts.
    """

    def __init__(self, model: "HookedTransformer", mask: Float[Tensor, "reader writer"], source: Intervention):
        self.model, self.graph, self.mask, self.source = model, EdgeGraph.of(model), mask, source
        self.written = written_points(model)
        self.readers: dict[str, list[int]] = {}  # what reads at each point, by its place in the graph
        for place, reader in enumerate(self.graph.readers):
            if mask.requires_grad or bool(mask[place].any()):
                self.readers.setdefault(reader.hook_name, []).append(place)
        self.points = {*self.written, *self.readers}
        self.changes: list[Tensor] = []
        """What each writer writes in the other run minus what it writes in the run under way, in their order, up to
        where that run has come: [batch, pos, d_model]."""
        self.z: tuple[Tensor, Tensor] | None = None
        """Of the heads whose norm is still to come: in the run under way, and in the other."""

    def begin(self, span: Span) -> None:
        """Check that the other run fits this one. Raises as `OnlyCircuit`."""
        self.changes.clear()
        if span.is_part:
            raise ConfigError("a circuit alone runs on whole prompts: leave kv_cache out, and take no generate")
        if type(self.source) is Patch:
            values, here = self.source.values, (span.batch, span.n_new)
            if (there := tuple(values[EMBED].shape[:2])) != here:
                raise ShapeError(f"the corrupted run has {there} [prompts, positions] and this one {here}: they must "
                                 "correspond, one by one")  # fmt: skip
            masks = (values.attention_mask, span.attention_mask)
            real = [torch.ones(here, dtype=torch.bool) if mask is None else mask.cpu() for mask in masks]
            if not torch.equal(*real):
                raise ShapeError("the corrupted run and this one are padded differently, so positions do not "
                                 "correspond")  # fmt: skip
        sizes = self.model.axis_sizes | {"batch": span.batch, "pos": span.n_new, "1": 1}
        for point in map(self.model.hook_points.__getitem__, self.written):
            dtype = wide(self.model.W_E.dtype) if point.name.endswith("scale") else self.model.W_E.dtype
            shape = [sizes[axis] for axis in point.axes]
            self.source.try_on(torch.empty(shape, dtype=dtype, device="meta"), point)

    def __call__(self, activation: Tensor, hook: HookPoint) -> Tensor | None:
        """Keep what is written here, or change what is read here."""
        if hook.key in self.written:
            self._keep(activation, hook)
            return None
        return self._changed(activation, self.readers[hook.key])

    def _keep(self, activation: Tensor, hook: HookPoint) -> None:
        other = self.source.edit(activation, hook)
        block = self.model.blocks[hook.layer()]
        if hook.name.endswith("hook_z"):
            self.z = (activation, other)
            if block.ln1_post.kind is not None:
                return  # its scale is still to come
        if hook.name.endswith(("hook_z", "hook_scale")):
            assert self.z is not None
            scales = (None, None) if hook.name.endswith("hook_z") else (activation, other)
            own, other = (_heads(block, z, scale) for z, scale in zip(self.z, scales, strict=True))
            self.changes += (other - own).unbind(dim=2)
        else:
            self.changes.append(at_least_float32(other) - at_least_float32(activation))

    def _changed(self, activation: Tensor, places: list[int]) -> Tensor:
        """What some readers at one point read: all of a head's inputs of a kind, an MLP, or the logits."""
        reader = self.graph.readers[places[0]]
        n = self.graph.n_writers_of(reader)
        if len(self.changes) < n:
            raise ConfigError("a circuit alone runs from the embeddings on: leave start_at_layer out")
        changes = torch.stack(self.changes[:n])
        mask = self.mask[places, :n].to(changes)
        moved = einsum(mask, changes, "reader writer, writer batch pos d_model -> batch pos reader d_model")
        if reader.head is None:
            return (activation + moved[:, :, 0]).to(activation.dtype)
        heads = torch.tensor([self.graph.readers[place].head for place in places], device=activation.device)
        return activation.index_copy(2, heads, (activation[:, :, heads] + moved).to(activation.dtype))


def _heads(
    block: "Block", z: Float[Tensor, "batch pos head d_head"], scale: Float[Tensor, "batch pos 1"] | None
) -> Float[Tensor, "batch pos head d_model"]:
    """What a block's heads write; with a norm on the way, at its scale. A write of zeros is zero at any scale."""
    write = einsum(at_least_float32(z), at_least_float32(block.attn.W_O), "b p h i, h i d -> b p h d")
    if scale is None:
        return write
    return block.ln1_post.at_scale(write, torch.where(scale == 0, 1, scale)[:, :, None])
