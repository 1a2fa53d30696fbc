"""What the methods' docstrings claim ("blind to", "exact where"), each shown by a circuit built for it."""

from typing import Any

import numpy as np
import pytest
import torch
from gallery_tasks import METHODS
from small import edge_runs, scores_of, small_model, small_pair

from circuits import Circuit, copy, match, shift
from interp import ConfigError, HookedTransformer
from interp.discovery import MethodName, Subgraph, edge_scores
from interp.metrics import KLDivergence, Logit, LogitDifference

YES = LogitDifference("y", "n")


def score(model: HookedTransformer, corrupted: str, clean: str, edge: str, method: MethodName, **options: Any) -> float:
    """One edge's score; by default in whether the model says yes."""
    metric = options.pop("metric", YES)
    scores = edge_scores(model, corrupted, clean, metric, method, probe=0, progress=False, **options)
    writer, reader = edge.split(" -> ")
    return float(scores.sel(writer=writer, reader=reader))


def gate(values: dict[str, int]) -> HookedTransformer:
    """How many of the two words before the last position are x, as y or n: the label whose value is nearest.

    Two heads count one word each, and the MLP of their layer answers.
    """
    c = Circuit("!xony", n_ctx=4)
    count = c.space("count", ["x"])
    for back in (1, 2):
        c.head(
            0, f"{back} back", qk=match(c.pos, c.pos, shift(back)), ov=copy(c.tok, count, {"x": "x"}), sink=0, sharp=80
        )
    c.bucket(0, "answer", count, c.out, values)
    return c.compile(dtype=torch.float64)


OR, AND = {"n": 0, "y": 1}, {"n": 1, "y": 2}
BOTH, NEITHER = "!xxo", "!ooo"
INPUTS = ["L0H0 -> L0.mlp", "L0H1 -> L0.mlp"]


def test_the_gates_do_what_they_are_called():
    for values, least in ((OR, 1), (AND, 2)):
        model = gate(values)
        for text in (BOTH, "!oxo", "!xoo", NEITHER):
            difference = YES(model(text).detach(), model)
            assert float(difference) == pytest.approx(1 if text.count("x") >= least else -1)


def test_noising_is_blind_to_each_edge_into_an_or_gate_and_denoising_sees_it():
    model = gate(OR)
    for edge in INPUTS:
        for method in ("exact", "eap", "qk", "local"):
            assert score(model, NEITHER, BOTH, edge, method) == pytest.approx(0, abs=1e-12)
        assert score(model, NEITHER, BOTH, edge, "exact", direction="denoising") == pytest.approx(2)
    runs = edge_runs(model, NEITHER, BOTH, YES)
    together = Subgraph.of_names(model, INPUTS).mask.double()[None]
    assert float(runs.metrics(together) - runs.measured.baseline) == pytest.approx(-2)


def test_denoising_is_blind_to_each_edge_into_an_and_gate_and_noising_sees_it():
    model = gate(AND)
    for edge in INPUTS:
        assert score(model, NEITHER, BOTH, edge, "exact") == pytest.approx(-2)
        for method in ("exact", "eap", "qk", "local"):
            assert score(model, NEITHER, BOTH, edge, method, direction="denoising") == pytest.approx(0, abs=1e-12)


def test_eap_ig_sees_both_gates_in_both_directions():
    for values in (OR, AND):
        for direction in ("noising", "denoising"):
            for edge in INPUTS:
                assert abs(score(gate(values), NEITHER, BOTH, edge, "eap_ig", direction=direction, steps=8)) > 0.2


# ---------------------------------------------------------------------------------------------- saturation


def induction(sharp: float) -> HookedTransformer:
    """The word after the earlier occurrence of the last word."""
    c = Circuit("xzabcdefg", n_ctx=9)
    previous = c.space("previous", c.tok)
    c.head(0, "previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, previous), sink=0, sharp=200)
    c.head(1, "induction", qk=match(c.tok, previous), ov=8 * copy(c.tok, c.out), sink=0, sharp=sharp)
    return c.compile(dtype=torch.float64)


def test_a_saturated_pattern_hides_its_keys_from_eap_and_gim_but_not_from_what_computes_it_anew():
    model, clean, corrupted = induction(32), "xabcdefga", "xzbcdefga"

    def of(method: MethodName) -> float:
        return score(model, corrupted, clean, "L0H0 -> L1H0.k", method, metric=Logit("b"))

    exact = of("exact")
    assert exact == pytest.approx(-64 / 9)
    assert abs(of("eap")) < 1e-9
    assert 1e-9 < abs(of("gim")) < 1e-3  # at T = 2 it is less saturated, and still is
    for method in ("qk", "local", "local_ig"):
        assert of(method) == pytest.approx(exact, abs=1e-9)
    assert abs(of("combined")) == pytest.approx(-exact, abs=1e-9)


def test_gim_sees_what_eap_sees_of_a_pattern_that_is_less_sharp():
    model, clean, corrupted = induction(8), "xabcdefga", "xzbcdefga"
    exact, eap, gim = (
        score(model, corrupted, clean, "L0H0 -> L1H0.k", method, metric=Logit("b"))
        for method in ("exact", "eap", "gim")
    )
    assert abs(eap) < abs(exact) / 40
    assert abs(exact) / 5 < abs(gim) < abs(exact) / 3


def threshold() -> HookedTransformer:
    """Whether the word before is x: a head copies a number, and the MLP says yes from a half of it on, for certain."""
    c = Circuit("!xony", n_ctx=4)
    count = c.space("count", ["x"])
    c.head(0, "back", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, count, {"x": "x"}), sink=0, sharp=80)
    c.bucket(0, "answer", count, c.out, {"n": 0, "y": 0.5})
    return c.compile(dtype=torch.float64)


