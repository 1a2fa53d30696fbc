"""Many patched runs at once, sharing everything that a patch cannot change: the engine behind `patching.sweep`.

All runs differ from one *base run* by one patch each. A patch at layer l and position p of a causal model changes
nothing below l and nothing before p, so that its *row* starts from the base run's stream at l and carries positions p,
p + 1, ... only; at earlier positions its queries meet the base run's keys and values. One pass through the layers takes
all rows along: at layer m those whose patch sits there join, and every weight is read once for all of them. For the
linear layers, which dominate, the positions of all rows lie in one flat list; attention alone looks at rows in groups
that share prompt and first position.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.budget import portions
from interp.model import ActivationCache, HookedTransformer, HookName, HookPoint, LayerContext, layer_of
from interp.text import MaskedTokens

MOST_POSITIONS = 4096
"""How many positions pass a block at once: enough for large products, few enough for small temporaries."""


@dataclass(frozen=True, eq=False)
class BaseRun:
    """The run that all rows are variations of.

    Attributes:
        model: which ran.
        prompts: what it ran on.
        cache: the stream before every layer and after the last, keys and values, and what a sweep names besides.
    """

    model: HookedTransformer
    prompts: MaskedTokens
    cache: ActivationCache

    @classmethod
    @torch.no_grad()
    def of(cls, model: HookedTransformer, prompts: MaskedTokens, also: Sequence[HookName]) -> "BaseRun":
        """Run the model once and keep what rows will need, and the points named in `also`."""
        names = ["blocks.*.hook_resid_pre", ("resid_post", -1), "blocks.*.attn.hook_v", *also]
        names.append(f"blocks.*.attn.{_key_point(model)}")
        _, cache = model.run_with_cache(prompts, return_type=None, names_filter=names)
        return cls(model, prompts, cache)

    @cached_property
    def contexts(self) -> list[LayerContext]:
        """What each layer needs beside the stream."""
        return self.model.layer_contexts(self.prompts)

    @property
    def final(self) -> Float[Tensor, "batch pos d_model"]:
        """The stream that the final norm reads."""
        return self.cache["resid_post", -1]

    def keys(self, layer: int) -> Float[Tensor, "batch pos kv_head d_head"]:
        """Keys as attention meets them."""
        return self.cache[f"blocks.{layer}.attn.{_key_point(self.model)}"]

    def values(self, layer: int) -> Float[Tensor, "batch pos kv_head d_head"]:
        """Values."""
        return self.cache[f"blocks.{layer}.attn.hook_v"]


def _key_point(model: HookedTransformer) -> str:
    return "hook_rot_k" if model.cfg.positional_embedding_type == "rotary" else "hook_k"


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Runs of one prompt that change from the same position on.

    Attributes:
        prompt: which sequence of the base run.
        start: the first position that changes.
        cells: what each row is patched for: its place in the sweep's results.
        at: where each row is patched as it joins: `pos` and `part` (head or neuron); -1 stands for all.
        x: the stream of the positions from `start` on; None before the rows join.
    """

    prompt: int
    start: int
    cells: Int[Tensor, "row"]
    at: Int[Tensor, "row 2"]
    x: Float[Tensor, "row pos d_model"] | None = None

    def __getitem__(self, rows: slice) -> "PackedRows":
        x = None if self.x is None else self.x[rows]
        return PackedRows(self.prompt, self.start, self.cells[rows], self.at[rows], x)

    def with_stream(self, x: Float[Tensor, "row pos d_model"]) -> "PackedRows":
        """The same rows somewhere else in the model."""
        return PackedRows(self.prompt, self.start, self.cells, self.at, x)

    @property
    def stream(self) -> Float[Tensor, "row pos d_model"]:
        """`x` of rows that have joined."""
        assert self.x is not None
        return self.x

    def write(self, activation: Float[Tensor, "row pos *part"], source: Float[Tensor, "pos *part"]) -> None:
        """Copy into each row of `activation`, in place, the part of `source` that the row is patched with."""
        pos, part = self.at.unbind(dim=1)
        row = torch.arange(len(pos), device=activation.device)
        all_positions, all_parts = bool(pos[0] < 0), bool(part[0] < 0)
        if all_positions and all_parts:
            activation.copy_(source.expand(activation.shape))
        elif all_positions:
            activation[row, :, part] = source[:, part].transpose(0, 1)
        elif all_parts:
            activation[row, pos - self.start] = source[pos - self.start]
        else:
            activation[row, pos - self.start, part] = source[pos - self.start, part]


