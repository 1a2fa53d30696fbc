"""Completeness and minimality, on a circuit with a backup whose answers are known, and against runs with hooks."""

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from grid import GRID, SEED, build, config
from small import random_circuit
from torch import Tensor

from circuits import Circuit, copy, match, shift
from interp import ConfigError, HookedTransformer, ShapeError
from interp.discovery import OnlyCircuit, Subgraph, completeness, faithfulness, minimality
from interp.discovery.masked import EdgeRuns
from interp.interventions import Zero
from interp.metrics import Function, KLDivergence, LogitDifference

METRIC = LogitDifference(1, 3)
TEXTS = ["!" + "".join(text) for text in random.Random(0).sample([*itertools.product("abc", repeat=5)], 16)]
EVERYWHERE = KLDivergence(pos=None)
EITHER = ["L0H0 -> L1H0.k", "L0H1 -> L1H0.k"]


def with_backup() -> tuple[HookedTransformer, Subgraph]:
    """Induction with two heads that write the word before, of which either alone suffices, and its true edges."""
    c = Circuit("!abc", n_ctx=6, tied=True)
    previous = c.space("previous", c.tok)
    for name in ("one", "other"):
        c.head(0, name, qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, previous), sink=0, sharp=100)
    c.head(1, "induction", qk=match(c.tok, previous), ov=2 * copy(c.tok, c.out), sink=0, sharp=100, gap=1)
    model = c.compile()
    return model, Subgraph.of_names(model, {edge["name"] for *_, edge in model.edges().edges(data=True)})


def small() -> tuple[HookedTransformer, Tensor, Tensor]:
    model = build(config(GRID["learned_ln"], n_layers=2, n_heads=2), SEED)
    clean, corrupted = torch.randint(11, (2, 3, 6), generator=torch.Generator().manual_seed(SEED))
    return model, corrupted, clean


@torch.no_grad()
def by_hooks(model: HookedTransformer, circuit: Subgraph, corrupted: Any, clean: Tensor) -> float:
    with model.intervene(OnlyCircuit(circuit, corrupted)):
        return float(METRIC(model(clean)).mean())


# ---------------------------------------------------------------------- completeness


def test_every_difference_is_that_of_two_runs_with_hooks():
    model, corrupted, clean = small()
    circuit = random_circuit(model, 0.5)
    found = completeness(model, circuit, corrupted, clean, METRIC, samples=1, sizes=(0.2, 0.6))
    whole = Subgraph.whole(model)
    for removed, row in zip(found.removed, range(len(found.removed)), strict=True):
        one = found.table.isel(removed=row)
        left, of_model = (by_hooks(model, each - removed, corrupted, clean) for each in (circuit, whole))
        assert float(one.circuit) == pytest.approx(left, abs=1e-9)
        assert float(one.model) == pytest.approx(of_model, abs=1e-9)
        assert float(one.difference) == pytest.approx(left - of_model, abs=1e-9)
        assert int(one.n_removed) == len(removed)
        assert len(removed - circuit) == 0
    kinds = found.table["kind"].to_numpy().tolist()
    assert kinds[0] == "nothing"
    assert len(found.removed[0]) == 0
    assert kinds[-1] == "circuit"
    assert found.removed[-1] == circuit
    assert [len(k) for k, kind in zip(found.removed, kinds, strict=True) if kind == "random"] == [
        round(size * len(circuit)) for size in (0.2, 0.6)
    ]
    components = [str(name) for name in found.table["name"].to_numpy() if name]
    assert components == circuit.nodes
    head = found.removed[1 + components.index("L1H0")]
    assert all("L1H0" in name for name in head.names)
    assert head.names == [name for name in circuit.names if "L1H0" in name]


