"""The graph of a compiled model, beside the products of its weights."""

import pytest
import torch
from torch import Tensor

from circuits import Circuit, copy, match, shift
from circuits.compiler import CODES, CompiledTransformer
from circuits.gallery import entry
from interp import HookedTransformer
from interp.model import EdgeGraph, Reader, Writer

Node = tuple[str, str, str]


def written(model: HookedTransformer, writer: Writer) -> Tensor:
    """The vectors that a component writes, as rows. The ballast is no message: it is the same for every token."""
    if writer.kind == "embed":
        rows = torch.cat([model.W_E, *([model.W_pos] if model.cfg.positions_in_stream else [])])
        if model.cfg.normalization_type:
            rows[:, -2:] = 0
        return rows
    block = model.blocks[writer.layer]
    return block.mlp.W_out if writer.head is None else block.attn.W_O[writer.head]


def read(model: HookedTransformer, reader: Reader) -> Tensor:
    """What reads the stream, as columns."""
    if reader.kind == "logits":
        return model.W_U
    block = model.blocks[reader.layer]
    return block.mlp.W_in if reader.input is None else getattr(block.attn, f"W_{reader.input.upper()}")[reader.head]


@torch.no_grad()
def from_weights(model: HookedTransformer) -> set[str]:
    """Edges along which the product of the weights is not zero."""
    found = set()
    for edge in EdgeGraph.of(model):
        writes, reads = written(model, edge.writer).double(), read(model, edge.reader).double()
        if float((writes @ reads).abs().max()) > 1e-8 * float(writes.abs().max() * reads.abs().max()):
            found.add(str(edge))
    return found


def names(model: CompiledTransformer) -> set[str]:
    return {name for *_, name in model.edges().edges(data="name")}


def back_two() -> Circuit:
    """Positions, a table that reads them, and a head behind it."""
    c = Circuit("!ab", 5, bos="!")
    back, third = c.space("back", c.tok), c.space("third", ["yes"])
    c.head(0, "back", qk=match(c.pos, c.pos, shift(2)), ov=copy(c.tok, back))
    c.head(0, "here", qk=match(c.pos, c.pos), ov=copy(c.tok, third, {"a": "yes"}))
    c.mlp(1, "swap", (back, third), c.out, {("a", "yes"): "b"})
    c.head(2, "again", qk=match(c.pos, c.pos, shift(1)), ov=copy(back, c.out))
    return c


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("options", [{}, {"rotate": 3}, {"norm": "LN"}], ids=["plain", "rotated", "normed"])
def test_in_every_position_code_an_edge_is_listed_where_the_product_of_the_weights_is_not_zero(code: str, options):
    model = back_two().compile(positions=code, dtype=torch.float64, **options)
    assert names(model) == from_weights(model)


@pytest.mark.parametrize(
    "name", ["addition_2", "dyck2", "fuzzy_geometric", "histogram", "induction", "induction_pointer", "ioi", "sort"]
)
def test_every_edge_of_a_circuit_of_the_gallery_is_one_of_its_weights(name: str):
    circuit = entry(name).build()
    model = circuit.compile(dtype=torch.float64)
    assert names(model) == from_weights(model)
    declared = circuit.edges()
    assert {*declared.edges(keys=True)} == {*model.edges().edges(keys=True)}
    for *ends, known in declared.edges(keys=True, data=True):
        compiled = model.edges().edges[tuple(ends)]
        assert (set(compiled["parts"]), compiled["spaces"]) == (set(known["parts"]), known["spaces"])
    assert dict(declared.nodes(data=True)) == dict(model.edges().nodes(data=True))


def test_the_graph_differs_from_the_declarations_where_the_position_code_does():
    c = back_two()
    of = {
        code: c.compile(positions=code, dtype=torch.float64).edges().edges for code in ("onehot", "rotary", "quadratic")
    }
    query = {code: edges["embed", "L0H0", "Q"] for code, edges in of.items()}
    assert query["onehot"]["spaces"] == ("pos", "one")
    assert query["rotary"]["spaces"] == ("one",) and query["rotary"]["parts"] == (("embed", "back"),)
    assert query["quadratic"]["spaces"] == ("pos", "one")
    same = Circuit("!ab", 5)
    same.head(0, "back", qk=match(same.pos, same.pos, shift(1)), ov=copy(same.tok, same.out))
    quadratic = same.compile(positions="quadratic").edges().edges["embed", "L0H0", "Q"]
    assert quadratic["parts"] == (("embed", "back"), ("pos_embed", "back"))
    assert same.edges().edges["embed", "L0H0", "Q"]["parts"] == (("pos_embed", "back"),)


def test_nodes_say_where_the_parts_are():
    model = back_two().compile()
    assert model.nodes == {
        "embed": "embed",
        "pos_embed": "embed",
        "unembed": "logits",
        "back": "L0H0",
        "here": "L0H1",
        "swap": "L1.mlp",
        "again": "L2H0",
    }


def test_tables_that_cancel_feed_nothing():
    c = Circuit("!ab", 3, bos="!")
    number, kind = c.embed("number", {"a": [0.5]}), c.space("kind", ["x", "y"], holds="one")
    for name, values in (("up", {"x": 0.0, "y": 1.0}), ("down", {"y": 0.0, "x": 1.0})):
        c.bucket(0, name, number, kind, values)
    c.mlp(1, "reads", kind, c.out, {"x": "a"})
    model = c.compile(dtype=torch.float64)
    assert names(model) == from_weights(model)
    assert model.edges().edges["embed", "L0.mlp", "mlp"]["spaces"] == ("one",)
    assert c.edges().edges["embed", "L0.mlp", "mlp"]["spaces"] == ("number", "one")


def test_a_model_keeps_the_graph_it_was_compiled_with():
    c = back_two()
    model = c.compile()
    before = names(model)
    c.head(3, "more", qk=match(c.pos, c.pos), ov=copy(c.tok, c.out))
    assert names(model) == before and "more" not in model.nodes


def test_an_edge_that_is_not_listed_changes_nothing_when_it_is_cut():
    from interp.discovery import Subgraph, edge_scores
    from interp.interventions import Zero
    from interp.metrics import KLDivergence

    for code in ("onehot", "rotary", "quadratic"):
        model = back_two().compile(positions=code, dtype=torch.float64)
        texts = ["!abaa", "!baab", "!aaba"]
        scores = edge_scores(model, Zero(), texts, KLDivergence(pos=None), method="exact")
        moved = {
            name
            for name in Subgraph.whole(model).names
            if abs(float(scores.sel(writer=name.split(" -> ")[0], reader=name.split(" -> ")[1]))) > 1e-9
        }
        assert moved <= names(model)
        assert moved
