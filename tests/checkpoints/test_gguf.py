"""GGUF files: the weights that were written, logits and tokens of the original, refusals that name the tensor."""

import functools
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf as package
import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType as Kind
from gguf_files import float32, metadata_of, random_blocks, tensors_of, write
from grid import SEED
from hf_models import GROUPED, VARIANTS, make
from hypothesis import given
from hypothesis import strategies as st

from interp import CheckpointError, HookedTransformer
from interp.checkpoints.gguf_file import GGUFFile
from interp.text.tokenizer import BYTE_OF

load = HookedTransformer.from_pretrained

SYNTHETIC = [
    name
    for name, (family, fields) in VARIANTS.items()
    if family in ("Llama", "Qwen2", "Qwen3")
    and not fields.get("use_sliding_window")
    and fields.get("rope_scaling", {}).get("rope_type") != "llama3"
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """A transformers model of a variant, and the file it was written to."""

    @functools.cache
    def of(variant: str) -> tuple[Any, Path]:
        theirs = make(variant)
        path = tmp_path_factory.mktemp(variant) / "model.gguf"
        return theirs, write(path, metadata_of(theirs), tensors_of(theirs))

    return of


# ---------------------------------------------------------------------------------------------- weights and logits


@pytest.mark.parametrize("variant", SYNTHETIC)
def test_a_file_gives_the_weights_that_were_written_to_it(written: Any, variant: str):
    theirs, path = written(variant)
    loaded, expected = load(path), HookedTransformer.from_pretrained(hf_model=theirs)
    ours, wanted = loaded.state_dict(), expected.state_dict()
    assert ours.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(ours[name], wanted[name])] == []


@pytest.mark.parametrize("variant", SYNTHETIC)
def test_a_file_gives_the_logits_of_the_model_it_was_written_from(written: Any, variant: str):
    theirs, path = written(variant)
    tokens = torch.randint(theirs.config.vocab_size, (2, 11))
    with torch.no_grad():
        wanted, ours = theirs(tokens).logits, load(path)(tokens)
    assert float((ours - wanted).abs().max() / wanted.abs().max()) < 1e-5


def test_the_frequencies_of_llama_3_1_are_recognised_by_the_factors_they_make(tmp_path: Path):
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    fields = GROUPED | {"rope_theta": 5e5, "rope_scaling": scaling | {"original_max_position_embeddings": 8192}}
    theirs = llama(**fields | {"max_position_embeddings": 9000})
    base = 1 / 5e5 ** (np.arange(0, 10, 2) / 10)
    factors = (base / theirs.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    tensors = tensors_of(theirs) | {"rope_freqs.weight": factors}
    path = write(tmp_path / "model.gguf", metadata_of(theirs), tensors)
    tokens = torch.randint(37, (1, 600))
    with torch.no_grad():
        wanted, ours = theirs(tokens).logits, load(path)(tokens)
    assert float((ours - wanted).abs().max() / wanted.abs().max()) < 1e-4
    factors[2] *= 1.1
    write(path, metadata_of(theirs), tensors)
    with pytest.raises(CheckpointError, match=r"model\.gguf: tensor 'rope_freqs.weight' does not hold the factors"):
        load(path)


LIKE_27B = {"num_hidden_layers": 46, "hidden_size": 48, "num_attention_heads": 3, "query_pre_attn_scalar": 16}
GEMMAS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gemma2": ("Gemma2", {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0}, {}),
    "gemma2 as large as 27B": ("Gemma2", LIKE_27B | {"num_key_value_heads": 1}, {}),
    "gemma3": (
        "Gemma3",
        {"num_hidden_layers": 7, "rope_theta": 1e5, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {},
    ),
    "gemma3 with its pattern and its local base": (
        "Gemma3",
        {"num_hidden_layers": 3, "sliding_window_pattern": 2, "rope_local_base_freq": 100.0},
        {"gemma3.attention.sliding_window_pattern": 2, "gemma3.rope.freq_base_swa": 100.0},
    ),
}


@pytest.mark.parametrize("what", GEMMAS)
def test_a_file_of_gemma_gives_the_logits_of_the_model_it_was_written_from(what: str, tmp_path: Path):
    family, fields, metadata = GEMMAS[what]
    text = "Text" if family == "Gemma3" else ""
    fields = GROUPED | {"query_pre_attn_scalar": 10, "sliding_window": 4, "num_hidden_layers": 4} | fields
    fields["rms_norm_eps"] = 2.0**-13  # a number of float32, as files have it
    config = getattr(transformers, f"{family}{text}Config")(**fields, attn_implementation="eager")
    theirs = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(SEED)
    for parameter in theirs.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    path = write(tmp_path / "model.gguf", metadata_of(theirs) | metadata, tensors_of(theirs))
    ours, expected = load(path), HookedTransformer.from_pretrained(hf_model=theirs)
    assert ours.cfg == expected.cfg
    tokens = torch.randint(37, (2, 11), generator=generator)
    with torch.no_grad():
        wanted, got = theirs(tokens).logits, ours(tokens)
    assert float((got - wanted).abs().max() / wanted.abs().max()) < 1e-4


KINDS = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


def llama(**fields: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields)).eval()


