"""Layout: a circuit's spaces side by side, and its declarations as matrices between them.

Coordinates are labels here, one after the other in float64. The interpreter runs on these matrices as they are; the
compiler maps them into the residual stream of a model.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.language.declaration import Declaration
from circuits.language.forms import Form
from circuits.language.parts import EMBED, POS_EMBED, UNEMBED, Head, Neurons, Part
from circuits.language.space import Coordinate, Space
from interp.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Read:
    """One way in which something reads the stream.

    Attributes:
        reader: name of a part, or "unembed".
        kind: "Q", "K", "V", "mlp" or "out".
        time: when it reads. It sees all that was written at an earlier time.
        matrix: what it reads, by coordinate.
    """

    reader: str
    kind: str
    time: float
    matrix: Float[Tensor, "size read"]


@dataclass(frozen=True, eq=False)
class Write:
    """What something can write to the stream.

    Attributes:
        writer: name of a part, "embed" or "pos_embed".
        time: when it writes.
        matrix: what it writes, by coordinate.
        smallest: the least share of a write that can arrive: 1 / n_ctx for a head that averages, else 1.
    """

    writer: str
    time: float
    matrix: Float[Tensor, "written size"]
    smallest: float = 1.0


class Layout:
    """The spaces that a circuit uses (and those in `also`): tokens, declared ones, positions, the constant, outputs.

    Attributes:
        slices: where each space lies.
        size: how many coordinates there are.
        embedding, positions: what tokens and positions write, [d_vocab, size] and [n_ctx, size].
        unembedding: which coordinates are logits, [size, d_vocab].

    Raises `ConfigError` for a space that is read and that nothing earlier writes.
    """

    def __init__(self, declaration: Declaration, also: Iterable[Space] = ()):
        self.declaration = declaration
        tok, pos, one, out = declaration.tok, declaration.pos, declaration.one, declaration.out
        used = {out.name, *(space.name for space in also)} | {
            name for part in declaration.parts for name in _spaces_of(part)
        }
        last = [pos, one] + ([] if out is tok else [out])
        order = [space for space in declaration.spaces.values() if space not in last] + last
        self.spaces = [space for space in order if space.name in used]
        self.slices: dict[str, slice] = {}
        self.size = 0
        for space in self.spaces:
            self.slices[space.name] = slice(self.size, self.size + len(space))
            self.size += len(space)
        self.embedding = self._table(declaration.embeddings, len(tok))
        self.positions = self._table({pos.name: torch.eye(len(pos), dtype=torch.float64)}, len(pos))
        self.unembedding = torch.zeros(self.size, len(tok), dtype=torch.float64)
        self.unembedding[self.slices[out.name]] = torch.eye(len(tok), dtype=torch.float64)
        self._check()

    def _table(self, blocks: dict[str, Tensor], n_rows: int) -> Float[Tensor, "rows size"]:
        table = torch.zeros(n_rows, self.size, dtype=torch.float64)
        for name, block in blocks.items():
            if name in self.slices:
                table[:, self.slices[name]] = block
        return table

    def matrix(self, form: Form) -> Float[Tensor, "size size"]:
        """A form as one matrix."""
        whole = torch.zeros(self.size, self.size, dtype=torch.float64)
        for term in form.terms:
            whole[self.slices[term.rows.name], self.slices[term.columns.name]] += term.weighted
        return whole

    def vectors(self, sums: Iterable[Sequence[tuple[Coordinate, float]]]) -> Float[Tensor, "sums size"]:
        """Sums of coordinates as rows."""
        rows = []
        for one in sums:
            row = torch.zeros(self.size, dtype=torch.float64)
            for coordinate, factor in one:
                row[self.slices[coordinate.space.name].start + coordinate.space.index(coordinate.label)] += factor
            rows.append(row)
        return torch.stack(rows)

    def reads(self) -> Iterator[Read]:
        """Every way in which the stream is read, in order."""
        for part in self.declaration.parts:
            if isinstance(part, Head):
                scores = self.matrix(part.scores)
                yield Read(part.name, "Q", time_of(part), scores)
                yield Read(part.name, "K", time_of(part), scores.T)
                yield Read(part.name, "V", time_of(part), self.matrix(part.ov))
            else:
                yield Read(part.name, "mlp", time_of(part), self.vectors(ramp.reads for ramp in part.ramps).T)
        yield Read(UNEMBED, "out", float("inf"), self.unembedding)

    def writes(self) -> Iterator[Write]:
        """Everything that writes to the stream, in order of declaration."""
        yield Write(EMBED, -1.0, self.embedding)
        yield Write(POS_EMBED, -1.0, self.positions)
        for part in self.declaration.parts:
            if isinstance(part, Head):
                share = 1 / self.declaration.n_ctx if part.ties == "mean" else 1.0
                yield Write(part.name, time_of(part), self.matrix(part.ov), share)
            else:
                yield Write(part.name, time_of(part), self.vectors(ramp.writes for ramp in part.ramps))

    def _check(self) -> None:
        """Raise `ConfigError` unless every space that is read is written by something earlier."""
        writes, times = list(self.writes()), {part.name: part.layer for part in self.declaration.parts}
        for read in self.reads():
            for space in self.spaces:
                where = self.slices[space.name]
                if not read.matrix[where].any():
                    continue
                writers = [write for write in writes if write.matrix[:, where].any()]
                if any(write.time < read.time for write in writers):
                    continue
                place = (
                    "the unembedding" if read.reader == UNEMBED else f"{read.reader!r} in layer {times[read.reader]}"
                )
                if not writers:
                    raise ConfigError(f"{place} reads space {space.name!r}, which nothing writes")
                first = min(writers, key=lambda write: write.time)
                raise ConfigError(
                    f"{place} reads space {space.name!r}, which is first written by {first.writer!r} in layer "
                    f"{times[first.writer]}; it can be read by heads of later layers, and by MLPs from "
                    f"layer {int(first.time + 0.5)} on"
                )

    def nothing_below(self) -> float:
        """The threshold below which all logits mean "nothing to predict".

        It is half of the smallest logit that a part can write when no other part writes.
        """
        out, smallest = self.slices[self.declaration.out.name], float("inf")
        for write in self.writes():
            written = write.matrix[:, out].abs()
            if written.any():
                smallest = min(smallest, float(written[written > 0].min()) * write.smallest)
        return smallest / 2


def time_of(part: Part) -> float:
    """When a part reads and writes. The heads of a layer come first, its MLP half a step later."""
    return part.layer + (0.5 if isinstance(part, Neurons) else 0.0)


def _spaces_of(part: Part) -> set[str]:
    if isinstance(part, Head):
        terms = (*part.scores.terms, *part.ov.terms)
        return {space.name for term in terms for space in (term.rows, term.columns)}
    return {one.space.name for ramp in part.ramps for one, _ in (*ramp.reads, *ramp.writes)}
