"""Rhyme: before the end of the second and of the fourth line (AABB), predict a rhyme on the line before.

Four lines of four words. The QK circuit fires only before line ends: from the place before one to the end of the line
it must rhyme with. The OV circuit is the rhyme permutation.
"""

import random

from circuits import Circuit, copy, match

RHYMES = {"cat": "hat", "night": "light", "moon": "spoon", "sea": "tree", "rain": "train"}
PARTNER = RHYMES | {rhyme: word for word, rhyme in RHYMES.items()}
FILLERS = ["the", "a", "and", "saw", "under", "old"]
WORDS_A_LINE = 4
RHYMES_WITH = {2 * WORDS_A_LINE: WORDS_A_LINE, 4 * WORDS_A_LINE: 3 * WORDS_A_LINE}
"""Line ends that rhyme with an earlier one."""


def build() -> Circuit:
    """One layer."""
    c = Circuit(vocab=["<s>", *FILLERS, *PARTNER], n_ctx=1 + 4 * WORDS_A_LINE, bos="<s>")
    before_the_end = match(c.pos, c.pos, {end - 1: earlier for end, earlier in RHYMES_WITH.items()})
    c.head("rhyme", qk=before_the_end, ov=copy(c.tok, c.out, PARTNER))
    return c


def reference(text: str) -> list[str | None]:
    """The partner of the word at the end of the line before, where the next word ends an even line."""
    words = text.split()
    wanted = {end - 1: PARTNER[words[earlier]] for end, earlier in RHYMES_WITH.items()}
    return [wanted.get(i) for i in range(len(words))]


def inputs(n: int = 10_000, seed: int = 0) -> list[str]:
    """Poems of random fillers, with words that rhyme at the ends of lines."""
    draw = random.Random(seed)
    poems = []
    for _ in range(n):
        ends = [end for first in draw.choices(list(PARTNER), k=2) for end in (first, PARTNER[first])]
        lines = [[*draw.choices(FILLERS, k=WORDS_A_LINE - 1), end] for end in ends]
        poems.append(" ".join(["<s>", *(word for line in lines for word in line)]))
    return poems
