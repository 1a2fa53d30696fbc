"""Faithfulness: how much of what a model does on a pair of prompts a circuit does alone.

With m the metric, C a circuit, N the whole graph, and everything outside a circuit from the other run:

    f(C) = (m(C) - m(empty)) / (m(N) - m(empty))

It is 1 for the whole graph, 0 for the empty circuit, and above 1 for a circuit that leaves out what holds the metric
back: 1 is faithful, more is not better (Wang et al. 2022, section 4; Hanna et al. 2024, section 3). `curves.py` has the
faithfulness of circuits of growing size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Unpack, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp.discovery.circuit_runs import CircuitRuns, beyond_rounding, decided
from interp.discovery.options import JudgingOptions
from interp.discovery.subgraph import Subgraph
from interp.errors import ConfigError, check_choice, describe
from interp.keywords import known_keywords
from interp.patching import Metrics, Numbers, Settings, Source
from interp.results import Axis, as_variables, interval_margin, over_prompts

if TYPE_CHECKING:
    import xarray

    from interp.model import HookedTransformer

Ratio = Literal["of means", "mean of ratios"]
"""How prompts are put together: the ratio of the means over prompts, or the mean of each prompt's ratio."""


@torch.no_grad()
@known_keywords
def faithfulness(
    model: "HookedTransformer",
    circuits: Subgraph | Mapping[str, Subgraph] | Sequence[Subgraph],
    corrupted: Source | None,
    clean: Source,
    metric: Metrics,
    *,
    ratio: Ratio = "of means",
    **options: Unpack[JudgingOptions],
) -> "xarray.Dataset":
    """How much of what the model does each circuit does alone.

    Args:
        circuits: one, several by name, or several.
        corrupted, clean, metric: as for `patching.sweep`; the clean prompt runs unless `direction` says otherwise.
        ratio: "of means" divides the mean over prompts by the mean gap. "mean of ratios" divides prompt by prompt, so
            that prompts with a small gap count as much as any other; the two differ.
        options: see `JudgingOptions`.

    Returns:
        `faithfulness` and the metric itself, `value`, each with `_ci_low` and `_ci_high` over several prompts; how
        many edges the circuit has, `n_edges`, and without dead ends, `n_pruned`. Over `circuit` where several are
        given, and `metric` first where several are given by name. The interval of a ratio of means is linearised (the
        delta method). With `per_prompt`, a prompt's faithfulness is its share of the ratio: their mean is the result.
        `attrs` are those of sweeps, with the metric of the whole graph (`baseline`) and the empty circuit (`empty`).

    Raises, before any circuit runs:
        ConfigError: no circuit; equal prompts; a metric of which the whole graph and the empty circuit have the same,
            by its interval over prompts or but for rounding; and what sweeps refuse.
        ShapeError: a circuit of models of another shape.
    """
    check_choice("ratio", ratio, get_args(Ratio))
    names, several = checked_circuits(circuits)
    runs = CircuitRuns.of(model, corrupted, clean, metric, options)
    for subgraph in several:
        subgraph.check_fits(runs.graph)
    judge = Judge.of(runs, ratio)
    judge.check_ends(ends := runs.ends())
    values = runs.values((subgraph.mask for subgraph in several), "running circuits", len(several))
    result = judge.judged(runs.measured.numbers(values.mT), ends, circuit_axes(names, several))
    result = with_sizes(result, several)
    return result.isel(circuit=0, drop=True) if isinstance(circuits, Subgraph) else result


def circuit_axes(names: list[str] | None, circuits: list[Subgraph]) -> list[Axis]:
    """The axis of circuits, by name or by number."""
    return [Axis("circuit", names or list(range(len(circuits))))]


def with_sizes(result: "xarray.Dataset", circuits: list[Subgraph]) -> "xarray.Dataset":
    """A result with how many edges each circuit has."""
    return result.assign(
        n_edges=("circuit", [len(subgraph) for subgraph in circuits]),
        n_pruned=("circuit", [len(subgraph.pruned()) for subgraph in circuits]),
    )


def checked_circuits(given: object) -> tuple[list[str] | None, list[Subgraph]]:
    """Their names, where they have some, and the circuits. Raises `ConfigError`."""
    names = list(map(str, given)) if isinstance(given, Mapping) else None
    several: object = [given] if isinstance(given, Subgraph) else given
    if isinstance(given, Mapping):
        several = list(given.values())
    if not isinstance(several, Sequence) or not several or not all(isinstance(one, Subgraph) for one in several):
        raise ConfigError(f"circuits = {describe(given)}; allowed: a Subgraph, or several, such as Subgraph.top makes")
    if names is not None and len(set(names)) < len(names):
        raise ConfigError(f"circuits = {describe(given)}: two of the names are spelt alike")
    return names, list(several)


