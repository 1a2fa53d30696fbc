"""Vocabularies, text as input, and what is refused before a model sees it."""

import json
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import SEED, SMALL, build, run_of
from hypothesis import given
from hypothesis import strategies as st

from interp import HookedTransformer, ShapeError, TokenError, TransformerConfig, Vocabulary
from interp.text.tokens import visible

WORDS = ["<s>", "cat", "cats", "dog", "sat"]


@pytest.fixture
def model() -> HookedTransformer:
    return build(TransformerConfig(**SMALL), SEED, Vocabulary(WORDS, bos="<s>"))


# ---------------------------------------------------------------------------------------------- round trips


@given(st.data(), st.lists(st.characters(codec="utf-8"), min_size=1, max_size=8, unique=True))
def test_characters_survive_a_round_trip(data: st.DataObject, characters: list[str]):
    vocabulary = Vocabulary(characters)
    text = data.draw(st.text(st.sampled_from(characters), max_size=10))
    assert vocabulary.to_string(vocabulary.to_tokens(text)) == text


@given(
    st.data(),
    st.sampled_from([" ", ",", "->"]),
    st.lists(st.text(string.ascii_letters + "-", min_size=1, max_size=5), min_size=1, max_size=8, unique=True),
)
def test_separated_words_survive_a_round_trip(data: st.DataObject, sep: str, words: list[str]):
    ids = data.draw(st.lists(st.integers(0, len(words) - 1), min_size=1, max_size=10))
    vocabulary = Vocabulary(words, sep=sep)
    text = sep.join(words[i] for i in ids)
    assert vocabulary.to_string(vocabulary.to_tokens(text)) == text


@given(st.data(), st.lists(st.text("ab", min_size=1, max_size=3), max_size=6, unique=True))
def test_words_that_follow_each_other_directly_survive_a_round_trip(data: st.DataObject, words: list[str]):
    vocabulary = Vocabulary(sorted({"a", "b", *words}), sep="")
    text = data.draw(st.text("ab", max_size=12))
    assert vocabulary.to_string(vocabulary.to_tokens(text)) == text


@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=6, unique=True), st.text("ab", min_size=1, max_size=12))
def test_without_a_separator_the_longest_word_that_fits_is_taken(words: list[str], text: str):
    vocabulary = Vocabulary(sorted({"a", "b", *words}), sep="")
    first = vocabulary.split(text)[0]
    assert first == max((word for word in vocabulary.words if text.startswith(word)), key=len)


def test_the_id_of_a_word_is_its_place_in_the_list():
    assert Vocabulary(WORDS).to_tokens("dog cat").tolist() == [[3, 1]]


def test_words_of_one_character_need_no_separator():
    assert Vocabulary("abc").sep == ""


def test_longer_words_are_separated_by_spaces_unless_told_otherwise():
    assert Vocabulary(WORDS).sep == " "


def test_several_texts_make_a_batch():
    assert Vocabulary("abc").to_tokens(["ab", "ca"]).tolist() == [[0, 1], [2, 0]]


def test_ids_come_back_as_the_words_they_stand_for():
    assert Vocabulary(WORDS).to_str_tokens(torch.tensor([2, 4])) == ["cats", "sat"]


def test_a_text_comes_back_as_the_words_it_is_made_of():
    assert Vocabulary("abc").to_str_tokens("cab") == ["c", "a", "b"]


def test_a_vocabulary_comes_back_from_json_values(tmp_path: Path):
    vocabulary = Vocabulary(WORDS, sep="_", bos="<s>")
    values = json.loads(json.dumps(vocabulary.save(tmp_path)))
    assert vars(Vocabulary.load(tmp_path, values)) == vars(vocabulary)
    assert list(tmp_path.iterdir()) == []


def test_d_vocab_is_the_number_of_words():
    assert Vocabulary(WORDS).d_vocab == 5


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_visible_token_has_no_white_space_and_nothing_unprintable(token: str):
    shown = visible(token)
    assert shown.isprintable() and shown.split() == [shown]


