"""Where a circuit's coordinates lie in the residual stream: which direction each writes, and how each is read."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, RankError, describe

EPS = 1e-5
"""What the norms add to the variance."""


@dataclass(frozen=True, eq=False)
class Basis:
    """Directions in the stream.

    Attributes:
        write: the direction of each coordinate.
        read: what takes each coordinate out of the stream again; `write @ read` is the identity, or near it.
        constant: what every token adds (ballast).
        gain: the weight of every norm: the scale of a stream that holds the ballast alone. 1 without norms.
        interference: the largest overlap of two directions; 0 unless compressed.
    """

    write: Float[Tensor, "size d_model"]
    read: Float[Tensor, "d_model size"]
    constant: Float[Tensor, "d_model"]
    gain: float = 1.0
    interference: float = 0.0


def make_basis(
    size: int,
    d_model: int | None,
    rotate: int | None,
    compress: bool,
    norm: Literal["LN", "RMS"] | None,
    ballast: float,
) -> Basis:
    """A basis for `size` coordinates.

    Without options, the first dimensions of the stream. `rotate` turns them by a random orthogonal matrix with that
    seed. With `compress`, `d_model` is less than `size`, and directions overlap as little as can be arranged. With a
    norm the stream is [x, -x, C, -C], C the ballast: its mean is zero and its variance nearly constant, so that the
    norm divides by nearly the same number everywhere, which its gain makes good. Raises `RankError` for a `d_model`
    that is too small, `ConfigError` for one that cannot be halved.
    """
    extra = 0 if norm is None else 2
    copies = 1 if norm is None else 2
    width = size if d_model is None else (d_model - extra) // copies
    if d_model is not None and copies * width + extra != d_model:
        raise ConfigError(f"d_model = {d_model} is odd: with norm = {describe(norm)} the stream is [x, -x, C, -C]")
    if width < size and not compress:
        raise RankError(
            f"the circuit's spaces need d_model >= {copies * size + extra} but d_model = {d_model}; raise d_model, or "
            "say compress=True, which loses exactness"
        )
    if width < 1 or (compress and width >= size):
        raise ConfigError(f"d_model = {d_model} with compress = {compress}: the spaces have {size} coordinates")
    if compress:
        directions = _spread_out(size, width, rotate or 0)
    elif rotate is None:
        directions = torch.eye(size, width, dtype=torch.float64)
    else:
        directions = _orthogonal(width, rotate)[:size]
    overlaps = directions @ directions.T - torch.eye(size, dtype=torch.float64)
    interference = float(overlaps.abs().max()) if compress else 0.0
    if norm is None:
        return Basis(directions, directions.T, torch.zeros(width, dtype=torch.float64), interference=interference)
    nothing, total = torch.zeros(size, 2, dtype=torch.float64), 2 * width + 2
    write = torch.cat([directions, -directions, nothing], dim=1)
    constant = torch.zeros(total, dtype=torch.float64)
    constant[-2:] = torch.tensor([ballast, -ballast])
    return Basis(write, write.T / 2, constant, math.sqrt(2 * ballast**2 / total + EPS), interference)


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
