"""Figures of results: what they show, in which order, under which words; on real results of small models."""

import base64
import itertools
import json
import math
import zlib
from typing import Any

import networkx
import numpy as np
import plotly.graph_objects as go
import pytest
import torch
import xarray as xr
from grid import Run

from circuits import Circuit, copy, match, shift
from circuits.gallery.induction import induction_model
from interp import (
    ConfigError,
    FactoredMatrix,
    HookedTransformer,
    LogitAttribution,
    RangeError,
    ShapeError,
    TransformerConfig,
    Vocabulary,
)
from interp.heads import head_scores
from interp.lens import direct_attribution, expand_logits, expand_scores, logit_lens
from interp.metrics.kinds import Logit, LogitDifference
from interp.patching.path_sweeps import path_sweep
from interp.patching.sweeps import sweep, sweep_sites
from interp.plot import figures
from interp.plot.heatmaps import LABELLED_MAPS
from interp.plot.light import light_figure
from interp.plot.style import NEGATIVE, POSITIVE
from interp.weights import composition_scores, ov_circuit, singular_directions, top_entries

HOSTILE = "</script><b>"
WORDS = ["!", "a", "b", HOSTILE, " c", "d", "e", "f", "g", "h"]


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    words = Vocabulary(WORDS, sep="")
    sizes: dict[str, Any] = {"n_layers": 3, "d_model": 20, "n_heads": 4, "n_ctx": 9, "d_vocab": words.d_vocab}
    torch.manual_seed(0)
    return HookedTransformer(TransformerConfig(**sizes, n_key_value_heads=2, init_std=0.3), words)


TEXT, OTHER = f"!ab{HOSTILE}ab c", f"!ad{HOSTILE}ab c"


def trace(figure: go.Figure, number: int = 0) -> Any:
    return figure.data[number]


def traces(figure: go.Figure) -> list[Any]:
    return list(figure.data)


def texts(figure: Any) -> str:
    return str(figure.to_json())


# ---------------------------------------------------------------------- all heads of a layer


@pytest.mark.parametrize("heads", [1, 4, 40])
def test_every_head_of_a_layer_has_a_map_on_one_scale(heads: int):
    patterns = torch.rand(heads, 5, 5).tril()
    patterns = patterns / patterns.sum(-1, keepdim=True)
    figure = figures.patterns(patterns, [HOSTILE, "a", "b", "a", "b"])
    assert len(traces(figure)) == heads
    for number in range(heads):
        z = trace(figure, number).z
        assert z.dtype == np.float32 and np.array_equal(np.tril(z), patterns[number].numpy())
        assert np.isnan(z[np.triu_indices(5, k=1)]).all()
    assert {one.coloraxis for one in traces(figure)} == {"coloraxis"}
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    assert [note.text for note in figure.layout.annotations] == [f"head {i}" for i in range(heads)]
    hovers = figure.layout.xaxis.ticktext if heads > LABELLED_MAPS else trace(figure).customdata[0, :, 1]
    assert list(hovers)[:2] == ["key 0: “&lt;/script&gt;&lt;b&gt;”", "key 1: “a”"]
    assert "<b>" not in texts(figure)


def test_a_few_maps_of_few_cells_have_their_labels_at_the_sides():
    tokens = ["the", "chicken", "did", "not", "cross"]
    figure = figures.patterns(torch.eye(5).expand(6, 5, 5), tokens)
    for axis in (figure.layout.xaxis, figure.layout.xaxis6):
        assert list(axis.ticktext) == tokens and axis.showticklabels is not False and axis.tickangle == -60
    assert (figure.layout.xaxis.title.text, figure.layout.xaxis6.title.text) == (None, "key")
    of_first, of_second = figure.layout.yaxis, figure.layout.yaxis2
    assert list(of_first.ticktext) == tokens and (of_first.showticklabels, of_first.title.text) == (True, "query")
    assert (of_second.showticklabels, of_second.title.text) == (False, None)
    assert figures.patterns(torch.eye(3)[None], list("abc")).layout.xaxis.tickangle == 0
    room = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    first, below = figure.layout.yaxis.domain, figure.layout.yaxis5.domain
    assert (first[0] - below[1]) * room >= 40 + 7 * len("chicken")  # the labels, and the name of the next map


def test_maps_whose_labels_have_no_room_name_their_cells_under_the_pointer_alone():
    for n_maps, n in ((LABELLED_MAPS + 1, 3), (2, 40)):
        axis = figures.patterns(torch.eye(n).expand(n_maps, n, n), ["word"] * n).layout.xaxis
        assert axis.showticklabels is False and list(axis.ticktext)[:1] == ["key 0: “word”"]


