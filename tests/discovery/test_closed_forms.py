"""Edge scores whose values are known: formulas, identities, and numbers of fixed models."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import ByHand
from small import ARCHITECTURES, METRIC, MORE, SEPARATE, edge_runs, scores_of, small_model, small_pair
from torch import Tensor

from circuits import Circuit, copy, match, shift
from interp import HookedTransformer
from interp.discovery import EdgeRuns, MethodName, edge_scores
from interp.interventions import Mean, Zero
from interp.metrics import LogitDifference

CHECKED = ["one kv head", "RMS, gated, rotary", "norms on both sides"]
KINDS = [pytest.param(name, marks=[] if name in CHECKED else pytest.mark.apart) for name in MORE]
"""All architectures, of which few where shapes are checked."""

# ---------------------------------------------------------------------------------------------- saturation


def saturated(n: int, gain: float, sharp: float) -> tuple[HookedTransformer, str, str]:
    """Induction over n letters, and a clean text in which one key of n is a match; in the corrupted one none is.

    Of the clean text, "xabc...a", the last letter matches the key after the first a, so that the answer is b. The
    corrupted text has a z in place of that a.
    """
    letters = "abcdefghijklmnopqrstuvw"[: n - 2]
    c = Circuit("xz" + letters, n_ctx=n)
    previous = c.space("previous", c.tok)
    c.head(0, "previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, previous), sink=0, sharp=200)
    c.head(1, "induction", qk=match(c.tok, previous), ov=gain * copy(c.tok, c.out), sink=0, sharp=sharp)
    return c.compile(dtype=torch.float64), f"x{letters}a", f"xz{letters[1:]}a"


def share(score: float, n: int) -> float:
    """What a softmax over n keys gives to the one that scores `score`, the others 0."""
    return math.exp(score) / (math.exp(score) + n - 1)


def saturation_formulas(n: int, gain: float, beta: float, steps: int) -> dict[tuple[MethodName, str], float]:
    """By method and variant: the score of the edge L0H0 -> L1H0.k, in the logit of b minus that of z.

    The clean text has no z. On the way from the corrupted embeddings to the clean ones there is some of it, at one of
    the keys that are no match.
    """
    A, softer = share(beta, n), share(beta / 2, n)
    exact = gain * (1 / n - A)

    def slope(at: float) -> float:
        weight = share(beta * at, n)
        return -gain * beta * weight * (1 - weight) * (1 + (1 - at) / (n - 1))

    run, other = ([slope((k + last) / steps) for k in range(steps)] for last in (1, 0))
    of_z = gain * (steps - 1) / (2 * steps) * (1 / n - (1 - A) / (n - 1))
    return {
        ("exact", "run"): exact,
        ("eap", "run"): slope(1),
        ("eap_ig", "run"): sum(run) / steps,
        ("eap_ig", "other"): sum(other) / steps,
        ("qk", "run"): exact,
        ("local", "run"): exact,
        ("local_ig", "run"): exact - of_z,
        ("gim", "run"): -gain * beta * softer * (1 - softer) / 4,
        ("combined", "run"): max(abs(exact), abs(sum(run) / steps)),
    }


@pytest.mark.parametrize(
    ("n", "gain", "beta", "steps"), [(9, 8, 8, 5), (9, 8, 1, 5), (9, 8, 32, 5), (5, 3, 4, 2), (14, 20, 6, 7)]
)
def test_a_saturated_edge_has_the_scores_that_its_formulas_say(n: int, gain: float, beta: float, steps: int):
    model, clean, corrupted = saturated(n, gain, beta)
    for (method, include), expected in saturation_formulas(n, gain, beta, steps).items():
        options: dict[str, Any] = {"steps": steps, "include": include} if "ig" in method or method == "combined" else {}
        scores = edge_scores(
            model, corrupted, clean, LogitDifference("b", "z"), method, probe=0, progress=False, **options
        )
        assert float(scores.sel(writer="L0H0", reader="L1H0.k")) == pytest.approx(expected, rel=1e-9, abs=1e-12), method


def test_the_formulas_give_the_numbers_that_are_known_at_sharpness_8():
    found = saturation_formulas(9, 8, 8, 5)
    known: dict[tuple[MethodName, str], float] = {
        ("exact", "run"): -7.0897,
        ("eap", "run"): -0.1708,
        ("gim", "run"): -1.7835,
        ("eap_ig", "run"): -6.8598,
        ("eap_ig", "other"): -8.2478,
    }
    for which, value in known.items():
        assert found[which] == pytest.approx(value, abs=5e-5)
    assert saturation_formulas(9, 8, 60, 5)["exact", "run"] == pytest.approx(-64 / 9, abs=1e-9)


# ---------------------------------------------------------------------------------------------- numbers

KNOWN = {  # sum of |score| over edges and prompts; two decimals more by runs with hooks, see by_hand.py
    "two heads": [46, 30.9468026834, 35.3529289604, 26.8587131792, 26.2950590551, 31.1922192791, 32.0730421465],
    "one kv head": [36, 29.1571183091, 31.1643354760, 27.2032263514, 32.4625561519, 29.0724810448, 30.9020256833],
    "parallel": [42, 26.3054442146, 27.9123102461, 23.1683754116, 20.2859979424, 26.5750173025, 26.3142786407],
    "attention-only": [29, 35.2843674222, 32.7037129237, 32.2476607668, 20.2304169970, 32.4606482993, 35.1104257677],
    "RMS, gated, rotary": [
        46,
        60.7791556924,
        54.1184703023,
        51.3586621346,
        24.8491011322,
        54.1614636100,
        56.8315619381,
    ],
}
SUMS_OF: list[MethodName] = ["exact", "eap", "eap_ig", "gim", "qk", "local"]


@pytest.mark.parametrize("name", list(KNOWN))
def test_six_methods_on_fixed_models_give_the_known_sums(name: str):
    model, (corrupted, clean) = small_model(ARCHITECTURES[name]), small_pair()
    n_edges, *sums = KNOWN[name]
    for method, expected in zip(SUMS_OF, sums, strict=True):
        scores = scores_of(model, corrupted, clean, method)
        assert np.isfinite(scores).sum() == 3 * n_edges
        assert float(np.nansum(np.abs(scores))) == pytest.approx(expected, abs=2e-10), method


@pytest.mark.apart
def test_methods_equal_whole_runs_with_hooks_on_every_architecture_and_ablation():
    for seed, name in enumerate(MORE, start=1):
        model, (corrupted, clean) = small_model(MORE[name], seed), small_pair(seed, 2, 4, same=seed % 3)
        ablation = ["zero", "resample", "mean"][seed % 3] if "norms on" not in name else "resample"
        by_hand = ByHand(model, corrupted, clean, METRIC, ablation)
        other: Any = {"resample": corrupted, "zero": Zero()}.get(ablation)
        other = Mean(model.run_with_cache(clean)[1]) if other is None else other
        for method in SEPARATE:
            steps: dict[str, Any] = {"steps": 2} if method.endswith("ig") else {}
            found = scores_of(model, other, clean, method, **steps)
            expected = getattr(by_hand, method)(**steps).numpy()
            assert np.allclose(found, expected, atol=1e-10, rtol=1e-9, equal_nan=True), (name, ablation, method)


# ---------------------------------------------------------------------------------------------- identities


def rows(runs: EdgeRuns, value: float) -> Tensor:
    """One mask that is `value` everywhere."""
    return torch.full((1, len(runs.graph.readers), len(runs.graph.writers)), value, dtype=torch.float64)


def gradient(runs: EdgeRuns, mask: Tensor) -> Tensor:
    """dL/dm of each prompt's metric, [batch, reader, writer], and NaN where there is no edge."""
    model, found = runs.model, []
    for i in range(len(runs.starts)):
        asked = mask.clone().requires_grad_()
        logits = model.unembed(model.ln_final(runs.stream(asked)[0]))
        (slope,) = torch.autograd.grad(METRIC(logits)[i], asked)
        found.append(slope[0])
    return torch.stack(found).masked_fill(~runs.graph.edge_mask(), math.nan)


