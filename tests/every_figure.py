"""A figure of every kind, small and as large as a real model makes them, with labels and titles that need room."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
import xarray as xr

from circuits import gallery
from interp import HookedTransformer, LogitAttribution, TransformerConfig, Vocabulary
from interp.discovery import Subgraph, edge_scores
from interp.metrics.kinds import LogitDifference
from interp.plot import figures
from interp.weights import composition_scores, ov_circuit, singular_directions, top_entries

TOKENS = ["When", "Mary", "and", "John", "went", "to", "the", "store", ",", "John", "gave", "a", "drink", "to"]
SENTENCE = ["The", "chicken", "didn't", "cross", "the", "internationalization", "road", "because", "it"]
SENTENCE += ["was", "</b>", "tired"]
LAYERS, HEADS = 30, 12


def every_figure() -> dict[str, go.Figure]:
    """Figures by name, the same each time; what comes before the first space is the function of `figures`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return dict([*of_patterns(), *of_results(), *of_attributions(), *of_weights(), *of_circuits(), *of_numbers()])


def of_patterns() -> Iterator[tuple[str, go.Figure]]:
    def pattern(*shape: int) -> torch.Tensor:
        return torch.softmax(2 * torch.randn(*shape), -1)

    tokens, source = SENTENCE[:5], ["the", "red", "house", "is", "."]
    yield "pattern", figures.pattern(torch.eye(len(SENTENCE)), SENTENCE, title="L5H1")
    yield "pattern across", figures.pattern(pattern(3, 5), ["la", "maison", "rouge"], source, title="L1X0")
    yield (
        "patterns few",
        figures.patterns(pattern(6, 5, 5), tokens, title="Six heads", attention_dir="bidirectional"),
    )
    yield "patterns many", figures.patterns(torch.eye(30).expand(20, 30, 30), ["word"] * 30, title="Twenty heads")
    flow = {(layer, head): pattern(12, 12) for layer in (5, 9) for head in range(2)}
    yield "token_flow", figures.token_flow(flow, SENTENCE, title="Where information can move")


def of_results() -> Iterator[tuple[str, go.Figure]]:
    about = {"n": 8, "baseline": -5.4891, "target": 6.1204, "metric": "logit difference ' Mary' - ' John' at -1",
             "direction": "denoising", "ablation": "none", "site": "resid_pre", "values": "metric"}  # fmt: skip
    coords = {"layer": range(LAYERS), "pos": range(len(TOKENS)), "token": ("pos", TOKENS)}
    values = torch.randn(LAYERS, len(TOKENS)).numpy()
    yield "sweep", figures.sweep(xr.DataArray(values, coords, ("layer", "pos"), "value", about))
    flat = xr.DataArray(np.full((1, 4), about["baseline"]), dims=("layer", "head"), name="value", attrs=about)
    yield "sweep without a change", figures.sweep(flat)
    of_heads = xr.DataArray(torch.randn(LAYERS, HEADS), dims=("layer", "head"), name="value", attrs=about)
    yield "sweep of heads", figures.sweep(of_heads.assign_attrs(site="z", ablation="Zero()", direction="noising"))
    yield "sweep of layers", figures.sweep(xr.DataArray(values[:, 0], dims="layer", name="value", attrs=about))
    for definition in (
        "mean attention to the position before",
        "prefix matching: " + "attention to what followed " * 4,
    ):
        score = xr.DataArray(torch.rand(LAYERS, HEADS), dims=("layer", "head"), name="some_score")
        yield f"head_scores {len(definition)}", figures.head_scores(score.assign_attrs(definition=definition, n=16))
    yield "array", figures.array(xr.DataArray(torch.randn(40, 12) / 1e5, dims=("reader", "writer"), name="tiny"))


def of_attributions() -> Iterator[tuple[str, go.Figure]]:
    labels = [f"{layer}_{part}_out" for layer in range(12) for part in ("attn", "mlp")]
    rows = LogitAttribution(torch.randn(len(labels), 1, 1), labels)
    yield "contributions", figures.contributions(rows)
    labels = ["embed", *(f"{layer}_mlp_out" for layer in range(12)), "embed -> L3H1", "embed -> L3H1 -> L5H0", "L5H2"]
    rows = LogitAttribution(torch.randn(len(labels), 1, 1), labels)
    yield "paths", figures.paths(rows, 6)
    yield "path_sankey", figures.path_sankey(rows)
    probabilities = torch.softmax(4 * torch.randn(LAYERS, len(TOKENS), 3), -1).sort(-1, descending=True).values.numpy()
    words = np.random.default_rng(0).choice([*SENTENCE, " a", "\n", "⏎"], probabilities.shape)
    axes = ("layer", "pos", "top")
    lens = {"top_token": (axes, words.astype(object)), "top_prob": (axes, probabilities)}
    lens |= {"kl": (axes[:2], probabilities[..., 0])}
    coords = {"layer": [f"{i}_pre" for i in range(LAYERS)], "pos": range(len(TOKENS)), "token": ("pos", TOKENS)}
    yield "lens", figures.lens(xr.Dataset(lens, coords, {"n": 1}))


