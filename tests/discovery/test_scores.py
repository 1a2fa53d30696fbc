"""Scores of edges and nodes as results: what they say of themselves, what interrupts them, and what they refuse."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grid import GRID, build, config, random_tokens

from interp import CheckpointError, ConfigError, HookedTransformer, HookNotFoundError, ShapeError
from interp.discovery import EdgeRuns, Subgraph, edge_scores, node_scores
from interp.interventions import Mean, Resample, Zero
from interp.metrics import KLDivergence, LogitDifference, Rank
from interp.model import EdgeGraph
from interp.patching import Settings, sweep

METRIC = LogitDifference(3, 7)
NAMES = ["learned_ln", "rotary_rms_gated_grouped", "partial_rotary_parallel", "shortformer_attn_only"]


def pair(model: HookedTransformer, seed: int = 0, batch: int = 2, n: int = 5, same: int = 2) -> tuple[Any, Any]:
    """A corrupted and a clean batch that share their first tokens."""
    corrupted, clean = (random_tokens(model.cfg, seed + i, batch, n) for i in range(2))
    corrupted[:, :same] = clean[:, :same]
    corrupted[:, same] = (clean[:, same] + 1) % model.cfg.d_vocab
    return corrupted, clean


def scored(model: HookedTransformer, method: Any = "exact", seed: int = 0, **options: Any) -> Any:
    corrupted, clean = pair(model, seed)
    given: dict[str, Any] = {"probe": 0, "progress": False, **options}
    return edge_scores(model, corrupted, clean, METRIC, method, **given)


@pytest.fixture
def model() -> HookedTransformer:
    return build(config(GRID["rotary_rms_gated_grouped"]), seed=1)


# ---------------------------------------------------------------------- what is computed


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norms", ["live", "frozen"])
def test_an_exact_effect_is_that_of_a_masked_run_at_chosen_positions_and_with_frozen_norms(name: str, norms: Any):
    model = build(config(GRID[name]), seed=2)
    corrupted, clean = pair(model, seed=3)
    for positions in (None, [-1, 2]):
        options = {"norms": norms, "positions": positions}
        exact = edge_scores(model, corrupted, clean, METRIC, "exact", per_prompt=True, progress=False, **options)
        runs = EdgeRuns.of(model, corrupted, clean, METRIC, Settings(), **options)
        edges = runs.graph.edge_mask().nonzero()
        masks = torch.zeros(len(edges), *runs.graph.edge_mask().shape)
        masks[torch.arange(len(edges)), edges[:, 0], edges[:, 1]] = 1
        single = (runs.metrics(masks)[0] - runs.measured.baseline).T
        found = torch.from_numpy(exact.to_numpy())[:, edges[:, 0], edges[:, 1]]
        assert torch.allclose(found, single, atol=1e-12)
        assert exact.attrs["norms"] == norms


def test_edges_elsewhere_than_the_positions_asked_for_carry_nothing():
    model = build(config(GRID["learned_ln"]), seed=4)
    with pytest.warns(UserWarning, match="no edge has an effect"):  # before the first position that differs
        assert not scored(model, positions=[0, 1]).fillna(0).any()
    everywhere = scored(model, "eap").to_numpy()
    parts = np.stack([scored(model, "eap", positions=[i]).to_numpy() for i in (2, 3, 4)])
    assert np.allclose(parts.sum(axis=0), everywhere, atol=1e-12, equal_nan=True)


def test_an_edge_whose_writer_writes_the_same_has_exactly_no_effect_and_is_not_run(monkeypatch: pytest.MonkeyPatch):
    from interp.patching.packed import PackedForward

    model, run, ran = build(config(GRID["rotary_rms_gated_grouped"]), seed=11), PackedForward.run, list[int]()
    with torch.no_grad():
        model.blocks[0].attn.W_O[2] = 0

    def counted(self: PackedForward, joining: Any) -> Any:
        ran.extend(cell for some in joining.values() for rows in some for cell in rows.cells.tolist())
        return run(self, joining)

    monkeypatch.setattr(PackedForward, "run", counted)
    edges = EdgeGraph.of(model).edges()
    exact = scored(model)
    assert (exact.sel(writer="L0H2").dropna("reader") == 0).all() and (
        exact.sel(writer="L0H1").dropna("reader") != 0
    ).any()
    assert ran and all(str(edges[cell].writer) != "L0H2" for cell in ran)


def test_some_readers_and_writers_score_as_they_do_among_all(model: HookedTransformer):
    readers, writers = ["logits", "L1H1.q", "L2.mlp", "L0H0.k"], ["L1.mlp", "embed", "L0H3"]
    for method in ("exact", "qk", "local_ig", "combined"):
        whole = scored(model, method)
        part = scored(model, method, readers=readers, writers=writers)
        assert part["reader"].to_numpy().tolist() == readers and part["writer"].to_numpy().tolist() == writers
        assert np.allclose(part, whole.sel(reader=readers, writer=writers), atol=1e-12, equal_nan=True)
        assert np.isnan(part.sel(reader="L0H0.k", writer="L0H3")) and not np.isnan(part.sel(reader="logits")).any()


def test_a_node_scores_the_sum_of_its_edges_and_queries_through_their_softmax():
    for name in NAMES:
        model = build(config(GRID[name]), seed=5)
        corrupted, clean = pair(model, seed=6)
        nodes = node_scores(model, corrupted, clean, METRIC, progress=False)
        eap = edge_scores(model, corrupted, clean, METRIC, "eap", probe=0, progress=False)
        writers = eap["writer"].to_numpy().tolist()
        assert np.allclose(nodes.sel(component=writers), eap.sum("reader"), atol=1e-12)


def test_queries_keys_and_values_of_a_last_layer_score_exactly_without_norms_and_mlps():
    fields = {"attn_only": True, "d_mlp": 0, "normalization_type": None, "n_layers": 2, "n_key_value_heads": 2}
    model = build(config(GRID["learned_ln"], **fields), seed=7)
    corrupted, clean = pair(model, seed=8)
    for positions in (None, [2, 4]):
        nodes = node_scores(model, corrupted, clean, METRIC, progress=False, positions=positions)
        for site in "qkv":
            over: Any = ("layer", "head") if positions is None else ("layer", "pos", "head")
            exact = sweep(model, corrupted, clean, METRIC, site, over, effects=True, direction="noising",
                          positions=positions, progress=False)  # fmt: skip
            exact = exact if positions is None or site == "q" else None  # positions of keys act together
            for head in range(exact.shape[-1] if exact is not None else 0):
                found = float(nodes.sel(component=f"L1H{head}.{site}"))
                wanted = float(exact[1, ..., head].sum()) if exact is not None else 0.0
                assert abs(found - wanted) < 1e-10, (site, head, positions)


def test_ablations_can_be_given_beside_the_corrupted_prompt_or_in_its_place(model: HookedTransformer):
    corrupted, clean = pair(model)
    _, cache = model.run_with_cache(random_tokens(model.cfg, 9, 3, 5))
    for ablation in (Zero(), Mean(cache), Resample(cache.slice(slice(0, 2)), seed=1)):
        beside = edge_scores(model, corrupted, clean, METRIC, "local", ablation=ablation, probe=0, progress=False)
        alone = edge_scores(model, ablation, clean, METRIC, "local", probe=0, progress=False)
        assert np.array_equal(beside, alone, equal_nan=True) and beside.attrs["ablation"] == repr(ablation)
        assert not np.array_equal(alone, scored(model, "local"), equal_nan=True)


# ---------------------------------------------------------------------- the probe


@pytest.mark.parametrize("method", ["eap", "local", "combined"])
def test_the_probe_patches_the_largest_edges_random_ones_and_those_of_the_embeddings_exactly(method: str):
    model = build(config(GRID["learned_ln"]), seed=10)
    found, exact = scored(model, method, probe=6), scored(model)
    probed = ~np.isnan(found["exact"].to_numpy())
    sizes = np.abs(np.nan_to_num(found.to_numpy()))
    assert probed.ravel()[np.argsort(-sizes, axis=None)[:6]].all()
    first = [str(r) for r in EdgeGraph.of(model).readers if r.layer == 0]
    assert probed[[name in first for name in found["reader"].to_numpy()], 0].all()
    assert 12 + 8 <= probed.sum() == found.attrs["probe_n"] <= 12 + len(first)
    assert np.allclose(found["exact"].to_numpy()[probed], exact.to_numpy()[probed], atol=1e-12)
    truth = np.abs(exact.to_numpy()[probed]) if method == "combined" else exact.to_numpy()[probed]
    error = found.to_numpy()[probed] - truth
    assert np.isclose(found.attrs["probe_rms"], np.sqrt((error**2).mean()))
    assert np.isclose(abs(found.attrs["probe_largest_error"]), np.abs(error).max())
    edge = EdgeGraph.of(model).edge(found.attrs["probe_largest_error_edge"])
    off = float(found.sel(reader=str(edge.reader), writer=str(edge.writer)))
    off -= abs(float(exact.sel(reader=str(edge.reader), writer=str(edge.writer)))) if method == "combined" else float(
        exact.sel(reader=str(edge.reader), writer=str(edge.writer)))  # fmt: skip
    assert np.isclose(found.attrs["probe_largest_error"], off)
    missed = np.abs(exact.to_numpy()[probed]) - np.abs(found.to_numpy()[probed])
    assert np.isclose(found.attrs["probe_largest_miss"], max(0, missed.max()))


def test_the_probe_of_several_metrics_and_prompts_says_one_thing_for_each_metric(model: HookedTransformer):
    corrupted, clean = pair(model)
    metrics: Any = {"difference": METRIC, "other": LogitDifference(1, 2)}
    found = edge_scores(model, corrupted, clean, metrics, "eap", per_prompt=True, probe=3, progress=False)
    assert found.dims == ("metric", "prompt", "reader", "writer") == found["exact"].dims
    alone = edge_scores(model, corrupted, clean, metrics["other"], "eap", probe=3, progress=False)
    assert len(found.attrs["probe_rms"]) == 2 and found.attrs["probe_n"][0] >= alone.attrs["probe_n"] - 6
    assert np.allclose(found.sel(metric="other").mean("prompt"), alone, atol=1e-12, equal_nan=True)


# ---------------------------------------------------------------------- results


def test_a_result_says_how_it_came_about_and_survives_a_pickle(model: HookedTransformer):
    found = scored(model, "eap_ig", steps=3, include="other", probe=2)
    wanted = {"values": "effect", "direction": "noising", "ablation": "none", "granularity": "edges", "norms": "live"}
    wanted |= {"method": "eap_ig", "steps": 3, "include": "other", "n": 2, "n_unchanged": 0, "positions": "together"}
    assert {key: found.attrs[key] for key in wanted} == wanted
    assert found.attrs["model"] == model.weights_hash()
    assert EdgeGraph.from_json(found.attrs["graph"]) == EdgeGraph.of(model)
    assert {"ci_low", "ci_high", "exact"} <= set(found.coords) and found.attrs["baseline"] != found.attrs["target"]
    again = pickle.loads(pickle.dumps(found))
    assert again.identical(found)
    assert np.isnan(found.to_numpy()).sum() == found.size - EdgeGraph.of(model).n_edges


def test_scores_as_fractions_are_effects_over_the_gap(model: HookedTransformer):
    plain, shares = scored(model, "local"), scored(model, "local", normalize=True)
    gap = plain.attrs["target"] - plain.attrs["baseline"]
    assert np.allclose(shares, plain / gap, atol=1e-12, equal_nan=True) and shares.attrs["values"] == "fraction"


def test_a_single_prompts_scores_are_those_of_its_place_in_a_batch_and_denoising_swaps_the_roles(
    model: HookedTransformer,
):
    corrupted, clean = pair(model)
    noised = edge_scores(model, corrupted, clean, METRIC, "exact", progress=False)
    denoised = edge_scores(model, clean, corrupted, METRIC, "exact", direction="denoising", progress=False)
    assert np.allclose(noised, denoised, atol=1e-12, equal_nan=True)


def test_scores_leave_nothing_behind_on_the_model(model: HookedTransformer):
    before = model.weights_hash()
    with torch.no_grad():
        scored(model, "local_ig", probe=3)
    scored(model, "gim")
    assert model.weights_hash() == before and all(p.grad is None for p in model.parameters())
    assert not any(point.hooks for point in model.hook_points.values())


def test_equal_prompts_have_no_effect_and_that_is_said(model: HookedTransformer):
    _, clean = pair(model)
    for method in ("exact", "local_ig", "combined"):
        with pytest.warns(UserWarning, match="both runs are the same for every prompt"):
            found = edge_scores(model, clean, clean, METRIC, method, probe=2, progress=False)
        assert not found.fillna(0).any() and found.attrs["n_unchanged"] == 2
    corrupted = pair(model)[0]
    corrupted[0] = clean[0]
    found = edge_scores(model, corrupted, clean, METRIC, "local", per_prompt=True, probe=2, progress=False)
    assert found.attrs["n_unchanged"] == 1 and not found[0].fillna(0).any() and found[1].fillna(0).any()


# ---------------------------------------------------------------------- long work


@pytest.mark.apart
def test_an_interrupted_run_goes_on_where_it_was_and_gives_the_same(
    model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from interp.patching.resume import ResumeFile

    path, whole = tmp_path / "edges", scored(model)
    keep, kept = ResumeFile.keep, 0

    def interrupted(self: ResumeFile, name: str, cells: Any) -> None:
        nonlocal kept
        keep(self, name, cells)
        kept += 1
        if kept == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(ResumeFile, "keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scored(model, checkpoint=path)
    monkeypatch.setattr(ResumeFile, "keep", keep)
    measured: list[int] = []
    from interp.patching.packed import PackedForward

    run = PackedForward.run

    def counted(self: PackedForward, joining: Any) -> Any:
        measured.append(sum(len(rows.cells) for some in joining.values() for rows in some))
        return run(self, joining)

    monkeypatch.setattr(PackedForward, "run", counted)
    again = scored(model, checkpoint=path, max_bytes=10**8)
    assert np.allclose(again, whole, atol=1e-12, equal_nan=True)
    assert 0 < sum(measured) < 2 * EdgeGraph.of(model).n_edges * 0.95  # two prompts; some were there already
    measured.clear()
    assert np.array_equal(scored(model, checkpoint=path), again, equal_nan=True) and not measured
    others: list[dict[str, Any]] = [
        {"seed": 3},
        {"norms": "frozen"},
        {"positions": [3]},
        {"readers": ["logits"]},
        {"ablation": Zero()},
    ]
    for other in others:
        with pytest.raises(CheckpointError, match="another"):
            scored(model, checkpoint=path, **other)


def test_the_cost_of_exact_effects_is_said_before_they_start(
    model: HookedTransformer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from interp.discovery import exact

    corrupted, clean = pair(model)
    edge_scores(model, corrupted, clean, METRIC, "exact")
    assert "exact effects" not in capsys.readouterr().err  # a few runs' work is not worth a word
    monkeypatch.setattr(exact, "WORTH_SAYING", 1)
    edge_scores(model, corrupted, clean, METRIC, "exact")
    said = capsys.readouterr().err
    assert f"{EdgeGraph.of(model).n_edges:,} edges on 2 prompts" in said and "checkpoint=" in said
    edge_scores(model, corrupted, clean, METRIC, "exact", progress=False)
    assert not capsys.readouterr().err


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"method": "epa"}, ConfigError, "method.*did you mean 'eap'"),
        ({"method": "eap_ig", "include": "both"}, ConfigError, "include = 'both'"),
        ({"method": "eap_ig", "steps": 0}, ConfigError, "steps = 0"),
        ({"method": "eap", "probe": -1}, ConfigError, "probe = -1"),
        ({"method": "eap", "checkpoint": "x"}, ConfigError, "only method='exact'"),
        ({"norms": "frozn"}, ConfigError, "norms.*frozen"),
        ({"positions": [9]}, ConfigError, "positions"),
        ({"readers": ["L0H9.q"]}, HookNotFoundError, "L0H9.q.*3 layers of 4 heads"),
        ({"readers": ["L1H1"]}, HookNotFoundError, "such as 'L1H1.q'"),
        ({"writers": ["L1H1.q"]}, HookNotFoundError, "does not write"),
        ({"readers": ["L0H0.q"], "writers": ["L2.mlp"]}, ConfigError, "read nothing that writers"),
        ({"readers": []}, ConfigError, "names nothing"),
        ({"writers": ["embed", "embed"]}, ConfigError, "something twice"),
        ({"max_bytes": 1000}, ConfigError, "max_bytes = 1000 is too small"),
        ({"method": "local", "max_bytes": 1000}, ConfigError, "max_bytes = 1000 is too small"),
        ({"max_byte": 1000}, ConfigError, "max_bytes="),
        ({"effects": True}, ConfigError, "unknown argument 'effects'"),
        ({"direction": "denosing"}, ConfigError, "did you mean 'denoising'"),
        ({"ablation": Zero(layer=1)}, ConfigError, "says layer="),
        ({"ablation": Zero(), "direction": "denoising"}, ConfigError, "denoising"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_any_patched_run(
    options: dict[str, Any],
    error: Any,
    said: str,
    model: HookedTransformer,
    monkeypatch: pytest.MonkeyPatch,
    as_installed: None,
):
    from interp.discovery import estimates

    def worked(*args: object) -> None:
        raise AssertionError("this should have been refused before")

    monkeypatch.setattr(estimates.GradientRuns, "of", worked)
    corrupted, clean = pair(model)
    given = {"method": "exact", "probe": 0, "progress": False} | options
    with pytest.raises(error, match=said):
        edge_scores(model, corrupted, clean, METRIC, **given)


def test_runs_and_metrics_that_cannot_be_scored_are_refused(model: HookedTransformer):
    corrupted, clean = pair(model)
    with pytest.raises(ConfigError, match="has no gradient; method='exact' needs none"):
        edge_scores(model, corrupted, clean, Rank(3), "eap", progress=False)
    assert edge_scores(model, corrupted, clean, Rank(3), "exact", progress=False).fillna(0).any()
    for method in ("eap", "qk", "local", "gim", "combined"):
        with pytest.raises(ConfigError, match="every score would be 0; allowed"):
            edge_scores(model, corrupted, clean, KLDivergence(), method, progress=False)
    with pytest.raises(ConfigError, match="every score would be 0"):
        node_scores(model, corrupted, clean, KLDivergence())
    with pytest.raises(ConfigError, match="every score would be 0"):
        edge_scores(model, corrupted, clean, KLDivergence(), "eap_ig", steps=1, progress=False)
    with pytest.raises(ShapeError, match="positions must correspond"):
        edge_scores(model, corrupted[:, :4], clean, METRIC, progress=False)
    model.add_hook("hook_embed", lambda x, hook: None)
    with pytest.raises(ConfigError, match="has hooks"):
        edge_scores(model, corrupted, clean, METRIC, progress=False)
    model.reset_hooks()
    other = build(config(GRID["learned_ln"]), seed=1)
    with pytest.raises(ConfigError, match="post"):
        post = build(config(GRID["learned_ln"], norm_position="post"), seed=1)
        edge_scores(post, corrupted, clean, METRIC, progress=False)
    with pytest.raises(ShapeError):
        Subgraph.top(scored(model), 5).check_fits(other)
