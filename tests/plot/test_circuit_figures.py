"""Figures of circuits that were found: what is drawn of them, where it stands, and how they are judged."""

import itertools
import math
import random
from typing import Any

import networkx
import numpy as np
import plotly.graph_objects as go
import pytest
import torch
import xarray
from grid import GRID, SEED, build, config

from circuits import gallery
from interp import ConfigError, ShapeError, discovery
from interp.discovery import Subgraph
from interp.metrics import Logit
from interp.model import EdgeGraph
from interp.plot import figures
from interp.plot.layered import LANE, Link, layered

GRAPH = EdgeGraph(n_layers=4, n_heads=4, n_key_value_heads=2, d_model=8)


def scores_of(graph: EdgeGraph, seed: int = SEED) -> xarray.DataArray:
    there = graph.edge_mask().numpy()
    values = np.where(there, np.random.default_rng(seed).standard_normal(there.shape), math.nan)
    coords = {"reader": list(map(str, graph.readers)), "writer": list(map(str, graph.writers))}
    about = {"graph": graph.to_json(), "method": "eap", "metric": "logit difference", "direction": "noising"}
    return xarray.DataArray(values, coords, ("reader", "writer"), "effect", about)


def traces(figure: Any) -> list[Any]:
    return list(figure.data)


def lines(figure: go.Figure) -> list[Any]:
    return [one for one in traces(figure) if one.mode == "lines"]


def boxes(figure: Any) -> dict[str, Any]:
    return {note.text: note for note in figure.layout.annotations if note.bordercolor}


def heading(figure: Any) -> str:
    return f"{figure.layout.title.text} {figure.layout.title.subtitle.text or ''}"


# ---------------------------------------------------------------------- circuits


def test_a_found_circuit_has_a_line_for_every_edge_between_its_components():
    circuit = Subgraph.top(scores_of(GRAPH), 40)
    figure = figures.circuit(circuit)
    assert set(boxes(figure)) == set(circuit.nodes)
    drawn = circuit.to_networkx()
    assert sorted(one.text[0].split("<br>")[0] for one in lines(figure)) == sorted(
        about["name"].replace(">", "&gt;") for *_, about in drawn.edges(data=True)
    )
    colors = {one.name: one.line.color for one in lines(figure)}
    assert len(set(colors.values())) == len(colors) == len({key for *_, key in drawn.edges(keys=True)})
    assert "Circuit of 40 of" in heading(figure) and "top(40" in heading(figure)


def test_lines_are_as_wide_as_scores_and_dashed_for_the_rarer_sign():
    names = ["embed -> L1H0.q", "L1H0 -> logits", "embed -> logits"]
    scores, circuit = scores_of(GRAPH) * 0, Subgraph.of_names(GRAPH, names)
    scores = scores.assign_attrs(scores_of(GRAPH).attrs)
    for (writer, reader), value in zip((name.split(" -> ") for name in names), (-1.0, -3.0, 2.0), strict=True):
        scores.loc[{"reader": reader, "writer": writer}] = value
    figure = figures.circuit(circuit, scores=scores)
    by_name = {one.text[0].split("<br>")[0].replace("&gt;", ">"): one for one in lines(figure)}
    width = {name: by_name[name].line.width for name in names}
    assert width[names[1]] > width[names[2]] > width[names[0]] > 1
    assert [by_name[name].line.dash for name in names] == ["solid", "solid", "dash"]
    assert "score -3" in by_name[names[1]].text[0]
    assert "dashed: scores above 0" in heading(figure)
    assert {one.line.dash for one in lines(figures.circuit(circuit, scores=-abs(scores)))} == {"solid"}


def test_of_many_edges_the_largest_are_drawn_and_the_rest_is_said():
    scores = scores_of(GRAPH)
    circuit = Subgraph.top(scores, 200)
    figure = figures.circuit(circuit, scores=scores, top_k=25)
    names = {one.text[0].split("<br>")[0].replace("&gt;", ">") for one in lines(figure)}
    assert names == set(Subgraph.top(scores, 25).names)
    assert "drawn: the 25 largest" in heading(figure)
    with pytest.raises(ConfigError, match="200 edges are more than top_k = 60: give scores="):
        figures.circuit(circuit)


def test_dead_ends_are_faint_or_left_out():
    alive = ["embed -> L1H0.q", "L1H0 -> logits"]
    circuit = Subgraph.of_names(GRAPH, [*alive, "embed -> L2H1.q", "L0H3 -> logits"])
    figure = figures.circuit(circuit)
    faint = {one.text[0].split("<br>")[0].replace("&gt;", ">") for one in lines(figure) if one.opacity < 1}
    assert faint == {"embed -> L2H1.q", "L0H3 -> logits"}
    assert "2 dead ends in all, 2 here, faint" in heading(figure)
    figure = figures.circuit(circuit, pruned=True)
    assert set(boxes(figure)) == {"embed", "L1H0", "logits"} and len(lines(figure)) == 2
    assert "2 dead ends left out" in heading(figure)
    lost = figures.circuit(Subgraph.of_names(GRAPH, ["L0H3 -> logits"]))
    assert lines(lost)[0].opacity == 1 and "no edge is on a path" in heading(lost)


