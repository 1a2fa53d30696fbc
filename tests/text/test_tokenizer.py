"""Tokenizers: every text comes back, positions keep their tokens, batches keep their masks, and nothing is doubled."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from grid import SEED, SMALL, assert_close, build
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from interp import CheckpointError, ConfigError, HookedTransformer, TokenError, Tokenizer, TransformerConfig, Vocabulary
from interp.text.codec import TextCodec

CORPUS = ["the cat sat on the mat", "the dog sat on the cat", "a cat, a dog and a mat 123 456", "naïve café 猫 🐈"] * 3
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def byte_level(template: bool = False) -> tokenizers.Tokenizer:
    """A small byte-level BPE tokenizer, with or without a habit of starting with a bos."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=[BOS, EOS, PAD])
    backend.train_from_iterator(CORPUS, trainer)
    if template:
        backend.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return backend


def config(d_vocab: int, **fields: Any) -> TransformerConfig:
    values: dict[str, Any] = SMALL | {"d_vocab": d_vocab, "n_ctx": 32} | fields
    return TransformerConfig(**values)


@pytest.fixture(scope="module")
def plain() -> Tokenizer:
    return Tokenizer(byte_level(), bos=BOS, eos=EOS, pad=PAD)


@pytest.fixture(scope="module")
def begins() -> Tokenizer:
    return Tokenizer(byte_level(template=True), bos=BOS)


@pytest.fixture(scope="module")
def model(plain: Tokenizer) -> HookedTransformer:
    return build(config(plain.d_vocab, positional_embedding_type="rotary", rotary_dim=4), SEED, plain)


# ---------------------------------------------------------------------------------------------- text and back


@given(text=texts.filter(bool))
def test_every_text_comes_back(plain: Tokenizer, text: str):
    assert plain.to_string(plain.to_tokens(text)) == text


@given(text=st.text("the catdog,.1 \n", max_size=40))
def test_tokens_joined_are_the_text(plain: Tokenizer, text: str):
    assert "".join(plain.to_str_tokens(text)) == text


@given(text=texts)
def test_there_is_a_string_for_every_id(plain: Tokenizer, text: str):
    strings = plain.to_str_tokens(text)
    assert len(strings) == len(plain.to_tokens(text)[0])
    assert all(strings)


def test_a_part_of_a_character_shows_as_escapes(plain: Tokenizer):
    assert plain.to_str_tokens("€") == ["\\xe2", "\\x82", "\\xac"]
    assert plain.to_string(plain.to_tokens("€")[0, :1]) == "\\xe2"


def test_ids_and_their_text_give_the_same_strings(plain: Tokenizer):
    text = "the cat, naïve 🐈"
    assert plain.to_str_tokens(plain.to_tokens(text)) == plain.to_str_tokens(text)


def test_half_of_a_surrogate_pair_is_an_error_that_says_where(plain: Tokenizer):
    with pytest.raises(TokenError, match="character 2 of the text"):
        plain.to_tokens("ab\ud800")


def test_a_negative_id_is_an_error_that_names_its_place(plain: Tokenizer):
    for method in (plain.to_str_tokens, plain.to_string):
        with pytest.raises(TokenError, match="token -1 at place 1; a token id is 0 or more"):
            method(torch.tensor([0, -1]))


def sentencepiece() -> Tokenizer:
    """A tokenizer built as Llama 2's: spaces as blocks, unknown characters as bytes."""
    words = ["<unk>", BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "ab", "▁ab"]
    ids = {word: i for i, word in enumerate(words)}
    merges = [("▁", "a"), ("a", "b"), ("▁a", "b")]
    backend = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([BOS, EOS])
    return Tokenizer(backend, bos=BOS, eos=EOS, prepend_bos=False)


@given(text=st.text("ab é猫\n").filter(bool))
def test_a_sentencepiece_text_comes_back(text: str):
    codec = sentencepiece()
    assert codec.to_string(codec.to_tokens(text)) == text


def test_sentencepiece_tokens_are_shown_with_spaces_and_bytes():
    assert sentencepiece().to_str_tokens("ab ab\né") == [" ab", " ab", "\n", "\\xc3", "\\xa9"]


# ---------------------------------------------------------------------------------------------- the token that begins


def test_by_default_the_tokenizers_own_habit_decides(plain: Tokenizer, begins: Tokenizer):
    assert plain.to_str_tokens("cat")[0] != BOS
    assert begins.to_str_tokens("cat")[0] == BOS
    assert begins.to_tokens("cat")[0, 0] == begins.bos_id


def test_prepend_bos_overrules_the_habit(plain: Tokenizer, begins: Tokenizer):
    assert plain.to_str_tokens("cat", prepend_bos=True)[0] == BOS
    assert begins.to_str_tokens("cat", prepend_bos=False)[0] != BOS


