"""Patching: what one place, or one path, does to a metric.

`sweep` patches every layer, position, head or neuron of a site, one at a time, `sweep_sites` several sites in one call;
`path_sweep` measures what heads and MLPs do by way of chosen receivers; `path_tree` what single paths carry. All take
the same options (`SweepOptions`), and all can say what they found as values of the metric, effects or fractions.
`packed.py` says why this is cheap.
"""

from interp.patching.measure import Metrics
from interp.patching.options import EffectOptions, SweepOptions
from interp.patching.pairs import ROLES, PatchDirection, Prompt, Source
from interp.patching.path_sweeps import path_sweep
from interp.patching.path_trees import path_tree
from interp.patching.plan import Granularity
from interp.patching.sweeps import sweep, sweep_sites

__all__ = [
    "ROLES",
    "EffectOptions",
    "Granularity",
    "Metrics",
    "PatchDirection",
    "Prompt",
    "Source",
    "SweepOptions",
    "path_sweep",
    "path_tree",
    "sweep",
    "sweep_sites",
]