@given(st.text(string.ascii_letters + "é猫·", min_size=1))
def test_a_printable_token_is_visible_as_it_is(token: str):
    assert visible(token) == token


# ---------------------------------------------------------------------------------------------- bos


def test_prepend_bos_puts_the_bos_first():
    assert Vocabulary(WORDS, bos="<s>").to_tokens("cat", prepend_bos=True).tolist() == [[0, 1]]


def test_a_text_that_starts_with_the_bos_gets_no_second_one():
    assert Vocabulary(WORDS, bos="<s>").to_tokens("<s> cat", prepend_bos=True).tolist() == [[0, 1]]


def test_prepend_bos_is_off_unless_asked_for():
    assert Vocabulary(WORDS, bos="<s>").to_tokens("cat").tolist() == [[1]]


def test_prepend_bos_without_a_bos_is_an_error():
    with pytest.raises(TokenError, match="made without bos="):
        Vocabulary(WORDS).to_tokens("cat", prepend_bos=True)


@pytest.mark.parametrize("words", [WORDS, "abc"])
def test_a_bos_that_is_not_a_word_is_an_error(words: Any):
    with pytest.raises(TokenError):
        Vocabulary(words, bos="<bos>")


# ---------------------------------------------------------------------------------------------- refused words


def test_an_unknown_word_is_an_error_that_names_word_place_character_and_nearest_word():
    with pytest.raises(TokenError, match=r"'dogg' at place 2 \(character 8\) of 'cat sat dogg'.*did you mean 'dog'"):
        Vocabulary(WORDS).to_tokens("cat sat dogg")


def test_an_unknown_character_is_an_error_that_names_character_and_place():
    with pytest.raises(TokenError, match=r"'x' at place 1 \(character 2\) of 'abxa'"):
        Vocabulary(["ab", "a", "b"], sep="").to_tokens("abxa")


def test_two_separators_in_a_row_leave_an_empty_word_that_is_unknown():
    with pytest.raises(TokenError, match=r"'' at place 1 \(character 4\)"):
        Vocabulary(WORDS).to_tokens("cat  sat")


def test_texts_of_different_lengths_are_an_error_that_gives_the_lengths():
    with pytest.raises(TokenError, match=r"texts of \[1, 2\] tokens .* a Vocabulary does not pad; .* attention_mask="):
        Vocabulary("abc").to_tokens(["a", "bc"])


def test_a_batch_of_no_texts_is_an_error():
    with pytest.raises(TokenError):
        Vocabulary("abc").to_tokens([])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "at least one word"),
        (["a", ""], "not empty"),
        (["a", "b", "a"], "'a' stands at places 0 and 2"),
        (["a b", "c"], "'a b' contains the separator ' '"),
    ],
)
def test_words_that_make_no_vocabulary_are_an_error(words: list[str], message: str):
    with pytest.raises(TokenError, match=message):
        Vocabulary(words)


def test_a_single_token_is_its_id():
    assert Vocabulary(WORDS).to_single_token("sat") == 4


def test_a_text_of_several_tokens_where_one_is_needed_is_an_error_that_lists_them():
    with pytest.raises(TokenError, match=r"2 tokens, \['cat', 'sat'\]"):
        Vocabulary(WORDS).to_single_token("cat sat")


@pytest.mark.parametrize("text", ["", "cow"])
def test_a_text_that_is_no_token_where_one_is_needed_is_an_error(text: str):
    with pytest.raises(TokenError):
        Vocabulary(WORDS).to_single_token(text)


def test_ids_that_are_no_integers_have_no_words(as_installed: None):
    with pytest.raises(TokenError, match="token ids are integers"):
        Vocabulary(WORDS).to_str_tokens(torch.tensor([1.7, 2.0]))


# ---------------------------------------------------------------------------------------------- text into a model


def test_a_model_takes_text_as_it_takes_its_ids(model: HookedTransformer):
    assert torch.equal(model("cats dog"), model(torch.tensor([[2, 3]])))


