"""Many patched runs at once, sharing everything that a patch cannot change: the engine behind `patching.sweep`.

All runs differ from one *base run* by one patch each. A patch at layer l and position p of a causal model changes
nothing below l and nothing before p, so that its *row* starts from the base run's stream at l and carries positions p,
p + 1, ... only; at earlier positions its queries meet the base run's keys and values. One pass through the layers takes
all rows along: at layer m those whose patch sits there join, and every weight is read once for all of them. For the
linear layers, which dominate, the positions of all rows lie in one flat list; attention alone looks at rows in groups
that share prompt and first position.

Cross-attention meets the base run's memory, whose keys and values are computed once. Where a patch changes the memory
(a patch of the encoder), or in one layer its keys or values, each row has a memory (keys and values) of its own, and
carries all positions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.model import (
    ActivationCache,
    HookedTransformer,
    HookName,
    HookPoint,
    LayerContext,
    LayerKeysValues,
    layer_of,
)
from interp.patching.packed_rows import PackedRows, grouped, in_portions, parts_of
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
        _, cache = model.base_run_with_cache(prompts, return_type=None, names_filter=names)
        return cls(model, prompts, cache)

    @cached_property
    def contexts(self) -> list[LayerContext]:
        """What each layer needs beside the stream."""
        return self.model.layer_contexts(self.prompts)

    @property
    def final(self) -> Float[Tensor, "batch pos d_model"]:
        """The stream that the final norm reads."""
        return self.cache["resid_post", -1]

    @cached_property
    def of_memory(self) -> list[LayerKeysValues]:
        """The products of which keys and values of each layer's cross-attention are made."""
        assert self.prompts.memory is not None
        held = []
        for block in self.model.blocks:
            held.append(LayerKeysValues())
            held[-1].of_memory(partial(block.cross_attn.products, self.prompts.memory.stream))
            held[-1].commit()
        return held

    def keys(self, layer: int) -> Float[Tensor, "batch pos kv_head d_head"]:
        """Keys as attention meets them."""
        return self.cache[f"blocks.{layer}.attn.{_key_point(self.model)}"]

    def values(self, layer: int) -> Float[Tensor, "batch pos kv_head d_head"]:
        """Values."""
        return self.cache[f"blocks.{layer}.attn.hook_v"]


