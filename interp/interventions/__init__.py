"""What can be done to a run, as values: frozen, hashable, combined with `+`, written to a file and read back.

    with model.intervene(Zero(site="z", layer=3, head=1) + Steer(vector, site="resid_pre", layer=5, pos=-1)):
        logits = model(text)

Each says *where* it writes (`core.py`) and *what* (`kinds.py`, `functions.py`). `acting.py` has the hook that carries
it out, `values.py` keeps the activations that it writes, `named.py` the functions.
"""

from interp.interventions.core import ADDRESS, Index, Intervention, Interventions, Position
from interp.interventions.functions import Apply
from interp.interventions.kinds import (
    FreezeNorms,
    FreezePattern,
    Mean,
    Patch,
    Resample,
    Steer,
    Zero,
)
from interp.interventions.named import Named
from interp.interventions.values import TokenMeans, Values

__all__ = [
    "ADDRESS",
    "Apply",
    "FreezeNorms",
    "FreezePattern",
    "Index",
    "Intervention",
    "Interventions",
    "Mean",
    "Named",
    "Patch",
    "Position",
    "Resample",
    "Steer",
    "TokenMeans",
    "Values",
    "Zero",
]