# ---------------------------------------------------------------------- the ratio


Ends = tuple[Float[Tensor, "metric batch"], Float[Tensor, "metric batch"]]
"""The metric of the whole graph, and of the empty circuit."""


@dataclass(frozen=True, eq=False)
class Judge:
    """How metrics of circuits become faithfulness.

    Attributes:
        ratio: how prompts are put together.
        settings: how results are shown.
        dtype: of the model.
        metrics: what each is called.
        names: of the metrics, where the caller gave them.
        about: what results say of themselves besides.
    """

    ratio: Ratio
    settings: Settings
    dtype: torch.dtype
    metrics: list[str]
    names: list[str] | None
    about: Mapping[str, object]

    @classmethod
    def of(cls, runs: CircuitRuns, ratio: Ratio) -> "Judge":
        """That of some runs."""
        measured = runs.measured
        about = measured.about() | {"norms": runs.engine.norms}
        plans = [plan.name for plan in measured.plans]
        return cls(ratio, runs.settings, runs.engine.model.cfg.dtype, plans, measured.names, about)

    def check_ends(self, ends: Ends) -> None:
        """Raise `ConfigError` where the gap between the whole graph and the empty circuit is noise."""
        (whole, empty), confidence = ends, self.settings.confidence
        gap = whole - empty
        margins = interval_margin(gap, confidence)
        fine = decided(gap, whole, confidence, self.dtype)
        for i in (~fine).nonzero()[:, 0].tolist():
            mean, margin = float(gap[i].mean()), float(margins[i])
            interval = f", interval {mean - margin:.4g} to {mean + margin:.4g}" if margin else ""
            raise ConfigError(
                f"{self.metrics[i]}: the whole graph has {float(whole[i].mean()):.4g}, the empty circuit "
                f"{float(empty[i].mean()):.4g}, over {gap.shape[1]} prompts a gap of {mean:.4g}{interval}, so that a "
                "ratio to it is noise; give more prompts, or ones that the metric tells apart"
            )
        if self.ratio == "mean of ratios" and not (clear := beyond_rounding(gap, whole, self.dtype)).all():
            bad = int((~clear).any(dim=0).nonzero()[0, 0])
            raise ConfigError(f"ratio = 'mean of ratios': prompt {bad} has no gap to divide by; leave it out, or take "
                              "'of means'")  # fmt: skip

    def judged(self, numbers: Numbers, ends: Ends, axes: list[Axis]) -> "xarray.Dataset":
        """`faithfulness` and `value` over the axes of circuits, with intervals, and what they say of themselves.

        `numbers` are the metrics of the circuits, [metric, batch, circuit].
        """
        import xarray

        settings, cells = self.settings, [len(axis.indices) for axis in axes]
        shares = _shares(numbers.values.mT, ends, self.ratio, linearised=not settings.per_prompt).mT.unflatten(2, cells)
        value = numbers.result(axes, self.names, settings, {**self.about, "ratio": self.ratio})
        share = over_prompts(shares, axes, self.names, settings.per_prompt, settings.confidence, {}, "faithfulness")
        empty = ends[1].mean(dim=1).tolist()
        about = value.attrs | {"empty": empty[0] if len(empty) == 1 else empty, "confidence": settings.confidence}
        about.pop("values")  # "metric", which holds for one of two
        return xarray.Dataset(as_variables("faithfulness", share) | as_variables("value", value), attrs=about)


def _shares(
    values: Float[Tensor, "metric circuit batch"], ends: Ends, ratio: Ratio, linearised: bool
) -> Float[Tensor, "metric circuit batch"]:
    """For each prompt a number whose mean over prompts is the faithfulness.

    Those of a ratio of means, f = mean(part) / mean(gap), are part / mean(gap); `linearised`, they are
    f + (part - f gap) / mean(gap), whose spread over prompts is, to first order, that of f.
    """
    whole, empty = (end[:, None] for end in ends)
    part, gap = (values - empty).contiguous(), (whole - empty).contiguous()  # of equal numbers equal means
    if ratio == "mean of ratios":
        return part / gap
    shares = part / gap.mean(dim=-1, keepdim=True)
    if not linearised:
        return shares
    f = part.mean(dim=-1, keepdim=True) / gap.mean(dim=-1, keepdim=True)  # of the whole graph exactly 1
    return f + (part - f * gap) / gap.mean(dim=-1, keepdim=True)
