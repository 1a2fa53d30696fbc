"""Reverse: each position predicts the word at its mirror image, in texts of any length (bidirectional).

Attention to everything gives the start of the text the share 1 / (length + 1). A bucket makes it the length, a table
the mirrored position from length and position, and a last head fetches the word there.
"""

from circuits import Circuit, copy, match
from circuits.verify import every_text


def build() -> Circuit:
    """Three layers, two of them with MLPs."""
    c = Circuit("!abcde", n_ctx=7, bos="!", attention_dir="bidirectional")
    share, length = c.space("share", ["of the start"]), c.space("length", range(1, 7))
    mirror = c.space("mirror", c.pos)
    c.head(0, "all", ov=copy(c.tok, share, {"!": "of the start"}, drop=()))
    c.bucket(0, "length", share, length, {n: 1 / (n + 1) for n in range(1, 7)})
    c.mlp(1, "mirror", (length, c.pos), mirror, lambda n, i: n + 1 - i if 1 <= i <= n else None)
    c.head(2, "fetch", qk=match(mirror, c.pos), ov=copy(c.tok, c.out))
    return c


def reference(text: str) -> list[str | None]:
    """The text backwards, after the start."""
    return [None, *reversed(text[1:])]


def inputs() -> list[str]:
    """All 19,530 texts of one to six letters."""
    return [text for length in range(1, 7) for text in every_text("abcde", length)]
