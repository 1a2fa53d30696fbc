"""Rows of a packed run: runs that vary one base run, from one position on."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.budget import portions


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Runs of one prompt that change from the same position on.

    Attributes:
        prompt: which sequence of the base run.
        start: the first position that changes.
        cells: what each row is patched for: its place in the sweep's results.
        at: where each row is patched as it joins: `pos` and `part` (head or neuron); -1 stands for all.
        x: the stream of the positions from `start` on; None before the rows join.
        memory: what cross-attention reads in each row; None for what it reads in the base run.
    """

    prompt: int
    start: int
    cells: Int[Tensor, "row"]
    at: Int[Tensor, "row 2"]
    x: Float[Tensor, "row pos d_model"] | None = None
    memory: Float[Tensor, "row source_pos d_memory"] | None = None

    def __getitem__(self, rows: slice) -> "PackedRows":
        x, memory = (None if held is None else held[rows] for held in (self.x, self.memory))
        return PackedRows(self.prompt, self.start, self.cells[rows], self.at[rows], x, memory)

    def with_stream(self, x: Float[Tensor, "row pos d_model"]) -> "PackedRows":
        """The same rows somewhere else in the model."""
        return PackedRows(self.prompt, self.start, self.cells, self.at, x, self.memory)

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
        memory = None if parts[0].memory is None else torch.cat([cast(Tensor, part.memory) for part in parts])
        return PackedRows(prompt, start, cells, at, torch.cat([part.stream for part in parts]), memory)

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


def parts_of(flat: Float[Tensor, "1 flat *axes"], portion: list[PackedRows]) -> list[Float[Tensor, "row pos *axes"]]:
    """Views of a flat list's parts that belong to each group of rows."""
    sizes = [rows.stream.shape[:2] for rows in portion]
    parts = flat[0].split([n * length for n, length in sizes])
    return [part.unflatten(0, size) for part, size in zip(parts, sizes, strict=True)]
