"""Translate word by word, and put an adjective behind its noun: "the red house" becomes "la maison rouge".

Each word of the encoder sees what kind of word is before and after it. An adjective before a noun is wanted one place
later, a noun behind an adjective one place earlier. One cross head fetches the word that is wanted where the decoder
writes, and its OV circuit is the dictionary.
"""

import itertools

from circuits import Circuit, EncoderDecoder, copy, match, shift

FRENCH = {"the": "la", "a": "une", "red": "rouge", "yellow": "jaune", "house": "maison", "flower": "fleur",
          "sees": "voit", ".": "."}  # fmt: skip
KINDS = {"red": "adjective", "yellow": "adjective", "house": "noun", "flower": "noun"}
LONGEST = 5


def build() -> EncoderDecoder:
    """An encoder of two layers, and a decoder of one cross head."""
    n_ctx = LONGEST + 2  # with the start and the end
    source = Circuit(["<s>", *FRENCH], n_ctx, bos="<s>", attention_dir="bidirectional")
    kind = source.embed("kind", KINDS)
    before, after = source.space("before", kind), source.space("after", kind)
    source.head("before", qk=match(source.pos, source.pos, shift(1)), ov=copy(kind, before))
    source.head("after", qk=match(source.pos, source.pos, shift(-1)), ov=copy(kind, after))
    moves, wanted = source.space("moves", [-1, 0, 1]), source.space("wanted", source.pos)
    swaps = {(..., "adjective", "noun"): 1, ("adjective", "noun", ...): -1}
    source.mlp("moves", (before, kind, after), moves, swaps, otherwise=0)
    source.mlp("wanted", (source.pos, moves), wanted, wanted_at)
    c = EncoderDecoder(source, ["<s>", *FRENCH.values()], n_ctx, bos="<s>", eos=".")
    c.cross("translate", qk=match(c.pos, wanted), ov=copy(source.tok, c.out, FRENCH))
    return c


def wanted_at(place: int, moves: int) -> int | None:
    """Where the word at a place of the source is written: one place earlier, as no start is written, and moved."""
    return place - 1 + moves if place and 0 <= place - 1 + moves <= LONGEST else None


def reference(text: str) -> list[str]:
    """The words in French, each adjective that a noun follows at once behind that noun."""
    words = text.split()[1:]
    for i, pair in enumerate(itertools.pairwise(words)):
        if [KINDS.get(word) for word in pair] == ["adjective", "noun"]:
            words[i : i + 2] = reversed(pair)
    return [FRENCH[word] for word in words]


def inputs() -> list[str]:
    """All 19,607 sequences of one to five words, phrases and others."""
    english = [word for word in FRENCH if word != "."]
    phrases = (words for n in range(1, LONGEST + 1) for words in itertools.product(english, repeat=n))
    return [" ".join(["<s>", *words, "."]) for words in phrases]
