"""A masked letter, filled in from both sides of it: the one halfway between its neighbours (bidirectional).

One head brings the letter to the left, another the letter to the right, and a table says which lies between the two. So
does an encoder that is trained on masked words: it predicts there, and there alone.
"""

from circuits import Circuit, copy, match, shift
from circuits.verify import every_text

LETTERS = "abcde"


def build() -> Circuit:
    """One layer, with an MLP."""
    c = Circuit("!_" + LETTERS, n_ctx=6, bos="!", attention_dir="bidirectional")
    left, right = c.space("left", c.tok), c.space("right", c.tok)
    c.head("left", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, left))
    c.head("right", qk=match(c.pos, c.pos, shift(-1)), ov=copy(c.tok, right))
    c.mlp("halfway", (left, c.tok, right), c.out, lambda a, own, b: halfway(a, b) if own == "_" else None)
    return c


def halfway(a: str, b: str) -> str | None:
    """The letter halfway between two; None where there is none, or one of the two is no letter."""
    if a not in LETTERS or b not in LETTERS:
        return None
    twice = LETTERS.index(a) + LETTERS.index(b)
    return None if twice % 2 else LETTERS[twice // 2]


def reference(text: str) -> list[str | None]:
    """The letter that is missing at each mask between two letters; nothing elsewhere."""
    beside = zip("!" + text[:-1], text, text[1:] + "!", strict=True)
    return [halfway(before, after) if word == "_" else None for before, word, after in beside]


def inputs() -> list[str]:
    """All 9,330 texts of one to five letters and masks."""
    return [text for length in range(1, 6) for text in every_text("_" + LETTERS, length)]
