"""Inputs: all texts of a length, a random sample of texts, and texts in batches."""

import itertools
import random
import sys
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import overload

from circuits.language import Declaration
from circuits.verify.limits import amount
from interp.errors import ConfigError, TokenError, describe
from interp.indices import is_index


class EveryText(Sequence[str]):
    """All texts of so many words after a start, in order. A text is written when it is asked for.

    Attributes:
        words: what texts are made of.
        length: words in a text, the start not counted.
        total: how many texts there are; `len` gives the same, up to `sys.maxsize`.

    Raises `ConfigError` for a length that is no integer from 0 on.

    >>> EveryText(["a", "b"], 40).at(5)[-3:]
    'bab'
    """

    def __init__(self, words: Iterable[str], length: int, start: str = "", separator: str = ""):
        if not is_index(length) or length < 0:
            raise ConfigError(f"length = {describe(length)}; allowed: 0 or more")
        self.words, self.length = tuple(words), length
        self.total = len(self.words) ** length
        self._start, self._separator = start, separator

    def __len__(self) -> int:
        return min(self.total, sys.maxsize)  # more is an error of Python's

    def __iter__(self) -> Iterator[str]:
        return map(self._text, itertools.product(self.words, repeat=self.length))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self.at(i) for i in range(self.total)[index]]
        return self.at(range(self.total)[index])

    def at(self, place: int) -> str:
        """The text at a place from 0 on, also where `total` is more than `len` can say."""
        chosen: list[str] = []
        for _ in range(self.length):
            place, word = divmod(place, len(self.words))
            chosen.append(self.words[word])
        return self._text(reversed(chosen))

    def __repr__(self) -> str:
        return f"<{amount(self.total)} texts of {self.length} words>"

    def _text(self, words: Iterable[str]) -> str:
        return self._start + self._separator.join(words)


def every_text(letters: Iterable[str], length: int, start: str = "!") -> EveryText:
    """All texts of `length` letters after the start, in order.

    >>> texts = every_text("ab", 2)
    >>> list(texts), len(texts)
    (['!aa', '!ab', '!ba', '!bb'], 4)
    """
    return EveryText(letters, length, start)


@dataclass(frozen=True)
class Inputs:
    """The texts of a verification.

    Attributes:
        texts: all of them, or the sample.
        count: how many they are; None for more than may be counted.
        sampled_from: how many there were to draw the sample from; None where all of them are run.
    """

    texts: Iterable[str]
    count: int | None
    sampled_from: int | None = None


def all_texts(circuit: Declaration, length: int | None) -> EveryText:
    """All texts of `length` words after the start, which is no word of them; by default, of as many words as fit.

    Raises `ConfigError` for a length that does not fit.
    """
    start = 0 if circuit.bos is None else 1
    length = circuit.n_ctx - start if length is None else length
    if not 1 <= length + start <= circuit.n_ctx:
        raise ConfigError(f"length = {length} does not fit n_ctx = {circuit.n_ctx}")
    words, separator = circuit.vocabulary.words, circuit.vocabulary.sep
    opening = "" if circuit.bos is None else circuit.bos + separator * bool(length)
    return EveryText((word for word in words if word != circuit.bos), length, opening, separator)


def counted(texts: Iterable[str], at_most: int) -> Inputs:
    """Texts and their number. What has no length, such as a generator, is listed as far as `at_most`."""
    if isinstance(texts, EveryText):
        return Inputs(texts, texts.total)
    if isinstance(texts, Sized):
        return Inputs(texts, len(texts))
    start = list(itertools.islice(texts, at_most + 1))
    return Inputs(start, len(start) if len(start) <= at_most else None)


def sampled(given: Inputs, size: int, seed: int) -> Inputs:
    """So many of the texts, drawn without replacement and in their order; all of them where there are no more."""
    assert given.count is not None
    if size >= given.count:
        return given
    generator = random.Random(seed)
    if given.count <= sys.maxsize:
        places = generator.sample(range(given.count), size)
    else:
        places = [generator.randrange(given.count) for _ in range(size)]  # among so many, none is drawn twice
    texts = given.texts if isinstance(given.texts, Sequence) else list(given.texts)
    at = texts.at if isinstance(texts, EveryText) else texts.__getitem__
    return Inputs([at(place) for place in sorted(places)], size, given.count)


Batch = tuple[list[str], list[list[str]]]
"""Texts with equally many words, and their words."""


def batches(circuit: Declaration, texts: Iterable[str], size: int, first: Sequence[int] = ()) -> Iterator[Batch]:
    """Texts in batches of equal length and of at most `size` texts, in their order.

    The first batches are also no larger than the sizes in `first`. Raises `TokenError` for an unknown word or an empty
    text.
    """

    def words(text: str) -> list[str]:
        if not isinstance(text, str):
            raise TokenError(f"the inputs have {describe(text)} among them; allowed: texts")
        return circuit.vocabulary.split(text)

    smaller = iter(first)
    split = ((text, words(text)) for text in texts)
    for length, alike in itertools.groupby(split, key=lambda pair: len(pair[1])):
        if not length:
            raise TokenError("an empty text: at least one word is needed")
        while batch := list(itertools.islice(alike, min(size, next(smaller, size)))):
            yield [text for text, _ in batch], [words for _, words in batch]
