"""Count: how many a's there are so far. As the histogram, with every position asking for the same word."""

from circuits import Circuit, copy, match
from circuits.verify import EveryText, every_text


def build() -> Circuit:
    """One layer, with an MLP."""
    c = Circuit("!abcde0123456", n_ctx=7, bos="!")
    share = c.space("share", ["of the start"])
    shares = copy(c.tok, share, {"!": "of the start"}, drop=())
    c.head(0, "every a", qk=match(c.one, c.tok, {"1": "a"}), ov=shares, sink=1)
    c.bucket(0, "count", share, c.out, {str(w): 1 / (w + 1) for w in range(7)})
    return c


def reference(text: str) -> list[str]:
    """The number of a's up to here."""
    return [str(text[: i + 1].count("a")) for i in range(len(text))]


def inputs() -> EveryText:
    """All 5^6 texts of six letters."""
    return every_text("abcde", 6)
