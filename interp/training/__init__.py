"""A small trainer, and what to look for in its curves.

`train` teaches a copy of a model to predict the next token of your sequences, or labels of your own; `Training` holds
the trained model and the losses of every step, and `phase_change` finds the step at which such a loss falls. A `Batch`
says what of a batch is to be predicted; `iid_tokens` and `variable_offset_repeats` make batches for toy tasks.
"""

from interp.training.targets import DataSource
from interp.training.toy_data import Batch, Seed, iid_tokens, variable_offset_repeats
from interp.training.trainer import Measure, Training, phase_change, train

__all__ = [
    "Batch",
    "DataSource",
    "Measure",
    "Seed",
    "Training",
    "iid_tokens",
    "phase_change",
    "train",
    "variable_offset_repeats",
]
