"""Subgraphs: sets of edges that know their shape, made from scores, names and masks."""

import math
import pickle
from collections.abc import Callable
from typing import Any

import networkx
import numpy as np
import pytest
import torch
import xarray
from grid import GRID, SEED, build, config

from interp import ConfigError, HookNotFoundError, InterpError, RangeError, ShapeError
from interp.discovery import Subgraph, score_matrix
from interp.model import Edge, EdgeGraph, Reader, Writer

GRAPH = EdgeGraph(n_layers=3, n_heads=4, n_key_value_heads=2, d_model=8)
WRONG: dict[Any, Any] = {value: value for value in ("gpt2", 2.0, "size", "1")}
"""Values of types that annotations exclude."""

SHAPES = [
    GRAPH,
    EdgeGraph(n_layers=2, n_heads=3, n_key_value_heads=3, d_model=8, attn_only=True),
    EdgeGraph(n_layers=3, n_heads=2, n_key_value_heads=1, d_model=8, parallel_attn_mlp=True),
]


def scores_of(graph: EdgeGraph, values: Any = None, **attrs: Any) -> xarray.DataArray:
    """Scores as `edge_scores` returns them; by default random ones with many ties."""
    there = graph.edge_mask().numpy()
    if values is None:
        values = np.random.default_rng(SEED).integers(-4, 5, size=there.shape) / 4
    coords = {"reader": list(map(str, graph.readers)), "writer": list(map(str, graph.writers))}
    about = {"graph": graph.to_json(), "method": "eap", "metric": "logit difference", "direction": "noising"}
    full = np.where(there, values, math.nan)
    return xarray.DataArray(full, coords, ("reader", "writer"), "effect", about | attrs)


def some(graph: EdgeGraph, share: float = 0.2, seed: int = SEED) -> Subgraph:
    """Random edges."""
    chosen = torch.rand(graph.edge_mask().shape, generator=torch.Generator().manual_seed(seed)) < share
    return Subgraph.of_mask(graph, chosen & graph.edge_mask())


# ---------------------------------------------------------------------- a set


def test_a_subgraph_is_a_set_of_edges():
    for graph in SHAPES:
        circuit, other = some(graph), some(graph, seed=SEED + 1)
        ours, theirs = set(circuit), set(other)
        assert len(circuit) == len(ours) == int(circuit.mask.sum())
        assert list(circuit) == list(circuit.edges()) == [edge for edge in graph.edges() if edge in ours]
        assert set(circuit & other) == ours & theirs
        assert set(circuit | other) == ours | theirs
        assert set(circuit - other) == ours - theirs
        assert set(circuit.complement()) == set(graph.edges()) - ours
        assert all((edge in circuit) == (edge in ours) == (str(edge) in circuit) for edge in graph.edges())
        assert Subgraph.of_names(graph, circuit.names) == Subgraph.of_names(graph, list(circuit)) == circuit
        assert Subgraph.of_mask(graph, circuit.mask) == circuit
        assert Subgraph.whole(graph).complement() == Subgraph.empty(graph)
        assert len(Subgraph.whole(graph)) == graph.n_edges and not Subgraph.empty(graph)
        assert circuit - circuit == Subgraph.empty(graph) == circuit & circuit.complement()


def test_equal_edges_of_one_shape_are_equal_however_they_were_found():
    circuit = some(GRAPH)
    again = Subgraph.of_names(GRAPH, reversed(circuit.names), found_by="hand")
    assert again == circuit and hash(again) == hash(circuit) and len({again, circuit}) == 1
    assert again.found_by == "hand" != circuit.found_by
    assert pickle.loads(pickle.dumps(again)) == circuit
    wider = EdgeGraph(n_layers=3, n_heads=4, n_key_value_heads=2, d_model=16)
    assert Subgraph.of_names(wider, circuit.names) != circuit
    assert circuit != set(circuit)


def test_the_mask_is_the_callers_own():
    circuit = some(GRAPH)
    circuit.mask.fill_(False)
    assert circuit.mask.any()


def test_models_and_configurations_stand_for_their_shape():
    cfg = config(GRID["rotary_rms_gated_grouped"])
    model = build(cfg, SEED)
    made = Subgraph.of_names(model, ["embed -> L1H1.k"])
    assert (
        made == Subgraph.of_names(cfg, ["embed -> L1H1.k"]) == Subgraph.of_names(EdgeGraph.of(cfg), [made.edges()[0]])
    )
    made.check_fits(model)
    with pytest.raises(ShapeError, match="n_layers = 3 here and 4 there"):
        made.check_fits(config(GRID["rotary_rms_gated_grouped"], n_layers=4))


