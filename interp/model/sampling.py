"""How the next token is chosen from the logits."""

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError, describe
from interp.precision import at_least_float32


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from the logits.

    Attributes:
        temperature: divides the logits; 0 takes the largest (greedy), so that only `top_k=1` goes with it.
        top_k: keep the k largest logits.
        top_p: then keep the smallest set of tokens whose probabilities reach p (Holtzman et al. 2020, section 3.1).
        seed: of the random choices; None takes torch's global generator.

    Raises `ConfigError` for values out of range, or `top_k` or `top_p` beside a temperature of 0.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        given, k, p, seed = self.temperature, self.top_k, self.top_p, self.seed
        for right, message in (
            (
                is_number(given, Real) and 0 <= given < float("inf"),
                f"temperature = {describe(given)}; allowed: 0 or more",
            ),
            (k is None or (is_number(k, Integral) and k >= 1), f"top_k = {describe(k)}; allowed: 1 or more"),
            (p is None or (is_number(p, Real) and 0 < p <= 1), f"top_p = {describe(p)}; allowed: above 0, up to 1"),
            (
                seed is None or (is_number(seed, Integral) and -(2**63) <= seed < 2**64),
                f"seed = {describe(seed)}; allowed: an integer of 64 bits",
            ),
        ):
            if not right:
                raise ConfigError(message)
        for name, without_effect in (("top_k", k not in (None, 1)), ("top_p", p not in (None, 1))):
            if without_effect and given == 0:
                raise ConfigError(
                    f"{name} = {getattr(self, name)} chooses among tokens to sample from, and temperature = 0 samples "
                    "none; give a temperature above 0"
                )

    def probabilities(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, "batch d_vocab"]:
        """The distribution the next token is drawn from, in float32 at least."""
        logits = at_least_float32(logits)
        if self.temperature == 0 or self.top_k == 1:
            return torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            kept = logits.topk(self.top_k, dim=-1).indices
            logits = torch.full_like(logits, float("-inf")).scatter(-1, kept, logits.gather(-1, kept))
        probabilities = logits.softmax(dim=-1)
        if self.top_p is not None:
            ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
            before = ordered.cumsum(dim=-1) - ordered  # what the more probable tokens reach without this one
            probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered.where(before < self.top_p, 0))
        return probabilities / probabilities.sum(dim=-1, keepdim=True)

    def choose(self, logits: Float[Tensor, "batch d_vocab"], generator: torch.Generator | None) -> Int[Tensor, "batch"]:
        """A token a sequence."""
        if self.temperature == 0 or self.top_k == 1:
            return logits.argmax(dim=-1)
        return torch.multinomial(self.probabilities(logits), 1, generator=generator)[:, 0]


def is_number(value: Any, kind: type) -> bool:
    """Whether it is a number of this kind, and not a truth value."""
    return isinstance(value, kind) and not isinstance(value, bool)
