"""Count: how many a's there are so far. As the histogram, with every position asking for the same word."""

from circuits import Circuit, copy, match
from circuits.verify import EveryText, every_text


def build() -> Circuit:
    """One layer, with an MLP."""
    c = Circuit("!abcde0123456", n_ctx=7, bos="!")
    n = c.count("every a", qk=match(c.one, c.tok, {"1": "a"}), up_to=6, gate=c.one)
    c.direct(copy(n, c.out, lambda n, word: word == str(n)))
    return c


def reference(text: str) -> list[str]:
    """The number of a's up to here."""
    return [str(text[: i + 1].count("a")) for i in range(len(text))]


def inputs() -> EveryText:
    """All 5^6 texts of six letters."""
    return every_text("abcde", 6)