def test_what_a_subgraph_says_of_itself():
    assert repr(Subgraph.top(scores_of(GRAPH), 5)).endswith(
        "found by top(5, by='absolute') of eap, logit difference, noising)"
    )
    assert "5 of 190 edges" in repr(Subgraph.top(scores_of(GRAPH), 5))
    assert "found by" not in repr(some(GRAPH))


@pytest.mark.parametrize(
    ("attempt", "error", "said"),
    [
        (lambda: Subgraph.of_names(GRAPH, ["L0H1 -> L2H9.q"]), HookNotFoundError, "4 heads"),
        (lambda: Subgraph.of_names(GRAPH, ["L2H1 -> L1H3.q"]), HookNotFoundError, "does not read"),
        (lambda: Subgraph.of_names(GRAPH, ["embed -> logit"]), HookNotFoundError, "did you mean 'logits'"),
        (lambda: Subgraph.of_names(GRAPH, "embed -> logits"), HookNotFoundError, "a list of edges"),
        (lambda: Subgraph.of_names(WRONG["gpt2"], []), ConfigError, "'gpt2'"),
        (lambda: "L0H1 -> embed" in some(GRAPH), HookNotFoundError, "is not an input"),
        (
            lambda: Subgraph.of_names(GRAPH, [Edge(Writer("head", 7, 0), Reader("logits", 3))]),
            HookNotFoundError,
            "L7H0 -> logits is no edge",
        ),
        (lambda: Subgraph.of_mask(GRAPH, torch.ones(2, 2, dtype=torch.bool)), ShapeError, "allowed: truth values"),
        (lambda: Subgraph.of_mask(GRAPH, GRAPH.edge_mask().float()), ShapeError, "float32"),
        (lambda: Subgraph.of_mask(GRAPH, ~GRAPH.edge_mask()), ShapeError, "is no edge"),
        (lambda: some(GRAPH) | some(SHAPES[1]), ShapeError, "attn_only = False here and True there"),
        (lambda: Subgraph(GRAPH, b"\xff" * 24), ShapeError, "no bits for 190 edges"),
        (lambda: Subgraph(GRAPH, b"\x00"), ShapeError, "no bits for 190 edges"),
    ],
)
def test_what_is_no_subgraph_is_refused(
    attempt: Callable[[], object], error: type[InterpError], said: str, as_installed: None
):
    with pytest.raises(error, match=said):
        attempt()


# ---------------------------------------------------------------------- scores


def test_the_top_is_the_largest_and_ties_go_to_the_earlier_edge():
    for graph in SHAPES:
        scores = scores_of(graph)
        flat = {edge: float(scores.sel(reader=str(edge.reader), writer=str(edge.writer))) for edge in graph.edges()}
        by_size = sorted(flat, key=lambda edge: -abs(flat[edge]))  # a stable sort
        by_sign = sorted(flat, key=lambda edge: flat[edge])  # noising: what lowers the metric is first
        for n in (0, 1, 7, graph.n_edges):
            assert set(Subgraph.top(scores, n)) == set(by_size[:n])
            assert set(Subgraph.top(scores, n, by="signed")) == set(by_sign[:n])


def test_a_sign_means_towards_the_other_run():
    up = Subgraph.top(scores_of(GRAPH, direction="denoising"), 20, by="signed")
    down = Subgraph.top(scores_of(GRAPH), 20, by="signed")
    assert up != down == Subgraph.top(-scores_of(GRAPH).assign_attrs(direction="denoising"), 20, by="signed")
    loss = scores_of(GRAPH, baseline=0.0, target=3.0)  # a divergence: the other run has more
    assert Subgraph.top(loss, 20, by="signed") == up
    assert Subgraph.top(scores_of(GRAPH).assign_attrs(values="fraction"), 20, by="signed") == up
    assert Subgraph.top(scores_of(GRAPH, baseline=[4.0, 3.0], target=[1.0, 2.0]), 20, by="signed") == down


def test_scores_of_some_edges_in_any_order_are_found_by_name():
    scores = scores_of(GRAPH)
    part = scores.sel(reader=["logits", "L1H0.q", "L2H1.k"], writer=["L1H3", "embed", "L0.mlp"])
    asked = {
        edge for edge in GRAPH.edges() if str(edge.reader) in part["reader"] and str(edge.writer) in part["writer"]
    }
    assert len(asked) == 8 and set(Subgraph.top(part, 8)) == asked
    graph, matrix = score_matrix(part)
    assert graph == GRAPH
    kept = ~matrix.isnan()
    assert torch.equal(matrix[kept], score_matrix(scores)[1][kept]) and int(kept.sum()) == 8
    turned = scores.isel(reader=slice(None, None, -1)).transpose("writer", "reader").expand_dims(metric=["one"])
    assert torch.equal(score_matrix(turned)[1].nan_to_num(9), score_matrix(scores)[1].nan_to_num(9))


