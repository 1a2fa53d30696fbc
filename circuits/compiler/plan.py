"""The plan: everything that is chosen for a model before its weights are written."""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.compiler.encoding import POS, Encoding
from circuits.compiler.factors import FactoredHead
from circuits.compiler.neurons import MergedNeurons, merge_neurons
from circuits.compiler.sparse import Sparse
from circuits.language import (
    EMBED,
    LOGITS,
    POS_EMBED,
    UNEMBED,
    Coordinate,
    Declaration,
    Head,
    Label,
    Layout,
    Neurons,
    Ramp,
    component_name,
    cut,
)
from interp.errors import ConfigError, describe
from interp.indices import is_index
from interp.model import mlp_label


@dataclass(frozen=True)
class Place:
    """Where a part of the circuit lies in the model.

    Attributes:
        layer: of the model.
        index: which head, or cross head, of the layer it is; None for neurons, which share the layer's MLP.
        phase: when it reads and writes within the layer: heads first, then cross heads, then the MLP.
    """

    layer: int
    index: int | None
    phase: float

    @property
    def node(self) -> str:
        """What the component is called: "L1H0", "L1X0" or "L2.mlp"."""
        return component_name(self.layer, self.index, self.phase)

    @property
    def time(self) -> float:
        """When it reads and writes."""
        return self.layer + self.phase


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
        distractors: heads that are none of the circuit's.
        tables: the neurons of each declared table alone, by name.
        neurons: those of each layer of the model, of all its tables together.
        places: where each part and each distractor lies.
        layers: the layer of the model that each layer of the circuit became.
        n_layers, n_heads: layers, and heads a layer, of the model.
    """

    encoding: Encoding
    embedding: Sparse
    positions: Sparse
    unembedding: Sparse
    readouts: dict[str, Sparse]
    vectors: dict[str, Sparse]
    heads: list[FactoredHead]
    distractors: list[FactoredHead]
    tables: dict[str, MergedNeurons]
    neurons: dict[int, MergedNeurons]
    places: dict[str, Place]
    layers: tuple[int, ...]
    n_layers: int
    n_heads: int

    @property
    def nodes(self) -> dict[str, str]:
        """What each part is in the model, by the name it was declared with; see `CompiledTransformer.nodes`."""
        ends = {EMBED: EMBED, POS_EMBED: EMBED, UNEMBED: LOGITS}
        return {**ends, **{name: place.node for name, place in self.declared.items()}}

    @property
    def declared(self) -> dict[str, Place]:
        """Where the circuit's own parts lie."""
        others = {one.head.name for one in self.distractors}
        return {name: place for name, place in self.places.items() if name not in others}

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
        """All ways in which components read the stream; see `memory_readers` for the keys and values of cross heads."""
        for one in self.heads:
            place = self.places[one.head.name]
            of_keys = () if one.head.cross else (("K", one.key), ("V", one.value))
            for kind, read in (("Q", one.query), *of_keys):
                read = Sparse.beside([read, self.encoding.constant]) if kind != "V" and one.rotated else read
                yield Component(place.node, kind, place.time, {one.head.name: read}, read)
        for layer, tables in self._tables().items():
            parts = {name: neurons.reads for name, neurons in tables.items()}
            yield Component(mlp_label(layer), "mlp", layer + 0.5, parts, self.neurons[layer].reads)
        at_the_end = {UNEMBED: self.unembedding, **self.readouts}
        yield Component(LOGITS, "out", float("inf"), at_the_end, Sparse.beside(at_the_end.values()))

    def memory_readers(self) -> Iterator[Component]:
        """All ways in which cross heads read the source, at its end, in the coordinates of the source."""
        for one in self.heads:
            if one.head.cross:
                for kind, read in (("K", one.key), ("V", one.value)):
                    node = self.places[one.head.name].node
                    yield Component(node, kind, float("inf"), {one.head.name: read}, read)

    def _tables(self) -> dict[int, dict[str, MergedNeurons]]:
        """The tables of every layer that has some."""
        found: dict[int, dict[str, MergedNeurons]] = {}
        for name, neurons in self.tables.items():
            found.setdefault(self.places[name].layer, {})[name] = neurons
        return found


def make_plan(
    layout: Layout,
    encoding: Encoding,
    heads: list[FactoredHead],
    distractors: list[FactoredHead],
    places: dict[str, Place],
    layers: Sequence[int],
    n_layers: int,
    n_heads: int,
    slack: float,
) -> Plan:
    """Everything in coordinates."""
    circuit = layout.declaration
    tables = {name: table.T for name in layout.slices if (table := layout.embedding(name)) is not None}
    positions = {POS: torch.eye(circuit.n_ctx, dtype=torch.float64)} if POS in layout.slices else {}
    place, d_vocab = _finder(encoding), circuit.vocabulary.d_vocab

    def merged(ramps: Iterable[Ramp], whose: str) -> MergedNeurons:
        return merge_neurons(ramps, place, encoding.n_labels, slack).encoded(encoding, f"{whose}: its read of 'pos'")

    declared = [part for part in circuit.parts if isinstance(part, Neurons)]
    by_layer: dict[int, list[Ramp]] = {}
    for part in declared:
        by_layer.setdefault(places[part.name].layer, []).extend(part.ramps)
    return Plan(
        encoding=encoding,
        embedding=encoding.written(_by_label(tables, d_vocab, encoding)),
        positions=encoding.written(_by_label(positions, circuit.n_ctx, encoding)),
        unembedding=encoding.read(_by_label(layout.unembedding, d_vocab, encoding), "the unembedding"),
        readouts={
            name: encoding.read(_labels(circuit, name, encoding), f"readout {name!r}") for name in circuit.readouts
        },
        vectors={name: encoding.written(_labels(circuit, name, encoding)) for name in circuit.inputs},
        heads=heads,
        distractors=distractors,
        tables={part.name: merged(part.ramps, part.title) for part in declared},
        neurons={layer: merged(ramps, f"layer {layer}") for layer, ramps in by_layer.items()},
        places=places,
        layers=tuple(layers),
        n_layers=n_layers,
        n_heads=n_heads,
    )


