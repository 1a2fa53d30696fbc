"""Addition of two numbers of two or three digits, every digit of the sum at once (bidirectional).

`!27+85` predicts 1 at the plus sign, and 1 and 2 at the 8 and the 5. Each column of two digits makes a carry (10 or
more), passes one on (9) or stops it. The carry into a column comes from the nearest column to its right that does not
pass one on; one head finds it, so that no chain of columns is followed step by step.
"""

from circuits import Circuit, copy, match, shift

DIGITS = "0123456789"
VARIANTS = {"addition_2": {"digits": 2}, "addition_3": {"digits": 3}}
SLOW = {"addition_3"}


def build(digits: int) -> Circuit:
    """Two layers, both with MLPs."""
    c = Circuit("!+" + DIGITS, n_ctx=2 * digits + 2, bos="!", attention_dir="bidirectional")
    above, carry = c.space("above", c.tok), c.space("carry", ["0", "1"])
    digit, kind = c.space("digit", DIGITS), c.space("kind", ["makes", "passes", "stops"])
    c.head("above", qk=match(c.pos, c.pos, shift(digits + 1)), ov=copy(c.tok, above))
    c.mlp("column", (c.tok, above), (digit, kind), column)
    decides = match(c.one, kind, {"1": ["makes", "stops"]}) + match(c.pos, c.pos, lambda here, there: there > here)
    carries = copy(kind, carry, {"makes": "1", "stops": "0"}) + copy(c.tok, carry, {"!": "0"}, drop=())
    c.head("carry", qk=decides, ov=carries, sink=1.5, ties="first")
    c.mlp("sum", (digit, carry), c.out, lambda digit, carry: str((int(digit) + int(carry)) % 10))
    c.mlp("front", (c.tok, carry), c.out, {("+", "0"): "0", ("+", "1"): "1"})
    return c


def column(below: str, above: str) -> tuple[str, str] | None:
    """Last digit of a column's sum, and what it does to a carry."""
    if below not in DIGITS or above not in DIGITS:
        return None
    total = int(below) + int(above)
    return str(total % 10), "makes" if total > 9 else "passes" if total == 9 else "stops"


def reference(text: str, digits: int) -> list[str | None]:
    """The sum, with one digit more than the numbers have, at the plus sign and the places after it."""
    first, second = text[1:].split("+")
    return [None] * (digits + 1) + list(f"{int(first) + int(second):0{digits + 1}}")


def inputs(digits: int) -> list[str]:
    """All pairs of numbers."""
    numbers = [f"{i:0{digits}}" for i in range(10**digits)]
    return [f"!{first}+{second}" for first in numbers for second in numbers]
