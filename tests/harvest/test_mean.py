"""A store's mean as an intervention: one vector a site, of this model, equal by content, wherever it is written."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_harvest import small_harvest, small_model
from torch import Tensor

from interp import CacheError, ConfigError, HookedTransformer, HookNotFoundError
from interp.data import PromptPairs
from interp.discovery import OnlyCircuit, Subgraph
from interp.harvest import Store
from interp.interventions import Interventions, Mean, TokenMeans
from interp.metrics import LogitDifference
from interp.patching import sweep, sweep_dataset


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return small_model()


@pytest.fixture(scope="module")
def store(model: HookedTransformer, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_harvest(tmp_path_factory.mktemp("store"), model, sites=["*.hook_z", ("resid_post", 1)])


def prompts(model: HookedTransformer) -> Tensor:
    return torch.randint(5, model.cfg.d_vocab, (3, 9), generator=torch.Generator().manual_seed(4))


def test_the_mean_of_all_tokens_is_written_at_every_position(model: HookedTransformer, store: Store):
    tokens, mean = prompts(model), store["z", 1].mean().float()
    assert isinstance(store, TokenMeans)
    with torch.no_grad(), model.intervene(Mean(store, site="z", layer=1, head=[0, 2])):
        got, cache = model.run_with_cache(tokens)
    assert torch.equal(cache["z", 1][:, :, [0, 2]], mean[[0, 2]].expand(3, 9, 2, 5))

    def by_hand(z: Tensor, hook: object) -> None:
        z[:, :, [0, 2]] = mean[[0, 2]]

    with torch.no_grad():
        assert torch.equal(got, model.run_with_hooks(tokens, fwd_hooks=[(("z", 1), by_hand)]))
    padded = torch.ones(3, 9).index_fill(1, torch.tensor([0]), 0)
    with torch.no_grad(), model.intervene(Mean(store, site="z", layer=1, pos=-1)):
        _, cache = model.run_with_cache(tokens, attention_mask=padded)
    assert torch.equal(cache["z", 1][:, -1], mean.expand(3, 4, 5))


@pytest.mark.parametrize("kept", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("ran", [torch.bfloat16, torch.float64], ids=str)
def test_it_has_the_dtype_of_the_runs_whatever_the_store_keeps(kept: str, ran: torch.dtype, tmp_path: Path):
    model = small_model().to(ran)
    store = small_harvest(tmp_path, model, dtype=kept, sites=[("resid_post", 1), ("scale", 2, "ln1")])
    for item in (Mean(store, site="resid_post", layer=1), Mean(store, site=("scale", "ln1"), layer=-1)):
        with torch.no_grad(), model.intervene(item):
            _, cache = model.run_with_cache(prompts(model))
        (name,) = item.values
        assert torch.equal(cache[name], store[name].mean().to(cache[name].dtype).expand(cache[name].shape))


def test_it_is_equal_by_content_and_survives_files_and_pickles(model: HookedTransformer, store: Store, tmp_path: Path):
    item = Mean(store, site="z", layer=[0, 1])
    again = Mean(small_harvest(tmp_path / "again", model, sites=["*.hook_z"]), site="z", layer=[0, 1])
    assert item == again and hash(item) == hash(again) and item != Mean(store, site="z", layer=[0, 2])
    Interventions((item,)).save(tmp_path / "mean.safetensors")
    assert Interventions.load(tmp_path / "mean.safetensors").items == (item,)
    assert pickle.loads(pickle.dumps(item)) == item and item.per_position is False
    assert list(item.values) == ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]
    assert len(Mean(store).values) == 4 and len(Mean(store, site="z").values) == 3


def test_a_sweep_ablates_with_the_mean_of_a_store(model: HookedTransformer, store: Store):
    tokens, metric = prompts(model), LogitDifference(3, 4)
    result = sweep(model, Mean(store), tokens, metric, "z", ("layer", "head"), per_prompt=True, progress=False)
    for layer in range(3):
        for head in range(4):
            with torch.no_grad(), model.intervene(Mean(store, site="z", layer=layer, head=head)):
                wanted = metric(model(tokens))
            assert np.allclose(result.sel(layer=layer, head=head).values, wanted.numpy(), atol=1e-5)


def test_data_sets_and_edges_are_ablated_with_it_too(model: HookedTransformer, tmp_path: Path):
    store = small_harvest(tmp_path, model, sites=["*.hook_z", "*.hook_mlp_out", ("resid_pre", 0)])
    tokens, metric = prompts(model), LogitDifference(3, 4)
    pairs = PromptPairs(tokens.tolist(), (tokens + 1).remainder(model.cfg.d_vocab).tolist(), [3] * 3, [4] * 3)
    options: dict[str, Any] = {"site": "z", "over": ("layer", "head"), "progress": False}
    found = sweep_dataset(model, pairs, ablation=Mean(store), unit=2, **options)
    np.testing.assert_allclose(found, sweep(model, Mean(store), tokens, metric, **options), atol=1e-5)
    with torch.no_grad(), model.intervene(OnlyCircuit(Subgraph.empty(model), Mean(store))):
        alone = model(tokens)
    assert torch.allclose(alone, alone[:1, :1].expand_as(alone), atol=1e-4)  # no prompt and no position is left


def test_another_model_and_places_without_a_mean_are_refused(model: HookedTransformer, store: Store):
    item = Mean(store, site="z", layer=1)
    for other in (small_model(seed=2), small_model().to(torch.float64)):
        with pytest.raises(CacheError, match="another model, or by other weights"), other.intervene(item):
            pass
        with pytest.raises(CacheError, match="another model, or by other weights"):
            sweep(other, Mean(store), prompts(model), LogitDifference(3, 4), "z", progress=False)
    with torch.no_grad(), small_model().intervene(item) as copy:
        copy(prompts(model))
    with pytest.raises(ConfigError, match="one mean over all positions"):
        Mean(store, site="z", layer=1, per_position=True)
    places: list[dict[str, Any]] = [{"site": "q"}, {"site": "resid_post", "layer": 0}, {"site": "z", "layer": [1, 3]}]
    for place in places:
        with pytest.raises(HookNotFoundError, match="the store does not hold that"):
            Mean(store, **place)
    missing = pytest.raises(HookNotFoundError, match=r"no values for 'blocks\.0\.hook_resid_post'")
    with missing, torch.no_grad(), model.intervene(Mean(store, site="resid_post")):
        model(prompts(model))
