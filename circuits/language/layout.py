"""Layout: a circuit's spaces side by side, and its declarations as blocks between them.

Coordinates are labels here, one after the other in float64. The interpreter runs on these blocks as they are; the
compiler maps them into the residual stream of a model. A block stands between two spaces, or between a space and what
reads or writes it, so that nothing here is as large as all spaces together, squared.
"""

from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.language.declaration import Declaration
from circuits.language.forms import Form
from circuits.language.layers import read_of_source, read_spaces, written_spaces
from circuits.language.parts import EMBED, POS_EMBED, UNEMBED, Head, Part, Terms
from circuits.language.space import Coordinate, Space, listed
from interp.errors import ConfigError

Blocks = dict[tuple[str, str], Float[Tensor, "_rows _columns"]]
"""The blocks of a form, by the names of the spaces that they relate."""


@dataclass(frozen=True, eq=False)
class Read:
    """One way in which something reads the stream.

    Attributes:
        reader: name of a part, "unembed", or of a readout.
        kind: "Q", "K", "V", "mlp" or "out". The K and V of a cross head read the source, at its end.
        time: when it reads. It sees all that was written at an earlier time.
        blocks: what it reads of each space, [labels, read].
    """

    reader: str
    kind: str
    time: float
    blocks: dict[str, Float[Tensor, "_labels _read"]]


@dataclass(frozen=True, eq=False)
class Write:
    """What something can write to the stream.

    Attributes:
        writer: name of a part, "embed" or "pos_embed".
        time: when it writes.
        blocks: what it writes into each space, [written, labels].
    """

    writer: str
    time: float
    blocks: dict[str, Float[Tensor, "_written _labels"]]


