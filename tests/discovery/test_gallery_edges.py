"""Every method on circuits of the gallery, whose edges are known; `tests/benchmarks/discovery.py` has all of them."""

from typing import Any

import numpy as np
import pytest
import xarray
from gallery_tasks import METHODS, Task, gallery_task
from small import SEPARATE

from interp.discovery import MethodName, acdc, auroc, edge_scores, hit, precision_recall
from interp.interventions import Zero
from interp.metrics import KLDivergence

NAMES = ["previous_token", "virtual_head", "induction_latest", "skip_1", "ioi", "dyck1", "sort"]
ROTATED = ["virtual_head", "ioi", "dyck1"]


def scored(task: Task, ablation: str, methods: Any = METHODS) -> dict[MethodName, xarray.DataArray]:
    other = task.other(ablation)
    return {
        method: edge_scores(task.model, other, task.clean, task.metric, method, probe=0, progress=False)
        for method in methods
    }


def of_zero(
    names: list[str], rotate: int | None, methods: Any = METHODS
) -> dict[str, dict[MethodName, tuple[float, float]]]:
    """AUROC and hits of methods, with zero ablation."""
    found = {}
    for name in names:
        task = gallery_task(name, rotate=rotate)
        scores = scored(task, "zero", methods)
        found[name] = {m: (auroc(one, task.known), hit(one, scores["exact"], task.known)) for m, one in scores.items()}
    return found


@pytest.mark.apart
def test_methods_find_the_edges_of_circuits_in_the_order_of_what_they_see_and_in_any_basis():
    declared, rotated = of_zero(NAMES, None), of_zero(ROTATED, 0, SEPARATE)
    for name, of_method in rotated.items():
        for method, found in of_method.items():
            assert found == pytest.approx(declared[name][method], abs=1e-12), (name, method)
    for name in NAMES:
        assert declared[name]["exact"][1] == 1

    def mean(method: MethodName, which: int) -> float:
        return float(np.mean([declared[name][method][which] for name in NAMES]))

    order: list[MethodName] = ["exact", "local", "qk", "eap"]
    for which in (0, 1):
        better = [mean(method, which) for method in order]
        assert better == sorted(better, reverse=True) and better[0] - better[-1] > 0.2
    assert mean("exact", 0) > 0.97
    assert mean("combined", 0) > mean("local", 0) and mean("combined", 1) > mean("eap_ig", 1)
    assert mean("eap_ig", 0) > mean("local", 0)  # on the way to zero, patterns and MLPs leave their saturation
    assert mean("gim", 1) == mean("eap", 1)  # T = 2 is no cure


@pytest.mark.apart
def test_no_method_invents_an_edge():
    for name in ("skip_1", "dyck1"):
        task = gallery_task(name)
        known = {edge for *_, edge in task.known.edges(data="name")}
        for ablation in ("zero", "mean", "resample"):
            for method, scores in scored(task, ablation, SEPARATE).items():
                flat = scores.stack(edge=("writer", "reader")).dropna("edge")
                names = [f"{writer} -> {reader}" for writer, reader in flat["edge"].values]
                others = flat.values[[edge not in known for edge in names]]
                assert np.abs(others).max() < 1e-6 * np.abs(flat.values).max(), (name, ablation, method)


@pytest.mark.apart
def test_by_resampling_edges_that_carry_positions_alone_have_no_effect_and_by_zero_ablation_they_have():
    task = gallery_task("virtual_head")
    by_position = [(reader, "embed") for reader in ("L0H0.q", "L0H0.k", "L1H0.q", "L1H0.k")]
    for ablation, seen in (("resample", False), ("zero", True)):
        (exact,) = scored(task, ablation, ["exact"]).values()
        effects = [abs(float(exact.sel(reader=reader, writer=writer))) for reader, writer in by_position]
        assert min(effects) > 0.1 if seen else max(effects) < 1e-12
        assert auroc(exact, task.known) == (1 if seen else pytest.approx((3 + 4 / 2) / 7))


def test_acdc_with_zero_ablation_finds_exactly_what_circuits_declare_and_of_ioi_all_but_one():
    for name in ("induction", "induction_latest", "backoff", "skip_1", "sort", "ioi"):
        task = gallery_task(name)
        found = acdc(task.model, Zero(), task.clean, KLDivergence(pos=None), threshold=1e-3, progress=False)
        recall = 11 / 12 if name == "ioi" else 1
        assert precision_recall(found, task.known) == (1, pytest.approx(recall)), name
