"""Programs that calculate, and automata."""

from collections.abc import Iterable

from programs import OfGallery, Program

from circuits import Circuit, copy, match, shift
from circuits.gallery import greater_than
from circuits.gallery.automaton import generated, then
from circuits.library import shift_by
from circuits.verify import Expected, every_text


class Xor(Program):
    """The exclusive or of the last two bits."""

    def before(self) -> Circuit:
        c = Circuit("!01", n_ctx=9, bos="!")
        prev = c.space("prev", c.tok)
        c.head(0, "previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
        c.mlp(0, "xor", (prev, c.tok), c.out, {(a, b): str(int(a != b)) for a in "01" for b in "01"})
        return c

    def after(self) -> Circuit:
        c = Circuit("!01", n_ctx=9, bos="!")
        c.mlp(
            "xor", (shift_by(c, 1), c.tok), c.out, {("0", "1"): "1", ("1", "0"): "1", ("0", "0"): "0", ("1", "1"): "0"}
        )
        return c

    def reference(self, text: str) -> list[Expected]:
        return [None if i < 2 else str(int(text[i - 1] != text[i])) for i in range(len(text))]

    def inputs(self) -> Iterable[str]:
        return every_text("01", 8)


class CountingUp(Program):
    """The digits of the next number: after 0708 comes 09."""

    def before(self) -> Circuit:
        c = Circuit("!0123456789", n_ctx=7, bos="!")
        prev, digits = c.space("prev", c.tok), "0123456789"
        c.head(0, "previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
        tens = {(i, t, u): str((int(t + u) + 1) // 10 % 10) for i in (2, 4, 6) for t in digits for u in digits}
        c.mlp(0, "tens", (c.pos, prev, c.tok), c.out, tens)
        c.mlp(0, "units", (c.pos, prev), c.out, {(i, u): str((int(u) + 1) % 10) for i in (3, 5) for u in digits})
        return c

    def after(self) -> Circuit:
        c = Circuit("!0123456789", n_ctx=7, bos="!")
        prev, digits = shift_by(c, 1), "0123456789"
        tens = {(i, t, u): str((int(t + u) + 1) // 10 % 10) for i in (2, 4, 6) for t in digits for u in digits}
        c.mlp("tens", (c.pos, prev, c.tok), c.out, tens)
        c.mlp("units", (c.pos, prev), c.out, {(i, u): str((int(u) + 1) % 10) for i in (3, 5) for u in digits})
        return c

    def reference(self, text: str) -> list[Expected]:
        then = f"{(int(text[5:]) + 1) % 100:02}"
        return [None, None, *text[3:], then[0]]

    def inputs(self) -> list[str]:
        return ["!" + "".join(f"{(n + i) % 100:02}" for i in range(3)) for n in range(100)]


class Multiply(Program):
    """Three digits by one: 7*123 is 0861, a digit at the sign and at each place after it."""

    def before(self) -> Circuit:
        c = Circuit("!*0123456789", n_ctx=6, bos="!", attention_dir="bidirectional")
        by, product = c.space("by", c.tok), c.space("product", sorted({a * b for a in range(10) for b in range(10)}))
        carries = [c.space(f"carry {i}", range(9)) for i in range(3)]
        c.head(0, "by", qk=match(c.pos, c.pos, dict.fromkeys(range(2, 6), 1)), ov=copy(c.tok, by))
        products = {(a, b): (int(a) * int(b), int(a) * int(b) // 10) for a in "0123456789" for b in "0123456789"}
        c.mlp(0, "product", (c.tok, by), (product, carries[0]), {**products, ("*", ...): (0, 0)})
        for i, carry in enumerate(carries):
            into = c.space(f"into {i}", range(9))
            carried = copy(carry, into) + copy(c.tok, into, {"!": 0}, drop=())
            c.head(i + 1, f"into {i}", qk=match(c.pos, c.pos, shift(-1)), ov=carried)
            if i < 2:
                c.mlp(i + 1, f"carry {i + 1}", (product, into), carries[i + 1], lambda a, b: min((a + b) // 10, 8))
            else:
                c.mlp(3, "digit", (product, into), c.out, lambda a, b: str((a + b) % 10))
        return c

    def after(self) -> Circuit:
        c = Circuit("!*0123456789", n_ctx=6, bos="!", attention_dir="bidirectional")
        by, carry = c.space("by", c.tok), c.space("carry", range(9))
        numbers = sorted({a * b for a in range(10) for b in range(10)})
        product = c.space("product", numbers)
        c.head("by", qk=match(c.pos, c.pos, dict.fromkeys(range(2, 6), 1)), ov=copy(c.tok, by))
        products = {(a, b): (int(a) * int(b), int(a) * int(b) // 10) for a in "0123456789" for b in "0123456789"}
        c.mlp("product", (c.tok, by), (product, carry), {**products, ("*", ...): (0, 0)})
        sums = {(a, b): a + (b or 0) for a in numbers for b in (None, *range(9))}
        for i in range(2):
            into, carry = shift_by(c, -1, carry, name=f"into {i}"), c.space(f"carry {i}", range(9))
            c.mlp(f"carry {i}", (product, into), carry, {key: min(n // 10, 8) for key, n in sums.items()})
        last = shift_by(c, -1, carry, name="last")
        c.mlp("digit", (product, last), c.out, {key: str(n % 10) for key, n in sums.items()})
        return c

    def reference(self, text: str) -> list[Expected]:
        return [None, None, *f"{int(text[1]) * int(text[3:]):04}"]

    def inputs(self) -> list[str]:
        """Every seventh number, by every digit."""
        return [f"!{by}*{number:03}" for by in range(10) for number in range(0, 1000, 7)]


class AdditionModulo(OfGallery):
    """The sum of two numbers modulo 23."""

    name = "modular_addition_23"

    def before(self) -> Circuit:
        numbers = [str(n) for n in range(23)]
        c = Circuit(["!", *numbers], n_ctx=3, bos="!")
        first = c.space("first", c.tok)
        c.head(0, "first", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, first))
        c.mlp(0, "sum", (first, c.tok), c.out, {(a, b): str((int(a) + int(b)) % 23) for a in numbers for b in numbers})
        return c


class GreaterThan(OfGallery):
    """The war lasted from 17th 32 to 17th: all years after 32, alike."""

    name = "greater_than"

    def before(self) -> Circuit:
        words = ["<s>", "The", "lasted", "from", "to", *greater_than.NOUNS, *greater_than.CENTURIES]
        years = [f"{year:02}" for year in range(100)]
        c = Circuit([*words, *years], n_ctx=9, bos="<s>")
        larger = copy(c.tok, c.out, {year: years[i + 1 :] for i, year in enumerate(years)})
        c.head(0, "larger", qk=match(c.tok, c.tok, dict.fromkeys(greater_than.CENTURIES, years)), ov=larger)
        return c


class Automaton(OfGallery):
    """The product of all moves so far in a group of permutations."""

    def before(self) -> Circuit:
        moves = self.entry.arguments["moves"]
        c = Circuit(["!", *moves, *generated(moves, 8)], n_ctx=9, bos="!")
        window = c.embed("last 1", {"!": "none", **moves})
        for i in range(3):
            back = c.space(f"back {i}", window)
            longer = c.space(f"longer {i}", ["none", *generated(moves, 2 ** (i + 1))]) if i < 2 else c.out
            earlier = match(c.pos, c.pos, {n: max(n - 2**i, 0) for n in range(9)})
            c.head(i, f"back {i}", qk=earlier, ov=copy(window, back), sink=0)
            halves = ["none", *generated(moves, 2**i)]
            pairs = [(a, b) for a in halves for b in halves if i < 2 or b != "none"]
            products = {(a, b): b if "none" in (a, b) else then(a, b) for a, b in pairs}
            c.mlp(i, f"longer {i}", (back, window), longer, products)
            window = longer
        return c


class S3(Automaton):
    """The symmetric group of three."""

    name = "automaton_s3"


class A5(Automaton):
    """The alternating group of five, which is not solvable."""

    name = "automaton_a5"