def test_a_circuit_without_the_backup_is_faithful_but_not_complete_and_the_worst_set_names_what_it_stands_in_for():
    model, true = with_backup()
    backup = Subgraph.of_names(model, [name for name in true.names if "L0H1" in name])
    assert (completeness(model, true, Zero(), TEXTS, EVERYWHERE).table.difference == 0).sum() > 0
    found = completeness(model, true - backup, Zero(), TEXTS, EVERYWHERE)
    nothing = found.table.isel(removed=0)
    assert abs(float(nothing.difference)) < 1e-3  # faithful as it stands
    assert found.worst is not None
    assert EITHER[0] in found.worst
    kinds = found.table["name"].to_numpy().tolist()
    one = found.table.isel(removed=kinds.index("L0H0"))
    assert abs(float(one.difference)) > 0.05
    assert "worst: Subgraph(" in repr(found)


def test_the_whole_graph_is_complete():
    model, corrupted, clean = small()
    found = completeness(model, Subgraph.whole(model), corrupted, clean, METRIC, samples=1)
    assert (found.table.difference == 0).all()
    assert found.worst is None


def test_intervals_hold_for_all_sets_together_and_say_what_is_noise():
    model, corrupted, clean = small()
    circuit = Subgraph.whole(model) - Subgraph.of_names(model, ["embed -> logits", "embed -> L0.mlp"])
    some = completeness(model, circuit, corrupted, clean, METRIC, samples=1, sizes=(0.5,)).table
    more = completeness(model, circuit, corrupted, clean, METRIC, samples=10, sizes=(0.5,)).table
    widths = [
        table.isel(removed=0).difference_ci_high - table.isel(removed=0).difference_ci_low for table in (some, more)
    ]
    assert float(widths[1]) > float(widths[0])
    outside = (more.difference_ci_low > 0) | (more.difference_ci_high < 0)
    assert (more.decided == outside).all()


# ---------------------------------------------------------------------- minimality


def test_every_effect_is_that_of_two_runs_with_hooks_and_the_largest_of_its_sets():
    model, corrupted, clean = small()
    circuit = Subgraph.of_names(model, ["embed -> logits", "embed -> L0.mlp", "L0.mlp -> logits", "embed -> L1.mlp",
                                        "L1.mlp -> logits", "L0H0 -> logits"])  # fmt: skip
    found = minimality(model, circuit, corrupted, clean, METRIC, samples=2, sizes=(0.3,))
    assert found.table["edge"].to_numpy().tolist() == circuit.names
    for i, edge in enumerate(circuit.names):
        one, removed, itself = found.table.isel(edge=i), found.removed[i], Subgraph.of_names(model, [edge])
        left = circuit - removed
        effect = by_hooks(model, left - itself, corrupted, clean) - by_hooks(model, left, corrupted, clean)
        assert float(one.effect) == pytest.approx(effect, abs=1e-9)
        alone = by_hooks(model, circuit - itself, corrupted, clean) - by_hooks(model, circuit, corrupted, clean)
        same_reader = Subgraph.of_names(model, [name for name in circuit.names if name.split()[-1] == edge.split()[-1]])
        last = by_hooks(model, circuit - same_reader, corrupted, clean) - by_hooks(
            model, circuit - (same_reader - itself), corrupted, clean
        )
        if not one.matters:
            assert abs(effect) >= max(abs(alone), abs(last)) - 1e-9
        assert edge not in removed
        assert int(one.n_removed) == len(removed)


def test_an_edge_with_a_backup_matters_once_the_backup_is_out_and_an_edge_for_nothing_never_does():
    model, true = with_backup()
    idle = "L0H0 -> L1H0.q"  # the head writes what no query reads
    assert idle not in true
    circuit = true | Subgraph.of_names(model, [idle])
    found = minimality(model, circuit, Zero(), TEXTS, EVERYWHERE)
    assert idle in found.idle
    assert not set(true.names) & set(found.idle), found.idle
    ends = faithfulness(
        model, [circuit - Subgraph.of_names(model, [edge]) for edge in EITHER], Zero(), TEXTS, EVERYWHERE
    )
    assert np.allclose(ends.value, 0, atol=1e-6)  # out of the whole circuit, neither of the two makes a difference
    place = found.table["edge"].to_numpy().tolist().index(EITHER[0])
    assert any("L0H1" in name for name in found.removed[place].names)
    assert float(found.table.effect[place]) > 0.05
    counts = len(found.table.edge), int(found.table.matters.sum())
    assert "{} edges: {} matter, 1 have no effect, 0 have effects within noise".format(*counts) in repr(found)


