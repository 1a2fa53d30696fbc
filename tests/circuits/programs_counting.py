"""Programs that count, and shares as numbers."""

import itertools
from collections.abc import Iterable

from programs import OfGallery, Program, of_lengths

from circuits import Circuit, copy, match, shift
from circuits.library import count_less_freq, fraction, length
from circuits.verify import Expected, every_text


class Length(Program):
    """How many words the text has."""

    def before(self) -> Circuit:
        c = Circuit("!ab123456", n_ctx=7, bos="!", attention_dir="bidirectional")
        share = c.space("share", ["of the start"])
        c.head(0, "all", ov=copy(c.tok, share, {"!": "of the start"}, drop=()))
        c.bucket(0, "length", share, c.out, {str(n): 1 / (n + 1) for n in range(1, 7)})
        return c

    def after(self) -> Circuit:
        c = Circuit("!ab123456", n_ctx=7, bos="!", attention_dir="bidirectional")
        c.direct(copy(length(c), c.out, lambda n, word: word == str(n)))
        return c

    def reference(self, text: str) -> list[Expected]:
        return [str(len(text) - 1)] * len(text)

    def inputs(self) -> list[str]:
        return of_lengths("ab", 6)


class Majority(Program):
    """Whether there are more a's or more b's so far, or as many."""

    def before(self) -> Circuit:
        c = Circuit("!ab=", n_ctx=9, bos="!")
        balance = c.space("balance", ["a - b"])
        c.head(0, "balance", ov=copy(c.tok, balance, {"a": "a - b"}) - copy(c.tok, balance, {"b": "a - b"}))
        c.bucket(0, "sign", balance, c.out, {"b": -1 / 9, "=": 0, "a": 1 / 9})
        return c

    def after(self) -> Circuit:
        c = Circuit("!ab=", n_ctx=9, bos="!")
        c.bucket("sign", fraction(c, c.tok["a"] - c.tok["b"]), c.out, {"b": -1 / 8, "=": 0, "a": 1 / 8})
        return c

    def reference(self, text: str) -> list[Expected]:
        balances = itertools.accumulate({"a": 1, "b": -1}.get(word, 0) for word in text)
        return ["a" if n > 0 else "b" if n < 0 else "=" for n in balances]

    def inputs(self) -> Iterable[str]:
        return every_text("ab", 8)


class Histogram(OfGallery):
    """How often the word stands in the text."""

    name = "histogram_bidirectional"

    def before(self) -> Circuit:
        c = Circuit("!abcde123456", n_ctx=7, bos="!", attention_dir="bidirectional")
        share, letter = c.space("share", ["of the start"]), c.embed("letter", dict.fromkeys("abcde", "letter"))
        shares = copy(c.tok, share, {"!": "of the start"}, drop=())
        c.head(0, "same", qk=match(c.tok, c.tok), ov=shares, sink=1)
        c.bucket(0, "count", share, c.out, {str(w): 1 / (w + 1) for w in range(1, 7)}, gate=letter)
        return c


class CountLessFreq(Program):
    """How many words of the text are there twice at most."""

    def before(self) -> Circuit:
        c = Circuit("!abc0123456", n_ctx=7, bos="!", attention_dir="bidirectional")
        share, count = c.space("share", ["of the start"]), c.space("count", range(1, 7))
        letter, rare = c.embed("letter", dict.fromkeys("abc", "letter")), c.space("rare", ["of the start"])
        c.head(0, "same", qk=match(c.tok, c.tok), ov=copy(c.tok, share, {"!": "of the start"}, drop=()), sink=1)
        c.bucket(0, "count", share, count, {w: 1 / (w + 1) for w in range(1, 7)}, gate=letter)
        shares = copy(c.tok, rare, {"!": "of the start"}, drop=())
        c.head(1, "rare", qk=match(c.one, count, {"1": [1, 2]}), ov=shares, sink=1)
        c.bucket(1, "how many", rare, c.out, {str(n): 1 / (n + 1) for n in range(7)})
        return c

    def after(self) -> Circuit:
        c = Circuit("!abc0123456", n_ctx=7, bos="!", attention_dir="bidirectional")
        c.direct(copy(count_less_freq(c, 2), c.out, lambda n, word: word == str(n)))
        return c

    def reference(self, text: str) -> list[Expected]:
        return [str(sum(text[1:].count(word) <= 2 for word in text[1:]))] * len(text)

    def inputs(self) -> list[str]:
        return of_lengths("abc", 6)


