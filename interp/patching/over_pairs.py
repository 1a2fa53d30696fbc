"""Analyses over a data set of pairs, as jobs: some pairs at a time, and every prompt's own numbers kept.

A unit is a fixed range of pairs. Within it, pairs of equal length run together, so that nothing is padded. What a unit
returns has an axis of prompts, along which the units are put together; means, fractions and intervals are then those of
all prompts, whatever the units were.

Positions are columns of the batch padded on the left, as for several texts in one call: they correspond from the end.
"""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from interp.data import PairTokens, PromptPairs
from interp.errors import ConfigError, ShapeError, TokenError, describe
from interp.indices import check_count
from interp.interventions import Intervention, Resample
from interp.jobs import AnyModel, JobOptions, ModelRef, ModelWork, put_together, run
from interp.metrics import JudgedRun, KLDivergence, Metric, as_metric, key_of
from interp.patching.measure import Measurement, Metrics, Numbers, check_same_places
from interp.patching.options import Settings
from interp.patching.pairs import ROLES, PatchDirection, PromptPair
from interp.patching.prompts import Source
from interp.text import MaskedTokens

if TYPE_CHECKING:
    from interp.model import HookedTransformer


UNIT_PAIRS = 8
"""Of a unit, by default. A pair is patched hundreds of times, so that more at a time are no faster."""


class PairsOptions(JobOptions, total=False):
    """How pairs are run, and how the job is done.

    All of `JobOptions` too (folder, workers, threads, retries, progress).

    Attributes:
        ablation: what is written in place of the corrupted prompts' activations: `Zero()`, `Mean(store)`, or the like.
        direction, per_prompt, confidence: as for one call; see `EffectOptions`. Intervals are over all prompts.
        unit: how many pairs a unit has; 8 by default. A worker does one at a time, and an interruption loses it. It can
            decide the last bits of a result.
        max_bytes: the memory that patched runs may take, in every worker; 2 GB by default. It can decide the last bits.
    """

    ablation: Intervention | None
    direction: PatchDirection | None
    per_prompt: bool
    confidence: float
    unit: int
    max_bytes: int


class DatasetOptions(PairsOptions, total=False):
    """How pairs are run, how effects are measured, and how the job is done.

    All of `PairsOptions` too (ablation, direction, per_prompt, confidence, unit, max_bytes, folder, workers, threads,
    retries, progress).

    Attributes:
        effects, normalize: as for one call; see `EffectOptions`. Fractions are of the mean gap over all prompts.
    """

    effects: bool
    normalize: bool


@dataclass(frozen=True, eq=False)
class PairsGroup:
    """Pairs of one length, which run together.

    Attributes:
        model: that runs.
        corrupted: the prompts, or what is written in their place.
        clean: the prompts.
        metric: of these pairs.
        offset: how many columns of padding they would have in a batch of all pairs.
        settings: direction and budget; what is measured of a group is not normalised.
    """

    model: "HookedTransformer"
    corrupted: Source
    clean: MaskedTokens
    metric: Metrics
    offset: int
    settings: Settings

    @property
    def pair(self) -> PromptPair:
        """What runs, and what is written into it."""
        return PromptPair.of(self.model, self.corrupted, self.clean, self.settings.direction, None)

    def columns(self, positions: list[int] | None) -> list[int] | None:
        """Columns of the batch of all pairs, as positions of these; those that are padding here are left out."""
        return None if positions is None else [p - self.offset for p in positions if p >= self.offset]


