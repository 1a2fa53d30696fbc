"""`FactoredMatrix` as TransformerLens names it, over the core's."""

from functools import cached_property
from numbers import Real
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

import interp
from interp.compat.transformer_lens.checks import LensError, ensure
from interp.errors import ShapeError
from interp.precision import at_least_float32


class FactoredMatrix:
    """The product `A @ B`, [*batch, ldim, rdim], kept as its factors.

    As in TransformerLens, and unlike the core's: `svd()` and `Vh` have the right singular vectors as columns, indexing
    always gives a FactoredMatrix (an integer keeps its row or column as an axis of size 1), and `eigenvalues` is a
    property with all `mdim` of them, in no order.

    Attributes:
        core: the same matrix as an `interp.FactoredMatrix`, which all of interp's own functions take.

    Raises `LensError`, which is a `ShapeError`, for factors that do not fit.
    """

    def __init__(self, A: Float[Tensor, "*batch_a ldim inner_a"], B: Float[Tensor, "*batch_b inner_b rdim"]):
        try:
            self.core = interp.FactoredMatrix(A, B)
        except ShapeError as error:
            raise LensError(f"Shape mismatch: {error}") from None

    A = property(lambda self: self.core.A, doc="[*batch, ldim, mdim].")
    B = property(lambda self: self.core.B, doc="[*batch, mdim, rdim].")
    AB = property(lambda self: self.core.dense(), doc="Multiplied out.")
    pair = property(lambda self: (self.A, self.B), doc="Both factors.")
    shape = property(lambda self: self.core.shape, doc="[*batch, ldim, rdim].")
    ndim = property(lambda self: self.core.ndim, doc="How many axes there are.")
    ldim = property(lambda self: self.shape[-2], doc="Rows.")
    rdim = property(lambda self: self.shape[-1], doc="Columns.")
    mdim = property(lambda self: self.core.rank, doc="The width of the factors.")
    has_leading_dims = property(lambda self: self.ndim > 2, doc="Whether it is a batch of matrices.")
    T = property(lambda self: FactoredMatrix(self.B.mT, self.A.mT), doc="Rows and columns exchanged.")
    U = property(lambda self: self.svd()[0], doc="Left singular vectors as columns, [*batch, ldim, k].")
    S = property(lambda self: self.svd()[1], doc="Singular values, falling, [*batch, k].")
    Vh = property(lambda self: self.svd()[2], doc="Right singular vectors as columns, [*batch, rdim, k].")

    def __getstate__(self) -> dict[str, Any]:
        return {"core": self.core}  # a copy has no singular vectors yet

    def __repr__(self) -> str:
        return f"FactoredMatrix: Shape({self.shape}), Hidden Dim({self.mdim})"

    @property
    def BA(self) -> Float[Tensor, "*batch mdim mdim"]:
        """`B @ A`. Raises `LensError` unless the matrix is square."""
        ensure(self.rdim == self.ldim, f"Can only take ba if ldim==rdim, shapes were self: {self.shape}")
        return self.B @ self.A

    @property
    def eigenvalues(self) -> Complex[Tensor, "*batch mdim"]:
        """Those of `B @ A`, which are those of `A @ B` but for zeros."""
        return torch.linalg.eig(at_least_float32(self.BA)).eigenvalues

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U, S and V, so that `U @ S.diag() @ V.mT` is the matrix."""
        return self._svd

    @cached_property
    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        U, S, Vh = self.core.svd()
        return U, S, Vh.mT

    def norm(self) -> Float[Tensor, "*batch"]:
        """The Frobenius norm."""
        return self.core.norm()

    def make_even(self) -> "FactoredMatrix":
        """The same matrix, each factor with the roots of the singular values."""
        root = self.S.sqrt()
        return FactoredMatrix(self.U * root[..., None, :], root[..., :, None] * self.Vh.mT)

    def collapse_l(self) -> Float[Tensor, "*batch k rdim"]:
        """`S Vh`: without the orthonormal left factor."""
        return self.S[..., :, None] * self.Vh.mT

    def collapse_r(self) -> Float[Tensor, "*batch ldim k"]:
        """`U S`: without the orthonormal right factor."""
        return self.U * self.S[..., None, :]

    def get_corner(self, k: int = 3) -> Float[Tensor, "..."]:
        """The first `k` along every axis, multiplied out."""
        return (self.A[..., :k, :] @ self.B[..., :k])[(slice(k),) * self.ndim]

    def unsqueeze(self, k: int) -> "FactoredMatrix":
        """Both factors with a batch axis more."""
        return FactoredMatrix(self.A.unsqueeze(k), self.B.unsqueeze(k))

    def __matmul__(self, other: "Tensor | FactoredMatrix") -> Any:
        """With a matrix a FactoredMatrix of the lower rank, with a vector a tensor."""
        if isinstance(other, FactoredMatrix):
            return (self @ other.A) @ other.B
        if not isinstance(other, Tensor):
            return NotImplemented
        self._check_inner("Right", other, other.shape[max(other.ndim - 2, 0)], self.rdim)
        if other.ndim < 2:
            return self.core @ other
        return FactoredMatrix(self.A, self.B @ other) if self.rdim > self.mdim else FactoredMatrix(self.AB, other)

    def __rmatmul__(self, other: Tensor) -> Any:
        if not isinstance(other, Tensor):
            return NotImplemented
        self._check_inner("Left", other, other.shape[-1], self.ldim)
        if other.ndim < 2:
            return other @ self.core
        return FactoredMatrix(other @ self.A, self.B) if self.ldim > self.mdim else FactoredMatrix(other, self.AB)

    def _check_inner(self, side: str, other: Tensor, size: int, needed: int) -> None:
        ensure(
            size == needed,
            f"{side} matrix must match on inner dimension, shapes were self: {self.shape}, other: {other.shape}",
        )

    def __mul__(self, scalar: "int | float | Tensor") -> "FactoredMatrix":
        """Times one number."""
        if not isinstance(scalar, Real | Tensor):
            return NotImplemented
        single = not isinstance(scalar, Tensor) or scalar.numel() == 1
        ensure(single, f"Tensor must be a scalar for use with *, not of shape {getattr(scalar, 'shape', ())}; use @")
        return FactoredMatrix(self.A * scalar, self.B)

    __rmul__ = __mul__

    def __getitem__(self, index: Any) -> "FactoredMatrix":
        """Batch axes as of a tensor; then rows of A, then columns of B."""
        index = index if isinstance(index, tuple) else (index,)
        extra = sum(part is not None for part in index) - (self.ndim - 2)
        ensure(extra <= 2, f"{index} is too long an index for a FactoredMatrix with shape {self.shape}")
        if extra <= 0:
            return FactoredMatrix(self.A[index], self.B[index])
        batch, (row, column) = index[:-extra], (*map(_kept, index[-extra:]), slice(None))[:2]
        return FactoredMatrix(self.A[(*batch, row)], self.B[(*batch, slice(None), column)])


def _kept(part: Any) -> Any:
    """The same index, with an axis of size 1 where an integer would take it away."""
    return slice(part, part + 1 or None) if isinstance(part, int) else part
