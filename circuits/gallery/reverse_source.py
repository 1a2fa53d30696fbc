"""Reverse the source: a decoder writes backwards what its encoder has read, of any length.

The encoder counts its words and looks up for each of them at which place of the target it is wanted. That is the first
place for the last letter, and the last one for the end, which stays the end. One cross head fetches the word that is
wanted where the decoder writes.
"""

from circuits import Circuit, EncoderDecoder, copy, match
from circuits.verify import every_text


def build() -> EncoderDecoder:
    """An encoder of two layers, and a decoder of one cross head."""
    source = Circuit("!abcd.", n_ctx=8, bos="!", attention_dir="bidirectional")
    length, wanted = source.count("length", qk=None, up_to=7), source.space("wanted", source.pos)
    source.mlp("wanted", (length, source.pos), wanted, wanted_at)
    c = EncoderDecoder(source, "!abcd.", n_ctx=8, bos="!", eos=".")
    c.cross("fetch", qk=match(c.pos, wanted), ov=copy(source.tok, c.out))
    return c


def wanted_at(length: int, place: int) -> int | None:
    """Where the word at a place of the source is written; `length` counts its words and its end."""
    if not 1 <= place <= length:
        return None
    return length - 1 - place if place < length else length - 1


def reference(text: str) -> list[str]:
    """The letters of the source backwards, then its end."""
    return [*text[-2:0:-1], "."]


def inputs() -> list[str]:
    """All 5,461 sources of up to six letters."""
    return [text + "." for length in range(7) for text in every_text("abcd", length)]
