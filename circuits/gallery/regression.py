"""In-context regression: one step of gradient descent on the pairs of a text, by linear attention.

Every position has a vector x and a number y = w . x, for a w that differs from text to text; the last one, the
question, has no y. One step of gradient descent on the squared error, from w = 0, gives w = rate * sum over j of
y_j x_j, and so predicts rate * sum over j of y_j (x_j . x) (von Oswald et al. 2023, "Transformers Learn In-Context by
Gradient Descent"; Akyurek et al. 2023, "What learning algorithm is in-context learning?").

That sum is linear attention. Two softmax heads come to it: with scores +e s and -e s, and a sink K at the start that is
larger than all of them, their weights are nearly exp(e s - K) and exp(-e s - K), and their difference is 2 e s exp(-K),
but for a share of e^2 s^2 / 6 and of n exp(-K). Their OV circuits make good for the factor.
"""

import random
from math import exp

import torch
from jaxtyping import Float
from torch import Tensor

from circuits import Circuit, copy, match
from circuits.verify import every_text

N_PAIRS, SIZE = 6, 2
SCALE, SINK = 0.01, 14.0
"""What scores are multiplied with (e), and the score of the start (K)."""


def build() -> Circuit:
    """One layer of two soft heads."""
    c = Circuit("!ab?y", n_ctx=N_PAIRS + 2, bos="!")
    x, y, predicted = c.vectors("x", SIZE), c.vectors("y", 1), c.space("predicted", ["y"])
    factor = exp(SINK) / (2 * SCALE) / N_PAIRS
    for name, sign in (("plus", 1), ("minus", -1)):
        written = sign * factor * copy(y, predicted, {0: "y"})
        c.head(name, qk=sign * SCALE * match(x, x), ov=written, sink=SINK, attend="soft")
    c.number(c.out["y"], predicted)
    return c


def vectors(text: str) -> dict[str, Float[Tensor, "pos size"]]:
    """The pairs of a text, drawn at random: its letters only say which draw it is."""
    draw = random.Random(text)
    w = torch.tensor([draw.uniform(-0.7, 0.7) for _ in range(SIZE)], dtype=torch.float64)
    x = torch.tensor([[draw.uniform(-0.7, 0.7) for _ in range(SIZE)] for _ in text], dtype=torch.float64)
    y = x @ w
    x[0] = y[0] = y[-1] = 0
    return {"x": x, "y": y[:, None]}


def reference(text: str) -> list[dict[str, float]]:
    """The prediction after one step, with the rate 1 / n, from all pairs so far."""
    given = vectors(text)
    x, y = given["x"], given["y"][:, 0]
    return [{"y": float((y[: i + 1] @ x[: i + 1]) @ x[i]) / N_PAIRS} for i in range(len(text))]


def inputs() -> list[str]:
    """64 draws: all texts of six letters, with the question."""
    return [text + "?" for text in every_text("ab", N_PAIRS)]
