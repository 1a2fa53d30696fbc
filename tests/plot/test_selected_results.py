"""Figures of a part of a result: what was taken is named, measured against its own baseline, and labelled as it was."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from test_titles import METRIC, OTHERS, PROMPTS, QUIET, said
from two_stacks import build_pair, random_prompts

from interp import HookedTransformer, ShapeError, TransformerConfig, Vocabulary
from interp.discovery import edge_scores, faithfulness_curve
from interp.lens import direct_attribution, expand_logits
from interp.metrics.kinds import Logit
from interp.patching import sweep
from interp.plot import attention, figures
from interp.plot.sankey import _along
from interp.weights import composition_scores, singular_directions

TWO = {"right": Logit("a"), "wrong": Logit("b")}


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    words = Vocabulary(["!", "a", "b", " c", "d"], sep="")
    sizes: dict[str, Any] = {"n_layers": 2, "d_model": 12, "n_heads": 2, "n_ctx": 9, "d_vocab": 5}
    torch.manual_seed(0)
    return HookedTransformer(TransformerConfig(**sizes, init_std=0.3), words)


def values(figure: go.Figure) -> np.ndarray:
    return np.asarray(figure.data[0].z)  # pyright: ignore[reportAttributeAccessIssue]


def test_one_of_several_metrics_taken_before_is_the_one_that_is_named_and_measured(model: HookedTransformer):
    result = sweep(model, OTHERS, PROMPTS, TWO, "z", ("layer", "head"), **QUIET)
    whole = figures.sweep(result, "wrong")
    for taken in (result.sel(metric="wrong"), result.isel(metric=1), result.sel(metric=["wrong"])):
        for figure in (figures.sweep(taken), figures.sweep(taken, "wrong")):
            np.testing.assert_array_equal(values(figure), values(whole))
            assert said(figure) == said(whole)
    np.testing.assert_array_equal(values(figures.sweep(result.isel(metric=[1, 0]), "wrong")), values(whole))
    for draw in (figures.array, figures.sweep):
        assert "wrong, mean of 2 prompts" in said(draw(result.sel(metric="wrong")))
        assert "logit of" not in said(draw(result.sel(metric="wrong")))


def test_a_curve_of_one_of_several_metrics_is_named_by_it(model: HookedTransformer):
    scores = edge_scores(model, OTHERS[:1], PROMPTS[:1], METRIC, **QUIET)
    curve = faithfulness_curve(model, OTHERS[:1], PROMPTS[:1], TWO, scores=scores, **QUIET)
    of_one = figures.faithfulness(curve.sel(metric="wrong"))
    assert said(of_one) == said(figures.faithfulness(curve, "wrong"))
    assert "wrong, denoising" in said(of_one) or "wrong, noising" in said(of_one)


def test_what_was_taken_along_any_axis_is_in_the_title(model: HookedTransformer):
    edges = edge_scores(model, OTHERS, PROMPTS, METRIC, **QUIET)
    reader = str(edges["reader"].values[-1])
    assert f"reader {reader}" in said(figures.array(edges.sel(reader=reader)))
    composed = composition_scores(model).sel(kind="V", writer_layer=0, reader_layer=1)
    assert "writer layer 0, reader layer 1, kind V" in said(figures.array(composed))
    _, cache = model.run_with_cache(PROMPTS)
    found = direct_attribution(cache, "a", pos=-1)
    assert "component 0_mlp_out" in said(figures.array(found.sel(component="0_mlp_out"), "attribution"))


def test_parts_of_a_logit_that_were_chosen_do_not_pass_for_all_of_it(model: HookedTransformer):
    _, cache = model.run_with_cache(PROMPTS[:1])
    for by in ("component", "head"):
        found = direct_attribution(cache, "a", "b", by=by, pos=-1).isel(prompt=0)
        logit = float(found.logit)
        assert f": {logit:.3f}" in said(figures.contributions(found)) and "which sum to it" in said(
            figures.contributions(found)
        )
        axis = "component" if by == "component" else "layer"
        part = said(figures.contributions(found.isel({axis: [1]})))
        assert f": {logit:.3f}" in part and "of its parts, which sum to " in part and "sum to it" not in part
    with pytest.raises(ShapeError, match="keep the axis component"):
        figures.contributions(direct_attribution(cache, "a", pos=-1).isel(component=1))


def test_singular_directions_that_were_chosen_keep_their_numbers_and_their_tokens(model: HookedTransformer):
    found = singular_directions(model, 1, 0)
    for taken, labels in ((found.isel(direction=[3, 1]), ["3", "1"]), (found.isel(direction=2), ["2"])):
        figure: Any = figures.singular_directions(taken)
        assert list(figure.layout.yaxis.ticktext) == labels
        whole: Any = figures.singular_directions(found)
        for place, number in enumerate(map(int, labels)):
            assert figure.data[0].text[place] == whole.data[0].text[number]
    for cut in (found.sel(end="+"), found.isel(end=[0]), found.isel(top=0)):
        with pytest.raises(ShapeError, match="both ends"):
            figures.singular_directions(cut)


def test_figures_of_an_explorer_say_which_run_they_are_of_and_what_they_measure(model: HookedTransformer):
    (_, base), (_, other) = (model.run_with_cache(text) for text in (PROMPTS[0], OTHERS[0]))
    two = attention(base, patched=other, correct="a", incorrect="b", run_names=("base", "tuned"))
    for run, name in (("clean", "base"), ("patched", "tuned"), ("difference", "tuned \u2212 base")):
        one: Any = two.figure(1, 0, "contribution", run)  # pyright: ignore[reportArgumentType]
        layer: Any = two.layer_figure(1, "weighted", run)  # pyright: ignore[reportArgumentType]
        assert (one.layout.title.text, layer.layout.title.text) == (f"L1H0, {name}", name)
        measured = one.layout.coloraxis.colorbar.title.text.replace("<br>", " ")
        assert measured.startswith("contribution to logit “a” \u2212 logit “b”")
        assert "attention \u00d7 |v W_O|" in layer.layout.coloraxis.colorbar.title.text.replace("<br>", " ")
    alone: Any = attention(base).figure(1, 0)
    assert alone.layout.title.text == "L1H0"


def test_paths_from_cross_attention_start_at_its_layer():
    model = build_pair("t5_like", dtype=torch.float32)
    prompts = random_prompts(model, seed=1, n=1)
    rows = expand_logits(model.run_with_cache(prompts)[1].decoder, 1, **QUIET)
    assert _along("embed")[0] < _along("L1H0")[0] < _along("1_cross_attn_out")[0] < _along("logit")[0]
    figure: Any = figures.path_sankey(rows, len(rows), pos=-1)
    at = dict(zip(figure.data[0].node.label, figure.data[0].node.x, strict=True))
    assert at["embed"] < at["0_cross_attn_out"] < at["L1H0"] < at["1_cross_attn_out"] < at["logit"], at


def test_scores_whose_names_differ_in_their_case_have_badges_that_differ(model: HookedTransformer):
    _, cache = model.run_with_cache(PROMPTS[0])
    scores = {"q": np.zeros((2, 2)), "Q": np.zeros((2, 2)), "prev": np.zeros((2, 2)), "previous": np.zeros((2, 2))}
    shorts = [score.short for score in attention(cache, scores=scores).stacks["decoder"].scores]
    assert len(set(shorts)) == 4, shorts