def test_local_is_blind_where_what_follows_saturates_and_eap_ig_is_not():
    model, clean, corrupted = threshold(), "!oxo", "!ooo"
    into_the_head, into_the_mlp = "embed -> L0H0.v", "L0H0 -> L0.mlp"
    for edge in (into_the_head, into_the_mlp):
        assert score(model, corrupted, clean, edge, "exact") == pytest.approx(-2)
        assert score(model, corrupted, clean, edge, "eap") == 0
    for method in ("local", "qk"):
        assert score(model, corrupted, clean, into_the_head, method) == 0
    assert score(model, corrupted, clean, into_the_mlp, "local") == pytest.approx(-2)  # it computes that MLP anew
    for method in ("eap_ig", "local_ig"):
        assert abs(score(model, corrupted, clean, into_the_head, method, steps=20)) > 0.5
    assert score(model, corrupted, clean, into_the_head, "combined", steps=20) > 0.5


# ---------------------------------------------------------------------------------------------- cancellation


def test_edges_that_cancel_are_hidden_by_a_signed_sum_and_shown_by_sizes():
    c = Circuit("!abc", n_ctx=4)
    for name, sign in (("for", 1), ("against", -1)):
        c.head(0, name, qk=match(c.pos, c.pos, shift(1)), ov=sign * copy(c.tok, c.out), sink=0, sharp=80)
    c.head(0, "rest", qk=match(c.pos, c.pos), ov=0.25 * copy(c.tok, c.out), sink=0, sharp=80)
    model = c.compile(dtype=torch.float64)
    for method in METHODS:
        scores = edge_scores(model, "!acb", "!abb", Logit("b"), method, probe=0, progress=False)
        of_heads = scores.sel(reader="logits", writer=["L0H0", "L0H1", "L0H2"]).values
        if method == "combined":
            assert np.allclose(of_heads, [1, 1, 0])
        else:
            assert np.allclose(of_heads, [-1, 1, 0])
            assert abs(of_heads.sum()) < 1e-12
        assert {"L0H0 -> logits", "L0H1 -> logits"} <= set(Subgraph.top(scores, 6).names)
    runs = edge_runs(model, "!acb", "!abb", Logit("b"))
    both = Subgraph.of_names(model, ["L0H0 -> logits", "L0H1 -> logits"]).mask.double()[None]
    assert float(runs.metrics(both) - runs.measured.baseline) == pytest.approx(0, abs=1e-12)


# ---------------------------------------------------------------------------------------------- metrics and signs


def test_a_divergence_has_no_gradient_at_its_reference_so_that_methods_that_stand_there_refuse_it():
    model, (corrupted, clean) = small_model({}, 1), small_pair(1)
    logits = model(clean).detach().requires_grad_()
    KLDivergence(model(clean).detach())(logits).sum().backward()
    assert logits.grad is not None and float(logits.grad.abs().max()) < 1e-15
    for method in ("eap", "qk", "gim"):
        with pytest.raises(ConfigError, match="KL"):
            edge_scores(model, corrupted, clean, KLDivergence(), method, probe=0, progress=False)
    for method in ("exact", "eap_ig"):
        scores = edge_scores(model, corrupted, clean, KLDivergence(), method, probe=0, progress=False)
        assert float(abs(scores).max()) > 1e-3


def test_combined_is_a_size_and_no_smaller_than_either_of_its_two():
    model, (corrupted, clean) = small_model({}, 2), small_pair(2)
    both = {method: scores_of(model, corrupted, clean, method) for method in ("local", "eap_ig", "combined")}
    sizes = np.maximum(abs(both["local"]), abs(both["eap_ig"]))
    assert np.allclose(both["combined"], sizes, equal_nan=True, atol=1e-14)
    assert np.nanmin(both["combined"]) >= 0
