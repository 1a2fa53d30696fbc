"""What the weights alone say, and other weights for the same function.

QK and OV circuits over the vocabulary, copying, singular directions (`circuits.py`); composition of heads
(`composition.py`); the largest entries of matrices too large to hold (`top_entries.py`); folding and centring
(`processing.py`).
"""

from interp.weights.circuits import (
    copying_scores,
    copying_top_scores,
    ov_circuit,
    qk_circuit,
    singular_directions,
)
from interp.weights.composition import Kind, composition_scores
from interp.weights.processing import (
    center_unembed,
    center_writing_weights,
    fold_layer_norm,
    fold_value_biases,
    refactor_factored_attn_matrices,
)
from interp.weights.top_entries import TopEntries, top_entries

__all__ = [
    "Kind",
    "TopEntries",
    "center_unembed",
    "center_writing_weights",
    "composition_scores",
    "copying_scores",
    "copying_top_scores",
    "fold_layer_norm",
    "fold_value_biases",
    "ov_circuit",
    "qk_circuit",
    "refactor_factored_attn_matrices",
    "singular_directions",
    "top_entries",
]
