"""Transformers whose weights are declared, not trained, and checks that they do what they were declared to do.

Declare with `Circuit`, `match`, `copy` and `shift`; see `circuit.py`, and `encoder_decoder.py` for two stacks. The
rooms, from the ground up:

- `circuits.language` says what a circuit is made of, and what it means.
- `circuits.compiler` writes its weights.
- `circuits.verify` compares the model with what was declared.
- `circuits.library` holds programs that others are built from, as functions on a circuit.
- `circuits.gallery` holds worked examples.
- `circuits.benchmark` hides them in larger models, as questions for circuit discovery whose answers are known.
- `circuits.lecture` reproduces a lecture's table, and `circuits.export` writes a circuit as a transformers GPT-2.
- `circuits.commands` adds all this to the command line.
"""

from circuits.circuit import Circuit
from circuits.encoder_decoder import EncoderDecoder
from circuits.language import Form, Space, copy, match, shift

__all__ = ["Circuit", "EncoderDecoder", "Form", "Space", "copy", "match", "shift"]
