"""What can be done to a run, as values: frozen, hashable, combined with `+`, written to a file and read back.

with model.intervene(Zero(site="z", layer=3, head=1) + Steer(vector, site="resid_pre", layer=5, pos=-1)):
logits = model(text)
"""

from interp.interventions.kinds import (
    FreezeNorms,
    FreezePattern,
    Index,
    Intervention,
    Interventions,
    Mean,
    Patch,
    Resample,
    Steer,
    Zero,
)
from interp.interventions.values import Values

__all__ = [
    "FreezeNorms",
    "FreezePattern",
    "Index",
    "Intervention",
    "Interventions",
    "Mean",
    "Patch",
    "Resample",
    "Steer",
    "Values",
    "Zero",
]
