"""What a sweep patches at a time, which rows that makes, and how they fit into memory."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.budget import check_bytes, portions
from interp.errors import ConfigError, describe, did_you_mean
from interp.indices import chosen_indices
from interp.interventions import Index
from interp.model import HookName, HookPoint
from interp.patching.packed import MOST_POSITIONS, PackedRows
from interp.patching.pairs import PairRuns

if TYPE_CHECKING:
    from interp.model import HookedTransformer

Granularity = Literal["layer", "pos", "head", "neuron"]

PARTS = {"head": "head", "kv_head": "head", "d_mlp": "neuron"}
"""Axes of hook points that can be taken apart beside positions, and the word for one of their entries."""


@dataclass(frozen=True)
class SweepSite:
    """A site, taken apart into what is patched at a time: the *cells* of a sweep.

    Attributes:
        site: its short name.
        points: its hook points in the chosen layers.
        over: the granularity, in the caller's order.
        layers: the chosen layers.
        positions: the chosen positions, or None where all are patched together.
        parts: the chosen heads or neurons, or None.
        part_axis: what the site has of these: "head", "kv_head" or "neuron".
        n_pos: positions of the prompts.
    """

    site: str
    points: list[HookPoint]
    over: tuple[Granularity, ...]
    layers: list[int]
    positions: list[int] | None
    parts: list[int] | None
    part_axis: str | None
    n_pos: int

    @classmethod
    def of(
        cls,
        model: "HookedTransformer",
        site: str,
        over: Sequence[Granularity],
        n_pos: int,
        layers: Index = None,
        positions: Index = None,
        heads: Index = None,
        neurons: Index = None,
    ) -> "SweepSite":
        """Check what is asked. Raises `ConfigError`, or `HookNotFoundError` for an unknown site."""
        over = _granularity(over)
        chosen = chosen_indices("layers", layers, model.cfg.n_layers)
        of_first = model.resolve_hooks(cast(HookName, (site, 0)))[0].removeprefix("blocks.0.")
        points = [model.hook_points[f"blocks.{i}.{of_first}"] for i in chosen]
        axes = points[0].axes
        if not {"pos", "query_pos"} & set(axes):
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
            parts = chosen_indices(f"{part}s", heads if part == "head" else neurons, model.axis_sizes[axis])
        return cls(
            site,
            points,
            over,
            chosen,
            chosen_indices("positions", positions, n_pos) if "pos" in over else None,
            parts,
            "neuron" if axis == "d_mlp" else axis,
            n_pos,
        )

    @property
    def names(self) -> list[str]:
        """Full names of its points."""
        return [point.name for point in self.points]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of layers, positions and parts (1 where these are not separate)."""
        return len(self.layers), len(self.positions or [0]), len(self.parts or [0])

    def starts(self, point: HookPoint, base: Tensor, source: Tensor, causal: bool) -> Int[Tensor, "batch cells"]:
        """The first position that each cell of a layer changes, for each prompt; `n_pos` where it changes nothing.

        Before that position a causal model computes what it computed, so that rows carry the later ones only. Without
        causality every position may depend on a changed one: a row starts at 0, or is not run at all.
        """
        changed = (base != source).movedim(point.pos_axis, 1)  # [batch pos ...]
        if self.parts is None:
            changed = changed.flatten(2).any(-1)[:, :, None]
        else:  # heads and neurons follow the positions directly
            changed = (changed.flatten(3).any(-1) if changed.ndim > 3 else changed)[:, :, self.parts]
        pos = torch.arange(self.n_pos, device=changed.device)[None, :, None]
        starts = torch.where(changed, pos, self.n_pos)  # [batch pos part]: a changed position is where it stands
        # One cell for all positions starts where the first of them changes, a cell for each there, or not at all.
        starts = starts.amin(dim=1, keepdim=True) if self.positions is None else starts[:, self.positions]
        return (starts if causal else torch.where(starts < self.n_pos, 0, starts)).flatten(1)

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
    """

    runs: PairRuns
    site: SweepSite
    starts: Int[Tensor, "layers batch cells"]
    most_passing: int
    most_carried: int

    @classmethod
    def of(cls, runs: PairRuns, site: SweepSite, max_bytes: int) -> "SweepPlan":
        """Fit the work into the memory. Raises `ConfigError` if not even one row fits."""
        causal = runs.base.model.cfg.attention_dir == "causal"
        starts = torch.stack(
            [site.starts(p, runs.base.cache[p.name], runs.written(p.name), causal) for p in site.points]
        )
        return cls(runs, site, starts, *budget_of_rows(runs, site.n_pos, max_bytes, site.points[0].lazy))

    @property
    def names(self) -> dict[int, str]:
        """The site's full name by layer."""
        return dict(zip(self.site.layers, self.site.names, strict=True))

    def written(self, layer: int) -> Tensor:
        """The whole activation that the source has at the site of a layer."""
        return self.runs.written(self.names[layer])

    @property
    def carried(self) -> Int[Tensor, "cell"]:
        """How many positions the rows of each cell have, over all prompts; cells are numbered over all layers."""
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
        blocks = torch.tensor([self.runs.base.model.cfg.n_layers - layer for layer in self.site.layers])
        of_cells = (self.site.n_pos - self.starts).sum(dim=1) * blocks.to(self.starts.device)[:, None]
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


def budget_of_rows(runs: PairRuns, n: int, max_bytes: int, split: bool = False) -> tuple[int, int]:
    """How many positions may pass a block at once, and how many all rows together may have.

    Args:
        runs: what rows vary.
        n: positions of the longest row.
        max_bytes: the budget. Raises `ConfigError` for one that does not hold that row.
        split: whether each head has a stream of its own.

    The factors count the tensors that a block holds at its widest moment, for each position that passes it:
    """
    cfg = runs.base.model.cfg
    # Scores, what the mask leaves of them, and the pattern, over all keys; keys and values, of which a row has those
    # of all positions in one piece; queries, keys and values before and after rotation, and the mixed values.
    of_attention = 3 * cfg.n_heads * n + 2 * cfg.n_key_value_heads * cfg.d_head * n + 4 * cfg.n_heads * cfg.d_head
    # At points where each head has a stream of its own: that stream, normalised, edited, and the sum over heads.
    of_each_head = 4 * cfg.n_heads * cfg.d_model if split else 0
    # The stream before, between and after, its two normalised copies, and what is written; and the MLP's neurons
    # before and after their activation function, and gated.
    size = runs.base.final.element_size()
    passing = size * (6 * cfg.d_model + 3 * cfg.d_mlp + of_attention + of_each_head)
    # Rows that wait for the next block hold their stream; while groups are put together, there is a copy of it, and
    # the block's output.
    waiting = size * 3 * cfg.d_model
    budget = check_bytes(max_bytes, n * (passing + waiting), f"one patch of {n} positions")
    # One row must pass at once; beyond that, passing takes half of the budget at most, and the rest is for waiting.
    most_passing = max(n, min(MOST_POSITIONS, budget // 2 // passing))
    return most_passing, (budget - most_passing * passing) // waiting
