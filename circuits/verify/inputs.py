"""Inputs: all texts of a length, some of them, and texts in batches."""

import itertools
from collections.abc import Iterable, Iterator

import torch

from circuits.language import Declaration
from interp.errors import ConfigError, TokenError

MANY = 10**8
"""The most inputs that are run unasked: beyond this many, `samples` must be given."""


def all_texts(
    circuit: Declaration, length: int | None, samples: int | None, seed: int
) -> tuple[Iterator[str], int | None]:
    """All texts of `length` words or `samples` of them, and how many there are."""
    start = [] if circuit.bos is None else [circuit.bos]
    length = circuit.n_ctx - len(start) if length is None else length
    if not 1 <= length + len(start) <= circuit.n_ctx:
        raise ConfigError(f"length = {length} does not fit n_ctx = {circuit.n_ctx}")
    words = [word for word in circuit.vocabulary.words if word != circuit.bos]
    rows, total = itertools.product(words, repeat=length), len(words) ** length
    if samples is None and total > MANY:
        raise ConfigError(
            f"there are {len(words)}^{length} texts of {length} words; give samples= or a smaller length="
        )
    if samples is not None and words:
        drawn = torch.randint(len(words), (samples, length), generator=torch.Generator("cpu").manual_seed(seed))
        rows, total = (tuple(words[i] for i in row) for row in drawn.tolist()), samples
    return (circuit.vocabulary.sep.join([*start, *row]) for row in rows), total


def every_text(letters: Iterable[str], length: int, start: str = "!") -> list[str]:
    """All texts of `length` letters after the start, in order."""
    return [start + "".join(row) for row in itertools.product(letters, repeat=length)]


Batch = tuple[list[str], list[list[str]]]
"""Texts with equally many words, and their words."""


def batches(circuit: Declaration, texts: Iterable[str], size: int) -> Iterator[Batch]:
    """Texts in batches of equal length, in their order. Raises `TokenError` for an unknown word or an empty text."""

    def words(text: str) -> list[str]:
        if not isinstance(text, str):
            raise TokenError(f"the inputs have {text!r} among them; allowed: texts")
        return circuit.vocabulary.split(text)

    split = ((text, words(text)) for text in texts)
    for length, alike in itertools.groupby(split, key=lambda pair: len(pair[1])):
        if not length:
            raise TokenError("an empty text: at least one word is needed")
        while batch := list(itertools.islice(alike, size)):
            yield [text for text, _ in batch], [words for _, words in batch]