def test_layers_go_upwards_and_nothing_stands_on_anything_else():
    for n_edges in (10, 60):
        scores = scores_of(EdgeGraph(n_layers=12, n_heads=6, n_key_value_heads=6, d_model=8))
        figure = figures.circuit(Subgraph.greedy(scores, n_edges), scores=scores)
        at = boxes(figure)
        for one, other in itertools.combinations(at.values(), 2):
            assert abs(one.x - other.x) >= (one.width + other.width) / 2 or abs(one.y - other.y) >= one.height
        for line in lines(figure):
            assert (np.diff(line.y) >= 0).all() and line.y[-1] > line.y[0]
            start, end = line.text[0].split("<br>")[0].replace("&gt;", ">").split(" -> ")
            passed = [note for name, note in at.items() if name not in (start, end.split(".")[0], end)]
            for note in passed:
                inside = (abs(line.x - note.x) < note.width / 2) & (abs(line.y - note.y) < 1)
                assert not inside.any()
        order = sorted(at, key=lambda name: at[name].y)
        layers = [99 if name == "logits" else -1 if name == "embed" else int(name[1:].split("H")[0].split(".")[0])
                  for name in order]  # fmt: skip
        assert layers == sorted(layers)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"top_k": 0}, ConfigError, "top_k = 0"),
        ({"scores": scores_of(EdgeGraph(n_layers=5, n_heads=4, n_key_value_heads=2, d_model=8))}, ShapeError, "shape"),
        ({"scores": scores_of(GRAPH).isel(reader=[0])}, ConfigError, "are not scored"),
    ],
)
def test_what_cannot_be_drawn_of_a_circuit_is_refused(options: dict[str, Any], error: type[Exception], said: str):
    with pytest.raises(error, match=said):
        figures.circuit(Subgraph.top(scores_of(GRAPH), 9), **options)
    with pytest.raises(ConfigError, match="no edges to draw"):
        figures.circuit(Subgraph.empty(GRAPH))
    with pytest.raises(ConfigError, match="no edges to draw, and 1 dead ends"):
        figures.circuit(Subgraph.of_names(GRAPH, ["L0H3 -> logits"]), pruned=True)
    built = networkx.MultiDiGraph([("a", "b")])
    with pytest.raises(ConfigError, match="for a Subgraph"):
        figures.circuit(built, pruned=True)


def test_an_edge_that_does_not_lead_upwards_is_refused():
    built = networkx.MultiDiGraph()
    built.add_node("a", layer=1)
    built.add_node("b", layer=1)
    built.add_edge("a", "b", key="Q")
    with pytest.raises(ConfigError, match="later layer"):
        figures.circuit(built)


def test_layers_are_put_in_an_order_without_crossings_where_there_is_one():
    draw = random.Random(SEED)
    for _ in range(5):
        levels = [[f"{level}.{i}" for i in draw.sample(range(6), 6)] for level in range(4)]
        links = [Link(f"{level}.{i}", f"{level + 1}.{i}") for level in range(3) for i in range(6)]
        links += [Link(f"0.{i}", f"3.{i}") for i in range(6)]
        at, lanes = layered(levels, links, dict.fromkeys((node for level in levels for node in level), 40))
        for i, j in itertools.combinations(range(6), 2):
            signs = {at[f"{level}.{i}"] < at[f"{level}.{j}"] for level in range(4)}
            assert len(signs) == 1
        assert all(abs(a - b) >= LANE - 1e-6 for a, b in itertools.combinations([lane[1] for lane in lanes[18:]], 2))


# ---------------------------------------------------------------------- judging


def judged(by: str | None = "absolute", **attrs: Any) -> xarray.Dataset:
    """Curves as `faithfulness_curve` returns them."""
    size, methods = [0.001, 0.01, 0.1, 1.0], ["eap", "<b>", "random", "full model"]
    draw = np.random.default_rng(SEED)
    values = np.cumsum(draw.random((4, 4)), axis=1) / 4
    values[3] = 1
    cell = ("scores", "size")
    found = xarray.Dataset(
        {
            "faithfulness": (cell, values),
            "faithfulness_ci_low": (cell, values - 0.1),
            "faithfulness_ci_high": (cell, values + 0.2),
            "n_edges": (cell, np.tile([3, 30, 300, 3000], (4, 1))),
            "n_pruned": (cell, np.tile([0, 10, 300, 3000], (4, 1))),
            "cmd": ("scores", [0.1, 0.2, 0.3, 0.0]),
            "log_cmd": ("scores", [0.4, 0.5, 0.6, 0.0]),
        },
        coords={"scores": methods, "size": size},
        attrs={"metric": "logit difference", "direction": "noising", "n": 5, "ratio": "of means", "ablation": "none",
               "confidence": 0.9, "ranking": "greedy"} | attrs,
    )  # fmt: skip
    if by is None:
        return found
    more = xarray.DataArray([0.0, 1.0], {"by": ["absolute", "signed"]}, "by")
    cells = {
        str(name): more * (name == "faithfulness") + values for name, values in found.items() if "size" in values.dims
    }
    return found.assign(cells)


