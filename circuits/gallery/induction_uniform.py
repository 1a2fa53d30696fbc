"""Induction over all matches alike: the in-context bigram estimate.

As `induction_latest`, but the head spreads over all keys that match. What it writes is, for each word, how often it
followed the current one so far, as a share.
"""

from collections import Counter

from circuits import Circuit, copy, match, shift
from circuits.verify import EveryText, every_text


def build() -> Circuit:
    """Two layers."""
    c = Circuit(vocab="!abcde", n_ctx=7, bos="!")
    prev = c.space("prev", c.tok)
    c.head("previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
    c.head("induction", qk=match(c.tok, prev), ov=copy(c.tok, c.out), ties="mean")
    return c


def reference(text: str) -> list[dict[str, float]]:
    """Shares of what followed the current word; nothing where it is new."""
    answers = []
    for i, word in enumerate(text):
        followers = Counter(text[j + 1] for j in range(1, i) if text[j] == word)
        answers.append({follower: n / followers.total() for follower, n in followers.items()})
    return answers


def inputs() -> EveryText:
    """All 5^6 texts of six letters."""
    return every_text("abcde", 6)
