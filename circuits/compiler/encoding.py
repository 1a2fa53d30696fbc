"""Encoding: from matrices between labels to matrices between coordinates of the stream.

Each label is one coordinate, except for positions: a low-rank code writes them with fewer coordinates than there are
positions.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.compiler.positions import OneHot, PositionCode, StreamCode
from circuits.compiler.sparse import Sparse
from circuits.language import Form, Head, Space, Term
from interp.errors import ConfigError

POS, ONE = "pos", "one"


class Encoding:
    """Coordinates of the stream before a basis is chosen.

    Attributes:
        code: how positions are written.
        n_ctx: how many positions there are.
        labels: where each space lies among the labels of all spaces, of which there are `n_labels`.
        slices: where each space lies among the coordinates.
        size: how many coordinates there are.
    """

    def __init__(self, spaces: Iterable[Space], code: PositionCode, n_ctx: int):
        self.code, self.n_ctx, self.vectors = code, n_ctx, code.vectors(n_ctx)
        self.labels: dict[str, slice] = {}
        self.slices: dict[str, slice] = {}
        self.n_labels = self.size = 0
        for space in spaces:
            width = self.vectors.shape[1] if space.name == POS else len(space)
            self.labels[space.name] = slice(self.n_labels, self.n_labels + len(space))
            self.slices[space.name] = slice(self.size, self.size + width)
            self.n_labels, self.size = self.n_labels + len(space), self.size + width

    @property
    def sizes(self) -> dict[str, int]:
        """How many coordinates each space has."""
        return {name: at.stop - at.start for name, at in self.slices.items()}

    @property
    def constant(self) -> Sparse:
        """The constant's coordinate, as a column."""
        at = torch.tensor([self.slices[ONE].start])
        return Sparse(at, torch.zeros_like(at), torch.ones(1, dtype=torch.float64), (self.size, 1))

    def written(self, columns: Sparse) -> Sparse:
        """Vectors that are written, as columns: given by label, returned in coordinates."""
        return self._encoded(columns, lambda block: self.vectors.T @ block)

    def read(self, columns: Sparse, what: str) -> Sparse:
        """Vectors that are read, as columns: given by label, returned in coordinates.

        Raises `ConfigError` about `what` where the position code cannot give them.
        """
        return self._encoded(columns, lambda block: self._solved(block, what))

    def _encoded(self, given: Sparse, encode: Callable[[Tensor], Tensor]) -> Sparse:
        """Rows by label as rows by coordinate. Only those of positions differ: `encode` takes them as one block."""
        if isinstance(self.code, OneHot):
            return given
        moved = torch.full((self.n_labels,), -1)
        for name, at in self.labels.items():
            if name != POS:
                moved[at] = torch.arange(self.slices[name].start, self.slices[name].stop)
        others = given.moved(moved, self.size)
        if POS not in self.labels or not (moved[given.rows] < 0).any():
            return others
        first = self.labels[POS].start
        of_pos = given.moved(torch.arange(self.n_labels).sub(first).where(moved < 0, -1), self.n_ctx)
        used, columns = of_pos.columns.unique(return_inverse=True)
        block = replace(of_pos, columns=columns, shape=(self.n_ctx, len(used))).to_dense()
        found = Sparse.dense(encode(block))
        rows, shape = found.rows + self.slices[POS].start, (self.size, given.shape[1])
        return Sparse.total([others, replace(found, rows=rows, columns=used[found.columns], shape=shape)], shape)

    def _solved(self, block: Float[Tensor, "labels columns"], what: str) -> Float[Tensor, "width columns"]:
        """The solution x of vectors @ x = block."""
        width = self.vectors.shape[1]
        if width and block.any():
            solved = torch.linalg.lstsq(self.vectors, block, driver="gelsd").solution
        else:
            solved = torch.zeros(width, block.shape[1], dtype=torch.float64)
        if not torch.allclose(self.vectors @ solved, block, atol=1e-9):
            raise ConfigError(f"{what} cannot be written in the position code {self.code.name!r}; use 'onehot'")
        return solved

    def by_label(self, term: Term, columns: "Encoding") -> Sparse:
        """A term as a matrix between labels: rows are those of this encoding, columns those of another or itself."""
        block, shape = Sparse.dense(term.weighted), (self.n_labels, columns.n_labels)
        at = self.labels[term.rows.name].start, columns.labels[term.columns.name].start
        return replace(block, rows=block.rows + at[0], columns=block.columns + at[1], shape=shape)

    def copied(self, form: Form, head: str, written: "Encoding") -> Sparse:
        """A head's OV circuit between coordinates: read here by label, written by label of another or itself."""
        read = [self.read(self.by_label(term, written), f"head {head!r}: {term.name}").T for term in form.terms]
        return Sparse.total([written.written(one).T for one in read], (self.size, written.size))

    def matched(self, term: Term, head: str, keys: "Encoding") -> Sparse:
        """A term of a QK circuit, between the coordinates of queries and those of keys.

        A shift is written in the position code's own way, but between the positions of two streams.
        """
        if keys is self and self.own_shift(term):
            return self._shifted(term)
        what = f"head {head!r}: {term.name}"
        return keys.read(self.read(self.by_label(term, keys), what).T, what).T

    def terms(self, head: Head) -> tuple[Term, ...]:
        """The terms that a head's scores are the sum of, scaled to fit the position code.

        In a low-rank code the neighbours of the target score as well, only `gap` less than the target. The sink must
        lie between the two. So every term that is no shift is multiplied by `gap`.
        """
        terms = head.scores.terms
        own = [] if head.cross else [term for term in terms if self.own_shift(term)]
        if not own:
            return terms
        if head.attend == "soft":
            raise ConfigError(
                f"head {head.name!r} is soft, and in the position code {self.code.name!r} {own[0].name} has scores of "
                "its own; use 'onehot'"
            )
        if not by_position(head):
            raise ConfigError(
                f"head {head.name!r}: in the position code {self.code.name!r} {own[0].name} scores every distance "
                "differently, so it cannot share a head with other matches; use 'onehot' or a head of its own"
            )
        gap = self.code.gap(self.n_ctx) * min(term.weight for term in own)
        return tuple(term if self.own_shift(term) else replace(term, weight=gap * term.weight) for term in terms)

    def own_shift(self, term: Term) -> bool:
        """Whether the position code writes this term in its own way: a shift of positions, with a weight above 0.

        One-hot positions have no way of their own. A shift longer than the text relates nothing, and is left out.
        """
        relates_positions = term.rows.name == term.columns.name == POS and bool(term.matrix.any())
        return relates_positions and term.shift is not None and term.weight > 0 and not isinstance(self.code, OneHot)

    def _shifted(self, term: Term) -> Sparse:
        shape = (self.size, self.size)
        if not isinstance(self.code, StreamCode):
            return Sparse.total([], shape)  # the model turns queries and keys itself
        where = torch.arange(self.size)
        at = torch.cat([where[self.slices[POS]], where[self.slices[ONE]]])
        found = Sparse.dense(term.weight * self.code.shift(term.shift or 0, self.n_ctx))
        return Sparse.of(at[found.rows], at[found.columns], found.values, shape)


def by_position(head: Head) -> bool:
    """Whether the scores depend on positions alone. A sink does: the start of the text is position 0."""
    return all(
        (term.rows.name in (ONE, POS) and term.columns.name == POS) or term.name == "sink" for term in head.scores.terms
    )
