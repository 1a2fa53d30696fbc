"""Dyck-1: is a string of parentheses balanced (T), the beginning of a balanced one (P), or beyond repair (F)?

Attention to everything so far gives (opened - closed) / length, of which the sign is enough. A second head looks for
any position so far whose sign is negative; the start of the text, where it rests if there is none, says that all is
fine.
"""

from circuits import Circuit, copy, match
from circuits.verify import EveryText, every_text


def build() -> Circuit:
    """Two layers, both with MLPs."""
    c = Circuit("!()PTF", n_ctx=9, bos="!")
    balance, sign = c.space("balance", ["opened - closed"]), c.space("sign", ["-", "0", "+"])
    so_far = c.space("so far", ["failed", "fine"])
    opened, closed = (copy(c.tok, balance, {one: "opened - closed"}) for one in "()")
    c.head("balance", ov=opened - closed)
    c.bucket("sign", balance, sign, {"-": -1 / 9, "0": 0, "+": 1 / 9})
    c.head("any negative", qk=match(c.one, sign, {"1": "-"}), ov=copy(sign, so_far, {"-": "failed", "0": "fine"}))
    c.mlp("answer", (so_far, sign), c.out, {("failed", ...): "F", ("fine", "0"): "T", ("fine", "+"): "P"})
    return c


def reference(text: str) -> list[str]:
    """T, P or F for each prefix of the text."""
    answers, depth, failed = [], 0, False
    for word in text:
        depth += {"(": 1, ")": -1}.get(word, 0)
        failed = failed or depth < 0
        answers.append("F" if failed else "T" if depth == 0 else "P")
    return answers


def inputs() -> EveryText:
    """All 2^8 strings of eight parentheses."""
    return every_text("()", 8)
