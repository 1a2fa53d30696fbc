"""Successor modulo 8: every digit predicts the next one, 7 predicts 0, and other words predict nothing.

The head attends to its own position; its OV circuit is a cyclic permutation of the digits. Its eigenvalues lie evenly
on the unit circle, so that the copying score, their sum, is 0.
"""

from circuits import Circuit, copy, match
from circuits.verify import EveryText, every_text

DIGITS = "01234567"
NEXT = dict(zip(DIGITS, DIGITS[1:] + DIGITS[0], strict=True))


def build() -> Circuit:
    """One layer."""
    c = Circuit(vocab="!x" + DIGITS, n_ctx=5, bos="!")
    c.head("successor", qk=match(c.pos, c.pos), ov=copy(c.tok, c.out, NEXT))
    return c


def reference(text: str) -> list[str | None]:
    """(digit + 1) mod 8."""
    return [str((int(word) + 1) % 8) if word.isdigit() else None for word in text]


def inputs() -> EveryText:
    """All 9^4 texts of four words, digits or x."""
    return every_text(DIGITS + "x", 4)