def test_more_heads_make_a_higher_figure():
    heights = [figures.patterns(torch.eye(3).expand(n, 3, 3), list("abc")).layout.height for n in (4, 8, 64)]
    assert heights == sorted(set(heights))


def test_patterns_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match="do not fit 2 tokens"):
        figures.patterns(torch.eye(3)[None], ["a", "b"])
    with pytest.raises(ShapeError, match="3 names"):
        figures.patterns(torch.eye(2)[None], ["a", "b"], names=list("xyz"))


# ---------------------------------------------------------------------- sweeps


@pytest.fixture(scope="module")
def swept(model: HookedTransformer) -> xr.DataArray:
    return sweep(model, OTHER, TEXT, LogitDifference("a", "b"), progress=False)


def test_a_sweep_shows_its_change_from_the_run_as_it_is(swept: xr.DataArray):
    figure = figures.sweep(swept)
    assert np.allclose(trace(figure).z, swept.to_numpy() - swept.attrs["baseline"], atol=1e-6)
    assert figure.layout.coloraxis.cmid == 0
    assert list(figure.layout.yaxis.ticktext) == ["0", "1", "2"]
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == (
        "position (tokens of the corrupted prompt)",
        "layer",
    )
    assert list(figure.layout.xaxis.ticktext)[2:5] == ["d", "&lt;/script&gt;&lt;b&gt;", "a"]
    cell = trace(figure).customdata[1, 2]
    assert list(cell[:2]) == ["layer 1", "position 2: “d”"]
    assert f"{float(swept[1, 2]):.4f}" in cell[2]
    assert "resid_pre, denoising" in figure.layout.title.text
    ends = f"{swept.attrs['baseline']:.3g} corrupted, {swept.attrs['target']:.3g} clean"
    assert ends in figure.layout.title.subtitle.text.replace("<br>", "")


def test_a_noising_sweep_says_that_the_clean_prompt_is_the_one_that_runs(model: HookedTransformer):
    result = sweep(model, [OTHER, TEXT], [TEXT, OTHER], Logit("a"), direction="noising", progress=False)
    figure = figures.sweep(result)
    ends = f"{result.attrs['baseline']:.3g} clean, {result.attrs['target']:.3g} corrupted"
    assert ends in figure.layout.title.subtitle.text.replace("<br>", "")
    assert figure.layout.xaxis.title.text == "position (tokens of the clean prompts)"


def test_a_normalized_sweep_shows_its_own_numbers(model: HookedTransformer):
    result = sweep(model, OTHER, TEXT, Logit("a"), "z", ("layer", "head"), normalize=True, progress=False)
    figure = figures.sweep(result)
    assert np.array_equal(trace(figure).z, result.to_numpy().astype(np.float32))
    assert trace(figure).z.shape == (3, 4)
    assert figure.layout.xaxis.title.text == "head"
    assert figure.layout.coloraxis.colorbar.title.text == "share of the<br>gap<br>&nbsp;"


def test_a_transposed_sweep_is_drawn_transposed(swept: xr.DataArray):
    figure = figures.sweep(swept.transpose())
    assert np.array_equal(trace(figure).z, trace(figures.sweep(swept)).z.T)
    assert figure.layout.yaxis.title.text == "position (tokens of the corrupted prompt)"


def test_one_of_several_metrics_is_chosen_by_name(model: HookedTransformer):
    result = sweep(model, OTHER, TEXT, {"right": Logit("a"), "wrong": Logit("b")}, progress=False)
    shown = trace(figures.sweep(result, "wrong")).z
    assert np.allclose(shown, result.sel(metric="wrong") - result.attrs["baseline"][1], atol=1e-6)
    with pytest.raises(ConfigError, match="did you mean 'wrong'"):
        figures.sweep(result, "wrnog")
    with pytest.raises(ConfigError, match="allowed: right, wrong"):
        figures.sweep(result)
    with pytest.raises(ConfigError, match="allowed: right"):
        figures.sweep(result.isel(metric=0), "wrong")
    with pytest.raises(ConfigError, match="no axis of metrics"):
        figures.sweep(result.isel(metric=0, drop=True), "right")


def test_a_sweep_over_layers_alone_is_drawn_as_bars(model: HookedTransformer):
    result = sweep(model, OTHER, TEXT, Logit("a"), "attn_out", ("layer",), progress=False)
    bars = trace(figures.sweep(result))
    assert bars.type == "bar"
    assert np.allclose(bars.x, result - result.attrs["baseline"], atol=1e-6)