class Layout:
    """The spaces that a circuit uses (and those in `also`): tokens, declared ones, positions, the constant, outputs.

    Attributes:
        source: the layout of the source, for a circuit that has one.
        reader: for the layout of a source, the circuit whose cross heads read it.
        spaces: the spaces, in order.
        slices: where each space lies.
        size: how many coordinates there are.
        unembedding: what the unembedding reads of each space, [labels, d_vocab].

    Raises `ConfigError` for a space that is read and that nothing earlier writes, unless the declaration is
    `unfinished`.

    >>> from circuits.gallery import entry
    >>> layout = Layout(entry("previous_token").build())
    >>> check_alive(layout)  # nothing to say
    >>> check_sound(Holdings(layout))  # nothing to say
    """

    def __init__(
        self,
        declaration: Declaration,
        also: Iterable[Space] = (),
        unfinished: bool = False,
        reader: Declaration | None = None,
    ):
        self.declaration = declaration if unfinished else copy(declaration)  # which may go on
        self.reader, source = reader, self.declaration.source
        self._check_words_alone()
        self.source = None if source is None else Layout(source, unfinished=unfinished, reader=self.declaration)
        tok, pos, one, out = declaration.tok, declaration.pos, declaration.one, declaration.out
        read_at_the_end = {term.rows.name for form in declaration.directs for term in form.terms}
        used = {*(space.name for space in also), *read_at_the_end, *declaration.readouts, *declaration.inputs}
        for part in declaration.parts:
            used |= read_spaces(part) | written_spaces(part)
        for part in self._cross_heads():
            used |= read_of_source(part)
        unread = reader is not None or declaration.readouts or read_at_the_end
        if out is tok or not unread or self._written(out):  # a tied one is always read
            used.add(out.name)
        last = [pos, one] + ([] if out is tok else [out])
        order = [space for space in declaration.spaces.values() if space not in last] + last
        self.spaces = [space for space in order if space.name in used]
        self.slices: dict[str, slice] = {}
        self.size = 0
        for space in self.spaces:
            self.slices[space.name] = slice(self.size, self.size + len(space))
            self.size += len(space)
        self.unembedding = self._unembedding()
        if not unfinished:
            self._check()

    def _written(self, space: Space) -> bool:
        return any(space.name in written_spaces(part) for part in self.declaration.parts)

    def _cross_heads(self) -> list[Head]:
        """The heads that read the final stream of a source; none for other circuits."""
        return [] if self.reader is None else [head for head in self.reader.heads if head.cross]

    def _unembedding(self) -> dict[str, Float[Tensor, "_labels d_vocab"]]:
        read: dict[str, Tensor] = {}
        if self.reader is not None:  # a source predicts no words
            return read
        out = self.declaration.out
        if out.name in self.slices:
            read[out.name] = torch.eye(len(out), dtype=torch.float64)
        for form in self.declaration.directs:
            for term in form.terms:
                before = read.get(term.rows.name)
                read[term.rows.name] = term.weighted if before is None else before + term.weighted
        return read

    def blocks(self, form: Form) -> Blocks:
        """A form as blocks: for each pair of spaces that it relates, the sum of its terms."""
        blocks: Blocks = {}
        for term in form.terms:
            place = term.rows.name, term.columns.name
            blocks[place] = blocks[place] + term.weighted if place in blocks else term.weighted
        return blocks

    def place(self, coordinate: Coordinate) -> int:
        """Where a coordinate lies."""
        return self.slices[coordinate.space.name].start + coordinate.space.index(coordinate.label)

    def embedding(self, name: str) -> Float[Tensor, "d_vocab labels"] | None:
        """What each word writes into a space; None for a space that no word writes."""
        return self.declaration.embeddings.get(name)

    def embedded(self, tokens: Tensor) -> Float[Tensor, "*batch pos size"]:
        """The stream before the first layer, without vectors that the user gives."""
        x = torch.zeros(*tokens.shape, self.size, dtype=torch.float64)
        for name, where in self.slices.items():
            if (table := self.embedding(name)) is not None:
                x[..., where] = table[tokens]
        if (where := self.slices.get(self.declaration.pos.name)) is not None:
            x[..., where] = torch.eye(self.declaration.n_ctx, dtype=torch.float64)[: tokens.shape[-1]]
        return x

    def reads(self) -> Iterator[Read]:
        """Every way in which the stream is read, in order."""
        for part in self.declaration.parts:
            if isinstance(part, Head):
                yield Read(part.name, "Q", time_of(part), _by_space(self.blocks(part.scores), 0))
                if not part.cross:
                    yield from self._key_reads(part, time_of(part))
            else:
                reads = _distinct((ramp.reads for ramp in part.ramps), self.slices)
                yield Read(part.name, "mlp", time_of(part), {name: block.T for name, block in reads.items()})
        if self.unembedding:
            yield Read(UNEMBED, "out", float("inf"), self.unembedding)
        for name, space in self.declaration.readouts.items():
            yield Read(name, "out", float("inf"), {name: torch.eye(len(space), dtype=torch.float64)})
        for head in self._cross_heads():
            yield from self._key_reads(head, float("inf"))

    def _key_reads(self, head: Head, time: float) -> Iterator[Read]:
        """What a head reads of the stream that its keys are in."""
        keys = {(columns, rows): block.T for (rows, columns), block in self.blocks(head.scores).items()}
        yield Read(head.name, "K", time, _by_space(keys, 0))
        yield Read(head.name, "V", time, _by_space(self.blocks(head.ov), 0))

    @property
    def read_at_the_end(self) -> set[str]:
        """The spaces that are read at the end: by the unembedding, as readouts, or by cross heads."""
        of_cross = (read_of_source(head) for head in self._cross_heads())
        return {*self.unembedding, *self.declaration.readouts}.union(*of_cross)

    def writes(self) -> Iterator[Write]:
        """Everything that writes to the stream, in order of declaration."""
        embedded = {name: table for name in self.slices if (table := self.embedding(name)) is not None}
        for name in self.declaration.inputs:
            embedded[name] = torch.eye(len(self.declaration.spaces[name]), dtype=torch.float64)
        yield Write(EMBED, -1.0, embedded)
        pos = self.declaration.pos.name
        yield Write(
            POS_EMBED,
            -1.0,
            {pos: torch.eye(self.declaration.n_ctx, dtype=torch.float64)} if pos in self.slices else {},
        )
        for part in self.declaration.parts:
            if isinstance(part, Head):
                yield Write(part.name, time_of(part), _by_space(self.blocks(part.ov), 1))
            else:
                writes = _distinct((ramp.writes for ramp in part.ramps), self.slices)
                yield Write(part.name, time_of(part), writes)

    def _check_words_alone(self) -> None:
        """Raise `ConfigError` for a source that predicts words, and for vectors beside the words of either side."""
        if self.reader is not None and self.declaration.directs:
            raise ConfigError(f"the source predicts no words, but declares what they are read from: "
                              f"{self.declaration.directs[0]}")  # fmt: skip
        if self.declaration.inputs and (self.reader is not None or self.declaration.source is not None):
            raise ConfigError(f"a circuit with a source, and the source itself, read words alone; vectors "
                              f"{listed(self.declaration.inputs)} are declared")  # fmt: skip

    def _check(self) -> None:
        """Raise `ConfigError` unless every space that is read is written by something earlier."""
        writes, times = list(self.writes()), {part.name: part.layer for part in self.declaration.parts}
        for read in self.reads():
            for name, block in read.blocks.items():
                if not block.any():
                    continue
                writers = [write for write in writes if name in write.blocks and write.blocks[name].any()]
                if any(write.time < read.time for write in writers):
                    continue
                if read.kind != "out" and read.time < float("inf"):
                    place = f"{read.reader!r} in layer {times[read.reader]}"
                elif read.kind != "out":
                    place = f"cross head {read.reader!r}"
                else:
                    place = "the unembedding" if read.reader == UNEMBED else f"the readout {read.reader!r}"
                if not writers:
                    raise ConfigError(f"{place} reads space {name!r}, which nothing writes")
                first = min(writers, key=lambda write: write.time)
                raise ConfigError(
                    f"{place} reads space {name!r}, which is first written by {first.writer!r} in layer "
                    f"{times[first.writer]}; it can be read by heads of later layers, and by MLPs from "
                    f"layer {int(first.time + 0.5)} on"
                )


