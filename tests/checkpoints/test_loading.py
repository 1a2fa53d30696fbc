"""from_pretrained: every kind of name, and a refusal that says what is wrong with a checkpoint that does not fit."""

import copy
import dataclasses
import json
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import huggingface_hub.errors
import pytest
import torch
from hf_encoders import make as encoder
from hf_models import make
from safetensors.torch import load_file, save_file
from torch import Tensor

import interp.checkpoints
from interp import CheckpointError, HookedTransformer, TransformerConfig, Vocabulary
from interp.checkpoints import FAMILIES, from_hf
from interp.checkpoints.sources import SafetensorsFolder

GATE = "model.layers.1.mlp.gate_proj.weight"


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def write_folder(variant: str, folder: Path, **saving: Any) -> Path:
    make(variant).save_pretrained(folder, **saving)
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return write_folder("llama", tmp_path)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = write_folder("llama", tmp_path, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder


def same_bits(a: HookedTransformer, b: HookedTransformer) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def from_instance(variant: str = "llama") -> HookedTransformer:
    return HookedTransformer.from_pretrained(hf_model=make(variant))


# ---------------------------------------------------------------------------------------------- names and files


def test_a_sharded_folder_loads_as_a_single_file_does(sharded: Path):
    assert same_bits(HookedTransformer.from_pretrained(sharded), from_instance())


def test_a_path_can_be_text(saved: Path):
    assert same_bits(HookedTransformer.from_pretrained(str(saved)), from_instance())


def test_at_most_one_tensor_of_the_checkpoint_is_held_at_a_time(sharded: Path, monkeypatch: pytest.MonkeyPatch):
    read, held = SafetensorsFolder.read, list[weakref.ref[Tensor]]()

    def watched(self: SafetensorsFolder, name: str) -> Tensor:
        assert [ref for ref in held if ref() is not None] == []
        tensor = read(self, name)
        held.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(SafetensorsFolder, "read", watched)
    HookedTransformer.from_pretrained(sharded)
    assert len(held) > 20


def test_a_loaded_model_does_not_depend_on_the_files(saved: Path):
    model = HookedTransformer.from_pretrained(saved)
    (saved / "model.safetensors").write_bytes(b"\0" * (saved / "model.safetensors").stat().st_size)
    assert same_bits(model, from_instance())


def test_a_loaded_model_shares_no_memory_with_the_instance_it_came_from():
    theirs = copy.deepcopy(make("llama"))
    model = HookedTransformer.from_pretrained(hf_model=theirs)
    for parameter in theirs.parameters():
        parameter.zero_()
    assert same_bits(model, from_instance())


def test_a_loaded_model_can_be_trained(saved: Path):
    model = HookedTransformer.from_pretrained(saved)
    model(torch.arange(8)[None], "loss").backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_family_saved_in_our_own_format_comes_back_bit_for_bit(tmp_path: Path):
    model = from_instance("gemma3")
    model.save_pretrained(tmp_path)
    back = HookedTransformer.from_pretrained(tmp_path)
    assert back.cfg == model.cfg and same_bits(back, model)


def test_an_explicit_tokenizer_is_used(saved: Path):
    words = Vocabulary(["<s>", "a", "b"], bos="<s>")
    assert HookedTransformer.from_pretrained(saved, tokenizer=words).tokenizer is words
    assert HookedTransformer.from_pretrained(hf_model=make("llama"), tokenizer=words).tokenizer is words
    HookedTransformer.from_pretrained(saved).save_pretrained(saved)
    assert HookedTransformer.from_pretrained(saved, tokenizer=words).tokenizer is words


def test_a_tokenizer_in_the_folder_is_the_models(saved: Path):
    import tokenizers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "a": 1, "b": 2}, unk_token="<s>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(saved / "tokenizer.json"))
    assert HookedTransformer.from_pretrained(saved).to_tokens("a b a").tolist() == [[1, 2, 1]]
    (saved / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    assert HookedTransformer.from_pretrained(saved).to_tokens("b", prepend_bos=True).tolist() == [[0, 2]]


def test_a_folder_without_a_tokenizer_gives_a_model_without_one(saved: Path):
    assert HookedTransformer.from_pretrained(saved).tokenizer is None


def test_a_tokenizer_with_more_words_than_the_model_is_an_error_that_names_the_folder(saved: Path):
    with pytest.raises(CheckpointError, match=rf"{saved.name}: d_vocab = 37 is too small"):
        HookedTransformer.from_pretrained(saved, tokenizer=Vocabulary([str(i) for i in range(38)]))


@pytest.mark.parametrize("name", ["./nothing", "/nothing/there", "a/b/c", "lost.gguf", "~/nothing-there"])
def test_a_path_that_is_not_there_is_an_error_and_no_repository(name: str):
    with pytest.raises(CheckpointError, match="does not exist"):
        HookedTransformer.from_pretrained(name)


@pytest.mark.usefixtures("as_installed")
def test_what_from_pretrained_cannot_take_is_an_error_that_says_so(saved: Path):
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"name_or_path": 3}, "3 is neither a name nor a path"),
        ({"name_or_path": ""}, "'' is neither a name nor a path"),
        (
            {"name_or_path": make("llama")},
            "^LlamaForCausalLM is neither a name nor a path; give a model of transformers as hf_model=",
        ),
        ({"name_or_path": saved, "hf_model": make("llama")}, "are two models; give one"),
        ({"name_or_path": saved, "revision": "step1"}, "revision = 'step1' is for names on the hub"),
        ({"hf_model": "gpt2"}, "an instance of a transformers model, not of str"),
        ({"name_or_path": saved, "dtype": "flot32"}, "dtype = 'flot32'; allowed: .*did you mean 'float32'"),
        ({"name_or_path": saved, "dtype": torch.int8}, "dtype = torch.int8; allowed: float64"),
        ({"name_or_path": saved, "device": "cpuu"}, "device = 'cpuu' cannot be used"),
    ]
    for arguments, message in wrong:
        with pytest.raises(CheckpointError, match=message):
            HookedTransformer.from_pretrained(**arguments)


