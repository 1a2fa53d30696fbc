"""Every family: the logits and hidden states of transformers' own models, and conversion in both directions."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hf_encoders import ENCODERS
from hf_encoders import make as make_encoder
from hf_models import VARIANTS, Reference, in_double, make, run
from torch import Tensor

from interp import HookedTransformer
from interp.checkpoints import FAMILIES, from_hf, to_hf

PADDINGS = {"unpadded": (0, 0), "left-padded": (3, 0, 6)}


def differences(ours: HookedTransformer, reference: Reference) -> list[float]:
    """Largest difference of every hidden state and of the logits, at real positions, relative to their scale."""
    mask = None if reference.mask.all() else reference.mask
    with torch.no_grad():
        logits, cache = ours.run_with_cache(reference.tokens, attention_mask=mask)
    mine = [cache[f"blocks.{layer}.hook_resid_pre"] for layer in range(ours.cfg.n_layers)]
    mine += [cache["ln_final.hook_normalized"], logits]  # their last hidden state is normalised
    theirs: list[Tensor] = [*reference.hidden, reference.logits]
    assert len(mine) == len(theirs)
    real = reference.mask
    return [float((a - b)[real].abs().max() / b[real].abs().max()) for a, b in zip(mine, theirs, strict=True)]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_float64_hidden_states_and_logits_equal_transformers(variant: str, padding: str):
    """To 1e-10, with transformers' islands of float32 (angles, RMS norms, softmax) raised to float64: `in_double`."""
    with in_double(variant):
        reference = run(make(variant), PADDINGS[padding])
    ours = HookedTransformer.from_pretrained(hf_model=reference.model)
    assert ours.cfg.dtype == reference.logits.dtype == torch.float64
    assert max(differences(ours, reference)) < 1e-10


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_hidden_states_and_logits_equal_transformers(variant: str, padding: str):
    reference = run(make(variant), PADDINGS[padding])
    ours = HookedTransformer.from_pretrained(hf_model=reference.model)
    assert ours.cfg.dtype == reference.logits.dtype == torch.float32
    assert max(differences(ours, reference)) < 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_folder_that_transformers_wrote_loads_as_its_instance_does(variant: str, tmp_path: Path):
    theirs = make(variant)
    theirs.save_pretrained(tmp_path)
    loaded = HookedTransformer.from_pretrained(tmp_path)
    instance = HookedTransformer.from_pretrained(hf_model=theirs)
    assert loaded.cfg == instance.cfg
    assert_same_state(loaded.state_dict(), instance.state_dict())


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_loads_what_save_as_wrote(variant: str, tmp_path: Path):
    reference = run(make(variant))
    ours = HookedTransformer.from_pretrained(hf_model=reference.model)
    ours.save_pretrained(tmp_path, reference.model.config.model_type)
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager", local_files_only=True
    )
    back, about = loaded
    assert type(back) is type(reference.model)
    assert not any(about.values()), about
    assert max(differences(ours, run(back.eval()))) < 1e-4
    exact = not variant.startswith("gemma")  # their gains are stored as differences from 1
    for name, tensor in reference.model.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor, rtol=0, atol=0 if exact else 1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_our_model_comes_back_from_its_conversion(variant: str):
    ours = HookedTransformer.from_pretrained(hf_model=make(variant))
    cfg, state = from_hf(*to_hf(ours.cfg, ours.state_dict(), FAMILY_OF[variant]))
    state = {name: torch.zeros_like(tensor) for name, tensor in ours.state_dict().items()} | state
    assert cfg == ours.cfg
    if variant.startswith("gemma"):
        for name, tensor in ours.state_dict().items():
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-6)
    else:
        assert_same_state(state, ours.state_dict())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_converted_state_dict_copies_no_matrix(variant: str):
    theirs = make(variant).state_dict()
    storages = {tensor.untyped_storage().data_ptr() for tensor in theirs.values()}
    _, state = from_hf(make_config(variant), theirs)
    for name, tensor in state.items():
        if name.rsplit(".", 1)[1].startswith("W_"):
            assert tensor.untyped_storage().data_ptr() in storages, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_weight_of_ours_comes_from_the_checkpoint(variant: str):
    """Only biases may be left as they are in a new model, which is zero."""
    ours = HookedTransformer.from_pretrained(hf_model=make(variant))
    for name, parameter in ours.named_parameters():
        assert name.rsplit(".", 1)[1].startswith("b") or parameter.std() > 0.05, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("variant", ["llama", "gemma2"])
def test_a_model_can_be_loaded_in_another_dtype(variant: str, dtype: torch.dtype):
    theirs = make(variant)
    ours = HookedTransformer.from_pretrained(hf_model=theirs, dtype=dtype)
    assert {tensor.dtype for tensor in ours.state_dict().values()} == {ours.cfg.dtype} == {dtype}
    assert max(differences(ours, run(theirs))) < (1e-4 if dtype == torch.float64 else 0.2)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.startswith("gemma")])
def test_gemma_cast_after_loading_is_gemma_loaded_in_that_dtype(variant: str, tmp_path: Path):
    theirs = copy.deepcopy(make(variant)).to(torch.bfloat16)
    narrow = HookedTransformer.from_pretrained(hf_model=theirs)
    tokens = torch.arange(6)[None]
    wide = HookedTransformer(dataclasses.replace(narrow.cfg, dtype=torch.float32))
    wide.load_state_dict(narrow.state_dict())
    copy.deepcopy(narrow).float().bfloat16().save_pretrained(tmp_path, FAMILY_OF[variant])
    back = HookedTransformer.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(narrow).float()(tokens), wide(tokens))
        assert torch.equal(back(tokens), narrow(tokens))


def test_gains_stored_in_bfloat16_are_added_to_1_in_the_dtype_that_is_asked_for():
    theirs = copy.deepcopy(make("gemma2")).to(torch.bfloat16)
    ours = HookedTransformer.from_pretrained(hf_model=theirs, dtype=torch.float32)
    gain = ours.state_dict()["blocks.0.ln1.w"]
    assert torch.equal(gain, 1 + theirs.model.layers[0].input_layernorm.weight.float())


def make_config(variant: str) -> dict[str, Any]:
    return make(variant).config.to_dict()


FAMILY_OF = {
    variant: {"GPT2": "gpt2", "GPTNeoX": "gpt_neox", "Gemma3": "gemma3_text"}.get(family, family.lower())
    for variant, (family, _) in VARIANTS.items()
}


def assert_same_state(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_every_family_is_compared():
    encoders = {make_encoder(variant).config.model_type for variant in ENCODERS}
    assert set(FAMILY_OF.values()) | encoders == {name for name, family in FAMILIES.items() if not family.pair}
