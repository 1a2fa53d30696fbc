"""Circuit: declare what a transformer should compute, in a few lines, and get that transformer.

    c = Circuit(vocab="!abc", n_ctx=6, bos="!")            # c.tok c.pos c.one c.out exist
    prev = c.space("prev", c.tok)
    c.head(0, "previous",  qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev), sink=0)
    c.head(1, "induction", qk=match(c.tok, prev), ov=copy(c.tok, c.out, drop="!"), sharp=100)
    model = c.compile(d_head=6, d_model=24, rotate=0)      # an ordinary interp.HookedTransformer
    assert model.predict("!abacb") == [None, None, None, "b", None, "a"]

The residual stream is cut into spaces; heads match and copy between them; MLPs look labels up. These are declared by
the methods of `Builder` (`circuits.language`), and everything else follows from them: `edges()` reads off which part
feeds which, `interpret()` runs the circuit symbolically, `compile()` writes the weights, and `verify()` compares the
results over all inputs.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from torch import Tensor

from circuits.compiler import CompiledTransformer, CompileOptions, compile_circuit
from circuits.language import Builder, Interpretation, Interpreter, Layout, edge_graph
from circuits.verify import Report, VerifyOptions, verify
from interp.keywords import known_keywords
from interp.text import Ids, Text

if TYPE_CHECKING:
    from networkx import MultiDiGraph


class Circuit(Builder):
    """A transformer in the making: declare its spaces and parts, then ask for its graph, its meaning or its weights.

    Args:
        vocab: the words, or a string of one-character words, or a `Vocabulary`.
        n_ctx: longest text, the start included.
        bos: the word that every text starts with; a head that finds no match rests there (its sink).
        attention_dir: "causal" or "bidirectional".
        tied: read the prediction from `tok` itself instead of from a space of its own, as a tied unembedding does.
        nothing_below: logits below it predict nothing. By default it follows, word by word, from what can be written:
            about half of the smallest logit that a part gives the word when no other part writes. With -math.inf
            every position predicts a word.

    Attributes:
        tok: the space of the current word, written by the embedding.
        pos: the space of the position, 0 to n_ctx - 1.
        one: a space with the single label "1", which holds at every position. `c.one["1"]` is the number 1.
        out: the space where predictions are written; the unembedding reads it.

    Spaces are declared by `space`, `embed`, `vectors`, `readout`; parts by `head`, `mlp`, `count`, `bucket`,
    `function` and `product`; paths without a layer by `direct` and `number`. A part's layer is left out
    (`c.head("previous", ...)`) or given first (`c.head(0, "previous", ...)`).

    Raises `TokenError` for repeated words or an unknown `bos`, `ConfigError` for an impossible `n_ctx`.
    """

    def layout(self) -> Layout:
        """Where each space lies among the circuit's coordinates, and its parts as matrices between them.

        Raises `ConfigError` if a part reads a space that nothing earlier writes.
        """
        return Layout(self)

    def edges(self) -> "MultiDiGraph":
        """Which component feeds which: the exact graph, read off the declaration.

        Nodes are called as in `interp.model.EdgeGraph`: "embed" (tokens and positions), "L0H1", "L2.mlp" and
        "logits". Each has its `layer`, its `kind`, and the declared names of its `parts`; tables and buckets of one
        layer share an MLP. An edge's key is what it feeds, "Q", "K", "V", "mlp" or "out". Its `name` is that of the
        computation graph, such as "L0H0 -> L1H0.k"; `spaces` are those that it goes through; `parts` are the pairs of
        declared names that it stands for. There is an edge where the product of what one part writes and what the other
        reads is not zero.

        A model may differ: in a rotary or quadratic position code, with its heads in other places, or with neurons that
        two tables share. `CompiledTransformer.edges` is the graph of what was compiled. With the default options it has
        the same edges. Raises `ConfigError` as `layout` does.
        """
        return edge_graph(self.layout())

    @known_keywords
    def interpret(self, input: Text | Ids, vectors: Mapping[str, Tensor] | None = None) -> Interpretation:
        """What the circuit does with one text or several, or token ids, symbolically (see `Interpreter`).

        `vectors` are [batch, pos, size], by the names of the spaces that `vectors` declared. Raises
        `TokenError` for unknown words, a text that is empty, longer than `n_ctx` or without its start; `ConfigError` as
        `layout` does, for a circuit that cannot keep what it declares, and for vectors that are missing; `ShapeError`
        for vectors of another shape.
        """
        return Interpreter(self.layout()).run(self.tokens(input), vectors)

    @known_keywords
    def compile(self, **options: Unpack[CompileOptions]) -> CompiledTransformer:
        """The circuit as a `HookedTransformer`; see `circuits.compiler.compile_circuit` for options and errors."""
        return compile_circuit(self, **options)

    @known_keywords
    def verify(
        self,
        inputs: Iterable[str] | None = None,
        reference: Callable[[str], Any] | None = None,
        **options: Unpack[VerifyOptions],
    ) -> Report:
        """Compare model, interpreter and reference function; see `circuits.verify.verify` for options and errors."""
        return verify(self, inputs, reference, **options)