def test_greedy_grows_from_the_logits_by_the_best_edge_that_can_be_added():
    for graph in SHAPES:
        scores = scores_of(graph)
        values = {e: abs(float(scores.sel(reader=str(e.reader), writer=str(e.writer)))) for e in graph.edges()}
        chosen: list[Edge] = []
        opened: set[Reader] = {graph.readers[-1]}
        for n in range(graph.n_edges + 1):
            if n in (0, 1, 5, 20, graph.n_edges):
                assert set(Subgraph.greedy(scores, n)) == set(chosen)
            if n < graph.n_edges:
                waiting = [edge for edge in graph.edges() if edge.reader in opened and edge not in chosen]
                chosen.append(max(waiting, key=lambda edge: values[edge]))  # the first of several
                opened |= set(graph.reads_of(chosen[-1].writer))


def test_a_threshold_keeps_what_counts_for_at_least_so_much():
    scores = scores_of(GRAPH)
    kept = Subgraph.threshold(scores, 0.75)
    assert kept.mask.sum() == int((abs(scores) >= 0.75).sum())
    signed = Subgraph.threshold(scores, 0.75, by="signed")
    assert len(signed) == int((scores <= -0.75).sum())
    assert len(Subgraph.threshold(scores, 0, by="signed")) == int((scores <= 0).sum())


