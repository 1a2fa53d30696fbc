"""The computation graph of a configuration: closed counts, order, names, and what the model itself says."""

import pickle
from typing import Any

import pytest
import torch
from grid import GRID, build, config

from interp import ConfigError, HookNotFoundError, TransformerConfig
from interp.interventions import Steer
from interp.model import Edge, EdgeGraph, Reader, Writer, head_label, head_labels


def graph(n_layers: int, n_heads: int, **fields: Any) -> EdgeGraph:
    sizes: dict[str, Any] = {"d_model": 8, "d_head": 4, "n_ctx": 4, "d_vocab": 5, "d_mlp": 4}
    sizes |= {"d_mlp": 0} if fields.get("attn_only") else {}
    return EdgeGraph.of(TransformerConfig(n_layers=n_layers, n_heads=n_heads, **sizes | fields))


@pytest.mark.parametrize(
    ("made", "n_edges"),
    [
        (graph(12, 12), 32_491),
        (graph(12, 12, attn_only=True), 29_089),
        (graph(12, 12, parallel_attn_mlp=True), 32_347),
        (graph(30, 9, n_key_value_heads=3), 70_651),
        (graph(30, 9), 123_211),
        (graph(2, 1, attn_only=True), 12),
        (graph(3, 2), 100),
        (graph(3, 4, n_key_value_heads=2), 190),
        (graph(6, 8, n_key_value_heads=2, parallel_attn_mlp=True), 1_888),
        (graph(0, 1), 1),
    ],
)
def test_a_graph_has_as_many_edges_as_its_formula_says(made: EdgeGraph, n_edges: int):
    cfg = made
    heads, kv, mlp = cfg.n_heads, cfg.n_key_value_heads, int(not cfg.attn_only)
    after_heads = heads * (not cfg.parallel_attn_mlp)
    total = 1 + (heads + mlp) * cfg.n_layers
    for layer in range(cfg.n_layers):
        before = 1 + (heads + mlp) * layer
        total += (heads + 2 * kv) * before + mlp * (before + after_heads)
    assert made.n_edges == len(made) == total == n_edges
    if n_edges < 2_000:
        brute = [Edge(w, r) for r in made.readers for w in made.writers if made.reaches(w, r)]
        assert list(made.edges()) == list(made) == brute and len(set(brute)) == n_edges
        assert all(made.writers_of(r) == tuple(w for w in made.writers if made.reaches(w, r)) for r in made.readers)


def test_smollm2_has_301_writers_and_481_readers():
    made = graph(30, 9, n_key_value_heads=3)
    assert (len(made.writers), len(made.readers)) == (301, 481)
    assert repr(made) == "EdgeGraph(301 writers, 481 readers, 70,651 edges)"


def test_writers_and_readers_stand_in_the_order_of_execution():
    made = graph(2, 2, n_key_value_heads=1)
    assert " ".join(map(str, made.writers)) == "embed L0H0 L0H1 L0.mlp L1H0 L1H1 L1.mlp"
    assert " ".join(map(str, made.readers)) == (
        "L0H0.q L0H1.q L0H0.k L0H0.v L0.mlp L1H0.q L1H1.q L1H0.k L1H0.v L1.mlp logits"
    )
    assert [str(edge) for edge in graph(1, 1).edges()] == [
        "embed -> L0H0.q", "embed -> L0H0.k", "embed -> L0H0.v", "embed -> L0.mlp", "L0H0 -> L0.mlp",
        "embed -> logits", "L0H0 -> logits", "L0.mlp -> logits",
    ]  # fmt: skip


def test_every_name_is_read_back_as_what_it_names():
    for made in (graph(3, 4, n_key_value_heads=2), graph(2, 3, attn_only=True), graph(2, 2, parallel_attn_mlp=True)):
        assert tuple(made.writer(str(writer)) for writer in made.writers) == made.writers
        assert tuple(made.reader(str(reader)) for reader in made.readers) == made.readers
        assert tuple(made.edge(str(edge)) for edge in made.edges()) == made.edges()
        assert pickle.loads(pickle.dumps(made)).edges() == made.edges()
        assert [w for row in head_labels(made) for w in row] == [str(w) for w in made.writers if w.kind == "head"]


