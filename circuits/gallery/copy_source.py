"""Copy the source: a decoder writes what its encoder has read, word by word, and ends where the source ends.

The encoder has no layers: its stream holds words and positions. One cross head attends one place ahead, because the
first word of the source, which stands behind its start, is the one that follows the start of the target.
"""

from circuits import Circuit, EncoderDecoder, copy, match, shift
from circuits.verify import every_text


def build() -> EncoderDecoder:
    """An encoder without layers, and a decoder of one cross head."""
    source = Circuit("!abcd.", n_ctx=8, bos="!", attention_dir="bidirectional")
    c = EncoderDecoder(source, "!abcd.", n_ctx=8, bos="!", eos=".")
    c.cross("copy", qk=match(c.pos, source.pos, shift(-1)), ov=copy(source.tok, c.out))
    return c


def reference(text: str) -> list[str]:
    """The source after its start."""
    return list(text[1:])


def inputs() -> list[str]:
    """All 5,461 sources of up to six letters."""
    return [text + "." for length in range(7) for text in every_text("abcd", length)]
