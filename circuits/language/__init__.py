"""The language: what a circuit is made of, and what it means.

A `Space` names a part of the residual stream, with one direction for each label. A `Form` relates two spaces: `match`
says which keys a head attends to, `copy` says what it writes. `Head` and `Neurons` are the parts that read spaces and
write them, and a `Declaration` is all of it together, with the words and the longest text. The `Layout` puts the
spaces side by side, `edge_graph` says which part feeds which, and the `Interpreter` runs a declaration symbolically,
with attention that chooses instead of weighing. Nothing here knows of weights.
"""

from circuits.language.declaration import Declaration
from circuits.language.edges import edge_graph
from circuits.language.forms import Form, Shift, Term, copy, match, shift
from circuits.language.interpreter import Interpretation, Interpreter, attend, decode, in_words, leading, visible_keys
from circuits.language.layout import Layout
from circuits.language.parts import Head, Neurons, Part, Ramp, Table, Ties
from circuits.language.space import Coordinate, Label, Number, Space, is_finite, listed, shortened

__all__ = [
    "Coordinate",
    "Declaration",
    "Form",
    "Head",
    "Interpretation",
    "Interpreter",
    "Label",
    "Layout",
    "Neurons",
    "Number",
    "Part",
    "Ramp",
    "Shift",
    "Space",
    "Table",
    "Term",
    "Ties",
    "attend",
    "copy",
    "decode",
    "edge_graph",
    "in_words",
    "is_finite",
    "leading",
    "listed",
    "match",
    "shift",
    "shortened",
    "visible_keys",
]