def grouped(rows: Iterable[PackedRows]) -> list[PackedRows]:
    """PackedRows with the same prompt and start put together."""
    groups: dict[tuple[int, int], list[PackedRows]] = {}
    for some in rows:
        groups.setdefault((some.prompt, some.start), []).append(some)

    def join(prompt: int, start: int, parts: list[PackedRows]) -> PackedRows:
        cells, at = torch.cat([part.cells for part in parts]), torch.cat([part.at for part in parts])
        return PackedRows(prompt, start, cells, at, torch.cat([part.stream for part in parts]))

    return [parts[0] if len(parts) == 1 else join(*key, parts) for key, parts in groups.items()]


def in_portions(groups: Iterable[PackedRows], most: int) -> Iterator[list[PackedRows]]:
    """Groups, split between rows where needed, in lists of at most `most` positions (or one row)."""
    groups = list(groups)
    firsts = list(itertools.accumulate((len(rows.cells) for rows in groups), initial=0))
    lengths = [rows.stream.shape[1] for rows in groups for _ in rows.cells]
    for portion in portions(lengths, most):
        parts = [
            rows[max(portion.start - first, 0) : portion.stop - first]
            for first, rows in zip(firsts, groups, strict=False)
            if first < portion.stop and portion.start < first + len(rows.cells)
        ]
        yield parts


@runtime_checkable
class Joins(Protocol):
    """How rows come to differ from the base run: what happens to them in the layer at which they join."""

    def before(self, layer: int, rows: list[PackedRows], packed: "PackedForward") -> list[PackedRows] | None:
        """The rows before the layer, which they then pass with all others; None if they come to differ within it."""
        ...

    def through(self, layer: int, rows: list[PackedRows], packed: "PackedForward") -> list[PackedRows]:
        """Where they come to differ within it: the rows after it."""
        ...


@dataclass(frozen=True, eq=False)
class SitePatches:
    """Rows that are patched at a site as they join.

    Attributes:
        site: full name of the patched point in each layer.
        source: what patches write in a layer: the whole activation there, shaped as in the base run.
    """

    site: Callable[[int], str]
    source: Callable[[int], Tensor]

    def before(self, layer: int, rows: list[PackedRows], packed: "PackedForward") -> list[PackedRows] | None:
        """The patched stream, where the site is that."""
        if self.site(layer) != f"blocks.{layer}.hook_resid_pre":
            return None
        entered = [packed.entered(layer, some) for some in rows]
        for some in entered:
            some.write(some.stream, self.source(layer)[some.prompt, some.start :])
        return entered

    def through(self, layer: int, rows: list[PackedRows], packed: "PackedForward") -> list[PackedRows]:
        """The rows after the layer, each row's patch written at the site on the way."""
        source, passing = self.source(layer), _Passing()

        def edit(activation: Tensor, hook: HookPoint) -> Tensor:
            if "query_pos" in hook.axes:  # attention looks at one group after another
                rows = passing.attending
                rows.write(activation.transpose(1, 2), source[rows.prompt].transpose(0, 1)[rows.start :])
            else:
                for rows, part in zip(passing.portion, _parts(activation, passing.portion), strict=True):
                    rows.write(part, source[rows.prompt, rows.start :])
            return activation

        with packed.model.hooks(fwd_hooks=[(self.site(layer), edit)]):
            return packed.block(layer, [packed.entered(layer, some) for some in rows], passing)