def test_intervals_over_prompts_are_under_the_pointer(model: HookedTransformer):
    result = sweep(model, [OTHER, TEXT], [TEXT, OTHER], Logit("a"), progress=False)
    figure = figures.sweep(result)
    low, high = float(result["ci_low"][1, 2]), float(result["ci_high"][1, 2])
    assert f"95 % interval {low:.4f} to {high:.4f}" in trace(figure).customdata[1, 2][2]
    assert "mean of 2 prompts" in figure.layout.title.subtitle.text


def test_effects_are_drawn_as_the_changes_of_the_values_that_they_are(model: HookedTransformer):
    values, effects = (
        trace(figures.sweep(sweep(model, OTHER, TEXT, Logit("a"), "z", ("layer", "head"), effects=e, progress=False)))
        for e in (False, True)
    )
    assert np.allclose(values.z, effects.z) and np.array_equal(values.customdata, effects.customdata)


def test_variables_of_a_sweep_of_sites_and_path_sweeps_are_sweeps_too(model: HookedTransformer):
    both = sweep_sites(model, [OTHER, TEXT], [TEXT, OTHER], Logit("a"), ["resid_pre", "k"], progress=False)
    assert "k_ci_low" in both
    assert figures.sweep(both["k"]).layout.xaxis.title.text == "key-value head"
    with pytest.raises(ConfigError, match=r"draw one of them, result\[name\] of resid_pre, k$"):
        figures.sweep(both)  # pyright: ignore[reportArgumentType]
    paths = path_sweep(model, OTHER, TEXT, Logit("a"), "L2H1.q", progress=False)
    assert np.isnan(trace(figures.sweep(paths)).z[2]).all()
    assert figures.sweep(paths).layout.title.text.replace("<br>", "").startswith("Paths to L2H1.q (direct")
    frozen = path_sweep(model, OTHER, TEXT, Logit("a"), ["L1H0.q", "L2H1.k"], mlps="frozen", progress=False)
    title = figures.sweep(frozen).layout.title.text.replace("<br>", "")
    assert title == "Paths to L1H0.q L2H1.k (direct), noising"


def test_what_needs_a_choice_is_refused_and_says_how(model: HookedTransformer, as_installed: None):
    result = sweep(model, [OTHER, TEXT], [TEXT, OTHER], Logit("a"), per_prompt=True, progress=False)
    with pytest.raises(ShapeError, match=r"result\.isel\(prompt=0\)"):
        figures.sweep(result)
    assert trace(figures.sweep(result.isel(prompt=1))).z.shape == (3, 7)
    with pytest.raises(ConfigError, match="not Tensor"):
        figures.sweep(torch.zeros(2, 2))  # pyright: ignore[reportArgumentType]


def test_any_labelled_array_can_be_drawn(plain: Run):
    scores = expand_scores(plain.cache, 1, 0, progress=False).isel(prompt=0, query_pos=-1, key_pos=0)
    figure = figures.array(scores)
    assert figure.layout.yaxis.ticktext[0] == "embed"
    assert np.allclose(trace(figure).z, scores, atol=1e-6)
    with pytest.raises(ShapeError, match="one or two axes"):
        figures.array(xr.DataArray(1.0))
    with pytest.raises(ConfigError, match="real numbers"):
        figures.array(xr.DataArray(["a", "b"], dims="x"))
    with pytest.raises(ShapeError, match="one or two axes"):
        figures.array(xr.DataArray(np.zeros((2, 3, 4)), dims=("a", "b", "c")))


# ---------------------------------------------------------------------- lens and attribution


def test_the_lens_names_the_best_token_in_each_cell_and_ranks_the_rest(model: HookedTransformer):
    result = logit_lens(model, TEXT, top_k=3, progress=False)
    figure = figures.lens(result)
    assert np.allclose(trace(figure).z, result["top_prob"][..., 0], atol=1e-6)
    assert list(figure.layout.yaxis.ticktext) == ["0_pre", "1_pre", "2_pre", "final_post"]
    for layer, pos in itertools.product(range(4), range(7)):
        note = trace(figure).customdata[layer, pos][2]
        for rank in range(3):
            assert f"{rank + 1}. “" in note and f"{float(result['top_prob'][layer, pos, rank]):.4f}" in note
        assert f"KL {float(result['kl'][layer, pos]):.3f}" in note
    assert HOSTILE not in texts(figure)
    best = {str(token) for token in result["top_token"].to_numpy()[..., 0].ravel()}
    assert len({str(text) for text in trace(figure, 1).text}) == len(best)


