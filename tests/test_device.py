"""What `INTERP_DEVICE` computes is what the CPU computes: run with `INTERP_DEVICE=cuda python -m pytest -m device`.

Every test runs a model on the device and a copy of it on the CPU, on the architectures that have all there is.
`INTERP_DEVICE=pretend` is a device without hardware, which finds tensors left on the CPU (`pretend_device.py`).
"""

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grid import DEVICE, SEED, SHAPE_CHECKED, Run, run_of
from torch import Tensor

from circuits.gallery import entry
from interp import ActivationCache, HookedTransformer, HookPoint
from interp.harvest import harvest, loss_recovered
from interp.heads import head_scores
from interp.interventions import Mean, Patch, Steer, Zero
from interp.jobs import ModelRef
from interp.lens import direct_attribution, expand_stream, logit_lens
from interp.metrics import KLDivergence, LogitDifference, Loss, MaskedTokenLoss
from interp.model import KVCache
from interp.patching import path_sweep, path_tree, sweep
from interp.plot import attention, figures
from interp.training import Batch, train
from interp.weights import composition_scores, fold_layer_norm, ov_circuit, top_entries

pytestmark = pytest.mark.device

DTYPE = torch.float32 if DEVICE.type == "mps" else torch.float64
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-10}[DTYPE]


CAUSAL = [name for name in SHAPE_CHECKED if run_of(name).cfg.predicts_next_token]
"""Those that predict the next token."""


@pytest.fixture(params=SHAPE_CHECKED)
def run(request: pytest.FixtureRequest) -> Run:
    return run_of(request.param)


@pytest.fixture
def there(run: Run) -> Iterator[HookedTransformer]:
    """The run's model on the device."""
    yield run.fresh_model().to(DEVICE, DTYPE)


def as_array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def agree(there: Any, here: Any) -> None:
    """Equal but for how the device sums; tensors, arrays, or anything that becomes an array."""
    got, want = (as_array(value).astype(float) for value in (there, here))
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=TOLERANCE, rtol=0, equal_nan=True)


def test_logits_and_loss(run: Run, there: HookedTransformer):
    tokens = run.tokens.to(DEVICE)
    assert there(tokens).device.type == DEVICE.type
    agree(there(tokens), run.logits)
    mask = torch.ones_like(run.tokens, dtype=torch.bool)
    mask[0, :2] = False
    agree(there(tokens, attention_mask=mask.to(DEVICE)), run.model(run.tokens, attention_mask=mask))
    losses: Any = ({"loss_per_token": False}, {"loss_per_token": True})
    for options in losses if run.cfg.predicts_next_token else ():
        got = there(tokens, return_type="loss", attention_mask=mask.to(DEVICE), **options)
        agree(got, run.model(run.tokens, return_type="loss", attention_mask=mask, **options))


def test_a_cache_holds_every_point_and_gradient(run: Run, there: HookedTransformer):
    every = list(there.hook_map())
    _, cache = there.run_with_cache(run.tokens.to(DEVICE), names_filter=every, gradient_of=run.objective)
    for name, value in run.everything.items():
        agree(cache[name], value)


def test_a_cache_can_lie_on_the_cpu_and_be_saved(run: Run, there: HookedTransformer, tmp_path: Path):
    _, cache = there.run_with_cache(run.tokens.to(DEVICE), device="cpu")
    assert {value.device.type for value in cache.values()} == {"cpu"}
    cache.save(tmp_path / "cache.safetensors")
    if DEVICE.type == "pretend":
        return  # safetensors knows no such device
    again = ActivationCache.load(tmp_path / "cache.safetensors", there)
    agree(again["resid_post", -1], run.cache["resid_post", -1])
    agree(again.decompose_resid().values.sum(0), run.cache.decompose_resid().values.sum(0))


def test_snapshots_and_references(run: Run, there: HookedTransformer, tmp_path: Path):
    ref = ModelRef.of(there)
    assert ref.load() is there and ref.device == str(there.W_E.device)
    sent = ref.snapshotted(tmp_path)
    opened, here = (HookedTransformer.from_pretrained(tmp_path, device=device) for device in (sent.device, "cpu"))
    for model, device in ((opened, DEVICE), (here, torch.device("cpu"))):
        assert model.W_E.device.type == device.type and model.weights_hash() == sent.hash == there.weights_hash()
        agree(model(run.tokens.to(device)), run.logits)