def test_a_dtype_can_be_given_by_its_name(saved: Path):
    assert HookedTransformer.from_pretrained(saved, dtype="float64").W_E.dtype == torch.float64


def test_a_folder_with_nothing_but_a_gguf_file_is_an_error_that_names_the_file(tmp_path: Path):
    (tmp_path / "some.gguf").touch()
    with pytest.raises(CheckpointError, match=r"has no config\.json; .* its own path, such as .*some\.gguf"):
        HookedTransformer.from_pretrained(tmp_path)


def test_more_layers_than_tensors_in_our_own_format_are_refused_at_once(tmp_path: Path):
    HookedTransformer(TransformerConfig(n_layers=1, d_model=8, n_heads=2, n_ctx=8, d_vocab=5)).save_pretrained(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    about["config"]["n_layers"] = 10**8
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=r"config\.json: n_layers = 100000000, with \d+ tensors"):
        HookedTransformer.from_pretrained(tmp_path)


def test_nothing_to_load_is_an_error():
    with pytest.raises(CheckpointError, match="a name, a path or hf_model="):
        HookedTransformer.from_pretrained()


def test_a_file_of_weights_is_an_error_that_asks_for_the_folder(saved: Path):
    with pytest.raises(CheckpointError, match="give the folder"):
        HookedTransformer.from_pretrained(saved / "model.safetensors")


def test_a_fetched_name_stands_for_its_file(saved: Path, monkeypatch: pytest.MonkeyPatch):
    fetch: Any = ModuleType("fetch")
    fetch.local_path = lambda name: saved if name == "smollm2-135m-instruct" else None
    monkeypatch.setitem(sys.modules, "interp.checkpoints.fetch", fetch)
    monkeypatch.setattr(interp.checkpoints, "fetch", fetch, raising=False)
    assert same_bits(HookedTransformer.from_pretrained("smollm2-135m-instruct"), from_instance())


# ---------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that plays the repository "some/model"; what was asked for is in its `asked`."""
    import fnmatch
    import shutil

    repository, cache = tmp_path / "repository", tmp_path / "cache"
    cache.mkdir()
    fetch: Any = ModuleType("fetch")
    fetch.local_path, fetch.suggestion = (lambda name: None), (lambda name: "; a suggestion")
    monkeypatch.setitem(sys.modules, "interp.checkpoints.fetch", fetch)
    monkeypatch.setattr(interp.checkpoints, "fetch", fetch, raising=False)

    def snapshot_download(name: str, revision: str | None, allow_patterns: Any, ignore_patterns: Any = ()) -> str:
        if (name, revision) not in (("some/model", None), ("some/model", "step1000")):
            raise NOT_HAD[name]
        patterns, ignored = ([one] if isinstance(one, str) else one for one in (allow_patterns, ignore_patterns))
        for path in filter(Path.is_file, repository.rglob("*")):
            name = path.relative_to(repository).as_posix()
            wanted, unwanted = (any(fnmatch.fnmatch(name, one) for one in some) for some in (patterns, ignored))
            if wanted and not unwanted:
                (cache / name).parent.mkdir(exist_ok=True)
                shutil.copy(path, cache / name)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(
        huggingface_hub, "list_repo_files", lambda name, revision: [p.name for p in repository.iterdir()]
    )
    return repository


