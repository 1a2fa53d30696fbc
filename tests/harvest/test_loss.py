"""Loss recovered: what it says is what single runs say, token by token, however the corpus is cut."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny_corpus
import torch
import xarray as xr
from grid import Run, run_of, where
from scipy.stats import t
from small_harvest import small_harvest, small_model
from torch import Tensor, nn

from interp import CacheError, CheckpointError, ConfigError, HookedTransformer, HookNotFoundError, TokenError
from interp.data import Texts
from interp.harvest import loss as loss_file
from interp.harvest import loss_recovered
from interp.interventions import Apply, Intervention, Interventions, Mean, Named, Patch, Steer, Zero

CUT: dict[str, Any] = {"n_ctx": 16, "unit_tokens": 100, "batch": 3, "progress": False}


def half(x: Tensor) -> Tensor:
    return x / 2


def same(x: Tensor) -> Tensor:
    return x * 1


class Scaled(nn.Module):
    """A module that is its one weight."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class PerText(NamedTuple):
    """By hand: of each text with a predicted token, the sum of its losses and how many there are."""

    losses: list[float]
    counts: list[int]

    @property
    def mean(self) -> float:
        return math.fsum(self.losses) / sum(self.counts)


@torch.no_grad()
def by_hand(model: HookedTransformer, corpus: Any, n_ctx: int, packed: bool, *edits: Intervention) -> PerText:
    losses: dict[int, float] = {}
    counts: dict[int, int] = {}
    for row in Texts(corpus).rows(model, n_ctx, packed):
        ids, text = row.ids[row.mask], row.text[row.mask].tolist()
        if len(ids) < 2:
            continue
        with model.intervene(*edits):
            found = model(ids[None], "loss", loss_per_token=True)[0].double().tolist()
        for number, loss in zip(text[1:], found, strict=True):
            losses[number], counts[number] = losses.get(number, 0) + loss, counts.get(number, 0) + 1
    return PerText(list(losses.values()), list(counts.values()))


# ---------------------------------------------------------------------------------------------- what it says


@where(lambda cfg: cfg.predicts_next_token)
@pytest.mark.parametrize("packed", [True, False])
def test_losses_are_those_of_single_runs(run: Run, packed: bool):
    generator = torch.Generator().manual_seed(run.seed)
    lengths = [1, *torch.randint(1, 14, (9,), generator=generator).tolist()]
    corpus = [torch.randint(0, run.cfg.d_vocab, (n,), generator=generator).tolist() for n in lengths]
    item, zero = Apply(half, site="resid_post", layer=1), Zero(site="resid_post", layer=1)
    n_ctx = run.cfg.n_ctx
    found = loss_recovered(run.model, corpus, item, n_ctx=n_ctx, packed=packed, batch=3, unit_tokens=20, progress=False)
    base, intervened, ablated = (by_hand(run.model, corpus, n_ctx, packed, *e) for e in ((), (item,), (zero,)))
    assert found["run"].values.tolist() == ["as it is", "intervened", "zero"]
    np.testing.assert_allclose(found["loss"], [base.mean, intervened.mean, ablated.mean], rtol=1e-6)
    fraction = (ablated.mean - intervened.mean) / (ablated.mean - base.mean)
    np.testing.assert_allclose(found["recovered"].sel(ablation="zero"), fraction, rtol=1e-4)
    assert found.attrs["n_tokens"] == sum(base.counts) and found.attrs["n_texts"] == len(base.counts)


def test_how_the_corpus_is_cut_into_batches_and_units_does_not_matter(monkeypatch: pytest.MonkeyPatch):
    model, corpus = small_model(), tiny_corpus.texts(41)
    item = Apply(half, site="z", layer=2, head=1) + Steer(torch.ones(24), site="resid_mid", layer=1, scale=0.3)
    one = loss_recovered(model, corpus, item, **CUT)
    changes: list[dict[str, Any]] = [{"batch": 7}, {"unit_tokens": 17}, {"unit_tokens": 10**6, "batch": 100}]
    for change in changes:
        xr.testing.assert_allclose(loss_recovered(model, corpus, item, **{**CUT, **change}), one, rtol=1e-5)
    monkeypatch.setattr(loss_file, "BLOCK_BYTES", 4 * model.cfg.d_vocab_out * 5)  # logits of five tokens at a time
    xr.testing.assert_allclose(loss_recovered(model, corpus, item, **CUT), one, rtol=1e-5)


