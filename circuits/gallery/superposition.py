"""Superposition: five features in two dimensions, read out by ReLUs.

The toy model of Elhage et al. 2022 ("Toy Models of Superposition"), with the solution that training finds for sparse
features: a regular pentagon. A word stands for a set of features and writes the sum of their directions. Each feature
is read by its direction, minus the overlap cos 72 degrees that its neighbours have with it: a feature alone is read
alone, two at once interfere.
"""

import itertools
from math import cos, pi, sin

import torch
from jaxtyping import Float
from torch import Tensor

from circuits import Circuit
from circuits.verify import Expected

FEATURES = "abcde"
DIRECTION = {one: (cos(2 * pi * i / 5), sin(2 * pi * i / 5)) for i, one in enumerate(FEATURES)}
OVERLAP = cos(2 * pi / 5)


def build() -> Circuit:
    """One layer, an MLP alone."""
    sets = ["".join(those) for n in (1, 2) for those in itertools.combinations(FEATURES, n)]
    c = Circuit(sets, n_ctx=1)
    hidden = c.embed("hidden", {those: [sum(DIRECTION[one][i] for one in those) for i in (0, 1)] for those in sets})
    around = OVERLAP - 2, OVERLAP + 2
    for one, (x, y) in DIRECTION.items():
        number = x * hidden[0] + y * hidden[1]
        c.function(f"read {one}", number, c.out[one], lambda u: max(u - OVERLAP, 0), knots=3, over=around)
    return c


def directions() -> Float[Tensor, "feature dimension"]:
    """The direction of each feature."""
    return torch.tensor(list(DIRECTION.values()), dtype=torch.float64)


def reference(text: str) -> list[Expected]:
    """ReLU(W^T W x + b) for the features x of the word, with b = -cos 72 degrees."""
    x = torch.tensor([float(one in text) for one in FEATURES], dtype=torch.float64)
    W = directions().T
    return [dict(zip(FEATURES, (W.T @ (W @ x) - OVERLAP).relu().tolist(), strict=True))]


def inputs() -> list[str]:
    """All 15: each feature alone, and each pair."""
    return list(build().vocabulary.words)
