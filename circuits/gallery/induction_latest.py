"""Induction by K-composition: what followed the latest earlier occurrence of the current word.

A previous-token head writes into each key which word came before it; the induction head's query, the current word,
looks for it there (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").
"""

from circuits import Circuit, copy, match, shift
from circuits.verify import EveryText, every_text


def build() -> Circuit:
    """Two layers."""
    c = Circuit(vocab="!abcde", n_ctx=7, bos="!")
    prev = c.space("prev", c.tok)
    c.head("previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
    c.head("induction", qk=match(c.tok, prev), ov=copy(c.tok, c.out), ties="latest")
    return c


def reference(text: str) -> list[str | None]:
    """The word after the latest earlier occurrence."""
    answers: list[str | None] = []
    for i, word in enumerate(text):
        earlier = [j for j in range(1, i) if text[j] == word]
        answers.append(text[earlier[-1] + 1] if earlier else None)
    return answers


def inputs() -> EveryText:
    """All 5^6 texts of six letters."""
    return every_text("abcde", 6)