def test_the_lens_can_be_coloured_by_divergence(model: HookedTransformer):
    result = logit_lens(model, [TEXT], top_k=1, progress=False)
    figure = figures.lens(result, "kl")
    assert np.allclose(trace(figure).z, result["kl"].isel(prompt=0), atol=1e-6)
    assert trace(figure).z[-1].max() < 1e-4


def test_a_lens_of_one_position_or_several_texts(model: HookedTransformer, as_installed: None):
    assert trace(figures.lens(logit_lens(model, TEXT, pos=-1, progress=False))).z.shape == (4, 1)
    whole = logit_lens(model, TEXT, progress=False)
    of_layer = trace(figures.lens(whole.isel(layer=1)))
    assert np.array_equal(of_layer.z, trace(figures.lens(whole)).z[1:2])
    with pytest.raises(ConfigError, match="an axis `top`"):
        figures.lens(whole.isel(top=1))
    with pytest.raises(ShapeError, match=r"isel\(prompt=0\)"):
        figures.lens(logit_lens(model, [TEXT, OTHER], progress=False))
    with pytest.raises(ConfigError, match="top_k="):
        figures.lens(logit_lens(model, TEXT, top_k=0, progress=False))
    with pytest.raises(ConfigError, match="'rank'; allowed: 'prob', 'kl'"):
        figures.lens(logit_lens(model, TEXT, progress=False), "rank")  # pyright: ignore[reportArgumentType]


def test_contributions_are_signed_bars_in_the_models_order_that_sum_to_the_logit(model: HookedTransformer):
    logits, cache = model.run_with_cache(TEXT)
    difference = (logits[0, -1, 1] - logits[0, -1, 2]).item()
    result = direct_attribution(cache, "a", "b", pos=-1)
    figure = figures.contributions(result)
    bars = trace(figure)
    assert list(figure.layout.yaxis.ticktext) == [str(name) for name in result["component"].to_numpy()]
    assert math.isclose(float(bars.x.sum()), difference, abs_tol=1e-4)
    assert list(bars.marker.color) == [NEGATIVE if x < 0 else POSITIVE for x in bars.x]
    assert "logit 'a' \u2212 logit 'b'" in figure.layout.title.text
    rows = cache.logit_attrs(cache.decompose_resid(), "a", "b")
    assert np.allclose(trace(figures.contributions(rows, pos=-1, prompt=0)).x, bars.x, atol=1e-5)


def test_contributions_of_rows_name_the_answers_as_those_of_an_attribution_do(model: HookedTransformer):
    _, cache = model.run_with_cache(TEXT)
    for answers in (("a", "b"), ("a",), (torch.tensor([1]), np.array([2])), ([1], 2)):
        rows = cache.logit_attrs(cache.decompose_resid(), *answers)
        drawn = figures.contributions(rows, prompt=0, pos=-1).layout.title.text
        found = direct_attribution(cache, *answers, pos=-1)
        assert drawn.split(":")[0] == figures.contributions(found).layout.title.text.split(":")[0]
        assert "(difference)" not in drawn
    assert (
        "a logit (difference)"
        in figures.contributions(LogitAttribution(rows.values, rows.labels), pos=-1).layout.title.text
    )


def test_contributions_of_heads_show_the_largest_and_the_others_together(model: HookedTransformer):
    _, cache = model.run_with_cache(TEXT)
    result = direct_attribution(cache, "a", by="head", pos=-1)
    shown = trace(figures.contributions(result, top_k=3))
    assert len(shown.x) == 4
    assert np.abs(shown.x[:3]).tolist() == sorted(np.abs(shown.x[:3]).tolist(), reverse=True)
    assert math.isclose(float(shown.x.sum()), float(result["logit"].item()), abs_tol=1e-4)
    assert "the other" in shown.customdata[3]


def test_contributions_of_one_of_several_prompts_are_those_of_that_prompt_alone(model: HookedTransformer):
    _, both = model.run_with_cache([TEXT, OTHER])
    _, alone = model.run_with_cache(OTHER)
    wanted = trace(figures.contributions(direct_attribution(alone, "a"), pos=-1)).x
    assert np.allclose(
        trace(figures.contributions(direct_attribution(both, "a"), prompt=1, pos=-1)).x, wanted, atol=1e-5
    )
    rows = both.logit_attrs(both.decompose_resid(), "a")
    assert np.allclose(trace(figures.contributions(rows, prompt=-1, pos=-1)).x, wanted, atol=1e-5)
    with pytest.raises(ShapeError, match="2 places along prompt; choose one"):
        figures.contributions(direct_attribution(both, "a"), pos=-1)