class PackedForward:
    """A pass of many rows through the layers.

    Args:
        base: the run they vary.
        joins: how rows come to differ from it.
        advance: told how many positions have passed a block.
        most: how many positions pass a block at once.
        norms: "frozen" keeps the scales that norms had in the base run, which has to hold them.
        read: for each prompt, at which positions the last stream is read; elsewhere it may be what the last layer
            began with. None for everywhere.
    """

    def __init__(
        self,
        base: BaseRun,
        joins: Joins,
        advance: Callable[[int], object] = lambda n: None,
        most: int = MOST_POSITIONS,
        norms: Literal["live", "frozen"] = "live",
        read: list[Int[Tensor, "read"]] | None = None,
    ):
        self.base, self.model, self.joins = base, base.model, joins
        self.advance, self.most, self.norms, self.read = advance, most, norms, read

    @torch.no_grad()
    def run(self, joining: dict[int, list[PackedRows]]) -> list[PackedRows]:
        """All rows after the last layer, from those that join at each."""
        groups: list[PackedRows] = []
        for layer in range(min(joining), self.model.cfg.n_layers):
            new = joining.get(layer, [])
            if new and (before := self.joins.before(layer, new, self)) is not None:
                groups, new = grouped([*groups, *before]), []
            passed = self.block(layer, groups)
            if new:
                passed = [*passed, *self.joins.through(layer, new, self)]
            groups = grouped(passed)
        return groups

    def entered(self, layer: int, rows: PackedRows) -> PackedRows:
        """The rows with the base run's stream before `layer`."""
        stream = self.base.cache[f"blocks.{layer}.hook_resid_pre"][rows.prompt, rows.start :]
        return rows.with_stream(stream.repeat(len(rows.cells), 1, 1))

    def block(self, layer: int, groups: list[PackedRows], passing: "_Passing | None" = None) -> list[PackedRows]:
        """PackedRows before `layer` to the same rows after it."""
        if not groups:
            return []
        is_last = layer == self.model.cfg.n_layers - 1
        if is_last and self.read is not None and self.norms == "live" and passing is None:
            return self._past_last(groups)
        passing = passing or _Passing()
        with self.frozen_norms(layer, passing):
            return self._passed(layer, groups, passing)

    def _passed(self, layer: int, groups: list[PackedRows], passing: "_Passing") -> list[PackedRows]:
        passed: list[PackedRows] = []
        for portion in in_portions(groups, self.most):
            passing.portion = portion
            flat = torch.cat([rows.stream.flatten(0, 1) for rows in portion])[None]
            out = self.model.blocks[layer](flat, self._context(layer, passing))
            passed += [rows.with_stream(part) for rows, part in zip(portion, _parts(out, portion), strict=True)]
            self.advance(flat.shape[1])
        return passed

    def _past_last(self, groups: list[PackedRows]) -> list[PackedRows]:
        """As `block` for the last layer, past whose attention only those positions go that are read."""
        passed = [rows for rows in groups if not len(self._read_late(rows))]
        passing, layer = _Passing(), self.model.cfg.n_layers - 1
        for portion in in_portions([rows for rows in groups if len(self._read_late(rows))], self.most):
            passing.portion = portion
            flat = torch.cat([rows.stream.flatten(0, 1) for rows in portion])[None]
            out = self.model.blocks[layer](flat, self._context(layer, passing, going_on=self._going_on(portion)))
            sizes = [(len(rows.cells), len(self._read_late(rows))) for rows in portion]
            parts = out[0].split([n * length for n, length in sizes])
            for rows, part, size in zip(portion, parts, sizes, strict=True):
                passed.append(
                    rows.with_stream(rows.stream.index_copy(1, self._read_late(rows), part.unflatten(0, size)))
                )
            self.advance(flat.shape[1])
        return passed

    def _read_late(self, rows: PackedRows) -> Int[Tensor, "read"]:
        """Which of the positions that the rows carry are read in the end, counted from their start."""
        assert self.read is not None
        at = self.read[rows.prompt] - rows.start
        return at[at >= 0]

    def _going_on(self, portion: list[PackedRows]) -> Int[Tensor, "some"]:
        """Their places in the flat list of a portion."""
        found, first = [], 0
        for rows in portion:
            n, length = rows.stream.shape[:2]
            starts = first + length * torch.arange(n, device=rows.cells.device)
            found.append((starts[:, None] + self._read_late(rows)).flatten())
            first += n * length
        return torch.cat(found)

    @contextmanager
    def frozen_norms(self, layer: int, passing: "_Passing") -> Iterator[None]:
        """A layer's norms at the scales of the base run, where these are frozen."""
        if self.norms == "live":
            yield
            return

        def scale(activation: Tensor, hook: HookPoint) -> Tensor:
            kept = self.base.cache[hook.name]
            parts = [kept[rows.prompt, rows.start :].repeat(len(rows.cells), *[1] * (kept.ndim - 2)) for rows in
                     passing.portion]  # fmt: skip
            return torch.cat(parts)[None]

        names = [name for name in self.model.hook_points if name.endswith("hook_scale") and layer_of(name) == layer]
        with self.model.hooks(fwd_hooks=[(name, scale) for name in names]):
            yield

    def _context(self, layer: int, passing: "_Passing", going_on: Int[Tensor, "some"] | None = None) -> LayerContext:
        """What the block needs for a flat list of positions, of which all or some go on past attention."""
        context, base, attn = self.base.contexts[layer], self.base, self.model.blocks[layer].attn

        def of_positions(table: Tensor) -> Tensor:  # [batch or 1, pos, ...] to [1, flat, ...]
            parts = [
                _of(table, rows)[rows.start :].repeat(len(rows.cells), *[1] * (table.ndim - 2))
                for rows in passing.portion
            ]
            return torch.cat(parts)[None]

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            mixed = []
            for rows, *own in zip(passing.portion, *(_parts(each, passing.portion) for each in (q, k, v)), strict=True):
                passing.attending = rows
                keys = _after(base.keys(layer)[rows.prompt, : rows.start], own[1])
                values = _after(base.values(layer)[rows.prompt, : rows.start], own[2])
                q, visible = own[0], _of(context.visible, rows)[None, :, rows.start :]
                if going_on is not None:
                    at = self._read_late(rows)
                    q, visible = q[:, at], visible[:, :, at]
                z = attn.attend(q, keys, values, LayerContext(visible, None, None))
                mixed.append(z.flatten(0, 1))
            return torch.cat(mixed)[None]

        rotation = (
            None if context.rotation is None else (of_positions(context.rotation[0]), of_positions(context.rotation[1]))
        )
        reads = None if context.position_reads is None else of_positions(context.position_reads)
        return LayerContext(context.visible, rotation, reads, attend=attend, going_on=going_on)


class _Passing:
    """Where a pass is: the rows that pass a block, and those of them that attention looks at."""

    portion: list[PackedRows]
    attending: PackedRows


def _of(table: Tensor, rows: PackedRows) -> Tensor:
    """The rows' prompt in a table whose first axis is 1 where all prompts agree."""
    return table[rows.prompt if len(table) > 1 else 0]


def _after(
    base: Float[Tensor, "before *head"], own: Float[Tensor, "row pos *head"]
) -> Float[Tensor, "row n_keys *head"]:
    """The base run's keys (values) before the first changed position, then each row's own."""
    return torch.cat([base.expand(len(own), *base.shape), own], dim=1) if len(base) else own


def _parts(flat: Float[Tensor, "1 flat *axes"], portion: list[PackedRows]) -> list[Float[Tensor, "row pos *axes"]]:
    """Views of a flat list's parts that belong to each group of rows."""
    sizes = [rows.stream.shape[:2] for rows in portion]
    parts = flat[0].split([n * length for n, length in sizes])
    return [part.unflatten(0, size) for part, size in zip(parts, sizes, strict=True)]
