"""Induction by Q-composition: a pointer to the latest earlier occurrence, and one step on.

The duplicate-token head finds an earlier occurrence of the current word and writes where it is; the next head's query
reads that pointer and attends to the position after it.
"""

from circuits import Circuit, copy, match, shift
from circuits.verify import EveryText, every_text


def build() -> Circuit:
    """Two layers."""
    c = Circuit(vocab="!abcde", n_ctx=7, bos="!")
    pointer = c.space("pointer", c.pos)
    elsewhere = match(c.tok, c.tok) - 2 * match(c.pos, c.pos)
    c.head("duplicate", qk=elsewhere, ov=copy(c.pos, pointer), ties="latest")
    c.head("induction", qk=match(pointer, c.pos, shift(-1)), ov=copy(c.tok, c.out))
    return c


def reference(text: str) -> list[str | None]:
    """The word after the latest earlier occurrence."""
    answers: list[str | None] = []
    for i, word in enumerate(text):
        place = text.rfind(word, 1, i)
        answers.append(text[place + 1] if place > 0 else None)
    return answers


def inputs() -> EveryText:
    """All 5^6 texts of six letters."""
    return every_text("abcde", 6)
