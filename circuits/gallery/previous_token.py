"""Previous token: one head that attends one position back and copies what it sees."""

from circuits import Circuit, copy, match, shift
from circuits.verify import EveryText, every_text


def build() -> Circuit:
    """One layer."""
    c = Circuit(vocab="!abcde", n_ctx=7, bos="!")
    c.head("previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, c.out))
    return c


def reference(text: str) -> list[str | None]:
    """The word before, once there is one after the start."""
    return [text[i - 1] if i > 1 else None for i in range(len(text))]


def inputs() -> EveryText:
    """All 5^6 texts of six letters."""
    return every_text("abcde", 6)