@pytest.mark.parametrize("saving", [{}, {"max_shard_size": "20KB"}], ids=["single", "sharded"])
def test_a_repository_is_loaded_from_its_safetensors_alone(hub: Path, saving: dict[str, Any]):
    write_folder("llama", hub, **saving)
    for other in ("consolidated.safetensors", "pytorch_model.bin", "model.onnx"):
        (hub / other).touch()
    assert same_bits(HookedTransformer.from_pretrained("some/model", revision="step1000"), from_instance())
    fetched = {path.name for path in (hub.parent / "cache").iterdir()}
    assert not fetched & {"consolidated.safetensors", "pytorch_model.bin", "model.onnx"}


def test_a_repository_of_sentence_transformers_is_loaded_with_its_pooling(hub: Path):
    model = encoder("bert")
    model.save_pretrained(hub)
    ours = HookedTransformer.from_pretrained(hf_model=model)
    cfg = dataclasses.replace(ours.cfg, pooling="mean", normalize_pooled=True)
    state = {name: tensor for name, tensor in ours.state_dict().items() if not name.startswith("pooler.")}
    pooled = HookedTransformer(cfg, init_weights=False)
    pooled.load_state_dict(state)
    pooled.save_pretrained(hub, "bert")
    (hub / "onnx").mkdir()
    (hub / "onnx" / "config.json").write_text("{}")
    loaded = HookedTransformer.from_pretrained("some/model")
    assert loaded.cfg == cfg
    assert same_bits(loaded, pooled)
    assert not (hub.parent / "cache" / "onnx").exists()


def test_a_repository_of_pickles_is_refused_and_says_so(hub: Path):
    write_folder("llama", hub)
    (hub / "model.safetensors").rename(hub / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"some/model.*pytorch_model\.bin\. These are pickles.*never loaded"):
        HookedTransformer.from_pretrained("some/model")


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def answered(kind: type[Exception]) -> Exception:
    """An error of the hub itself, made without the response that its versions want in different ways."""
    error = kind.__new__(kind)
    error.args = ("404 Client Error.\n\nIf you are trying to access a private repo, make sure you are authenticated.",)
    return error


OFFLINE = huggingface_hub.errors.OfflineModeIsEnabled("Cannot reach it: offline mode is enabled")
NOWHERE = (
    "Cannot find an appropriate cached snapshot folder. To enable downloads online, pass 'local_files_only=False'."
)
NOT_HAD = {
    "other/offline": caused(huggingface_hub.errors.LocalEntryNotFoundError(NOWHERE), OFFLINE),
    "other/unreached": caused(huggingface_hub.errors.LocalEntryNotFoundError(NOWHERE), ConnectionError("[Errno -2]")),
    "gpt3": answered(huggingface_hub.errors.RepositoryNotFoundError),
    "other/gated": answered(huggingface_hub.errors.GatedRepoError),
    "other/revision": answered(huggingface_hub.errors.RevisionNotFoundError),
    "other/odd": ValueError("Something else is wrong.\nAnd this is advice."),
}
REASONS = {
    "other/offline": "HF_HUB_OFFLINE is set, and no copy is in its cache",
    "other/unreached": "no network, and no copy in its cache",
    "gpt3": "there is no such repository, or it is private",
    "other/gated": "its owner has to grant access (log in with `hf auth login`)",
    "other/revision": "there is no such revision",
    "other/odd": "Something else is wrong",
}


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", list(NOT_HAD))
def test_a_repository_that_cannot_be_had_is_an_error_that_names_it_and_says_why_in_a_few_words(name: str):
    with pytest.raises(CheckpointError) as caught:
        HookedTransformer.from_pretrained(name, revision="main")
    said = f"{name!r} is no local folder, and cannot be had from the Hugging Face hub at revision 'main': "
    assert str(caught.value) == f"{said}{REASONS[name]}; a suggestion"


# ---------------------------------------------------------------------------------------------- broken files