@dataclass(frozen=True, eq=False)
class PairsWork(ModelWork):
    """What every analysis of pairs asks; a subclass says what is measured of some pairs of one length.

    Attributes:
        pairs: with their texts.
        tokens: the same as the model's tokens.
        metric: None for the difference of each pair's own answers.
        ablation: in place of the corrupted prompts' activations, or None.
        unit: how many pairs a unit has.
        settings: direction, budget, and how results are shown.
    """

    pairs: PromptPairs
    tokens: PairTokens
    metric: Metrics | None
    ablation: Intervention | None
    unit: int
    settings: Settings

    @abstractmethod
    def asked(self) -> dict[str, Any]:
        """What the subclass measures, part by part, as JSON values."""

    @abstractmethod
    def measure(self, group: PairsGroup) -> dict[str, Tensor]:
        """What is measured of these pairs: tensors [metric, batch, ...] by name."""

    # ------------------------------------------------------------------ the job

    @property
    def n_units(self) -> int:
        """One for every `unit` pairs; the last may have fewer."""
        return math.ceil(len(self.pairs) / self.unit)

    def rows(self, unit: int) -> range:
        """The pairs of a unit."""
        return range(unit * self.unit, min((unit + 1) * self.unit, len(self.pairs)))

    def describe(self, unit: int) -> str:
        """Which pairs, and the first of them."""
        rows = self.rows(unit)
        return f"pairs {rows[0]} to {rows[-1]}, the first: {describe(self.pairs.clean[rows[0]])}"

    def specification(self) -> dict[str, Any]:
        """All that the numbers of a prompt depend on."""
        run = self._judged(self.prompts)
        return {
            "model": self.model.key(),
            "pairs": self.tokens.digest,
            "metric": [[name, metric.key(run)] for name, metric in self.metrics.items()],
            "ablation": None if self.ablation is None else key_of(self.ablation, "the ablation"),
            "direction": self.settings.direction,
            "pairs a unit": self.unit,
            "max_bytes": self.settings.max_bytes,
            **self.asked(),
        }

    def called(self) -> dict[str, str]:
        """The model, the pairs, and the metrics."""
        metrics = "; ".join(describe(metric) for metric in self.metrics.values())
        own = "the logit difference of each pair's own answers" if self.pairs.incorrect else "the logit of each answer"
        return {**super().called(), "pairs": repr(self.pairs), "metric": own if self.metric is None else metrics}

    def compute(self, unit: int) -> dict[str, Tensor]:
        """What is measured of a unit's pairs, in their order."""
        rows = self.rows(unit)
        merged: dict[str, Tensor] = {}
        with torch.no_grad():
            for some in self.tokens.groups(rows):
                at = torch.tensor(some) - rows[0]
                for name, of in self.measure(self.group(some)).items():
                    if name not in merged:
                        merged[name] = torch.empty(of.shape[0], len(rows), *of.shape[2:], dtype=of.dtype)
                    merged[name][:, at] = of.cpu()
        return merged

    def of_all_pairs(self, job: JobOptions) -> dict[str, Tensor]:
        """Do the job: what is measured of all pairs, in their order. Raises as `jobs.run`."""
        with run(self, **job) as folder:
            return put_together(folder.results(), dim=1)  # that of prompts

    # ------------------------------------------------------------------ pairs and metrics

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics of all pairs, by name; the name of a single one is empty."""
        given = self.tokens.metric if self.metric is None else self.metric
        return {n: as_metric(m) for n, m in (given.items() if isinstance(given, Mapping) else [("", given)])}

    @property
    def names(self) -> list[str] | None:
        """Of the metrics, where the caller gave them."""
        return list(self.metric) if isinstance(self.metric, Mapping) else None

    def group(self, rows: Sequence[int]) -> PairsGroup:
        """Some pairs of one length."""
        model = self.model.load()
        clean, corrupted = (
            MaskedTokens(torch.tensor([ids[row] for row in rows], device=model.W_E.device))
            for ids in (self.tokens.clean, self.tokens.corrupted)
        )
        ablation = self.ablation
        if isinstance(ablation, Resample):  # which prompt gets which other's activations differs from unit to unit
            ablation = dataclasses.replace(ablation, seed=ablation.seed + rows[0])
        metrics = {name: _of_rows(metric, rows, len(self.pairs)) for name, metric in self.metrics.items()}
        metric: Metrics = metrics if self.names is not None else metrics[""]
        offset = self.tokens.n_pos - clean.ids.shape[1]
        # What is normalised by is the gap of all pairs: there need be none between some of them.
        settings = dataclasses.replace(self.settings, normalize=False)
        return PairsGroup(model, corrupted if ablation is None else ablation, clean, metric, offset, settings)

    @property
    def first_group(self) -> PairsGroup:
        """The first two pairs of one length in the first unit, on which a question can be tried."""
        return self.group(self.tokens.groups(self.rows(0))[0][:2])

    @torch.no_grad()
    def check(self) -> dict[str, object]:
        """As `tried`, of which it returns what the results' `attrs` say."""
        return self.tried()[1]

    def tried(self) -> tuple[list[str], dict[str, object]]:
        """Try the question on the first two pairs of one length: what each metric is called, and what `attrs` say.

        Raises what a call on these two would raise, and `ConfigError` for a metric that makes one number of several
        prompts, or that counts positions from the start where pairs differ in length. Raises, naming a pair, for a
        metric that pairs of some length are too short for.
        """
        for metric in self.metrics.values():
            self._check_metric(metric)
        others = self.tokens.corrupted_batch() if self.ablation is None else self.tokens.clean_batch()
        check_same_places(self.metrics.values(), self._judged(self.tokens.clean_batch()), self._judged(others))
        group = self.first_group
        measured = Measurement.of(group.pair.run([]), group.metric, group.settings)
        check_not_pooled(measured)
        if self.settings.normalize and measured.target is None:
            raise ConfigError(f"normalize = True, but {self.ablation!r} is not a run, so there is no other end to "
                              "measure against")  # fmt: skip
        self._check_lengths()
        names = [
            self._name(metric, plan.name) for metric, plan in zip(self.metrics.values(), measured.plans, strict=True)
        ]
        about = {name: said for name, said in measured.about().items() if name not in ("n", "baseline", "target")}
        return names, {**about, "metric": "; ".join(names), "pairs": self.pairs.digest}

    def _check_lengths(self) -> None:
        """Measure a pair of every length, as it is: some metrics ask for more tokens than the shortest have."""
        for some in self.tokens.groups(range(len(self.pairs))):
            group = self.group(some[:1])
            try:
                Measurement.of(group.pair.run([]), group.metric, group.settings)
            except (ShapeError, TokenError) as error:
                n_pos = self.tokens.lengths[some[0]]
                raise type(error)(f"{self.pairs.names[some[0]]}, of {n_pos} tokens: {error}") from error

    def _check_metric(self, metric: Metric) -> None:
        if isinstance(metric, KLDivergence) and metric.reference is not None:
            raise ConfigError("over a data set KLDivergence is from each pair's clean run: give it no reference")
        pos = getattr(metric, "pos", None)
        several = pos if isinstance(pos, tuple) else (pos,)
        if len(set(self.tokens.lengths)) > 1 and any(isinstance(p, int) and p >= 0 for p in several):
            raise ConfigError(
                f"{type(metric).__name__}: pos = {pos} counts from the start, and these pairs differ in length "
                f"({min(self.tokens.lengths)} to {self.tokens.n_pos} tokens), so that it is another place in each; "
                "count from the end"
            )

    def _name(self, metric: Metric, said: str) -> str:
        """What a metric is called; of answers that differ from pair to pair, with those of all pairs."""
        if not metric.answers:
            return said
        shown = self.pairs.metric if self.metric is None else metric
        return shown.plan(self._judged(self.prompts)).name

    def _judged(self, prompts: MaskedTokens) -> JudgedRun:
        """The prompts of all pairs, of which metrics can say what they are and where they read."""
        return JudgedRun.of(self.model.load(), prompts)

    @property
    def prompts(self) -> MaskedTokens:
        """The prompts of all runs as they are, in one batch padded on the left, on the CPU."""
        role = ROLES[cast(str, self.settings.direction)][0]
        return self.tokens.clean_batch() if role == "clean" else self.tokens.corrupted_batch()


