"""Long work in units: a folder that holds what is done, and engines that decide who computes which unit.

A `ModelRef` says which model the units run on, as a value that is pickled without weights.
"""

from interp.jobs.models import ModelRef

__all__ = ["ModelRef"]
