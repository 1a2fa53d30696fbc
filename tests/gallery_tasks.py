"""The circuits of the gallery as questions for circuit discovery: prompts, a metric, and the edges that are known.

Shared by the tests of `interp.discovery` and `tests/benchmarks/discovery.py`.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.gallery import entry
from circuits.verify import EveryText, Expected
from interp import HookedTransformer
from interp.discovery import MethodName
from interp.interventions import Intervention, Mean, Zero
from interp.metrics import Metric
from interp.metrics.plan import JudgedRun, MetricPlan

if TYPE_CHECKING:
    from networkx import MultiDiGraph

METHODS: tuple[MethodName, ...] = get_args(MethodName)
ABLATIONS = ["zero", "mean", "resample"]
SAMPLED = 400
"""Texts of a circuit's inputs from which prompts are drawn."""


@dataclass(frozen=True, eq=False)
class AnswerLogit(Metric):
    """The logit of the right answer minus the mean over the vocabulary, averaged over the positions with an answer.

    It is linear in the logits. Where several words are right in part, their logits are weighted by their shares.

    Attributes:
        shares: how much of each word is right, which sums to 1, or to 0 at positions where nothing is to be predicted.
    """

    shares: Float[Tensor, "batch pos d_vocab"]

    def plan(self, run: JudgedRun) -> MetricPlan:
        asked = self.shares.sum(-1)
        weights = (self.shares - asked[..., None] / self.shares.shape[-1]) / asked.sum(-1)[:, None, None]

        def score(logits: Tensor, rows: Tensor) -> Tensor:
            return (logits * weights[rows].to(logits.dtype)).flatten(1).sum(1)

        return MetricPlan("logit of the answers", run.positions(None), None, score)


@dataclass(frozen=True, eq=False)
class Task:
    """A compiled circuit, prompts that use it, and what its edges are.

    Attributes:
        known: the graph of its edges.
        clean: texts with an answer at some position, equally long.
        corrupted: other texts of the same length.
        usual: further ones, whose mean is written by mean ablation.
        metric: the answers' logit; see `AnswerLogit`.
    """

    model: HookedTransformer
    known: "MultiDiGraph"
    clean: list[str]
    corrupted: list[str]
    usual: list[str]
    metric: Metric

    def other(self, ablation: str) -> list[str] | Intervention:
        """What replaced edges carry: the corrupted prompts' run, zeros, or the mean over the usual texts."""
        if ablation == "resample":
            return self.corrupted
        return Zero() if ablation == "zero" else Mean(self.model.run_with_cache(self.usual)[1])


def gallery_task(name: str, n: int = 8, rotate: int | None = None, seed: int = 0) -> Task:
    """`n` pairs of prompts of a circuit, in float64, by default in the basis in which it was declared.

    Prompts are drawn at random from the circuit's own inputs, the longest ones of a sample. Corrupted prompts are drawn
    in the same way, so that they differ from the clean ones in every word but never in their positions: by resampling,
    no edge that carries positions alone has an effect.
    """
    one = entry(name)
    circuit, inputs = one.build(), one.inputs()
    if not isinstance(inputs, EveryText):
        inputs = list(inputs)
    drawn = random.Random(seed).sample(range(len(inputs)), min(SAMPLED, len(inputs)))
    texts = [inputs[place] for place in drawn]
    lengths = {text: len(circuit.vocabulary.split(text)) for text in texts}
    texts = [text for text in texts if lengths[text] == max(lengths.values())]
    shares = {text: _shares(one.reference(text), circuit.vocabulary.words) for text in texts}
    asked = [text for text in texts if shares[text].any()]
    clean, corrupted = asked[:n], asked[n : 2 * n]
    assert len(corrupted) == n, f"{name}: {len(asked)} texts are too few"
    usual = list(itertools.islice(reversed(texts), 8 * n))
    metric = AnswerLogit(torch.stack([shares[text] for text in clean]))
    model = circuit.compile(rotate=rotate, dtype=torch.float64)
    return Task(model, model.edges(), clean, corrupted, usual, metric)


def _shares(answers: Sequence[Expected], words: Sequence[str]) -> Tensor:
    """What a reference function says, as shares of each word [pos, d_vocab]."""
    found = torch.zeros(len(answers), len(words), dtype=torch.float64)
    for row, answer in zip(found, answers, strict=True):
        logits = {answer: 1.0} if isinstance(answer, str) else answer or {}
        for word, logit in logits.items():
            row[words.index(word)] = logit / sum(logits.values())
    return found
