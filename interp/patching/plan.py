"""What a sweep patches at a time, which rows that makes, and how they fit into memory."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import ConfigError, describe, did_you_mean
from interp.indices import as_indices
from interp.interventions import Index
from interp.model import HookName, HookPoint
from interp.patching.packed import SLAB, Rows
from interp.patching.pairs import Runs

if TYPE_CHECKING:
    from interp.model import HookedTransformer

Granularity = Literal["layer", "pos", "head", "neuron"]

PARTS = {"head": "head", "kv_head": "head", "d_mlp": "neuron"}
"""Axes of hook points that can be taken apart beside positions, and the word for one of their entries."""


@dataclass(frozen=True)
class Place:
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
    ) -> "Place":
        """Check what is asked. Raises `ConfigError`, or `HookNotFoundError` for an unknown site."""
        over = _granularity(over)
        chosen = _chosen("layers", layers, model.cfg.n_layers)
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
            parts = _chosen(f"{part}s", heads if part == "head" else neurons, model.axis_sizes[axis])
        return cls(
            site,
            points,
            over,
            chosen,
            _chosen("positions", positions, n_pos) if "pos" in over else None,
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
        """The first position that each cell of a layer changes, for each prompt; `n_pos` where it changes nothing."""
        changed = (base != source).movedim(point.pos_axis, 1)  # [batch pos ...]
        if self.parts is None:
            changed = changed.flatten(2).any(-1)[:, :, None]
        else:  # heads and neurons follow the positions directly
            changed = (changed.flatten(3).any(-1) if changed.ndim > 3 else changed)[:, :, self.parts]
        place = torch.arange(self.n_pos, device=changed.device)[None, :, None]
        if self.positions is None:
            starts = torch.where(changed, place, self.n_pos).amin(dim=1, keepdim=True)
        else:
            starts = torch.where(changed, place, self.n_pos)[:, self.positions]
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


def _chosen(what: str, index: Index, size: int) -> list[int]:
    try:
        several = range(size) if index is None else as_indices(index)
    except TypeError:
        raise ConfigError(
            f"{what} = {describe(index)}; allowed: integers from {-size} to {size - 1}, or None"
        ) from None
    if bad := [i for i in several if not -size <= i < size]:
        raise ConfigError(f"{what} = {bad[0]}; allowed: {-size} to {size - 1}")
    found = [i % size for i in several]
    if not found or len(set(found)) < len(found):
        raise ConfigError(f"{what} = {describe(index)} names nothing, or something twice")
    return found


@dataclass(frozen=True, eq=False)
class Plan:
    """What is run, in which portions.

    Attributes:
        runs, place: as given.
        starts: for each chosen layer, the first changed position of each prompt and cell; `n_pos` for none.
        chunks: ranges of cells, numbered over all layers, that are run together.
        slab: how many positions pass a block at once.
    """

    runs: Runs
    place: Place
    starts: Int[Tensor, "layers batch cells"]
    chunks: list[range]
    slab: int

    @classmethod
    def of(cls, runs: Runs, place: Place, max_bytes: int, many: bool) -> "Plan":
        """Fit the work into the memory; with `many`, into portions of a few percent.

        Raises `ConfigError` if not even one row fits.
        """
        causal = runs.base.model.cfg.attention_dir == "causal"
        starts = torch.stack(
            [place.starts(p, runs.base.cache[p.name], runs.other(p.name), causal) for p in place.points]
        )
        slab, most = _budget(runs, place, max_bytes)
        carried = (place.n_pos - starts).sum(dim=1).flatten()  # positions of a cell's rows, over all prompts
        if many:
            most = min(most, max(int(carried.max()), math.ceil(int(carried.sum()) / 32)))
        chunks, begin, held = [], 0, 0
        for cell, n in enumerate(carried.tolist()):
            if held and held + n > most:
                chunks.append(range(begin, cell))
                begin, held = cell, 0
            held += n
        chunks.append(range(begin, len(carried)))
        return cls(runs, place, starts, chunks, slab)

    @property
    def names(self) -> dict[int, str]:
        """The site's full name by layer."""
        return dict(zip(self.place.layers, self.place.names, strict=True))

    def written(self, layer: int) -> Tensor:
        """The whole activation that the source has at the site of a layer."""
        return self.runs.other(self.names[layer])

    def work(self, done: int) -> int:
        """How many positions pass a block in all chunks but the first `done`."""
        blocks = torch.tensor([self.runs.base.model.cfg.n_layers - layer for layer in self.place.layers])
        work = (self.place.n_pos - self.starts).sum(dim=1) * blocks.to(self.starts.device)[:, None]
        return int(work.flatten()[self.chunks[done].start :].sum()) if done < len(self.chunks) else 0

    def joining(self, number: int) -> dict[int, list[Rows]]:
        """The rows of a chunk by the layer at which they join."""
        chunk, per_layer = self.chunks[number], self.starts.shape[2]
        rows: dict[int, list[Rows]] = {}
        for i, layer in enumerate(self.place.layers):
            first, last = max(chunk.start - i * per_layer, 0), min(chunk.stop - i * per_layer, per_layer)
            if first < last and (some := list(self._rows(i, first, last))):
                rows[layer] = some
        return rows

    def _rows(self, i: int, first: int, last: int) -> Iterator[Rows]:
        for prompt, starts in enumerate(self.starts[i, :, first:last]):
            for start in starts.unique().tolist():
                if start < self.place.n_pos:
                    cells = first + (starts == start).nonzero()[:, 0]
                    yield Rows(prompt, start, i * self.starts.shape[2] + cells, self.place.at(cells))


def _budget(runs: Runs, place: Place, max_bytes: int) -> tuple[int, int]:
    """How many positions may pass a block at once, and how many all rows together may have."""
    cfg, n = runs.base.model.cfg, place.n_pos
    of_attention = 3 * cfg.n_heads * n + 2 * cfg.n_key_value_heads * cfg.d_head * n + 4 * cfg.n_heads * cfg.d_head
    of_each_head = 4 * cfg.n_heads * cfg.d_model if place.points[0].lazy else 0
    size = runs.base.final.element_size()
    passing = size * (6 * cfg.d_model + 3 * cfg.d_mlp + of_attention + of_each_head)
    waiting = size * 3 * cfg.d_model
    if not isinstance(max_bytes, int):
        raise ConfigError(f"max_bytes = {describe(max_bytes)}; allowed: a whole number of bytes")
    if (needed := n * (passing + waiting)) > max_bytes:
        raise ConfigError(f"max_bytes = {max_bytes} is too small: one patch of {n} positions needs {needed}")
    slab = max(n, min(SLAB, max_bytes // 2 // passing))
    return slab, (max_bytes - slab * passing) // waiting