class Parity(Program):
    """Whether the number of ones so far is odd."""

    def before(self) -> Circuit:
        c = Circuit("!01", n_ctx=9, bos="!")
        share, ones = c.space("share", ["of the start"]), c.space("ones", range(9))
        shares = copy(c.tok, share, {"!": "of the start"}, drop=())
        c.head(0, "ones", qk=match(c.one, c.tok, {"1": "1"}), ov=shares, sink=1)
        c.bucket(0, "count", share, ones, {n: 1 / (n + 1) for n in range(9)})
        c.mlp(1, "parity", ones, c.out, lambda n: str(n % 2))
        return c

    def after(self) -> Circuit:
        c = Circuit("!01", n_ctx=9, bos="!")
        ones = c.count("ones", qk=match(c.one, c.tok, {"1": "1"}), up_to=8, gate=c.one)
        c.mlp("parity", ones, c.out, lambda n: str(n % 2))
        return c

    def reference(self, text: str) -> list[Expected]:
        return [str(text[: i + 1].count("1") % 2) for i in range(len(text))]

    def inputs(self) -> Iterable[str]:
        return every_text("01", 8)


class PrefixSums(Program):
    """The sum of the digits so far, modulo 5."""

    def before(self) -> Circuit:
        c = Circuit("!01234", n_ctx=6, bos="!")
        mean, total = c.space("mean", ["of the digits"]), c.space("total", range(21))
        c.head(0, "mean", ov=copy(c.tok, mean, lambda word, _: int(word) if word != "!" else 0))
        for i in range(6):
            c.bucket(0, f"total at {i}", mean, total, {t: t / (i + 1) for t in range(4 * i + 1)}, gate=c.pos[i])
        c.mlp(1, "rest", total, c.out, lambda total: str(total % 5))
        return c

    def after(self) -> Circuit:
        c = Circuit("!01234", n_ctx=6, bos="!")
        mean = fraction(c, c.tok["1"] + 2 * c.tok["2"] + 3 * c.tok["3"] + 4 * c.tok["4"])
        total = c.space("total", range(21))
        for i in range(6):
            c.bucket(f"total at {i}", mean, total, {t: t / max(i, 1) for t in range(4 * i + 1)}, gate=c.pos[i])
        c.mlp("rest", total, c.out, lambda total: str(total % 5))
        return c

    def reference(self, text: str) -> list[Expected]:
        return [str(total % 5) for total in itertools.accumulate([0, *map(int, text[1:])])]

    def inputs(self) -> Iterable[str]:
        return every_text("01234", 5)


class FracPrevs(OfGallery):
    """Which share of the words so far are x"s, as a number."""

    name = "frac_prevs"

    def before(self) -> Circuit:
        c = Circuit("!xyz%", n_ctx=7, bos="!")
        c.head(0, "share", qk=match(c.one, c.tok, {"1": ["x", "y", "z"]}), ov=copy(c.tok, c.out, {"x": "%"}), sink=0)
        return c


class Balance(OfGallery):
    """How many more brackets were opened than closed, as a share of the words so far."""

    name = "balance"

    def before(self) -> Circuit:
        c = Circuit("!()x%", n_ctx=7, bos="!")
        opened, closed = (copy(c.tok, c.out, {one: "%"}) for one in "()")
        c.head(0, "balance", qk=match(c.one, c.tok, {"1": ["(", ")", "x"]}), ov=opened - closed, sink=0)
        return c


class Bigrams(OfGallery):
    """What followed the word so far, in shares."""

    name = "induction_uniform"

    def before(self) -> Circuit:
        c = Circuit("!abcde", n_ctx=7, bos="!")
        prev = c.space("prev", c.tok)
        c.head(0, "previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
        c.head(1, "induction", qk=match(c.tok, prev), ov=copy(c.tok, c.out))
        return c
