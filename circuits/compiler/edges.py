"""Edges: which component of a compiled model feeds which, read off what was compiled.

The graph of the declaration (`circuits.language.edge_graph`) knows nothing of how positions are written, of where in
the model a part came to lie, or of neurons that two tables share. This one does.
"""

from typing import TYPE_CHECKING

import torch

from circuits.compiler.plan import Plan
from circuits.compiler.sparse import Sparse
from circuits.language import component_graph, edge_name

if TYPE_CHECKING:
    from networkx import MultiDiGraph

NOTHING = 1e-9
"""A product below this share of its factors is what rounding leaves of zero."""


def compiled_edges(plan: Plan) -> "MultiDiGraph":
    """The exact graph of what was compiled; see `CompiledTransformer.edges`."""
    declared = {name: (place.node, place.layer) for name, place in plan.declared.items()}
    graph, writers = component_graph(declared, plan.n_layers), list(plan.writers())
    for reader in plan.readers():
        for writer in writers:
            if not (writer.time < reader.time and _reaches(writer.whole, reader.whole)):
                continue
            slices = plan.encoding.slices.items()
            spaces = tuple(name for name, at in slices if _reaches(writer.whole.at(at), reader.whole.at(at)))
            pairs = tuple(
                (name, other)
                for other, read in reader.parts.items()
                for name, written in writer.parts.items()
                if _reaches(written, read)
            )
            name = edge_name(writer.node, reader.node, reader.kind)
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
