"""Tokenizers of encoders: the ids that transformers' own make of texts, of batches, and of pairs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from grid import SEED, SMALL, build, config
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from interp import HookedTransformer, TokenError, Tokenizer
from interp.heads import head_scores
from interp.text import Vocabulary, repeated_tokens

TEXTS = ["The cat sat on the mat.", "dogs, playing!", "unbelievable", " a [MASK] b", "[CLS] twice", "", "naïve café"]
CORPUS = ["the cat sat on the mat", "dogs play and cats sleep in the garden", "a naive believer"] * 3
WORDS = {"bos": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]", "unk": "[UNK]"}


def wordpiece() -> tuple[Backend, dict[str, str]]:
    """As BERT's."""
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[PAD]", *WORDS.values()], show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    ids = [(word, backend.token_to_id(word)) for word in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return backend, {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}


def byte_level() -> tuple[Backend, dict[str, str]]:
    """As RoBERTa's and ModernBERT's."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "[MASK]", "[CLS]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return backend, {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}


KINDS = {"wordpiece": wordpiece, "byte_level": byte_level}


def pair_of(kind: str, n_types: int = 2) -> tuple[HookedTransformer, Any]:
    """A small encoder with a tokenizer, and transformers' tokenizer."""
    backend, special = KINDS[kind]()
    theirs = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    cfg = config(SMALL, d_vocab=400, n_ctx=32, attention_dir="bidirectional", n_token_types=n_types)
    return with_tokenizer(build(cfg, SEED), theirs), theirs


def with_tokenizer(model: HookedTransformer, tokenizer: Any) -> HookedTransformer:
    model.tokenizer = tokenizer
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_texts_get_the_ids_that_transformers_gives_them(kind: str):
    model, theirs = pair_of(kind)
    for text in TEXTS:
        assert model.to_tokens(text)[0].tolist() == theirs(text)["input_ids"], text
    for side in ("left", "right"):
        theirs.padding_side = side
        batch = theirs(TEXTS, padding=True, return_tensors="pt")
        tokens, mask = model.to_tokens_and_mask(TEXTS, padding_side=side)
        assert torch.equal(tokens, batch["input_ids"])
        assert torch.equal(mask, batch["attention_mask"].bool())


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_of_texts_get_the_ids_and_types_that_transformers_gives_them(kind: str):
    model, theirs = pair_of(kind)
    first, second = TEXTS[:3], TEXTS[1:4]
    for side in ("left", "right"):
        theirs.padding_side = side
        batch = theirs(first, second, padding=True, return_tensors="pt", return_token_type_ids=True)
        pairs = model.masked_pairs(first, second, padding_side=side)
        assert torch.equal(pairs.ids, batch["input_ids"])
        assert torch.equal(pairs.is_token, batch["attention_mask"].bool())
        assert pairs.token_types is not None and torch.equal(pairs.token_types, batch["token_type_ids"])
    one = model.masked_pairs("the cat", "sat")
    assert one.ids.shape[0] == 1 and one.attention_mask is None
    assert model(one).shape[:2] == one.ids.shape


def test_a_model_without_token_types_reads_pairs_without_them():
    for n_types in (0, 1):
        model, _ = pair_of("byte_level", n_types)
        assert model.masked_pairs("the cat", "sat").token_types is None


def test_tokens_read_as_they_are_spelt_and_join_as_transformers_joins_them():
    model, theirs = pair_of("wordpiece")
    ids = model.to_tokens("The cat sat on mats.")[0]
    assert model.to_str_tokens("The cat sat on mats.") == theirs.convert_ids_to_tokens(ids)
    assert model.to_string(ids) == theirs.decode(ids)
    assert model.to_string(ids).startswith("[CLS] the cat sat")
    model, theirs = pair_of("byte_level")
    ids = model.to_tokens("The cat sat on mats.")[0]
    assert "".join(model.to_str_tokens("The cat sat on mats.")) == "<s>The cat sat on mats.</s>" == model.to_string(ids)


def test_encoding_alone_and_a_bos_that_is_declined():
    model, theirs = pair_of("wordpiece")
    codec = model.tokenizer
    assert isinstance(codec, Tokenizer) and codec.adds_special_tokens
    whole = theirs("the cat")["input_ids"]
    assert codec.encode("the cat") == whole[1:-1]
    assert model.to_tokens("the cat", prepend_bos=False)[0].tolist() == whole[1:]
    assert model.to_tokens("the cat", prepend_bos=True)[0].tolist() == whole
    assert (codec.bos, codec.prepends_bos) == ("[CLS]", True)