def _by_label(blocks: Mapping[str, Float[Tensor, "_labels columns"]], n_columns: int, encoding: Encoding) -> Sparse:
    """What is read or written of each space, as columns over all labels."""
    shape, found = (encoding.n_labels, n_columns), []
    for name, block in blocks.items():
        one = Sparse.dense(block)
        found.append(Sparse.of(one.rows + encoding.labels[name].start, one.columns, one.values, shape))
    return Sparse.total(found, shape)


def _labels(circuit: Declaration, name: str, encoding: Encoding) -> Sparse:
    """Each label of a space, as a column."""
    n = len(circuit.spaces[name])
    return _by_label({name: torch.eye(n, dtype=torch.float64)}, n, encoding)


def _finder(encoding: Encoding) -> Callable[[Coordinate], int]:
    """Where among the labels a coordinate is. Every space is listed once."""
    index: dict[str, dict[Label, int]] = {}

    def place(coordinate: Coordinate) -> int:
        space = coordinate.space
        if space.name not in index:
            index[space.name] = {label: i for i, label in enumerate(space.labels)}
        return encoding.labels[space.name].start + index[space.name][coordinate.label]

    return place


# ---------------------------------------------------------------------- places


def settle_layers(circuit: Declaration, n_layers: int | None, layers: Sequence[int] | None) -> tuple[list[int], int]:
    """The layer of the model for each layer of the circuit, and how many the model has.

    By default they are spread evenly over the model, the first one first. Raises `ConfigError` for layers that do not
    ascend, or do not fit, naming a part that is left over.
    """
    needed = circuit.n_layers
    if layers is not None and not isinstance(layers, list | tuple):
        raise ConfigError(f"layers = {describe(layers)}; allowed: a list, with a layer of the model for each of the "
                          f"circuit's {needed}")  # fmt: skip
    if layers is not None and (len(layers) != needed or any(not is_index(one) or one < 0 for one in layers)):
        raise ConfigError(
            f"layers = {describe(layers)}; allowed: a layer of the model for each of the circuit's {needed}"
        )
    if layers is not None and any(one >= other for one, other in itertools.pairwise(layers)):
        raise ConfigError(f"layers = {describe(layers)}; allowed: layers that ascend")
    total = n_layers or max([needed, *(one + 1 for one in layers or ())])
    last = max(layers, default=-1) if layers else needed - 1
    if last >= total:
        left = next(part for part in circuit.parts if (layers[part.layer] if layers else part.layer) >= total)
        needs = f"head {left.name!r}" if isinstance(left, Head) else f"mlp {left.name!r}"
        raise ConfigError(f"n_layers = {total}, but the circuit needs {last + 1}: {needs} is in layer {last}")
    return (list(layers) if layers else [i * total // needed for i in range(needed)]), total


def settle_places(
    circuit: Declaration,
    others: Sequence[Head],
    layers: Sequence[int],
    n_heads: int | None,
    shuffle: random.Random | None,
) -> tuple[dict[str, Place], int]:
    """Where every part lies, and how many heads a layer has.

    Heads of a layer, and its cross heads, are numbered in order of declaration, or drawn by `shuffle`. Raises
    `ConfigError`, naming the heads, for a layer that has more of them than there is room for.
    """
    together: dict[tuple[int, float], list[str]] = {}
    for head, layer in [*((one, layers[one.layer]) for one in circuit.heads), *((one, one.layer) for one in others)]:
        together.setdefault((layer, head.phase), []).append(head.name)
    fullest = max(together, key=lambda when: len(together[when]), default=(0, 0.0))
    needed = max(len(together.get(fullest, ())), 1)
    if n_heads is not None and n_heads < needed:
        named = ", ".join(map(repr, together[fullest]))
        raise ConfigError(f"n_heads = {n_heads}, but layer {fullest[0]} needs {needed}: {cut(named, 200)}")
    total = n_heads or needed
    places = {part.name: Place(layers[part.layer], None, part.phase) for part in circuit.parts}
    for (layer, phase), names in sorted(together.items()):
        order = range(len(names)) if shuffle is None else shuffle.sample(range(total), len(names))
        places.update({name: Place(layer, index, phase) for name, index in zip(names, order, strict=True)})
    return places, total
