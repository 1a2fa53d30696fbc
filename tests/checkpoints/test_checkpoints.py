"""Saving and loading models: the same bits, whole files, and refusals that name the tensor."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from grid import GRID, SEED, SMALL, Run, assert_close, build, random_tokens, run_of, runs
from hypothesis import given
from torch import Tensor

from interp import CheckpointError, HookedTransformer, TransformerConfig, Vocabulary
from interp.checkpoints import native

WORDS = ["<s>", "é", "猫", "dog\n", "'quoted\""]


def train(cfg: TransformerConfig, steps: int) -> tuple[HookedTransformer, list[float]]:
    """A model taught to repeat its sequence, and the loss at each step."""
    model = HookedTransformer(cfg)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(steps):
        half = random_tokens(cfg, SEED + step, batch=16, n_pos=cfg.n_ctx // 2)
        loss = model(torch.cat([half, half], dim=1), "loss", loss_per_token=True)[:, cfg.n_ctx // 2 :].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors")


def change_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    change(about)
    (folder / "config.json").write_text(json.dumps(about), encoding="utf-8")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a model of the grid and a vocabulary."""
    model = build(TransformerConfig(**SMALL), SEED, Vocabulary(WORDS, bos="<s>"))
    model.save_pretrained(tmp_path)
    return tmp_path


# ---------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", GRID)
def test_gradients_reach_every_parameter(name: str):
    run = run_of(name)
    model = run.fresh_model()
    run.objective(model(run.tokens)).backward()
    # A key bias shifts all scores of a query alike unless something turns, caps or normalises the keys.
    shifts_only = run.cfg.positional_embedding_type != "rotary" and not run.cfg.attn_scores_soft_cap
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert (parameter.grad.abs().max() > 1e-9) or (path.endswith("b_K") and shifts_only), path


@pytest.mark.parametrize(
    "name", ["learned_ln", "rotary_rms_gated_grouped", "post_ln_attn_only_rotary", "shortformer_rms_grouped"]
)
def test_training_lowers_the_loss(name: str):
    fields = run_of(name).fields | {"dtype": torch.float32, "seed": SEED, "n_layers": 2}
    _, losses = train(TransformerConfig(**fields), steps=60)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_trained_model_comes_back_bit_for_bit(tmp_path: Path):
    model, _ = train(TransformerConfig(**SMALL, seed=SEED), steps=10)
    model.save_pretrained(tmp_path)
    loaded = HookedTransformer.from_pretrained(tmp_path)
    tokens = random_tokens(model.cfg, SEED)
    assert torch.equal(loaded(tokens), model(tokens))


# ---------------------------------------------------------------------------------------------- round trips


def test_a_model_of_the_grid_comes_back_with_the_same_bits_and_the_same_config(run: Run, tmp_path: Path):
    run.model.save_pretrained(tmp_path)
    loaded = HookedTransformer.from_pretrained(tmp_path)
    assert loaded.cfg == run.cfg
    theirs, ours = loaded.state_dict(), run.model.state_dict()
    assert theirs.keys() == ours.keys()
    assert [name for name in ours if not torch.equal(theirs[name], ours[name])] == []


def test_a_loaded_model_gives_the_same_logits_to_the_last_bit(run: Run, tmp_path: Path):
    run.model.save_pretrained(tmp_path)
    assert torch.equal(HookedTransformer.from_pretrained(tmp_path)(run.tokens), run.logits)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