def test_a_model_takes_several_texts(model: HookedTransformer):
    assert torch.equal(model(["cats dog", "sat cat"]), model(torch.tensor([[2, 3], [4, 1]])))


def test_a_model_adds_no_bos_to_a_text(model: HookedTransformer):
    assert model("cats dog").shape[1] == 2


@pytest.mark.parametrize(
    ("method", "argument", "want"),
    [
        ("to_str_tokens", "cat dog", ["cat", "dog"]),
        ("to_string", torch.tensor([1, 3]), "cat dog"),
        ("to_single_token", "dog", 3),
    ],
)
def test_a_model_answers_as_its_vocabulary_does(model: HookedTransformer, method: str, argument: Any, want: Any):
    assert getattr(model, method)(argument) == want


@pytest.mark.parametrize("method", ["to_tokens", "to_str_tokens", "to_single_token", "__call__", "run_with_cache"])
def test_text_without_a_tokenizer_is_an_error_that_says_how_to_give_one(method: str):
    with pytest.raises(TokenError, match="no tokenizer; give it one"):
        getattr(run_of("learned_ln").model, method)("cat")


@pytest.mark.parametrize("text", ["", ["", ""]])
def test_an_empty_text_is_an_error(model: HookedTransformer, text: Any):
    with pytest.raises(TokenError, match="an empty sequence"):
        model(text)


def test_no_texts_are_an_error(model: HookedTransformer):
    with pytest.raises(TokenError):
        model([])


def test_an_unknown_word_given_to_a_model_is_an_error(model: HookedTransformer):
    with pytest.raises(TokenError, match="unknown word 'cow'"):
        model("cat cow")


@pytest.mark.parametrize("bad", ["cat cow", "", torch.tensor([[11]])])
def test_a_cached_run_that_was_refused_leaves_no_hooks_behind(model: HookedTransformer, bad: Any):
    with pytest.raises(TokenError):
        model.run_with_cache(bad)
    logits, _ = model.run_with_cache("cats dog")
    assert torch.equal(logits, model("cats dog"))


# ---------------------------------------------------------------------------------------------- ids into a model


@pytest.mark.parametrize("bad", [-1, 11, 2**40])
def test_an_id_out_of_range_is_an_error_that_names_its_place(bad: int):
    tokens = torch.zeros(3, 7, dtype=torch.long)
    tokens[2, 4] = bad
    with pytest.raises(TokenError, match=f"token {bad} at batch 2, pos 4; allowed: 0 to 10"):
        run_of("learned_ln").model(tokens)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool, torch.complex64])
def test_ids_that_are_not_integers_are_an_error(dtype: torch.dtype):
    with pytest.raises(TokenError, match=f"token ids are integers, not {dtype}"):
        run_of("learned_ln").model(torch.ones(3, 7, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_integers_of_any_width_are_ids(dtype: torch.dtype):
    run = run_of("learned_ln")
    assert torch.equal(run.model(run.tokens.to(dtype)), run.logits)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
def test_an_empty_sequence_is_an_error(shape: tuple[int, ...]):
    with pytest.raises(TokenError, match="an empty sequence"):
        run_of("learned_ln").model(torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("shape", [(), (2, 3, 4)])
def test_ids_of_another_shape_than_a_batch_of_sequences_are_an_error(shape: tuple[int, ...]):
    with pytest.raises(ShapeError, match=r"allowed: \[pos\] or \[batch, pos\]"):
        run_of("learned_ln").model(torch.zeros(shape, dtype=torch.long))


def test_a_sequence_longer_than_the_context_is_an_error_that_gives_both_lengths():
    with pytest.raises(TokenError, match="9 tokens is longer than the context, n_ctx = 8"):
        run_of("learned_ln").model(torch.zeros(1, 9, dtype=torch.long))


def test_a_sequence_as_long_as_the_context_is_fine():
    assert run_of("learned_ln").model(torch.zeros(1, 8, dtype=torch.long)).shape == (1, 8, 11)
