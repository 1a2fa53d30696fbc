"""Masked runs: runs of a pair of prompts in which every edge carries one run or the other, to any degree.

The stream that a reader v reads is `z_v + sum over writers u of m_uv (e'_u - e_u)`: what the run has there, plus, for
each edge, the mask m_uv times the difference between what its writer writes in the other run, e'_u, and what it writes
in this one, e_u, which follows from all masks before it. With m = 0 everywhere this is the run as it is, with m = 1
everywhere the other run. A circuit is the run whose mask is 0 on its edges and 1 on all others.

What is written includes an MLP's bias `b_out`; biases of attention (`b_O` and those of projections) belong to no edge.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from interp.budget import check_bytes
from interp.discovery.walk import Walk
from interp.errors import ShapeError, describe
from interp.indices import chosen_indices
from interp.interventions import Index
from interp.model import EdgeGraph
from interp.patching import (
    BaseRun,
    Measurement,
    Metrics,
    PairRuns,
    PromptPair,
    Reaction,
    Settings,
    Source,
    Writes,
    check_model,
    check_reactions,
    check_writes_add_up,
    read_points,
    written_points,
)
from interp.precision import at_least_float32, wide
from interp.text import MaskedTokens

if TYPE_CHECKING:
    from interp.interventions import Intervention
    from interp.model import HookedTransformer


@dataclass(frozen=True, eq=False)
class Late:
    """Some prompts of a pair, from the first position on at which their two runs differ.

    Attributes:
        prompts: their numbers.
        start: that position.
    """

    prompts: list[int]
    start: int


class Written(NamedTuple):
    """What all writers write, in float32 at least.

    Attributes:
        other: in the other run, e'.
        difference: e' - e, the other run minus the run as it is; 0 at positions where edges carry the latter.
    """

    other: Float[Tensor, "writer batch late d_model"]
    difference: Float[Tensor, "writer batch late d_model"]


@dataclass(frozen=True, eq=False)
class EdgeRuns:
    """A pair of runs, what is measured on it, and all runs in between.

    Attributes:
        graph: writers, readers and edges. Matrices over edges are [reader, writer], in its order.
        measured: the metrics, and their values on the run as it is.
        norms: "live", or "frozen" at the scales of the run as it is.
        positions: where edges carry the other run; None for everywhere.
    """

    graph: EdgeGraph
    measured: Measurement
    norms: Reaction = "live"
    positions: list[int] | None = None
    _last: dict[tuple[int, ...], Written] = field(default_factory=dict, repr=False)

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        model: "HookedTransformer",
        corrupted: Source | None,
        clean: Source | None,
        metric: Metrics,
        settings: Settings,
        *,
        norms: Reaction = "live",
        positions: Index = None,
        ablation: "Intervention | None" = None,
        also: tuple[str, ...] = (),
        both: tuple[str, ...] = (),
    ) -> "EdgeRuns":
        """Make both runs, and measure them.

        Args:
            model, corrupted, clean, metric: as for `patching.sweep`.
            settings: of the direction ("noising" where nothing is said), the budget, and so on.
            norms, positions: as the attributes.
            ablation: what is written in place of the corrupted prompt's activations, such as `Zero()`.
            also, both: points to keep besides, of the run as it is, and of both runs.

        Raises as `patching.sweep`; `ConfigError` for norms on the stream itself, whose writes do not add up.
        """
        check_model(model)
        check_reactions({"norms": norms})
        if ablation is not None:
            corrupted = ablation
        check_writes_add_up(model)
        pair = PromptPair.of(
            model,
            cast(Source, corrupted),
            cast(Source, clean),
            settings.direction or "noising",
            settings.attention_mask,
        )
        n_pos = pair.prompts.ids.shape[1]
        where = None if positions is None else chosen_indices("positions", positions, n_pos)
        names = ["blocks.*.hook_attn_out", *also, *(read_points(model) if norms == "frozen" else [])]
        runs = pair.run([*written_points(model), *_names(model, both)], names, settings.normalize)
        return cls(EdgeGraph.of(model), Measurement.of(runs, metric, settings), norms, where)

    def only_at(self, positions: list[int] | None) -> "EdgeRuns":
        """The same runs, where edges carry the other one at these positions only, of which there may be none."""
        return self if positions is None else EdgeRuns(self.graph, self.measured, self.norms, positions)

    @property
    def runs(self) -> PairRuns:
        """The two runs."""
        return self.measured.runs

    @property
    def base(self) -> BaseRun:
        """The run as it is."""
        return self.runs.base

    @property
    def model(self) -> "HookedTransformer":
        """The model that runs."""
        return self.runs.base.model

    @property
    def n_pos(self) -> int:
        """Positions of the (padded) prompts."""
        return self.runs.base.final.shape[1]

    # ------------------------------------------------------------------ prompts and where they begin to differ

    @cached_property
    def starts(self) -> list[int]:
        """Of each prompt, the first position at which masked runs can differ; `n_pos` where the two runs are the same.

        Without causality every position may depend on one that differs.
        """
        base, source = self.runs.base, self.runs.pair.source
        causal = base.model.cfg.attention_dir == "causal"
        if isinstance(source, MaskedTokens):  # the same tokens up to there are the same run up to there
            differs = base.prompts.ids != source.ids
        else:
            names = [name for name in written_points(base.model) if "scale" not in name]
            differs = torch.stack([(base.cache[n] != self.runs.written(n)).flatten(2).any(-1) for n in names]).any(0)
        differs = differs.cumsum(dim=1) > 0 if causal else differs.any(dim=1, keepdim=True).expand_as(differs)
        if self.positions is not None:
            asked = torch.zeros(self.n_pos, dtype=torch.bool, device=differs.device)
            asked[self.positions] = True
            differs = differs & asked
        first = differs.int().argmax(dim=1) if causal else torch.zeros_like(differs[:, 0], dtype=torch.long)
        return torch.where(differs.any(dim=1), first, self.n_pos).tolist()

    def groups(self, bytes_of_position: int, bytes_of_prompt: int = 0, together: bool = False) -> Iterator[Late]:
        """The prompts whose runs differ, those with the same start together, and as many at once as the budget takes.

        Args:
            bytes_of_position: what each late position of a prompt takes.
            bytes_of_prompt: what a prompt takes beside.
            together: all prompts at once, those whose runs are the same too, from the first position on at which any
                of them differs.

        Raises `ConfigError` for a budget that is too small.
        """
        first = min(self.starts)
        if first == self.n_pos:
            return
        prompts = list(range(len(self.starts)))
        least = len(prompts) if together else 1
        needed = least * ((self.n_pos - first) * bytes_of_position + bytes_of_prompt)
        check_bytes(self.measured.settings.max_bytes, needed, f"a run of {least * (self.n_pos - first)} positions")
        if together:
            yield Late(prompts, first)
            return
        by_start: dict[int, list[int]] = {}
        for prompt, start in enumerate(self.starts):
            by_start.setdefault(start, []).append(prompt)
        for start, prompts in sorted(by_start.items()):
            if start < self.n_pos:
                of_prompt = bytes_of_position * (self.n_pos - start) + bytes_of_prompt
                most = self.measured.settings.max_bytes // of_prompt
                for i in range(0, len(prompts), most):
                    yield Late(prompts[i : i + most], start)

    def written(self, late: Late) -> "Written":
        """What all writers write in both runs, at the late positions of some prompts. The last answer is kept."""
        key = (late.start, *late.prompts)
        if (found := self._last.get(key)) is None:  # another thread may ask for others meanwhile
            writes = Writes(self.runs, self.norms == "frozen")
            other = at_least_float32(writes.all(self.graph, True, late.prompts, late.start))
            own = writes.all(self.graph, False, late.prompts, late.start)
            found = Written(other, self.at_positions(other - own, late))
            self._last.clear()
            self._last[key] = found
        return found

    def at_positions(self, x: Float[Tensor, "*axes late d_model"], late: Late) -> Float[Tensor, "*axes late d_model"]:
        """The same where edges carry the other run, 0 elsewhere."""
        if self.positions is None:
            return x
        kept = x.new_zeros(x.shape[-2])
        kept[[p - late.start for p in self.positions if p >= late.start]] = 1
        return x * kept[:, None]

    # ------------------------------------------------------------------ masked runs

    @torch.no_grad()
    def metrics(self, masks: Float[Tensor, "mask reader writer"]) -> Float[Tensor, "metric mask batch"]:
        """The metrics of masked runs, as many at once as the budget takes.

        A run whose mask is 0 is the run as it is, bit for bit. The work begins at the first layer whose readers have a
        mask that is not 0, so that masks of the same later readers are best asked for together.

        Raises `ShapeError` for masks of another shape, `ConfigError` for a budget that does not hold one run.
        """
        masks = self._checked(masks)
        values = self.measured.baseline[:, None].repeat(1, len(masks), 1)
        waiting = masks.flatten(1).any(dim=1).nonzero()[:, 0]
        of_run = self._bytes_of_row() * self._most_late() + self.runs.base.final.nbytes
        most = min(len(masks), max(1, self.measured.settings.max_bytes // of_run))
        for part in waiting.split(most) if len(waiting) else ():
            for i, stream in zip(part.tolist(), self.stream(masks[part]), strict=True):
                values[:, i] = self.measured.of_run(stream, self.norms)
        return values

    def stream(self, masks: Float[Tensor, "mask reader writer"]) -> Float[Tensor, "mask batch pos d_model"]:
        """The last stream of masked runs, as the final norm reads it; differentiable in the masks.

        The masks all run at once; of prompts, where no gradient is asked for, as many as the budget takes.
        """
        masks = self._checked(masks)
        base = self.runs.base.final
        if masks.requires_grad and torch.is_grad_enabled():
            final = base.expand(len(masks), *base.shape)
            for late in self.groups(1):
                rows = torch.tensor(late.prompts, device=base.device)
                moved = self._late_stream(masks, late).to(base.dtype)
                final = final.index_copy(1, rows, torch.cat([final[:, rows, : late.start], moved], dim=2))
            return final
        final = base.repeat(len(masks), 1, 1, 1)
        for late in self.groups(len(masks) * self._bytes_of_row()):
            final[:, late.prompts, late.start :] = self._late_stream(masks, late)
        return final

    def _late_stream(
        self, masks: Float[Tensor, "mask reader writer"], late: Late
    ) -> Float[Tensor, "mask batch late d_model"]:
        """The last stream of masked runs of some prompts, at late positions: what the logits read."""
        graph, walk = self.graph, Walk(self.runs.base, late.prompts, late.start, self.norms)
        first, written = self._first_layer(masks), self.written(late)
        known = graph.n_writers_of(graph.readers[self._readers_of(first).start])  # these write the same in all runs
        moved = _Moved(written.difference[:known].flatten(1), len(masks), len(graph.writers), masks.requires_grad)
        x = walk.entering(first).expand(len(masks), -1, -1, -1)

        def read(change: Tensor) -> Tensor:  # [mask reader size] to what each reads: [mask reader batch late d_model]
            return (x[:, None] + change.unflatten(2, x.shape[1:])).to(x.dtype)

        def wrote(writes: Tensor) -> None:  # [mask writer batch late d_model]
            theirs = written.other[moved.n : moved.n + writes.shape[1]]
            moved.add(self.at_positions(theirs - at_least_float32(writes), late).flatten(2))

        for layer in range(first, graph.n_layers):
            of_layer, n_before = masks[:, self._readers_of(layer)], moved.n
            change = moved.by(of_layer[:, :, :n_before])  # the layer's own heads, which its MLP reads, come later
            of_heads, of_mlp = change.split([change.shape[1] - (not graph.attn_only), int(not graph.attn_only)], dim=1)
            writes, out = walk.write_of_heads(layer, walk.attended(layer, read(of_heads)).z)
            wrote(writes)
            after = x + out
            if not graph.attn_only:
                if not graph.parallel_attn_mlp:
                    x, of_mlp = after, of_mlp + moved.by(of_layer[:, -1:, n_before : moved.n], n_before)
                mlp_out = walk.mlp(layer, read(of_mlp)[:, 0])
                wrote(mlp_out[:, None])
                after = after + mlp_out
            x = after
        return read(moved.by(masks[:, -1:]))[:, 0]

    def _readers_of(self, layer: int) -> slice:
        """The readers of a layer; of `n_layers`, the logits."""
        each = self.graph.n_heads + 2 * self.graph.n_key_value_heads + (not self.graph.attn_only)
        begin = layer * each
        return slice(begin, min(begin + each, len(self.graph.readers)))

    def _first_layer(self, masks: Float[Tensor, "mask reader writer"]) -> int:
        """The first layer whose readers have a mask that is not 0; with a gradient to come, 0."""
        if masks.requires_grad:
            return 0
        readers = masks.any(dim=2).any(dim=0).nonzero()[:, 0]
        return self.graph.readers[int(readers[0])].layer if len(readers) else self.graph.n_layers

    def _checked(self, masks: Tensor) -> Float[Tensor, "mask reader writer"]:
        wanted = (len(self.graph.readers), len(self.graph.writers))
        if not isinstance(masks, Tensor) or masks.ndim != 3 or tuple(masks.shape[1:]) != wanted:
            raise ShapeError(f"masks are [mask, reader, writer] = [any, {wanted[0]}, {wanted[1]}], not "
                             f"{describe(masks)}")  # fmt: skip
        return masks.to(self.runs.base.final.device, wide(self.runs.base.final.dtype))

    def _most_late(self) -> int:
        """The most late positions that a prompt has."""
        return self.n_pos - min(self.starts)

    def _bytes_of_row(self) -> int:
        """What one late position of one prompt takes in a masked run, while it is run."""
        cfg = self.runs.base.model.cfg
        readers = cfg.n_heads + 2 * cfg.n_key_value_heads + 1
        # The differences of all writers and those of a layer's while they are made; what each reader reads, its change
        # and both normalised; scores and patterns; keys and values of all positions; the MLP's neurons; the stream.
        width = (len(self.graph.writers) + 2 * cfg.n_heads + 4 * readers + 8) * cfg.d_model + 3 * cfg.d_mlp
        width += 3 * cfg.n_heads * self.n_pos + 2 * cfg.n_key_value_heads * cfg.d_head * self.n_pos
        return width * max(4, self.runs.base.final.element_size())


def _names(model: "HookedTransformer", globs: tuple[str, ...]) -> list[str]:
    return [name for glob in globs for name in model.resolve_hooks(glob)]


class _Moved:
    """By how much the other run's writes differ from what was written in masked runs, writer by writer.

    Writers that come before all masks write the same in every run; what they wrote is held once.
    """

    def __init__(self, known: Float[Tensor, "writer size"], n_masks: int, n_writers: int, differentiable: bool):
        self.known, self.n = known, len(known)
        self.parts: list[Tensor] | None = [] if differentiable else None
        self.own = known.new_empty(n_masks, n_writers - self.n, 0 if differentiable else known.shape[1])

    def add(self, writes: Float[Tensor, "mask writer size"]) -> None:
        """The next writers'."""
        at, self.n = self.n - len(self.known), self.n + writes.shape[1]
        if self.parts is None:
            self.own[:, at : at + writes.shape[1]] = writes
        else:  # a buffer that is written to would not let gradients through
            self.parts.append(writes)
            self.own = torch.cat(self.parts, dim=1)

    def by(self, masks: Float[Tensor, "mask reader some"], first: int = 0) -> Float[Tensor, "mask reader size"]:
        """The sum over some writers, from the `first` on, of mask times difference, for each reader."""
        n_known = len(self.known)
        if first >= n_known:
            return masks @ self.own[:, first - n_known : first - n_known + masks.shape[2]]
        of_known = masks[:, :, : n_known - first]
        change = (of_known.flatten(0, 1) @ self.known[first : first + of_known.shape[2]]).unflatten(
            0, of_known.shape[:2]
        )
        if masks.shape[2] == of_known.shape[2]:
            return change
        return torch.baddbmm(change, masks[:, :, n_known - first :], self.own[:, : masks.shape[2] + first - n_known])
