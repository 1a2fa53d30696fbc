"""Gradients of metrics with respect to what every reader reads, from one run or along a path of runs."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.discovery.masked import EdgeRuns, Late
from interp.discovery.walk import Rule, Walk
from interp.errors import ConfigError
from interp.metrics import MetricPlan, is_pooled
from interp.model import Norm
from interp.patching import at_positions

PathEnd = Literal["run", "other"]
"""Which end of the path from the other run's embeddings to those of the run as it is belongs to it."""


class GradientInteractions(Rule):
    """Backward rules of GIM, "Gradient Interaction Modifications" (Edin et al. 2025).

    The Jacobian of a softmax is taken at the pattern of temperature 2, without the factor 1/2 that a temperature would
    bring; norms do not differentiate their scale; and of a product each factor gets its share of the gradient: queries
    and keys a quarter, values and patterns half, gated neurons half.
    """

    detached_scales = True

    def softmax(self, scores: Float[Tensor, "*axes key_pos"]) -> Float[Tensor, "*axes key_pos"]:
        """The true pattern, with the gradient of another one."""
        flatter = 2 * (scores / 2).softmax(dim=-1)
        return scores.softmax(dim=-1).detach() + (flatter - flatter.detach())

    def norm(self, norm: Norm, x: Float[Tensor, "*axes size"]) -> Float[Tensor, "*axes size"]:
        """The norm at a scale that is a constant."""
        normed = norm.at_scale(x, norm.scale(x.detach()))
        return normed if norm.b is None else normed + norm.b

    def factor(self, x: Tensor) -> Tensor:
        """The same value, with half of the gradient."""
        return x - (x - x.detach()) / 2


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of one metric, for some prompts at late positions; means over the runs that they were taken in.

    Attributes:
        reads: with respect to what each reader of a layer reads, layer by layer; the last is that of the logits.
        patterns, z, mlp_outs: with respect to each layer's patterns, its heads' outputs, and what its MLP writes.
        pooled: whether the metric is a single number of all prompts together.
    """

    reads: list[Float[Tensor, "_reader batch late d_model"]] = field(default_factory=list)
    patterns: list[Float[Tensor, "batch head late key_pos"]] = field(default_factory=list)
    z: list[Float[Tensor, "batch late head d_head"]] = field(default_factory=list)
    mlp_outs: list[Float[Tensor, "batch late d_model"]] = field(default_factory=list)
    pooled: bool = False


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
    include: PathEnd = "run"
    rule: Rule = field(default_factory=Rule)

    def of(self, late: Late) -> list[Gradients]:
        """For each metric. Raises `ConfigError` for a metric that has no gradient."""
        if torch.is_inference_mode_enabled():
            raise ConfigError("no gradient flows in inference mode; torch.no_grad() around the call is fine, and "
                              "method='exact' needs none")  # fmt: skip
        measured = self.runs.measured
        with torch.enable_grad():
            walked = _Walked(self.runs, late, self.rule, self._embeddings(late))
            found = []
            for i, plan in enumerate(measured.plans):
                values = walked.values(plan)
                if not values.requires_grad:
                    raise ConfigError(f"the metric {plan.name!r} has no gradient; method='exact' needs none")
                gradients = torch.autograd.grad(
                    values.sum(), walked.tensors, retain_graph=i + 1 < len(measured.plans), materialize_grads=True
                )
                found.append(walked.arranged(gradients, pooled=walked.is_pooled(values)))
        return found

    def bytes(self) -> tuple[int, int]:
        """What a late position of one prompt takes, and what a prompt takes beside."""
        return self._bytes_of_position(), self._bytes_of_prompt()

    def _bytes_of_position(self) -> int:
        """What a late position of one prompt takes, with the graph of the runs and the changes of one reader."""
        graph, cfg = self.runs.graph, self.runs.model.cfg
        n_readers = cfg.n_heads + 2 * cfg.n_key_value_heads
        # Of each layer what its readers read, normalised and centred, and what they project; scores and patterns; the
        # MLP's neurons before and after, gated; the stream before, between and after, and what is written.
        width = (
            3 * n_readers * (cfg.d_model + cfg.d_head)
            + 4 * cfg.d_mlp
            + 8 * cfg.d_model
            + 4 * cfg.n_heads * self.runs.n_pos
        )
        # What every writer writes in both runs, and what one reader makes of these.
        changes = len(graph.writers) * (6 * cfg.d_model + 3 * cfg.d_mlp)
        return 4 * ((self.steps or 1) * graph.n_layers * width + changes) * max(1, cfg.dtype.itemsize // 4)

    def _bytes_of_prompt(self) -> int:
        """What a prompt takes beside: the logits that the metric of most logits reads, and their gradients."""
        runs = self.runs.runs
        return (self.steps or 1) * max(map(runs.bytes_of_logits, self.runs.measured.plans))

    def _embeddings(self, late: Late) -> Float[Tensor, "step batch late d_model"]:
        """What enters the first block in each run."""
        own = Walk(self.runs.base, late.prompts, late.start).entering(0)
        if self.steps is None:
            return own.clone()
        first = 1 if self.include == "run" else 0
        share = torch.arange(first, first + self.steps, device=own.device, dtype=own.dtype) / self.steps
        difference = self.runs.written(late).difference[:1].to(own.dtype)  # the other's minus this one's
        return own + (1 - share)[:, None, None, None] * difference


class _Walked:
    """Runs from given embeddings on, with everything in their graph that is differentiated."""

    def __init__(self, runs: EdgeRuns, late: Late, rule: Rule, embeddings: Float[Tensor, "step batch late d_model"]):
        self.runs, self.late = runs, late
        self.walk = walk = Walk(runs.base, late.prompts, late.start, runs.norms, rule)
        graph, x = runs.graph, embeddings.requires_grad_()
        n_readers = graph.n_heads + 2 * graph.n_key_value_heads
        self.reads, self.mlp_reads, self.mlp_outs = [], [], []
        self.patterns, self.z = [], []
        for layer in range(graph.n_layers):
            streams = x[:, None].expand(-1, n_readers, -1, -1, -1)  # each reader's own, so that each has a gradient
            attended = walk.attended(layer, streams)
            after = x + walk.attn_out(layer, attended.z)
            self.reads.append(streams)
            self.patterns.append(attended.pattern)
            self.z.append(attended.z)
            if not graph.attn_only:
                x = x if graph.parallel_attn_mlp else after
                read = x[:, None]
                out = walk.mlp(layer, read[:, 0])
                self.mlp_reads.append(read)
                self.mlp_outs.append(out)
                after = after + out
            x = after
        self.final = x[:, None]

    @property
    def tensors(self) -> list[Tensor]:
        """All that is differentiated."""
        return [*self.reads, *self.mlp_reads, self.final, *self.patterns, *self.z, *self.mlp_outs]

    def values(self, plan: MetricPlan) -> Float[Tensor, "value"]:
        """The metric of each run and prompt, or one for each run that is all prompts' together."""
        runs, late = self.runs.runs, self.late
        before = runs.base.final[self.walk.rows, : late.start]
        whole = torch.cat([before.expand(len(self.final), *before.shape), self.final[:, 0]], dim=2)
        prompts = self.walk.rows.repeat(len(whole))
        read = at_positions(whole.flatten(0, 1), plan.positions[prompts])
        if self.runs.norms == "frozen":
            normalized = runs.normalized(plan, read, prompts, "frozen")
        else:
            normalized = self.walk.rule.norm(runs.base.model.ln_final, read) if runs.base.model.ln_final.kind else read
        if not plan.whole_batch:
            return runs.measure_normalized(plan, normalized, prompts)
        n = len(self.walk.rows)
        parts = [runs.measure_normalized(plan, one, self.walk.rows) for one in normalized.split(n)]
        return torch.cat([values[:1] if is_pooled(values) else values for values in parts])

    def is_pooled(self, values: Float[Tensor, "value"]) -> bool:
        """Whether these are one value for each run."""
        return len(values) < len(self.final) * len(self.walk.rows)

    def arranged(self, gradients: Sequence[Tensor], pooled: bool) -> Gradients:
        """Gradients of `tensors`, by layer and kind, averaged over the runs."""
        given, n_steps = iter(gradients), len(self.final)

        def mean(tensors: list[Tensor], rows: bool = False) -> list[Tensor]:
            found = [next(given) for _ in tensors]
            return [(g.unflatten(0, (n_steps, -1)) if rows else g).mean(dim=0) for g in found]

        of_heads, of_mlps, of_logits = mean(self.reads), mean(self.mlp_reads), mean([self.final])
        reads = [torch.cat(parts) for parts in itertools.zip_longest(of_heads, of_mlps) if parts[1] is not None]
        return Gradients(
            [*(reads or of_heads), *of_logits],
            mean(self.patterns, rows=True),
            mean(self.z, rows=True),
            mean(self.mlp_outs),
            pooled,
        )