def test_contributions_need_one_place(model: HookedTransformer, as_installed: None):
    _, cache = model.run_with_cache(TEXT)
    result = direct_attribution(cache, "a")
    with pytest.raises(ShapeError, match="choose one, such as pos=-1"):
        figures.contributions(result)
    with pytest.raises(ShapeError, match="pos = 7; allowed"):
        figures.contributions(result, pos=7)
    for top_k in (0, 2.5, "3", True):
        with pytest.raises(ConfigError, match=f"top_k = {top_k!r}; allowed: 1 or more"):
            figures.contributions(result, top_k=top_k, pos=-1)  # pyright: ignore[reportArgumentType]
    rows = cache.logit_attrs(cache.decompose_resid(), "a")
    with pytest.raises(ShapeError, match="choose one"):
        figures.contributions(rows)
    with pytest.raises(ShapeError, match="pos = 7; allowed"):
        figures.contributions(rows, pos=7)
    with pytest.raises(ConfigError, match="not Tensor"):
        figures.contributions(torch.zeros(3))  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------------- heads


def test_a_score_of_all_heads_is_a_map_with_its_error_under_the_pointer(model: HookedTransformer):
    scores = head_scores(model, "!ababab", scores=["induction", "copying"], progress=False)
    figure = figures.head_scores(scores, "induction")
    assert np.array_equal(trace(figure).z, scores["induction"].to_numpy().astype(np.float32))
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    assert trace(figure).customdata[2, 1][2].startswith("L2H1")
    assert "prefix matching" in figure.layout.title.subtitle.text.replace("<br>", "")
    copying = figures.head_scores(scores, "copying")
    assert (copying.layout.coloraxis.cmin, copying.layout.coloraxis.cmid) == (-1, 0)
    assert trace(figures.head_scores(scores["copying"])).z.shape == (3, 4)


def test_the_error_of_a_score_is_that_of_its_own_head(model: HookedTransformer):
    scores = head_scores(model, ["!ababab", "!aaabbb"], scores="induction", progress=False)
    note = trace(figures.head_scores(scores, "induction")).customdata[1, 3][2]
    assert f"standard error {float(scores['induction_se'][1, 3]):.4f}" in note


def test_scores_that_are_not_there_are_refused(model: HookedTransformer):
    scores = head_scores(model, "!ababab", scores="induction", progress=False)
    with pytest.raises(ConfigError, match="did you mean 'induction'"):
        figures.head_scores(scores, "inducton")
    with pytest.raises(ConfigError, match="one score was given"):
        figures.head_scores(scores["induction"], "induction")
    with pytest.raises(ShapeError, match="axes"):
        figures.head_scores(scores["induction"].isel(layer=0))


# ---------------------------------------------------------------------- weights


def test_composition_puts_each_pair_of_heads_where_its_labels_say(model: HookedTransformer):
    scores = composition_scores(model, progress=False)
    figure = figures.composition(scores, "K")
    assert list(figure.layout.yaxis.ticktext)[5] == "L1H1"
    expected = float(scores.sel(kind="K", writer_layer=1, writer_head=1, reader_layer=2, reader_head=3))
    assert math.isclose(trace(figure).z[5, 11], expected, rel_tol=1e-6)
    assert list(trace(figure).customdata[5, 11][:2]) == ["L1H1 writes", "L2H3 reads"]
    assert np.isnan(trace(figure).z[8:]).all()
    part = figures.composition(scores.sel(kind="K", writer_layer=[0], reader_layer=[2]))
    assert list(part.layout.xaxis.ticktext) == ["L2H0", "L2H1", "L2H2", "L2H3"]
    with pytest.raises(ConfigError, match="allowed: Q, K, V"):
        figures.composition(scores)
    with pytest.raises(ConfigError, match="'Q'; allowed: K"):
        figures.composition(scores.sel(kind="K"), "Q")
    with pytest.raises(ShapeError, match="axes"):
        figures.composition(scores.sel(kind="K", writer_layer=0))


def test_the_token_table_lists_the_largest_entries_with_their_tokens(model: HookedTransformer):
    circuit = ov_circuit(model, 1, 2)
    dense = circuit.dense()
    figure = figures.token_table(top_entries(circuit, 4, progress=False), model, "OV", title=HOSTILE)
    header, cells = trace(figure).header.values, trace(figure).cells.values
    assert list(header) == ["<b></b>", "<b>attended to</b>", "<b>logit of</b>", "<b>entry</b>"]
    row, column = divmod(int(dense.argmax()), len(WORDS))
    shown = {HOSTILE: "&lt;/script&gt;&lt;b&gt;", " c": "·c"}
    assert cells[1][0] == shown.get(WORDS[row], WORDS[row]) and cells[2][0] == shown.get(WORDS[column], WORDS[column])
    assert math.isclose(float(cells[3][0]), float(dense.max()), abs_tol=1e-3)
    assert [float(c) for c in cells[3]] == sorted((float(c) for c in cells[3]), reverse=True)
    assert HOSTILE not in texts(figure)


