"""Edges: which component of a compiled model feeds which, read off what was compiled.

The graph of the declaration (`circuits.language.edge_graph`) knows nothing of how positions are written, of where in
the model a part came to lie, or of neurons that two tables share. This one does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from circuits.compiler.encoding import Encoding
from circuits.compiler.factors import FactoredHead
from circuits.compiler.neurons import MergedNeurons
from circuits.compiler.sparse import Sparse
from interp.model import head_label, mlp_label

if TYPE_CHECKING:
    from networkx import MultiDiGraph

EMBED, POS_EMBED, UNEMBED, LOGITS = "embed", "pos_embed", "unembed", "logits"
NOTHING = 1e-9
"""A product below this share of its factors is what rounding leaves of zero."""


@dataclass(frozen=True)
class Place:
    """Where a part of the circuit lies in the model.

    Attributes:
        layer: of the model.
        index: which head of the layer it is; None for neurons, which share the layer's MLP.
    """

    layer: int
    index: int | None = None

    @property
    def node(self) -> str:
        """What the component is called: "L1H0" or "L2.mlp"."""
        return mlp_label(self.layer) if self.index is None else head_label(self.layer, self.index)

    @property
    def time(self) -> float:
        """When it reads and writes. The heads of a layer come first, its MLP half a step later."""
        return self.layer + (0.5 if self.index is None else 0.0)


@dataclass(frozen=True, eq=False)
class Component:
    """What a component of the model writes, or one way in which it reads.

    Attributes:
        node: the component.
        kind: "Q", "K", "V", "mlp" or "out" of one that reads; of one that writes "write".
        time: when it does so. It reads all that was written at an earlier time.
        parts: what each declared part of it writes or reads, as columns.
        whole: that of all parts together.
    """

    node: str
    kind: str
    time: float
    parts: dict[str, Sparse]
    whole: Sparse


@dataclass(frozen=True, eq=False)
class Plan:
    """All that was chosen for a model before its weights were written.

    Attributes:
        encoding: the coordinates; everything below is in them, as columns.
        embedding, positions, unembedding: what each word and each position writes, and what each logit reads.
        readouts: what each readout reads.
        vectors: what each space of vectors that the user gives is written to.
        heads: every head of the circuit.
        tables: the neurons of each declared table alone, by name.
        neurons: those of each layer of the model, of all its tables together.
        places: where each part lies.
        n_layers: of the model.
    """

    encoding: Encoding
    embedding: Sparse
    positions: Sparse
    unembedding: Sparse
    readouts: dict[str, Sparse]
    vectors: dict[str, Sparse]
    heads: list[FactoredHead]
    tables: dict[str, MergedNeurons]
    neurons: dict[int, MergedNeurons]
    places: dict[str, Place]
    n_layers: int

    @property
    def nodes(self) -> dict[str, str]:
        """What each part is in the model, by the name it was declared with; see `CompiledTransformer.nodes`."""
        ends = {EMBED: EMBED, POS_EMBED: EMBED, UNEMBED: LOGITS}
        return {**ends, **{name: place.node for name, place in self.places.items()}}

    def writers(self) -> Iterator[Component]:
        """All components that write."""
        both = {EMBED: Sparse.beside([self.embedding, *self.vectors.values()]), POS_EMBED: self.positions}
        yield Component(EMBED, "write", -1.0, both, Sparse.beside(both.values()))
        for one in self.heads:
            place = self.places[one.head.name]
            yield Component(place.node, "write", place.time, {one.head.name: one.output}, one.output)
        for layer, tables in self._tables().items():
            parts = {name: neurons.writes for name, neurons in tables.items()}
            yield Component(mlp_label(layer), "write", layer + 0.5, parts, self.neurons[layer].writes)

    def readers(self) -> Iterator[Component]:
        """All ways in which components read."""
        for one in self.heads:
            place = self.places[one.head.name]
            for kind, read in (("Q", one.query), ("K", one.key), ("V", one.value)):
                read = Sparse.beside([read, self.encoding.constant]) if kind != "V" and one.rotated else read
                yield Component(place.node, kind, place.time, {one.head.name: read}, read)
        for layer, tables in self._tables().items():
            parts = {name: neurons.reads for name, neurons in tables.items()}
            yield Component(mlp_label(layer), "mlp", layer + 0.5, parts, self.neurons[layer].reads)
        at_the_end = {UNEMBED: self.unembedding, **self.readouts}
        yield Component(LOGITS, "out", float("inf"), at_the_end, Sparse.beside(at_the_end.values()))

    def _tables(self) -> dict[int, dict[str, MergedNeurons]]:
        """The tables of every layer that has some."""
        found: dict[int, dict[str, MergedNeurons]] = {}
        for name, neurons in self.tables.items():
            found.setdefault(self.places[name].layer, {})[name] = neurons
        return found


def compiled_edges(plan: Plan) -> "MultiDiGraph":
    """The exact graph of what was compiled; see `CompiledTransformer.edges`."""
    from networkx import MultiDiGraph

    graph, writers = MultiDiGraph(), list(plan.writers())
    graph.add_node(EMBED, layer=-1, kind="embed", parts=())
    for name, place in plan.places.items():
        before = graph.nodes[place.node]["parts"] if place.node in graph else ()
        kind = "mlp" if place.index is None else "head"
        graph.add_node(place.node, layer=place.layer, kind=kind, parts=(*before, name))
    graph.add_node(LOGITS, layer=plan.n_layers, kind="logits", parts=())
    for reader in plan.readers():
        for writer in writers:
            if not (writer.time < reader.time and _reaches(writer.whole, reader.whole)):
                continue
            suffix = f".{reader.kind.lower()}" if reader.kind in ("Q", "K", "V") else ""
            slices = plan.encoding.slices.items()
            spaces = tuple(name for name, at in slices if _reaches(writer.whole.at(at), reader.whole.at(at)))
            pairs = tuple(
                (name, other)
                for other, read in reader.parts.items()
                for name, written in writer.parts.items()
                if _reaches(written, read)
            )
            name = f"{writer.node} -> {reader.node}{suffix}"
            graph.add_edge(writer.node, reader.node, key=reader.kind, name=name, spaces=spaces, parts=pairs)
    return graph


def _reaches(written: Sparse, read: Sparse) -> bool:
    """Whether the product of what is written and what is read is not zero."""
    from scipy.sparse import coo_array

    if not torch.isin(written.rows, read.rows).any():
        return False
    if written.has_single_entries or read.has_single_entries:
        return True  # every number of the product has one summand, so that nothing cancels
    a, b = (coo_array((m.values.numpy(), (m.rows.numpy(), m.columns.numpy())), m.shape) for m in (written, read))
    largest = float(abs(a.tocsr().T @ b.tocsr()).max())
    return largest > NOTHING * float(written.values.abs().max() * read.values.abs().max())
