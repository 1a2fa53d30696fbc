"""Programs that put words in order, and compare a text with itself."""

import itertools

from programs import OfGallery, Program, of_lengths

from circuits import Circuit, copy, match, shift
from circuits.library import shuffle_dyck, sort, sort_by_frequency
from circuits.verify import Expected


class Sort(OfGallery):
    """The letters in alphabetical order, some of them equal."""

    name = "sort"

    def before(self) -> Circuit:
        c = Circuit("!abcde", n_ctx=6, bos="!", attention_dir="bidirectional")
        share, rank = c.space("share", ["of the start"]), c.space("rank", c.pos)
        item = c.space("item", [f"{letter}{i}" for letter in "abcde" for i in range(1, 6)])
        c.mlp(0, "item", (c.tok, c.pos), item, lambda letter, i: f"{letter}{i}" if letter != "!" and i else None)
        shares = copy(c.tok, share, {"!": "of the start"}, drop=())
        c.head(1, "smaller", qk=match(item, item, lambda own, other: other < own), ov=shares, sink=1)
        c.bucket(1, "rank", share, rank, {r: 1 / r for r in range(1, 6)}, gate=item)
        c.head(2, "fetch", qk=match(c.pos, rank), ov=copy(c.tok, c.out))
        return c


class SortUnique(Program):
    """The letters in alphabetical order, all of them different."""

    def before(self) -> Circuit:
        c = Circuit("!abcdef", n_ctx=7, bos="!", attention_dir="bidirectional")
        share, rank = c.space("share", ["of the start"]), c.space("rank", c.pos)
        letter = c.embed("letter", dict.fromkeys("abcdef", "letter"))
        smaller = match(c.tok, c.tok, lambda own, other: "!" < other < own)
        c.head(0, "smaller", qk=smaller, ov=copy(c.tok, share, {"!": "of the start"}, drop=()), sink=1)
        c.bucket(0, "rank", share, rank, {r: 1 / r for r in range(1, 7)}, gate=letter)
        c.head(1, "fetch", qk=match(c.pos, rank), ov=copy(c.tok, c.out))
        return c

    def after(self) -> Circuit:
        c = Circuit("!abcdef", n_ctx=7, bos="!", attention_dir="bidirectional")
        sort(c, writes=c.out, unique=True)
        return c

    def reference(self, text: str) -> list[Expected]:
        return [None, *sorted(text[1:])]

    def inputs(self) -> list[str]:
        orders = (order for n in range(1, 7) for order in itertools.permutations("abcdef", n))
        return ["!" + "".join(order) for order in orders]


class SortByFrequency(Program):
    """The letters, the most frequent first; equally frequent ones in their order."""

    def before(self) -> Circuit:
        c = Circuit("!abc", n_ctx=7, bos="!", attention_dir="bidirectional")
        share, above = c.space("share", ["of the start"]), c.space("above", ["of the start"])
        count, rank = c.space("count", range(1, 7)), c.space("rank", c.pos)
        letter = c.embed("letter", dict.fromkeys("abc", "letter"))
        item = c.space("item", [f"{6 - n}{i}" for n in range(1, 7) for i in range(1, 7)])
        c.head(0, "same", qk=match(c.tok, c.tok), ov=copy(c.tok, share, {"!": "of the start"}, drop=()), sink=1)
        c.bucket(0, "count", share, count, {n: 1 / (n + 1) for n in range(1, 7)}, gate=letter)
        c.mlp(1, "item", (count, c.pos), item, lambda n, i: f"{6 - n}{i}" if i else None)
        before = match(item, item, lambda own, other: other < own)
        c.head(2, "before", qk=before, ov=copy(c.tok, above, {"!": "of the start"}, drop=()), sink=1)
        c.bucket(2, "rank", above, rank, {r: 1 / r for r in range(1, 7)}, gate=item)
        c.head(3, "fetch", qk=match(c.pos, rank), ov=copy(c.tok, c.out))
        return c

    def after(self) -> Circuit:
        c = Circuit("!abc", n_ctx=7, bos="!", attention_dir="bidirectional")
        sort_by_frequency(c, writes=c.out)
        return c

    def reference(self, text: str) -> list[Expected]:
        words = sorted(text[1:], key=lambda word: -text.count(word))
        return [None, *words]

    def inputs(self) -> list[str]:
        return of_lengths("abc", 6)


