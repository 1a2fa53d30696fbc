"""Edges: which part of a circuit feeds which, in the spelling of `interp.model.EdgeGraph`."""

from typing import TYPE_CHECKING

from circuits.language.declaration import Declaration
from circuits.language.layout import Layout
from circuits.language.parts import EMBED, POS_EMBED, UNEMBED, Head
from interp.model import head_label, mlp_label

if TYPE_CHECKING:
    from networkx import MultiDiGraph

LOGITS = "logits"


def edge_graph(layout: Layout) -> "MultiDiGraph":
    """The exact graph of a circuit, read off its declaration; see `Circuit.edges`."""
    from networkx import MultiDiGraph

    declaration, graph = layout.declaration, MultiDiGraph()
    nodes = component_names(declaration)
    graph.add_node(EMBED, layer=-1, kind="embed", parts=())
    for part in declaration.parts:
        node = nodes[part.name]
        before = graph.nodes[node]["parts"] if node in graph else ()
        graph.add_node(
            node, layer=part.layer, kind="head" if isinstance(part, Head) else "mlp", parts=(*before, part.name)
        )
    graph.add_node(LOGITS, layer=declaration.n_layers, kind="logits", parts=())
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
                name=f"{start} -> {end}{'.' + read.kind.lower() if read.kind in ('Q', 'K', 'V') else ''}",
                spaces=tuple(name for name in layout.slices if name in reached.union(known["spaces"])),
                parts=(*known["parts"], (write.writer, read.reader)),
            )
    return graph


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