@pytest.mark.parametrize("length", [0, 7, 500, -1])
def test_a_truncated_file_is_an_error_that_names_it(saved: Path, length: int):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        HookedTransformer.from_pretrained(saved)


def test_a_missing_shard_is_an_error_that_names_it_and_a_tensor(sharded: Path):
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"{shard.name} is missing: .*index\.json says it holds tensor '"):
        HookedTransformer.from_pretrained(sharded)


def test_a_truncated_shard_is_an_error_that_names_it(sharded: Path):
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{shard.name} cannot be read"):
        HookedTransformer.from_pretrained(sharded)


def test_a_tensor_that_is_not_in_its_shard_is_an_error_that_names_both(sharded: Path):
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    shard = index["weight_map"][GATE]
    weights = load_file(sharded / shard)
    del weights[GATE]
    save_file(weights, sharded / shard)
    with pytest.raises(CheckpointError, match=f"{shard}: tensor '{GATE}' is missing, which .*index"):
        HookedTransformer.from_pretrained(sharded)


@pytest.mark.parametrize("bad", [[], {"weight_map": [1]}, {"weight_map": {"a": 1}}, {"weight_map": {"a": "../a.bin"}}])
def test_an_index_that_does_not_name_files_beside_it_is_an_error(sharded: Path, bad: Any):
    (sharded / "model.safetensors.index.json").write_text(json.dumps(bad))
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
        HookedTransformer.from_pretrained(sharded)


def test_a_folder_of_pickles_is_refused_and_says_so(saved: Path):
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"only pytorch_model\.bin\. These are pickles"):
        HookedTransformer.from_pretrained(saved)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\ufeff{}"])
def test_a_config_that_is_not_a_json_object_is_an_error_that_names_it(saved: Path, text: str):
    (saved / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        HookedTransformer.from_pretrained(saved)


# ---------------------------------------------------------------------------------------------- tensors that do not fit

BAD_TENSORS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "missing": (lambda w: w.pop(GATE), f"tensor '{GATE}' is missing"),
    "surplus": (lambda w: w.update({"model.layers.3.x": torch.zeros(1)}), "'model.layers.3.x' is not part"),
    "a classifier": (lambda w: w.update({"score.weight": torch.zeros(2, 24)}), "'score.weight' is not part"),
    "a bias too many": (
        lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(60)}),
        r"q_proj\.bias' is not part of this model",
    ),
    "misspelt": (
        lambda w: w.update({GATE.replace("gate", "gates"): w.pop(GATE)}),
        f"'{GATE}' is missing; did you mean '{GATE.replace('gate', 'gates')}'",
    ),
    "shape": (lambda w: w.update({GATE: torch.zeros(24, 40)}), rf"'{GATE}' has shape \(24, 40\);.* \(40, 24\)"),
    "integers": (lambda w: w.update({GATE: torch.zeros(40, 24, dtype=torch.int32)}), f"'{GATE}' has dtype.*int32"),
    "quantised": (lambda w: w.update({GATE: w[GATE].to(torch.float8_e4m3fn)}), f"'{GATE}' has dtype.*F8_E4M3"),
    "everything": (lambda w: w.clear(), "there are no tensors"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_TENSORS)
def test_a_tensor_that_does_not_fit_is_an_error_that_names_it_and_no_model_is_made(
    saved: Path, what: str, monkeypatch: pytest.MonkeyPatch
):
    change, message = BAD_TENSORS[what]
    change_weights(saved, change)
    monkeypatch.setattr(HookedTransformer, "__init__", lambda *_, **__: pytest.fail("a model was made"))
    with pytest.raises(CheckpointError, match=f"model.safetensors.*{message}"):
        HookedTransformer.from_pretrained(saved)


def test_an_error_about_a_shard_names_the_shard(sharded: Path):
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    shard = index["weight_map"][GATE]
    save_file(load_file(sharded / shard) | {GATE: torch.zeros(24, 40)}, sharded / shard)
    with pytest.raises(CheckpointError, match=f"{shard}: tensor '{GATE}' has shape"):
        HookedTransformer.from_pretrained(sharded)


def test_an_instance_on_the_meta_device_is_refused():
    with pytest.raises(CheckpointError, match=r"LlamaForCausalLM: tensor 'model.* is on the meta device"):
        HookedTransformer.from_pretrained(hf_model=copy.deepcopy(make("llama")).to("meta"))


