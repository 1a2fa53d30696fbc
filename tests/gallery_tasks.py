"""The circuits of the gallery as questions for circuit discovery: a model, pairs of prompts, and the known edges.

Shared by the tests of `interp.discovery` and `tests/benchmarks/discovery.py`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from circuits.benchmark import prompt_pairs
from circuits.gallery import entry
from interp import HookedTransformer
from interp.discovery import MethodName
from interp.interventions import Intervention, Mean, Zero
from interp.metrics import Metric

if TYPE_CHECKING:
    from networkx import MultiDiGraph

METHODS: tuple[MethodName, ...] = get_args(MethodName)
ABLATIONS = ["zero", "mean", "resample"]
USUAL = 16
"""Pairs of prompts whose mean is written by mean ablation."""


@dataclass(frozen=True, eq=False)
class Task:
    """A compiled circuit, prompts that use it, and what its edges are.

    Attributes:
        known: the graph of its edges.
        clean: prompts with an answer at the last position [batch, pos].
        corrupted: others of the same length, with other answers.
        usual: others again, whose mean is written by mean ablation.
        metric: the logit difference of the answers to the clean and to the corrupted prompt.
    """

    model: HookedTransformer
    known: "MultiDiGraph"
    clean: Tensor
    corrupted: Tensor
    usual: Tensor
    metric: Metric

    def other(self, ablation: str) -> Tensor | Intervention:
        """What replaced edges carry: the corrupted prompts' run, zeros, or the mean over the usual prompts."""
        if ablation == "resample":
            return self.corrupted
        return Zero() if ablation == "zero" else Mean(self.model.run_with_cache(self.usual)[1])


def gallery_task(name: str, n: int = 8, rotate: int | None = None, seed: int = 0) -> Task:
    """`n` pairs of prompts of a circuit, in float64, by default in the basis in which it was declared."""
    one = entry(name)
    pairs, further = prompt_pairs(one, n, seed), prompt_pairs(one, USUAL, seed + 1)
    model = one.build().compile(rotate=rotate, dtype=torch.float64)
    clean, corrupted, usual = map(torch.tensor, (pairs.clean, pairs.corrupted, [*further.clean, *further.corrupted]))
    return Task(model, model.edges(), clean, corrupted, usual, pairs.metric)
