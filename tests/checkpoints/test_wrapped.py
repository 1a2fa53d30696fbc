"""Checkpoints as people have them: compiled, spread over devices, with adapters, quantised, with other tokenizers."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from gguf_files import metadata_of, tensors_of, write
from grid import SEED, SMALL, build, config
from hf_models import make
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, pre_tokenizers, processors
from torch import Tensor, nn

from interp import CheckpointError, ConfigError, HookedTransformer, TokenError, Tokenizer, Vocabulary
from interp.weights import fold_layer_norm

LLAMA = "llama"


def same_weights(a: HookedTransformer, b: HookedTransformer) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def plain() -> HookedTransformer:
    return HookedTransformer.from_pretrained(hf_model=make(LLAMA))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(LLAMA).save_pretrained(tmp_path)
    return tmp_path


def rename(folder: Path, new: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({new(name): tensor for name, tensor in weights.items()}, folder / "model.safetensors")


# ---------------------------------------------------------------------------------------------- subclasses


class Mine(HookedTransformer):
    """A subclass with nothing of its own."""


def test_a_subclass_comes_back_as_itself_through_every_loader(folder: Path, tmp_path: Path):
    theirs = make(LLAMA)
    gguf = write(tmp_path / "model.gguf", metadata_of(theirs), tensors_of(theirs))
    build(config(SMALL), SEED, Vocabulary("abcdefg")).save_pretrained(tmp_path / "own")
    loaded = [Mine.from_pretrained(path) for path in (folder, gguf, tmp_path / "own")]
    loaded.append(Mine.from_pretrained(hf_model=theirs))
    assert [type(model) for model in loaded] == [Mine] * 4
    assert type(fold_layer_norm(loaded[0])) is Mine


# ---------------------------------------------------------------------------------------------- wrappers


def test_a_compiled_model_and_one_for_several_devices_are_the_model_inside(plain: HookedTransformer):
    inner = make(LLAMA)
    parallel = nn.DataParallel(inner)
    for wrapped in (torch.compile(inner, backend="eager"), parallel, torch.compile(parallel, backend="eager")):
        assert same_weights(HookedTransformer.from_pretrained(hf_model=wrapped), plain)


def test_a_model_with_compiled_parts_is_the_model(plain: HookedTransformer):
    theirs = copy.deepcopy(make(LLAMA))
    theirs.model.layers[1] = torch.compile(theirs.model.layers[1], backend="eager")
    theirs.model.layers[2].mlp = torch.compile(theirs.model.layers[2].mlp, backend="eager")
    assert any("_orig_mod" in name for name in theirs.state_dict())
    assert same_weights(HookedTransformer.from_pretrained(hf_model=theirs), plain)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
def test_files_written_from_wrapped_models_are_taken(prefix: str, folder: Path, plain: HookedTransformer):
    rename(folder, lambda name: prefix + name)
    assert same_weights(HookedTransformer.from_pretrained(folder), plain)


def test_our_own_files_may_have_such_names_too(tmp_path: Path):
    model = build(config(SMALL), SEED)
    model.save_pretrained(tmp_path)
    rename(tmp_path, lambda name: name.replace("blocks.1.", "blocks.1._orig_mod."))
    assert same_weights(HookedTransformer.from_pretrained(tmp_path), model)


def test_two_names_of_one_tensor_are_an_error(folder: Path):
    weights = load_file(folder / "model.safetensors")
    name = next(iter(weights))
    save_file(weights | {"_orig_mod." + name: weights[name].clone()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensors .* are one and the same in a model"):
        HookedTransformer.from_pretrained(folder)


# ---------------------------------------------------------------------------------------------- adapters


def test_a_folder_with_an_adapter_beside_the_base_or_alone_is_refused(folder: Path):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: .*'some/base', not merged; .*merge_and_unload"):
        HookedTransformer.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="merge_and_unload"):
        HookedTransformer.from_pretrained(folder)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.{}",
        "model.layers.0.self_attn.q_proj.lora_A.default.weight",
        "model.layers.0.self_attn.q_proj.base_layer.weight",
        "model.embed_tokens.lora_embedding_A",
    ],
)
def test_tensors_of_an_adapter_are_refused_wherever_they_are(name: str, folder: Path):
    weights = load_file(folder / "model.safetensors")
    first = next(iter(weights))
    weights[name.format(first)] = torch.ones(2, 2)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"of an adapter that is not merged; .*merge_and_unload"):
        HookedTransformer.from_pretrained(folder)


class WithAdapter(nn.Module):
    """What peft makes of a model: the names of its tensors begin with base_model.model."""

    def __init__(self, model: nn.Module, loaded: bool):
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.model = model
        self.config = model.config
        if loaded:
            self.peft_config = {"default": object()}


def test_a_model_with_an_adapter_is_refused_with_the_way_to_merge_it():
    for loaded in (True, False):
        with pytest.raises(CheckpointError, match=r"adapter that is not merged; .*merge_and_unload"):
            HookedTransformer.from_pretrained(hf_model=WithAdapter(make(LLAMA), loaded))


# ---------------------------------------------------------------------------------------------- quantised weights


class Packed(Tensor):
    """A tensor whose numbers are not its weights, as quantisation libraries have them."""


def test_quantised_models_are_refused_by_name_with_the_way_out(folder: Path):
    def fresh() -> Any:
        return copy.deepcopy(make(LLAMA))

    packed, marked, quantizer, configured = fresh(), fresh(), fresh(), fresh()
    weight = packed.model.layers[0].mlp.up_proj.weight
    packed.model.layers[0].mlp.up_proj.weight = nn.Parameter(weight.detach().as_subclass(Packed), requires_grad=False)
    marked.is_quantized, marked.quantization_method = True, "bitsandbytes"
    quantizer.hf_quantizer = type("AwqQuantizer", (), {})()
    configured.config.quantization_config = {"quant_method": "torchao"}
    for model, said in ((packed, "Packed"), (marked, "bitsandbytes"), (quantizer, "Awq"), (configured, "torchao")):
        with pytest.raises(CheckpointError, match=rf"{said}.*dequantize\(\)"):
            HookedTransformer.from_pretrained(hf_model=model)
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(CheckpointError, match=r"config\.json: .*\(gptq\).*dequantize"):
        HookedTransformer.from_pretrained(folder)


# ---------------------------------------------------------------------------------------------- tokenizers


def backend(template: bool = True) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE({"<s>": 0, "a": 1, "b": 2, "Ġ": 3, "</s>": 4}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    if template:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return made


def fast(template: bool = True, **special: str) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend(template), **special)


def test_a_fast_tokenizer_of_transformers_is_taken_everywhere(folder: Path):
    theirs = fast(bos_token="<s>", eos_token="</s>")
    made = [
        HookedTransformer.from_pretrained(hf_model=make(LLAMA), tokenizer=theirs),
        HookedTransformer.from_pretrained(folder, tokenizer=theirs),
        HookedTransformer(config(SMALL), theirs),
    ]
    assigned = HookedTransformer(config(SMALL))
    assigned.tokenizer = theirs
    for model in (*made, assigned):
        assert isinstance(model.tokenizer, Tokenizer)
        assert model.to_tokens("ab b").tolist()[0] == theirs("ab b")["input_ids"] == [0, 1, 2, 3, 2]
        assert (model.tokenizer.bos, model.tokenizer.eos) == ("<s>", "</s>")


def test_what_transformers_does_to_its_tokenizer_later_changes_nothing():
    theirs = fast(bos_token="<s>", eos_token="</s>", pad_token="</s>")
    model = HookedTransformer(config(SMALL), theirs)
    theirs(["a", "ab"], padding="max_length", max_length=7)
    assert model.to_tokens("ab").tolist() == [[0, 1, 2]]


def test_the_habit_of_a_fast_tokenizer_and_a_bare_backend_is_kept(tmp_path: Path):
    habits = [(fast(bos_token="<s>"), True), (fast(False, bos_token="<s>"), False), (fast(), True), (backend(), True)]
    for given, starts in habits:
        model = HookedTransformer(config(SMALL), given)
        assert model.to_tokens("a").tolist() == [[0, 1] if starts else [1]]
        model.save_pretrained(tmp_path)
        assert HookedTransformer.from_pretrained(tmp_path).tokenizer == model.tokenizer


class Slow:
    """What a slow tokenizer has, and no backend."""

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        return ids


@pytest.mark.usefixtures("as_installed")
def test_what_is_no_tokenizer_is_refused_by_name_with_the_way_out(folder: Path):
    allowed = "a Vocabulary, a Tokenizer"
    for given, message in ((Slow(), "Slow is a slow tokenizer.*use_fast=True"), ("gpt2", f"'gpt2'; allowed: {allowed}"),
                           (3, allowed), (["a"], rf"\['a'\]; allowed: {allowed}")):  # fmt: skip
        with pytest.raises(TokenError, match=message):
            HookedTransformer(config(SMALL), given)
        with pytest.raises(TokenError, match=message):
            HookedTransformer.from_pretrained(folder, tokenizer=given)
        with pytest.raises(TokenError, match=message):
            HookedTransformer(config(SMALL)).tokenizer = given


def test_a_vocabulary_that_is_too_large_is_an_error_wherever_it_is_given(folder: Path):
    words = Vocabulary([str(i) for i in range(99)])
    model = HookedTransformer(config(SMALL), Vocabulary("ab"))
    with pytest.raises(ConfigError, match="d_vocab = 11 is too small for a vocabulary of 99"):
        model.tokenizer = words
    assert model.tokenizer == Vocabulary("ab")
    with pytest.raises(CheckpointError, match="d_vocab = 37 is too small for a vocabulary of 99"):
        HookedTransformer.from_pretrained(folder, tokenizer=words)


def test_a_file_whose_own_tokenizer_is_not_known_loads_with_a_given_one(tmp_path: Path):
    theirs = make(LLAMA)
    about = metadata_of(theirs) | {"tokenizer.ggml.model": "unheard of"}
    path = write(tmp_path / "model.gguf", about, tensors_of(theirs))
    with pytest.raises(CheckpointError, match="unheard of"):
        HookedTransformer.from_pretrained(path)
    assert HookedTransformer.from_pretrained(path, tokenizer=Vocabulary("ab")).to_string([0, 1, 2]) == "ab<2>"
