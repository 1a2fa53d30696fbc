"""Palindrome: is the text the same backwards (T) or not (F)? Every position says so (bidirectional).

The words are put in reverse beside the text. A position whose two words differ raises a flag, and a last head looks for
any flag; the start of the text, where it rests if there is none, says that all is fine.
"""

from circuits import Circuit, copy, match
from circuits.library import reverse
from circuits.verify import every_text


def build() -> Circuit:
    """Four layers, three of them with MLPs."""
    c = Circuit("!abcTF", n_ctx=7, bos="!", attention_dir="bidirectional")
    opposite, pair = reverse(c), c.space("pair", ["differs"])
    c.mlp("pair", (c.tok, opposite), pair, lambda own, other: "differs" if own != other else None)
    verdict = copy(pair, c.out, {"differs": "F"}) + copy(c.tok, c.out, {"!": "T"}, drop=())
    c.head("any pair", qk=match(c.one, pair, {"1": "differs"}), ov=verdict)
    return c


def reference(text: str) -> list[str]:
    """T or F for the whole text, at each position."""
    return ["T" if text[1:] == text[:0:-1] else "F"] * len(text)


def inputs() -> list[str]:
    """All 1,092 texts of one to six letters."""
    return [text for length in range(1, 7) for text in every_text("abc", length)]
