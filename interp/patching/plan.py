"""What a sweep patches at a time, which rows that makes, and how they fit into memory."""

import enum
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.budget import check_bytes, portions
from interp.errors import ConfigError, describe, did_you_mean
from interp.indices import chosen_indices
from interp.interventions import Index
from interp.model import HookName, HookPoint, two_stacks
from interp.patching.packed import MOST_POSITIONS, BaseRun, PackedForward, SitePatches
from interp.patching.packed_rows import PackedRows
from interp.patching.pairs import PairRuns
from interp.patching.through_memory import EnteringRows, PackedThroughMemory, Passes

if TYPE_CHECKING:
    from interp.patching.prompts import AnyStacks

Granularity = Literal["layer", "pos", "head", "neuron"]
"""An axis of a sweep: what is patched one at a time."""

Site = str | tuple[str, ...]
"""The short name of a hook point; with its part and its stack, as `("z", "cross_attn")` and `("z", "encoder")`."""

PARTS = {"head": "head", "kv_head": "head", "d_mlp": "neuron"}
"""Axes of hook points that can be taken apart beside positions, and the word for one of their entries."""


def site_name(site: Site) -> str:
    """A site in one word, which names it as well: "cross_attn.z"."""
    short, *parts = (site,) if isinstance(site, str) else site
    return ".".join([*parts, short])