def _key_point(model: HookedTransformer) -> str:
    return "hook_rot_k" if model.cfg.positional_embedding_type == "rotary" else "hook_k"


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
        site: name of the patched point in each layer, within its stack.
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
        source = self.source(layer)
        passing = _Passing(keys_of_rows=packed.model.hook_points[self.site(layer)].of_memory)

        def edit(activation: Tensor, hook: HookPoint) -> Tensor:
            if "query_pos" in hook.axes:  # attention looks at one group after another
                rows = passing.attending
                rows.write(activation.transpose(1, 2), source[rows.prompt].transpose(0, 1)[rows.start :])
            elif hook.of_memory:
                own = activation.split([len(rows.cells) for rows in passing.portion])
                for rows, part in zip(passing.portion, own, strict=True):
                    rows.write(part, source[rows.prompt])
            else:
                for rows, part in zip(passing.portion, parts_of(activation, passing.portion), strict=True):
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
            passed += [rows.with_stream(part) for rows, part in zip(portion, parts_of(out, portion), strict=True)]
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
            kept = self.base.cache[hook.key]
            parts = [kept[rows.prompt, rows.start :].repeat(len(rows.cells), *[1] * (kept.ndim - 2)) for rows in
                     passing.portion]  # fmt: skip
            return torch.cat(parts)[None]

        names = [name for name in self.model.hook_points if name.endswith("hook_scale") and layer_of(name) == layer]
        with self.model.hooks(fwd_hooks=[(name, scale) for name in names]):
            yield

    def _context(self, layer: int, passing: "_Passing", going_on: Int[Tensor, "some"] | None = None) -> LayerContext:
        """What the block needs for a flat list of positions, of which all or some go on past attention."""
        context = self.base.contexts[layer]

        def of_positions(table: Tensor) -> Tensor:  # [batch or 1, pos, ...] to [1, flat, ...]
            parts = [
                _of(table, rows)[rows.start :].repeat(len(rows.cells), *[1] * (table.ndim - 2))
                for rows in passing.portion
            ]
            return torch.cat(parts)[None]

        rotation = (
            None if context.rotation is None else (of_positions(context.rotation[0]), of_positions(context.rotation[1]))
        )
        reads = None if context.position_reads is None else of_positions(context.position_reads)
        attend = partial(self._attend, layer, passing, going_on is not None)
        cross = None if context.cross is None else self._cross_context(layer, passing, going_on is not None)
        return LayerContext(context.visible, rotation, reads, attend=attend, going_on=going_on, cross=cross)

    def _attend(
        self,
        layer: int,
        passing: "_Passing",
        late: bool,
        q: Float[Tensor, "1 flat head d_head"],
        k: Float[Tensor, "1 flat kv_head d_head"],
        v: Float[Tensor, "1 flat kv_head d_head"],
    ) -> Float[Tensor, "1 flat_or_some head d_head"]:
        """Attention of each group of rows to the base run's keys before its start and its own after; with `late`, of
        the queries alone that go on.
        """
        context, base, attn = self.base.contexts[layer], self.base, self.model.blocks[layer].attn
        mixed = []
        for rows, *own in zip(passing.portion, *(parts_of(each, passing.portion) for each in (q, k, v)), strict=True):
            passing.attending = rows
            keys = _after(base.keys(layer)[rows.prompt, : rows.start], own[1])
            values = _after(base.values(layer)[rows.prompt, : rows.start], own[2])
            q, visible, bias = own[0], *(_late(table, rows) for table in (context.visible, context.bias))
            assert visible is not None
            if late:
                at = self._read_late(rows)
                q, visible, bias = q[:, at], visible[:, :, at], None if bias is None else bias[:, :, at]
            z = attn.attend(q, keys, values, LayerContext(visible, None, None, bias=bias))
            mixed.append(z.flatten(0, 1))
        return torch.cat(mixed)[None]

    def _cross_context(self, layer: int, passing: "_Passing", late: bool) -> LayerContext:
        """That of cross-attention: to the memory that rows have of their own, or to that of the base run."""
        context, portion = self.base.contexts[layer].cross, passing.portion
        assert context is not None
        own = portion[0].memory is not None
        memory, past = context.memory, None
        if own:
            memory = torch.cat([cast(Tensor, rows.memory) for rows in portion])
        else:
            past = self.base.of_memory[layer]
            past = past.repeated([(rows.prompt, len(rows.cells)) for rows in portion]) if passing.keys_of_rows else past
        of_rows = own or passing.keys_of_rows
        attend = partial(self._attend_memory, layer, passing, late, of_rows)
        return LayerContext(context.visible, None, None, past=past, attend=attend, memory=memory)

    def _attend_memory(
        self,
        layer: int,
        passing: "_Passing",
        late: bool,
        of_rows: bool,
        q: Float[Tensor, "1 flat head d_head"],
        k: Float[Tensor, "row_or_batch source_pos kv_head d_head"],
        v: Float[Tensor, "row_or_batch source_pos kv_head d_head"],
    ) -> Float[Tensor, "1 flat head d_head"]:
        """Cross-attention of each group of rows, whose keys and values are `of_rows`, or of its prompt."""
        context, attn = self.base.contexts[layer].cross, self.model.blocks[layer].cross_attn
        assert context is not None
        lengths = [len(self._read_late(rows)) if late else rows.stream.shape[1] for rows in passing.portion]
        sizes = [(len(rows.cells), length) for rows, length in zip(passing.portion, lengths, strict=True)]
        parts = q[0].split([n * length for n, length in sizes])
        mixed, first = [], 0
        for rows, part, (n, length) in zip(passing.portion, parts, sizes, strict=True):
            passing.attending = rows
            at = slice(first, first + n) if of_rows else slice(rows.prompt, rows.prompt + 1)
            keys, values = k[at].expand(n, -1, -1, -1), v[at].expand(n, -1, -1, -1)
            visible = _of(context.visible, rows)[None]
            z = attn.attend(part.unflatten(0, (n, length)), keys, values, LayerContext(visible, None, None))
            mixed.append(z.flatten(0, 1))
            first += n
        return torch.cat(mixed)[None]


class _Passing:
    """Where a pass is: the rows that pass a block, and those of them that attention looks at.

    Attributes:
        keys_of_rows: whether each row has keys and values of the memory of its own, so that these can be patched.
    """

    portion: list[PackedRows]
    attending: PackedRows

    def __init__(self, keys_of_rows: bool = False):
        self.keys_of_rows = keys_of_rows


def _of(table: Tensor, rows: PackedRows) -> Tensor:
    """The rows' prompt in a table whose first axis is 1 where all prompts agree."""
    return table[rows.prompt if len(table) > 1 else 0]


def _late(table: Tensor | None, rows: PackedRows) -> Tensor | None:
    """What a table of queries and keys says of the queries that the rows carry, [1, head or 1, query_pos, key_pos]."""
    return None if table is None else _of(table, rows)[None, :, rows.start :]


def _after(
    base: Float[Tensor, "before *head"], own: Float[Tensor, "row pos *head"]
) -> Float[Tensor, "row n_keys *head"]:
    """The base run's keys (values) before the first changed position, then each row's own."""
    return torch.cat([base.expand(len(own), *base.shape), own], dim=1) if len(base) else own
