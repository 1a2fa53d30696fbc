"""Verification: the compiled model, the symbolic interpreter and a reference function, compared on every input.

`verify` runs texts through all three and returns a `Report`: how many positions are right, by what margin, and where
the margin is smallest. The reference is plain Python: a function from a text to what should be predicted at each of its
positions (`Expected`). Without one, the interpreter is the reference. Of a circuit with a source `verify_pair` compares
whole answers, a target for each source.
"""

from circuits.verify.answers import Expected, Reference
from circuits.verify.check import VerifyOptions, verify
from circuits.verify.inputs import EveryText, every_text
from circuits.verify.pairs import Answer, VerifyPairOptions, verify_pair
from circuits.verify.report import Report, Worst

__all__ = [
    "Answer",
    "EveryText",
    "Expected",
    "Reference",
    "Report",
    "VerifyOptions",
    "VerifyPairOptions",
    "Worst",
    "every_text",
    "verify",
    "verify_pair",
]
