"""Edges: which component of a compiled model feeds which, read off what was compiled.

The graph of the declaration (`circuits.language.edge_graph`) knows nothing of how positions are written, of where in
the model a part came to lie, or of neurons that two tables share. This one does.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from circuits.compiler.plan import Component, Plan
from circuits.compiler.sparse import Sparse
from circuits.language import DECODER, ENCODER, SOURCE, component_graph, edge_name

if TYPE_CHECKING:
    from networkx import MultiDiGraph

NOTHING = 1e-9
"""A product below this share of its factors is what rounding leaves of zero."""


def compiled_edges(plan: Plan) -> "MultiDiGraph":
    """The exact graph of what was compiled; see `CompiledTransformer.edges`."""
    graph = _components(plan)
    _add_edges(graph, plan, plan.readers())
    return graph


def compiled_edges_of_pair(source: Plan, plan: Plan) -> "MultiDiGraph":
    """The exact graph of a pair that was compiled; see `CompiledEncoderDecoder.edges`."""
    graph = _components(source, ENCODER)
    graph.add_nodes_from(_components(plan, DECODER).nodes(data=True))
    _add_edges(graph, source, source.readers(), ENCODER, ENCODER, SOURCE, SOURCE)
    _add_edges(graph, source, plan.memory_readers(), ENCODER, DECODER, SOURCE)
    _add_edges(graph, plan, plan.readers(), DECODER, DECODER)
    return graph


def _components(plan: Plan, stack: str = "") -> "MultiDiGraph":
    declared = {name: (stack + place.node, place.layer, place.phase) for name, place in plan.declared.items()}
    reads = stack != ENCODER or bool(plan.readouts)
    return component_graph(declared, plan.n_layers, stack, reads)


def _add_edges(
    graph: "MultiDiGraph",
    plan: Plan,
    readers: Iterable[Component],
    stack: str = "",
    to: str = "",
    prefix: str = "",
    prefix_to: str = "",
) -> None:
    """Add the edges from what a plan's components write to those that read it.

    Args:
        stack, to: what the names of components begin with, of those that write and of those that read.
        prefix, prefix_to: what the names of their parts begin with.
    """
    writers = list(plan.writers())
    for reader in readers:
        for writer in writers:
            if not (writer.time < reader.time and _reaches(writer.whole, reader.whole)):
                continue
            slices = plan.encoding.slices.items()
            spaces = tuple(name for name, at in slices if _reaches(writer.whole.at(at), reader.whole.at(at)))
            pairs = tuple(
                (prefix + name, prefix_to + other)
                for other, read in reader.parts.items()
                for name, written in writer.parts.items()
                if _reaches(written, read)
            )
            start, end = stack + writer.node, to + reader.node
            name = edge_name(start, end, reader.kind)
            graph.add_edge(start, end, key=reader.kind, name=name, spaces=spaces, parts=pairs)


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