@pytest.mark.parametrize("prepend_bos", [None, True, False])
@given(text=texts)
def test_the_bos_is_never_doubled(begins: Tokenizer, prepend_bos: bool | None, text: str):
    ids = begins.to_tokens(BOS + text, prepend_bos=prepend_bos)[0].tolist()
    assert ids[0] == begins.bos_id
    assert ids[1:] == begins.to_tokens(text, prepend_bos=False)[0].tolist()


def test_no_bos_to_prepend_is_an_error():
    with pytest.raises(TokenError, match="without bos="):
        Tokenizer(byte_level()).to_tokens("cat", prepend_bos=True)
    with pytest.raises(TokenError, match="without bos="):
        Tokenizer(byte_level(), prepend_bos=True)


def test_a_special_token_that_is_none_is_an_error_with_the_nearest():
    with pytest.raises(TokenError, match="bos = '<ss>' is not a token; did you mean '<s>'"):
        Tokenizer(byte_level(), bos="<ss>")


# ---------------------------------------------------------------------------------------------- batches

RAGGED = ["the cat sat on the mat", "a", "the dog"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_padded_on_the_side_asked_for_and_the_mask_says_where(plain: Tokenizer, side: str):
    tokens, mask = plain.to_tokens_and_mask(RAGGED, padding_side=side)
    for row, real, text in zip(tokens, mask, RAGGED, strict=True):
        own = plain.to_tokens(text)[0]
        n = len(own)
        assert torch.equal(row[real], own)
        assert (row[~real] == plain.pad_id).all()
        assert real.tolist() == ([False] * (len(row) - n) + [True] * n if side == "left" else
                                 [True] * n + [False] * (len(row) - n))  # fmt: skip


def test_the_padding_is_pad_else_eos_else_0():
    assert Tokenizer(byte_level(), bos=BOS, eos=EOS, pad=PAD).pad_id == 2
    assert Tokenizer(byte_level(), bos=BOS, eos=EOS).pad_id == 1
    assert Tokenizer(byte_level()).pad_id == 0


def test_another_side_and_an_empty_batch_are_errors_of_every_codec(plain: Tokenizer):
    for codec in (plain, Vocabulary(["cat"])):
        with pytest.raises(ConfigError, match="padding_side = 'rigth'; allowed: 'left', 'right'; did you mean 'right'"):
            codec.to_tokens("cat", padding_side="rigth")
        with pytest.raises(TokenError, match="an empty batch"):
            codec.to_tokens([])


def test_a_batch_of_texts_gives_each_text_the_logits_it_has_alone(model: HookedTransformer):
    together = model(RAGGED)
    for row, text in zip(together, RAGGED, strict=True):
        alone = model(text)[0]
        assert_close(row[-len(alone) :], alone)


def test_the_loss_of_a_batch_of_texts_leaves_the_padding_out(model: HookedTransformer):
    alone = [model(text, "loss", loss_per_token=True)[0] for text in RAGGED if len(model.to_tokens(text)[0]) > 1]
    assert_close(model(RAGGED, "loss"), torch.cat(alone).mean())


def test_a_batch_of_texts_continues_as_each_text_does_alone(model: HookedTransformer):
    together = model.generate(RAGGED, 4, progress=False).texts
    assert together == [model.generate(text, 4, progress=False).texts[0] for text in RAGGED]  # pyright: ignore


def test_a_second_mask_beside_padded_texts_is_an_error(model: HookedTransformer):
    with pytest.raises(ValueError, match="bring their own mask"):
        model(RAGGED, attention_mask=torch.ones(3, 10))


def test_padding_and_truncation_of_the_backend_play_no_part_and_stay():
    backend = byte_level()
    backend.enable_padding(length=20)
    backend.enable_truncation(2)
    assert Tokenizer(backend).to_tokens("the cat sat on a mat").shape[1] > 2
    assert backend.padding is not None and backend.truncation is not None


# ---------------------------------------------------------------------------------------------- single tokens


def test_a_text_of_one_token_has_an_id(plain: Tokenizer):
    assert plain.to_str_tokens(torch.tensor([plain.to_single_token(" cat")])) == [" cat"]
    assert plain.to_single_token(BOS) == plain.bos_id


def test_a_text_of_several_tokens_is_an_error_that_lists_them(begins: Tokenizer):
    with pytest.raises(TokenError, match=r"' cat the' is 2 tokens, \[' cat', ' the'\]; a single one"):
        begins.to_single_token(" cat the")
    with pytest.raises(TokenError, match=r"'' is 0 tokens"):
        begins.to_single_token("")


def test_the_position_of_a_token_is_where_the_model_sees_it(begins: Tokenizer):
    text = " cat sat on cat"
    strings = begins.to_str_tokens(text)
    first, last = begins.get_token_position(" cat", text), begins.get_token_position(" cat", text, "last")
    assert (first, strings[first]) == (1, " cat")
    assert (last, strings[last]) == (len(strings) - 1, " cat")
    ids = begins.to_tokens(text)
    assert begins.get_token_position(int(ids[0, last]), ids, "last") == last


def test_a_token_that_is_not_there_is_an_error_with_the_nearest(plain: Tokenizer):
    with pytest.raises(TokenError, match=r"token ' cat' is not among \['the', ' mat'\]; did you mean ' mat'"):
        plain.get_token_position(" cat", "the mat")


@pytest.mark.usefixtures("as_installed")
def test_another_mode_is_an_error_with_those_allowed(plain: Tokenizer):
    with pytest.raises(ConfigError, match="mode = 'fist'; allowed: 'first', 'last'; did you mean 'first'"):
        plain.get_token_position(" cat", "the cat", "fist")  # pyright: ignore[reportArgumentType]


def test_a_vocabulary_answers_the_same_questions():
    vocabulary = Vocabulary(["<s>", "cat", "dog"], bos="<s>")
    assert isinstance(vocabulary, TextCodec)
    assert vocabulary.get_token_position("dog", "cat dog cat dog", "last", prepend_bos=True) == 4
    tokens, mask = vocabulary.to_tokens_and_mask(["cat dog", "dog cat"])
    assert tokens.tolist() == [[1, 2], [2, 1]] and mask.all()
    assert vocabulary.to_str_tokens("cat", prepend_bos=True) == ["<s>", "cat"]


# ---------------------------------------------------------------------------------------------- files and models


def test_a_saved_model_brings_its_tokenizer_back(model: HookedTransformer, tmp_path: Path):
    model.save_pretrained(tmp_path)
    loaded = HookedTransformer.from_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    ours, theirs = model.tokenizer, loaded.tokenizer
    assert isinstance(ours, Tokenizer) and isinstance(theirs, Tokenizer)
    assert (theirs.bos, theirs.eos, theirs.pad, theirs.prepends_bos) == (BOS, EOS, PAD, False)
    assert theirs.backend.to_str() == ours.backend.to_str()
    assert torch.equal(loaded(CORPUS[3]), model(CORPUS[3]))


def test_an_overruled_habit_is_saved_with_the_model(tmp_path: Path):
    codec = Tokenizer(byte_level(template=True), bos=BOS, prepend_bos=False)
    build(config(codec.d_vocab), SEED, codec).save_pretrained(tmp_path)
    assert HookedTransformer.from_pretrained(tmp_path).to_str_tokens("cat")[0] != BOS


def test_a_tokenizer_that_cannot_be_read_is_an_error_that_names_the_file(model: HookedTransformer, tmp_path: Path):
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        HookedTransformer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        HookedTransformer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("template", "config", "bos", "habit"),
    [
        (True, None, BOS, True),
        (False, None, None, False),
        (True, {"bos_token": BOS}, BOS, True),
        (True, {"bos_token": {"content": BOS, "lstrip": False}, "add_bos_token": False}, BOS, False),
        (False, {"bos_token": BOS, "add_bos_token": True}, BOS, True),
        (False, {"bos_token": None, "add_bos_token": True, "eos_token": EOS}, None, False),
    ],
)
def test_a_tokenizer_file_and_its_config(template: bool, config: Any, bos: str | None, habit: bool, tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    path.write_text(byte_level(template).to_str(), encoding="utf-8")
    codec = Tokenizer.from_file(path, config)
    assert (codec.bos, codec.prepends_bos) == (bos, habit)


def test_a_config_with_an_unknown_token_is_an_error_that_names_the_file(tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    path.write_text(byte_level().to_str(), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: eos = '<end>' is not a token"):
        Tokenizer.from_file(path, {"eos_token": "<end>"})


def test_a_model_may_lack_tokens_that_were_added_but_no_others():
    backend = byte_level()
    base = backend.get_vocab_size()
    backend.add_tokens([AddedToken("<image>")])
    codec = Tokenizer(backend)
    assert (codec.d_vocab_base, codec.d_vocab) == (base, base + 1)
    model = build(config(base), SEED, codec)
    with pytest.raises(TokenError, match=f"token {base} at batch 0, pos 0"):
        model("<image>")
    with pytest.raises(ConfigError, match=f"d_vocab = {base - 1} is too small for a vocabulary of {base}"):
        build(config(base - 1), SEED, codec)


def test_a_copied_model_shares_its_tokenizer(model: HookedTransformer):
    assert copy.deepcopy(model).tokenizer is model.tokenizer


def test_importing_interp_imports_no_tokenizer_library_and_no_family_of_checkpoints():
    code = "import interp, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not {"tokenizers", "gguf", "huggingface_hub", "transformers", "safetensors"} & loaded
    assert not [name for name in loaded if name.startswith("interp.checkpoints")]
