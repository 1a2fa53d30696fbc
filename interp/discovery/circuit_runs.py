"""Runs of circuits, for all that judges them: values of the metric with everything outside a circuit from the other
run, and what of a difference is more than noise.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.digests import digest_of
from interp.discovery.masked import EdgeRuns
from interp.discovery.options import split_options
from interp.errors import ConfigError, describe
from interp.model import EdgeGraph
from interp.patching import Measurement, Metrics, Settings, Source
from interp.progress import progress_bar
from interp.results import interval_margin

if TYPE_CHECKING:
    from interp.model import HookedTransformer

AT_ONCE = 64
"""How many circuits are handed to the engine together, which itself runs as many at once as the memory takes."""

LEAST_GAP = 1e-6
"""Below this share of a metric's size two values count as equal, or below eight roundings where these are larger."""


@dataclass(eq=False)
class CircuitRuns:
    """Runs of any circuits of one model on one pair of prompts. It remembers the circuits that have run.

    Attributes:
        engine: what runs them.
    """

    engine: EdgeRuns
    _known: dict[str, Float[Tensor, "metric batch"]] = field(default_factory=dict, repr=False)
    """The metrics of the circuits that have run, by the digests of the edges outside."""

    @classmethod
    def of(
        cls,
        model: "HookedTransformer",
        corrupted: Source | None,
        clean: Source,
        metric: Metrics,
        options: Mapping[str, Any],
    ) -> "CircuitRuns":
        """Run the pair. Raises as `patching.sweep` does, and `ConfigError` for prompts that are equal."""
        settings, how = split_options({"effects": False, **options})
        engine = EdgeRuns.of(model, corrupted, clean, metric, settings, **how)
        if min(engine.starts) == engine.n_pos:
            where = "" if engine.positions is None else " at and before the positions that are asked for"
            raise ConfigError(
                f"the clean and the corrupted run are equal{where}, so every circuit does what the model does; give "
                "prompts that differ, or Zero() or Mean(cache) as the corrupted ones"
            )
        return cls(engine)

    @property
    def measured(self) -> Measurement:
        """The pair's metrics, and how they are shown."""
        return self.engine.measured

    @property
    def graph(self) -> EdgeGraph:
        """The model's."""
        return self.engine.graph

    @property
    def settings(self) -> Settings:
        """The options of the call."""
        return self.measured.settings

    def values(
        self, circuits: Iterable[Bool[Tensor, "reader writer"]], what: str, total: int
    ) -> Float[Tensor, "metric circuit batch"]:
        """The metric of every circuit, with everything outside it from the other run.

        A circuit is run once, so that equal ones, and both ends, have exactly equal values.

        Args:
            circuits: at least one, as masks of their edges.
            what: for the progress bar.
            total: how many there are.
        """
        edges = self.graph.edge_mask()
        asked, waiting = list[str](), dict[str, Tensor]()

        def run() -> None:
            values = self.ablated(torch.stack([*waiting.values()]))
            self._known.update(zip(waiting, values.unbind(dim=1), strict=True))
            waiting.clear()

        with progress_bar(what, total, self.settings.progress) as advance:
            for circuit in circuits:
                outside = edges & ~circuit
                asked.append(key := digest_of({"": outside}))
                if key not in self._known:
                    waiting[key] = outside
                if len(waiting) == AT_ONCE:
                    run()
                advance(1)
            if waiting:
                run()
        return torch.stack([self._known[key] for key in asked], dim=1)

    def ablated(self, edges: Bool[Tensor, "circuit reader writer"]) -> Float[Tensor, "metric circuit batch"]:
        """The metric with these edges carrying the other run."""
        return self.engine.metrics(edges.to(self.measured.baseline))

    def ends(self) -> tuple[Float[Tensor, "metric batch"], Float[Tensor, "metric batch"]]:
        """The metric of the whole graph, and of the empty circuit, where every edge carries the other run."""
        edges = self.graph.edge_mask()
        whole, empty = self.values([edges, torch.zeros_like(edges)], "running both ends", 2).unbind(dim=1)
        return whole, empty

    def beyond_rounding(
        self, difference: Float[Tensor, "*cells"], size: Float[Tensor, "*#cells"]
    ) -> Bool[Tensor, "*cells"]:
        """Which differences between values of that size are more than rounding of this model's dtype."""
        return beyond_rounding(difference, size, self.engine.model.cfg.dtype)

    def decided(
        self, differences: Float[Tensor, "*cells batch"], sizes: Float[Tensor, "*cells batch"], confidence: float
    ) -> Bool[Tensor, "*cells"]:
        """Which mean differences over prompts are neither noise nor rounding of this model's dtype."""
        return decided(differences, sizes, confidence, self.engine.model.cfg.dtype)


def beyond_rounding(
    difference: Float[Tensor, "*cells"], size: Float[Tensor, "*#cells"], dtype: torch.dtype
) -> Bool[Tensor, "*cells"]:
    """Which differences between values of that size, of a model of that dtype, are more than rounding."""
    return difference.abs() > max(LEAST_GAP, 8 * torch.finfo(dtype).eps) * (1 + size.abs())


def decided(
    differences: Float[Tensor, "*cells batch"],
    sizes: Float[Tensor, "*cells batch"],
    confidence: float,
    dtype: torch.dtype,
) -> Bool[Tensor, "*cells"]:
    """Which mean differences over prompts are not noise.

    These are more than rounding, and over several prompts their (paired) interval does not include 0.
    """
    mean = differences.mean(dim=-1)
    more = beyond_rounding(mean, sizes.abs().mean(dim=-1), dtype)
    return more & (mean.abs() > interval_margin(differences, confidence))


def check_one_metric(metric: object) -> None:
    """Raise `ConfigError` for several metrics where one decides."""
    if isinstance(metric, Mapping):
        raise ConfigError(f"metric = {describe(metric)}: one metric decides here; ask for one at a time")


def is_finite(value: object) -> TypeGuard[float]:
    """Whether it is a finite number, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