@given(run=runs())
@torch.no_grad()  # with gradients, sdpa takes another kernel for scores with a bias
def test_a_random_model_comes_back_with_its_logits(folder: Path, run: Run):
    run.model.save_pretrained(folder)
    assert torch.equal(HookedTransformer.from_pretrained(folder)(run.tokens), run.logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_keeps_its_dtype(dtype: torch.dtype, tmp_path: Path):
    model = build(TransformerConfig(**SMALL, dtype=dtype), SEED)
    model.save_pretrained(tmp_path)
    assert {tensor.dtype for tensor in HookedTransformer.from_pretrained(tmp_path).state_dict().values()} == {dtype}


def test_a_model_can_be_loaded_in_another_dtype(run: Run, tmp_path: Path):
    run.model.save_pretrained(tmp_path)
    loaded = HookedTransformer.from_pretrained(tmp_path, dtype=torch.float32)
    assert_close(loaded(run.tokens).double(), run.logits, atol=1e-4)


def test_a_model_loaded_in_another_dtype_has_that_dtype_in_its_config(saved: Path):
    assert HookedTransformer.from_pretrained(saved, dtype=torch.float64).cfg.dtype == torch.float64


@pytest.mark.parametrize("convert", [lambda model: model.double(), lambda model: model.to(torch.bfloat16)])
def test_a_model_converted_to_another_dtype_can_be_saved_and_loaded(convert: Any, tmp_path: Path):
    model = convert(build(TransformerConfig(**SMALL), SEED))
    model.save_pretrained(tmp_path)
    tokens = random_tokens(model.cfg, SEED)
    assert torch.equal(HookedTransformer.from_pretrained(tmp_path)(tokens), model(tokens))


def test_a_model_can_be_loaded_to_a_device(saved: Path):
    loaded = HookedTransformer.from_pretrained(saved, device="cpu")
    assert {tensor.device.type for tensor in loaded.state_dict().values()} == {"cpu"}


def test_a_vocabulary_comes_back_with_its_model(saved: Path):
    loaded = HookedTransformer.from_pretrained(saved)
    assert isinstance(loaded.tokenizer, Vocabulary)
    assert vars(loaded.tokenizer) == vars(Vocabulary(WORDS, bos="<s>"))


def test_a_model_without_a_vocabulary_comes_back_without_one(run: Run, tmp_path: Path):
    run.model.save_pretrained(tmp_path)
    assert HookedTransformer.from_pretrained(tmp_path).tokenizer is None


def test_loading_leaves_the_global_generator_alone(saved: Path):
    before = torch.get_rng_state()
    HookedTransformer.from_pretrained(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loaded_models_parameters_are_contiguous(saved: Path):
    model = HookedTransformer.from_pretrained(saved)
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_a_loaded_model_can_be_trained(saved: Path):
    model = HookedTransformer.from_pretrained(saved)
    model(random_tokens(model.cfg, SEED), "loss").backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# ---------------------------------------------------------------------------------------------- tensors that do not fit


def rename(weights: dict[str, Tensor], old: str, new: str) -> None:
    weights[new] = weights.pop(old)


NAME = "blocks.1.attn.W_Q"
BAD_WEIGHTS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "missing": (lambda w: w.pop(NAME), f"tensor '{NAME}' is missing"),
    "misspelt": (lambda w: rename(w, NAME, "blocks.1.attn.W_Qs"), f"'{NAME}' is missing; did you mean '{NAME}s'"),
    "surplus": (lambda w: w.update({"blocks.3.b": torch.zeros(1)}), "tensor 'blocks.3.b' is not part of this model"),
    "shape": (
        lambda w: w.update({NAME: torch.zeros(4, 24, 6)}),
        rf"'{NAME}' has shape \(4, 24, 6\).*says \(4, 24, 5\)",
    ),
    "transposed": (lambda w: w.update({NAME: torch.zeros(4, 5, 24)}), rf"'{NAME}' has shape \(4, 5, 24\)"),
    "dtype": (lambda w: w.update({NAME: w[NAME].half()}), f"'{NAME}' has dtype torch.float16.*says torch.float32"),
}


@pytest.mark.parametrize("what", BAD_WEIGHTS)
def test_a_tensor_that_does_not_fit_is_an_error_that_names_it_and_the_file(saved: Path, what: str):
    change, message = BAD_WEIGHTS[what]
    change_weights(saved, change)
    with pytest.raises(CheckpointError, match=f"model.safetensors: .*{message}"):
        HookedTransformer.from_pretrained(saved)


@pytest.mark.parametrize("length", [0, 7, 500, -1])
def test_a_truncated_weights_file_is_an_error_that_names_it(saved: Path, length: int):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        HookedTransformer.from_pretrained(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_an_error_that_names_it(saved: Path, name: str):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        HookedTransformer.from_pretrained(saved)


# ---------------------------------------------------------------------------------------------- configurations

BAD_CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another format": (lambda about: about.update(model_type="gpt2"), "model_type is not 'interp'"),
    "no config": (lambda about: about.pop("config"), "config"),
    "unknown field": (lambda about: about["config"].update(n_layer=3), "did you mean 'n_layers'"),
    "contradiction": (lambda about: about["config"].update(n_key_value_heads=3), "not a multiple"),
    "missing field": (lambda about: about["config"].pop("d_model"), "missing: d_model"),
    "a list for a config": (lambda about: about.update(config=[1]), "cannot be read"),
    "a repeated word": (lambda about: about["vocabulary"].update(words=["a", "a"]), "'a' stands at places 0 and 1"),
    "an unknown bos": (lambda about: about["vocabulary"].update(bos="zzz"), "zzz"),
    "too many words": (
        lambda about: about["vocabulary"].update(words=list("abcdefghijkl"), sep="", bos=None),
        "d_vocab",
    ),
}


@pytest.mark.parametrize("what", BAD_CONFIGS)
def test_a_configuration_that_cannot_be_used_is_an_error_that_names_the_file(saved: Path, what: str):
    change, message = BAD_CONFIGS[what]
    change_config(saved, change)
    with pytest.raises(CheckpointError, match=f"config.json.*{message}"):
        HookedTransformer.from_pretrained(saved)


@pytest.mark.parametrize("text", [b"", b"{", b"[1, 2]", b"\xff\xfe"], ids=str)
def test_a_config_file_that_is_not_json_is_an_error_that_names_it(saved: Path, text: bytes):
    (saved / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        HookedTransformer.from_pretrained(saved)


# ---------------------------------------------------------------------------------------------- whole or not at all


def half_written(tensors: dict[str, Tensor], file: Path) -> None:
    file.write_bytes(b"half of it")
    raise OSError("disk full")


def test_a_save_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "write_aligned", half_written)
    with pytest.raises(OSError, match="disk full"):
        run_of("learned_ln").model.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_leaves_the_saved_model_as_it_was(saved: Path, monkeypatch: pytest.MonkeyPatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    monkeypatch.setattr(native, "write_aligned", half_written)
    with pytest.raises(OSError, match="disk full"):
        run_of("rotary_rms_gated_grouped").model.save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_saving_leaves_the_two_documented_files_and_nothing_else(saved: Path):
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