def small() -> HookedTransformer:
    words = Vocabulary(["!", "a", "b", " c", "internationalization"], sep="")
    sizes: dict[str, Any] = {"n_layers": 2, "d_model": 12, "n_heads": 2, "n_ctx": 9, "d_vocab": 5}
    return HookedTransformer(TransformerConfig(**sizes, init_std=0.3), words)


def of_weights() -> Iterator[tuple[str, go.Figure]]:
    model = small()
    circuit = ov_circuit(model, 1, 0)
    yield "composition", figures.composition(composition_scores(model), "K")
    yield "eigenvalues", figures.eigenvalues(circuit, title="OV of L1H0")
    yield "singular_directions", figures.singular_directions(singular_directions(model, 1, 0))
    for per_row in (False, True):
        entries = top_entries(circuit, 5, per_row=per_row, progress=False)
        yield f"token_table {per_row}", figures.token_table(entries, model, "OV", title="What L1H0 writes")


def of_circuits() -> Iterator[tuple[str, go.Figure]]:
    for name in ("dyck2", "sort", "addition_2"):
        yield f"circuit {name}", figures.circuit(gallery.entries()[name].build(), title=name)
    yield "circuit of a pair", figures.circuit(gallery.pair("translate").build(), title="translate")
    model, prompt, metric = small(), "!ab!ab c", LogitDifference("a", "b")
    scores = edge_scores(model, "!bb!aa c", prompt, metric, progress=False)
    yield "circuit found", figures.circuit(Subgraph.top(scores, 16), scores=scores)
    share = np.array([[0.0, 0.4, 0.9, 1.0], [0.0, -0.4, 0.3, 1.0]])
    axes = ("scores", "size")
    curves = {"faithfulness": share, "faithfulness_ci_low": share - 0.5, "faithfulness_ci_high": share + 0.5}
    curves |= {"n_edges": share * 0 + 9, "n_pruned": share * 0 + 8}
    about = {"metric": "a logit", "direction": "noising", "ablation": "Zero()", "n": 8, "ratio": "of means"}
    sizes = {"scores": ["eap_ig", "random"], "size": [0.01, 0.02, 0.1, 1.0]}
    yield "faithfulness", figures.faithfulness(xr.Dataset({k: (axes, v) for k, v in curves.items()}, sizes, about))


def of_numbers() -> Iterator[tuple[str, go.Figure]]:
    losses = {f"seed {i}": (3 - np.arange(200) / 100).tolist() for i in range(3)}
    levels = {"ln d_vocab": 3.2, "bigrams": 3.1, "nothing left to learn": 1.1}
    marks = {"phase change": 80, "another change": 86, "the end": 190}
    yield "loss_curves", figures.loss_curves(losses, phase_changes=marks, levels=levels, title="Losses in training")
    yield "curves", figures.curves({f"curve {i}": (np.arange(9), np.arange(9) * i * 1e-5) for i in range(9)}, x="step")
    words = [["a", "b", "c"], ["abcdefghi", "", "⏎"]]
    numbers = np.array([[-1.0, -0.5, 0.0], [0.4, 0.6, 1.0]])
    yield "heatmap", figures.heatmap(numbers, ["one", "two"], "abc", title="Texts", signed=True, text=words)
    many = [f"a label that is far too long {i}" for i in range(40)]
    yield "heatmap dense", figures.heatmap(torch.rand(40, 40), many, many, title="Labels\nbelow " * 9, x="to")
    yield "heatmaps", figures.heatmaps(torch.rand(5, 3, 3), list("abcde"), SENTENCE[:3], SENTENCE[3:6], x="to")
    texts = ["say something", "more here and there", "end"]
    yield "bars", figures.bars(np.array([0.3, -2, 1e-4]), [*many[:2], "c"], title="Bars\nwith texts", text=texts)
    shown = {"edge": ["embed -> L0H0.q", *many[:3]], "estimate": [0.25, -1.5, 0, 1e-5]}
    yield "table", figures.table(shown, title="The largest edges", signed="estimate")
