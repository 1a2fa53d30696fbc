"""Shares as numbers: which part of the words so far are x's, and how many more brackets were opened than closed.

A head that attends to all words alike takes the mean of what it copies from them. The mean itself is the logit of "%".
"""

from circuits import Circuit
from circuits.library import fraction
from circuits.verify import EveryText, every_text

VARIANTS = {"frac_prevs": {"words": "xyz", "signs": (1, 0, 0)}, "balance": {"words": "()x", "signs": (1, -1, 0)}}


def build(words: str, signs: tuple[int, ...]) -> Circuit:
    """One layer."""
    c = Circuit(f"!{words}%", n_ctx=7, bos="!")
    first, second, _ = (sign * c.tok[word] for word, sign in zip(words, signs, strict=True))
    fraction(c, first + second, writes=c.out["%"])
    return c


def reference(text: str, words: str, signs: tuple[int, ...]) -> list[dict[str, float]]:
    """The mean of the signs of all words so far; 0 at the start."""
    value = dict(zip(words, signs, strict=True))
    return [{"%": sum(value[word] for word in text[1 : i + 1]) / max(i, 1)} for i in range(len(text))]


def inputs(words: str, signs: tuple[int, ...]) -> EveryText:
    """All 3^6 texts of six words."""
    return every_text(words, 6)
