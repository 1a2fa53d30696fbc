"""The model that comes out: an ordinary transformer that knows its circuit, its graph, and what the compiler chose."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from circuits.compiler.edges import Plan, compiled_edges
from circuits.language import Declaration, decode, in_words, shortened
from interp.model import HookedTransformer, head_label
from interp.text import Ids, Text, is_single

if TYPE_CHECKING:
    from networkx import MultiDiGraph

SHOWN = 12
"""The most heads that the repr of a report shows."""


@dataclass(frozen=True)
class HeadReport:
    """What the compiler made of a head.

    Attributes:
        layer, index: its place in the model.
        sharp: the factor on its scores.
        largest_score: what they reach, or a bound on it.
        qk_rank, ov_rank: dimensions of the head that its circuits use, beside those that rotary positions turn.
    """

    layer: int
    index: int
    sharp: float
    largest_score: float
    qk_rank: int
    ov_rank: int


@dataclass(frozen=True, repr=False)
class CompileReport:
    """What the compiler chose.

    Attributes:
        heads: what was made of each head, by name.
        n_coordinates: the size of the stream that the circuit needs, before norm, rotation or compression.
        interference: the largest overlap of two coordinates; 0 unless compressed. `verify` measures what it costs.
        nothing_below: logits that stay below this predict nothing.
    """

    heads: dict[str, HeadReport]
    n_coordinates: int
    interference: float
    nothing_below: float

    def __repr__(self) -> str:
        lines = [
            f"CompileReport: {self.n_coordinates} coordinates, interference {self.interference:.2g}, "
            f"nothing below {self.nothing_below:.3g}"
        ]
        for name, head in list(self.heads.items())[:SHOWN]:
            scores = f"sharp {head.sharp:.3g}, scores up to {head.largest_score:.3g}"
            ranks = f"rank {head.qk_rank} (QK), {head.ov_rank} (OV)"
            lines.append(f"  {head_label(head.layer, head.index):7}{shortened(name, 24):25}{scores}, {ranks}")
        return "\n".join(lines + [f"  ... and {len(self.heads) - SHOWN} more heads"] * (len(self.heads) > SHOWN))


class CompiledTransformer(HookedTransformer):
    """A `HookedTransformer` that knows which circuit it was compiled from. Saved, it is a plain checkpoint."""

    circuit: Declaration
    report: CompileReport
    plan: Plan

    @property
    def nodes(self) -> dict[str, str]:
        """Where each declared part is: the component, such as "L1H3" or "L2.mlp", by the name of the part.

        "embed" and "pos_embed" are both the component "embed", and "unembed" is "logits".
        """
        return self.plan.nodes

    def edges(self) -> "MultiDiGraph":
        """Which component feeds which: the exact graph of what was compiled.

        It is spelled as `Circuit.edges` spells the graph of the declaration, which it differs from where a position
        code writes in a way of its own (rotary positions are no vectors; a quadratic code uses the constant), where the
        heads of a layer came to lie in another order or layer, and where tables share neurons. There is an edge where
        the product of the weights that write and of those that read is not zero. In a compressed model everything
        overlaps a little; the graph is that of the model before it was compressed.
        """
        return compiled_edges(self.plan)

    @torch.no_grad()
    def predict(self, text: Text | Ids) -> list[Any]:
        """For each position a word, or None where there is nothing to predict; a list of such lists for several texts.

        Several texts have equally many words. Raises `TokenError` as `Circuit.tokens` does.
        """
        tokens = self.circuit.tokens(text).to(self.W_E.device)
        logits = self(tokens)
        assert isinstance(logits, Tensor)
        words = in_words(decode(logits, self.report.nothing_below), self.circuit.vocabulary.words)
        single = is_single(text)
        return words[0] if single else words
