"""The edges of a declaration: which part feeds which, in the spelling of the computation graph."""

import pytest
from small_circuits import induction

from circuits import Circuit, copy, match
from circuits.gallery import entry
from interp.model import EdgeGraph


def test_the_edges_of_induction_are_its_k_composition_and_what_the_embeddings_feed():
    graph = induction().edges()
    assert {(a, b, kind) for a, b, kind in graph.edges(keys=True)} == {
        ("embed", "L0H0", "Q"),
        ("embed", "L0H0", "K"),
        ("embed", "L0H0", "V"),
        ("embed", "L1H0", "Q"),
        ("L0H0", "L1H0", "K"),
        ("embed", "L1H0", "K"),  # the sink: the word that starts the text
        ("embed", "L1H0", "V"),
        ("L1H0", "logits", "out"),
    }
    assert graph.edges["L0H0", "L1H0", "K"]["spaces"] == ("prev",)
    assert graph.edges["L0H0", "L1H0", "K"]["parts"] == (("previous", "induction"),)
    assert graph.edges["embed", "L0H0", "Q"]["parts"] == (("pos_embed", "previous"),)
    assert graph.edges["embed", "L1H0", "Q"]["spaces"] == ("tok", "one")
    assert graph.nodes["L1H0"] == {"layer": 1, "kind": "head", "parts": ("induction",)}


@pytest.mark.parametrize("name", ["sort", "addition_2", "ioi", "dyck2", "induction"])
def test_every_edge_is_one_of_the_compiled_models_computation_graph(name: str):
    circuit = entry(name).build()
    model, edges = circuit.compile(), circuit.edges()
    graph, report = EdgeGraph.of(model), model.report.heads
    named = {str(edge) for edge in graph.edges()}
    assert {name for _, _, name in edges.edges(data="name")} <= named
    assert set(edges.nodes) <= {str(one) for one in graph.writers} | {"logits"}
    for part, head in report.items():
        assert edges.nodes[f"L{head.layer}H{head.index}"]["parts"] == (part,)
    tables = [part.name for part in circuit.parts if part.name not in report]
    assert sorted(tables) == sorted(one for node in edges if "mlp" in node for one in edges.nodes[node]["parts"])


def test_there_is_no_edge_between_parts_that_share_a_space_but_no_label_of_it():
    c = Circuit("!ab", 4, bos="!")
    kind = c.space("kind", ["x", "y"])
    c.head(0, "writes x", qk=match(c.pos, c.pos), ov=copy(c.tok, kind, {"a": "x"}))
    c.head(0, "writes y", qk=match(c.pos, c.pos), ov=copy(c.tok, kind, {"b": "y"}))
    c.head(1, "reads x", qk=match(c.pos, c.pos), ov=copy(kind, c.out, {"x": "b"}))
    graph = c.edges()
    assert graph.has_edge("L0H0", "L1H0", "V")
    assert not graph.has_edge("L0H1", "L1H0")


def test_neurons_have_edges_in_and_out():
    c = Circuit("!ab", 4, bos="!")
    c.mlp(0, "swap", c.tok, c.out, {"a": "b", "b": "a"})
    assert set(c.edges().edges(keys=True)) == {("embed", "L0.mlp", "mlp"), ("L0.mlp", "logits", "out")}


def test_tables_of_a_layer_are_one_mlp_with_all_their_edges():
    c = Circuit("!ab", 4, bos="!")
    kind = c.space("kind", ["x"])
    c.mlp(0, "kind", c.tok, kind, {"a": "x"})
    c.mlp(0, "swap", (c.tok, c.pos), c.out, {("a", 1): "b"})
    c.mlp(1, "again", kind, c.out, {"x": "a"})
    graph = c.edges()
    assert graph.nodes["L0.mlp"]["parts"] == ("kind", "swap")
    into = graph.edges["embed", "L0.mlp", "mlp"]
    assert into["parts"] == (("embed", "kind"), ("embed", "swap"), ("pos_embed", "swap"))
    assert into["spaces"] == ("tok", "pos") and into["name"] == "embed -> L0.mlp"
    assert graph.edges["L0.mlp", "L1.mlp", "mlp"]["parts"] == (("kind", "again"),)
    assert graph.edges["L0.mlp", "logits", "out"]["parts"] == (("swap", "unembed"),)