def test_edges_whose_effects_are_within_noise_are_undecided_and_not_called_idle():
    model, corrupted, clean = small()
    found = minimality(model, Subgraph.whole(model), corrupted[:2], clean[:2], METRIC, samples=1, sizes=(0.5,), n=6)
    table = found.table
    assert int(table.undecided.sum()) > 0 and not (table.undecided & table.matters).any()
    assert not {*table["edge"].to_numpy()[table.undecided.to_numpy()]} & {*found.idle}
    assert (table.effect_ci_low < 0)[table.undecided].all() and (table.effect_ci_high > 0)[table.undecided].all()
    assert f"{int(table.undecided.sum())} have effects within noise over 2 prompts" in repr(found)


def test_a_sample_of_edges_can_be_tried_with_a_seed():
    model, true = with_backup()
    some, again, other = (minimality(model, true, Zero(), TEXTS, EVERYWHERE, n=3, seed=s) for s in (1, 1, 2))
    assert some.table.sizes["edge"] == 3
    assert set(some.table["edge"].to_numpy()) <= set(true.names)
    assert some.table.equals(again.table)
    assert some.removed == again.removed
    assert not some.table.equals(other.table)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize("judge", [completeness, minimality])
def test_what_cannot_be_judged_is_refused_before_any_circuit_runs(
    judge: Any, monkeypatch: pytest.MonkeyPatch, as_installed: None
):
    model, corrupted, clean = small()
    monkeypatch.setattr(EdgeRuns, "metrics", lambda self, masks: pytest.fail("a circuit ran"))
    other = build(config(GRID["learned_ln"], n_layers=1), SEED)
    good: dict[str, Any] = {"circuit": Subgraph.whole(model), "metric": METRIC, "corrupted": corrupted, "clean": clean}
    asked: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"circuit": Subgraph.empty(model)}, ConfigError, "at least one edge"),
        ({"circuit": ["embed -> logits"]}, ConfigError, "a Subgraph"),
        ({"circuit": Subgraph.whole(other)}, ShapeError, "another shape"),
        ({"metric": {"a": METRIC}}, ConfigError, "one metric"),
        ({"corrupted": clean}, ConfigError, "equal"),
        ({"samples": 0}, ConfigError, "samples = 0"),
        ({"sizes": (0.5, 1.0)}, ConfigError, "below 1"),
        ({"sizes": ()}, ConfigError, "sizes"),
        ({"sizes": 0.5}, ConfigError, "sizes = 0.5"),
        ({"seed": "one"}, ConfigError, "seed = 'one'"),
        ({"per_prompt": True}, ConfigError, "unknown argument 'per_prompt'"),
    ]
    for given, error, said in asked:
        with pytest.raises(error, match=said):
            judge(model, **good | given)
    if judge is minimality:
        with pytest.raises(ConfigError, match="n = 100"):
            judge(model, **good, n=100)
    model.add_hook(("resid_pre", 0), lambda x, hook: None)
    with pytest.raises(ConfigError, match="has hooks"):
        judge(model, **good)


def test_one_prompt_has_no_intervals_and_is_decided_but_for_rounding():
    model, corrupted, clean = small()
    found = completeness(model, Subgraph.of_names(model, ["embed -> logits"]), corrupted[:1], clean[:1], METRIC)
    assert "difference_ci_low" not in found.table
    assert np.array_equal(
        found.table.decided, abs(found.table.difference) > 1e-6 * (1 + abs(found.table.attrs["baseline"]))
    )
    never = Function(lambda logits: 0 * logits[:, 0, 0] + 1, name="one")
    idle = minimality(model, Subgraph.whole(model), corrupted, clean, never, samples=1, sizes=(0.5,), n=2).idle
    assert len(idle) == 2