def time_of(part: Part) -> float:
    """When a part reads and writes. The heads of a layer come first, then its cross heads, then its MLP.

    >>> from circuits.gallery import entry
    >>> [time_of(part) for part in entry("previous_token").build().parts]
    [0.0]
    """
    return part.layer + part.phase


def _by_space(blocks: Blocks, axis: int) -> dict[str, Tensor]:
    """Blocks put together by the space of their rows (axis 0) or of their columns (axis 1)."""
    together: dict[str, list[Tensor]] = {}
    for place, block in blocks.items():
        together.setdefault(place[axis], []).append(block)
    return {name: torch.cat(ones, dim=1 - axis) for name, ones in together.items()}


def _distinct(sums: Iterable[Terms], slices: dict[str, slice]) -> dict[str, Float[Tensor, "_distinct _labels"]]:
    """The different rows of factors that sums of coordinates have in each space."""
    rows: dict[str, dict[tuple[tuple[int, float], ...], None]] = {}
    for terms in sums:
        inside: dict[str, dict[int, float]] = {}
        for coordinate, factor in terms:
            row = inside.setdefault(coordinate.space.name, {})
            place = coordinate.space.index(coordinate.label)
            row[place] = row.get(place, 0.0) + factor
        for name, row in inside.items():
            rows.setdefault(name, {})[tuple(row.items())] = None
    blocks: dict[str, Tensor] = {}
    for name, different in rows.items():
        block = torch.zeros(len(different), slices[name].stop - slices[name].start, dtype=torch.float64)
        for i, row in enumerate(different):
            for place, factor in row:
                block[i, place] = factor
        blocks[name] = block
    return blocks
