"""Duplicate token: attend to earlier occurrences of the current word, not to itself, and repeat the word.

Matching positions count -2, so that a word that is new scores less at itself than the sink does.
"""

from circuits import Circuit, copy, match
from circuits.verify import EveryText, every_text


def build() -> Circuit:
    """One layer."""
    c = Circuit(vocab="!abcde", n_ctx=7, bos="!")
    c.head("duplicate", qk=match(c.tok, c.tok) - 2 * match(c.pos, c.pos), ov=copy(c.tok, c.out))
    return c


def reference(text: str) -> list[str | None]:
    """The word itself where it stood before."""
    return [word if word in text[:i] else None for i, word in enumerate(text)]


def inputs() -> EveryText:
    """All 5^6 texts of six letters."""
    return every_text("abcde", 6)