@dataclass(frozen=True)
class SweepSite:
    """A site, taken apart into what is patched at a time: the *cells* of a sweep.

    Attributes:
        site: its short name.
        points: its hook points in the chosen layers.
        names: what these are called in the model that was asked about.
        over: the granularity, in the caller's order.
        layers: the chosen layers.
        positions: the chosen positions, or None where all are patched together.
        parts: the chosen heads or neurons, or None.
        part_axis: what the site has of these: "head", "kv_head" or "neuron".
        n_pos: positions that a run of the stack carries.
        n_along: positions of the site; at keys and values of cross-attention those of the source.
    """

    site: str
    points: list[HookPoint]
    names: list[str]
    over: tuple[Granularity, ...]
    layers: list[int]
    positions: list[int] | None
    parts: list[int] | None
    part_axis: str | None
    n_pos: int
    n_along: int

    @classmethod
    def of(
        cls,
        model: "AnyStacks",
        site: Site,
        over: Sequence[Granularity],
        n_pos: int,
        layers: Index = None,
        positions: Index = None,
        heads: Index = None,
        neurons: Index = None,
        n_source: int | None = None,
    ) -> "SweepSite":
        """Check what is asked; of a model that reads a source, `n_source` are its positions.

        Raises `ConfigError`, or `HookNotFoundError` for an unknown site.
        """
        over = _granularity(over)
        stack, (short, *part) = model.stack_of(site)
        chosen = chosen_indices("layers", layers, stack.cfg.n_layers)
        of_first = stack.resolve_hooks(cast(HookName, (short, 0, *part)))[0].removeprefix("blocks.0.")
        points = [stack.hook_points[f"blocks.{i}.{of_first}"] for i in chosen]
        names = [point.key if two_stacks(model) is None else point.name for point in points]
        axes = points[0].axes
        if names[0].startswith("encoder."):
            n_pos = cast(int, n_source)
        n_along = cast(int, n_source) if points[0].of_memory else n_pos
        if not {"pos", "query_pos", "source_pos"} & set(axes):
            raise ConfigError(f"site = {site!r} has no positions (its axes: {' '.join(axes)})")
        axis = next((axis for axis in axes if axis in PARTS), None)
        part = PARTS[axis] if axis else None
        for word in ("head", "neuron"):
            if word in over and word != part:
                raise ConfigError(f"over = {describe(over)}: {site!r} has no {word}s (its axes: {' '.join(axes)})")
        for word, given in (("pos", positions), ("head", heads), ("neuron", neurons)):
            if given is not None and word not in over:
                raise ConfigError(
                    f"{describe(given)} chooses along {word!r}, which over = {describe(over)} does not take apart"
                )
        parts = None
        if axis is not None and part in over:
            parts = chosen_indices(f"{part}s", heads if part == "head" else neurons, stack.axis_sizes[axis])
        return cls(
            site_name(site),
            points,
            names,
            over,
            chosen,
            chosen_indices("positions", positions, n_along) if "pos" in over else None,
            parts,
            "neuron" if axis == "d_mlp" else axis,
            n_pos,
            n_along,
        )

    @property
    def of_encoder(self) -> bool:
        """Whether it is in the encoder of a model of two stacks."""
        return self.names[0].startswith("encoder.")

    @property
    def of_source(self) -> bool:
        """Whether its positions are those of the source."""
        return self.of_encoder or self.points[0].of_memory

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of layers, positions and parts (1 where these are not separate)."""
        return len(self.layers), len(self.positions or [0]), len(self.parts or [0])

    def starts(self, point: HookPoint, base: Tensor, source: Tensor, causal: bool) -> Int[Tensor, "batch cells"]:
        """The first position carried that each cell of a layer changes, for each prompt; `n_pos` where none is.

        Before that position a causal model computes what it computed, so that rows carry the later ones only. Without
        causality every position may depend on a changed one: a row starts at 0, or is not run at all.
        """
        changed = (base != source).movedim(point.pos_axis, 1)  # [batch pos ...]
        if self.parts is None:
            changed = changed.flatten(2).any(-1)[:, :, None]
        else:  # heads and neurons follow the positions directly
            changed = (changed.flatten(3).any(-1) if changed.ndim > 3 else changed)[:, :, self.parts]
        pos = torch.arange(self.n_along, device=changed.device)[None, :, None]
        starts = torch.where(changed, pos, self.n_along)  # [batch pos part]: a changed position is where it stands
        # One cell for all positions starts where the first of them changes, a cell for each there, or not at all.
        starts = starts.amin(dim=1, keepdim=True) if self.positions is None else starts[:, self.positions]
        if not causal or point.of_memory:  # every position that is carried may depend on it
            starts = torch.where(starts < self.n_along, 0, self.n_pos)
        return starts.flatten(1)

    def at(self, cells: Int[Tensor, "row"]) -> Int[Tensor, "row 2"]:
        """Position and part of cells, numbered within their layer; -1 for all."""
        n_parts = self.shape[2]
        pos = torch.tensor(self.positions or [-1], device=cells.device)[cells // n_parts]
        part = torch.tensor(self.parts or [-1], device=cells.device)[cells % n_parts]
        return torch.stack([pos, part], dim=1)


def _granularity(over: Sequence[Granularity]) -> tuple[Granularity, ...]:
    words = (over,) if isinstance(over, str) or not isinstance(over, Sequence) else tuple(over)
    allowed = ("layer", "pos", "head", "neuron")
    for word in words:
        if word not in allowed:
            raise ConfigError(
                f"over = {describe(words)}; allowed: {', '.join(allowed)}{did_you_mean(str(word), allowed)}"
            )
    if len(set(words)) < len(words) or "layer" not in words:
        raise ConfigError(
            f"over = {describe(words)}; allowed: 'layer', and at most once each 'pos', 'head' or 'neuron'"
        )
    return cast(tuple[Granularity, ...], words)


@dataclass(frozen=True, eq=False)
class SweepPlan:
    """What is run.

    Attributes:
        runs, site: as given.
        starts: for each chosen layer, the first changed position of each prompt and cell; `n_pos` for none.
        most_passing: how many positions may pass a block at once.
        most_carried: how many positions all rows together may have.
        most_decoding: of rows that pass the encoder, how many positions may pass a block of the decoder at once.
    """

    runs: PairRuns
    site: SweepSite
    starts: Int[Tensor, "layers batch cells"]
    most_passing: int
    most_carried: int
    most_decoding: int = 0

    @classmethod
    def of(cls, runs: PairRuns, site: SweepSite, max_bytes: int) -> "SweepPlan":
        """Fit the work into the memory. Raises `ConfigError` if not even one row fits."""
        base = runs.encoder if site.of_encoder else runs.base
        assert base is not None
        causal, point = base.model.cfg.attention_dir == "causal", site.points[0]
        places = zip(site.points, site.names, strict=True)
        starts = [site.starts(p, base.cache[p.key], runs.written(name), causal) for p, name in places]
        if not site.of_encoder:
            own = Own.KEYS if point.of_memory else Own.NOTHING
            passing, carried = room_for_rows(base, site.n_pos, max_bytes, point.lazy, own)
            return cls(runs, site, torch.stack(starts), passing, carried)
        n = runs.base.prompts.ids.shape[1]
        decoding, waiting = room_for_rows(runs.base, n, max_bytes, own=Own.MEMORY, shared_by=2)
        # Streams of both wait at once.
        passing, carried = room_for_rows(base, site.n_pos, max_bytes, point.lazy, shared_by=2)
        return cls(runs, site, torch.stack(starts), passing, min(carried, waiting // n * site.n_pos), decoding)

    def keys(self, layer: int) -> str:
        """The name of the site in a layer within its stack."""
        return self.site.points[self.site.layers.index(layer)].key

    def written(self, layer: int) -> Tensor:
        """The whole activation that the source has at the site of a layer."""
        return self.runs.written(self.site.names[self.site.layers.index(layer)])

    def packed(self, advance: Callable[[int], object], read: list[Int[Tensor, "read"]]) -> Passes:
        """What takes its rows through the layers; `read` as for `PackedForward`."""
        joins = SitePatches(self.keys, self.written)
        if not self.site.of_encoder:
            return PackedForward(self.runs.base, joins, advance, self.most_passing, read=read)
        assert self.runs.encoder is not None
        decoder = PackedForward(self.runs.base, EnteringRows(), advance, self.most_decoding, read=read)
        return PackedThroughMemory(PackedForward(self.runs.encoder, joins, advance, self.most_passing), decoder)

    @property
    def carried(self) -> Int[Tensor, "cell"]:
        """How many positions the rows of each cell have, over all prompts; cells are numbered over all layers."""
        if self.site.of_encoder:  # however few they are, the row has a whole memory in the end
            return (self.site.n_pos * (self.starts < self.site.n_pos)).sum(dim=1).flatten()
        return (self.site.n_pos - self.starts).sum(dim=1).flatten()

    def portions(self, done: Bool[Tensor, "cell"], many: bool) -> list[Int[Tensor, "some"]]:
        """The cells that are run together, all but those that are done and those that change nothing.

        With `many`, in portions of a few percent of all work: as often a checkpoint is written.
        """
        carried, most = self.carried, self.most_carried
        if many:  # 32 parts: an interruption loses 3 % at most, and the file is not written all the time
            most = min(most, max(int(carried.max()), math.ceil(int(carried.sum()) / 32)))
        waiting = ((carried > 0) & ~done.to(carried.device)).nonzero()[:, 0]
        return [waiting[part] for part in portions(carried[waiting].tolist(), most)]

    def work(self, cells: Int[Tensor, "some"]) -> int:
        """How many positions pass a block for these cells."""
        decoder = self.runs.base.model.cfg.n_layers
        base = self.runs.encoder if self.site.of_encoder else self.runs.base
        assert base is not None
        blocks = torch.tensor([base.model.cfg.n_layers - layer for layer in self.site.layers])
        of_cells = (self.site.n_pos - self.starts).sum(dim=1) * blocks.to(self.starts.device)[:, None]
        if self.site.of_encoder:
            n = self.runs.base.prompts.ids.shape[1]
            of_cells = of_cells + n * decoder * (self.starts < self.site.n_pos).sum(dim=1)
        return int(of_cells.flatten()[cells].sum())

    def joining(self, cells: Int[Tensor, "some"]) -> dict[int, list[PackedRows]]:
        """The rows of some cells by the layer at which they join."""
        per_layer = self.starts.shape[2]
        rows: dict[int, list[PackedRows]] = {}
        for i, layer in enumerate(self.site.layers):
            within = cells[cells // per_layer == i] % per_layer
            if some := list(self._rows(i, within)):
                rows[layer] = some
        return rows

    def _rows(self, i: int, within: Int[Tensor, "some"]) -> Iterator[PackedRows]:
        """Rows of one layer, those of a prompt that start at the same position together."""
        for prompt, starts in enumerate(self.starts[i][:, within]):
            for start in starts.unique().tolist():
                if start < self.site.n_pos:
                    chosen = within[starts == start]
                    yield PackedRows(prompt, start, i * self.starts.shape[2] + chosen, self.site.at(chosen))


class Own(enum.Enum):
    """What each row has of the memory for itself."""

    NOTHING = 0
    KEYS = 1
    MEMORY = 2


def budget_of_rows(runs: PairRuns, n: int, max_bytes: int) -> tuple[int, int]:
    """As `room_for_rows`, of rows that vary the run that is measured."""
    return room_for_rows(runs.base, n, max_bytes)


def room_for_rows(
    base: BaseRun, n: int, max_bytes: int, split: bool = False, own: Own = Own.NOTHING, shared_by: int = 1
) -> tuple[int, int]:
    """How many positions may pass a block at once, and how many all rows together may have.

    Args:
        base: what rows vary.
        n: positions of the longest row.
        max_bytes: the budget. Raises `ConfigError` for one that does not hold that row.
        split: whether each head has a stream of its own.
        own: what each row has of the memory for itself.
        shared_by: how many stacks have equal parts of the budget.

    The factors count the tensors that a block holds at its widest moment, for each position that passes it:
    """
    cfg, of_keys = base.model.cfg, 2 * base.model.cfg.n_key_value_heads * base.model.cfg.d_head
    # Scores, what the mask leaves of them, and the pattern, over all keys; keys and values, of which a row has those
    # of all positions in one piece; queries, keys and values before and after rotation, and the mixed values.
    of_attention = 3 * cfg.n_heads * n + of_keys * n + 4 * cfg.n_heads * cfg.d_head
    of_memory = 0
    if base.prompts.memory is not None:  # the same of cross-attention; and of each row what it has for itself
        n_source = base.prompts.memory.stream.shape[1]
        of_attention += 3 * cfg.n_heads * n_source + of_keys * n_source + 2 * cfg.n_heads * cfg.d_head
        of_memory = math.ceil(n_source * cfg.d_memory / n) if own is Own.MEMORY else 0
        copies = 0 if own is Own.NOTHING else 3  # as products, at their hook points, and as these leave them
        of_attention += of_memory + math.ceil(copies * of_keys * n_source / n)
    # At points where each head has a stream of its own: that stream, normalised, edited, and the sum over heads.
    of_each_head = 4 * cfg.n_heads * cfg.d_model if split else 0
    # The stream before, between and after, its two normalised copies, and what is written; and the MLP's neurons
    # before and after their activation function, and gated.
    size = base.final.element_size()
    passing = size * (6 * cfg.d_model + 3 * cfg.d_mlp + of_attention + of_each_head)
    # Rows that wait for the next block hold their stream; while groups are put together, there is a copy of it, and
    # the block's output. A memory of their own is copied as well.
    waiting = size * (3 * cfg.d_model + 2 * of_memory)
    budget = check_bytes(max_bytes, shared_by * n * (passing + waiting), f"one patch of {n} positions") // shared_by
    # One row must pass at once; beyond that, passing takes half of the budget at most, and the rest is for waiting.
    most_passing = max(n, min(MOST_POSITIONS, budget // 2 // passing))
    return most_passing, (budget - most_passing * passing) // waiting
