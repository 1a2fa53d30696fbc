"""Circuits as JSON, the package's own and the leaderboard's: what is written is read back, and nothing else is."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray
from hypothesis import given
from hypothesis import strategies as st

from interp import CheckpointError, ConfigError, InterpError, ShapeError
from interp.discovery import Subgraph, from_mib, score_matrix, to_mib
from interp.discovery.ranking import labelled
from interp.model import EdgeGraph

SMALL = EdgeGraph(n_layers=2, n_heads=4, n_key_value_heads=2, d_model=8)


@st.composite
def claims(draw: st.DrawFn, mlps: bool = False) -> tuple[dict[str, Any], list[int], str]:
    """What `built` makes a circuit of: checks of types draw random numbers, which no strategy may."""
    kv = draw(st.integers(1, 3))
    fields = {
        "n_layers": draw(st.integers(0, 3)),
        "n_heads": kv * draw(st.integers(1, 3)),
        "n_key_value_heads": kv,
        "d_model": draw(st.integers(1, 99)),
        "attn_only": not mlps and draw(st.booleans()),
        "parallel_attn_mlp": draw(st.booleans()),
    }
    return fields, draw(st.lists(st.integers(0, 10_000))), draw(st.text(max_size=9))


def built(claim: tuple[dict[str, Any], list[int], str]) -> Subgraph:
    fields, kept, found_by = claim
    graph = EdgeGraph(**fields)
    return Subgraph.of_names(graph, [graph.edges()[place % graph.n_edges] for place in kept], found_by)


def scores_of(graph: EdgeGraph, seed: int = 0, **attrs: Any) -> xarray.DataArray:
    there = graph.edge_mask()
    matrix = torch.randn(there.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    matrix[~there] = math.nan
    return labelled(graph, matrix, {"method": "eap", "direction": "noising"} | attrs)


def some(graph: EdgeGraph = SMALL) -> Subgraph:
    return Subgraph.of_names(graph, graph.edges()[::3], "every third")


# ---------------------------------------------------------------------- this package's own


@given(claim=claims())
def test_a_circuit_is_written_and_read_back(claim: Any):
    circuit = built(claim)
    again = Subgraph.from_json(circuit.to_json())
    assert again == circuit and again.found_by == circuit.found_by
    assert again.to_json() == circuit.to_json()


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, circuit = tmp_path / "new" / "circuit.json", some()
    circuit.save(path)
    assert Subgraph.load(str(path)) == circuit
    assert json.loads(path.read_text())["schema"] == 1
    monkeypatch.setattr(Subgraph, "to_json", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        circuit.save(path)
    assert Subgraph.load(path) == circuit and list(path.parent.iterdir()) == [path]


def changed(**fields: Any) -> str:
    return json.dumps(json.loads(some().to_json()) | fields)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ("[1]", "not of an object"),
        ("{}", "kind is None"),
        (changed(kind="interp.Interventions"), "kind is 'interp.Interventions'"),
        (changed(schema=2), "schema 2; this version reads 1"),
        (changed(schema=None), "schema None"),
        (changed(graph={}), "does not describe a graph"),
        (changed(edges="embed -> logits"), "edges is a list"),
        (changed(found_by=3), "found_by a text"),
        (changed(edges=["embed -> L0H0.Q"]), "did you mean .*'L0H0.q'"),
        (changed(edges=["L1H0 -> L0.mlp"]), "does not read"),
        (changed(edges=[["embed", "logits"]]), "is no edge"),
        (changed(edges=["embed -> logits"] * 2), "'embed -> logits' is there twice"),
    ],
)
def test_what_is_no_saved_circuit_is_refused(text: str, said: str, tmp_path: Path, as_installed: None):
    with pytest.raises(CheckpointError, match=said):
        Subgraph.from_json(text)
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"file.json cannot be read.*{said}"):
        Subgraph.load(tmp_path / "file.json")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.json", tmp_path / "bytes.json", tmp_path):
        with pytest.raises(CheckpointError, match=path.name):
            Subgraph.load(path)


# ---------------------------------------------------------------------- the leaderboard's


@given(claim=claims(mlps=True), seed=st.integers(0, 99), direction=st.sampled_from(["noising", "denoising"]))
def test_a_circuit_and_its_scores_pass_through_the_leaderboards_json(claim: Any, seed: int, direction: str):
    circuit = built(claim)
    graph, scores = circuit.graph, scores_of(circuit.graph, seed, direction=direction)
    text = to_mib(circuit, scores)
    again, theirs = from_mib(graph, text, "a friend")
    assert again == circuit and again.found_by == "a friend"
    sign = -1 if direction == "noising" else 1
    assert torch.equal(score_matrix(theirs)[1].nan_to_num(7), (sign * score_matrix(scores)[1]).nan_to_num(7))
    for n in {0, 1, graph.n_edges // 2}:
        for by in ("absolute", "signed"):
            assert Subgraph.top(theirs, n, by=by) == Subgraph.top(scores, n, by=by)
    assert to_mib(again, theirs) == text
    assert from_mib(graph, to_mib(circuit))[0] == circuit


def test_a_small_file_of_the_leaderboard_is_spelt_as_it_is_there():
    graph = EdgeGraph(n_layers=1, n_heads=2, n_key_value_heads=1, d_model=4)
    circuit = Subgraph.of_names(graph, ["embed -> L0H0.k", "L0H1 -> L0.mlp", "L0.mlp -> logits"])
    assert json.loads(to_mib(circuit)) == {
        "cfg": {"n_layers": 1, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 4},
        "nodes": {
            name: {"in_graph": name != "other"} for name in ("input", "a0.h0", "a0.h1", "m0", "logits")
        },
        "edges": {
            "input->a0.h0<q>": {"score": 0.0, "in_graph": False},
            "input->a0.h1<q>": {"score": 0.0, "in_graph": False},
            "input->a0.h0<k>": {"score": 1.0, "in_graph": True},
            "input->a0.h1<k>": {"score": 1.0, "in_graph": True},
            "input->a0.h0<v>": {"score": 0.0, "in_graph": False},
            "input->a0.h1<v>": {"score": 0.0, "in_graph": False},
            "input->m0": {"score": 0.0, "in_graph": False},
            "a0.h0->m0": {"score": 0.0, "in_graph": False},
            "a0.h1->m0": {"score": 1.0, "in_graph": True},
            "input->logits": {"score": 0.0, "in_graph": False},
            "a0.h0->logits": {"score": 0.0, "in_graph": False},
            "a0.h1->logits": {"score": 0.0, "in_graph": False},
            "m0->logits": {"score": 1.0, "in_graph": True},
        },
    }  # fmt: skip
    nodes = json.loads(to_mib(Subgraph.of_names(graph, ["embed -> L0H1.q"])))["nodes"]
    assert [name for name, about in nodes.items() if about["in_graph"]] == ["input", "a0.h1"]


def test_files_name_as_many_edges_as_their_graphs_have_with_keys_and_values_of_every_head():
    graph = EdgeGraph(n_layers=3, n_heads=4, n_key_value_heads=2, d_model=8)
    ungrouped = EdgeGraph(n_layers=3, n_heads=4, n_key_value_heads=4, d_model=8)
    assert len(json.loads(to_mib(Subgraph.empty(graph)))["edges"]) == ungrouped.n_edges


def test_edges_that_a_file_leaves_out_are_out_and_not_scored():
    about = json.loads(to_mib(some(), scores_of(SMALL)))
    about["edges"] = {
        "input->logits": {"score": None, "in_graph": True},
        "m1->logits": {"score": math.nan, "in_graph": False},
        "m0->logits": {"score": 2, "in_graph": True},
    }
    circuit, scores = from_mib(SMALL, json.dumps(about))
    assert circuit.names == ["embed -> logits", "L0.mlp -> logits"]
    assert int(scores.notnull().sum()) == 1 and float(scores.sel(reader="logits", writer="L0.mlp")) == 2


def edited(**edges: Any) -> str:
    """A file in which some edges, their names spelt with _ for what no keyword holds, say something else."""
    about = json.loads(to_mib(some()))
    for name, value in edges.items():
        about["edges"][name.replace("__", "->").replace("_", ".")] = value
    return json.dumps(about)


def of_model(**fields: Any) -> str:
    about = json.loads(to_mib(some()))
    cfg = {name: value for name, value in (about["cfg"] | fields).items() if value is not None}
    return json.dumps(about | {"cfg": cfg})


def disagreeing(field: str) -> str:
    about = json.loads(to_mib(some()))
    edge = about["edges"]["m0->a1.h2<k>"]
    edge[field] = not edge[field] if field == "in_graph" else edge[field] + 1
    return json.dumps(about)


@pytest.mark.parametrize(
    ("attempt", "error", "said"),
    [
        (lambda: from_mib(SMALL, "{"), CheckpointError, "no JSON"),
        (lambda: from_mib(SMALL, "{}"), CheckpointError, "no cfg"),
        (lambda: from_mib(SMALL, some().to_json()), CheckpointError, "no JSON of the leaderboard"),
        (lambda: from_mib(SMALL, of_model(n_layers=3)), CheckpointError, r"cfg\['n_layers'\] is 3, and 2 here"),
        (lambda: from_mib(SMALL, of_model(d_model=None)), CheckpointError, r"cfg\['d_model'\] is missing"),
        (lambda: from_mib(SMALL, of_model(parallel_attn_mlp=True)), CheckpointError, "parallel_attn_mlp"),
        (lambda: from_mib(SMALL, edited(m0__logit={})), CheckpointError, "'m0->logit' is no edge.*'logits'"),
        (lambda: from_mib(SMALL, edited(a7_h0__logits={})), CheckpointError, "nothing is called 'a7.h0'"),
        (lambda: from_mib(SMALL, edited(m1__m0={})), CheckpointError, "'m1->m0' is no edge of this model$"),
        (lambda: from_mib(SMALL, edited(nothing={})), CheckpointError, "'nothing' is no edge"),
        (lambda: from_mib(SMALL, edited(m0__m1=True)), CheckpointError, "'m0->m1' says True"),
        (lambda: from_mib(SMALL, edited(m0__m1={"in_graph": 1})), CheckpointError, "true or false"),
        (
            lambda: from_mib(SMALL, edited(m0__m1={"in_graph": True, "score": "1"})),
            CheckpointError,
            "and a score",
        ),
        (
            lambda: from_mib(SMALL, edited(m0__m1={"in_graph": True, "score": math.inf})),
            CheckpointError,
            "that no float holds",
        ),
        (
            lambda: from_mib(SMALL, disagreeing("score")),
            CheckpointError,
            r"'m0->a1.h2<k>' and 'm0->a1.h3<k>' are one edge here, L0.mlp -> L1H1.k",
        ),
        (lambda: from_mib(SMALL, disagreeing("in_graph")), CheckpointError, "one edge here"),
        (lambda: to_mib(some(), scores_of(SMALL).isel(reader=[0, 1])), ConfigError, "are not scored"),
        (lambda: to_mib(some(), scores_of(SMALL, direction="?")), ConfigError, "direction"),
        (
            lambda: to_mib(some(), scores_of(EdgeGraph(n_layers=2, n_heads=4, n_key_value_heads=4, d_model=8))),
            ShapeError,
            "another shape",
        ),
        (
            lambda: to_mib(Subgraph.empty(EdgeGraph(n_layers=1, n_heads=1, n_key_value_heads=1, d_model=1,
                                                    attn_only=True))),
            ConfigError,
            "an MLP in every layer",
        ),
        (
            lambda: from_mib(EdgeGraph(n_layers=1, n_heads=1, n_key_value_heads=1, d_model=1, attn_only=True), "{}"),
            ConfigError,
            "an MLP in every layer",
        ),
    ],
)  # fmt: skip
def test_what_the_two_spellings_cannot_both_say_is_refused(
    attempt: Callable[[], object], error: type[InterpError], said: str
):
    with pytest.raises(error, match=said):
        attempt()


def test_sizes_pass_as_they_are():
    scores = abs(scores_of(SMALL, method="combined"))
    theirs = from_mib(SMALL, to_mib(some(), scores.assign_attrs(scores_of(SMALL, method="combined").attrs)))[1]
    assert Subgraph.top(theirs, 30) == Subgraph.top(scores.assign_attrs(theirs.attrs), 30)
    assert bool((theirs.fillna(1) > 0).all())
