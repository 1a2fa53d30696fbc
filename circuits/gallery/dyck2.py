"""Dyck-2: every closing bracket predicts the opening one that it closes.

The depth of a position comes from attention to everything so far: (opened - closed) / length, which one bucket a
position turns into a number. A closing bracket that leaves depth d belongs to the latest opening one of depth d + 1.
"""

import itertools

from circuits import Circuit, copy, match, shift
from circuits.verify import every_text

LENGTH, OPENING, CLOSING = 7, "([", ")]"


def build() -> Circuit:
    """Two layers, the first with an MLP."""
    c = Circuit("!()[]", n_ctx=LENGTH + 1, bos="!")
    balance, depth = c.space("balance", ["opened - closed"]), c.space("depth", range(LENGTH + 1))
    opened, closed = (copy(c.tok, balance, dict.fromkeys(ones, "opened - closed")) for ones in (OPENING, CLOSING))
    c.head("balance", ov=opened - closed)
    for i in range(LENGTH + 1):
        c.bucket(f"depth at {i}", balance, depth, {d: d / (i + 1) for d in range(i + 1)}, gate=c.pos[i])
    closing_opening = match(c.tok, c.tok, dict.fromkeys(CLOSING, tuple(OPENING)))
    one_deeper = match(depth, depth, shift(-1))
    c.head("opener", qk=closing_opening + one_deeper, ov=copy(c.tok, c.out), sink=1.5, ties="latest")
    return c


def reference(text: str) -> list[str | None]:
    """The opening bracket that each closing one closes, kept on a stack."""
    answers: list[str | None] = []
    stack: list[str] = []
    for word in text:
        if word in OPENING:
            stack.append(word)
        answers.append(stack.pop() if word in CLOSING else None)
    return answers


def inputs() -> list[str]:
    """All 4,480 strings of seven brackets that never close more than was opened; kinds need not agree."""

    def never_negative(text: str) -> bool:
        steps = (1 if word in OPENING else -1 for word in text[1:])
        return all(depth >= 0 for depth in itertools.accumulate(steps))

    return [text for text in every_text(OPENING + CLOSING, LENGTH) if never_negative(text)]
