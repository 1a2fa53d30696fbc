"""Gradients of metrics with respect to what every reader reads, from one run or along a path of runs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.discovery.masked import EdgeRuns, Late
from interp.discovery.walk import Rule, Walk
from interp.errors import ConfigError
from interp.model import Norm
from interp.patching import at_positions
from interp.precision import at_least_float32

Along = Literal["run", "other"]
"""Which end of the path from the other run's embeddings to those of the run as it is belongs to it."""


class GradientInteractions(Rule):
    """Backward rules of GIM, "Gradient Interaction Modifications" (Edin et al. 2025).

    The Jacobian of a softmax is taken at the pattern of temperature 2, without the factor 1/2 that a temperature would
    bring; norms do not differentiate their scale; and of a product each factor gets its share of the gradient: queries
    and keys a quarter, values and patterns half, gated neurons half.
    """

    shares = {"q": 0.5, "k": 0.5, "v": 0.5, "pattern": 0.5, "mlp": 0.5}

    def softmax(self, scores: Float[Tensor, "*axes key_pos"]) -> Float[Tensor, "*axes key_pos"]:
        """The true pattern; backward that of temperature 2."""
        return _FlatterSoftmax.apply(scores)  # pyright: ignore[reportReturnType]

    def norm(self, norm: Norm, x: Float[Tensor, "*axes size"]) -> Float[Tensor, "*axes size"]:
        """The norm at a scale that is a constant."""
        normed = norm.at_scale(x, norm.scale(x.detach()))
        return normed if norm.b is None else normed + norm.b

    def factor(self, x: Tensor, kind: str) -> Tensor:
        """The same value, with its share of the gradient."""
        return _ScaledGradient.apply(x, self.shares[kind])  # pyright: ignore[reportReturnType]


class _FlatterSoftmax(torch.autograd.Function):
    """Softmax forward; backward `A_2 (g - sum A_2 g)` with the softmax A_2 of half the scores."""

    @staticmethod
    def forward(ctx, scores: Tensor) -> Tensor:  # noqa: ANN001
        ctx.save_for_backward(scores)
        return scores.softmax(dim=-1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # noqa: ANN001
        flatter = (ctx.saved_tensors[0] / 2).softmax(dim=-1)
        return flatter * (gradient - (flatter * gradient).sum(dim=-1, keepdim=True))


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied."""

    @staticmethod
    def forward(ctx, x: Tensor, share: float) -> Tensor:  # noqa: ANN001
        ctx.share = share
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN001
        return gradient * ctx.share, None


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of one metric, for some prompts at late positions; means over the runs that they were taken in.

    Attributes:
        reads: with respect to what each reader of a layer reads, layer by layer; the last is that of the logits.
        patterns, z, mlp_outs: with respect to each layer's patterns, its heads' outputs, and what its MLP writes.
    """

    reads: list[Float[Tensor, "reader batch late d_model"]] = field(default_factory=list)
    patterns: list[Float[Tensor, "batch head late key_pos"]] = field(default_factory=list)
    z: list[Float[Tensor, "batch late head d_head"]] = field(default_factory=list)
    mlp_outs: list[Float[Tensor, "batch late d_model"]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class GradientRuns:
    """Runs of a pair that are differentiated.

    Attributes:
        runs: the pair.
        steps: how many runs on the way from the other run's embeddings to those of the run as it is; None for the run
            as it is alone.
        include: with `steps`, whether they end with the run as it is ("run": k = 1 ... steps of the way), or begin with
            the other one's embeddings ("other": k = 0 ... steps - 1).
        rule: how gradients flow back.
    """

    runs: EdgeRuns
    steps: int | None = None
    include: Along = "run"
    rule: Rule = field(default_factory=Rule)

    def of(self, late: Late) -> list[Gradients]:
        """For each metric. Raises `ConfigError` for a metric that has no gradient."""
        measured, runs = self.runs.measured, self.runs.runs
        with torch.enable_grad():
            walked = _Walked(self.runs, late, self.rule, self._embeddings(late))
            found = []
            for i, plan in enumerate(measured.plans):
                values = walked.values(plan)
                if not values.requires_grad:
                    raise ConfigError(f"the metric {plan.name!r} has no gradient; method='exact' needs none")
                gradients = torch.autograd.grad(
                    values.sum(), walked.tensors, retain_graph=i + 1 < len(measured.plans), allow_unused=True
                )
                found.append(walked.arranged(gradients))
        return found

    def _embeddings(self, late: Late) -> Float[Tensor, "step batch late d_model"]:
        """What enters the first block in each run."""
        own = Walk(self.runs.runs.base, late.prompts, late.start).entering(0)
        if self.steps is None:
            return own.clone()
        first = 1 if self.include == "run" else 0
        share = torch.arange(first, first + self.steps, device=own.device, dtype=own.dtype) / self.steps
        difference = self.runs.written(late).difference[:1].to(own.dtype)  # the other's minus this one's
        return own + (1 - share)[:, None, None, None] * difference
