"""ACDC: the same edges as its plain loop, and its two known limits; `test_gallery_edges.py` has the gallery."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import GRID, SEED, build, config
from small import prompts
from torch import Tensor

from circuits import Circuit, copy, match, shift
from interp import CheckpointError, ConfigError, HookedTransformer, ShapeError, discovery
from interp.discovery import OnlyCircuit, Subgraph
from interp.discovery.masked import EdgeRuns
from interp.interventions import Mean, Zero
from interp.metrics import KLDivergence, LogitDifference
from interp.model import EdgeGraph
from interp.patching import Settings

METRIC = LogitDifference((1, 2, 0), (3, 4, 5))
acdc: Any = discovery.acdc  # given words from lists, and what is no argument


def small(name: str = "learned_ln", seed: int = SEED) -> HookedTransformer:
    alike = {"window_size": None, "rotary_base": 10_000.0, "rotary_scaling": None} if name == "gemma_like" else {}
    return build(config(GRID[name], n_layers=2, n_heads=2, **alike), seed)


def plain_loop(
    model: HookedTransformer,
    corrupted: Any,
    clean: Tensor,
    metric: Any,
    threshold: float,
    grows: bool,
    forward: bool = False,
) -> Subgraph:
    """Algorithm 1 of Conmy et al. 2023 as it is printed, a run with hooks for every edge."""

    other = model.run_with_cache(corrupted)[1] if isinstance(corrupted, Tensor) else corrupted

    def value(circuit: Subgraph) -> float:
        with torch.no_grad(), model.intervene(OnlyCircuit(circuit, other)):
            return float(metric(model(clean)).mean())

    graph = EdgeGraph.of(model)
    circuit = Subgraph.whole(graph)
    now = value(circuit)
    for reader in reversed(graph.readers):
        writers = graph.writers_of(reader)
        for writer in writers if forward else reversed(writers):
            without = circuit - Subgraph.of_names(graph, [f"{writer} -> {reader}"])
            then = value(without)
            if (then - now if grows else abs(then - now)) < threshold:
                circuit, now = without, then
    return circuit


def threshold_of(model: HookedTransformer, corrupted: Tensor, clean: Tensor, share: float) -> float:
    """A threshold that so large a share of the edges, each dropped alone, stays below."""
    runs = EdgeRuns.of(model, corrupted, clean, METRIC, Settings())
    places = runs.graph.edge_mask().nonzero()
    masks = torch.zeros(len(places), *runs.graph.edge_mask().shape)
    masks[torch.arange(len(places)), places[:, 0], places[:, 1]] = 1
    effects = (runs.metrics(masks) - runs.measured.baseline[:, None])[0].mean(dim=1)
    sizes = effects.abs().sort().values
    n_below = int(share * len(sizes))
    return float(sizes[n_below - 1 : n_below + 1].mean())  # between two of them, so that rounding decides nothing


def acdc_warned(expected: Subgraph, *args: Any, **options: Any) -> Subgraph:
    """What `acdc` finds, with its warning where what is expected is empty, which random models decide."""
    with nullcontext() if len(expected) else pytest.warns(UserWarning, match="keeps no edge"):
        return acdc(*args, **options)


# ---------------------------------------------------------------------- equal to the plain loop


OTHERS = ["learned_ln", "rotary_rms_gated_grouped", "gemma_like"]


@pytest.mark.parametrize(
    "name", ["parallel_no_norm_one_key", *(pytest.param(name, marks=pytest.mark.apart) for name in OTHERS)]
)
def test_it_finds_what_the_plain_loop_finds_whatever_the_threshold_and_the_batch(name: str):
    model = small(name)
    corrupted, clean = prompts(model)
    sizes = set()
    for share in (0.3, 0.8):
        threshold = threshold_of(model, corrupted, clean, share)
        expected = plain_loop(model, corrupted, clean, METRIC, threshold, grows=False)
        sizes.add(len(expected))
        for batch_size in (None, 1, 3):
            found = acdc_warned(expected, model, corrupted, clean, METRIC, threshold=threshold, batch_size=batch_size)
            assert found == expected, (share, batch_size, found, expected)
    assert len(sizes) == 2 and max(sizes) < EdgeGraph.of(model).n_edges  # the thresholds decide


@pytest.mark.apart
def test_a_divergence_decides_by_how_much_it_grows_and_other_metrics_by_how_far_they_move():
    model = small()
    corrupted, clean = prompts(model)
    divergence = KLDivergence(model(clean).detach(), pos=None)
    for metric, change in ((divergence, None), (divergence, "absolute"), (METRIC, "growth"), (METRIC, None)):
        grows = change == "growth" or (change is None and metric is divergence)
        expected = plain_loop(model, corrupted, clean, metric, 0.01, grows)
        assert acdc_warned(expected, model, corrupted, clean, metric, threshold=0.01, change=change) == expected


@pytest.mark.apart
@pytest.mark.filterwarnings("ignore:threshold = .* keeps no edge")  # which random models decide
def test_other_orders_of_writers_are_those_of_the_plain_loop_or_seeded():
    model = small()
    corrupted, clean = prompts(model)
    threshold = threshold_of(model, corrupted, clean, 0.5)
    expected = plain_loop(model, corrupted, clean, METRIC, threshold, grows=False, forward=True)
    assert acdc_warned(expected, model, corrupted, clean, METRIC, threshold=threshold, order="forward") == expected
    shuffled = [acdc(model, corrupted, clean, METRIC, threshold=threshold, order="shuffled", seed=s) for s in (1, 1, 2)]
    assert shuffled[0] == shuffled[1]
    assert "shuffled" in shuffled[0].found_by


@pytest.mark.apart
def test_what_is_written_in_place_of_dropped_edges_can_be_zero_or_a_mean():
    model = small("rotary_rms_gated_grouped")
    corrupted, clean = prompts(model)
    _, cache = model.run_with_cache(corrupted)
    for ablation in (Zero(), Mean(cache)):
        expected = plain_loop(model, ablation, clean, METRIC, 0.05, grows=False)
        found = acdc_warned(expected, model, ablation, clean, METRIC, threshold=0.05)
        assert found == expected
        assert f"{type(ablation).__name__.lower()} ablation" in found.found_by


@pytest.mark.apart
def test_denoising_drops_edges_of_the_corrupted_run():
    model = small()
    corrupted, clean = prompts(model)
    expected = plain_loop(model, clean, corrupted, METRIC, 0.05, grows=False)
    found = acdc_warned(expected, model, corrupted, clean, METRIC, threshold=0.05, direction="denoising")
    assert found == expected


def test_a_threshold_of_0_keeps_every_edge_that_moves_the_metric_and_a_huge_one_none():
    model = small()
    corrupted, clean = prompts(model)
    assert acdc(model, corrupted, clean, METRIC, threshold=0) == Subgraph.whole(model)
    with pytest.warns(UserWarning, match=r"threshold = 1e\+06 keeps no edge: .* the metric from"):
        assert acdc(model, corrupted, clean, METRIC, threshold=1e6) == Subgraph.empty(model)


def test_what_leads_nowhere_is_dropped_without_a_run(monkeypatch: pytest.MonkeyPatch):
    model, asked = small(), list[int]()
    corrupted, clean = prompts(model)
    metrics = EdgeRuns.metrics
    monkeypatch.setattr(EdgeRuns, "metrics", lambda self, masks: asked.append(len(masks)) or metrics(self, masks))
    with pytest.warns(UserWarning, match="keeps no edge"):
        found = acdc(model, corrupted, clean, METRIC, threshold=1e6)
    assert sum(asked) == EdgeGraph.of(model).n_writers_of(EdgeGraph.of(model).readers[-1])  # those of the logits alone
    assert f"in {sum(asked)} runs" in found.found_by
    with pytest.warns(UserWarning, match="keeps no edge"):
        of_one = acdc(model, corrupted[:1], clean[:1], threshold=1e6)
    assert f", {len(clean)} prompts;" in found.found_by and ", 1 prompt;" in of_one.found_by


@pytest.mark.apart
def test_heads_that_nothing_reads_move_a_bias_that_passes_their_norm():
    model = small("gemma_like", seed=33)  # of which heads of the last layer matter by that alone
    corrupted, clean = prompts(model, 33)
    expected = plain_loop(model, corrupted, clean, METRIC, 0.3, grows=False)
    assert acdc(model, corrupted, clean, METRIC, threshold=0.3) == expected
    with torch.no_grad():
        for block in model.blocks:
            block.attn.b_O.zero_()
    with pytest.warns(UserWarning, match="keeps no edge"):
        found = acdc(model, corrupted, clean, METRIC, threshold=1e6)
    assert found == Subgraph.empty(model)
    assert f"{EdgeGraph.of(model).n_writers_of(EdgeGraph.of(model).readers[-1])} edges tried" in found.found_by


# ---------------------------------------------------------------------- hand-built circuits


def two_heads_that_stand_in_for_each_other() -> Circuit:
    """An OR: both write the word before into one space, and either alone saturates the pattern that reads it."""
    c = Circuit("!abc", n_ctx=6, tied=True)
    previous = c.space("previous", c.tok)
    for name in ("one", "other"):
        c.head(0, name, qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, previous), sink=0, sharp=100)
    c.head(1, "induction", qk=match(c.tok, previous), ov=2 * copy(c.tok, c.out), sink=0, sharp=100, gap=1)
    return c


def test_of_two_edges_that_stand_in_for_each_other_it_sees_one_and_the_order_says_which():
    circuit = two_heads_that_stand_in_for_each_other()
    model, texts = circuit.compile(), ["!abacb", "!cacba"]
    either = {"L0H0 -> L1H0.k", "L0H1 -> L1H0.k"}
    declared = {edge["name"] for *_, edge in model.edges().edges(data=True)}
    assert either < declared
    found = {
        order: set(acdc(model, Zero(), texts, KLDivergence(pos=None), threshold=1e-3, order=order).names)
        for order in ("reversed", "forward")
    }
    assert found["reversed"] & either == {"L0H0 -> L1H0.k"}
    assert found["forward"] & either == {"L0H1 -> L1H0.k"}
    assert not {name for name in found["reversed"] if "L0H1" in name}  # and with the edge goes all that leads into it


# ---------------------------------------------------------------------- long work


class Interrupted(Exception):
    pass


@pytest.mark.apart
@pytest.mark.filterwarnings("ignore:threshold = .* keeps no edge")  # which random models decide
def test_a_search_goes_on_from_its_file_with_any_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = small()
    corrupted, clean = prompts(model)
    threshold = threshold_of(model, corrupted, clean, 0.3)
    metrics, allowed, ran = EdgeRuns.metrics, 10_000, 0

    def counted(self: EdgeRuns, masks: Tensor) -> Tensor:
        nonlocal ran
        if ran + len(masks) > allowed:
            raise Interrupted
        ran += len(masks)
        return metrics(self, masks)

    monkeypatch.setattr(EdgeRuns, "metrics", counted)
    expected = acdc(model, corrupted, clean, METRIC, threshold=threshold, batch_size=1)
    whole = ran
    for first, then in ((1, 1), (3, 1), (1, 4)):
        file, allowed, ran = tmp_path / f"{first}_{then}.safetensors", whole // 2, 0
        with pytest.raises(Interrupted):
            acdc(model, corrupted, clean, METRIC, threshold=threshold, batch_size=first, checkpoint=file)
        allowed = 10_000
        again = acdc(model, corrupted, clean, METRIC, threshold=threshold, batch_size=then, checkpoint=file)
        assert again == expected
        assert ran == whole or max(first, then) > 1  # one by one, no edge is run twice
        ran = 0
        assert acdc(model, corrupted, clean, METRIC, threshold=threshold, checkpoint=file) == expected
        assert ran == 0
    others: list[dict[str, Any]] = [{"threshold": 2 * threshold}, {"order": "forward"}, {"change": "growth"}]
    for other in (*others, {"norms": "frozen"}, {"positions": -1}):
        with pytest.raises(CheckpointError, match="another"):
            acdc(model, corrupted, clean, METRIC, **{"threshold": threshold, "checkpoint": file} | other)


# ---------------------------------------------------------------------- bad input


def test_what_it_cannot_do_is_refused_before_any_edge_is_tried(monkeypatch: pytest.MonkeyPatch, as_installed: None):
    model = small()
    corrupted, clean = prompts(model)
    monkeypatch.setattr(EdgeRuns, "metrics", lambda self, masks: pytest.fail("an edge was tried"))
    good: dict[str, Any] = {"corrupted": corrupted, "clean": clean, "metric": METRIC, "threshold": 0.1}
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"threshold": -0.1}, ConfigError, "threshold = -0.1"),
        ({"threshold": float("nan")}, ConfigError, "threshold = nan"),
        ({"threshold": float("inf")}, ConfigError, "threshold = inf"),
        ({"threshold": "small"}, ConfigError, "threshold"),
        ({"order": "reverse"}, ConfigError, "did you mean 'reversed'"),
        ({"change": "grows"}, ConfigError, "growth"),
        ({"batch_size": 0}, ConfigError, "batch_size = 0"),
        ({"seed": "a"}, ConfigError, "seed = 'a'"),
        ({"metric": {"a": METRIC}}, ConfigError, "one metric"),
        ({"corrupted": clean}, ConfigError, "equal"),
        ({"corrupted": corrupted[:, :-1]}, ShapeError, "positions must correspond"),
        ({"confidence": 0.9}, ConfigError, "unknown argument 'confidence'"),
        ({"tau": 0.1}, ConfigError, "unknown argument 'tau'"),
    ]
    for given, error, said in refused:
        with pytest.raises(error, match=said):
            acdc(model, **good | given)
    model.add_hook(("resid_pre", 0), lambda x, hook: None)
    with pytest.raises(ConfigError, match="has hooks"):
        acdc(model, **good)
