"""Is this from this model: caches after their model was copied, moved, loaded anew or changed."""

import copy
import gc
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import Run, assert_close, run_of

from interp import ActivationCache, CacheError, EncoderDecoderConfig, HookedEncoderDecoder
from interp.interventions import Patch
from interp.model import provenance, signature
from interp.patching import sweep

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
}


def test_a_copied_cache_is_taken_apart_as_the_original():
    for name in ("learned_ln", "gemma_like", "post_rms_gated_grouped"):
        cache = run_of(name).cache
        for copied in COPIES.values():
            twin = copied(cache)
            assert twin.is_current() and torch.equal(twin.decompose_resid().values, cache.decompose_resid().values)
            assert (twin.model is cache.model) == (copied is copy.copy)
            assert Patch(twin, site="z") == Patch(cache, site="z")


def test_a_copy_of_a_cache_whose_weights_changed_says_so_too(plain: Run):
    model = plain.fresh_model()
    cache = model.run_with_cache(plain.tokens)[1]
    with torch.no_grad():
        model.blocks[1].attn.b_O.add_(1)
    for copied in COPIES.values():
        with pytest.raises(CacheError, match="weights changed"):
            copied(cache).decompose_resid()


def test_a_copied_cache_sees_its_own_model_change(plain: Run):
    twin = copy.deepcopy(plain.cache)
    with torch.no_grad():
        twin.model.b_U.add_(1)
    assert not twin.is_current() and plain.cache.is_current()


def test_equal_weights_loaded_once_more_are_the_same_weights(plain: Run):
    model = plain.fresh_model()
    cache, state = model.run_with_cache(plain.tokens)[1], copy.deepcopy(model.state_dict())
    for load in (model.load_state_dict, torch.nn.ModuleList([model]).load_state_dict):
        load(state if load == model.load_state_dict else {f"0.{name}": value for name, value in state.items()})
        assert cache.is_current()
    other = {name: value + 1 for name, value in state.items()}
    model.load_state_dict(other)
    assert not cache.is_current()
    model.load_state_dict(state)
    assert cache.is_current()


def test_equal_weights_of_a_pair_that_shares_an_embedding_are_the_same_after_a_load_and_a_cast():
    stack: dict[str, Any] = {"n_layers": 1, "d_model": 8, "n_ctx": 6, "d_vocab": 9, "n_heads": 2}
    cfg = EncoderDecoderConfig.from_dict({"encoder": stack, "decoder": stack, "share_embeddings": True})
    changes: list[Callable[[HookedEncoderDecoder], Any]] = [
        lambda model: model.load_state_dict(copy.deepcopy(model.state_dict())),
        lambda model: model.double().float(),
    ]
    for change in changes:
        model = HookedEncoderDecoder(cfg)
        _, cache = model.run_with_cache([[1, 2]], [[3, 4]])
        change(model)
        assert cache.encoder.is_current() and cache.decoder.is_current()
        with torch.no_grad():
            model.encoder.W_E.add_(1)
        assert not cache.encoder.is_current() and not cache.decoder.is_current()


def test_a_cast_there_and_back_is_seen_where_it_rounds(plain: Run):
    model = plain.fresh_model()
    cache = model.run_with_cache(plain.tokens)[1]
    model.float()
    gc.collect()
    model.double()
    assert not cache.is_current()

    exact = run_of("learned_ln").fresh_model().bfloat16().double()
    cache = exact.run_with_cache(plain.tokens)[1]
    assert cache.is_current()
    exact.bfloat16()
    assert not cache.is_current()
    exact.double()
    assert cache.is_current()


def test_weights_are_hashed_only_when_somebody_needs_it(plain: Run, monkeypatch: pytest.MonkeyPatch):
    taken: list[object] = []
    real = provenance.digest_of
    monkeypatch.setattr(provenance, "digest_of", lambda tensors: taken.append(tensors) or real(tensors))
    model = plain.fresh_model()
    cache = model.run_with_cache(plain.tokens)[1]
    cache.decompose_resid()
    copy.copy(cache)
    del cache
    gc.collect()
    model.float().double()  # no cache is left that could ask
    assert not taken
    kept = model.run_with_cache(plain.tokens)[1]
    for _ in range(3):
        assert pickle.dumps(kept) and model.weights_hash() and signature(model)
    assert len(taken) == 1
    twin = pickle.loads(pickle.dumps(kept))
    for _ in range(3):
        assert twin.is_current()
    assert len(taken) == 2


def test_a_cache_whose_weights_are_gone_is_not_saved_under_the_name_of_others(plain: Run, tmp_path: Path):
    model = plain.fresh_model()
    cache, weights = model.run_with_cache(plain.tokens)[1], model.weights_hash()
    with torch.no_grad():
        model.b_U.add_(1)
    cache.save(tmp_path / "cache")  # its weights were known before they changed
    assert ActivationCache.load(tmp_path / "cache", plain.fresh_model()).made_by.weights == weights

    unknown = model.run_with_cache(plain.tokens)[1]
    with torch.no_grad():
        model.b_U.add_(1)
    with pytest.raises(CacheError, match="weights changed"):
        unknown.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_sweep_takes_the_cache_of_a_copy_and_refuses_one_of_a_changed_copy(plain: Run):
    twin = copy.deepcopy(plain.model)
    clean, corrupted = twin.run_with_cache(plain.tokens)[1], plain.tokens.flip(1)

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, -1, 0]

    swept = sweep(plain.model, corrupted, clean, metric, progress=False)
    want = sweep(plain.model, corrupted, plain.cache, metric, progress=False)
    assert_close(torch.tensor(swept.values), torch.tensor(want.values))
    with torch.no_grad():
        twin.b_U.add_(1)
    with pytest.raises(CacheError, match="another model than the one given: other weights"):
        sweep(plain.model, corrupted, twin.run_with_cache(plain.tokens)[1], metric, progress=False)
    # What counts is the weights of the run, not what the cache's model has become since.
    assert sweep(plain.model, corrupted, clean, metric, progress=False).equals(swept)
