"""FactoredMatrix: a product of two matrices that is never multiplied out.

The circuits of a head are such products: `W_Q W_K^T` and `W_V W_O` are [d_model, d_model] but of rank d_head, and with
embeddings on both sides [d_vocab, d_vocab] (Elhage et al. 2021). Everything here costs what the two thin factors cost.
"""

import operator
from numbers import Real
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from interp.errors import ShapeError, describe
from interp.precision import at_least_float32, without_autocast


class SVD(NamedTuple):
    """`U @ diag(S) @ Vh`, with as many singular values as the factors can give: min(rows, rank, columns), falling.

    Attributes:
        U: [*batch, rows, k], orthonormal columns, those of singular values 0 too.
        S: [*batch, k].
        Vh: [*batch, k, columns], orthonormal rows.
    """

    U: Float[Tensor, "*batch rows k"]
    S: Float[Tensor, "*batch k"]
    Vh: Float[Tensor, "*batch k columns"]


class FactoredMatrix:
    """The matrix `A @ B` of shape [*batch, rows, columns]; behaves like that tensor and keeps only A and B.

    Batch axes of A and B broadcast against each other. Results that are no matrices (singular values, eigenvalues,
    norms) are computed in float32 at least; factors of float16 and bfloat16 are multiplied in float32 and rounded once.

    Indexing gives what indexing the dense tensor gives. Slices, lists and masks of rows or columns keep it factored; an
    integer there takes one row, column or entry, which is an ordinary tensor: `m[3]` of a [5, rows, columns] stack is
    the fourth matrix, `m[3, 0]` its first row, `m[:, :, 1]` the second column of each.

    Attributes:
        A: [*batch, rows, rank].
        B: [*batch, rank, columns].

    Raises:
        ShapeError: the factors do not fit, or are not of one floating dtype on one device.
    """

    A: Float[Tensor, "*batch rows rank"]
    B: Float[Tensor, "*batch rank columns"]

    def __init__(self, A: Float[Tensor, "*batch_a rows rank"], B: Float[Tensor, "*batch_b rank columns"]):
        shapes = f"A is {list(A.shape)} and B is {list(B.shape)}"
        if A.ndim < 2 or B.ndim < 2 or A.shape[-1] != B.shape[-2]:
            raise ShapeError(f"{shapes}; A [*batch, rows, rank] and B [*batch, rank, columns] are needed")
        if A.dtype != B.dtype or A.device != B.device or not A.is_floating_point():
            kinds = f"A is {A.dtype} on {A.device}, B is {B.dtype} on {B.device}"
            raise ShapeError(f"{kinds}; both must be of one floating dtype on one device")
        batch = _batch_of(A.shape, B.shape)
        self.A, self.B = A.expand(*batch, -1, -1), B.expand(*batch, -1, -1)

    def __getstate__(self) -> dict[str, Any]:
        """What deep copies and pickles take: values alone, beside the graph that made them."""
        return {"A": self.A.detach(), "B": self.B.detach()}

    def __copy__(self) -> "FactoredMatrix":
        """The same factors, still in their graph."""
        return FactoredMatrix(self.A, self.B)

    # ------------------------------------------------------------------ like a tensor

    @property
    def shape(self) -> torch.Size:
        """[*batch, rows, columns]."""
        return torch.Size([*self.A.shape[:-1], self.B.shape[-1]])

    @property
    def ndim(self) -> int:
        """How many axes there are, batch axes included."""
        return self.A.ndim

    @property
    def rank(self) -> int:
        """The width of the factors: the matrix has at most this rank."""
        return self.A.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Of both factors."""
        return self.A.dtype

    @property
    def device(self) -> torch.device:
        """Of both factors."""
        return self.A.device

    @property
    def T(self) -> "FactoredMatrix":
        """Rows and columns exchanged; batch axes stay."""
        return FactoredMatrix(self.B.mT, self.A.mT)

    def to(self, *args: Any, **kwargs: Any) -> "FactoredMatrix":
        """On another device, or in another floating dtype, as `Tensor.to`."""
        return FactoredMatrix(self.A.to(*args, **kwargs), self.B.to(*args, **kwargs))

    @without_autocast()
    def dense(self) -> Float[Tensor, "*batch rows columns"]:
        """Multiplied out."""
        return (at_least_float32(self.A) @ at_least_float32(self.B)).to(self.dtype)

    collapse = dense

    def __repr__(self) -> str:
        return f"FactoredMatrix({list(self.shape)} of rank <= {min(self.rank, *self.shape[-2:])}, {self.dtype})"

    # ------------------------------------------------------------------ arithmetic

    @overload
    def __matmul__(self, other: "FactoredMatrix") -> "FactoredMatrix": ...
    @overload
    def __matmul__(self, other: Tensor) -> Any: ...
    @without_autocast()
    def __matmul__(self, other: "Tensor | FactoredMatrix") -> Any:
        """With a matrix or a FactoredMatrix a FactoredMatrix, with a vector [columns] a tensor [*batch, rows]."""
        if not isinstance(other, Tensor | FactoredMatrix):
            return NotImplemented
        _check_product(self, other)
        A, B = at_least_float32(self.A), at_least_float32(self.B)
        if isinstance(other, Tensor):
            inner = B @ at_least_float32(other)
            return (A @ inner[..., None])[..., 0].to(self.dtype) if other.ndim == 1 else self._like(A, inner)
        # [*batch, rank, rank of the other], which joins the side that leaves the lower rank
        inner = B @ at_least_float32(other.A)
        if self.rank <= other.rank:
            return self._like(A, inner @ at_least_float32(other.B))
        return self._like(A @ inner, other.B)

    @without_autocast()
    def __rmatmul__(self, other: Tensor) -> Any:
        if not isinstance(other, Tensor):
            return NotImplemented
        _check_product(other, self)
        inner, B = at_least_float32(other) @ at_least_float32(self.A), at_least_float32(self.B)
        return (inner[..., None, :] @ B)[..., 0, :].to(self.dtype) if other.ndim == 1 else self._like(inner, B)

    def _like(self, A: Tensor, B: Tensor) -> "FactoredMatrix":
        return FactoredMatrix(A.to(self.dtype), B.to(self.dtype))

    def __add__(self, other: "FactoredMatrix") -> "FactoredMatrix":
        """The sum, its rank the sum of the ranks."""
        if not isinstance(other, FactoredMatrix):
            return NotImplemented
        if self.shape[-2:] != other.shape[-2:]:
            raise ShapeError(f"matrices of shapes {list(self.shape)} and {list(other.shape)} have no sum")
        batch = _batch_of(self.shape, other.shape)
        return FactoredMatrix(
            torch.cat([m.A.expand(*batch, -1, -1) for m in (self, other)], dim=-1),
            torch.cat([m.B.expand(*batch, -1, -1) for m in (self, other)], dim=-2),
        )

    def __sub__(self, other: "FactoredMatrix") -> "FactoredMatrix":
        return self + -other if isinstance(other, FactoredMatrix) else NotImplemented

    def __neg__(self) -> "FactoredMatrix":
        return FactoredMatrix(-self.A, self.B)

    def __mul__(self, factor: "int | float | Tensor") -> "FactoredMatrix":
        """Times a number, or a tensor with one for each matrix, [*batch, 1, 1]."""
        if not isinstance(factor, Real | Tensor):
            return NotImplemented
        return FactoredMatrix(self.A * _one_a_matrix(factor), self.B)

    __rmul__ = __mul__

    def __truediv__(self, divisor: "int | float | Tensor") -> "FactoredMatrix":
        """Divided by a number, or by a tensor with one for each matrix, [*batch, 1, 1]."""
        if not isinstance(divisor, Real | Tensor):
            return NotImplemented
        return FactoredMatrix(self.A / _one_a_matrix(divisor), self.B)

    # ------------------------------------------------------------------ what the matrix is

    @without_autocast()
    def svd(self) -> SVD:
        """The singular value decomposition, from those of A, of B and of a matrix no larger than [rank, rank]."""
        (q_A, r_A), (q_B, r_B) = torch.linalg.qr(at_least_float32(self.A)), torch.linalg.qr(at_least_float32(self.B).mT)
        U, S, Vh = torch.linalg.svd(r_A @ r_B.mT, full_matrices=False)
        return SVD(q_A @ U, S, Vh @ q_B.mT)

    @without_autocast()
    def singular_values(self) -> Float[Tensor, "*batch k"]:
        """The S of `svd`, falling."""
        return torch.linalg.svdvals(self._core())

    @without_autocast()
    def norm(self) -> Float[Tensor, "*batch"]:
        """The Frobenius norm."""
        return torch.linalg.matrix_norm(self._core())

    def trace(self) -> Float[Tensor, "*batch"]:
        """The sum of the diagonal. Raises `ShapeError` unless the matrix is square."""
        self._check_square("a trace")
        return (at_least_float32(self.A) * at_least_float32(self.B).mT).sum(dim=(-2, -1))

    @without_autocast()
    def eigenvalues(self) -> Complex[Tensor, "*batch k"]:
        """The min(rows, rank) eigenvalues that can differ from 0, of falling size; all others are 0.

        `A B` and `B A` share them. Raises `ShapeError` unless the matrix is square.
        """
        self._check_square("eigenvalues")
        A, B = at_least_float32(self.A), at_least_float32(self.B)
        found = torch.linalg.eigvals(B @ A if self.rank < self.shape[-1] else A @ B)
        return found.gather(-1, found.abs().argsort(dim=-1, descending=True))

    @without_autocast()
    def reduced(self) -> Float[Tensor, "*batch k columns"]:
        """Fewer rows, k = min(rows, rank), that measure the same: `|reduced @ x| = |matrix @ x|` for every x."""
        return _triangle(at_least_float32(self.A)) @ at_least_float32(self.B)

    def _core(self) -> Tensor:
        """A small matrix with the same singular values: what is left of the factors without their orthonormal parts."""
        return _triangle(at_least_float32(self.A)) @ _triangle(at_least_float32(self.B).mT).mT

    def _check_square(self, what: str) -> None:
        if self.shape[-1] != self.shape[-2]:
            raise ShapeError(f"a matrix of shape {list(self.shape)} is not square, so it has no such thing as {what}")

    # ------------------------------------------------------------------ indexing

    def __getitem__(self, index: Any) -> Any:
        batch, row, column = self._split(index)
        A, B = self.A[batch], self.B[batch]
        part = FactoredMatrix(A[..., _kept(row), :], B[..., _kept(column)])
        single = [axis for axis, one in ((-2, row), (-1, column)) if isinstance(one, int)]
        return part.dense().squeeze(single) if single else part

    def _split(self, index: Any) -> tuple[tuple[Any, ...], Any, Any]:
        """What is asked of the batch axes, of the rows and of the columns."""
        parts = [_plain(part) for part in (index if isinstance(index, tuple) else (index,))]
        missing = self.ndim - sum(map(_n_axes, parts))
        if missing < 0:
            raise IndexError(f"too many indices for a FactoredMatrix of shape {list(self.shape)}")
        at = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
        parts[at : at + 1] = [slice(None)] * missing
        *batch, row, column = parts
        several = [sum(isinstance(part, Tensor) for part in some) for some in (parts, (row, column))]
        if (
            _n_axes(row) != 1
            or _n_axes(column) != 1
            or any(isinstance(p, Tensor) and p.ndim > 1 for p in (row, column))
        ):
            raise IndexError("rows and columns are taken by integers, slices, or lists or masks of one axis each")
        if several[1] and several[0] > 1:
            raise IndexError("lists and masks pair up where several meet rows or columns; index one axis after another")
        return tuple(batch), row, column


def _plain(part: Any) -> Any:
    """One index as int, slice, None, Ellipsis or Tensor."""
    if part is None or part is Ellipsis or isinstance(part, slice):
        return part
    if isinstance(part, Tensor | np.ndarray | list):
        part = torch.as_tensor(part, dtype=torch.long if isinstance(part, list) and not part else None)
        return int(part) if part.ndim == 0 and part.dtype != torch.bool else part
    if isinstance(part, bool) or not hasattr(part, "__index__"):
        raise IndexError(f"{describe(part)} is no index; allowed: integers, slices, None, ..., lists and masks")
    return operator.index(part)


def _n_axes(part: Any) -> int:
    """How many axes of the matrix an index takes up."""
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if isinstance(part, Tensor) and part.dtype == torch.bool else 1


def _kept(part: Any) -> Any:
    """The same index, with an axis of size 1 where an integer would take it away."""
    return [part] if isinstance(part, int) else part


def _check_product(left: "Tensor | FactoredMatrix", right: "Tensor | FactoredMatrix") -> None:
    shapes = f"matrices of shapes {list(left.shape)} and {list(right.shape)}"
    if not left.ndim or not right.ndim or left.shape[-1] != right.shape[max(right.ndim - 2, 0)]:
        raise ShapeError(f"{shapes} have no product")
    if left.dtype != right.dtype or left.device != right.device:
        raise ShapeError(f"{shapes} are {left.dtype} on {left.device} and {right.dtype} on {right.device}; bring them "
                         "together with .to")  # fmt: skip
    _batch_of(left.shape, right.shape)


def _batch_of(left: torch.Size, right: torch.Size) -> torch.Size:
    """The batch axes of both together."""
    try:
        return torch.broadcast_shapes(left[:-2], right[:-2])
    except RuntimeError:
        raise ShapeError(f"the batch axes of {list(left)} and {list(right)} do not broadcast") from None


def _one_a_matrix(factor: "int | float | Tensor") -> "int | float | Tensor":
    if isinstance(factor, Tensor) and factor.ndim and (factor.ndim < 2 or factor.shape[-2:] != (1, 1)):
        raise ShapeError(
            f"a factor is one number, or [*batch, 1, 1], not {list(factor.shape)}; diag(x) @ m scales rows"
        )
    return factor


def _triangle(x: Tensor) -> Tensor:
    """The R of its QR decomposition; a gradient needs the Q too."""
    return torch.linalg.qr(x, mode="reduced" if x.requires_grad and torch.is_grad_enabled() else "r").R
