"""Edges: which part of a circuit feeds which, in the spelling of `interp.model.EdgeGraph`."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from circuits.language.declaration import Declaration
from circuits.language.layout import Layout
from circuits.language.parts import CROSS_PHASE, EMBED, MLP_PHASE, POS_EMBED, SOURCE, UNEMBED, Head
from interp.model import head_label, mlp_label

if TYPE_CHECKING:
    from networkx import MultiDiGraph

LOGITS = "logits"
"""What the unembedding and readouts are in a graph."""


ENCODER, DECODER = "encoder.", "decoder."
"""What the names of components begin with in the graph of a pair, by their stack."""
"""What the components of a circuit with a source begin with, as the names of a pair's hook points do."""


def edge_graph(layout: Layout) -> "MultiDiGraph":
    """The exact graph of a circuit, read off its declaration; see `Circuit.edges`, and `EncoderDecoder.edges`.

    >>> from circuits.gallery import entry
    >>> list(edge_graph(Layout(entry("induction").build())))
    ['embed', 'L0H0', 'L1H0', 'logits']
    """
    if layout.source is None:
        names = component_names(layout.declaration)
        graph = _components(layout, names)
        _add_edges(graph, layout, names, names)
        return graph
    of_source = {name: ENCODER + node for name, node in component_names(layout.source.declaration).items()}
    names = {name: DECODER + node for name, node in component_names(layout.declaration).items()}
    graph = _components(layout.source, of_source, ENCODER)
    graph.add_nodes_from(_components(layout, names, DECODER).nodes(data=True))
    _add_edges(graph, layout.source, of_source, names, SOURCE)
    _add_edges(graph, layout, names, names)
    return graph


def _components(layout: Layout, names: Mapping[str, str], stack: str = "") -> "MultiDiGraph":
    parts = {part.name: (names[part.name], part.layer, part.phase) for part in layout.declaration.parts}
    reads = layout.reader is None or bool(layout.declaration.readouts)
    return component_graph(parts, layout.declaration.n_layers, stack, reads)


def _add_edges(
    graph: "MultiDiGraph", layout: Layout, names: Mapping[str, str], crossing: Mapping[str, str], prefix: str = ""
) -> None:
    """Add the edges within a stack, and those from it to the cross heads that read it.

    Args:
        names: the components of the stack by the names of their parts.
        crossing: the same of the stack whose cross heads may read it.
        prefix: what the names of the stack's parts begin with in edges.
    """
    writes = list(layout.writes())
    for read in layout.reads():
        crosses = read.kind in ("K", "V") and read.time == float("inf")
        for write in (one for one in writes if one.time < read.time):
            reached = {
                name
                for name, block in read.blocks.items()
                if name in write.blocks and (write.blocks[name] @ block).any()
            }
            if not reached:
                continue
            reader = UNEMBED if read.kind == "out" else read.reader
            start, end = names[write.writer], (crossing if crosses else names)[reader]
            known = graph.get_edge_data(start, end, read.kind) or {"spaces": (), "parts": ()}
            pair = prefix + write.writer, read.reader if crosses else prefix + read.reader
            graph.add_edge(
                start,
                end,
                key=read.kind,
                name=edge_name(start, end, read.kind),
                spaces=tuple(name for name in layout.slices if name in reached.union(known["spaces"])),
                parts=(*known["parts"], pair),
            )


def component_graph(
    parts: Mapping[str, tuple[str, int, float]], n_layers: int, stack: str = "", reads: bool = True
) -> "MultiDiGraph":
    """A graph without edges: the embedding, the component and the layer of each declared part, and the logits.

    Args:
        parts: the component of each part, its layer and its phase there, by its name.
        stack: what the names of components begin with; for a pair, nodes also say their `stack`.
        reads: whether there are logits, or readouts.

    >>> list(component_graph({"previous": ("L0H0", 0, 0.0)}, n_layers=1))
    ['embed', 'L0H0', 'logits']
    """
    from networkx import MultiDiGraph

    graph = MultiDiGraph()
    about = {"stack": stack.rstrip(".")} if stack else {}
    prefix = SOURCE if stack == ENCODER else ""
    graph.add_node(stack + EMBED, layer=-1, kind="embed", parts=(), **about)
    kinds = {MLP_PHASE: "mlp", CROSS_PHASE: "cross"}
    for name, (node, layer, phase) in parts.items():
        before = graph.nodes[node]["parts"] if node in graph else ()
        graph.add_node(node, layer=layer, kind=kinds.get(phase, "head"), parts=(*before, prefix + name), **about)
    if reads:
        graph.add_node(stack + LOGITS, layer=n_layers, kind="logits", parts=(), **about)
    return graph


def edge_name(start: str, end: str, kind: str) -> str:
    """What the computation graph calls an edge, such as "L0H0 -> L1H0.k".

    >>> edge_name("L0H0", "L1H0", "K")
    'L0H0 -> L1H0.k'
    """
    return f"{start} -> {end}.{kind.lower()}" if kind in ("Q", "K", "V") else f"{start} -> {end}"


def component_names(declaration: Declaration) -> dict[str, str]:
    """What each part is in the compiled model: head "L0H1" or MLP "L2.mlp", by the name it was declared with.

    Token and position embeddings are both "embed", the unembedding is "logits".
    """
    names = {EMBED: EMBED, POS_EMBED: EMBED, UNEMBED: LOGITS}
    heads: Counter[tuple[int, float]] = Counter()
    for part in declaration.parts:
        index = heads[part.layer, part.phase] if isinstance(part, Head) else None
        heads[part.layer, part.phase] += 1
        names[part.name] = component_name(part.layer, index, part.phase)
    return names


def component_name(layer: int, index: int | None, phase: float) -> str:
    """What a component is called: head "L0H1", cross head "L0X1", or MLP "L2.mlp" (without an index).

    >>> component_name(0, 1, 0.0), component_name(0, 1, CROSS_PHASE), component_name(2, None, 0.5)
    ('L0H1', 'L0X1', 'L2.mlp')
    """
    if index is None:
        return mlp_label(layer)
    return f"L{layer}X{index}" if phase == CROSS_PHASE else head_label(layer, index)