def test_a_decoder_with_the_same_tokenizer_keeps_its_habit():
    backend, special = wordpiece()
    theirs = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    model = with_tokenizer(build(config(SMALL, d_vocab=400, n_ctx=32), SEED), theirs)
    assert model.to_tokens("the cat")[0].tolist() == theirs("the cat")["input_ids"][:-1]


def test_a_saved_encoder_brings_its_habit_back(tmp_path: Path):
    model, _ = pair_of("byte_level")
    model.save_pretrained(tmp_path)
    again = HookedTransformer.from_pretrained(tmp_path)
    assert again.tokenizer == model.tokenizer
    assert torch.equal(again.to_tokens(TEXTS), model.to_tokens(TEXTS))
    other = Tokenizer(byte_level()[0], bos="<s>", pad="<pad>")
    assert other != model.tokenizer


def test_a_padding_token_that_only_the_models_configuration_names_is_used(tmp_path: Path):
    backend, _ = byte_level()
    backend.save(str(tmp_path / "tokenizer.json"))
    codec = Tokenizer.from_file(tmp_path / "tokenizer.json", {}, add_special_tokens=True, pad_id=1)
    assert (codec.bos, codec.pad, codec.pad_id) == ("<s>", "<pad>", 1)


def test_pairs_without_anything_between_them_are_refused():
    with pytest.raises(TokenError, match="a Vocabulary puts nothing between two texts"):
        Vocabulary("ab").pairs_to_tokens("a", "b")
    with pytest.raises(TokenError, match="add_special_tokens=True"):
        Tokenizer(byte_level()[0], bos="<s>").pairs_to_tokens("a", "b")
    with pytest.raises(TokenError, match="2 first texts and 1 second ones do not make pairs"):
        pair_of("wordpiece")[0].masked_pairs(["a", "b"], ["c"])
    with pytest.raises(TokenError, match="half of a surrogate pair"):
        pair_of("wordpiece")[0].masked_pairs("a", "\ud800")


@pytest.mark.parametrize("kind", KINDS)
def test_random_repeats_for_an_encoder_stand_between_the_tokens_that_stand_around_every_text(kind: str):
    model, theirs = pair_of(kind)
    around = theirs("cat").input_ids
    tokens = repeated_tokens(model.cfg, model.tokenizer, 5, 14, SEED)
    assert tokens.shape == (5, 14)
    assert set(tokens[:, 0].tolist()) == {around[0]} and set(tokens[:, -1].tolist()) == {around[-1]}
    assert not set(tokens[:, 1:-1].flatten().tolist()) & set(theirs.all_special_ids)
    assert repeated_tokens(model.cfg, model.tokenizer, 1).shape[1] <= model.cfg.n_ctx
    scores = head_scores(model, n_prompts=3, length=12, scores=["first_token", "last_token"])
    assert scores.last_token.shape == (3, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_comes_back_with_the_habits_it_had(kind: str, tmp_path: Path):
    """Whether or not it was told which token begins a text, which its template puts there in any case."""
    backend, special = KINDS[kind]()
    first = special["cls_token"]
    for bos, prepend_bos in ((None, None), (first, None), (first, False), (first, True)):
        for added in (True, False):
            habits = {"prepend_bos": prepend_bos, "add_special_tokens": added}
            own = Tokenizer(backend, bos=bos, pad=special["pad_token"], **habits)
            again = Tokenizer.load(tmp_path, own.save(tmp_path))
            assert again == own and again.bos == bos
            assert again.to_str_tokens("the cat") == own.to_str_tokens("the cat")
    cfg = config(SMALL, d_vocab=400, attention_dir="bidirectional")
    model = build(cfg, SEED, Tokenizer(backend, add_special_tokens=True))
    model.save_pretrained(tmp_path / "saved")
    model.save_snapshot(tmp_path / "snapshot")
    for folder in ("saved", "snapshot"):
        other = HookedTransformer.from_pretrained(tmp_path / folder)
        assert torch.equal(other.to_tokens("the cat"), model.to_tokens("the cat"))
        assert other.to_str_tokens("the cat")[0] == first