@pytest.mark.parametrize("name", KINDS)
def test_a_mask_of_zeros_is_the_run_as_it_is_to_the_bit_and_one_of_ones_the_other_run(name: str):
    for seed in (1, 2):
        model, (corrupted, clean) = small_model(MORE[name], seed), small_pair(seed, same=seed)
        runs = edge_runs(model, corrupted, clean)
        assert torch.equal(runs.metrics(rows(runs, 0))[0, 0], runs.measured.baseline[0])
        assert torch.equal(runs.stream(rows(runs, 0))[0], model.run_with_cache(clean)[1]["resid_post", -1])
        difference = runs.metrics(rows(runs, 1))[0, 0] - METRIC(model(corrupted))
        assert float(difference.abs().max()) < 1e-12
        other = model.run_with_cache(corrupted)[1]["resid_post", -1]
        assert float((runs.stream(rows(runs, 1))[0] - other).abs().max()) < 1e-12


@pytest.mark.parametrize("name", KINDS)
def test_the_gradient_in_the_mask_is_eap_at_0_and_nothing_but_embeds_at_1(name: str):
    model, (corrupted, clean) = small_model(MORE[name], 3), small_pair(3, same=1)
    runs = edge_runs(model, corrupted, clean)
    assert np.allclose(
        gradient(runs, rows(runs, 0)), scores_of(model, corrupted, clean, "eap"), atol=1e-12, equal_nan=True
    )
    at_the_other = gradient(runs, rows(runs, 1)).nan_to_num()
    assert float(at_the_other[:, :, 1:].abs().max()) < 1e-12  # all but embed write there what the other run writes
    assert float(at_the_other[:, :, 0].abs().max()) > 1e-3


