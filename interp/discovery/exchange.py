"""Circuits as JSON: the package's own, and that of the leaderboard for circuits (MIB, Mueller et al. 2025).

The leaderboard's files, which are those of the code of EAP-IG (Hanna et al. 2024), are another spelling of the same
graph, but for three things:

- Keys and values that several heads share are spelt there once for each query head. `to_mib` repeats such an edge for
  every head that reads through it, so that a circuit has more edges there; `from_mib` refuses a file in which these
  heads disagree, as they do in most circuits that other code found in such a model.
- Scores are larger there where an edge counts for more. `to_mib` turns the sign round where scores have the other one.
- `input` is the embedding of tokens alone; here `embed` is that of tokens and positions together. Where the two runs
  have the same positions, that is the same edge.

What is `attribute(model, graph, dataloader, metric, "EAP-IG-inputs", ig_steps=5)` and `graph.apply_topn(n, True)` in
the code of EAP-IG is `edge_scores(model, corrupted, clean, metric, "eap_ig", include="other")` and
`Subgraph.top(scores, n).pruned()` here: its steps hold the corrupted end and not the clean one, and it removes dead
ends. Keys and values that heads share it scores for each head.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from interp.discovery.ranking import IMPORTANCE, importance, labelled
from interp.discovery.subgraph import GraphLike, Subgraph, check_subgraph, graph_of
from interp.errors import CheckpointError, ConfigError, InterpError, ShapeError, describe, did_you_mean
from interp.model import Edge, EdgeGraph, Reader, Writer

if TYPE_CHECKING:
    import xarray

KIND, SCHEMA = "interp.Subgraph", 1


# ---------------------------------------------------------------------- this package's own


def to_json(circuit: Subgraph) -> str:
    """See `Subgraph.to_json`."""
    about = {"kind": KIND, "schema": SCHEMA, "graph": json.loads(circuit.graph.to_json())}
    return json.dumps(about | {"found_by": circuit.found_by, "edges": circuit.names}, ensure_ascii=False)


def from_json(text: str) -> Subgraph:
    """See `Subgraph.from_json`."""
    about = _parsed(text)
    if about.get("kind") != KIND:
        raise CheckpointError(f"this is no saved subgraph: kind is {describe(about.get('kind'))}, not {KIND!r}")
    if type(about.get("schema")) is not int or about["schema"] != SCHEMA:
        raise CheckpointError(f"this has schema {describe(about.get('schema'))}; this version reads {SCHEMA}")
    names, found_by = about.get("edges"), about.get("found_by")
    if not isinstance(names, list) or not isinstance(found_by, str):
        raise CheckpointError("this is no saved subgraph: edges is a list of names, and found_by a text")
    try:
        graph = EdgeGraph.from_json(json.dumps(about.get("graph")))
        circuit = Subgraph.of_names(graph, names, found_by)
    except InterpError as error:
        raise CheckpointError(f"this is no saved subgraph: {error}") from error
    if len(circuit) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CheckpointError(f"this is no saved subgraph: {twice!r} is there twice")
    return circuit


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of an object. Raises `ValueError` for one that is there twice, of which JSON would take the last."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in fields if names.count(name) > 1)!r} is there twice")
    return fields


def _parsed(text: str) -> dict[str, Any]:
    try:
        about = json.loads(text, object_pairs_hook=_distinct)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"this is no JSON: {error}") from error
    if not isinstance(about, dict):
        raise CheckpointError(f"this is JSON of {describe(about)}, not of an object with fields")
    return about


# ---------------------------------------------------------------------- the leaderboard's


def to_mib(circuit: Subgraph, scores: "xarray.DataArray | None" = None) -> str:
    """The circuit as the text of a JSON file of the leaderboard, which the code of EAP-IG reads too.

    Args:
        circuit: its edges are marked `in_graph`, and so are the nodes at their ends. Where heads share keys and values
            more edges are marked than the circuit has, one for each query head.
        scores: of all edges, as `edge_scores` returns them. Without them, since readers of the format ask for numbers,
            edges of the circuit score 1 and all others 0.

    Raises as `score_matrix`; `ConfigError` for a model without MLPs, which the format cannot say, or scores that do not
    cover all edges or do not say what their sign means; `ShapeError` for scores of another shape.
    """
    check_subgraph("circuit", circuit)
    graph = circuit.graph
    _check_has_mlps(graph)
    mask = circuit.mask
    if scores is None:
        matrix = mask.to(torch.float64)
    else:
        theirs, matrix = importance(scores)
        if theirs != graph:
            raise ShapeError("scores are of models of another shape than the circuit")
        if n := int(matrix[graph.edge_mask()].isnan().sum()):
            raise ConfigError(f"{n:,} of {graph.n_edges:,} edges are not scored; the leaderboard takes scores of all")
    inside, values = mask.tolist(), matrix.tolist()
    edges: dict[str, dict[str, Any]] = {}
    ends: set[str] = set()
    for edge in graph.edges():
        writer, reader = graph.numbers[edge.writer], graph.numbers[edge.reader]
        for name, one in _spelt(graph, edge):
            edges[name] = {"score": values[reader][writer], "in_graph": inside[reader][writer]}
            if inside[reader][writer]:
                ends |= {_node(edge.writer), one}
    nodes = [*map(_node, graph.writers), "logits"]
    return json.dumps(
        {"cfg": _cfg(graph), "nodes": {name: {"in_graph": name in ends} for name in nodes}, "edges": edges}
    )


def from_mib(model: GraphLike, text: str, found_by: str = "") -> "tuple[Subgraph, xarray.DataArray]":
    """The circuit and the scores that the leaderboard's JSON holds.

    Args:
        model: whose circuit it is, or its `EdgeGraph`: the file does not say which heads share keys and values.
        text: what the file holds. What it says of nodes follows from its edges and is not read.
        found_by: of the circuit, in words.

    Returns:
        The edges that are `in_graph`, and the scores, larger where an edge counts for more; NaN where none is given.

    Raises `CheckpointError` for other text, a file of a model of other sizes, an unknown edge, or heads that share keys
    or values and disagree; `ConfigError` for a model without MLPs.
    """
    graph = graph_of(model)
    _check_has_mlps(graph)
    about = _parsed(text)
    cfg, edges = about.get("cfg"), about.get("edges")
    if not isinstance(cfg, dict) or not isinstance(edges, dict):
        raise CheckpointError("this is no JSON of the leaderboard: it has no cfg, or no edges")
    for field, value in _cfg(graph).items():
        if cfg.get(field) != value:
            given = describe(cfg[field]) if field in cfg else "missing"
            raise CheckpointError(f"this is of another model: cfg[{field!r}] is {given}, and {value} here")
    spelt = {name: edge for edge in graph.edges() for name, _ in _spelt(graph, edge)}
    if unknown := [name for name in edges if name not in spelt]:
        raise CheckpointError(f"{unknown[0]!r} is no edge of this model{_near(unknown[0], spelt)}")
    mask = torch.zeros_like(graph.edge_mask())
    matrix = torch.full(mask.shape, math.nan, dtype=torch.float64)
    for edge in graph.edges():
        said = {name: _said(name, edges.get(name)) for name, _ in _spelt(graph, edge)}
        (first, told), *others = said.items()
        for name, other in others:
            if other != told:
                raise CheckpointError(
                    f"{first!r} and {name!r} are one edge here, {edge}, and disagree: {told} and {other}"
                )
        place = graph.numbers[edge.reader], graph.numbers[edge.writer]
        mask[place], score = told
        matrix[place] = math.nan if score is None else score
    found_by = found_by or "leaderboard JSON"
    return Subgraph.of_mask(graph, mask, found_by), labelled(graph, matrix, {"method": found_by, "values": IMPORTANCE})


def _check_has_mlps(graph: EdgeGraph) -> None:
    if graph.attn_only:
        raise ConfigError("attn_only = True: the leaderboard's graphs have an MLP in every layer")


def _near(unknown: str, spelt: Iterable[str]) -> str:
    """What is near to an edge's name, end by end: comparing it with all edges would take seconds."""
    pairs = [name.split("->") for name in spelt]
    for end, known in zip(unknown.split("->"), map(set, zip(*pairs, strict=True)), strict=False):
        if end not in known:
            return f": nothing is called {end!r} there{did_you_mean(end, sorted(known))}"
    return ""