def test_heads_that_share_keys_and_values_read_through_them():
    made = graph(2, 4, n_key_value_heads=2)
    assert [str(read) for read in made.reads_of(Writer("head", 1, 3))] == ["L1H3.q", "L1H1.k", "L1H1.v"]
    assert [str(write) for write in made.writes_of(Reader("head", 1, 1, "k"))] == ["L1H2", "L1H3"]
    for writer in made.writers:
        assert all(writer in made.writes_of(reader) for reader in made.reads_of(writer))
    assert made.writes_of(made.reader("logits")) == () and made.reads_of(made.writer("embed")) == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("L9H0.q", "'L9H0.q' is not there: the model has 3 layers of 4 heads"),
        ("L2H2.k", "3 layers of 2 key-value heads"),
        ("L2H4", "3 layers of 4 heads"),
        ("2.1.q", "written as embed, logits"),
        ("logit", "did you mean 'logits'"),
        ("L3.mlp", "not there"),
        (("L0H1",), "named as text"),
        ("embed -> L0H0.q", "no component"),
    ],
)
def test_a_name_that_names_nothing_is_an_error(name: Any, message: str, as_installed: None):
    made = graph(3, 4, n_key_value_heads=2)
    for read in (made.writer, made.reader):
        with pytest.raises(HookNotFoundError, match=message):
            read(name)


def test_a_reader_is_no_writer_and_an_edge_needs_both():
    made = graph(3, 2)
    assert made.writer("1_mlp_out") == made.writer("L1.mlp")
    for call, message in (
        (lambda: made.writer("L0H1.q"), "'L0H1.q' does not write to the stream"),
        (lambda: made.writer("logits"), "does not write"),
        (lambda: made.reader("L0H1"), "'L0H1' is not an input, but a whole head; .* such as 'L0H1.q'"),
        (lambda: made.reader("embed"), "not an input"),
        (lambda: made.edge("L0H1"), "no edge; edges are written as"),
        (lambda: made.edge("L1H0 -> L1H1.q"), "L1H1.q does not read what L1H0 writes"),
        (lambda: graph(2, 2, attn_only=True).writer("L0.mlp"), "has no MLPs"),
    ):
        with pytest.raises(HookNotFoundError, match=message):
            call()


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["learned_ln", "rotary_rms_gated_grouped", "partial_rotary_parallel", "shortformer_attn_only"]
)
def test_a_reader_sees_a_change_exactly_where_the_graph_has_an_edge(name: str):
    model = build(config(GRID[name], n_layers=2), seed=1)
    made = EdgeGraph.of(model)
    tokens = torch.tensor([[1, 2, 3, 4]])
    points = list({reader.hook_name for reader in made.readers})
    _, base = model.run_with_cache(tokens, names_filter=points)

    def read(cache: Any, reader: Reader) -> torch.Tensor:
        value = cache[reader.hook_name]
        return value if reader.head is None else value[:, :, reader.head]

    for writer in made.writers:
        site = {"embed": "resid_pre", "head": "z", "mlp": "mlp_out"}[writer.kind]
        size = model.cfg.d_head if writer.kind == "head" else model.cfg.d_model
        steer = Steer(torch.arange(1.0, size + 1).double(), site=site, layer=max(writer.layer, 0), head=writer.head)
        with model.intervene(steer):
            _, cache = model.run_with_cache(tokens, names_filter=points)
        for reader in made.readers:
            same = torch.equal(read(cache, reader), read(base, reader))
            assert made.reaches(writer, reader) != same, f"{writer} -> {reader}"


def test_a_heads_label_is_that_of_its_writer():
    assert head_label(5, 3) == str(Writer("head", 5, 3)) == "L5H3"


def test_a_graph_is_written_as_json_and_read_back():
    for made in (graph(3, 4, n_key_value_heads=2), graph(2, 3, attn_only=True), graph(0, 1, parallel_attn_mlp=True)):
        assert EdgeGraph.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        graph(1, 1).to_json().replace("n_layers", "layers"),
        graph(1, 1).to_json().replace("false", "0"),
        graph(1, 1).to_json().replace('"n_layers": 1', '"n_layers": true'),
        graph(1, 1).to_json().replace('"n_layers": 1', '"n_layers": 1.0'),
        graph(1, 1).to_json().replace('"n_layers": 1', '"n_layers": -1'),
        graph(1, 1).to_json().replace('"n_heads": 1', '"n_heads": 0'),
        graph(1, 1).to_json().replace('"n_key_value_heads": 1', '"n_key_value_heads": 2'),
        None,
    ],
)
def test_what_describes_no_graph_is_refused(text: Any, as_installed: None):
    with pytest.raises(ConfigError):
        EdgeGraph.from_json(text)


def test_the_mask_of_edges_is_true_at_each_of_them_in_order():
    for made in (graph(3, 4, n_key_value_heads=2), graph(2, 3, attn_only=True), graph(2, 2, parallel_attn_mlp=True)):
        places = made.edge_mask().nonzero().tolist()
        assert [Edge(made.writers[w], made.readers[r]) for r, w in places] == list(made.edges())
