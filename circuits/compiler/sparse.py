"""Sparse matrices: what a circuit writes and reads is mostly zero, so only its entries are kept."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sparse:
    """A matrix in float64 by its entries that are not zero, one for each place.

    Attributes:
        rows, columns: where the entries are.
        values: what they are.
        shape: of the matrix.
    """

    rows: Int[Tensor, "entries"]
    columns: Int[Tensor, "entries"]
    values: Float[Tensor, "entries"]
    shape: tuple[int, int]

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> "Sparse":
        """From any entries. Those at the same place are added up, and those that are zero are left out."""
        place, where = (rows * shape[1] + columns).unique(return_inverse=True)
        sums = torch.zeros(len(place), dtype=torch.float64).index_add_(0, where, values.double())
        place, sums = place[sums != 0], sums[sums != 0]
        return cls(place // max(shape[1], 1), place % max(shape[1], 1), sums, shape)

    @classmethod
    def dense(cls, matrix: Float[Tensor, "rows columns"]) -> "Sparse":
        """From a dense matrix."""
        rows, columns = matrix.nonzero().T
        return cls(rows, columns, matrix[rows, columns].double(), (matrix.shape[0], matrix.shape[1]))

    @classmethod
    def total(cls, matrices: Iterable["Sparse"], shape: tuple[int, int]) -> "Sparse":
        """The sum of matrices of this shape; zero if there are none."""
        given = [cls.dense(torch.zeros(shape[0], 0)), *matrices]
        rows, columns = (torch.cat([getattr(one, which) for one in given]) for which in ("rows", "columns"))
        return cls.of(rows, columns, torch.cat([one.values for one in given]), shape)

    @classmethod
    def beside(cls, matrices: Iterable["Sparse"]) -> "Sparse":
        """Matrices with equally many rows, side by side."""
        rows, columns, values, n, width = [], [], [], 0, 0
        for one in matrices:
            rows, columns, values = [*rows, one.rows], [*columns, one.columns + width], [*values, one.values]
            n, width = one.shape[0], width + one.shape[1]
        return cls(torch.cat(rows), torch.cat(columns), torch.cat(values), (n, width))

    @property
    def has_single_entries(self) -> bool:
        """Whether no column has more than one entry."""
        return len(self.columns.unique()) == len(self.columns)

    @property
    def T(self) -> "Sparse":
        """The transpose."""
        return Sparse(self.columns, self.rows, self.values, (self.shape[1], self.shape[0]))

    def moved(self, rows: Int[Tensor, "rows"], n_rows: int) -> "Sparse":
        """With every row at another place: row i at `rows[i]`, or left out where that is -1."""
        kept = (rows[self.rows] >= 0).nonzero()[:, 0]
        places = rows[self.rows[kept]]
        return Sparse(places, self.columns[kept], self.values[kept], (n_rows, self.shape[1]))

    def part(self, columns: slice) -> "Sparse":
        """Some neighbouring columns."""
        kept = ((self.columns >= columns.start) & (self.columns < columns.stop)).nonzero()[:, 0]
        shape = (self.shape[0], columns.stop - columns.start)
        return Sparse(self.rows[kept], self.columns[kept] - columns.start, self.values[kept], shape)

    def at(self, rows: slice) -> "Sparse":
        """Only what lies in some neighbouring rows, where it is; all else is zero."""
        kept = ((self.rows >= rows.start) & (self.rows < rows.stop)).nonzero()[:, 0]
        return Sparse(self.rows[kept], self.columns[kept], self.values[kept], self.shape)

    def to_dense(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "rows columns"]:
        """The whole matrix."""
        whole = torch.zeros(self.shape, dtype=dtype)
        whole[self.rows, self.columns] = self.values.to(dtype)
        return whole

    def times(self, factor: float) -> "Sparse":
        """Every entry times a factor other than 0."""
        return Sparse(self.rows, self.columns, factor * self.values, self.shape)

    def any(self) -> bool:
        """Whether there is an entry."""
        return len(self.values) > 0


def rank_factors(matrix: Sparse) -> tuple[Sparse, Sparse]:
    """The singular value decomposition of a matrix as U S and V, without singular values of zero.

    Rows and columns that share entries, directly or through others, make a component: the matrix is block diagonal in
    its components, and each is decomposed alone. A component of one entry, as all those of a permutation, is its own
    decomposition.
    """
    alone, others = _components(matrix)
    sizes, first = [matrix.values[alone].abs()], torch.arange(len(alone))
    # Entries of the vectors: where they are, which vector they belong to, and what they are.
    left = [(matrix.rows[alone], first, matrix.values[alone])]
    right = [(matrix.columns[alone], first, torch.ones(len(alone), dtype=torch.float64))]
    for entries in others:
        r, at_row = matrix.rows[entries].unique(return_inverse=True)
        c, at_column = matrix.columns[entries].unique(return_inverse=True)
        block = torch.zeros(len(r), len(c), dtype=torch.float64)
        block[at_row, at_column] = matrix.values[entries]
        U, S, Vh = torch.linalg.svd(block, full_matrices=False)
        which = torch.arange(len(S)) + sum(map(len, sizes))
        left.append((r.repeat(len(S)), which.repeat_interleave(len(r)), (U * S).T.flatten()))
        right.append((c.repeat(len(S)), which.repeat_interleave(len(c)), Vh.flatten()))
        sizes.append(S)
    S = torch.cat(sizes)
    order = S.argsort(descending=True, stable=True)
    order = order[S[order] > 1e-10 * S.amax()] if len(S) else order
    column = torch.full((len(S),), -1)
    column[order] = torch.arange(len(order))
    n, m = matrix.shape
    return _ordered(left, column, (n, len(order))), _ordered(right, column, (m, len(order)))


def _ordered(
    vectors: list[tuple[Tensor, Tensor, Tensor]], column: Int[Tensor, "vectors"], shape: tuple[int, int]
) -> Sparse:
    """Vectors as the columns of a matrix; those whose column is -1 are left out."""
    at, which, values = (torch.cat([one[i] for one in vectors]) for i in range(3))
    kept = column[which] >= 0
    return Sparse.of(at[kept], column[which[kept]], values[kept], shape)


def _components(matrix: Sparse) -> tuple[Int[Tensor, "alone"], list[Int[Tensor, "entries_of_one"]]]:
    """Entries that share neither row nor column with another, and the other entries by component."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = sum(matrix.shape)
    ends = matrix.rows.numpy(), matrix.columns.numpy() + matrix.shape[0]
    graph = coo_array((torch.ones(len(matrix.rows)).numpy(), ends), (n, n))
    of_node = torch.from_numpy(connected_components(graph, directed=False)[1]).long()
    _, of_entry, counts = of_node[matrix.rows].unique(return_inverse=True, return_counts=True)
    in_order = of_entry.argsort(stable=True).split(counts.tolist())
    return (counts[of_entry] == 1).nonzero()[:, 0], [entries for entries in in_order if len(entries) > 1]