def _said(name: str, given: Any) -> tuple[bool, float | None]:
    """Whether an edge is in, and its score; None for NaN, so that equal answers are equal."""
    if given is None:
        return False, None
    inside, score = (given.get("in_graph"), given.get("score")) if isinstance(given, dict) else (None, None)
    if not isinstance(inside, bool) or isinstance(score, bool) or not isinstance(score, int | float | None):
        raise CheckpointError(f"{name!r} says {describe(given)}; an edge has in_graph, true or false, and a score")
    if score is not None and (abs(score) > sys.float_info.max):
        raise CheckpointError(f"{name!r} has a score that no float holds")
    return inside, None if score is None or math.isnan(score) else float(score)


def _cfg(graph: EdgeGraph) -> dict[str, Any]:
    return {name: getattr(graph, name) for name in ("n_layers", "n_heads", "parallel_attn_mlp", "d_model")}


def _node(component: Writer) -> str:
    """What the leaderboard calls a component: "input", "a0.h1" or "m0"."""
    if component.kind == "embed":
        return "input"
    return f"m{component.layer}" if component.head is None else f"a{component.layer}.h{component.head}"


def _spelt(graph: EdgeGraph, edge: Edge) -> Iterator[tuple[str, str]]:
    """What the leaderboard calls an edge, and its end: once for every head that shares the keys or values it feeds."""
    reader: Reader = edge.reader
    if reader.kind == "logits":
        yield f"{_node(edge.writer)}->logits", "logits"
    for component in graph.writes_of(reader):
        end = _node(component)
        yield f"{_node(edge.writer)}->{end}" + (f"<{reader.input}>" if reader.input else ""), end
