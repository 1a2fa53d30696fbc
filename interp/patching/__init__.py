"""Patching: what one place, or one path, does to a metric.

`sweep` patches every layer, position, head or neuron of a site, one at a time, `sweep_sites` several sites in one call;
`path_sweep` measures what heads and MLPs do by way of chosen receivers; `path_tree` what single paths carry. All take
the same options (`SweepOptions`), and all can say what they found as values of the metric, effects or fractions.
`packed.py` says why this is cheap.

`sweep_dataset` and `path_sweep_dataset` do the same over a data set of pairs, as jobs; `PairsWork` is what any analysis
of pairs is made of.
"""

from interp.patching.datasets import path_sweep_dataset, sweep_dataset
from interp.patching.measure import Measurement, Metrics, Numbers, OneMetric, measure_rows
from interp.patching.options import EffectOptions, Settings, SweepOptions
from interp.patching.over_pairs import (
    DatasetOptions,
    PairsGroup,
    PairsOptions,
    PairsWork,
    fields_of_pairs,
    numbers_of,
    with_ends,
)
from interp.patching.packed import BaseRun, PackedForward
from interp.patching.packed_rows import PackedRows
from interp.patching.pairs import (
    ROLES,
    PairRuns,
    PatchDirection,
    PromptPair,
    Reaction,
    at_positions,
    check_reactions,
    way_of,
)
from interp.patching.path_sweeps import path_sweep
from interp.patching.path_trees import path_tree
from interp.patching.plan import Granularity, budget_of_rows
from interp.patching.prompts import Prompt, Source, check_model
from interp.patching.resume import ResumeFile, question_of
from interp.patching.sweeps import sweep, sweep_sites
from interp.patching.writes import EMBED, Writes, check_writes_add_up, heads_write, read_points, written_points

__all__ = [
    "EMBED",
    "ROLES",
    "BaseRun",
    "DatasetOptions",
    "EffectOptions",
    "Granularity",
    "Measurement",
    "Metrics",
    "Numbers",
    "OneMetric",
    "PackedForward",
    "PackedRows",
    "PairRuns",
    "PairsGroup",
    "PairsOptions",
    "PairsWork",
    "PatchDirection",
    "Prompt",
    "PromptPair",
    "Reaction",
    "ResumeFile",
    "Settings",
    "Source",
    "SweepOptions",
    "Writes",
    "at_positions",
    "budget_of_rows",
    "check_model",
    "check_reactions",
    "check_writes_add_up",
    "fields_of_pairs",
    "heads_write",
    "measure_rows",
    "numbers_of",
    "path_sweep",
    "path_sweep_dataset",
    "path_tree",
    "question_of",
    "read_points",
    "sweep",
    "sweep_dataset",
    "sweep_sites",
    "way_of",
    "with_ends",
    "written_points",
]
