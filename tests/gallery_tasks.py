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
from interp.data import PromptPairs
from interp.discovery import MethodName
from interp.interventions import Intervention, Mean, Zero
from interp.metrics import Metric

if TYPE_CHECKING:
    from networkx import MultiDiGraph

METHODS: tuple[MethodName, ...] = get_args(MethodName)
ABLATIONS = ["zero", "mean", "resample"]
UNASKED = ("balance", "caesar", "frac_prevs", "greater_than", "regression", "superposition")
"""Circuits of the gallery without such questions: their answers are numbers or several words, or they have no layer."""

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
    pairs, further = gallery_pairs(name, n, seed)
    model = entry(name).build().compile(rotate=rotate, dtype=torch.float64)
    clean, corrupted, usual = map(torch.tensor, (pairs.clean, pairs.corrupted, [*further.clean, *further.corrupted]))
    return Task(model, model.edges(), clean, corrupted, usual, pairs.metric)


def gallery_pairs(name: str, n: int = 8, seed: int = 0) -> tuple[PromptPairs, PromptPairs]:
    """`n` pairs of prompts of a circuit, and further ones for means. Raises `ConfigError` where it has not so many."""
    return prompt_pairs(entry(name), n, seed), prompt_pairs(entry(name), USUAL, seed + 1)
