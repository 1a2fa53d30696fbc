"""The language: what a circuit is made of, and what it means.

A `Space` names a part of the residual stream, with one direction for each label. A `Form` relates two spaces: `match`
says which keys a head attends to, `copy` says what it writes. `Head` and `Neurons` are the parts that read spaces and
write them. A `Declaration` is all of it together, with the words and the longest text, and the `Builder` has the
methods that declare. The `Layout` puts the spaces side by side, `Holdings` say what each of them can hold, and the
checks refuse what cannot be kept. `edge_graph` says which part feeds which, and the `Interpreter` runs a declaration
symbolically, with attention that chooses instead of weighing. Nothing here knows of weights.
"""

from circuits.language.builder import Builder
from circuits.language.checks import check_alive, check_sound
from circuits.language.declaration import Declaration
from circuits.language.decoding import decode, in_words, leading, nothing_below
from circuits.language.edges import DECODER, ENCODER, LOGITS, component_graph, component_name, edge_graph, edge_name
from circuits.language.forms import Form, Shift, Term, copy, match, real_tensor, shift
from circuits.language.holdings import Holdings
from circuits.language.interpreter import (
    Interpretation,
    Interpreter,
    attend,
    checked_readout,
    checked_vectors,
    visible_keys,
)
from circuits.language.knots import Pieces
from circuits.language.layout import Layout, Read, Write, time_of
from circuits.language.neurons import key_as_written
from circuits.language.parts import (
    CROSS_PHASE,
    EMBED,
    POS_EMBED,
    SOURCE,
    UNEMBED,
    Attend,
    Entry,
    Head,
    Lookup,
    Neurons,
    Part,
    Ramp,
    Table,
    Terms,
    Ties,
)
from circuits.language.space import (
    Coordinate,
    Holds,
    Label,
    Linear,
    Number,
    Space,
    Sum,
    cut,
    is_finite,
    listed,
    plain,
    shortened,
)

__all__ = [
    "CROSS_PHASE",
    "DECODER",
    "EMBED",
    "ENCODER",
    "LOGITS",
    "POS_EMBED",
    "SOURCE",
    "UNEMBED",
    "Attend",
    "Builder",
    "Coordinate",
    "Declaration",
    "Entry",
    "Form",
    "Head",
    "Holdings",
    "Holds",
    "Interpretation",
    "Interpreter",
    "Label",
    "Layout",
    "Linear",
    "Lookup",
    "Neurons",
    "Number",
    "Part",
    "Pieces",
    "Ramp",
    "Read",
    "Shift",
    "Space",
    "Sum",
    "Table",
    "Term",
    "Terms",
    "Ties",
    "Write",
    "attend",
    "check_alive",
    "check_sound",
    "checked_readout",
    "checked_vectors",
    "component_graph",
    "component_name",
    "copy",
    "cut",
    "decode",
    "edge_graph",
    "edge_name",
    "in_words",
    "is_finite",
    "key_as_written",
    "leading",
    "listed",
    "match",
    "nothing_below",
    "plain",
    "real_tensor",
    "shift",
    "shortened",
    "time_of",
    "visible_keys",
]
