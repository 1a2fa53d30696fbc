"""What figures say of the results that they draw: all that `attrs` say of what was done, and nothing else."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
import xarray as xr

import interp
from circuits import gallery
from interp import ActivationCache, ConfigError, HookedTransformer, TransformerConfig, Vocabulary
from interp.data import PromptPairs
from interp.discovery import (
    Subgraph,
    acdc,
    completeness,
    edge_scores,
    edge_scores_dataset,
    faithfulness,
    faithfulness_curve,
    faithfulness_curve_dataset,
    faithfulness_dataset,
    from_mib,
    minimality,
    node_scores,
    stability,
    to_mib,
)
from interp.harvest import loss_recovered
from interp.heads import cross_scores_of, head_scores, head_scores_of
from interp.interventions import Mean, Resample, Zero
from interp.lens import direct_attribution, expand_logits, expand_scores, logit_lens
from interp.metrics.kinds import Logit, LogitDifference
from interp.patching import path_sweep, path_sweep_dataset, path_tree, sweep, sweep_dataset, sweep_sites
from interp.plot import figures
from interp.similarity import similarity_attribution
from interp.weights import composition_scores, copying_scores, copying_top_scores, singular_directions

PROMPTS = ["!ab!ab c", "!ad!ab c"]
OTHERS = ["!dd!ad c", "!db!aa c"]
METRIC = LogitDifference("a", "b")
QUIET: dict[str, Any] = {"progress": False}


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    words = Vocabulary(["!", "a", "b", " c", "d"], sep="")
    torch.manual_seed(0)
    return HookedTransformer(
        TransformerConfig(n_layers=2, d_model=12, n_heads=2, n_ctx=9, d_vocab=5, init_std=0.3), words
    )


@pytest.fixture(scope="module")
def cache(model: HookedTransformer) -> ActivationCache:
    return model.run_with_cache(PROMPTS)[1]


def said(figure: go.Figure) -> str:
    """Title and subtitle in one line, as a reader sees them."""
    title = figure.layout.title
    return f"{title.text} {title.subtitle.text or ''}".replace("<br>", "").replace("&gt;", ">").replace("&lt;", "<")


def expected(about: dict[str, Any]) -> Iterator[str]:
    """What has to be in a title, by what the result says was done."""
    kind = str(about.get("ablation", "none"))
    if kind != "none":
        yield f"{kind.partition('(')[0].lower()} ablation"
    elif about.get("direction"):
        yield str(about["direction"])
    for name in ("site", "receivers", "paths", "method", "definition", "circuit", "metric", "intervention", "pooling",
                 "stack", "n_texts", "n_tokens", "ranking", "samples", "n_edges"):  # fmt: skip
        if about.get(name):
            yield str(about[name])
    for name in ("correct", "incorrect"):
        if about.get(name, "none") != "none":
            yield f"logit {about[name]}"
    if about.get("n", 1) > 1:
        yield str(about["n"])
    if about.get("n", 1) > 1 and about.get("ratio"):
        yield f"ratio {about['ratio']}"
    if about.get("norms") == "frozen":
        yield "norms frozen"
    if about.get("fold_norms"):
        yield "folded into the weights"
    if about.get("edited"):
        yield "edited run"


SAID = {"ablation", "direction", "site", "receivers", "paths", "method", "definition", "circuit", "metric", "pooling"}
SAID |= {"intervention", "stack", "n_texts", "n_tokens", "ranking", "samples", "n_edges", "correct", "incorrect", "n"}
SAID |= {"ratio", "norms", "fold_norms", "edited"}
"""What `expected` looks for."""

ELSEWHERE = {
    "the axes, the colours or the ends of the scale show it": {
        "baseline", "target", "empty", "values", "granularity", "positions", "unit", "kl", "by", "graph", "undefined",
        "confidence", "metrics"},
    "a number for whoever computes further": {
        "model", "pairs", "seed", "length", "prompts", "n_sets", "n_unchanged", "n_ctx", "packed", "steps", "include",
        "mlps", "n_pos"},
}  # fmt: skip
"""What results say that is no part of a title, and why; what begins with `probe_` is of the second kind."""

Told = tuple[str, dict[str, Any]]
"""The title of a figure, and what the result that it draws says of itself."""


def drawn_by(draw: Callable[..., go.Figure], result: Any, *rest: Any, **options: Any) -> Told:
    return said(draw(result, *rest, **options)), dict(result.attrs)


@dataclass
class Results:
    """Results of each kind, made when a case asks for them."""

    model: HookedTransformer
    cache: ActivationCache

    @cached_property
    def sources(self) -> list[Any]:
        return [OTHERS, Zero(), Mean(self.cache), Resample(self.cache)]

    @cached_property
    def scores(self) -> xr.DataArray:
        return edge_scores(self.model, OTHERS, PROMPTS, METRIC, **QUIET)

    @cached_property
    def pairs(self) -> PromptPairs:
        return PromptPairs(PROMPTS, OTHERS, ["a", "b"], ["b", "d"])

    @cached_property
    def two_stacks(self) -> tuple[Any, Any, Any]:
        """A model of two stacks, and two pairs of texts."""
        model = gallery.pair("translate").build().compile()
        return model, ("<s> the red flower .", "la maison rouge"), ("<s> the red house .", "la maison rouge")

    # ------------------------------------------------------------------ patching

    def sweep(self) -> Iterator[Told]:
        for source in self.sources:
            yield drawn_by(figures.sweep, sweep(self.model, source, PROMPTS, METRIC, direction="noising", **QUIET))
        for site in ("z", "attn_out"):
            result = sweep(self.model, OTHERS, PROMPTS, METRIC, site, ("layer",), normalize=True, **QUIET)
            yield drawn_by(figures.sweep, result)
            yield drawn_by(figures.array, result)
        model, corrupted, clean = self.two_stacks
        metric = LogitDifference("maison", "fleur", pos=1)
        for site in (("resid_post", "encoder"), ("pattern", "cross_attn")):
            yield drawn_by(figures.sweep, sweep(model, corrupted, clean, metric, site, **QUIET))

    def sweep_sites(self) -> Iterator[Told]:
        metrics = {"right": Logit("a"), "wrong": Logit("b")}
        both = sweep_sites(self.model, OTHERS, PROMPTS, metrics, ["q", "v"], **QUIET)
        title, about = drawn_by(figures.sweep, both["v"], "wrong")
        yield title, about | {"metric": "wrong"}

    def path_sweep(self) -> Iterator[Told]:
        for source in self.sources:
            receivers = ["L1H0.q", "L1H1.k"]
            yield drawn_by(figures.sweep, path_sweep(self.model, source, PROMPTS, METRIC, receivers, **QUIET))
            how: Any = {"mlps": "frozen", "norms": "frozen"}
            yield drawn_by(figures.sweep, path_sweep(self.model, source, PROMPTS, METRIC, "logits", **how, **QUIET))
        named = path_sweep(self.model, OTHERS, PROMPTS, METRIC, "logits", senders=["embed", "L0.mlp"], **QUIET)
        figure = figures.sweep(named)
        assert list(figure.layout.yaxis.ticktext) == ["embed", "L0.mlp"]
        yield said(figure), named.attrs

    def path_tree(self) -> Iterator[Told]:
        metrics = {"right": Logit("a"), "wrong": Logit("b")}
        for source in self.sources:
            yield drawn_by(
                figures.array, path_tree(self.model, source, PROMPTS, metrics, [["L0H1", "L1H0.v", "logits"]])
            )

    def sweep_dataset(self) -> Iterator[Told]:
        for ablation in (None, Zero()):
            how: Any = {"ablation": ablation} if ablation else {}
            yield drawn_by(figures.sweep, sweep_dataset(self.model, self.pairs, site="z", **how, **QUIET))

    def path_sweep_dataset(self) -> Iterator[Told]:
        yield drawn_by(figures.sweep, path_sweep_dataset(self.model, self.pairs, receivers=["L1H0.q"], **QUIET))

    # ------------------------------------------------------------------ discovery

    def edge_scores(self) -> Iterator[Told]:
        for source in self.sources:
            scores = edge_scores(self.model, source, PROMPTS, METRIC, **QUIET)
            yield drawn_by(figures.array, scores)
            yield said(figures.circuit(Subgraph.top(scores, 4), scores=scores)), dict(scores.attrs) | {"n": 1}

    def edge_scores_dataset(self) -> Iterator[Told]:
        yield drawn_by(figures.array, edge_scores_dataset(self.model, self.pairs, **QUIET))

    def node_scores(self) -> Iterator[Told]:
        yield drawn_by(figures.array, node_scores(self.model, Zero(), PROMPTS, METRIC, norms="frozen", **QUIET))

    def faithfulness(self) -> Iterator[Told]:
        circuits = {"small": Subgraph.top(self.scores, 3), "large": Subgraph.top(self.scores, 30)}
        found = faithfulness(self.model, circuits, Zero(), PROMPTS[:1], METRIC, **QUIET)
        yield drawn_by(figures.array, found, "faithfulness")
        yield drawn_by(figures.array, found, "value")

    def faithfulness_dataset(self) -> Iterator[Told]:
        circuits = [Subgraph.top(self.scores, n) for n in (3, 30)]
        how: Any = {"ablation": Zero()} | QUIET
        yield drawn_by(figures.array, faithfulness_dataset(self.model, self.wide, circuits, Logit("a"), **how), "value")

    @property
    def wide(self) -> PromptPairs:
        """Pairs of which one metric has much the same value."""
        return PromptPairs([PROMPTS[0]] * 2, [OTHERS[0]] * 2, ["a", "a"], ["b", "b"])

    def faithfulness_curve(self) -> Iterator[Told]:
        for source in self.sources[:3]:  # a resampled prompt may be the prompt itself: then there is no gap
            other = source[:1] if isinstance(source, list) else source
            curve = faithfulness_curve(self.model, other, PROMPTS[:1], METRIC, scores=self.scores, **QUIET)
            yield drawn_by(figures.faithfulness, curve)

    def faithfulness_curve_dataset(self) -> Iterator[Told]:
        how: Any = {"ablation": Zero()} | QUIET
        yield drawn_by(
            figures.faithfulness, faithfulness_curve_dataset(self.model, self.wide, self.scores, Logit("a"), **how)
        )

    def completeness(self) -> Iterator[Told]:
        found = completeness(self.model, Subgraph.top(self.scores, 5), Zero(), PROMPTS, METRIC, samples=1, **QUIET)
        figure = figures.array(found.table, "difference")
        assert set(figure.layout.yaxis.ticktext) >= {"nothing", "random", "circuit"}
        yield said(figure), found.table.attrs | {"samples": ""}
        for removed in found.removed[1:2]:
            yield said(figures.circuit(removed)), {"method": "component"}

    def minimality(self) -> Iterator[Told]:
        circuit = Subgraph.top(self.scores, 5)
        found = minimality(self.model, circuit, Zero(), PROMPTS, METRIC, samples=1, **QUIET)
        yield drawn_by(figures.array, found.table.assign_attrs(samples=""), "effect")

    def stability(self) -> Iterator[Told]:
        three = [*OTHERS, "!dd!ab c"], [*PROMPTS, "!ab!aa c"]
        scores = edge_scores(self.model, *three, METRIC, per_prompt=True, **QUIET)
        yield drawn_by(figures.array, stability(scores, 5, samples=7), "frequency")

    def acdc(self) -> Iterator[Told]:
        found = acdc(self.model, Zero(), PROMPTS[:1], METRIC, threshold=0.01, **QUIET)
        yield (
            said(figures.circuit(found, top_k=1000)),
            {"ablation": "Zero()", "metric": "logit difference", "method": "acdc"},
        )

    def from_mib(self) -> Iterator[Told]:
        circuit, scores = from_mib(self.model, to_mib(Subgraph.top(self.scores, 4), self.scores))
        yield drawn_by(figures.array, scores)
        yield said(figures.circuit(circuit, scores=scores)), {"method": "leaderboard"}

    # ------------------------------------------------------------------ lens, similarity, harvest

    def logit_lens(self) -> Iterator[Told]:
        lens = logit_lens(self.model, PROMPTS, **QUIET).isel(prompt=1)
        yield drawn_by(figures.lens, lens)
        yield drawn_by(figures.array, lens, "kl")

    def direct_attribution(self) -> Iterator[Told]:
        with self.model.intervene(Zero(site="z", layer=0)):
            edited = self.model.run_with_cache(PROMPTS)[1]
        for cache in (self.cache, edited):
            found = direct_attribution(cache, "a", "b", pos=-1)
            yield drawn_by(figures.contributions, found, prompt=1)[0], found.attrs | {"n": 1}
            yield drawn_by(figures.contributions, found.isel(prompt=1))
            yield drawn_by(figures.array, found, "attribution")

    def expand_logits(self) -> Iterator[Told]:
        rows = expand_logits(self.cache, "a", **QUIET)
        for draw in (figures.paths, figures.path_sankey):
            title = said(draw(rows, prompt=1, pos=-1))
            assert title.startswith("Paths to logit 'a'") and "prompt 1; position -1" in title
            yield title, {"n_edges": f"{len(rows):,}"}

    def expand_scores(self) -> Iterator[Told]:
        found = expand_scores(self.cache, 1, 0, **QUIET)
        title, about = drawn_by(figures.array, found.isel(prompt=1, query_pos=-1, key_pos=0))
        assert title.startswith("L1H0 scores, query position 6, attended position 0 ") and title.endswith("prompt 1")
        yield title, about

    def similarity_attribution(self) -> Iterator[Told]:
        found = similarity_attribution(self.model, PROMPTS, OTHERS, pooling="mean")
        yield drawn_by(figures.contributions, found, prompt=0)[0], found.attrs | {"n": 1}
        yield drawn_by(figures.contributions, found.isel(prompt=0))
        yield drawn_by(figures.array, found, "attribution")
        both = similarity_attribution(self.model, PROMPTS, OTHERS, pooling="mean", by="both")
        yield drawn_by(figures.array, both.isel(prompt=1), "attribution")

    def loss_recovered(self) -> Iterator[Told]:
        zero = Zero(site="z", layer=0)
        yield drawn_by(figures.array, loss_recovered(self.model, PROMPTS, zero, n_ctx=6, **QUIET), "loss")

    # ------------------------------------------------------------------ heads and weights

    def head_scores(self) -> Iterator[Told]:
        scores = head_scores(self.model, PROMPTS, **QUIET)
        for name in ("induction", "copying"):
            yield said(figures.head_scores(scores, name)), dict(scores[name].attrs)

    def head_scores_of(self) -> Iterator[Told]:
        scores = head_scores_of(self.cache, PROMPTS)
        yield said(figures.head_scores(scores, "previous_token")), dict(scores["previous_token"].attrs)

    def cross_scores_of(self) -> Iterator[Told]:
        model, (source, target), _ = self.two_stacks
        scores = cross_scores_of(model.run_with_cache(source, target)[1])
        yield said(figures.head_scores(scores, "diagonal")), dict(scores["diagonal"].attrs)

    def copying_scores(self) -> Iterator[Told]:
        for fold in (False, True):
            yield drawn_by(figures.head_scores, copying_scores(self.model, fold_norms=fold))

    def copying_top_scores(self) -> Iterator[Told]:
        yield drawn_by(figures.head_scores, copying_top_scores(self.model))

    def composition_scores(self) -> Iterator[Told]:
        scores = composition_scores(self.model, fold_norms=True)
        yield drawn_by(figures.composition, scores, "K")
        of_one = scores.sel(kind="K", writer_layer=0, writer_head=1)
        title, about = drawn_by(figures.array, of_one)
        assert "writer layer 0, writer head 1" in title
        yield title, about

    def singular_directions(self) -> Iterator[Told]:
        found = singular_directions(self.model, 1, 0, "QK", fold_norms=True)
        yield drawn_by(figures.singular_directions, found)
        yield drawn_by(figures.array, found, "singular_value")


NO_FIGURE = {
    "precision_recall": "three lists of numbers, without words of their own",
    "top_entries": "numbers without words of their own; the caller says which circuit a token table is of",
}
"""Functions of whose results no figure says anything, and why."""

KINDS = ("DataArray", "Dataset", "Subgraph", "LogitAttribution", "Completeness", "Minimality", "PrecisionRecall")
KINDS += ("TopEntries",)
ROOMS = [path.parent.name for path in Path(interp.__file__).parent.glob("*/__init__.py")]


def analyses() -> list[str]:
    """The public functions of all rooms whose results say what was done."""
    found = set()
    for room in sorted({*ROOMS} - {"results", "compat", "plot", "commands"}):
        module = importlib.import_module(f"interp.{room}")
        for name in module.__all__:
            one = getattr(module, name)
            if inspect.isfunction(one) and any(kind in str(one.__annotations__.get("return")) for kind in KINDS):
                found.add(name)
    return sorted(found)


def test_every_kind_of_result_has_a_case_here():
    there = {name for name, one in vars(Results).items() if inspect.isfunction(one) and not name.startswith("_")}
    assert there | set(NO_FIGURE) == set(analyses()) and not there & set(NO_FIGURE)
    drawn = Path(__file__).read_text(encoding="utf-8")
    of_numbers = {"COLORS", "bars", "curves", "heatmap", "heatmaps", "loss_curves", "pattern", "patterns", "table"}
    of_numbers |= {"eigenvalues", "token_table", "token_flow"}  # a title is the caller's
    for name in set(figures.__all__) - of_numbers:
        assert f"figures.{name}" in drawn, f"no result is drawn by figures.{name}"


@pytest.mark.parametrize("name", sorted(set(analyses()) - set(NO_FIGURE)))
def test_every_figure_of_a_result_says_what_its_attrs_say(name: str, model: HookedTransformer, cache: ActivationCache):
    for title, about in getattr(Results(model, cache), name)():
        for words in expected(about):
            assert words.casefold() in title.casefold(), (words, title)
        if about.get("ablation", "none") != "none":
            assert "noising" not in title and "corrupted" not in title
        known = SAID.union(*ELSEWHERE.values())
        assert {key for key in about if not key.startswith("probe_")} <= known, "what of these is to be in a title?"


def test_an_ablation_names_no_prompt_that_did_not_run(model: HookedTransformer):
    figure = figures.sweep(sweep(model, Zero(), PROMPTS[0], METRIC, direction="noising", **QUIET))
    assert said(figure).startswith("Zero ablation of resid_pre ") and "as it is" in said(figure)
    assert figure.layout.xaxis.title.text == "position (tokens of the prompt)"


def test_what_was_taken_of_a_result_is_in_its_title(model: HookedTransformer, cache: ActivationCache):
    of_heads = sweep(model, OTHERS, PROMPTS, METRIC, "z", ("layer", "pos", "head"), **QUIET)
    assert "Patching z, denoising, head 1 " in said(figures.sweep(of_heads.isel(head=1)))
    assert "layer 1, position 2 " in said(figures.sweep(of_heads.isel(layer=1, pos=2)))
    lens = logit_lens(model, PROMPTS, **QUIET)
    assert said(figures.lens(lens.isel(prompt=1))).endswith("prompt 1 of 2")
    assert said(figures.contributions(direct_attribution(cache, "a", pos=-1), prompt=1)).endswith(
        "prompt 1; position 6"
    )
    rows = expand_logits(cache, "a", **QUIET)
    assert said(figures.paths(rows, prompt=0, pos=-1)).endswith("prompt 0; position -1")


def test_of_one_of_several_prompts_the_metric_is_drawn_and_no_mean_of_all(model: HookedTransformer):
    result = sweep(model, OTHERS, PROMPTS, METRIC, per_prompt=True, **QUIET)
    figure = figures.sweep(result.isel(prompt=1))
    xr.testing.assert_allclose(
        xr.DataArray(torch.tensor(figure.data[0].z).numpy()),  # pyright: ignore
        xr.DataArray(result[1].to_numpy()),
        atol=1e-6,
    )
    assert said(figure).endswith("prompt 1 of 2") and "mean" not in said(figure)


def test_a_map_of_single_prompts_draws_the_metric_of_each_and_speaks_of_no_mean(model: HookedTransformer):
    result = sweep(model, OTHERS, PROMPTS, METRIC, "attn_out", ("layer",), per_prompt=True, **QUIET)
    figure = figures.sweep(result)
    assert said(figure).endswith("2 prompts") and "mean" not in said(figure)
    assert torch.tensor(figure.data[0].z).allclose(torch.tensor(result.to_numpy()))  # pyright: ignore


def test_a_variable_of_a_data_set_is_drawn_by_name_with_its_intervals(model: HookedTransformer, as_installed: None):
    both = sweep_sites(model, OTHERS, PROMPTS, METRIC, ["q", "v"], **QUIET)
    figure = figures.array(both, "v")
    assert "Patching v, denoising" in said(figure) and "95 % interval" in str(figure.data[0].customdata[0][0])  # pyright: ignore
    with pytest.raises(ConfigError, match="name = 'V'; allowed: q, v"):
        figures.array(both, "V")
    with pytest.raises(ConfigError, match="one array was given"):
        figures.array(both["v"], "v")


def test_names_in_titles_and_labels_are_as_they_are_and_tokens_have_their_spaces_shown():
    about = xr.DataArray([1.0, 2.0], dims="edge", coords={"edge": ["embed -> L0H1.q", "b"]}, name="L1H0 scores")
    figure = figures.array(about.assign_attrs(unit="nats"))
    assert said(figure) == "L1H0 scores nats" and figure.layout.yaxis.ticktext[0] == "embed -&gt; L0H1.q"
    at = about.rename(edge="pos").assign_coords(pos=[0, 1], token=("pos", [" a", "b"]))
    assert figures.array(at).layout.yaxis.ticktext[0] == "·a"


def test_an_array_that_says_nothing_of_itself_has_no_title():
    assert said(figures.array(xr.DataArray([[1.0, 2.0]], dims=("a", "b"), name="n"))).strip() in ("", "None")


def test_attributes_of_a_users_own_are_no_error_where_results_have_others_by_these_names():
    values = np.arange(6.0).reshape(2, 3) - 2
    for about in (
        {"n": "many"}, {"n": 2.5}, {"n": None}, {"n": [3]}, {"n": "2", "ratio": "of means"}, {"correct": " Mary"},
        {"receivers": "logits"}, {"granularity": "paths"}, {"samples": 100}, {"samples": 100, "method": "mine"},
        {"samples": 100, "n_edges": 3}, {"n_texts": 2}, {"n_tokens": 2}, {"site": 3, "direction": None},
        {"metrics": "mine"}, {"metrics": 3},
    ):  # fmt: skip
        own = xr.DataArray(values, dims=("layer", "head"), name="mine", attrs=about)
        for draw in (figures.array, figures.sweep, figures.head_scores):
            assert said(draw(own)).strip(), about
            assert "None prompts" not in said(draw(own)) and "draws of " not in said(draw(own))
        assert "Mine" in said(figures.array(own)) or "site" in about
