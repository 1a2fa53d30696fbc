"""Sorted list: are the letters so far in alphabetical order (T) or not (F)?

A letter that is smaller than the one before it raises a flag. A last head looks for any flag so far; the start of the
text, where it rests if there is none, says that all is fine.
"""

from circuits import Circuit, copy, match, shift
from circuits.verify import EveryText, every_text


def build() -> Circuit:
    """Two layers, the first with an MLP."""
    c = Circuit("!abcdTF", n_ctx=7, bos="!")
    prev, step = c.space("prev", c.tok), c.space("step", ["down"])
    c.head("previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
    c.mlp("step", (prev, c.tok), step, {(one, other): "down" for one in "abcd" for other in "abcd" if other < one})
    verdict = copy(step, c.out, {"down": "F"}) + copy(c.tok, c.out, {"!": "T"}, drop=())
    c.head("any down", qk=match(c.one, step, {"1": "down"}), ov=verdict)
    return c


def reference(text: str) -> list[str]:
    """T or F for each prefix of the text."""
    return ["T" if list(text[1 : i + 1]) == sorted(text[1 : i + 1]) else "F" for i in range(len(text))]


def inputs() -> EveryText:
    """All 4^6 texts of six letters."""
    return every_text("abcd", 6)