@pytest.mark.parametrize(
    ("attempt", "error", "said"),
    [
        (lambda s: Subgraph.top(s, 191), ConfigError, "n = 191; allowed: 0 to 190"),
        (lambda s: Subgraph.top(s.isel(reader=[-1]), 20), ConfigError, "allowed: 0 to 16"),
        (lambda s: Subgraph.top(s, -1), ConfigError, "n = -1"),
        (lambda s: Subgraph.greedy(s, WRONG[2.0]), ConfigError, "n = 2.0"),
        (lambda s: Subgraph.top(s, True), ConfigError, "n = True"),
        (lambda s: Subgraph.top(s, 3, by=WRONG["size"]), ConfigError, "'absolute', 'signed'"),
        (lambda s: Subgraph.greedy(s.sel(reader=["L1H0.q"]), 2), ConfigError, "only 0 of the scored edges"),
        (lambda s: Subgraph.threshold(s, 5), RangeError, "keeps nothing: .* count from 0 to 1"),
        (lambda s: Subgraph.threshold(s, 0.0), RangeError, "keeps everything"),
        (lambda s: Subgraph.threshold(s, math.nan), RangeError, "a finite number"),
        (lambda s: Subgraph.threshold(s, WRONG["1"]), RangeError, "a finite number"),
        (lambda s: Subgraph.top(s.expand_dims(prompt=2), 3), ShapeError, r'mean\("prompt", keep_attrs=True\)'),
        (lambda s: Subgraph.top(s.expand_dims(metric=["a", "b"]), 3), ShapeError, "sel\\(metric="),
        (lambda s: Subgraph.top(s.expand_dims(seed=2), 3), ShapeError, "isel\\(seed=0\\)"),
        (lambda s: Subgraph.top(s.isel(reader=0), 3), ShapeError, "'reader'"),
        (lambda s: Subgraph.top(s.drop_vars("writer"), 3), ShapeError, "'writer'"),
        (lambda s: Subgraph.top(s.drop_attrs(), 3), ConfigError, "which graph.*assign_attrs"),
        (lambda s: Subgraph.top(s.assign_attrs(graph="{}"), 3), ConfigError, "does not describe a graph"),
        (lambda s: Subgraph.top(s.astype(str), 3), ConfigError, "dtype"),
        (lambda s: Subgraph.top(s.to_dataset(), 3), ConfigError, "DataArray"),
        (lambda s: Subgraph.top(s.to_numpy(), 3), ConfigError, "DataArray"),
        (lambda s: Subgraph.top(s.fillna(0), 3), ShapeError, "is no edge: NaN belongs there"),
        (lambda s: Subgraph.top((s / 0).assign_attrs(s.attrs), 3), RangeError, "infinite"),
        (lambda s: Subgraph.top(s.isel(reader=[1, 1]), 3), ShapeError, "'L0H1.q' twice"),
        (
            lambda s: Subgraph.top(s.assign_coords(writer=["embde", *s["writer"].to_numpy()[1:]]), 3),
            HookNotFoundError,
            "writer 'embde'.*did you mean 'embed'",
        ),
        (
            lambda s: Subgraph.top(s.assign_attrs(graph=SHAPES[1].to_json()), 3),
            HookNotFoundError,
            "which its graph does not have",
        ),
        (lambda s: Subgraph.top(s.assign_attrs(method="combined"), 3, by="signed"), ConfigError, "without a sign"),
        (lambda s: Subgraph.top(s.assign_attrs(direction=""), 3, by="signed"), ConfigError, "direction"),
        (
            lambda s: Subgraph.top(s.assign_attrs(baseline=[0.0, 1.0], target=[1.0, 0.0]), 3, by="signed"),
            ConfigError,
            "not say of which",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_scores_that_decide_nothing_are_refused(
    attempt: Callable[[xarray.DataArray], object], error: type[InterpError], said: str, as_installed: None
):
    with pytest.raises(error, match=said):
        attempt(scores_of(GRAPH))


# ---------------------------------------------------------------------- a graph


def test_pruning_keeps_the_edges_on_paths_from_the_embeddings_to_the_logits():
    for graph in SHAPES:
        for seed in range(20):
            circuit = some(graph, 0.12, SEED + seed)
            paths: networkx.DiGraph[str] = networkx.DiGraph()
            paths.add_edges_from([("start", "embed"), ("logits", "end")])
            for edge in circuit:
                paths.add_edge(str(edge.writer), str(edge.reader))
            for reader in graph.readers:
                paths.add_edges_from((str(reader), f"{one} writes") for one in graph.writes_of(reader))
            paths.add_edges_from((f"{one} writes", str(one)) for one in graph.writers if one.kind == "head")
            mlps = [str(one) for one in graph.writers if one.kind == "mlp"]  # one name for what reads and what writes
            assert all(name in map(str, graph.readers) for name in mlps)
            ahead = networkx.descendants(paths, "start") | {"start"}
            behind = networkx.ancestors(paths, "end") | {"end"}
            wanted = {e for e in circuit if str(e.writer) in ahead and str(e.reader) in behind}
            assert set(circuit.pruned()) == wanted
            assert circuit.pruned().pruned() == circuit.pruned()
            pruned = circuit.pruned()
            writers = {str(edge.writer) for edge in pruned}
            assert set(pruned.nodes) == (writers | {"logits"} if pruned else set())


def test_pruning_leaves_a_whole_graph_and_an_empty_one_as_they_are():
    for graph in SHAPES:
        assert Subgraph.whole(graph).pruned() == Subgraph.whole(graph)
        assert Subgraph.empty(graph).pruned() == Subgraph.empty(graph)
    dead = Subgraph.of_names(GRAPH, ["embed -> L0H0.q", "L1H0 -> logits", "L0H3 -> L2.mlp"])
    assert dead.pruned() == Subgraph.empty(GRAPH)


def test_components_that_share_keys_are_those_that_write():
    names = ["embed -> L1H1.k", "L1H2 -> logits", "embed -> L0H0.v"]
    circuit = Subgraph.of_names(GRAPH, names)
    assert circuit.nodes == ["embed", "L0H0", "L0H1", "L1H2", "logits"]
    drawn = circuit.to_networkx()
    assert list(drawn.nodes) == circuit.nodes
    assert dict(drawn.nodes["L1H2"]) == {"layer": 1, "kind": "head"}
    assert dict(drawn.nodes["embed"]) == {"layer": -1, "kind": "embed"}
    assert dict(drawn.nodes["logits"]) == {"layer": 3, "kind": "logits"}
    assert {(*edge[:3], edge[3]["name"]) for edge in drawn.edges(keys=True, data=True)} == {
        ("embed", "L0H0", "V", "embed -> L0H0.v"),
        ("embed", "L0H1", "V", "embed -> L0H0.v"),
        ("embed", "L1H2", "K", "embed -> L1H1.k"),
        ("L1H2", "logits", "out", "L1H2 -> logits"),
    }


def test_the_networkx_graph_of_a_subgraph_names_every_edge():
    for graph in SHAPES:
        circuit = some(graph)
        drawn = circuit.to_networkx()
        assert {about["name"] for *_, about in drawn.edges(data=True)} == set(circuit.names)
        assert set(drawn.nodes) == set(circuit.nodes)
        assert {key for *_, key in drawn.edges(keys=True)} <= {"Q", "K", "V", "mlp", "out"}