def test_rows_of_a_token_table_carry_the_tokens_they_were_chosen_for(model: HookedTransformer, as_installed: None):
    ids = model.to_tokens("gab")[0]
    circuit = ov_circuit(model, 0, 0)[ids]
    entries = top_entries(circuit, 3, per_row=True, progress=False)
    figure = figures.token_table(entries, model, "OV", rows=ids)
    assert list(figure.layout.yaxis.ticktext) == ["g", "a", "b"]
    best = int(circuit.dense()[0].argmax())
    assert WORDS[best].strip() in trace(figure, 1).text[0].replace("·", "").replace("&lt;", "<").replace("&gt;", ">")
    with pytest.raises(ShapeError, match="rows of shape"):
        figures.token_table(entries, model, rows=[1])
    with pytest.raises(ConfigError, match="top_entries returns"):
        figures.token_table(circuit, model)
    with pytest.raises(ConfigError, match="'VO'; allowed: 'OV', 'QK'; did you mean 'OV'"):
        figures.token_table(entries, model, "VO")  # pyright: ignore[reportArgumentType]


def test_eigenvalues_stand_where_they_are_and_sum_to_the_copying_score(model: HookedTransformer):
    circuit = ov_circuit(model, 0, 1)
    values = circuit.eigenvalues()
    figure = figures.eigenvalues(circuit, title="<i>")
    shown = trace(figure)
    assert np.allclose(sorted(shown.x), sorted(values.real.tolist()), atol=1e-4)
    assert np.allclose(sorted(shown.y), sorted(values.imag.tolist()), atol=1e-4)
    score = float(values.real.sum() / values.abs().sum())
    assert f"copying score {score:.3f}" in figure.layout.title.subtitle.text
    assert figure.layout.title.text == "&lt;i&gt;"
    assert figure.layout.yaxis.scaleanchor == "x"
    low, high = figure.layout.xaxis.range
    assert low == -high and high >= float(values.abs().max())


def test_eigenvalues_of_no_single_square_matrix_are_refused():
    with pytest.raises(ShapeError, match="not square"):
        figures.eigenvalues(FactoredMatrix(torch.randn(3, 2), torch.randn(2, 4)))
    with pytest.raises(ShapeError, match="index it first"):
        figures.eigenvalues(FactoredMatrix(torch.randn(2, 3, 2), torch.randn(2, 2, 3)))
    with pytest.raises(RangeError, match="finite"):
        figures.eigenvalues(torch.tensor([1.0, math.nan]))


def test_singular_directions_name_what_is_read_and_written(model: HookedTransformer):
    result = singular_directions(model, 1, 1, top_k=3)
    figure = figures.singular_directions(result, 2)
    bars = trace(figure)
    assert np.allclose(bars.x, result["singular_value"], atol=1e-6)
    note = bars.customdata[0]
    assert note.count("<br>") == 4
    for side, end in itertools.product(("read", "write"), "+-"):
        assert f"{side} {end}: " in note
    assert "OV of L1H1" in figure.layout.title.text and HOSTILE not in texts(figure)
    query = figures.singular_directions(singular_directions(model, 1, 1, "QK", top_k=2))
    assert "query +: " in trace(query).customdata[0]
    with pytest.raises(ConfigError, match="singular_directions returns"):
        figures.singular_directions(result.drop_vars("singular_value"))


# ---------------------------------------------------------------------- paths


@pytest.fixture(scope="module")
def terms(model: HookedTransformer) -> LogitAttribution:
    _, cache = model.run_with_cache(TEXT)
    return expand_logits(cache, "a", "b", 2, progress=False)


def test_paths_are_ranked_by_size_and_still_sum_to_the_logit(terms: LogitAttribution):
    figure = figures.paths(terms, 5, prompt=0, pos=-1)
    values = terms.values[:, 0, -1]
    largest = values.abs().argsort(descending=True)[:5].tolist()
    assert [text.replace("&gt;", ">") for text in trace(figure).customdata[:5]] == [terms.labels[i] for i in largest]
    assert math.isclose(float(trace(figure).x.sum()), float(values.sum()), abs_tol=1e-4)
    with pytest.raises(ShapeError, match="choose one"):
        figures.paths(terms)