def _of_rows(metric: Metric, rows: Sequence[int], n: int) -> Metric:
    """The same metric for some of n pairs, where it has an answer for each. Raises `ConfigError` for other numbers."""
    changed: dict[str, Any] = {}
    for name in metric.answers:
        given = getattr(metric, name)
        if isinstance(given, tuple):
            if len(given) != n:
                raise ConfigError(f"{type(metric).__name__}: {len(given)} answers in {name} for {n} pairs; allowed: "
                                  "one for all, or one a pair")  # fmt: skip
            changed[name] = tuple(given[row] for row in rows)
    return dataclasses.replace(metric, **changed) if changed else metric


def check_not_pooled(measured: Measurement) -> None:
    """Raise `ConfigError` for a metric that makes one number of several prompts: it would be that of a group."""
    if pooled := [plan.name for plan, one in zip(measured.plans, measured.pooled, strict=True) if one]:
        raise ConfigError(
            f"the metric {pooled[0]!r} made a single number of several prompts; over a data set it has to make one "
            "value a prompt, whose mean does not depend on which prompts run together"
        )


# ---------------------------------------------------------------------- options and results


JOB = tuple(JobOptions.__annotations__)
"""The options that say how a job is done, rather than what is measured."""


def fields_of_pairs(
    model: AnyModel, pairs: PromptPairs, metric: Metrics | None, options: Mapping[str, Any], default: PatchDirection
) -> tuple[dict[str, Any], JobOptions]:
    """The fields of `PairsWork`, checked, and the options of its job.

    Args:
        model, pairs, metric: as for `sweep_dataset`.
        options: whose names `known_keywords` has checked.
        default: the direction where nothing is said, and nothing stands for the corrupted prompts.

    Raises `ConfigError`, `TokenError` or `ShapeError` for what is wrong.
    """
    job = cast(JobOptions, {name: options[name] for name in JOB if name in options})
    ablation = options.get("ablation")
    if ablation is not None and not isinstance(ablation, Intervention):
        raise ConfigError(f"ablation = {describe(ablation)}; allowed: Zero(), Mean(...), Resample(...), or None")
    unit = check_count("unit", options.get("unit", UNIT_PAIRS))
    others = {k: v for k, v in options.items() if k not in (*JOB, "ablation", "unit")}
    direction = others.pop("direction", None) or ("noising" if ablation is not None else default)
    settings = Settings.of({**others, "direction": direction, "progress": False})
    if not isinstance(pairs, PromptPairs):
        raise ConfigError(
            f"pairs = {describe(pairs)}; allowed: interp.data.PromptPairs, such as PromptPairs.read makes"
        )
    ref = ModelRef.of(model)
    asked = {"model": ref, "pairs": pairs, "tokens": pairs.tokens(ref.load()), "metric": metric}
    return {**asked, "ablation": ablation, "unit": unit, "settings": settings}, job


def numbers_of(found: Mapping[str, Tensor], settings: Settings) -> Numbers:
    """What was measured, and both ends of the scale. Raises `ConfigError` to normalise by no gap."""
    numbers = Numbers(found["values"], found["baseline"], found.get("target"))
    if settings.normalize:
        numbers.check_gap()
    return numbers


def with_ends(measured: Measurement, values: Float[Tensor, "metric batch *cells"]) -> dict[str, Tensor]:
    """What a unit keeps: the values, and both ends of the scale. Raises `ConfigError` for a pooled metric."""
    check_not_pooled(measured)
    target = {} if measured.target is None else {"target": measured.target}
    return {"values": values, "baseline": measured.baseline, **target}
