"""Reverse: each position predicts the word at its mirror image, in texts of any length (bidirectional).

The count of all words is the length. A table makes the mirrored position from length and position, and a last head
fetches the word there.
"""

from circuits import Circuit, copy, match
from circuits.verify import every_text


def build() -> Circuit:
    """Three layers, two of them with MLPs."""
    c = Circuit("!abcde", n_ctx=7, bos="!", attention_dir="bidirectional")
    length, mirror = c.count("length", qk=None, up_to=6), c.space("mirror", c.pos)
    c.mlp("mirror", (length, c.pos), mirror, lambda n, i: n + 1 - i if 1 <= i <= n else None)
    c.head("fetch", qk=match(mirror, c.pos), ov=copy(c.tok, c.out))
    return c


def reference(text: str) -> list[str | None]:
    """The text backwards, after the start."""
    return [None, *reversed(text[1:])]


def inputs() -> list[str]:
    """All 19,530 texts of one to six letters."""
    return [text for length in range(1, 7) for text in every_text("abcde", length)]
