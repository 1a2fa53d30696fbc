"""Adjectives and nouns: "a fluffy blue creature roamed the verdant forest".

A noun attends to the adjectives before it that can describe it, and adds their meaning to its own: creature becomes
half fluffy and half blue, forest becomes verdant.
"""

import itertools

from circuits import Circuit, copy, match

SENTENCE = ["a", "fluffy", "blue", "creature", "roamed", "the", "verdant", "forest"]
DESCRIBED_BY = {"creature": ["fluffy", "blue"], "forest": ["verdant"]}


def build() -> Circuit:
    """One layer."""
    c = Circuit(["<s>", *SENTENCE], n_ctx=9, bos="<s>")
    c.head("description", qk=match(c.tok, c.tok, DESCRIBED_BY), ov=copy(c.tok, c.out))
    return c


def reference(text: str) -> list[dict[str, float]]:
    """The adjectives of each noun so far, in equal shares."""
    words = text.split()
    found = [[one for one in words[:i] if one in DESCRIBED_BY.get(word, ())] for i, word in enumerate(words)]
    return [{one: adjectives.count(one) / len(adjectives) for one in adjectives} for adjectives in found]


def inputs() -> list[str]:
    """All 40,320 orderings of the eight words."""
    return [" ".join(["<s>", *words]) for words in itertools.permutations(SENTENCE)]
