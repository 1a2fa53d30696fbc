"""Scores and circuits beside edges that are known."""

import itertools
import math
import random

import networkx
import numpy as np
import pytest
import xarray

from circuits.gallery import entry
from interp import ConfigError, HookNotFoundError, ShapeError, TransformerConfig
from interp.discovery import Subgraph, auroc, hit, precision_recall
from interp.model import EdgeGraph

GRAPH = EdgeGraph.of(TransformerConfig(n_layers=2, d_model=4, n_ctx=4, d_vocab=5, n_heads=2, attn_only=True))
NAMES = [str(edge) for edge in GRAPH]


def scores_of(values: dict[str, float], rest: float = math.nan, graph: EdgeGraph = GRAPH) -> xarray.DataArray:
    """Scores by name; all other edges have `rest`."""
    found = np.full((len(graph.readers), len(graph.writers)), math.nan)
    for edge in graph:
        found[graph.numbers[edge.reader], graph.numbers[edge.writer]] = values.get(str(edge), rest)
    coords = {"reader": list(map(str, graph.readers)), "writer": list(map(str, graph.writers))}
    return xarray.DataArray(found, coords, ("reader", "writer"), attrs={"graph": graph.to_json()})


def known(*names: str) -> Subgraph:
    return Subgraph.of_names(GRAPH, names)


def test_auroc_is_the_share_of_pairs_in_which_the_known_edge_scores_more_and_ties_count_half():
    draw = random.Random(0)
    for _ in range(20):
        values = {name: draw.choice([-3.0, -1.0, 0.0, 1.0, 2.0]) for name in NAMES}
        true = draw.sample(NAMES, draw.randint(1, len(NAMES) - 1))
        pairs = list(itertools.product(true, set(NAMES) - set(true)))
        won = [np.sign(abs(values[a]) - abs(values[b])) / 2 + 0.5 for a, b in pairs]
        assert auroc(scores_of(values), known(*true)) == pytest.approx(np.mean(won), abs=1e-12)


def test_scores_that_differ_by_rounding_alone_are_ties():
    true, other = NAMES[:3], NAMES[3:]
    values = {true[0]: 5.0, true[1]: 0.0, true[2]: 0.0}
    for noise in (0.0, 1e-40, 4.9e-6):  # the largest is 5
        assert auroc(scores_of(values, noise), known(*true)) == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert auroc(scores_of(values, 5.1e-6), known(*true)) == pytest.approx(1 / 3)
    assert auroc(scores_of({}, 0.0), known(*other)) == 0.5


def test_edges_without_a_score_are_left_out():
    values = {NAMES[0]: 1.0, NAMES[1]: 2.0, NAMES[2]: 3.0}
    assert auroc(scores_of(values), known(*NAMES[2:])) == 1
    assert auroc(scores_of(values), known(NAMES[0], NAMES[5])) == 0
    part = scores_of({}, 1.0).sel(reader=["L1H0.q", "logits"], writer=["L0H1", "embed"])  # of some, in another order
    part.loc["logits", "L0H1"] = 2
    assert auroc(part, known("L0H1 -> logits", "L0H0 -> logits")) == 1


def test_a_hit_is_a_score_above_a_tenth_of_the_effect_and_edges_without_an_effect_are_left_out():
    one, two, three, four, *_ = NAMES
    exact = scores_of({one: -2.0, two: 1.0, three: 1e-7, four: 0.0}, 0.0)
    true = known(one, two, three, four)
    assert hit(exact, exact, true) == 1  # of `one` and `two`: the other two have no effect
    assert hit(scores_of({one: 0.21, two: 0.1}, 0.0), exact, true) == 0.5  # not two: it is not *over* a tenth
    assert hit(scores_of({three: 9.0, four: 9.0}, 9.0), exact, true) == 1
    assert hit(scores_of({three: 9.0, four: 9.0}, 0.0), exact, true) == 0
    with pytest.raises(ConfigError, match="no known edge has an effect"):
        hit(exact, exact, known(three, four))


def test_precision_and_recall_count_edges():
    found, true = known(*NAMES[:4]), known(*NAMES[3:5])
    assert precision_recall(found, true) == (0.25, 0.5)
    assert precision_recall(true, true) == (1, 1)
    precision, recall = precision_recall(known(), true)
    assert math.isnan(precision) and recall == 0


def test_known_edges_may_be_what_a_circuit_declares():
    for name in ("backoff", "ioi", "dyck1"):
        circuit = entry(name).build()
        graph = EdgeGraph.of(circuit.compile())
        declared = circuit.edges()
        names = [name for *_, name in declared.edges(data="name")]
        same = Subgraph.of_names(graph, names)
        assert precision_recall(same, declared) == (1, 1)
        assert precision_recall(Subgraph.whole(graph), declared) == (len(names) / len(graph), 1)
        scores = scores_of(dict.fromkeys(names, 1.0), 0.5, graph)
        assert auroc(scores, declared) == auroc(scores, same) == hit(scores, scores, declared) == 1


def test_what_cannot_be_compared_is_refused():
    scores = scores_of({}, 1.0)
    other = EdgeGraph.of(TransformerConfig(n_layers=1, d_model=4, n_ctx=4, d_vocab=5, n_heads=2))
    nameless, misspelt = networkx.MultiDiGraph([("embed", "logits")]), networkx.MultiDiGraph()
    misspelt.add_edge("embed", "L9H0", name="embed -> L9H0.q")
    for measure in (auroc, lambda scores, edges: hit(scores, scores, edges)):
        with pytest.raises(ShapeError, match="another shape"):
            measure(scores, Subgraph.whole(other))
        with pytest.raises(HookNotFoundError, match="L9H0"):
            measure(scores, misspelt)
        with pytest.raises(ConfigError, match="no name"):
            measure(scores, nameless)
        with pytest.raises(ConfigError, match="are none"):
            measure(scores, known())
        with pytest.raises(ConfigError, match="no edge has a score"):
            measure(scores_of({}), known(NAMES[0]))
        with pytest.raises(ShapeError, match="prompt"):
            measure(xarray.concat([scores, scores], "prompt"), known(NAMES[0]))
    for true in (Subgraph.whole(GRAPH), known(NAMES[0])):
        with pytest.raises(ConfigError, match="there must be both"):
            auroc(scores_of(dict.fromkeys(NAMES[1:], 1.0) | {NAMES[0]: math.nan}), true)
    with pytest.raises(ConfigError, match="different edges"):
        hit(scores, scores_of({NAMES[0]: 1.0}), known(NAMES[0]))


@pytest.mark.usefixtures("as_installed")
def test_known_edges_of_another_kind_are_refused():
    with pytest.raises(ConfigError, match=r"allowed: a Subgraph, or what Circuit\.edges\(\) gives"):
        auroc(scores_of({}, 1.0), NAMES)  # pyright: ignore[reportArgumentType]
