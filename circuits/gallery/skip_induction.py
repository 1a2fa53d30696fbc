"""Skip-n induction: what followed the latest occurrence of the word n back, n words after it.

After "a ? b", a text that comes to "a ?" again predicts b (n = 1). Both sides of the match are written by shift heads:
the query's word n back, the key's word n + 1 back. This is how the ends of lines can agree while the rest varies.
"""

from circuits import Circuit, copy, match, shift
from circuits.verify import EveryText, every_text

VARIANTS = {f"skip_{n}": {"n": n} for n in range(3)}


def build(n: int) -> Circuit:
    """Two layers."""
    c = Circuit(vocab="!abcde", n_ctx=7, bos="!")
    back = {0: c.tok}
    for k in {n, n + 1} - {0}:
        back[k] = c.space(f"back{k}", c.tok)
        c.head(f"{k} back", qk=match(c.pos, c.pos, shift(k)), ov=copy(c.tok, back[k]))
    c.head("induction", qk=match(back[n], back[n + 1]), ov=copy(c.tok, c.out), ties="latest")
    return c


def reference(text: str, n: int) -> list[str | None]:
    """What stood n + 1 after the latest earlier occurrence of the word n back."""
    answers: list[str | None] = []
    for i in range(len(text)):
        found = [j for j in range(n + 2, i + 1) if text[j - n - 1] == text[i - n]]
        answers.append(text[found[-1]] if found else None)
    return answers


def inputs(n: int) -> EveryText:
    """All 5^6 texts of six letters."""
    return every_text("abcde", 6)
