"""The model that comes out: an ordinary transformer that knows its circuit, its graph, and what the compiler chose."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.compiler.edges import compiled_edges
from circuits.compiler.plan import Plan
from circuits.language import (
    CROSS_PHASE,
    Declaration,
    Layout,
    checked_readout,
    checked_vectors,
    component_name,
    decode,
    in_words,
    shortened,
)
from interp.errors import ConfigError
from interp.model import HookedTransformer, KVCache, ReadOut, ReturnType
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
        cross: whether it is one of the layer's cross heads.
    """

    layer: int
    index: int
    sharp: float
    largest_score: float
    qk_rank: int
    ov_rank: int
    cross: bool = False

    @property
    def pattern(self) -> tuple[str, int] | tuple[str, int, str]:
        """The name of its layer's pattern in a cache."""
        return ("pattern", self.layer, "cross_attn") if self.cross else ("pattern", self.layer)

    @property
    def node(self) -> str:
        """What the component is called, such as "L1H0" or "L1X0"."""
        return component_name(self.layer, self.index, CROSS_PHASE if self.cross else 0.0)


@dataclass(frozen=True, repr=False)
class Hidden:
    """What is in a model beside the circuit that was compiled into it.

    Attributes:
        layers: the layer of the model for each layer of the circuit.
        n_layers: how many the model has.
        spare: directions of the stream that the circuit does not use.
        noise_heads, noise_neurons: how many have random weights, in all layers.
        distractors: what each distractor does, and which head it is.
    """

    layers: tuple[int, ...]
    n_layers: int
    spare: int
    noise_heads: int
    noise_neurons: int
    distractors: dict[str, str]

    def __repr__(self) -> str:
        own = f"its own are {', '.join(map(str, self.layers))}" if self.layers else "none of them its own"
        lines = [
            f"  hidden in {self.n_layers} layers, {own}; {self.spare} spare directions",
            f"  noise in {self.noise_heads} heads and {self.noise_neurons} neurons",
            *(f"  {node:7}{shortened(name, 60)}" for name, node in list(self.distractors.items())[:SHOWN]),
        ]
        more = len(self.distractors) - SHOWN
        return "\n".join([*lines, *[f"  ... and {more} more distractors"] * (more > 0)])


@dataclass(frozen=True, repr=False)
class CompileReport:
    """What the compiler chose.

    Attributes:
        heads: what was made of each head, by name.
        n_coordinates: the size of the stream that the circuit needs, before norm, rotation or compression.
        interference: the largest overlap of two coordinates; 0 unless compressed. `verify` measures what it costs.
        nothing_below: for each word, the logit below which it is not predicted.
        error: share of attention that may go astray, as `compile` was told.
        hidden: what is in the model beside the circuit; None where nothing is.
    """

    heads: dict[str, HeadReport]
    n_coordinates: int
    interference: float
    nothing_below: tuple[float, ...]
    error: float
    hidden: Hidden | None = None

    def __repr__(self) -> str:
        lowest = min(self.nothing_below)
        lines = [
            f"CompileReport: {self.n_coordinates} coordinates, interference {self.interference:.2g}, "
            + (f"nothing below {lowest:.3g}" if lowest > -math.inf else "every position predicts a word")
        ]
        for name, head in list(self.heads.items())[:SHOWN]:
            scores = f"sharp {head.sharp:.3g}, scores up to {head.largest_score:.3g}"
            ranks = f"rank {head.qk_rank} (QK), {head.ov_rank} (OV)"
            lines.append(f"  {head.node:7}{shortened(name, 24):25}{scores}, {ranks}")
        lines += [f"  ... and {len(self.heads) - SHOWN} more heads"] * (len(self.heads) > SHOWN)
        return "\n".join([*lines, *([repr(self.hidden)] if self.hidden else [])])


@dataclass(frozen=True, eq=False)
class Ends:
    """What a circuit reads and writes at the ends of the model, beside words.

    Attributes:
        readouts: for each readout, the directions that it reads after the final norm.
        thresholds: for each readout, what its numbers must reach to be predicted.
        vectors: for each space of vectors, the directions that they are written to.
    """

    readouts: dict[str, Float[Tensor, "d_model _labels"]]
    thresholds: dict[str, Float[Tensor, "_labels"]]
    vectors: dict[str, Float[Tensor, "_labels d_model"]]


