"""Position codes: how `pos` lies in the residual stream, and how "attend n back" is written in it.

One-hot positions can say anything and cost a rank of n_ctx. A low-rank code writes one thing cheaply, a shift: its
score is largest where the key's position is the query's minus n, and falls off to both sides.

| code | vectors | score at distance d from the target | rank |
|---|---|---|---|
| one-hot | unit vectors | 1 at d = 0, else 0 | n_ctx - 1 |
| quadratic | (i, i^2) and the constant | -d^2 | 2 |
| circle | (cos, sin) of one angle, once around in n_ctx + 1 steps | cos(2 pi d / (n_ctx + 1)) | 2 |
| sinusoidal | the same at many frequencies | sum of cos(w d) | 2 each |
| rotary | none: queries and keys are turned by the model | sum of cos(w d) | rotary_dim |

Sources: Vaswani et al. 2017, section 3.5 (sinusoidal); Su et al. 2021 (rotary).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.language import Number, is_finite
from interp.errors import ConfigError, check_choice, describe
from interp.indices import is_index

ROTARY_DIM = 64


@dataclass(frozen=True)
class PositionCode(ABC):
    """What every code can be asked.

    Attributes:
        name: as `compile(positions=...)` takes it.
    """

    name: ClassVar[str]

    @abstractmethod
    def vectors(self, n_ctx: int) -> Float[Tensor, "n_ctx width"]:
        """What each position writes into the stream."""

    @abstractmethod
    def scores(self, n: int, n_ctx: int) -> Float[Tensor, "query_pos key_pos"]:
        """The scores that `shift(n)` gives."""

    def gap(self, n_ctx: int) -> float:
        """How much less than the target its neighbours score."""
        scores = self.scores(0, n_ctx)
        return float(scores[0, 0] - scores[0, 1:].max()) if n_ctx > 1 else 1.0


class StreamCode(PositionCode):
    """A code that is written into the stream, where queries and keys read it."""

    @abstractmethod
    def shift(self, n: int, n_ctx: int) -> Float[Tensor, "width_and_one width_and_one"]:
        """Query x key, over the code's dimensions and the constant: the match of positions under `shift(n)`."""

    def scores(self, n: int, n_ctx: int) -> Float[Tensor, "query_pos key_pos"]:
        """The scores that `shift(n)` gives."""
        with_one = torch.cat([self.vectors(n_ctx), torch.ones(n_ctx, 1, dtype=torch.float64)], dim=1)
        return with_one @ self.shift(n, n_ctx) @ with_one.T


@dataclass(frozen=True)
class OneHot(StreamCode):
    """A unit vector for each position.

    >>> OneHot().vectors(2)
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    """

    name = "onehot"

    def vectors(self, n_ctx: int) -> Float[Tensor, "n_ctx width"]:
        """Unit vectors."""
        return torch.eye(n_ctx, dtype=torch.float64)

    def shift(self, n: int, n_ctx: int) -> Float[Tensor, "width_and_one width_and_one"]:
        """1 where the key's position is the query's minus n."""
        whole = torch.zeros(n_ctx + 1, n_ctx + 1, dtype=torch.float64)
        if abs(n) < n_ctx:
            whole[:n_ctx, :n_ctx] = torch.diag(torch.ones(n_ctx - abs(n), dtype=torch.float64), -n)
        return whole


@dataclass(frozen=True)
class Quadratic(StreamCode):
    """(i, i^2) and the constant: 2 (i - n) j - j^2 is -(i - n - j)^2 up to what is the same for all keys.

    >>> Quadratic().vectors(3)[:, :2]
    tensor([[0., 0.],
            [1., 1.],
            [2., 4.]], dtype=torch.float64)
    """

    name = "quadratic"

    def vectors(self, n_ctx: int) -> Float[Tensor, "n_ctx width"]:
        """What each position writes."""
        i = torch.arange(n_ctx, dtype=torch.float64)
        return torch.stack([i, i.square()], dim=1)

    def shift(self, n: int, n_ctx: int) -> Float[Tensor, "width_and_one width_and_one"]:
        """2 i j - 2 n j - j^2."""
        return torch.tensor([[2, 0, 0], [0, 0, 0], [-2 * n, -1, 0]], dtype=torch.float64)


class Waves(StreamCode):
    """Cosines and sines of the position at several frequencies."""

    @abstractmethod
    def frequencies(self, n_ctx: int) -> Float[Tensor, "frequencies"]:
        """Radians a position."""

    def vectors(self, n_ctx: int) -> Float[Tensor, "n_ctx width"]:
        """Cosine and sine in turn."""
        angles = torch.arange(n_ctx, dtype=torch.float64)[:, None] * self.frequencies(n_ctx)
        return torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1)

    def shift(self, n: int, n_ctx: int) -> Float[Tensor, "width_and_one width_and_one"]:
        """One rotation a frequency: cos(w i - w n) cos(w j) + sin(w i - w n) sin(w j) = cos(w (i - n - j))."""
        angles = n * self.frequencies(n_ctx)
        cos, sin = angles.cos(), angles.sin()
        turns = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
        return torch.block_diag(*turns, torch.zeros(1, 1, dtype=torch.float64))


