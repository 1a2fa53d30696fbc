"""EncoderDecoder: a circuit that reads another one, its source, through cross heads.

    source = Circuit("!abc.", n_ctx=6, bos="!", attention_dir="bidirectional")  # the encoder: an ordinary circuit
    c = EncoderDecoder(source, "!abc.", n_ctx=6, bos="!", eos=".")              # the decoder
    c.cross("copy", qk=match(c.pos, source.pos, shift(-1)), ov=copy(source.tok, c.out))
    assert c.generate("!cab.") == ["c", "a", "b", "."]
    model = c.compile()                                                         # an interp.HookedEncoderDecoder
    assert model.predict("!cab.", "cab") == ["c", "a", "b", "."]

The source has words, spaces and parts of its own, and predicts nothing. What its stream holds at the end is what cross
heads match and copy. Everything else is as in `Circuit`.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Unpack

from jaxtyping import Int
from torch import Tensor

from circuits.compiler import CompiledEncoderDecoder, PairOptions, compile_pair
from circuits.language import Builder, Interpretation, Interpreter, Layout, Number, edge_graph
from circuits.verify import Answer, Report, VerifyPairOptions, verify_pair
from interp.errors import ConfigError, describe
from interp.keywords import known_keywords
from interp.text import Ids, Text, Vocabulary, is_single, is_text

if TYPE_CHECKING:
    from networkx import MultiDiGraph


class EncoderDecoder(Builder):
    """A transformer of two stacks in the making: a source that is read, and what is written word by word.

    Args:
        source: the encoder, as a `Circuit`. It may go on being declared.
        vocab, n_ctx, tied, nothing_below: of the decoder; see `Circuit`. The decoder is causal.
        bos: the word that every target starts with, and that what is generated begins after.
        eos: the word that ends what is generated, if there is one.

    Attributes:
        tok, pos, one, out: the decoder's spaces, as `Circuit` has them.

    `cross` declares heads that read the source; all other parts are declared as in a `Circuit`, of either side by
    itself. Raises `TokenError` for repeated words or an unknown `bos` or `eos`, `ConfigError` for an impossible
    `n_ctx`, without `bos`, and for a source that is no circuit or has a source itself.

    >>> from circuits.gallery import pair
    >>> c = pair("copy_source").build()
    >>> c.generate("!abc")
    [...'a', 'b', 'c'...]
    """

    @known_keywords
    def __init__(
        self,
        source: Builder,
        vocab: str | Iterable[str] | Vocabulary,
        n_ctx: int,
        bos: str,
        eos: str | None = None,
        tied: bool = False,
        nothing_below: Number | None = None,
    ):
        if not isinstance(source, Builder) or source.source is not None:
            raise ConfigError(f"source = {describe(source)}; allowed: a Circuit, which has no source itself")
        if bos is None:
            raise ConfigError("bos = None; allowed: the word that every target starts with, and is generated from")
        super().__init__(vocab, n_ctx, bos, tied=tied, nothing_below=nothing_below)
        if eos is not None:
            self.vocabulary.to_single_token(eos)
        self._source, self.eos = source, eos
        self.most_keys = max(self.n_ctx, source.n_ctx)

    @property
    def source(self) -> Builder:
        """The encoder."""
        assert isinstance(self._source, Builder)
        return self._source

    def layout(self) -> Layout:
        """Where each space lies among the coordinates of the decoder; `layout().source` is the source's.

        Raises `ConfigError` if a part reads a space that nothing earlier writes, if the source declares words to
        predict, and for vectors on either side.
        """
        return Layout(self)

    def tokens(self, input: Text | Ids) -> Int[Tensor, "batch pos"]:
        """Token ids of one target or several, as the decoder reads them: a text after `bos`, ids as they are given.

        Raises `TokenError` for unknown words, for ids without `bos` in front, and for more words than fit.
        """
        if isinstance(input, str):
            input = [input]
        if is_text(input):
            separator = self.vocabulary.sep
            input = [f"{self.bos}{separator * bool(text)}{text}" for text in input]
        return super().tokens(input)

    def edges(self) -> "MultiDiGraph":
        """Which component feeds which: the exact graph of both sides, read off the declaration; see `Circuit.edges`.

        Nodes begin with "encoder." or "decoder.", such as "encoder.L0H1", and have their side as `stack`. A cross head
        is "decoder.L0X1"; its queries read the decoder, its keys and values the encoder. Parts of the source are called
        "source/..." in `parts`.
        """
        return edge_graph(self.layout())

    @known_keywords
    def interpret(self, source: Text | Ids, target: Text | Ids = "") -> Interpretation:
        """What the circuit does with one source and target or several, symbolically (see `Interpreter`).

        Predictions are what follows the start and each word of a target; see `tokens`. Raises `TokenError` for texts
        that either side does not take, `ShapeError` for another number of targets than of sources; `ConfigError` as
        `layout` does, and for a circuit that cannot keep what it declares.
        """
        interpreter = Interpreter(self.layout())
        return interpreter.run(self.tokens(target), source=self.source_tokens(source))

    @known_keywords
    def compile(self, **options: Unpack[PairOptions]) -> CompiledEncoderDecoder:
        """The circuit as a `HookedEncoderDecoder`; see `circuits.compiler.compile_pair` for options and errors."""
        return compile_pair(self, **options)

    @known_keywords
    def verify(
        self,
        inputs: Iterable[str] | None = None,
        reference: Callable[[str], Answer] | None = None,
        **options: Unpack[VerifyPairOptions],
    ) -> Report:
        """Compare model, interpreter and reference on every source; see `circuits.verify.verify_pair`."""
        return verify_pair(self, inputs, reference, **options)

    @known_keywords
    def generate(self, source: Text | Ids) -> list[str] | list[list[str]]:
        """What the circuit answers to one source or several, symbolically: it reads `bos`, then its own predictions.

        Words, up to `eos`, to where there is nothing to predict, or as many as fit; a list of such lists for several
        sources. Raises as `interpret` does.
        """
        answers = Interpreter(self.layout()).generate(self.source_tokens(source))
        words = [[word for word in answer if word is not None] for answer in answers]
        return words[0] if is_single(source) else words
