"""First unique: which is the first letter that the text has only once? Every position says so (bidirectional)."""

from circuits import Circuit, copy, match
from circuits.library import histogram
from circuits.verify import every_text


def build() -> Circuit:
    """Two layers, the first with an MLP."""
    c = Circuit("!abcd", n_ctx=6, bos="!", attention_dir="bidirectional")
    c.head("first", qk=match(c.one, histogram(c), {"1": 1}), ov=copy(c.tok, c.out), ties="first")
    return c


def reference(text: str) -> list[str | None]:
    """The first letter that is there once, at each position; None where every letter comes again."""
    return [next((letter for letter in text[1:] if text.count(letter) == 1), None)] * len(text)


def inputs() -> list[str]:
    """All 1,364 texts of one to five letters."""
    return [text for length in range(1, 6) for text in every_text("abcd", length)]