class CompiledTransformer(HookedTransformer):
    """A `HookedTransformer` that knows which circuit it was compiled from. Saved, it is a plain checkpoint.

    Attributes:
        circuit: the declaration as it was then.
        report: what the compiler chose.
        plan: everything before it became weights.
        ends: readouts and vectors, which a plain model does not have.

    >>> from circuits.gallery import entry
    >>> model = entry("previous_token").build().compile()
    >>> model.predict("!ab")
    [None, None, 'a']
    """

    circuit: Declaration
    report: CompileReport
    plan: Plan
    ends: Ends

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
        the product of the weights that write and of those that read is not zero. What was added to hide the circuit is
        left out: without a leak it feeds nothing of the circuit's. In a compressed model everything
        overlaps a little; the graph is that of the model before it was compressed.
        """
        return compiled_edges(self.plan)

    def check_options(
        self,
        return_type: ReturnType | ReadOut,
        loss_per_token: bool,
        start_at_layer: int | None,
        stop_at_layer: int | None,
        kv_cache: KVCache | None,
    ) -> tuple[int, int]:
        """As in a plain model; and words alone are refused where the circuit reads vectors as well (`ConfigError`)."""
        first, last = super().check_options(return_type, loss_per_token, start_at_layer, stop_at_layer, kv_cache)
        circuit: Declaration | None = vars(self).get("circuit")  # a snapshot of weights comes back without
        if circuit is not None and circuit.inputs and start_at_layer is None and stop_at_layer != 0:
            given = ", ".join(f"{name!r}: ..." for name in circuit.inputs)
            raise ConfigError(f"the circuit reads vectors beside words; run model(model.embedded(text, {{{given}}}), "
                              "start_at_layer=0)")  # fmt: skip
        return first, last

    @torch.no_grad()
    def predict(
        self, text: Text | Ids, readout: str | None = None, vectors: Mapping[str, Tensor] | None = None
    ) -> list[Any]:
        """For each position a word, or None where there is nothing to predict; a list of such lists for several texts.

        With a readout, what that says instead. Several texts have equally many words. Raises `TokenError` as
        `Circuit.tokens` does, and as `embedded` and `readout` do.
        """
        stream = self.embedded(text, vectors)
        if readout is not None:
            labels, thresholds = checked_readout(Layout(self.circuit), readout).labels, self.ends.thresholds[readout]
            said = in_words(decode(self.readout(stream, readout).double().cpu(), thresholds), labels)
        else:
            logits = self(stream, start_at_layer=0)
            assert isinstance(logits, Tensor)
            said = self.in_words(logits)
        return said[0] if is_single(text) else said

    def in_words(self, logits: Float[Tensor, "batch pos d_vocab"]) -> list[list[str | None]]:
        """What logits predict at each position: a word, or None where none reaches what it must."""
        thresholds = torch.tensor(self.report.nothing_below, dtype=torch.float64)
        return in_words(decode(logits.double().cpu(), thresholds), self.circuit.vocabulary.words)

    def embedded(
        self, text: Text | Ids, vectors: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream before the first layer, with vectors ([batch, pos, size], by space) added.

        `model(stream, start_at_layer=0)` runs it, as `run_with_cache` and every analysis that takes a start do. Raises
        `TokenError` as `Circuit.tokens` does, `ConfigError` and `ShapeError` as `Circuit.interpret` does.
        """
        tokens = self.circuit.tokens(text)
        given = checked_vectors(self.circuit, tokens, vectors)
        stream = self(tokens.to(self.W_E.device), stop_at_layer=0)
        assert isinstance(stream, Tensor)
        for name, value in given.items():
            stream = stream + (value @ self.ends.vectors[name]).to(stream)
        return stream

    def readout(self, stream: Float[Tensor, "batch pos d_model"], readout: str) -> Float[Tensor, "batch pos labels"]:
        """What a readout says of texts that `embedded` gives, as numbers, from the end of the stream.

        Raises `ConfigError`, with the nearest name, for a readout that the circuit does not have.
        """
        checked_readout(Layout(self.circuit), readout)
        end = self(stream, start_at_layer=0, stop_at_layer=self.cfg.n_layers) if self.cfg.n_layers else stream
        assert isinstance(end, Tensor)
        return self.readout_at(end, readout)

    def readout_at(self, end: Float[Tensor, "batch pos d_model"], readout: str) -> Float[Tensor, "batch pos labels"]:
        """What a readout says of the end of the stream itself, such as `cache["resid_post", -1]`."""
        return self.ln_final(end) @ self.ends.readouts[readout].to(end)
