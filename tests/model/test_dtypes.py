"""A model that was loaded or made in one dtype and cast to another is the model of that other dtype."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import GRID, SEED, build, config, random_tokens
from torch import Tensor

from interp import ActivationCache, HookedTransformer

NARROW = (torch.bfloat16, torch.float16)
FIXED = ["onehot_rms_relu", "sinusoidal_no_norm", "post_ln_sinusoidal_bidirectional"]
SCALED = {"d_model": 30, "embed_scale": 30**0.5}


def model_in(name: str, dtype: torch.dtype, **changes: Any) -> HookedTransformer:
    return build(config(GRID[name] | {"dtype": dtype} | changes), SEED)


@pytest.mark.parametrize("name", ["gemma_like", "norms_on_both_sides"])
def test_the_embedding_scale_is_rounded_to_the_dtype_of_the_run(name: str):
    model = model_in(name, torch.float64, **SCALED)
    tokens = random_tokens(model.cfg, SEED)
    for dtype in (*NARROW, torch.float32, torch.float64):
        cast = copy.deepcopy(model).to(dtype)
        _, cache = cast.run_with_cache(tokens, names_filter="hook_embed")
        rounded = torch.tensor(30**0.5, dtype=torch.float64).to(dtype)
        assert torch.equal(cache["embed"], cast.W_E[tokens] * rounded)
        assert cast.cfg.embed_scale == 30**0.5


@pytest.mark.parametrize("name", ["gemma_like", *FIXED])
def test_a_narrow_model_made_wide_is_the_wide_model_of_its_weights(name: str, tmp_path: Path):
    for narrow in NARROW:
        source = model_in(name, narrow, **SCALED)
        wide = model_in(name, torch.float32, **SCALED)
        parameters = {key: p.float() for key, p in source.named_parameters()}
        wide.load_state_dict(parameters, strict=False)  # all but the tables
        tokens = random_tokens(wide.cfg, SEED)
        want = wide(tokens)
        source.save_pretrained(tmp_path / "narrow")
        loaded = HookedTransformer.from_pretrained(tmp_path / "narrow", dtype=torch.float32)
        given = HookedTransformer(wide.cfg)
        given.load_state_dict(source.state_dict())
        for twin in (copy.deepcopy(source).float(), loaded, given):
            assert torch.equal(twin(tokens), want)


@pytest.mark.parametrize("name", ["gemma_like", "learned_ln", *FIXED])
def test_the_config_names_the_dtype_of_the_parameters_after_a_cast(name: str, tmp_path: Path):
    model = model_in(name, torch.float32)
    for cast, dtype in (("half", torch.float16), ("float", torch.float32), ("bfloat16", torch.bfloat16)):
        getattr(model, cast)()
        assert model.cfg.dtype == dtype == model.W_E.dtype
        model.save_pretrained(tmp_path / cast)
        again = HookedTransformer.from_pretrained(tmp_path / cast)
        assert again.cfg == model.cfg
        cache = model.run_with_cache(random_tokens(model.cfg, SEED))[1]
        cache.save(tmp_path / "cache")
        assert len(ActivationCache.load(tmp_path / "cache", again)) == len(cache)


@pytest.mark.parametrize("name", FIXED)
def test_an_edited_table_of_positions_stays_as_it_is(name: str, tmp_path: Path):
    model = model_in(name, torch.bfloat16)
    model.W_pos[1] = 0.5
    edited: Tensor = model.W_pos.clone()
    assert torch.equal(model.float().W_pos, edited.float())
    model.save_pretrained(tmp_path)
    assert torch.equal(HookedTransformer.from_pretrained(tmp_path).W_pos, edited.float())