def wide_llama(vocab_size: int = 37) -> Any:
    """Rows of 256, which K-quants need."""
    sizes: dict[str, Any] = {"vocab_size": vocab_size, "hidden_size": 256, "intermediate_size": 512}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    return llama(**sizes | heads | {"max_position_embeddings": 16})


@pytest.mark.parametrize("kind", [Kind[name] for name in KINDS], ids=KINDS)
def test_every_quantisation_is_read_as_the_gguf_package_reads_it(kind: Kind, tmp_path: Path):
    theirs = wide_llama()
    tensors, kinds = tensors_of(theirs), {}
    for name, array in tensors.items():
        if array.ndim == 2:
            tensors[name], kinds[name] = random_blocks(kind, *array.shape, seed=SEED), kind
    model = load(write(tmp_path / "model.gguf", metadata_of(theirs), tensors, kinds))
    whole = {name: float32(kind, tensors[name]) for name in kinds}
    attn, mlp = model.blocks[0].attn, model.blocks[0].mlp
    assert torch.equal(model.W_E, whole["token_embd.weight"])
    assert torch.equal(model.unembed.W_U, whole["output.weight"].T)
    assert torch.equal(mlp.W_in, whole["blk.0.ffn_up.weight"].T)
    assert torch.equal(mlp.W_out, whole["blk.0.ffn_down.weight"].T)
    assert torch.equal(attn.W_V.transpose(1, 2).flatten(0, 1), whole["blk.0.attn_v.weight"])
    assert torch.equal(attn.W_O.flatten(0, 1), whole["blk.0.attn_output.weight"].T)
    assert torch.equal(attn.W_Q[1, :, 32:], whole["blk.0.attn_q.weight"][64:128][1::2].T)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_another_dtype_is_the_float32_model_rounded_once(written: Any, dtype: torch.dtype):
    path = written("llama")[1]
    model, cast = (
        load(path, dtype=dtype),
        load(path).to(dtype),
    )
    assert model.cfg.dtype == dtype
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), cast.state_dict().values(), strict=True))


def test_loaded_parameters_are_contiguous(written: Any):
    assert all(parameter.is_contiguous() for parameter in load(written("llama")[1]).parameters())


