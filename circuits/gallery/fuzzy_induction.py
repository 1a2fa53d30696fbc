"""Fuzzy induction: what followed the latest occurrence of the word, or else of a similar one.

Words of one class match half as much as a word and itself.
"""

from circuits import Circuit, copy, match, shift
from circuits.verify import EveryText, every_text

KIND = {"a": "vowel", "e": "vowel", "b": "stop", "d": "stop", "s": "sibilant"}


def build() -> Circuit:
    """Two layers."""
    c = Circuit(vocab="!abdes", n_ctx=7, bos="!")
    prev = c.space("prev", c.tok)
    similar = match(c.tok, prev, lambda word, other: "!" not in (word, other) and KIND[word] == KIND[other])
    c.head("previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
    c.head("induction", qk=match(c.tok, prev) + 0.5 * similar, ov=copy(c.tok, c.out), ties="latest")
    return c


def reference(text: str) -> list[str | None]:
    """What followed the latest occurrence of the word, else of one of its kind."""
    answers: list[str | None] = []
    for i, word in enumerate(text):
        same = [j for j in range(1, i) if text[j] == word]
        similar = [j for j in range(1, i) if KIND[text[j]] == KIND[word]]
        answers.append(text[(same or similar)[-1] + 1] if similar else None)
    return answers


def inputs() -> EveryText:
    """All 5^6 texts of six letters."""
    return every_text(list(KIND), 6)