def test_decompositions_sum_to_the_stream(run: Run, there: HookedTransformer):
    _, cache = there.run_with_cache(run.tokens.to(DEVICE))
    for stack in (cache.decompose_resid(apply_ln=True), cache.get_full_resid_decomposition(expand_neurons=False)):
        assert stack.values.device.type == DEVICE.type
    agree(cache.decompose_resid().values, run.cache.decompose_resid().values)
    agree(cache.get_full_resid_decomposition().values, run.cache.get_full_resid_decomposition().values)
    if not run.cfg.masked_token_head:
        got, want = (one.logit_attrs(one.decompose_resid(), 1, 2) for one in (cache, run.cache))
        agree(got.values, want.values)
    agree(expand_stream(cache, max_length=2).values, expand_stream(run.cache, max_length=2).values)


def test_hooks_and_interventions(run: Run, there: HookedTransformer):
    def halve(activation: Tensor, hook: HookPoint) -> Tensor:
        return activation / 2

    def logits(model: HookedTransformer, cache: ActivationCache, tokens: Tensor) -> Iterator[Tensor]:
        yield model.run_with_hooks(tokens, fwd_hooks=[("blocks.*.attn.hook_pattern", halve)])
        for item in (
            Zero(site="z", layer=1, head=2),
            Zero(site="resid_pre", layer=1, pos=[0, 3]),
            Mean(cache, site="mlp_out", layer=0),
            Patch(cache, site="resid_mid", layer=1, pos=1),
            Steer(torch.ones(model.cfg.d_model, dtype=model.cfg.dtype), site="resid_pre", layer=2),
        ):
            with model.intervene(item):
                yield model(tokens)

    _, cache = there.run_with_cache(run.tokens.to(DEVICE))
    others = run.tokens.flip(0)
    for got, want in zip(logits(there, cache, others.to(DEVICE)), logits(run.model, run.cache, others), strict=True):
        agree(got, want)


def test_sweeps_and_paths(run: Run, there: HookedTransformer):
    def effects(model: HookedTransformer, clean: Tensor, corrupted: Tensor) -> Iterator[Any]:
        sites: Any = [("resid_pre", ("layer", "pos")), ("z", ("layer", "head")), ("pattern", ("layer", "head"))]
        for site, over in sites:
            loss = Loss() if model.cfg.predicts_next_token else MaskedTokenLoss(clean)
            metrics = {
                "difference": LogitDifference(1, 2, pos=-1),
                "loss": loss,
                "divergence": KLDivergence(clean, pos=-1),
            }
            yield sweep(model, corrupted, clean, metrics, site, over, progress=False)
        yield path_sweep(model, corrupted, clean, LogitDifference(1, 2, pos=-1), ["L2H1.q"], progress=False)
        if not model.cfg.normalizes_stream:
            yield path_tree(model, corrupted, clean, LogitDifference(1, 2, pos=-1), [["L0H0", "L1H1.q", "logits"]])

    other = run.tokens.roll(1, dims=1)
    here = effects(run.model, run.tokens, other)
    for got, want in zip(effects(there, run.tokens.to(DEVICE), other.to(DEVICE)), here, strict=True):
        agree(got, want)


@pytest.mark.parametrize("run", CAUSAL, indirect=True)
def test_generation(run: Run, there: HookedTransformer):
    prompt = run.tokens[:, :3]
    greedy = run.model.generate(prompt, 4, temperature=0.0).tokens
    assert torch.equal(there.generate(prompt.to(DEVICE), 4, temperature=0.0).tokens.cpu(), greedy)
    seed = None if DEVICE.type == "pretend" else SEED  # it has no generators
    drawn = [there.generate(prompt.to(DEVICE), 4, temperature=1.0, seed=seed).tokens for _ in range(2)]
    assert drawn[0].device.type == DEVICE.type and (seed is None or torch.equal(*drawn))
    past = KVCache(there.cfg.n_layers)
    pieces = [there(part.to(DEVICE), kv_cache=past) for part in run.tokens.split(2, dim=1)]
    agree(torch.cat(pieces, dim=1), run.logits)