def test_loading_draws_nothing_from_the_global_generator(written: Any):
    before = torch.get_rng_state()
    load(written("llama")[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_header_is_read_as_the_gguf_package_reads_it(written: Any):
    path = written("qwen3")[1]
    ours, theirs = GGUFFile(path), package.GGUFReader(path)
    fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata == fields
    places = {t.name: (tuple(reversed(t.shape.tolist())), t.tensor_type, t.data_offset) for t in theirs.tensors}
    assert {name: (t.shape, t.kind, t.start) for name, t in ours.tensors.items()} == places


# ---------------------------------------------------------------------------------------------- refusals


def changed(path: Path, theirs: Any, metadata: dict[str, Any], tensors: dict[str, Any]) -> Path:
    """The file with some keys and tensors set, or left out where the value is None."""
    keys = {k: v for k, v in (metadata_of(theirs) | metadata).items() if v is not None}
    arrays = {k: v for k, v in (tensors_of(theirs) | tensors).items() if v is not None}
    return write(path, keys, arrays)


ONES = np.ones(24, dtype=np.float32)
BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "missing": ({}, {"blk.1.ffn_up.weight": None}, "tensor 'blk.1.ffn_up.weight' is missing"),
    "no embedding": ({}, {"token_embd.weight": None}, "tensor 'token_embd.weight' is missing"),
    "surplus": ({}, {"blk.3.attn_norm.weight": ONES}, "'blk.3.attn_norm.weight' is not part of this model"),
    "misspelt": ({}, {"blk.0.atn_norm.weight": ONES}, "not part of this model; did you mean 'blk.0.attn_norm.weight'"),
    "shape": (
        {},
        {"output_norm.weight": ONES[:23]},
        r"'output_norm.weight' has shape \(23,\); the metadata say \(24,\)",
    ),
    "no such architecture": (
        {"general.architecture": "lama"},
        {},
        "architecture 'lama'; supported: llama, qwen2, qwen3, gemma2, gemma3",
    ),
    "missing key": ({"llama.block_count": None}, {}, "metadata 'llama.block_count' is missing"),
    "impossible": ({"llama.attention.head_count_kv": 4}, {}, "n_heads = 6 is not a multiple of n_key_value_heads = 4"),
    "layers": ({"llama.block_count": 10**9}, {}, "'llama.block_count' = 1000000000, in a file of"),
    "a string": ({"llama.embedding_length": "wide"}, {}, "'llama.embedding_length' = 'wide'; allowed: int"),
    "experts": ({"llama.expert_count": 8}, {}, "'llama.expert_count' = 8: such models are not computed here"),
    "rope": ({"llama.rope.scaling.type": "yarn"}, {}, "rope.scaling.type' = 'yarn'; allowed: 'none' or 'linear'"),
    "partly rotated": ({"llama.rope.dimension_count": 4}, {}, "dimension_count' = 4; allowed: the width of a head, 10"),
    "tokenizer": ({"tokenizer.ggml.model": "t5"}, {}, "tokenizer.ggml.model = 't5'; allowed: 'gpt2'.* or 'llama'"),
    "soft cap": ({"llama.attn_logit_softcapping": 5.0}, {}, "attn_logit_softcapping' = 5.0: such models are not"),
    "no scores": ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a"]}, {}, "tokenizer.ggml.scores"),
    "spaces": (
        {"tokenizer.ggml.model": "llama", "tokenizer.ggml.remove_extra_whitespaces": True},
        {},
        "tokenizer.ggml.remove_extra_whitespaces = True: such texts are not made here",
    ),
    "split": (
        {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smolm"},
        {},
        "tokenizer.ggml.pre = 'smolm'; allowed: smollm, gpt-2, llama-bpe, qwen2; did you mean 'smollm'",
    ),
    "no words": ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"}, {}, "tokenizer.ggml.tokens"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_contradicts_itself_is_an_error_that_says_where(written: Any, what: str, tmp_path: Path):
    metadata, tensors, message = BAD[what]
    path = changed(tmp_path / "model.gguf", written("llama")[0], metadata, tensors)
    with pytest.raises(CheckpointError, match=rf"model\.gguf: .*({message})"):
        load(path)


def test_qwen2_must_have_its_biases(written: Any, tmp_path: Path):
    path = changed(tmp_path / "model.gguf", written("qwen2")[0], {}, {"blk.2.attn_k.bias": None})
    with pytest.raises(CheckpointError, match=r"tensor 'blk\.2\.attn_k\.bias' is missing"):
        load(path)


WORDS = [*sorted(BYTE_OF), "ab", "<s>"]
TOKENS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "llama-bpe",
    "tokenizer.ggml.tokens": WORDS,
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.token_type": [1] * 257 + [3],
    "tokenizer.ggml.bos_token_id": 257,
}


def test_the_tokenizer_of_llama_3_begins_with_its_bos(tmp_path: Path):
    path = changed(tmp_path / "model.gguf", wide_llama(vocab_size=258), TOKENS, {})
    codec = load(path).tokenizer
    assert codec is not None
    assert codec.to_str_tokens("ab 12<s>") == ["<s>", "ab", " ", "1", "2", "<s>"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merges": ["a c"]}, "merge"),
        ({"merges": ["ab"]}, "contradict"),
        ({"tokens": [*WORDS[:-1], "a"]}, "token 'a' is there twice"),
        ({"bos_token_id": 258}, "bos_token_id = 258, of 258 tokens"),
        ({"token_type": [1, 1]}, "contradict"),
    ],
)
def test_a_tokenizer_that_contradicts_itself_is_an_error(change: dict[str, Any], message: str, tmp_path: Path):
    metadata = TOKENS | {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    path = changed(tmp_path / "model.gguf", wide_llama(vocab_size=258), metadata, {})
    with pytest.raises(CheckpointError, match=rf"model\.gguf: the metadata of the tokenizer.*{message}"):
        load(path)


@given(data=st.data())
def test_a_file_cut_anywhere_is_an_error_that_names_it(written: Any, data: st.DataObject):
    whole = written("llama")[1]
    held = whole.read_bytes()
    last = GGUFFile(whole).tensors["output_norm.weight"]
    end = max(t.start + t.n_rows * t.row_bytes for t in GGUFFile(whole).tensors.values())
    assert last.start < end
    length = data.draw(st.integers(0, end - 1))
    path = whole.with_name("cut.gguf")
    path.write_bytes(held[:length])
    with pytest.raises(CheckpointError, match=r"cut\.gguf"):
        load(path)


@given(data=st.data())
def test_a_corrupt_header_is_read_or_refused_and_nothing_else(written: Any, data: st.DataObject):
    """Whatever stands in its bytes: no other error, no endless loop, no allocation of what the file does not hold."""
    whole = written("qwen3")[1]
    held = bytearray(whole.read_bytes())
    header = min(t.start for t in GGUFFile(whole).tensors.values())
    for _ in range(data.draw(st.integers(1, 3))):
        held[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    path = whole.with_name("corrupt.gguf")
    path.write_bytes(held)
    try:
        load(path)
    except CheckpointError as error:
        assert "corrupt.gguf" in str(error)


def test_an_unknown_quantisation_is_an_error_that_names_the_tensor(written: Any, tmp_path: Path):
    held = written("llama")[1].read_bytes()
    entry = held.index(b"output_norm.weight") + len("output_norm.weight") + 4 + 8
    path = tmp_path / "model.gguf"
    for kind, message in ((99, "quantisation 99; the gguf package knows"), (26, "quantisation I32")):
        path.write_bytes(held[:entry] + struct.pack("<I", kind) + held[entry + 4 :])
        with pytest.raises(CheckpointError, match=rf"model\.gguf: tensor 'output_norm.weight' has {message}"):
            load(path)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"", "the header reaches beyond the end"),
        (b"PK\x03\x04" + bytes(40), "is not a GGUF file: it begins with"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(40), "has version 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(40), "is big-endian"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 62),
            "metadata entry 0 reaches beyond the end",
        ),
    ],
)
def test_what_is_no_gguf_file_is_an_error_that_says_so(start: bytes, message: str, tmp_path: Path):
    path = tmp_path / "model.gguf"
    path.write_bytes(start)
    with pytest.raises(CheckpointError, match=rf"model\.gguf.*{message}"):
        load(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"nothing\.gguf cannot be read: No such file"):
        GGUFFile(tmp_path / "nothing.gguf")


def test_without_the_gguf_package_the_error_says_how_to_install_it(written: Any, monkeypatch: pytest.MonkeyPatch):
    path = written("llama")[1]
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"pip install 'interp\[gguf\]'"):
        load(path)
