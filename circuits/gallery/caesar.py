"""Caesar's cipher: every letter is followed by the one three letters on. A direct path, without any layer."""

from circuits import Circuit, copy
from circuits.verify import EveryText, every_text

LETTERS = "abcdefgh"
THREE_ON = dict(zip(LETTERS, LETTERS[3:] + LETTERS[:3], strict=True))


def build() -> Circuit:
    """No layers."""
    c = Circuit("!" + LETTERS, n_ctx=5, bos="!")
    c.direct(copy(c.tok, c.out, THREE_ON))
    return c


def reference(text: str) -> list[str | None]:
    """Three letters on, after h again from a."""
    return [None, *(chr(ord("a") + (ord(letter) - ord("a") + 3) % len(LETTERS)) for letter in text[1:])]


def inputs() -> EveryText:
    """All 8^4 texts of four letters."""
    return every_text(LETTERS, 4)