def test_what_changes_nothing_recovers_all_and_the_ablation_itself_nothing():
    model, corpus = small_model(), tiny_corpus.texts(20)
    exact = Apply(half, error_of=half, site="resid_post", layer=1)
    found = loss_recovered(model, corpus, exact, **CUT)
    assert float(found["recovered"][0]) == 1 and float(found["loss"][0]) == float(found["loss"][1])
    assert float(loss_recovered(model, corpus, Zero(site="mlp_out", layer=0), **CUT)["recovered"][0]) == 0
    with torch.no_grad():
        model.blocks[1].mlp.W_out.zero_()
        model.blocks[1].mlp.b_out.zero_()
    nothing = loss_recovered(model, corpus, Apply(same, site="mlp_out", layer=1), **CUT)
    assert np.isnan(nothing["recovered"]).all() and len(set(nothing["loss"].values.tolist())) == 1


def test_the_mean_of_a_store_is_an_ablation_beside_zero(tmp_path: Path):
    model, corpus = small_model(), tiny_corpus.texts(41)
    store = small_harvest(tmp_path, model)
    item = Apply(half, site="z", layer=2, head=[1, 3])
    found = loss_recovered(model, corpus, item, ablations=[Zero(), Mean(store)], **CUT)
    assert found["ablation"].values.tolist() == ["zero", "mean"]
    mean = by_hand(model, corpus, 16, True, Mean(store, site="z", layer=2, head=[1, 3])).mean
    assert float(found["loss"].sel(run="mean")) == pytest.approx(mean, rel=1e-5)
    base, intervened = (float(found["loss"].sel(run=run)) for run in ("as it is", "intervened"))
    assert float(found["recovered"].sel(ablation="mean")) == pytest.approx((mean - intervened) / (mean - base))


def test_ablations_may_have_names():
    model, corpus = small_model(), tiny_corpus.texts(20)
    item = Zero(site="resid_post", layer=1)
    found = loss_recovered(model, corpus, item, ablations={"halved": Apply(half), "as it was": Apply(same)}, **CUT)
    assert found["run"].values.tolist() == ["as it is", "intervened", "halved", "as it was"]
    halved = by_hand(model, corpus, 16, True, Apply(half, site="resid_post", layer=1)).mean
    assert float(found["loss"].sel(run="halved")) == pytest.approx(halved, rel=1e-5)
    assert np.isnan(found["recovered"].sel(ablation="as it was"))


def test_intervals_are_over_texts():
    model, corpus = small_model(), tiny_corpus.texts(30)
    item = Apply(half, site="resid_post", layer=1)
    found = loss_recovered(model, corpus, item, confidence=0.9, **CUT)
    texts = [by_hand(model, corpus, 16, True, *e) for e in ((), (item,), (Zero(site="resid_post", layer=1),))]
    base, intervened, ablated = (np.array(one.losses) for one in texts)
    counts, n = np.array(texts[0].counts), len(base)
    quantile = t.ppf(0.95, n - 1)
    for run, losses in (("as it is", base), ("zero", ablated)):
        off = losses - losses.sum() / counts.sum() * counts
        margin = quantile * np.sqrt(n / (n - 1) * (off**2).sum()) / counts.sum()
        low, high = (float(found[f"loss_ci_{end}"].sel(run=run)) for end in ("low", "high"))
        assert ((high - low) / 2, (high + low) / 2) == pytest.approx((margin, losses.sum() / counts.sum()), rel=1e-4)
    below = (ablated - base).sum()
    off = (ablated - intervened) - (ablated - intervened).sum() / below * (ablated - base)
    margin = quantile * np.sqrt(n / (n - 1) * (off**2).sum()) / abs(below)
    low, high = (float(found[f"recovered_ci_{end}"].sel(ablation="zero")) for end in ("low", "high"))
    assert (high - low) / 2 == pytest.approx(margin, rel=1e-3)
    alone = loss_recovered(model, corpus[:1], item, **CUT)
    assert set(alone) == {"loss", "recovered"}


# ---------------------------------------------------------------------------------------------- as a job


def test_a_job_gives_the_bits_of_a_call_without_a_folder_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, corpus = small_model(), tiny_corpus.texts(41)
    item = Apply(Named(Scaled(0.7), "scaled"), site="resid_post", layer=1)
    found = loss_recovered(model, corpus, item, **CUT)
    kept = loss_recovered(model, corpus, item, folder=tmp_path, **CUT)
    assert kept.identical(found)
    (tmp_path / "unit-000004.safetensors").unlink()
    computed, compute = [], loss_file.LossWork.compute

    def counting(self: Any, unit: int) -> Any:
        computed.append(unit)
        return compute(self, unit)

    monkeypatch.setattr(loss_file.LossWork, "compute", counting)
    assert loss_recovered(model, corpus, item, folder=tmp_path, **CUT).identical(found) and computed == [4]
    for change, said in (
        ({"intervention": Apply(Named(Scaled(0.6), "scaled"), site="resid_post", layer=1)}, "runs"),
        ({"intervention": Apply(Named(Scaled(0.7), "scaled"), site="resid_post", layer=2)}, "runs"),
        ({"ablations": []}, "runs"),
        ({"batch": 4}, "batch"),
    ):
        call: dict[str, Any] = {"intervention": item, "folder": tmp_path, **CUT, **change}
        with pytest.raises(CheckpointError, match=f"differs in: {said}"):
            loss_recovered(model, corpus, **call)


