"""Programs that find words and say what follows."""

import itertools
from collections.abc import Iterable

from programs import OfGallery, Program

from circuits import Circuit, copy, match, shift
from circuits.library import detect_pattern, shift_by
from circuits.verify import Expected, every_text


class Caesar(OfGallery):
    """Every letter three letters on."""

    name = "caesar"

    def before(self) -> Circuit:
        c = Circuit("!abcdefgh", n_ctx=5, bos="!")
        c.mlp(0, "three on", c.tok, c.out, dict(zip("abcdefgh", "defghabc", strict=True)))
        return c


class Successor(OfGallery):
    """Every digit, modulo 8, is followed by the next."""

    name = "successor"

    def before(self) -> Circuit:
        c = Circuit("!x01234567", n_ctx=5, bos="!")
        c.head(
            0, "itself", qk=match(c.pos, c.pos), ov=copy(c.tok, c.out, dict(zip("01234567", "12345670", strict=True)))
        )
        return c


class ShiftBy(Program):
    """The word two places back."""

    def before(self) -> Circuit:
        c = Circuit("!abc", n_ctx=7, bos="!")
        c.head(0, "two back", qk=match(c.pos, c.pos, shift(2)), ov=copy(c.tok, c.out))
        return c

    def after(self) -> Circuit:
        c = Circuit("!abc", n_ctx=7, bos="!")
        shift_by(c, 2, writes=c.out)
        return c

    def reference(self, text: str) -> list[Expected]:
        return [text[i - 2] if i > 2 else None for i in range(len(text))]

    def inputs(self) -> Iterable[str]:
        return every_text("abc", 6)


class DetectPattern(Program):
    """Whether the last three words are a, b and c."""

    def before(self) -> Circuit:
        c = Circuit("!abcdTF", n_ctx=7, bos="!")
        one, two = c.space("one back", c.tok), c.space("two back", c.tok)
        c.head(0, "one back", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, one))
        c.head(0, "two back", qk=match(c.pos, c.pos, shift(2)), ov=copy(c.tok, two))
        c.mlp(0, "abc", (two, one, c.tok), c.out, lambda *words: "T" if "".join(words) == "abc" else "F")
        return c

    def after(self) -> Circuit:
        c = Circuit("!abcdTF", n_ctx=7, bos="!")
        detect_pattern(c, "abc", writes=c.out, answers=("T", "F"))
        return c

    def reference(self, text: str) -> list[Expected]:
        return [... if i < 3 else "T" if text[i - 2 : i + 1] == "abc" else "F" for i in range(len(text))]

    def inputs(self) -> Iterable[str]:
        return every_text("abcd", 6)


class SkipTrigrams(Program):
    """ "keep ... in mind", "keep ... at bay", "look ... at me": what follows two words that stand apart."""

    def before(self) -> Circuit:
        c = Circuit(["<s>", "keep", "look", "in", "at", "mind", "bay", "me"], n_ctx=6, bos="<s>")
        for first, second, third in self.trigrams:
            c.head(0, third, qk=match(c.tok, c.tok, {second: first}), ov=copy(c.tok, c.out, {first: third}))
        return c

    trigrams = (("keep", "in", "mind"), ("keep", "at", "bay"), ("look", "at", "me"))

    def after(self) -> Circuit:
        c = Circuit(["<s>", "keep", "look", "in", "at", "mind", "bay", "me"], n_ctx=6, bos="<s>")
        for first, second, third in self.trigrams:
            c.head(third, qk=match(c.tok, c.tok, {second: first}), ov=copy(c.tok, c.out, {first: third}))
        return c

    def reference(self, text: str) -> list[Expected]:
        words = text.split()
        answers: list[Expected] = []
        for i, word in enumerate(words):
            thirds = [third for first, second, third in self.trigrams if second == word and first in words[:i]]
            answers.append(dict.fromkeys(thirds, 1.0))
        return answers

    def inputs(self) -> list[str]:
        return [" ".join(["<s>", *words]) for words in itertools.product(["keep", "look", "in", "at"], repeat=5)]


class CopySuppression(OfGallery):
    """The next letter of the alphabet, or where it has been said already the one after."""

    name = "copy_suppression"

    def before(self) -> Circuit:
        c = Circuit("!abcde", n_ctx=7, bos="!")
        one_on, two_on = (dict(zip("abcde", letters, strict=True)) for letters in ("bcdea", "cdeab"))
        guess = c.space("guess", c.tok)
        first, second = 2 * copy(c.tok, c.out, one_on), copy(c.tok, c.out, two_on)
        c.head(0, "guess", qk=match(c.pos, c.pos), ov=first + second + copy(c.tok, guess, one_on))
        c.head(1, "suppression", qk=match(guess, c.tok), ov=-2 * copy(c.tok, c.out))
        return c


class FirstUnique(OfGallery):
    """The first letter that stands in the text only once."""

    name = "first_unique"

    def before(self) -> Circuit:
        c = Circuit("!abcd", n_ctx=6, bos="!", attention_dir="bidirectional")
        again = c.space("again", ["yes", "no"])
        said = copy(c.tok, again, dict.fromkeys("abcd", "yes")) + copy(c.tok, again, {"!": "no"}, drop=())
        c.head(0, "again", qk=match(c.tok, c.tok) - 2 * match(c.pos, c.pos), ov=said)
        c.head(1, "first", qk=match(c.one, again, {"1": "no"}), ov=copy(c.tok, c.out), ties="first")
        return c
