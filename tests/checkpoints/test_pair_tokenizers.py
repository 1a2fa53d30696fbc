"""Texts for an encoder with a decoder: the ids that transformers' own tokenizers make, and what a target gets."""

from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from hf_pairs import BART, SEED, T5

from interp import HookedEncoderDecoder, Tokenizer

SOURCES = ["the red house", "a cat", "the house sat"]
TARGETS = ["red the", "the cat sat", "a"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def t5() -> tuple[Any, Any]:
    """A T5 with a tokenizer of its kind, which puts "</s>" after a text."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁the", -1.0), ("▁red", -2.0), ("▁", -3.0)]
    given: dict[str, Any] = {"vocab": [*pieces, *((c, -5.0) for c in LETTERS)], "extra_ids": 2}
    tokenizer = transformers.T5Tokenizer(**given)
    options: dict[str, Any] = T5 | {"vocab_size": 40}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**options)).eval(), tokenizer


def bart() -> tuple[Any, Any]:
    """A BART with a tokenizer of its kind, which puts "<s>" before a text and "</s>" after it."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet, "th", "the", "Ġthe"]
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    given: dict[str, Any] = {"vocab": {word: i for i, word in enumerate(words)}, "merges": merges}
    tokenizer = transformers.RobertaTokenizer(**given)
    options: dict[str, Any] = BART | {"vocab_size": len(words)}
    return transformers.BartForConditionalGeneration(transformers.BartConfig(**options)).eval(), tokenizer


KINDS = {"t5": t5, "bart": bart}


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[HookedEncoderDecoder, Any, Any, Path]:
    """Our model from a folder with a tokenizer, transformers' model and tokenizer, and the folder."""
    torch.manual_seed(SEED)
    model, tokenizer = KINDS[request.param]()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return HookedEncoderDecoder.from_pretrained(tmp_path), model, tokenizer, tmp_path


Pair = tuple[HookedEncoderDecoder, Any, Any, Path]


def test_a_source_has_the_ids_of_transformers_and_is_padded_and_masked(pair: Pair):
    ours, _, tokenizer, _ = pair
    prompts = ours.masked_tokens(SOURCES, TARGETS)
    mask = prompts.source.attention_mask
    assert mask is not None
    for row, text in enumerate(SOURCES):
        assert prompts.source.ids[row][mask[row]].tolist() == tokenizer(text).input_ids
        assert ours.encoder.to_tokens(text)[0].tolist() == tokenizer(text).input_ids


def test_a_target_starts_with_the_start_token_and_goes_on_without_an_end(pair: Pair):
    ours, _, tokenizer, _ = pair
    prompts = ours.masked_tokens(SOURCES, TARGETS)
    mask = prompts.target.attention_mask
    assert mask is not None
    for row, text in enumerate(TARGETS):
        ids = tokenizer(text).input_ids
        assert ids[-1] == tokenizer.eos_token_id
        assert prompts.target.ids[row][mask[row]].tolist() == [ours.cfg.start_token, *ids[:-1]]


def test_the_loss_of_texts_is_that_of_transformers_where_the_target_says_its_end(pair: Pair):
    ours, theirs, tokenizer, _ = pair
    for source, target in zip(SOURCES, TARGETS, strict=True):
        given = tokenizer(source, return_tensors="pt")
        loss = theirs(given.input_ids, labels=tokenizer(target, return_tensors="pt").input_ids).loss
        mine = ours(source, f"{target}{tokenizer.eos_token}", "loss")
        torch.testing.assert_close(mine, loss, rtol=1e-5, atol=1e-5)


def test_texts_are_generated_as_transformers_does_from_a_padded_batch(pair: Pair):
    ours, theirs, tokenizer, _ = pair
    for text in SOURCES:
        given = tokenizer(text, return_tensors="pt")
        options: dict[str, Any] = {"do_sample": False, "num_beams": 1, "max_new_tokens": 8, "use_cache": False}
        ids = theirs.generate(**given, **options)[0, 1:].tolist()
        ids = ids[: ids.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in ids else ids
        made = ours.generate(text, 8)
        batch = ours.generate(SOURCES, 8)
        assert made.texts is not None and batch.texts is not None
        assert made.texts[0] == batch.texts[SOURCES.index(text)] == ours.decoder.to_string(ids)


def test_tokenizers_come_back_from_our_own_format_and_can_be_given(pair: Pair, tmp_path: Path):
    ours, theirs, tokenizer, _ = pair
    ours.save_pretrained(tmp_path / "own")
    back = HookedEncoderDecoder.from_pretrained(tmp_path / "own")
    given = HookedEncoderDecoder.from_pretrained(hf_model=theirs, tokenizer=tokenizer)
    again = HookedEncoderDecoder.from_pretrained(tmp_path / "own", tokenizer=ours.encoder.tokenizer)
    made = HookedEncoderDecoder(ours.cfg, tokenizer)
    for other in (back, given, again, made):
        for stack in ("encoder", "decoder"):
            mine, its = (model.stacks[stack].tokenizer for model in (ours, other))
            assert isinstance(mine, Tokenizer) and isinstance(its, Tokenizer)
            assert mine.encode(SOURCES) == its.encode(SOURCES)
            assert mine.to_tokens("the red").equal(its.to_tokens("the red"))
            assert (its.adds_special_tokens, its.bos, its.pad_id) == (stack == "encoder", mine.bos, mine.pad_id)
    assert back.encoder.tokenizer == ours.encoder.tokenizer and back.decoder.tokenizer == ours.decoder.tokenizer