@dataclass(frozen=True)
class Sinusoidal(Waves):
    """Waves at the frequencies `base^(-2 k / width)`.

    Attributes:
        width: two dimensions a frequency.
        base: the 10,000 of the paper.
        top: keep this many of the highest frequencies; by default all.

    Raises `ConfigError` for a width that is not even, a base of 1 or less, or more frequencies than there are.

    >>> Sinusoidal(width=4).frequencies(8)
    tensor([1.0000, 0.0100], dtype=torch.float64)
    """

    name = "sinusoidal"
    width: int = 64
    base: Number = 10_000.0
    top: int | None = None

    def __post_init__(self) -> None:
        if not is_index(self.width) or self.width < 2 or self.width % 2:
            raise ConfigError(f"Sinusoidal: width = {describe(self.width)}; allowed: an even number from 2 on")
        if not is_finite(self.base) or self.base <= 1:
            raise ConfigError(f"Sinusoidal: base = {describe(self.base)}; allowed: a finite number above 1")
        if self.top is not None and (not is_index(self.top) or not 1 <= self.top <= self.width // 2):
            raise ConfigError(f"Sinusoidal: top = {describe(self.top)}; allowed: 1 to {self.width // 2} (width / 2)")

    def frequencies(self, n_ctx: int) -> Float[Tensor, "frequencies"]:
        """Radians a position."""
        return _frequencies(self.width, self.base)[: self.top]


@dataclass(frozen=True)
class Circle(Waves):
    """One frequency: once around in n_ctx + 1 positions, so that the last is not a neighbour of the first.

    >>> Circle().frequencies(7)  # once around in 8 positions
    tensor([0.7854], dtype=torch.float64)
    """

    name = "circle"

    def frequencies(self, n_ctx: int) -> Float[Tensor, "frequencies"]:
        """Radians a position."""
        return torch.tensor([2 * math.pi / (n_ctx + 1)], dtype=torch.float64)


@dataclass(frozen=True)
class Rotary(PositionCode):
    """Nothing in the stream: the model turns queries and keys by their positions.

    Query and key read the same constant direction, the query turned back by n positions.

    Attributes:
        base: longest wavelength / 2 pi.
        rotary_dim: how many dimensions of a head turn; by default those that the circuit's other matches leave, or 64.

    Raises `ConfigError` for a base that is not above 0, or a `rotary_dim` that is not even.

    >>> from circuits.gallery import entry
    >>> entry("previous_token").build().compile(positions=Rotary()).cfg.positional_embedding_type
    'rotary'
    """

    name = "rotary"
    base: Number = 10_000.0
    rotary_dim: int | None = None

    def __post_init__(self) -> None:
        if not is_finite(self.base) or self.base <= 0:
            raise ConfigError(f"Rotary: base = {describe(self.base)}; allowed: a finite number above 0")
        if self.rotary_dim is not None and (
            not is_index(self.rotary_dim) or self.rotary_dim < 2 or self.rotary_dim % 2
        ):
            raise ConfigError(f"Rotary: rotary_dim = {describe(self.rotary_dim)}; allowed: an even number from 2 on")

    def vectors(self, n_ctx: int) -> Float[Tensor, "n_ctx width"]:
        """Vectors of width 0: positions write nothing."""
        return torch.zeros(n_ctx, 0, dtype=torch.float64)

    def query_and_key(self, n: int) -> tuple[Float[Tensor, "rotary_dim"], Float[Tensor, "rotary_dim"]]:
        """What the constant becomes: cosines and sines of -n steps for the query, ones and zeros for the key."""
        angles = n * self._frequencies()
        return torch.cat([angles.cos(), -angles.sin()]), torch.cat([torch.ones_like(angles), torch.zeros_like(angles)])

    def scores(self, n: int, n_ctx: int) -> Float[Tensor, "query_pos key_pos"]:
        """The scores that `shift(n)` gives, after the model has turned queries and keys."""
        distance = torch.arange(1 - n_ctx, n_ctx, dtype=torch.float64) - n  # of every query from every key
        by_distance = (distance[:, None] * self._frequencies()).cos().sum(-1)
        i = torch.arange(n_ctx)
        return by_distance[i[:, None] - i + n_ctx - 1]

    def _frequencies(self) -> Float[Tensor, "pairs"]:
        return _frequencies(self.rotary_dim or ROTARY_DIM, self.base)


CODES: dict[str, type[PositionCode]] = {code.name: code for code in (OneHot, Quadratic, Circle, Sinusoidal, Rotary)}
"""Every code by name."""


def position_code(given: str | PositionCode) -> PositionCode:
    """A code from its name. Raises `ConfigError` listing the names.

    >>> position_code("onehot")
    OneHot()
    """
    if isinstance(given, PositionCode):
        return given
    check_choice("positions", given, list(CODES))
    return CODES[given]()


def _frequencies(width: int, base: Number) -> Float[Tensor, "pairs"]:
    return base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
