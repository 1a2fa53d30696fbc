"""Histogram: how often the current word occurs, so far (causal) or in the whole text (bidirectional).

The head of a count spreads over the w occurrences of the word and, its sink weighing as much as a match, over the start
of the text, which so gets the share 1 / (w + 1). Copying that share makes it a number; a bucket turns it into w.
"""

from circuits import Circuit, copy, match
from circuits.verify import EveryText, every_text

LETTERS = "abcde"
VARIANTS = {"histogram": {}, "histogram_bidirectional": {"bidirectional": True}}


def build(bidirectional: bool = False) -> Circuit:
    """One layer, with an MLP."""
    c = Circuit("!abcde123456", n_ctx=7, bos="!", attention_dir="bidirectional" if bidirectional else "causal")
    n = c.count("same", qk=match(c.tok, c.tok), up_to=6)
    c.direct(copy(n, c.out, lambda n, word: word == str(n)))
    return c


def reference(text: str, bidirectional: bool = False) -> list[str | None]:
    """The number of occurrences; nothing at the start."""
    counts = [text[: None if bidirectional else i + 1].count(word) for i, word in enumerate(text)]
    return [None, *map(str, counts[1:])]


def inputs(bidirectional: bool = False) -> EveryText:
    """All 5^6 texts of six letters."""
    return every_text(LETTERS, 6)
