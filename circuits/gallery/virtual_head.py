"""A virtual head: two previous-token heads, one after the other, copy from two positions back (V-composition).

The second head's values read what the first head wrote, so that the two together act like one head with the product of
their patterns and the product of their OV circuits.
"""

from circuits import Circuit, copy, match, shift
from circuits.verify import EveryText, every_text


def build() -> Circuit:
    """Two layers."""
    c = Circuit(vocab="!abcde", n_ctx=7, bos="!")
    prev = c.space("prev", c.tok)
    one_back = match(c.pos, c.pos, shift(1))
    c.head("previous", qk=one_back, ov=copy(c.tok, prev))
    c.head("again", qk=one_back, ov=copy(prev, c.out))
    return c


def reference(text: str) -> list[str | None]:
    """The word two back, once there is one after the start."""
    return [text[i - 2] if i > 2 else None for i in range(len(text))]


def inputs() -> EveryText:
    """All 5^6 texts of six letters."""
    return every_text("abcde", 6)
