"""From scores to circuits and back to runs, on one small model."""

import pytest
import torch
from grid import GRID, SEED, assert_close, build, config

from interp import ConfigError
from interp.discovery import OnlyCircuit, Subgraph, edge_scores, from_mib, to_mib
from interp.interventions import Zero
from interp.metrics import KLDivergence, LogitDifference
from interp.plot import figures

METRIC = LogitDifference((1, 2, 0), (3, 4, 5))
MODEL = build(config(GRID["rotary_rms_gated_grouped"]), SEED)
GENERATOR = torch.Generator().manual_seed(SEED)
CLEAN, CORRUPTED = torch.randint(MODEL.cfg.d_vocab, (2, 3, 6), generator=GENERATOR)


def test_an_exact_score_is_what_leaving_one_edge_out_does():
    scores = edge_scores(MODEL, CORRUPTED, CLEAN, METRIC, "exact", progress=False)
    whole = Subgraph.whole(MODEL)
    for name in Subgraph.top(scores, 4).names:
        writer, reader = name.split(" -> ")
        with torch.no_grad(), MODEL.intervene(OnlyCircuit(whole - Subgraph.of_names(MODEL, [name]), CORRUPTED)):
            change = METRIC(MODEL(CLEAN)).mean()
        change = change - METRIC(MODEL(CLEAN)).mean()
        assert_close(change, torch.tensor(float(scores.sel(reader=reader, writer=writer)), dtype=torch.float64))


@pytest.mark.apart
def test_scores_of_every_kind_make_circuits_files_and_figures():
    metrics = {"difference": METRIC, "divergence": KLDivergence()}
    several = edge_scores(MODEL, CORRUPTED, CLEAN, metrics, "eap_ig", probe=0, progress=False)
    one = several.sel(metric="difference")
    alone = edge_scores(MODEL, CORRUPTED, CLEAN, METRIC, "eap_ig", probe=0, progress=False)
    assert Subgraph.top(one, 30) == Subgraph.top(alone, 30)
    by_prompt = edge_scores(MODEL, CORRUPTED, CLEAN, METRIC, "eap_ig", probe=0, progress=False, per_prompt=True)
    assert Subgraph.top(by_prompt.mean("prompt", keep_attrs=True), 30) == Subgraph.top(alone, 30)
    zero = edge_scores(MODEL, Zero(), CLEAN, METRIC, "eap", probe=0, progress=False)
    assert len(Subgraph.greedy(zero, 30, by="signed").pruned()) <= 30
    sizes = edge_scores(MODEL, CORRUPTED, CLEAN, METRIC, "combined", probe=0, progress=False)
    with pytest.raises(ConfigError, match="without a sign"):
        Subgraph.top(sizes, 3, by="signed")
    for scores in (one, alone, zero, sizes):
        circuit = Subgraph.top(scores, 30)
        assert from_mib(MODEL, to_mib(circuit))[0] == Subgraph.from_json(circuit.to_json()) == circuit
    drawn = figures.circuit(Subgraph.top(sizes, 10), scores=sizes)
    assert "of combined" in str(drawn.to_json())
    assert Subgraph.top(one, 3).found_by == "top(3, by='absolute') of eap_ig, difference, noising"


@pytest.mark.apart
def test_by_sign_those_edges_come_first_that_move_the_metric_to_the_other_runs():
    for direction in ("noising", "denoising"):
        for metric in (METRIC, LogitDifference((3, 4, 5), (1, 2, 0))):
            options = {"direction": direction, "probe": 0, "progress": False}
            scores = edge_scores(MODEL, CORRUPTED, CLEAN, metric, "exact", **options)
            rise = 1 if scores.attrs["target"] > scores.attrs["baseline"] else -1
            first = Subgraph.top(scores, 5, by="signed")
            found = [rise * float(scores.sel(reader=str(e.reader), writer=str(e.writer))) for e in first]
            assert min(found) >= sorted((rise * scores).to_numpy()[first.graph.edge_mask().numpy()])[-5] > 0
            share = edge_scores(MODEL, CORRUPTED, CLEAN, metric, "exact", normalize=True, **options)
            assert Subgraph.top(share, 5, by="signed") == first
