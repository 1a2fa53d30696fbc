"""Sort: position i predicts the i-th smallest letter; equal letters keep their order (bidirectional).

Each position first knows its letter and place as one label, so that no two are equal, and counts the smaller ones. The
count is gated by the label, or the start, which has no smaller ones, would claim the first place. A last head fetches
the letter that has as many smaller ones as there are places before one's own.
"""

from circuits import Circuit, copy, match
from circuits.verify import EveryText, every_text

LETTERS = "abcde"


def build(gated: bool = True) -> Circuit:
    """Three layers, two of them with MLPs."""
    c = Circuit("!abcde", n_ctx=6, bos="!", attention_dir="bidirectional")
    item = c.space("item", [f"{letter}{place}" for letter in LETTERS for place in range(1, 6)])
    c.mlp("item", (c.tok, c.pos), item, lambda letter, i: f"{letter}{i}" if letter != "!" and i else None)
    before = match(item, item, lambda own, other: other < own)
    n = c.count("smaller", qk=before, up_to=5, gate=item if gated else c.one)
    c.head("fetch", qk=match(c.pos, n, lambda place, smaller: place == smaller + 1), ov=copy(c.tok, c.out))
    return c


def reference(text: str) -> list[str | None]:
    """The letters in order, after the start."""
    return [None, *sorted(text[1:])]


def inputs() -> EveryText:
    """All 5^5 texts of five letters."""
    return every_text(LETTERS, 5)
