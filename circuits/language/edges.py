"""Edges: which part of a circuit feeds which, in the spelling of `interp.model.EdgeGraph`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from circuits.language.declaration import Declaration
from circuits.language.layout import Layout
from circuits.language.parts import EMBED, POS_EMBED, UNEMBED, Head
from interp.model import head_label, mlp_label

if TYPE_CHECKING:
    from networkx import MultiDiGraph

LOGITS = "logits"
"""What the unembedding and readouts are in a graph."""


def edge_graph(layout: Layout) -> "MultiDiGraph":
    """The exact graph of a circuit, read off its declaration; see `Circuit.edges`."""
    declaration = layout.declaration
    nodes = component_names(declaration)
    parts = {part.name: (nodes[part.name], part.layer) for part in declaration.parts}
    graph = component_graph(parts, declaration.n_layers)
    writes = list(layout.writes())
    for read in layout.reads():
        for write in (one for one in writes if one.time < read.time):
            reached = {
                name
                for name, block in read.blocks.items()
                if name in write.blocks and (write.blocks[name] @ block).any()
            }
            if not reached:
                continue
            start, end = nodes[write.writer], LOGITS if read.kind == "out" else nodes[read.reader]
            known = graph.get_edge_data(start, end, read.kind) or {"spaces": (), "parts": ()}
            graph.add_edge(
                start,
                end,
                key=read.kind,
                name=edge_name(start, end, read.kind),
                spaces=tuple(name for name in layout.slices if name in reached.union(known["spaces"])),
                parts=(*known["parts"], (write.writer, read.reader)),
            )
    return graph


def component_graph(parts: Mapping[str, tuple[str, int]], n_layers: int) -> "MultiDiGraph":
    """A graph without edges: the embedding, the component and the layer of each declared part, and the logits."""
    from networkx import MultiDiGraph

    graph = MultiDiGraph()
    graph.add_node(EMBED, layer=-1, kind="embed", parts=())
    for name, (node, layer) in parts.items():
        before = graph.nodes[node]["parts"] if node in graph else ()
        kind = "mlp" if node == mlp_label(layer) else "head"
        graph.add_node(node, layer=layer, kind=kind, parts=(*before, name))
    graph.add_node(LOGITS, layer=n_layers, kind="logits", parts=())
    return graph


def edge_name(start: str, end: str, kind: str) -> str:
    """What the computation graph calls an edge, such as "L0H0 -> L1H0.k"."""
    return f"{start} -> {end}.{kind.lower()}" if kind in ("Q", "K", "V") else f"{start} -> {end}"


def component_names(declaration: Declaration) -> dict[str, str]:
    """What each part is in the compiled model: head "L0H1" or MLP "L2.mlp", by the name it was declared with.

    Token and position embeddings are both "embed", the unembedding is "logits".
    """
    names = {EMBED: EMBED, POS_EMBED: EMBED, UNEMBED: LOGITS}
    heads = [0] * declaration.n_layers
    for part in declaration.parts:
        if isinstance(part, Head):
            names[part.name] = head_label(part.layer, heads[part.layer])
            heads[part.layer] += 1
        else:
            names[part.name] = mlp_label(part.layer)
    return names
