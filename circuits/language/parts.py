"""Parts: what a circuit is made of, attention heads and MLP neurons.

Neurons come as *ramps*: `clamp((u - low) / (high - low), 0, 1)`, which is two ReLUs, of a number u read from the
stream. The ramps of tables and buckets snap: whatever lies below `low` counts as 0, whatever lies above `high` as 1, so
that the small errors which a softmax leaves are erased, not passed on. Those of functions are straight pieces.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, ClassVar, Literal

from circuits.language.forms import NOTHING, Form
from circuits.language.space import Coordinate, Label, Space

EMBED, POS_EMBED, UNEMBED = "embed", "pos_embed", "unembed"
"""The names of what writes first and of what reads last; a part cannot have them."""

SOURCE = "source/"
"""What the names of a source's parts begin with, where they stand beside those of the circuit that reads it."""

UNSETTLED = -1
"""The layer of a part before it is settled."""

CROSS_PHASE, MLP_PHASE = 0.25, 0.5
"""How far into its layer a part reads and writes: heads at the beginning, then cross heads, then the MLP."""

Terms = tuple[tuple[Coordinate, float], ...]
"""Coordinates with their factors: a number that is read, or what is written."""

Ties = Literal["mean", "latest", "first"]
"""Which of several equally good keys a head attends to."""

Attend = Literal["hard", "soft"]
"""Whether a head chooses the best keys, or weighs all keys by a softmax of the scores that are declared."""


@dataclass(frozen=True)
class Head:
    """An attention head.

    Attributes:
        name, layer: as declared; the layer is settled by `Declaration.parts` where none was given.
        qk: what is matched, the sink included.
        ov: what is copied.
        ties: what happens when several keys score the same.
        recency: for ties "latest" and "first", a term that prefers later (earlier) keys by less than any two scores
            differ; for "mean" empty.
        gap: how much the best key's score exceeds the next one's, at least, before sharpening; None if unknown.
        sharp: the factor on all scores, or None: the compiler's choice. A soft head always has one.
        sink: weight of the sink, 0 for none.
        attend: "hard" or "soft".
        trusted: whether its gap is the author's word, so that it may match spaces that hold shares or numbers.
        cross: whether its keys, and what it copies, are those of the source (`Builder.cross`). Its queries, and what it
            writes, are the circuit's own.
    """

    name: str
    layer: int
    qk: Form
    ov: Form
    ties: Ties = "mean"
    recency: Form = NOTHING
    gap: float | None = None
    sharp: float | None = None
    sink: float = 0.0
    attend: Attend = "hard"
    trusted: bool = False
    cross: bool = False

    @property
    def title(self) -> str:
        """What messages call it, such as "head 'previous'" or "cross head 'copy'"."""
        return f"{'cross ' * self.cross}head {self.name!r}"

    @property
    def phase(self) -> float:
        """When it reads and writes within its layer: heads first, then cross heads."""
        return CROSS_PHASE if self.cross else 0.0

    @property
    def scores(self) -> Form:
        """Everything its scores are made of."""
        return self.qk + self.recency


@dataclass(frozen=True)
class Ramp:
    """`clamp((u - low) / (high - low), 0, 1)`, with u a sum over what it reads.

    Attributes:
        reads: coordinates with their factors.
        low, high: where it begins to rise, and where it is 1.
        writes: what it adds to the stream where it is 1.
        snaps: whether u is never meant to lie between `low` and `high`, so that the ramp is a step. The others are
            pieces of a function.
    """

    reads: Terms
    low: float
    high: float
    writes: Terms
    snaps: bool = True


@dataclass(frozen=True)
class Reach:
    """A number that neurons read, and where they take it to lie.

    Attributes:
        number: coordinates with their factors.
        low, high: it lies between these, both included.
        inferred: whether they follow from what had been declared before, and are not the author's word.
    """

    number: Terms
    low: float
    high: float
    inferred: bool = False


Key = tuple[Label | EllipsisType | None, ...]
"""For each space that is read a label, `...` for anything, or None for nothing."""


@dataclass(frozen=True)
class Entry:
    """One entry of a table.

    Attributes:
        key: when it fires.
        labels: what is written, one label for each space.
    """

    key: Key
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class Lookup:
    """A table as it was declared.

    Attributes:
        reads, writes: the spaces.
        entries: what is written for which labels.
        otherwise: what is written where no entry fires; empty for nothing.
        summed: whether several entries may fire together, and add up.
        listed: whether the entries were listed one by one, and not given by a function.
    """

    reads: tuple[Space, ...]
    writes: tuple[Space, ...]
    entries: tuple[Entry, ...]
    otherwise: tuple[Label, ...] = ()
    summed: bool = False
    listed: bool = True


@dataclass(frozen=True)
class Neurons:
    """A group of an MLP's neurons, declared by `Circuit.mlp`, `bucket`, `function` or `product`.

    Attributes:
        kind: what they were declared as.
        name, layer: as for a head.
        ramps: what the neurons compute.
        table: the table, for neurons that look labels up.
        gate: for a bucket, the coordinates of which one must be 1.
        reach: where the numbers that it reads must lie.
        span: for a function or a product, the lowest and the highest of its values.
        destinations: for these, where the value is written, with factors.
        error: for these, the largest distance of the pieces from it.
        phase: when they read and write within their layer: after all heads.

    >>> from circuits.gallery import entry
    >>> [part.name for part in entry("sort").build().parts if isinstance(part, Neurons)]
    ['item', 'smaller/number']
    """

    phase: ClassVar[float] = MLP_PHASE

    kind: Literal["mlp", "bucket", "function", "product"]
    name: str
    layer: int
    ramps: tuple[Ramp, ...]
    table: Lookup | None = None
    gate: tuple[Coordinate, ...] = ()
    reach: tuple[Reach, ...] = ()
    span: tuple[float, float] | None = None
    destinations: Terms = ()
    error: float = 0.0

    @property
    def title(self) -> str:
        """What messages call them: "mlp 'table'", "bucket 'count'" or "function 'square'"."""
        return f"{self.kind} {self.name!r}"

    def __repr__(self) -> str:
        return f"Neurons({self.name!r}, layer={self.layer}, {len(self.ramps)} ramps)"


Part = Head | Neurons
"""Anything that reads the stream and writes to it."""

Table = Mapping[Any, Label | tuple[Label, ...]] | Callable[..., Label | tuple[Label, ...] | None]
"""What to write for which labels: a mapping (from tuples where there are several spaces; `...` for anything, None for
nothing), or a function of one label a space that returns None for nothing."""
