"""Context match with back-off: what followed the latest occurrence of the last two words, or else of the last one.

Two shift heads tell each position the words one and two back. A key that agrees in both scores 1.6, one that agrees in
the current word alone 1, one that agrees in the word before alone .6; the sink at .95 lets the last one find nothing.
"""

from circuits import Circuit, copy, match, shift
from circuits.verify import EveryText, every_text


def build() -> Circuit:
    """Two layers."""
    c = Circuit(vocab="!abc", n_ctx=7, bos="!")
    back1, back2 = c.space("back1", c.tok), c.space("back2", c.tok)
    c.head("one back", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, back1))
    c.head("two back", qk=match(c.pos, c.pos, shift(2)), ov=copy(c.tok, back2))
    context = match(c.tok, back1) + 0.6 * match(back1, back2)
    c.head("context", qk=context, ov=copy(c.tok, c.out), sink=0.95, ties="latest")
    return c


def reference(text: str) -> list[str | None]:
    """The word after the latest match of two words, else of one."""
    answers: list[str | None] = []
    for i in range(len(text)):
        one = [j for j in range(2, i + 1) if text[j - 1] == text[i]]
        two = [j for j in one if j > 2 and i > 1 and text[j - 2] == text[i - 1]]
        answers.append(text[(two or one)[-1]] if one else None)
    return answers


def inputs() -> EveryText:
    """All 3^6 texts of six letters."""
    return every_text("abc", 6)