def test_a_curve_of_faithfulness_has_a_line_for_every_method_on_a_logarithmic_axis():
    curves = judged()
    figure = figures.faithfulness(curves)
    drawn = {one.name: one for one in traces(figure)}
    assert list(drawn) == ["eap (CMD 0.100, log 0.400)", "&lt;b&gt; (CMD 0.200, log 0.500)",
                           "random (CMD 0.300, log 0.600)"]  # fmt: skip
    assert figure.layout.xaxis.type == "log" and list(figure.layout.xaxis.tickvals) == [0.001, 0.01, 0.1, 1.0]
    eap, grey = (drawn[name] for name in list(drawn)[::2])
    np.testing.assert_allclose(eap.y, curves["faithfulness"].sel({"scores": "eap", "by": "absolute"}), rtol=1e-6)
    np.testing.assert_allclose(eap.error_y.array, [0.2] * 4)
    np.testing.assert_allclose(eap.error_y.arrayminus, [0.1] * 4)
    assert "30 edges, 10 without dead ends" in eap.text[1]
    assert grey.line.dash == "dot" and grey.line.color not in figures.COLORS
    assert {line.y0 for line in figure.layout.shapes} == {0, 1}
    assert {"full model", "empty circuit"} <= {note.text for note in figure.layout.annotations}
    said = heading(figure)
    for part in ("logit difference, noising", "5 prompts", "ratio of means", "greedy edges by absolute", "90 % interv"):
        assert part in said


def test_a_curve_that_was_run_is_drawn():
    model = build(config(GRID["learned_ln"], n_layers=1), SEED)
    clean, corrupted = torch.randint(model.cfg.d_vocab, (2, 1, 5), generator=torch.Generator().manual_seed(SEED))
    scores = discovery.edge_scores(model, corrupted, clean, Logit(1), "eap", probe=0, progress=False)
    curves = discovery.faithfulness_curve(model, corrupted, clean, Logit(1), scores, fractions=(0.1, 0.5, 1.0))
    for by, area in (("absolute", "CMD"), ("signed", "CPR")):
        drawn = traces(figures.faithfulness(curves, by=by))
        assert [one.name.split()[0] for one in drawn] == ["eap", "random"]
        assert area in drawn[0].name
        np.testing.assert_allclose(drawn[0].y, curves["faithfulness"].sel(scores="eap", by=by), rtol=1e-6)


def test_the_ranking_and_the_metric_of_a_curve_can_be_chosen():
    curves = judged()
    signed = figures.faithfulness(curves, by="signed")
    assert traces(signed)[0].name == "eap"
    np.testing.assert_allclose(
        traces(signed)[0].y, curves["faithfulness"].sel({"scores": "eap", "by": "signed"}), rtol=1e-6
    )
    assert len(traces(figures.faithfulness(judged(None)))) == 3
    several = xarray.concat([judged(), judged() * 2], "metric").assign_coords(metric=["a", "b"])
    np.testing.assert_allclose(
        traces(figures.faithfulness(several, "b"))[0].y, 2 * traces(figures.faithfulness(several, "a"))[0].y
    )
    without = judged(None)
    without["faithfulness"].loc[{"scores": "eap"}] = math.nan
    assert [one.name[:3] for one in traces(figures.faithfulness(without))] == ["&lt", "ran"]
    prompts = judged(None).expand_dims(prompt=2)
    np.testing.assert_allclose(traces(figures.faithfulness(prompts))[0].y,
                               traces(figures.faithfulness(judged(None)))[0].y)  # fmt: skip
    with pytest.raises(ConfigError, match="metric = None; allowed: a, b"):
        figures.faithfulness(several)
    with pytest.raises(ConfigError, match="did you mean 'signed'"):
        figures.faithfulness(curves, by="sigend")
    with pytest.raises(ConfigError, match="no axis 'metric'"):
        figures.faithfulness(curves, "a")
    for wrong in (curves["faithfulness"], torch.zeros(2), judged(None).isel(size=0)):
        with pytest.raises(ConfigError, match="faithfulness_curve"):
            figures.faithfulness(wrong)  # pyright: ignore[reportArgumentType]


def test_what_edges_feed_is_written_beside_them_and_not_over_another_word():
    for name in ("dyck2", "sort", "addition_2"):
        figure: Any = figures.circuit(gallery.entries()[name].build())
        words = [note for note in figure.layout.annotations if not note.showarrow and not note.bordercolor]
        assert len(words) > 8
        for one, other in itertools.combinations(words, 2):
            assert abs(one.x - other.x) > 7 or abs(one.y - other.y) > 14, (name, one.text, other.text)


def test_a_node_that_is_called_by_many_parts_keeps_its_own_name():
    figure: Any = figures.circuit(gallery.entries()["dyck2"].build())
    assert any(note.text.startswith("depth at 0") and note.text.endswith("… (L0.mlp)")
               for note in figure.layout.annotations)  # fmt: skip
