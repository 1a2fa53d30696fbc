"""Sort: position i predicts the i-th smallest letter; equal letters keep their order (bidirectional).

Each position first knows its letter and place as one label, so that no two are equal. A head spreads over all smaller
labels and the start of the text, whose share is then 1 / rank; the bucket that makes it a rank is gated by the label,
or the start, which sees only itself, would claim rank 1. A last head fetches the letter whose rank is one's position.
"""

from circuits import Circuit, copy, match
from circuits.verify import EveryText, every_text

LETTERS = "abcde"


def build(gated: bool = True) -> Circuit:
    """Three layers, two of them with MLPs."""
    c = Circuit("!abcde", n_ctx=6, bos="!", attention_dir="bidirectional")
    share, rank = c.space("share", ["of the start"]), c.space("rank", c.pos)
    item = c.space("item", [f"{letter}{place}" for letter in LETTERS for place in range(1, 6)])
    c.mlp(0, "item", (c.tok, c.pos), item, lambda letter, i: f"{letter}{i}" if letter != "!" and i else None)
    shares = copy(c.tok, share, {"!": "of the start"}, drop=())
    c.head(1, "smaller", qk=match(item, item, lambda own, other: other < own), ov=shares, sink=1)
    c.bucket(1, "rank", share, rank, {r: 1 / r for r in range(1, 6)}, gate=item if gated else c.one)
    c.head(2, "fetch", qk=match(c.pos, rank), ov=copy(c.tok, c.out))
    return c


def reference(text: str) -> list[str | None]:
    """The letters in order, after the start."""
    return [None, *sorted(text[1:])]


def inputs() -> EveryText:
    """All 5^5 texts of five letters."""
    return every_text(LETTERS, 5)
