"""Fuzzy induction by geometry: words are dense vectors, and similar is what has a large dot product.

Five words in three dimensions. A word and itself have the product 1, words of a kind .82, others .3 at most; the sink
lies between the last two.
"""

from circuits import Circuit, copy, match, shift
from circuits.gallery import fuzzy_induction

FAR, NEAR = 0.91**0.5, 0.3
MEANING = {
    "a": (FAR, NEAR, 0.0),
    "e": (FAR, -NEAR, 0.0),
    "b": (0.0, FAR, NEAR),
    "d": (0.0, FAR, -NEAR),
    "s": (0.0, 0.0, 1.0),
}
reference, inputs = fuzzy_induction.reference, fuzzy_induction.inputs


def build() -> Circuit:
    """Two layers."""
    c = Circuit(vocab="!abdes", n_ctx=7, bos="!")
    meaning = c.embed("meaning", MEANING)
    prev = c.space("prev", meaning)
    c.head("previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(meaning, prev))
    c.head("induction", qk=match(meaning, prev), ov=copy(c.tok, c.out), sink=0.5, ties="latest", gap=0.18)
    return c