class SortedList(OfGallery):
    """Whether the letters so far are in alphabetical order."""

    name = "sorted_list"

    def before(self) -> Circuit:
        c = Circuit("!abcdTF", n_ctx=7, bos="!")
        prev, step = c.space("prev", c.tok), c.space("step", ["down"])
        c.head(0, "previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
        c.mlp(0, "step", (prev, c.tok), step, lambda prev, own: "down" if "a" <= own < prev else None)
        verdict = copy(step, c.out, {"down": "F"}) + copy(c.tok, c.out, {"!": "T"}, drop=())
        c.head(1, "any down", qk=match(c.one, step, {"1": "down"}), ov=verdict)
        return c


class Reverse(OfGallery):
    """The text backwards."""

    name = "reverse"

    def before(self) -> Circuit:
        c = Circuit("!abcde", n_ctx=7, bos="!", attention_dir="bidirectional")
        share, length = c.space("share", ["of the start"]), c.space("length", range(1, 7))
        mirror = c.space("mirror", c.pos)
        c.head(0, "all", ov=copy(c.tok, share, {"!": "of the start"}, drop=()))
        c.bucket(0, "length", share, length, {n: 1 / (n + 1) for n in range(1, 7)})
        c.mlp(1, "mirror", (length, c.pos), mirror, lambda n, i: n + 1 - i if 1 <= i <= n else None)
        c.head(2, "fetch", qk=match(mirror, c.pos), ov=copy(c.tok, c.out))
        return c


class Palindrome(OfGallery):
    """Whether the text is the same backwards."""

    name = "palindrome"

    def before(self) -> Circuit:
        c = Circuit("!abcTF", n_ctx=7, bos="!", attention_dir="bidirectional")
        share, length = c.space("share", ["of the start"]), c.space("length", range(1, 7))
        mirror, opposite, pair = c.space("mirror", c.pos), c.space("opposite", c.tok), c.space("pair", ["differs"])
        c.head(0, "all", ov=copy(c.tok, share, {"!": "of the start"}, drop=()))
        c.bucket(0, "length", share, length, {n: 1 / (n + 1) for n in range(1, 7)})
        c.mlp(1, "mirror", (length, c.pos), mirror, lambda n, i: n + 1 - i if 1 <= i <= n else None)
        c.head(2, "fetch", qk=match(mirror, c.pos), ov=copy(c.tok, opposite))
        c.mlp(2, "pair", (c.tok, opposite), pair, lambda own, other: "differs" if own != other else None)
        verdict = copy(pair, c.out, {"differs": "F"}) + copy(c.tok, c.out, {"!": "T"}, drop=())
        c.head(3, "any pair", qk=match(c.one, pair, {"1": "differs"}), ov=verdict)
        return c


class ShuffleDyck1(Program):
    """Whether the brackets of the text are balanced."""

    def before(self) -> Circuit:
        c = Circuit("!()TF", n_ctx=9, bos="!", attention_dir="bidirectional")
        balance, total = c.space("balance", ["opened - closed"]), c.space("total", ["opened - closed"])
        sign, end, failed = c.space("sign", "-0+"), c.space("end", "-0+"), c.space("failed", ["yes", "no"])
        earlier = match(c.pos, c.pos, lambda here, there: there <= here)
        for head, where, number, kind in (("so far", earlier, balance, sign), ("all", None, total, end)):
            opened, closed = (copy(c.tok, number, {one: "opened - closed"}) for one in "()")
            c.head(0, head, qk=where, ov=opened - closed, sink=0)
            c.bucket(0, f"sign {head}", number, kind, {"-": -1 / 9, "0": 0, "+": 1 / 9})
        c.head(1, "any negative", qk=match(c.one, sign, {"1": "-"}), ov=copy(sign, failed, {"-": "yes", "0": "no"}))
        c.mlp(1, "answer", (failed, end), c.out, lambda failed, end: "T" if (failed, end) == ("no", "0") else "F")
        return c

    def after(self) -> Circuit:
        c = Circuit("!()TF", n_ctx=9, bos="!", attention_dir="bidirectional")
        shuffle_dyck(c, ["()"], writes=c.out, answers=("T", "F"))
        return c

    def reference(self, text: str) -> list[Expected]:
        return ["T" if balanced(text, "()") else "F"] * len(text)

    def inputs(self) -> list[str]:
        return of_lengths("()", 8)


class ShuffleDyck2(Program):
    """Whether the brackets of two kinds are balanced, each kind for itself."""

    def before(self) -> Circuit:
        c = Circuit("!()[]TF", n_ctx=6, bos="!", attention_dir="bidirectional")
        earlier, read = match(c.pos, c.pos, lambda here, there: there <= here), []
        for pair in ("()", "[]"):
            balance, total = c.space(f"balance {pair}", ["number"]), c.space(f"total {pair}", ["number"])
            sign, end, failed = (c.space(f"{name} {pair}", "-0+") for name in ("sign", "end", "failed"))
            for head, where, number, kind in (("so far", earlier, balance, sign), ("all", None, total, end)):
                opened, closed = (copy(c.tok, number, {one: "number"}) for one in pair)
                c.head(0, f"{head} {pair}", qk=where, ov=opened - closed, sink=0)
                c.bucket(0, f"sign {head} {pair}", number, kind, {"-": -1 / 6, "0": 0, "+": 1 / 6})
            c.head(1, f"any negative {pair}", qk=match(c.one, sign, {"1": "-"}), ov=copy(sign, failed))
            read += [failed, end]
        c.mlp(1, "answer", read, c.out, lambda *read: None if "+" in read[::2] else "T" if set(read) == {"0"} else "F")
        return c

    def after(self) -> Circuit:
        c = Circuit("!()[]TF", n_ctx=6, bos="!", attention_dir="bidirectional")
        shuffle_dyck(c, ["()", "[]"], writes=c.out, answers=("T", "F"))
        return c

    def reference(self, text: str) -> list[Expected]:
        return ["T" if balanced(text, "()") and balanced(text, "[]") else "F"] * len(text)

    def inputs(self) -> list[str]:
        return of_lengths("()[]", 5)


def balanced(text: str, pair: str) -> bool:
    """Whether the brackets of one kind are balanced."""
    depths = list(itertools.accumulate({pair[0]: 1, pair[1]: -1}.get(word, 0) for word in text))
    return min(depths) >= 0 and depths[-1] == 0
