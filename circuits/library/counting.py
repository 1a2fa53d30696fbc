"""Counts of words, and shares of them."""

import torch

from circuits import Circuit
from circuits.language import Coordinate, Form, Linear, Space, copy, match
from circuits.library.words import labels_of_words
from interp.errors import ConfigError, describe


def length(c: Circuit, name: str = "length") -> Space:
    """How many words the text has; in a causal circuit, so far. The start says it, too.

    Raises `ConfigError` for a circuit without a start, and a name that is taken.

    >>> from circuits import Circuit, copy
    >>> c = Circuit(vocab="!a0123", n_ctx=4, bos="!")
    >>> _ = c.direct(copy(length(c), c.out, lambda n, word: word == str(n)))
    >>> c.compile().predict("!aa")
    ['0', '1', '2']
    """
    return c.count(name, None, up_to=c.n_ctx - 1, gate=c.one)


def histogram(c: Circuit, of: Space | None = None, name: str = "histogram") -> Space:
    """How often the label that a word has in `of` is there among all words; by default, how often the word itself is.

    Nothing where `of` is empty. Raises `ConfigError` as `length` does, and for a space of another circuit.
    """
    of = c.tok if of is None else of
    return c.count(name, match(of, of), up_to=c.n_ctx - 1, gate=[of[label] for label in labels_of_words(c, of)])


def count_less_freq(c: Circuit, most: int, of: Space | None = None, name: str = "count_less_freq") -> Space:
    """How many words there are whose label in `of` is there at most `most` times; the start says it, too.

    In a causal circuit each word counts as often as it was there when it came. Raises `ConfigError` as `histogram`
    does, and for a `most` that no word can have.

    >>> from circuits import Circuit, copy
    >>> c = Circuit(vocab="!ab0123", n_ctx=4, bos="!")
    >>> _ = c.direct(copy(count_less_freq(c, 1), c.out, lambda n, word: word == str(n)))
    >>> c.compile().predict("!aba")  # at the end only b and the start are there once
    ['0', '1', '2', '2']
    """
    with c.scope(name):
        often = histogram(c, of)
    rare = match(c.one, often, {"1": [n for n in often.labels if isinstance(n, int) and 1 <= n <= most]})
    return c.count(name, rare, up_to=c.n_ctx - 1, gate=c.one)


def fraction(
    c: Circuit,
    of: Linear,
    writes: Coordinate | None = None,
    where: Form | None = None,
    name: str = "fraction",
) -> Coordinate:
    """A number averaged over all words: `fraction(c, c.tok["x"])` is the share of x's among them.

    Args:
        c: the circuit.
        of: a coordinate, or a sum of coordinates such as `c.tok["("] - c.tok[")"]`.
        writes: where the number goes, such as `c.out["%"]`; by default a coordinate of its own.
        where: which keys count, as a match; by default all words.
        name: of the head, and of the space.

    Returns where the number is. Raises `ConfigError` for a name that is taken, what is no number, and a
    space of another circuit.

    >>> from circuits import Circuit
    >>> c = Circuit(vocab="!xy", n_ctx=5, bos="!")
    >>> _ = c.bucket("how many", fraction(c, c.tok["x"]), c.out, {"y": 0.0, "x": 0.5})
    >>> c.compile().predict("!xxy")
    ['y', 'x', 'x', 'x']
    """
    if not isinstance(of, Linear):
        raise ConfigError(f"{name}: of = {describe(of)}; allowed: a coordinate such as c.tok['x'], or a sum of such")
    writes = c.space(name, ["number"])["number"] if writes is None else writes
    counted = match(c.one, c.tok, {"1": labels_of_words(c, c.tok)}) if where is None else where
    averaged = Form()
    for space in dict.fromkeys(coordinate.space for coordinate, _ in of.terms):
        weights = torch.zeros(len(space), len(writes.space), dtype=torch.float64)
        for coordinate, factor in of.terms:
            if coordinate.space == space:
                weights[space.index(coordinate.label), writes.space.index(writes.label)] += factor
        averaged += copy(space, writes.space, weights, drop=())
    c.head(name, qk=counted, ov=averaged, sink=0)
    return writes
