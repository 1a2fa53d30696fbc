"""Edges: which part of a circuit feeds which."""

from typing import TYPE_CHECKING

from circuits.language.layout import Layout
from circuits.language.parts import EMBED, POS_EMBED, UNEMBED, Head

if TYPE_CHECKING:
    from networkx import MultiDiGraph


def edge_graph(layout: Layout) -> "MultiDiGraph":
    """The exact graph of a circuit, read off its declaration.

    Nodes are the parts and "embed", "pos_embed", "unembed", each with its `layer` and `kind`. An edge's key is what
    it feeds, "Q", "K", "V", "mlp" or "out"; its `spaces` are those it goes through. There is an edge where the
    product of what one part writes and what the other reads is not zero.
    """
    from networkx import MultiDiGraph

    declaration, graph = layout.declaration, MultiDiGraph()
    writes, reads = list(layout.writes()), list(layout.reads())
    for name, layer, kind in (
        (EMBED, -1, "embed"),
        (POS_EMBED, -1, "embed"),
        *((part.name, part.layer, "head" if isinstance(part, Head) else "mlp") for part in declaration.parts),
        (UNEMBED, declaration.n_layers, "unembed"),
    ):
        graph.add_node(name, layer=layer, kind=kind)
    for read in reads:
        for write in (one for one in writes if one.time < read.time):
            through = tuple(
                name for name, where in layout.slices.items() if (write.matrix[:, where] @ read.matrix[where]).any()
            )
            if through:
                graph.add_edge(write.writer, read.reader, key=read.kind, spaces=through)
    return graph
