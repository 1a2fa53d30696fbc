"""Sweeps over data sets: the same results as of one call on all pairs, computed as jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Unpack

from torch import Tensor

from interp.data import PromptPairs
from interp.indices import chosen_indices
from interp.interventions import Index
from interp.jobs import AnyModel
from interp.keywords import known_keywords
from interp.patching.measure import Metrics
from interp.patching.over_pairs import (
    DatasetOptions,
    PairsGroup,
    PairsWork,
    fields_of_pairs,
    numbers_of,
    with_ends,
)
from interp.patching.pairs import Reaction
from interp.patching.path_sweeps import PathQuestion
from interp.patching.plan import Granularity, SweepSite
from interp.patching.sweeps import measure_sites, site_result
from interp.results import position_labels

if TYPE_CHECKING:
    import xarray


@known_keywords
def sweep_dataset(
    model: AnyModel,
    pairs: PromptPairs,
    metric: Metrics | None = None,
    site: str = "resid_pre",
    over: Sequence[Granularity] = ("layer", "pos"),
    *,
    layers: Index = None,
    positions: Index = None,
    heads: Index = None,
    neurons: Index = None,
    **options: Unpack[DatasetOptions],
) -> "xarray.DataArray":
    """A sweep over a data set, as a job: what `sweep` would return for all pairs at once.

        sweep_dataset("smollm2-135m-instruct", PromptPairs.read("pairs.jsonl"), site="z", over=("layer", "head"),
                      folder="z-sweep", workers=4)

    Args:
        model: a model, the name or the folder of one, or a `jobs.ModelRef`.
        pairs: the prompts, with their answers.
        metric: as for `sweep`, with one value a prompt; a metric may have an answer for every pair. None for the logit
            difference of each pair's own answers.
        site, over, layers, heads, neurons: as for `sweep`.
        positions: columns of the batch of all pairs, padded on the left; pairs of unequal length correspond from the
            end. At a column that a pair does not reach, nothing is patched in it.
        options: see `DatasetOptions`.

    Returns:
        As `sweep`, over all pairs. `attrs` also say which `pairs`, by their digest, and how many columns the batch of
        all pairs has (`n_pos`).

    Raises, before any unit is computed, what `sweep` raises, and:
        ConfigError: what `PromptPairs.tokens` and `jobs` refuse; a metric that makes one number of several prompts.
        CheckpointError: the folder has another job; what differs is named.
    And at the end:
        JobError: units failed, or are missing because they are another part's.
    """
    fields, job = fields_of_pairs(model, pairs, metric, options, default="denoising")
    live = fields["model"].load()
    place = SweepSite.of(live, site, over, fields["tokens"].n_pos, layers, positions, heads, neurons)
    asked = {"site": site, "over": place.over, "layers": place.layers, "positions": place.positions}
    parts = place.parts if place.part_axis == "neuron" else None, place.parts if place.part_axis != "neuron" else None
    work = SweepWork(**fields, **asked, neurons=parts[0], heads=parts[1])
    about = work.check() | {"n_pos": fields["tokens"].n_pos}
    numbers = numbers_of(work.of_all_pairs(job), work.settings)
    return site_result(numbers, place, position_labels(live, work.prompts), work.names, work.settings, about)


@dataclass(frozen=True, eq=False)
class SweepWork(PairsWork):
    """A sweep of a site.

    Attributes:
        site, over: as for `sweep`.
        layers, positions, heads, neurons: the chosen ones, counted from 0; None for what is not taken apart. Positions
            are columns of the batch of all pairs.
    """

    site: str
    over: tuple[Granularity, ...]
    layers: list[int]
    positions: list[int] | None
    heads: list[int] | None
    neurons: list[int] | None

    def asked(self) -> dict[str, Any]:
        """The cells."""
        chosen = {name: getattr(self, name) for name in ("layers", "positions", "heads", "neurons")}
        return {"analysis": "sweep", "site": self.site, "over": sorted(self.over), **chosen}

    def measure(self, group: PairsGroup) -> dict[str, Tensor]:
        """The metrics of every patched run; where a pair has no token, that of the run as it is."""
        columns = group.columns(self.positions)
        sites = {} if columns == [] else {"": self._place(group, columns)}
        measured, found = measure_sites(group.pair, sites, group.metric, group.settings)
        n_parts = len(self.heads or self.neurons or [0])
        values = measured.baseline[..., None, None, None].repeat(
            1, 1, len(self.layers), len(self.positions or [0]), n_parts
        )
        if sites:
            reached = slice(None)
            if self.positions is not None:
                reached = [i for i, position in enumerate(self.positions) if position >= group.offset]
            values[:, :, :, reached] = found[""].unflatten(2, sites[""].shape)
        return with_ends(measured, values.flatten(2))

    def _place(self, group: PairsGroup, positions: list[int] | None) -> SweepSite:
        """The cells in a batch of these pairs."""
        n_pos = self.tokens.n_pos - group.offset
        return SweepSite.of(group.model, self.site, self.over, n_pos, self.layers, positions, self.heads, self.neurons)


@known_keywords
def path_sweep_dataset(
    model: AnyModel,
    pairs: PromptPairs,
    metric: Metrics | None = None,
    receivers: str | Sequence[str] = "logits",
    senders: Literal["heads", "mlps"] | Sequence[str] = "heads",
    *,
    mlps: Reaction = "live",
    norms: Reaction = "live",
    positions: Index = None,
    **options: Unpack[DatasetOptions],
) -> "xarray.DataArray":
    """A sweep of paths over a data set, as a job: what `path_sweep` would return for all pairs at once.

    Args:
        model, pairs, metric, positions: as for `sweep_dataset`.
        receivers, senders, mlps, norms: as for `path_sweep`.
        options: see `DatasetOptions`; by default corrupted activations are written into the clean run ("noising").

    Raises as `path_sweep` and `sweep_dataset`.
    """
    fields, job = fields_of_pairs(model, pairs, metric, options, default="noising")
    question = PathQuestion.of(fields["model"].load(), receivers, senders, mlps, norms)
    where = None if positions is None else chosen_indices("positions", positions, fields["tokens"].n_pos)
    work = PathWork(**fields, question=question, positions=where)
    about = work.check()
    numbers = numbers_of(work.of_all_pairs(job), work.settings)
    return question.result(numbers, work.names, where, work.settings, about)


@dataclass(frozen=True, eq=False)
class PathWork(PairsWork):
    """A sweep of paths.

    Attributes:
        question: what is asked.
        positions: where, as columns of the batch of all pairs.
    """

    question: PathQuestion
    positions: list[int] | None

    def asked(self) -> dict[str, Any]:
        """Senders, receivers, and how what is between them reacts."""
        return {"analysis": "path sweep", **self.question.specification(), "positions": self.positions}

    def measure(self, group: PairsGroup) -> dict[str, Tensor]:
        """The metrics with every sender's paths patched."""
        columns = group.columns(self.positions)
        return with_ends(*self.question.measure(group.pair, group.metric, columns, group.settings))
