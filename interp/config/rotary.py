"""Rotary positions: by which angle each pair of dimensions turns at each position."""

import math
from dataclasses import dataclass
from typing import Literal, get_type_hints

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.config.fields import fits, spell_all
from interp.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RotaryScaling:
    """Slower rotary angles, for contexts longer than a model was first trained on.

    Attributes:
        kind: "linear" divides every frequency by `factor`; "llama3" does so to wavelengths above
            `original_n_ctx / low_freq_factor`, leaves those below `original_n_ctx / high_freq_factor` as they are, and
            interpolates between (Llama 3.1).
        factor, low_freq_factor, high_freq_factor, original_n_ctx: the numbers in these formulas; only "llama3" reads
            the last three.
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_n_ctx: int = 8192

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            if not fits(getattr(self, name), hint):
                raise ConfigError(f"rotary_scaling: {name} = {getattr(self, name)!r}; allowed: {spell_all(hint)}")
        if not 0 < self.low_freq_factor < self.high_freq_factor or self.factor <= 0 or self.original_n_ctx <= 0:
            raise ConfigError(f"{self}: factors must be positive, and low_freq_factor below high_freq_factor")


def rotary_angles(
    base: float,
    rotary_dim: int,
    scaling: RotaryScaling | None,
    positions: Int[Tensor, "batch_or_1 pos"],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "batch_or_1 pos 1 pairs"], Float[Tensor, "batch_or_1 pos 1 pairs"]]:
    """Cosines and sines of `position / base^(2 i / rotary_dim)` (Su et al. 2021, equation 15), computed in float64.

    >>> cos, sin = rotary_angles(10_000.0, 4, None, torch.tensor([[0, 1]]), torch.float32)
    >>> cos[0, 1, 0]
    tensor([0.5403, 0.9999])
    """
    pair = torch.arange(0, rotary_dim, 2, dtype=torch.float64, device=positions.device)
    frequency = base ** (-pair / rotary_dim)
    if scaling is not None:
        slowed = frequency / scaling.factor
        if scaling.kind == "llama3":
            turns = scaling.original_n_ctx * frequency / (2 * math.pi)  # over the context of the first training
            span = scaling.high_freq_factor - scaling.low_freq_factor
            kept = ((turns - scaling.low_freq_factor) / span).clamp(0, 1)
            slowed = kept * frequency + (1 - kept) * slowed
        frequency = slowed
    angles = positions[..., None, None] * frequency
    return angles.cos().to(dtype), angles.sin().to(dtype)
