"""Where a circuit's coordinates lie in the residual stream: which direction each writes, and how each is read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.compiler.sparse import Sparse
from circuits.language import cut
from interp.errors import ConfigError, RankError, describe

EPS = 1e-5
"""What the norms add to the variance."""


@dataclass(frozen=True, eq=False)
class Basis:
    """Directions in the stream.

    With a norm the stream is [x, -x, C, -C], C the ballast: its mean is zero and its variance nearly constant, so that
    the norm divides by nearly the same number everywhere, which its gain makes good.

    Attributes:
        width: how many coordinates there is room for; those beyond the circuit's own are spare.
        directions: the direction of each coordinate in x, [coordinates, width]; None where each is a dimension.
        ballast: the C; None without a norm.
        interference: the largest overlap of two directions; 0 unless compressed.
    """

    width: int
    directions: Float[Tensor, "coordinates width"] | None
    ballast: float | None
    interference: float = 0.0

    @property
    def d_model(self) -> int:
        """Dimensions of the stream."""
        return self.width if self.ballast is None else 2 * self.width + 2

    @property
    def gain(self) -> float:
        """The weight of every norm: the scale of a stream that holds the ballast alone. 1 without norms."""
        return 1.0 if self.ballast is None else math.sqrt(2 * self.ballast**2 / self.d_model + EPS)

    @property
    def constant(self) -> Float[Tensor, "d_model"]:
        """What every token adds: the ballast."""
        added = torch.zeros(self.d_model, dtype=torch.float64)
        if self.ballast is not None:
            added[-2:] = torch.tensor([self.ballast, -self.ballast])
        return added

    def writes(self, columns: Sparse, dtype: torch.dtype = torch.float64) -> Float[Tensor, "columns d_model"]:
        """Vectors by coordinate, as columns, written into the stream."""
        x = self._placed(columns, dtype)
        return x if self.ballast is None else torch.cat([x, -x, torch.zeros(len(x), 2, dtype=dtype)], dim=1)

    def reads(self, columns: Sparse, dtype: torch.dtype = torch.float64) -> Float[Tensor, "d_model columns"]:
        """What reads vectors by coordinate, given as columns, out of the stream again."""
        x = self._placed(columns, dtype)
        if self.ballast is None:
            return x.T
        return torch.cat([x / 2, -x / 2, torch.zeros(len(x), 2, dtype=dtype)], dim=1).T

    def _placed(self, columns: Sparse, dtype: torch.dtype) -> Float[Tensor, "columns width"]:
        """Vectors by coordinate, as columns, by dimension, as rows. They are computed in float64, and then rounded."""
        if self.directions is None:
            return replace(columns, shape=(self.width, columns.shape[1])).T.to_dense(dtype)
        used, rows = columns.rows.unique(return_inverse=True)
        rows_of_used = replace(columns, rows=rows, shape=(len(used), columns.shape[1])).T.to_dense()
        return (rows_of_used @ self.directions[used]).to(dtype)


def width_of(d_model: int, norm: str | None) -> int:
    """How many coordinates there is room for. Raises `ConfigError` for a stream that cannot be halved."""
    extra, copies = (0, 1) if norm is None else (2, 2)
    if (d_model - extra) % copies:
        raise ConfigError(f"d_model = {d_model} is odd: with norm = {describe(norm)} the stream is [x, -x, C, -C]")
    return (d_model - extra) // copies


def make_basis(
    sizes: Mapping[str, int],
    d_model: int | None,
    rotate: int | None,
    compress: bool,
    norm: Literal["LN", "RMS"] | None,
    ballast: float,
    spare: int = 0,
) -> Basis:
    """A basis for the coordinates of spaces of these sizes.

    Without options, the first dimensions of the stream. `rotate` turns them by a random orthogonal matrix with that
    seed. With `compress`, `d_model` is less than the spaces need, and directions overlap as little as can be arranged.
    `spare` is how many more coordinates there are by default. Raises `RankError` for a `d_model` that is too small,
    with the spaces; `ConfigError` for one that cannot be halved, or leaves no spare direction where some are needed.
    """
    size = sum(sizes.values())
    width = size + spare if d_model is None else width_of(d_model, norm)
    if width < size and not compress:
        widest = ", ".join(f"{name} {n}" for name, n in sorted(sizes.items(), key=lambda one: -one[1]))
        raise RankError(
            f"the circuit's spaces need d_model >= {size if norm is None else 2 * size + 2} but d_model = {d_model} "
            f"({cut(widest, 120)}); raise d_model, or say compress=True, which loses exactness"
        )
    if spare and width == size:
        raise ConfigError(f"fill: d_model = {d_model} leaves no spare direction, as the circuit takes {size}; raise it")
    if width < 1 or (compress and width >= size):
        raise ConfigError(f"d_model = {d_model} with compress = {compress}: the spaces have {size} coordinates")
    directions, interference = None, 0.0
    if compress:
        directions = _spread_out(size, width, rotate or 0)
        overlaps = directions @ directions.T - torch.eye(size, dtype=torch.float64)
        interference = float(overlaps.abs().max())
    elif rotate is not None:
        directions = _orthogonal(width, rotate)
    return Basis(width, directions, None if norm is None else ballast, interference)


def _orthogonal(size: int, seed: int) -> Float[Tensor, "size size"]:
    """A random orthogonal matrix, uniformly distributed (Mezzadri 2007: QR, with the signs of R taken out)."""
    sample = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator("cpu").manual_seed(seed))
    q, r = torch.linalg.qr(sample)
    return q * r.diagonal().sign()


def _spread_out(size: int, width: int, seed: int, n_steps: int = 500) -> Float[Tensor, "size width"]:
    """Unit vectors that overlap little: gradient descent on the sum of the fourth powers of their products."""
    generator = torch.Generator("cpu").manual_seed(seed)
    vectors = torch.randn(size, width, dtype=torch.float64, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=0.02)
    off_diagonal = 1 - torch.eye(size, dtype=torch.float64)
    with torch.enable_grad():
        for _ in range(n_steps):
            unit = vectors / vectors.norm(dim=1, keepdim=True)
            loss = ((unit @ unit.T) * off_diagonal).pow(4).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return (vectors / vectors.norm(dim=1, keepdim=True)).detach()
