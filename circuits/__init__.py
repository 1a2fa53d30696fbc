"""Transformers whose weights are declared, not trained, and checks that they do what they were declared to do.

Declare with `Circuit`, `match`, `copy` and `shift`; see `circuit.py`. `circuits.gallery` holds worked examples.
"""

from circuits.circuit import Circuit
from circuits.forms import Form, copy, match, shift
from circuits.space import Space

__all__ = ["Circuit", "Form", "Space", "copy", "match", "shift"]