LEFTOVERS = {
    "gpt2": {"transformer.h.0.attn.bias": torch.ones(1, 1, 32, 32, dtype=torch.uint8),
             "transformer.h.2.attn.masked_bias": torch.tensor(-1e4)},
    "neox_parallel": {"gpt_neox.layers.1.attention.bias": torch.ones(1, 1, 32, 32, dtype=torch.bool),
                      "gpt_neox.layers.1.attention.masked_bias": torch.tensor(-1e9),
                      "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(1)},
    "llama": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(5),
              "model.rotary_emb.inv_freq": torch.ones(5)},
}  # fmt: skip


@pytest.mark.parametrize("variant", LEFTOVERS)
def test_masks_and_frequencies_that_older_versions_stored_are_skipped(variant: str, tmp_path: Path):
    folder = write_folder(variant, tmp_path)
    change_weights(folder, lambda weights: weights.update(LEFTOVERS[variant]))
    assert same_bits(HookedTransformer.from_pretrained(folder), from_instance(variant))


@pytest.mark.parametrize("variant", ["gpt2", "llama_tied", "gemma2", "neox_without_biases_tied"])
def test_a_checkpoint_of_the_bare_model_loads_without_its_prefix(variant: str):
    family = FAMILIES[make(variant).config.model_type]
    bare = {name.removeprefix(family.prefix): tensor for name, tensor in make(variant).state_dict().items()}
    bare.pop("lm_head.weight")
    assert not any(name.startswith(family.prefix) for name in bare)
    cfg, state = from_hf(make(variant).config.to_dict(), bare)
    ours = from_instance(variant)
    assert cfg == ours.cfg
    assert all(torch.equal(ours.state_dict()[name], tensor) for name, tensor in state.items())
    assert set(state) <= set(ours.state_dict()) and {name for name in ours.state_dict() if ".W_" in name} <= set(state)


def test_the_head_of_a_tied_model_is_skipped_where_it_repeats_the_embedding(tmp_path: Path):
    folder = write_folder("llama_tied", tmp_path)
    change_weights(folder, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    assert same_bits(HookedTransformer.from_pretrained(folder), from_instance("llama_tied"))
    change_weights(folder, lambda w: w["lm_head.weight"][3].add_(1))
    with pytest.raises(CheckpointError, match=r"model.safetensors: tensor 'lm_head.weight' differs"):
        HookedTransformer.from_pretrained(folder)


def test_a_tied_checkpoint_may_hold_its_one_matrix_by_either_name(tmp_path: Path):
    folder = write_folder("llama_tied", tmp_path)
    change_weights(folder, lambda w: w.update({"lm_head.weight": w.pop("model.embed_tokens.weight")}))
    assert same_bits(HookedTransformer.from_pretrained(folder), from_instance("llama_tied"))


def test_tensors_of_different_dtypes_meet_in_the_one_that_holds_all(saved: Path):
    def halve(weights: dict[str, Tensor]) -> None:
        for name in weights:
            weights[name] = weights[name].to(torch.bfloat16 if "mlp" in name else torch.float16)

    change_weights(saved, halve)
    model = HookedTransformer.from_pretrained(saved)
    gate = load_file(saved / "model.safetensors")[GATE]
    assert model.cfg.dtype == torch.float32 and torch.equal(model.state_dict()["blocks.1.mlp.W_gate"], gate.float().T)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_checkpoint_keeps_its_dtype(dtype: torch.dtype, saved: Path):
    change_weights(saved, lambda w: w.update({name: tensor.to(dtype) for name, tensor in w.items()}))
    model = HookedTransformer.from_pretrained(saved)
    assert model.cfg.dtype == dtype == model.W_E.dtype
    wide = HookedTransformer.from_pretrained(saved, dtype=torch.float32)
    assert wide.cfg.dtype == torch.float32 and torch.equal(wide.W_E.to(dtype), model.W_E)


def test_a_configuration_that_contradicts_itself_is_an_error_that_names_the_file(saved: Path):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 4}))
    with pytest.raises(CheckpointError, match=r"config\.json: n_heads = 6 is not a multiple of n_key_value_heads = 4"):
        HookedTransformer.from_pretrained(saved)


def test_a_models_own_config_is_not_mistaken_for_a_families(tmp_path: Path):
    HookedTransformer(TransformerConfig(n_layers=1, d_model=8, n_heads=2, n_ctx=8, d_vocab=5)).save_pretrained(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(about | {"model_type": "lama"}))
    with pytest.raises(CheckpointError, match=r"'lama' is not supported; supported: gpt2, .*did you mean 'llama'"):
        HookedTransformer.from_pretrained(tmp_path)
