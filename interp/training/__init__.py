"""A small trainer, and what to look for in its curves."""

from interp.training.trainer import Training, phase_change, train

__all__ = [
    "Training",
    "phase_change",
    "train",
]