def test_lenses_and_scores(run: Run, there: HookedTransformer):
    def found(model: HookedTransformer, tokens: Tensor) -> Iterator[Any]:
        _, cache = model.run_with_cache(tokens)
        splits: Any = ("mlm_neuron",) if model.cfg.masked_token_head else ("component", "head", "position")
        for by in splits:
            yield direct_attribution(cache, 1, 2, by=by, pos=-1)["attribution"]
        yield logit_lens(model, tokens, answers=[1], progress=False)["prob"]
        yield from head_scores(model, n_prompts=2, length=7, seed=SEED, progress=False).data_vars.values()

    for got, want in zip(found(there, run.tokens.to(DEVICE)), found(run.model, run.tokens), strict=True):
        agree(got, want)


def test_weights(run: Run, there: HookedTransformer):
    def found(model: HookedTransformer) -> Iterator[Any]:
        for score in ("raw", "aligned"):
            yield composition_scores(model, score=score, progress=False)
        if not model.cfg.masked_token_head:
            yield top_entries(ov_circuit(model, 1, 1), 3, progress=False).values

    for got, want in zip(found(there), found(run.model), strict=True):
        agree(got, want)
    if run.cfg.norm_position == "pre" and run.cfg.positional_embedding_type != "shortformer":
        folded = fold_layer_norm(there)
        assert folded.W_E.device.type == DEVICE.type
        agree(folded(run.tokens.to(DEVICE)), run.logits)


def test_half_precision(run: Run, there: HookedTransformer):
    model = copy.deepcopy(there).to(torch.bfloat16)
    want = copy.deepcopy(run.model).to(torch.bfloat16)(run.tokens).detach()
    logits, cache = model.run_with_cache(run.tokens.to(DEVICE))
    assert logits.dtype == torch.bfloat16
    scale = float(want.abs().max())
    np.testing.assert_allclose(logits.detach().float().cpu().numpy(), want.float().numpy(), atol=0.05 * scale, rtol=0)
    total = cache.decompose_resid().values.float().sum(0)
    assert float((total - cache["resid_post", -1].float()).abs().max()) < 0.1 * float(total.abs().max())


def test_training(there: HookedTransformer, run: Run):
    model = copy.deepcopy(there).float()
    data = run.tokens if run.cfg.predicts_next_token else Batch(run.tokens, labels=run.tokens)
    trained = train(model, data, steps=2, batch_size=2, seed=SEED, progress=False)
    assert trained.model.W_E.device.type == DEVICE.type and torch.isfinite(trained.losses).all()


def test_harvests_and_losses_over_texts(run: Run, there: HookedTransformer, tmp_path: Path):
    texts: list[list[int]] = [*run.tokens.tolist(), [1, 2, 3]]
    cut: dict[str, Any] = {"n_ctx": run.cfg.n_ctx, "packed": False, "batch": 3, "progress": False}
    models = {"there": there, "here": run.model}
    stores = {
        name: harvest(model, texts, ["*.hook_z", ("resid_post", 1)], folder=tmp_path / name, dtype="float32", **cut)
        for name, model in models.items()
    }
    for site in stores["here"].sites:
        got, want = (stores[name][site].rows(slice(None)) for name in models)
        np.testing.assert_allclose(got, want, atol=1e-5 * float(want.abs().max()), rtol=0)
    if not run.cfg.predicts_next_token:
        return
    losses = [
        loss_recovered(model, texts, Steer(torch.ones(run.cfg.d_model, dtype=DTYPE), site="resid_post", layer=1),
                       ablations=[Zero(), Mean(stores[name])], **cut)
        for name, model in models.items()
    ]  # fmt: skip
    agree(losses[0]["loss"], losses[1]["loss"])


def test_texts_pictures_and_circuits(tmp_path: Path):
    circuit = entry("induction_latest").build()
    model = circuit.compile()
    text = next(iter(entry("induction_latest").inputs()))
    with torch.no_grad():
        _, cache = copy.deepcopy(model).to(DEVICE).run_with_cache(text)
    attention(cache, text).to_html(tmp_path / "page.html")
    figures.pattern(cache["pattern", 0][0, 0], model.to_str_tokens(text))
    assert circuit.verify(model=model.to(DEVICE), sample=5, progress=False).ok


@pytest.mark.long
def test_on_a_device_that_pretends_no_tensor_is_left_on_the_cpu():
    if DEVICE.type != "cpu":
        return
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "--quiet", "-n0", "-p", "no:cacheprovider", "-m", "device", __file__]
    done = subprocess.run(
        command, env=environment | {"INTERP_DEVICE": "pretend"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