def test_what_flows_into_the_logit_is_the_size_of_the_paths(terms: LogitAttribution):
    values = terms.values[:, 0, -1]
    sankey = trace(figures.path_sankey(terms, len(terms), prompt=0, pos=-1))
    logit = list(sankey.node.label).index("logit")
    into = sum(v for v, end in zip(sankey.link.value, sankey.link.target, strict=True) if end == logit)
    assert math.isclose(into, float(values.abs().sum()), rel_tol=1e-4)
    assert all(0 < x < 1 for x in [*sankey.node.x, *sankey.node.y])
    place = dict(zip(sankey.node.label, sankey.node.x, strict=True))
    for start, end in zip(sankey.link.source, sankey.link.target, strict=True):
        assert place[sankey.node.label[start]] < place[sankey.node.label[end]]


def test_the_largest_path_of_the_hand_built_induction_model_is_its_own():
    model = induction_model("!abc", n_ctx=6)
    _, cache = model.run_with_cache("!abacb")
    sankey = trace(figures.path_sankey(expand_logits(cache, "a", progress=False), 1, pos=-1))
    named = [
        (sankey.node.label[a], sankey.node.label[b])
        for a, b in zip(sankey.link.source, sankey.link.target, strict=True)
    ]
    assert named == [("embed", "L1H0"), ("L1H0", "logit")]
    assert set(sankey.link.customdata) == {"raises the logit"}


def test_no_flow_is_an_error(terms: LogitAttribution):
    with pytest.raises(ConfigError, match="adds 0"):
        figures.path_sankey(LogitAttribution(torch.zeros(2, 1, 1), ["embed", "bias"]))
    with pytest.raises(ConfigError, match="top_k = 0"):
        figures.path_sankey(terms, 0)


# ---------------------------------------------------------------------- graphs


@pytest.fixture
def built() -> Circuit:
    circuit = Circuit("!abc", n_ctx=6, bos="!")
    prev = circuit.space("prev", circuit.tok)
    circuit.head(0, "<previous>", qk=match(circuit.pos, circuit.pos, shift(1)), ov=copy(circuit.tok, prev), sink=0)
    circuit.head(1, "induction", qk=match(circuit.tok, prev), ov=copy(circuit.tok, circuit.out, drop="!"), sharp=100)
    return circuit


def test_a_circuit_has_a_line_for_every_edge_named_by_what_it_feeds(built: Circuit):
    graph = built.edges()
    figure = figures.circuit(built)
    lines = [one for one in traces(figure) if one.mode == "lines"]
    assert len(lines) == graph.number_of_edges()
    assert sorted(one.name for one in lines) == sorted(kind for _, _, kind in graph.edges(keys=True))
    notes = {one.text[0] for one in lines}
    assert "&lt;previous&gt; (L0H0) → induction (L1H0), K<br>through prev" in notes
    assert len({one.line.color for one in lines if one.name in "QKV"}) == 3
    legend = [one.name for one in traces(figure) if one.showlegend]
    assert len(legend) == len(set(legend)) == len({one.name for one in lines})
    assert "<previous>" not in texts(figure)


def test_a_circuits_layers_go_upwards(built: Circuit):
    figure = figures.circuit(built.edges())
    height = {note.text: note.y for note in figure.layout.annotations if note.bordercolor}
    assert height["embed"] < height["&lt;previous&gt; (L0H0)"] < height["induction (L1H0)"] < height["logits"]
    for line in traces(figure):
        assert line.mode == "markers" or line.y[0] < line.y[-1]


def test_what_is_no_circuit_is_refused():
    with pytest.raises(ConfigError, match="MultiDiGraph"):
        figures.circuit(networkx.DiGraph([(1, 2)]))
    with pytest.raises(ConfigError, match="has no layer"):
        figures.circuit(networkx.MultiDiGraph([("a", "b")]))
    with pytest.raises(ConfigError, match="MultiDiGraph"):
        figures.circuit("induction")


def test_labels_of_many_tokens_have_room_below_their_flow():
    n = 100
    figure = figures.token_flow({(0, 0): torch.eye(n)}, [f" token {i}" for i in range(n)])
    axis = figure.layout.xaxis
    assert axis.tickangle == -60
    assert len(axis.tickvals) == len(axis.ticktext) and 14 * len(axis.tickvals) <= figure.layout.width
    assert figures.token_flow({(0, 0): torch.eye(2)}, ["a", "b"]).layout.xaxis.tickangle == 0


