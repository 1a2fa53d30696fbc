"""Patching: what one place, or one path, does to a metric.

`sweep` patches every layer, position, head or neuron of a site, one at a time, `sweep_sites` several sites in one call;
`path_sweep` measures what heads and MLPs do by way of chosen receivers; `path_tree` what single paths carry. All take
the same options (`SweepOptions`), and all can say what they found as values of the metric, effects or fractions.
`packed.py` says why this is cheap.
"""

from interp.patching.measure import Measurement, Metrics, OneMetric, measure_rows
from interp.patching.options import EffectOptions, Settings, SweepOptions
from interp.patching.packed import BaseRun, PackedForward, PackedRows
from interp.patching.pairs import (
    ROLES,
    PairRuns,
    PatchDirection,
    Prompt,
    PromptPair,
    Reaction,
    Source,
    at_positions,
    check_model,
    check_reactions,
)
from interp.patching.path_sweeps import path_sweep
from interp.patching.path_trees import path_tree
from interp.patching.plan import Granularity, budget_of_rows
from interp.patching.resume import ResumeFile, question_of
from interp.patching.sweeps import sweep, sweep_sites
from interp.patching.writes import EMBED, Writes, check_writes_add_up, heads_write, read_points, written_points

__all__ = [
    "EMBED",
    "ROLES",
    "BaseRun",
    "EffectOptions",
    "Granularity",
    "Measurement",
    "Metrics",
    "OneMetric",
    "PackedForward",
    "PackedRows",
    "PairRuns",
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
    "heads_write",
    "measure_rows",
    "path_sweep",
    "path_tree",
    "question_of",
    "read_points",
    "sweep",
    "sweep_sites",
    "written_points",
]