@pytest.mark.apart
def test_two_workers_give_the_bits_of_one():
    model, corpus = small_model(), tiny_corpus.texts(41)
    item = Steer(torch.ones(24), site="resid_post", layer=1)
    assert loss_recovered(model, corpus, item, workers=2, **CUT).identical(loss_recovered(model, corpus, item, **CUT))


def test_functions_without_a_name_are_for_calls_without_a_folder(tmp_path: Path):
    model, corpus = small_model(), tiny_corpus.texts(5)
    module, function = (Apply(fn, site="resid_post", layer=1) for fn in (Scaled(0.7), lambda x: x * 0.7))
    found = [loss_recovered(model, corpus, item, **CUT) for item in (module, function)]
    xr.testing.assert_allclose(found[0], found[1])
    with pytest.raises(ConfigError, match=r"a module, .* give it a name that says which it is, Named\(module"):
        loss_recovered(model, corpus, module, folder=tmp_path, **CUT)
    with pytest.raises(ConfigError, match="no lambda"):
        loss_recovered(model, corpus, function, folder=tmp_path / "other", **CUT)


# ---------------------------------------------------------------------------------------------- what is refused


def refused(model: HookedTransformer, intervention: Any, **options: Any) -> Any:
    """`loss_recovered` without the annotations that say what it takes."""
    anything: Any = loss_recovered
    return anything(model, options.pop("texts", ["the cat sat"]), intervention, **{**CUT, **options})


def test_what_has_no_loss_to_recover_is_refused_before_any_run(tmp_path: Path, as_installed: None):
    model = small_model()
    item = Zero(site="z", layer=0)
    store = small_harvest(tmp_path, small_model(seed=3))
    with torch.no_grad():
        _, cache = model.run_with_cache("the cat sat on a mat")
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (3, {}, ConfigError, "intervention = 3; allowed"),
        (Interventions(), {}, ConfigError, "intervention = Interventions"),
        (Zero(), {}, ConfigError, "has no place"),
        (Zero(site="zz", layer=0), {}, HookNotFoundError, "did you mean"),
        (item, {"ablations": [Zero(site="z")]}, ConfigError, "without a place"),
        (item, {"ablations": ["zero"]}, ConfigError, "'zero'; allowed"),
        (item, {"ablations": [Zero(), Zero()]}, ConfigError, "two runs would be called 'zero'; give names"),
        (item, {"ablations": [Mean(store)]}, CacheError, "made by another model"),
        (item, {"confidence": 1.5}, ConfigError, "confidence = 1.5"),
        (item, {"batch": 0}, ConfigError, "batch = 0"),
        (item, {"n_ctx": 33}, ConfigError, "n_ctx = 33"),
        (item, {"workers": 0}, ConfigError, "workers = 0"),
        (item, {"ablation": [Zero()]}, ConfigError, "did you mean ablations="),
        (item, {"texts": [""]}, TokenError, "no token in the corpus"),
        (item, {"n_ctx": 1}, TokenError, "at least two tokens"),
        (Patch(cache, site="z", layer=0), {}, Exception, "do not fit|fit"),
    ]
    for intervention, options, error, said in cases:
        with pytest.raises(error, match=said):
            refused(model, intervention, **options)
    other_things = small_model(d_vocab_out=7)
    with pytest.raises(ConfigError, match="loss_recovered needs logits of tokens"):
        refused(other_things, item)
    with pytest.raises(ConfigError, match="loss_recovered is of next tokens, and with attention_dir"):
        refused(run_of("bert_like").model, item)


# ---------------------------------------------------------------------------------------------- what is shown


def test_a_bar_counts_the_tokens_as_they_are_run(monkeypatch: pytest.MonkeyPatch):
    shown: list[str] = []

    @contextmanager
    def bar(what: str, total: int | None, wanted: bool) -> Iterator[Callable[..., None]]:
        assert total is None and wanted
        yield lambda n, news: shown.append(f"{what} {news}")

    monkeypatch.setattr(loss_file, "progress_bar", bar)
    texts = [[1] * 5, [2] * 4, [3] * 9]
    loss_recovered(small_model(), texts, Zero(site="z", layer=0), **CUT | {"batch": 1, "n_ctx": 7, "progress": True})
    assert shown == [f"running texts {n} tokens" for n in (7, 14, 18)]
