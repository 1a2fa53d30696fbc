"""Patching: what one place, or one path, does to a metric.

`sweep` patches every layer, position, head or neuron of a site, one at a time; `path_sweep` measures what heads and
MLPs do by way of chosen receivers; `path_tree` what single paths carry. `packed.py` says why this is cheap.
"""

from interp.patching.pairs import ROLES, Direction, Prompt, Source
from interp.patching.path_sweeps import path_sweep
from interp.patching.path_trees import path_tree
from interp.patching.plan import Granularity
from interp.patching.sweeps import Metrics, every, sweep

__all__ = [
    "ROLES",
    "Direction",
    "Granularity",
    "Metrics",
    "Prompt",
    "Source",
    "every",
    "path_sweep",
    "path_tree",
    "sweep",
]