@pytest.mark.parametrize("name", KINDS)
def test_eap_of_all_that_reads_a_writer_is_attribution_patching_of_the_node(name: str):
    model, (corrupted, clean) = small_model(MORE[name], 4), small_pair(4)
    scores = scores_of(model, corrupted, clean, "eap")
    by_hand = ByHand(model, corrupted, clean, METRIC)
    for number, writer in enumerate(by_hand.graph.writers):
        if writer.head is not None and name == "norms on both sides":
            continue  # there a head's write moves the scale of all heads of its layer, which belongs to no edge
        point, seen = by_hand.point(writer), []
        hook = (point, lambda x, hook, seen=seen: seen.append(x.detach().requires_grad_()) or seen[-1])
        logits = model.run_with_hooks(clean, fwd_hooks=[hook])
        (slope,) = torch.autograd.grad(METRIC(logits).sum(), seen)
        if writer.head is None:
            expected = ((by_hand.other[writer] - by_hand.own[writer]) * slope).flatten(1).sum(1)
        else:
            z = model.run_with_cache(corrupted)[1][point]
            expected = ((z - seen[0]) * slope)[:, :, writer.head].flatten(1).sum(1)
        assert np.allclose(np.nansum(scores[:, :, number], axis=1), expected.detach(), atol=1e-12), str(writer)


@pytest.mark.apart
def test_equal_prompts_give_0_everywhere():
    for fields in MORE.values():
        model, (_, clean) = small_model(fields, 5), small_pair(5)
        for method in SEPARATE:
            with pytest.warns(UserWarning, match="both runs are the same"):
                scores = scores_of(model, clean, clean, method)
            assert not np.nan_to_num(scores).any() and np.isfinite(scores).any()


def test_without_norms_estimates_of_edges_to_the_logits_are_exact():
    model, (corrupted, clean) = small_model(MORE["no norms"], 6), small_pair(6)
    exact = scores_of(model, corrupted, clean, "exact")
    assert np.abs(exact[:, -1]).min() > 1e-4
    for method in ("eap", "eap_ig", "gim", "qk", "local", "local_ig"):
        assert np.allclose(scores_of(model, corrupted, clean, method)[:, -1], exact[:, -1], atol=1e-12), method


@pytest.mark.apart
def test_with_norms_local_alone_is_exact_on_edges_to_the_logits():
    for name, fields in ARCHITECTURES.items():
        model, (corrupted, clean) = small_model(fields, 7), small_pair(7)
        exact = scores_of(model, corrupted, clean, "exact")[:, -1]
        for method in ("local", "local_ig"):
            assert np.allclose(scores_of(model, corrupted, clean, method)[:, -1], exact, atol=1e-12), name
        assert np.abs(scores_of(model, corrupted, clean, "eap")[:, -1] - exact).max() > 1e-2


def integrated(runs: EdgeRuns, edge: str, panels: int) -> float:
    """The gradient of the metric, summed over prompts, in the mask of one edge, integrated from 0 to 1: by 8 Gauss
    nodes in each of several equal parts.
    """
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(8))
    at = ((torch.arange(panels)[:, None] + (nodes + 1) / 2) / panels).flatten().requires_grad_()
    place = torch.zeros_like(rows(runs, 0))
    found = runs.graph.edge(edge)
    place[0, runs.graph.numbers[found.reader], runs.graph.numbers[found.writer]] = 1
    model = runs.model
    logits = model.unembed(model.ln_final(runs.stream(at[:, None, None] * place).flatten(0, 1)))
    (slopes,) = torch.autograd.grad(METRIC(logits).sum(), at)
    return float(slopes @ weights.repeat(panels)) / (2 * panels)


@pytest.mark.parametrize("name", KINDS)
def test_the_gradient_along_one_edges_mask_adds_up_to_its_exact_effect(name: str):
    model, (corrupted, clean) = small_model(MORE[name], 8), small_pair(8)
    runs = edge_runs(model, corrupted, clean)
    exact = edge_scores(model, corrupted, clean, METRIC, "exact", probe=0, progress=False) * len(clean)
    for edge in ("embed -> L0H1.q", "L0H0 -> L1H0.v", "L1H1 -> logits"):
        writer, reader = edge.split(" -> ")
        expected = float(exact.sel(writer=writer, reader=reader))
        assert integrated(runs, edge, 64) == pytest.approx(expected, abs=1e-11), edge
        if name == "no norms" or edge == "L1H1 -> logits":  # norms bend the way of a write that is large beside others
            assert integrated(runs, edge, 1) == pytest.approx(expected, abs=1e-9), edge