def test_token_flow_goes_from_the_attended_token_to_the_query(as_installed: None):
    model = induction_model("!abc", n_ctx=6)
    _, cache = model.run_with_cache("!abacb")
    patterns = {(layer, 0): cache["pattern", layer][0, 0] for layer in range(2)}
    figure = figures.token_flow(patterns, "!abacb", at_least=0.9)
    assert figure.layout.title.subtitle.text == "entries of 0.9 or more"
    assert figures.token_flow(patterns, "!abacb", title="a\nb").layout.title.subtitle.text == "b"
    drawn = {(one.name, one.x[0], one.x[-1]) for one in traces(figure) if one.mode == "lines"}
    assert {("L0H0", i, i + 1) for i in range(5)} <= drawn
    assert {("L1H0", 2, 3), ("L1H0", 3, 5)} <= drawn
    assert list(figure.layout.xaxis.ticktext) == list("!abacb")
    for problem, call in {
        "at_least = 0": lambda: figures.token_flow(patterns, "!abacb", at_least=0),
        "allowed": lambda: figures.token_flow(patterns, "!ab"),
        "at least one head": lambda: figures.token_flow({}, "!ab"),
        "from \\(layer, head\\)": lambda: figures.token_flow({"L0H0": torch.eye(2)}, "ab"),  # pyright: ignore
        "the largest entry is 0.5": lambda: figures.token_flow({(0, 0): torch.eye(2) / 2}, "ab", at_least=0.6),
        "outside": lambda: figures.token_flow({(0, 0): 2 * torch.eye(2)}, "ab"),
    }.items():
        with pytest.raises((RangeError, ShapeError, ConfigError), match=problem):
            call()


# ---------------------------------------------------------------------- builders


def test_notes_and_texts_fit_the_cells():
    wrongs: list[dict[str, Any]] = [{"notes": [["a"]]}, {"text": [["a"]]}, {"row_names": ["a"]}]
    for wrong in wrongs:
        with pytest.raises(ShapeError):
            figures.heatmap(torch.zeros(2, 2), ["a", "b"], ["c", "d"], **wrong)
    with pytest.raises(ShapeError):
        figures.bars(torch.zeros(2), ["a"])
    with pytest.raises(ShapeError, match="one length"):
        figures.table({"a": ["x"], "b": []})


def test_long_labels_are_cut_beside_an_axis_and_whole_under_the_pointer():
    label = "x" * 100
    figure = figures.bars(torch.ones(1), [label])
    assert len(figure.layout.yaxis.ticktext[0]) < 40 and trace(figure).customdata[0] == label


def test_figures_grow_with_what_is_in_them():
    def heights(draw: Any) -> list[int]:
        return [draw(n).layout.height for n in (3, 20, 50)]

    for draw in (
        lambda n: figures.bars(torch.ones(n), ["a"] * n),
        lambda n: figures.table({"a": ["x"] * n}),
        lambda n: figures.heatmap(torch.ones(n, 2), ["a"] * n, ["b", "c"], max_height=2_000),
    ):
        assert heights(draw) == sorted(set(heights(draw)))


def test_notes_say_small_and_large_numbers_by_their_powers_of_ten_and_zeros_without_a_sign():
    sizes = np.array([-2e-5, 0.0, 0.25, 3e12])
    about = {"baseline": 0.0, "values": "metric", "metric": "a {name} of %{z:.4f}"}
    over_layers = xr.DataArray(sizes, dims="layer", attrs=about, name="value")
    figure = figures.sweep(over_layers.assign_coords(ci_low=("layer", -sizes), ci_high=("layer", sizes)))
    notes = json.loads(zlib.decompress(base64.b64decode(light_figure(figure, "f").split('data-notes="')[1]
                                                                .split('"')[0])))  # fmt: skip
    said = [text.replace("\n", "; ") for text in notes["texts"]]
    ends = ["2.00e-05 to -2.00e-05", "0.0000 to 0.0000", "-0.2500 to 0.2500", "-3.00e+12 to 3.00e+12"]
    for i, shown in enumerate(["-2.00e-05", "0.0000", "0.2500", "3.00e+12"]):
        named = f"{i}; a {{name}} of %{{z:.4f}} {shown}; 95 % interval {ends[i]}; change {shown}"
        assert said[i] == named


def test_a_number_that_a_figure_cannot_hold_is_refused_and_not_left_blank():
    for values in (np.array([1.0, -1e300]), np.array([1e39, np.inf])):
        for draw in (lambda given: figures.bars(given, ["a", "b"]), lambda given: figures.array(xr.DataArray(given))):
            with pytest.raises(RangeError, match=r"values of size up to 1e\+3.*numbers up to 3.4e\+38"):
                draw(values)
    figures.bars(np.array([np.inf, np.nan, 3e38]), list("abc"))
