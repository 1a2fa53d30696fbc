"""Metrics on a pair of runs: the values between which effects lie, and effects as results."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError, ShapeError
from interp.interventions import Intervention
from interp.metrics import NO_LOGITS, JudgedRun, Metric, MetricPlan, as_metric, is_pooled
from interp.model import ActivationCache, PairCache
from interp.patching.options import Settings
from interp.patching.packed_rows import PackedRows
from interp.patching.pairs import PairRuns, Reaction, at_positions
from interp.results import Axis, over_prompts

if TYPE_CHECKING:
    import xarray

OneMetric = Metric | Callable[[Tensor], Any]
"""A metric, or any function of the logits."""

Metrics = OneMetric | Mapping[str, OneMetric]
"""One, or several by name."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """What was measured, prompt by prompt.

    Attributes:
        values: the metrics of patched runs.
        baseline: those of the run as it is.
        target: those of the other prompts' run, where its last stream is known.
    """

    values: Float[Tensor, "metric batch *cells"]
    baseline: Float[Tensor, "metric batch"]
    target: Float[Tensor, "metric batch"] | None

    def result(
        self,
        axes: list[Axis],
        names: list[str] | None,
        settings: Settings,
        about: Mapping[str, object],
        effects: bool = False,
    ) -> "xarray.DataArray":
        """The values as the settings ask for them, with a record of how they came about.

        Args:
            axes: of the cells. The values may have an axis for each of these, or one of all cells in their order.
            names: of the metrics, where the caller gave them.
            settings: whether effects or fractions, the mean or every prompt.
            about: more to say in `attrs`.
            effects: whether the values are effects already, and not the metrics of patched runs.
        """
        values = self.values.reshape(*self.values.shape[:2], *(len(axis.indices) for axis in axes))
        per_cell = (..., *[None] * (values.ndim - 2))
        if settings.values != "metric" and not effects:
            values = values - self.baseline[per_cell]
        if settings.normalize and self.target is not None:
            values = values / (self.target - self.baseline).mean(dim=1, keepdim=True)[per_cell]
        attrs = {**self.about(names), "values": settings.values, **about}
        name = "value" if settings.values == "metric" else settings.values  # "metric" may be the name of an axis
        return over_prompts(values, axes, names, settings.per_prompt, settings.confidence, attrs, name)

    def about(self, names: list[str] | None) -> dict[str, object]:
        """Both ends of the scale, as results say them in their `attrs`."""
        attrs: dict[str, object] = {"n": self.baseline.shape[1], "baseline": _means(self.baseline)}
        if self.target is not None:
            attrs["target"] = _means(self.target)
        if names is not None:
            attrs["metrics"] = json.dumps(names)  # of which baseline and target are; files hold no lists of text
        return attrs

    def check_gap(self) -> None:
        """Raise `ConfigError` where there is none to normalise by."""
        if self.target is None:
            return
        gap = (self.target - self.baseline).mean(dim=1)
        if not (gap.abs() > 1e-6 * (1 + self.target.abs().mean(dim=1))).all():
            raise ConfigError(f"normalize = True, but both prompts give the same metric, {_means(self.baseline)}")


@dataclass(frozen=True, eq=False)
class Measurement:
    """What is measured, and at both ends of the scale.

    Attributes:
        runs, settings: of what, and how.
        metrics: in order.
        names: of the metrics, where the caller gave them.
        plans: which logits each needs.
        baseline: the metrics of the run as it is.
        target: those of the other prompts' run, where its last stream is known.
        pooled: which metrics made a single number of several prompts.
    """

    runs: PairRuns
    settings: Settings
    metrics: list[Metric]
    names: list[str] | None
    plans: list[MetricPlan]
    baseline: Float[Tensor, "metric batch"]
    target: Float[Tensor, "metric batch"] | None
    pooled: list[bool]

    @classmethod
    def of(cls, runs: PairRuns, metric: Metrics, settings: Settings) -> "Measurement":
        """Raises `ConfigError` for no metric, or to `normalize` by no gap, and what the metrics raise."""
        if isinstance(metric, Mapping) and not metric:
            raise ConfigError("metric = {}: at least one is needed")
        names = list(metric) if isinstance(metric, Mapping) else None
        metrics = [as_metric(one) for one in (metric.values() if isinstance(metric, Mapping) else [metric])]
        plans = [one.plan(runs.judged) for one in metrics]
        if not isinstance(other := runs.pair.source, Intervention | ActivationCache | PairCache):
            check_same_places(metrics, runs.judged, JudgedRun.of(runs.pair.whole, other))
        if not runs.base.model.cfg.has_unembed and any(plan.space == "logits" for plan in plans):
            raise ConfigError(NO_LOGITS)
        of_run = [runs.whole_run(plan, runs.base.final, settings.max_bytes) for plan in plans]
        baseline = torch.stack(of_run)
        target = None
        if runs.final is not None:
            target = torch.stack([runs.whole_run(plan, runs.final, settings.max_bytes) for plan in plans])
        if settings.normalize:
            Numbers(baseline, baseline, target).check_gap()
        return cls(runs, settings, metrics, names, plans, baseline, target, [is_pooled(values) for values in of_run])

    def of_run(self, final: Float[Tensor, "batch pos d_model"], norms: Reaction = "live") -> Tensor:
        """The metrics of one run of all prompts, [metric, batch], from its last stream."""
        runs, budget = self.runs, self.settings.max_bytes
        return torch.stack([runs.whole_run(plan, final, budget, norms) for plan in self.plans])

    @property
    def read(self) -> list[Int[Tensor, "read"]]:
        """Of each prompt, the positions at which any of the metrics reads the last stream."""
        return [torch.cat([plan.positions[prompt] for plan in self.plans]).unique() for prompt in
                range(len(self.runs.base.prompts))]  # fmt: skip

    def keys(self) -> list[Any]:
        """What is measured, in words that mean the same in another process. Raises `ConfigError`."""
        return [self.names, [metric.key(self.runs.judged) for metric in self.metrics]]

    def about(self) -> dict[str, object]:
        """What was measured on which runs, as results say it in their `attrs`."""
        runs = self.runs
        return {
            **self.numbers(self.baseline).about(self.names),
            "metric": "; ".join(plan.name for plan in self.plans),
            "direction": runs.pair.direction,
            "ablation": "none" if runs.ablation is None else repr(runs.ablation),
            "edited": int(isinstance(runs.pair.source, ActivationCache | PairCache) and runs.pair.source.edited),
            "model": runs.pair.whole.weights_hash(),
        }

    def result(
        self,
        values: Float[Tensor, "metric batch *cells"],
        axes: list[Axis],
        about: Mapping[str, object],
        effects: bool = False,
    ) -> "xarray.DataArray":
        """Values of patched runs as a result; see `Numbers.result`."""
        return self.numbers(values).result(axes, self.names, self.settings, {**self.about(), **about}, effects)

    def numbers(self, values: Float[Tensor, "metric batch *cells"]) -> Numbers:
        """Values of patched runs, with both ends of the scale."""
        return Numbers(values, self.baseline, self.target)


def check_same_places(metrics: Iterable[Metric], run: JudgedRun, other: JudgedRun) -> None:
    """A token by which a metric finds its place must stand at one place in both prompts. Raises `ShapeError`."""
    for token in {pos for metric in metrics if isinstance(pos := getattr(metric, "pos", None), str)}:
        there, in_other = run.positions(token), other.positions(token)
        if (differ := (there != in_other)[:, 0]).any():
            prompt = int(differ.nonzero()[0])
            raise ShapeError(f"pos = {token!r} stands at position {int(there[prompt])} of prompt {prompt} and at "
                             f"{int(in_other[prompt])} of the other prompt; positions must correspond")  # fmt: skip


def _means(of_prompts: Float[Tensor, "metric batch"]) -> float | list[float]:
    means = of_prompts.mean(dim=1).tolist()
    return means[0] if len(means) == 1 else means


def measure_rows(
    measured: Measurement,
    groups: list[PackedRows],
    values: Float[Tensor, "metric batch cell"],
    norms: Reaction = "live",
) -> None:
    """Write the metrics of rows that have passed the last layer into `values`, at their prompts and cells."""
    runs = measured.runs
    for plan, of_metric in zip(measured.plans, values, strict=True):
        base = at_positions(runs.base.final, plan.positions)
        if plan.whole_batch:  # one run of every prompt at once: those that a patch does not change are as they were
            streams = {cell: base.clone() for rows in groups for cell in rows.cells.tolist()}
            for rows in groups:
                for cell, stream in zip(rows.cells.tolist(), _at_read(rows, base, plan), strict=True):
                    streams[cell][rows.prompt] = stream
            prompts = torch.arange(len(base), device=base.device)
            for cell, stream in streams.items():
                of_metric[:, cell] = runs.measure(plan, stream, prompts, norms)
            continue
        most = max(1, measured.settings.max_bytes // runs.bytes_of_logits(plan))
        for rows in groups:
            stream, at_once = _at_read(rows, base, plan), min(len(rows.cells), most)
            for cells, part in zip(rows.cells.split(at_once), stream.split(at_once), strict=True):
                prompts = torch.full_like(cells, rows.prompt)
                of_metric[rows.prompt, cells] = runs.measure(plan, part, prompts, norms)


def _at_read(
    rows: PackedRows, base: Float[Tensor, "batch read d_model"], plan: MetricPlan
) -> Float[Tensor, "row read d_model"]:
    """The last stream where a metric reads: the rows' own from `start` on, the base run's before."""
    positions = plan.positions[rows.prompt]
    own = rows.stream[:, (positions - rows.start).clamp(min=0)]
    return torch.where((positions >= rows.start)[:, None], own, base[rows.prompt])
