"""Programs that calculate, and automata."""

import itertools
from collections.abc import Iterable

from programs import Program

from circuits import Circuit, copy, match, shift
from circuits.verify import Expected, every_text


class Xor(Program):
    """The exclusive or of the last two bits."""

    def before(self) -> Circuit:
        c = Circuit("!01", n_ctx=9, bos="!")
        prev = c.space("prev", c.tok)
        c.head(0, "previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
        c.mlp(0, "xor", (prev, c.tok), c.out, {(one, other): str(int(one != other)) for one in "01" for other in "01"})
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

    def reference(self, text: str) -> list[Expected]:
        return [None, None, *f"{int(text[1]) * int(text[3:]):04}"]

    def inputs(self) -> list[str]:
        """Every seventh number, by every digit."""
        return [f"!{by}*{number:03}" for by in range(10) for number in range(0, 1000, 7)]


class AdditionModulo(Program):
    """The sum of two numbers modulo 23."""

    modulus = 23

    def before(self) -> Circuit:
        numbers = [str(n) for n in range(self.modulus)]
        c = Circuit(["!", *numbers], n_ctx=3, bos="!")
        first = c.space("first", c.tok)
        c.head(0, "first", qk=match(c.pos, c.pos, {2: 1}), ov=copy(c.tok, first))
        sums = {(a, b): str((int(a) + int(b)) % self.modulus) for a in numbers for b in numbers}
        c.mlp(0, "sum", (first, c.tok), c.out, sums)
        return c

    def reference(self, text: str) -> list[Expected]:
        return [None, None, str(sum(map(int, text.split()[1:])) % self.modulus)]

    def inputs(self) -> list[str]:
        return [f"! {a} {b}" for a in range(self.modulus) for b in range(self.modulus)]


class GreaterThan(Program):
    """ "The war lasted from 17 32 to 17": all years after 32, alike."""

    years = tuple(f"{year:02}" for year in range(100))

    def before(self) -> Circuit:
        c = Circuit(["<s>", "from", "to", "the", *self.years], n_ctx=5, bos="<s>")
        later = copy(c.tok, c.out, lambda word, year: word.isdigit() and year.isdigit() and word < year)
        c.head(0, "later", qk=match(c.tok, c.tok, {"to": self.years}), ov=later)
        return c

    def reference(self, text: str) -> list[Expected]:
        year = next(word for word in text.split() if word in self.years)
        return [{}, {}, {}, {}, {later: 1.0 for later in self.years if later > year}]

    def inputs(self) -> list[str]:
        return [f"<s> {first} {rest} to" for first in ("from", "the") for year in self.years
                for rest in (f"{year} the", f"the {year}")]  # fmt: skip


Permutation = tuple[int, ...]


class Automaton(Program):
    """The product of all words so far in a group of permutations: the state of an automaton after them.

    Windows of twice the width are put together from two: three layers are enough for eight words.
    """

    width = 3
    group: tuple[Permutation, ...]
    words: tuple[str, ...]

    def before(self) -> Circuit:
        elements = ["".join(map(str, one)) for one in self.group]
        c = Circuit(["!", *elements], n_ctx=9, bos="!")
        state = c.embed("state", {"!": elements[0], **{one: one for one in elements}})
        for i in range(3):
            back = c.space(f"back {i}", elements)
            window = c.out if i == 2 else c.space(f"window {i}", elements)
            earlier = match(c.pos, c.pos, {place: max(place - 2**i, 0) for place in range(9)})
            c.head(i, f"back {i}", qk=earlier, ov=copy(state, back), sink=0)
            c.mlp(i, f"window {i}", (back, state), window, then)
            state = window
        return c

    def reference(self, text: str) -> list[Expected]:
        return list(itertools.accumulate(text.split()[1:], then, initial="".join(map(str, self.group[0]))))

    def inputs(self) -> list[str]:
        chosen = itertools.product(self.words, repeat=self.width)
        return [" ".join(["!", *words]) for words in chosen]


def then(one: str, other: str) -> str:
    """One permutation after the other."""
    return "".join(one[int(place)] for place in other)


class S3(Automaton):
    """The symmetric group of three: the product of all words so far."""

    group = tuple(itertools.permutations(range(3)))
    words, width = tuple("".join(map(str, one)) for one in group), 5


def even(one: Permutation) -> bool:
    """Whether a permutation is a product of an even number of swaps."""
    return sum(one[i] > one[j] for i in range(len(one)) for j in range(i + 1, len(one))) % 2 == 0


class A5(Automaton):
    """The alternating group of five, which is not solvable: the product of all words so far."""

    group = tuple(one for one in itertools.permutations(range(5)) if even(one))
    words, width = ("12340", "12034"), 8  # a rotation of five and one of three generate the group
