"""Sizes and softness: into what a circuit is hidden, and how close its softmax and its MLPs are to choosing."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from circuits import Circuit
from circuits.compiler import CompileOptions, Distract, Noise
from circuits.language import Neurons

NOISE = 0.05
"""The standard deviation of random weights, in each spare direction of the stream; a label of the circuit is 1."""


@dataclass(frozen=True)
class Size:
    """A model in which a circuit is hidden.

    Attributes:
        about: what it is, in words.
        options: of `compile`, but for seeds.
        spare_layers: how many more layers than the circuit needs it has.
        distractors: how many heads do something else, which no logit reads.
    """

    about: str
    options: CompileOptions = field(default_factory=CompileOptions)
    spare_layers: int = 0
    distractors: int = 0

    def of(self, circuit: Circuit, *seeds: object) -> CompileOptions:
        """What to compile a circuit with. What is random follows from the seeds, and each from a number of its own."""
        options: CompileOptions = {**self.options, "rotate": seed_of(*seeds, "rotate")}
        if self.spare_layers:
            options["n_layers"] = circuit.n_layers + self.spare_layers
        if self.distractors:
            options["distract"] = Distract(self.distractors, seed_of(*seeds, "distract"))
            options["fill"] = Noise(NOISE, seed_of(*seeds, "fill"))
        return options


SIZES: Mapping[str, Size] = {
    "small": Size("the circuit alone, in a random basis"),
    "medium": Size(
        "a stream of 128 and 6 heads a layer; 4 heads distract, and everything spare is random",
        {"d_model": 128, "n_heads": 6, "attn_only": False, "d_mlp": 256},
        distractors=4,
    ),
    "large": Size(
        "a stream of 256, 8 heads a layer and 2 layers to spare; 8 heads distract, and everything spare is random",
        {"d_model": 256, "n_heads": 8, "attn_only": False, "d_mlp": 512},
        spare_layers=2,
        distractors=8,
    ),
}
"""From the circuit alone to one among many components."""


@dataclass(frozen=True)
class Softness:
    """How close the softmax of a head and the steps of an MLP are to choosing.

    Attributes:
        about: what it is, in words.
        error: share of its attention that a head may spend elsewhere.
        slack: share of a step that is a straight line.
    """

    about: str
    error: float
    slack: float = 0.0

    def of(self, circuit: Circuit) -> CompileOptions:
        """What to compile a circuit with. Heads alone make no steps, and need no slack."""
        steps = any(isinstance(part, Neurons) for part in circuit.parts)
        return {"error": self.error, "slack": self.slack} if steps and self.slack else {"error": self.error}


SOFTNESS: Mapping[str, Softness] = {
    "hard": Softness("a head spends at most a millionth of its attention elsewhere: gradients through it are 0", 1e-6),
    "soft": Softness(
        "a head spends up to a twentieth of its attention elsewhere, and a fifth of each step of an MLP is a line",
        0.05,
        0.2,
    ),
}
"""Saturated as if someone had chosen, and with gradients, as trained models have them."""


def seed_of(*what: object) -> int:
    """A seed that follows from these values, and differs for others."""
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=4).digest())


def as_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `compile` as JSON values."""
    return {
        name: vars(one) if isinstance(one, Noise | Distract) else str(one) if isinstance(one, torch.dtype) else one
        for name, one in options.items()
    }
