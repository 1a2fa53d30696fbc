"""Encoding: from matrices between labels to matrices between coordinates of the stream.

Each label is one coordinate, except for positions: a low-rank code writes them with fewer coordinates than there are
positions.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.compiler.positions import OneHot, PositionCode, StreamCode
from circuits.language import Form, Head, Layout, Term
from interp.errors import ConfigError

POS, ONE = "pos", "one"


class Encoding:
    """Coordinates of the stream before a basis is chosen.

    Attributes:
        slices: where each space lies.
        size: how many coordinates there are.
    """

    def __init__(self, layout: Layout, code: PositionCode):
        self.layout, self.code, self.n_ctx = layout, code, layout.declaration.n_ctx
        self.vectors = code.vectors(self.n_ctx)
        self.slices: dict[str, slice] = {}
        self.size = 0
        for space in layout.spaces:
            width = self.vectors.shape[1] if space.name == POS else len(space)
            self.slices[space.name] = slice(self.size, self.size + width)
            self.size += width

    def written(self, rows: Float[Tensor, "rows labels"]) -> Float[Tensor, "rows size"]:
        """Vectors that are written, given by label, in coordinates."""
        parts = []
        for space in self.layout.spaces:
            block = rows[:, self.layout.slices[space.name]]
            parts.append(block @ self.vectors if space.name == POS else block)
        return torch.cat(parts, dim=1)

    def read(self, columns: Float[Tensor, "labels columns"], what: str) -> Float[Tensor, "size columns"]:
        """Vectors that are read, given by label, in coordinates.

        Raises `ConfigError` about `what` where the position code cannot give them.
        """
        parts = []
        for space in self.layout.spaces:
            block = columns[self.layout.slices[space.name]]
            parts.append(self._solved(block, what) if space.name == POS else block)
        return torch.cat(parts, dim=0)

    def _solved(self, block: Float[Tensor, "labels columns"], what: str) -> Float[Tensor, "width columns"]:
        """The solution x of vectors @ x = block."""
        if isinstance(self.code, OneHot):
            return block
        width = self.vectors.shape[1]
        if width and block.any():
            solved = torch.linalg.lstsq(self.vectors, block, driver="gelsd").solution
        else:
            solved = torch.zeros(width, block.shape[1], dtype=torch.float64)
        if not torch.allclose(self.vectors @ solved, block, atol=1e-9):
            raise ConfigError(f"{what} cannot be written in the position code {self.code.name!r}; use 'onehot'")
        return solved

    def copied(self, form: Form, head: str) -> Float[Tensor, "size size"]:
        """A head's OV circuit: read by label, written by label."""
        return sum((self.written(self.read(self.layout.matrix(Form((term,))), f"head {head!r}: {term.name}"))
                    for term in form.terms), torch.zeros(self.size, self.size, dtype=torch.float64))  # fmt: skip

    def matched(self, term: Term, head: str) -> Float[Tensor, "size size"]:
        """A term of a QK circuit, between coordinates. A shift is written in the position code's own way."""
        if self.own_shift(term):
            return self._shifted(term)
        what = f"head {head!r}: {term.name}"
        return self.read(self.read(self.layout.matrix(Form((term,))), what).T, what).T

    def terms(self, head: Head) -> tuple[Term, ...]:
        """The terms that a head's scores are the sum of, scaled to fit the position code.

        In a low-rank code the neighbours of the target score as well, only `gap` less than the target. The sink must
        lie between the two. So every term that is no shift is multiplied by `gap`.
        """
        terms = head.scores.terms
        own = [term for term in terms if self.own_shift(term)]
        if not own:
            return terms
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

    def _shifted(self, term: Term) -> Float[Tensor, "size size"]:
        whole = torch.zeros(self.size, self.size, dtype=torch.float64)
        if not isinstance(self.code, StreamCode):
            return whole  # the model turns queries and keys itself
        where = torch.arange(self.size)
        at = torch.cat([where[self.slices[POS]], where[self.slices[ONE]]])
        whole[at[:, None], at] = term.weight * self.code.shift(term.shift or 0, self.n_ctx)
        return whole


def by_position(head: Head) -> bool:
    """Whether the scores depend on positions alone. A sink does: the start of the text is position 0."""
    return all(
        (term.rows.name in (ONE, POS) and term.columns.name == POS) or term.name == "sink" for term in head.scores.terms
    )
