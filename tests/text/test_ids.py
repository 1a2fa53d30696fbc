"""Token ids in every form that callers have, and ids that a model has and its tokenizer lacks."""

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from grid import SEED, SMALL, build, config
from tokenizers import AddedToken, decoders, models, normalizers

from interp import HookedTransformer, InterpError, ShapeError, TokenError, Tokenizer, Vocabulary
from interp.lens import logit_lens
from interp.metrics import Logit
from interp.patching import sweep
from interp.plot import attention
from interp.text import TextCodec, as_ids, one_sequence, ordinary_tokens, token_names, token_strings

WORDS = "abcdefg"
"""Seven words for a model of eleven tokens: ids 7 to 10 have no word, as in models whose embedding is padded."""


def sentencepiece() -> Tokenizer:
    """Spaces as blocks; one token was added with a gap before it."""
    ids = {word: i for i, word in enumerate(["▁", "a", "b", "▁a", "▁b"])}
    backend = tokenizers.Tokenizer(models.BPE(ids, [("▁", "a"), ("▁", "b")]))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return Tokenizer(backend)


def word_level() -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1, "<s>": 5}, "a")), bos="<s>")


def byte_level() -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "Ġ": 2}, []))
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken("<end>", special=True)])
    return Tokenizer(backend)


CODECS = [Vocabulary(WORDS), Vocabulary(["a", "bb"]), byte_level(), sentencepiece(), word_level()]


@pytest.fixture
def model() -> HookedTransformer:
    return build(config(SMALL), SEED, Vocabulary(WORDS))


# ---------------------------------------------------------------------------------------------- every form of ids

FORMS: list[Any] = [
    [1, 2, 3],
    (1, 2, 3),
    range(1, 4),
    [np.int64(1), 2, torch.tensor(3)],
    np.array([1, 2, 3], dtype=np.uint16),
    *(torch.tensor([1, 2, 3], dtype=dtype) for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32)),
    torch.tensor([[1, 2, 3]]),
    [[1, 2, 3]],
    np.array([[1, 2, 3]]),
]
NO_IDS: list[Any] = [
    "abc",
    b"abc",
    1.0,
    True,
    [True, False],
    [1, 2.0],
    None,
    [None],
    {1: 2},
    torch.tensor([1.0]),
    torch.tensor([True]),
    np.array([1.5]),
    np.array(["a"]),
    np.array([None]),
    [2**70],
    2**64,
]


def test_ids_of_every_form_are_one_sequence():
    assert all(one_sequence(form) == [1, 2, 3] for form in FORMS)
    assert one_sequence(4) == one_sequence(np.int32(4)) == one_sequence(torch.tensor(4)) == [4]
    assert as_ids([[1, 2], (3, 4)]).tolist() == [[1, 2], [3, 4]]
    assert as_ids([]).shape == (0,) and as_ids([]).dtype == torch.int64


@pytest.mark.usefixtures("as_installed")
def test_what_is_no_id_is_a_short_error_of_ours_everywhere(model: HookedTransformer):
    for given in NO_IDS:
        takers: list[Any] = [as_ids, one_sequence, model.to_string, CODECS[2].decode]
        takers += [] if isinstance(given, str) else [model.to_str_tokens, model, CODECS[0].to_str_tokens]
        for take in takers:
            with pytest.raises(InterpError) as caught:
                take(given)
            assert len(str(caught.value)) < 160


def test_lists_of_unequal_length_and_batches_where_one_sequence_is_needed_are_errors(model: HookedTransformer):
    with pytest.raises(ShapeError, match="2 lists of different lengths"):
        model([[1, 2], [3]])
    for batch in ([[1], [2]], torch.zeros(2, 1, dtype=torch.long)):
        with pytest.raises(TokenError, match=r"shape \(2, 1\); take one of them at a time"):
            model.get_token_position("b", batch)


BATCHES: list[Any] = [
    [[1, 2], [3, 0]],
    ((1, 2), range(3, -1, -3)),
    np.array([[1, 2], [3, 0]], dtype=np.int16),
    torch.tensor([[1, 2], [3, 0]], dtype=torch.int32),
    [torch.tensor([1, 2]), np.array([3, 0])],
]


def test_a_batch_of_ids_in_every_form_comes_back_as_a_list_of_texts(model: HookedTransformer):
    for codec in (model, Vocabulary(WORDS)):
        for batch in BATCHES:
            assert codec.to_string(batch) == ["bc", "da"]
            assert codec.to_str_tokens(batch) == [["b", "c"], ["d", "a"]]
        ragged = [[1, 2], torch.tensor([3]), np.array([], dtype=np.int64)]
        assert codec.to_string(ragged) == ["bc", "d", ""]
        assert codec.to_str_tokens(ragged) == [["b", "c"], ["d"], []]
    assert Vocabulary(WORDS).decode(BATCHES[0]) == ["bc", "da"]
    with pytest.raises(TokenError, match="token 11 is no token"):
        model.to_string([[1, 2], [11]])


def test_each_of_several_texts_has_its_tokens_without_padding():
    codec = Tokenizer(byte_level().backend, bos="<end>", prepend_bos=True)
    for texts in (["ab", "a"], ("ab", "a")):
        assert codec.to_str_tokens(texts) == [["<end>", "a", "b"], ["<end>", "a"]]
        assert codec.to_str_tokens(texts, prepend_bos=False) == [["a", "b"], ["a"]]
    padded = codec.to_tokens(["ab", "a"], padding_side="right")
    assert codec.to_str_tokens(padded) == [["<end>", "a", "b"], ["<end>", "a", "a"]]  # without a pad it is token 0
    assert codec.to_str_tokens(["ab"]) == [["<end>", "a", "b"]] and codec.to_str_tokens([]) == []


def test_each_of_several_texts_of_one_token_has_an_id(model: HookedTransformer):
    for codec in (model, Vocabulary(WORDS)):
        assert codec.to_single_token(["c", "a"]) == codec.to_single_token(("c", "a")) == [2, 0]
        with pytest.raises(TokenError, match="'ab' is 2 tokens"):
            codec.to_single_token(["c", "ab"])


@pytest.mark.usefixtures("as_installed")
def test_ids_of_three_axes_and_sequences_among_ids_are_errors(model: HookedTransformer):
    wrong: list[Any] = [torch.zeros(2, 3, 4, dtype=torch.long), [[1, 2], 3], [[[1]], [[1, 2]]]]
    for given in wrong:
        for take in (model.to_string, model.to_str_tokens, Vocabulary(WORDS).to_string):
            with pytest.raises(InterpError):
                take(given)


def test_text_comes_back_from_ids_of_every_form(model: HookedTransformer):
    for form in FORMS:
        assert model.to_string(form) == "bcd"
        assert model.to_str_tokens(form) == ["b", "c", "d"]
        assert model.get_token_position("c", form) == model.get_token_position(np.int64(2), form) == 1
    assert model.to_string(5) == "f" and model.to_string([]) == "" and model.to_str_tokens(2) == ["c"]


def test_a_model_runs_on_ids_of_every_form(model: HookedTransformer):
    wanted, _ = model.run_with_cache(torch.tensor([[1, 2, 3]]))
    for form in FORMS:
        assert torch.equal(model(form), wanted)
    batch = [[1, 2, 3], [4, 5, 6]]
    for form in (batch, np.array(batch), tuple(map(tuple, batch))):
        assert torch.equal(model.run_with_cache(form)[0], model(torch.tensor(batch)))
        assert torch.equal(model.generate(form, 2, progress=False).tokens[:, :3], torch.tensor(batch))


def test_encode_takes_one_text_or_several_and_decode_gives_the_text_back():
    for codec in CODECS:
        assert codec.encode("a") == [codec.to_single_token("a")]
        assert codec.encode(["a", "a"]) == [codec.encode("a")] * 2
        assert codec.decode(codec.encode("a")) == "a"


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("bad", [5, None, [1, 2], ["a", 3], b"a", torch.tensor([1]), {"a": 1}])
def test_what_is_no_text_is_an_error_of_ours(bad: Any):
    for codec in CODECS:
        for take in (codec.encode, codec.to_tokens, codec.to_single_token):
            with pytest.raises(TokenError, match="text"):
                take(bad)


# ---------------------------------------------------------------------------------------------- ids without a token


def test_an_id_without_a_token_is_its_number_in_angle_brackets():
    for codec in CODECS:
        beyond = codec.d_vocab
        assert codec.to_str_tokens([beyond, 50280]) == [f"<{beyond}>", "<50280>"]
        assert f"<{beyond}>" in codec.to_string([0, beyond])
        assert not codec.has_token(beyond) and not codec.has_token(-1) and codec.has_token(0)


def test_text_around_such_an_id_stays_as_it_is():
    assert sentencepiece().to_string([3, 99, 4]) == "a<99> b"
    assert byte_level().to_string([0, 99, 2, 1, 3]) == "a<99> b<end>"
    assert Vocabulary(["a", "bb"]).to_string([0, 99, 1]) == "a <99> bb"
    assert word_level().to_string([0, 99, 1]) == "a <99> b"


def test_ids_in_a_gap_of_a_tokenizer_have_no_token_and_those_after_it_do():
    codec = word_level()
    assert codec.d_vocab == 6 and codec.bos_id == 5
    assert codec.to_str_tokens([1, 2, 4, 5]) == ["b", "<2>", "<4>", "<s>"]
    assert ordinary_tokens(codec, 11)[0].tolist() == [0, 1]


def test_an_id_that_the_model_does_not_have_is_an_error(model: HookedTransformer):
    for bad in (11, -1):
        with pytest.raises(TokenError, match=f"token {bad} is no token; allowed: 0 to 10"):
            model.to_string([0, bad])
        with pytest.raises(TokenError, match=f"token {bad}"):
            model.to_str_tokens(np.array([bad]))
        with pytest.raises(TokenError, match=f"token {bad}"):
            model([0, bad])
    for codec in CODECS:
        with pytest.raises(TokenError, match="token -1 at place 1; a token id is 0 or more"):
            codec.to_string([0, -1])


def test_everything_that_names_tokens_shows_such_ids(model: HookedTransformer):
    with torch.no_grad():
        model.unembed.b_U[9] += 1e3  # every prediction is a token without a word
    tokens = torch.tensor([[1, 8, 10, 2]])
    assert model.to_string(tokens) == "b<8><10>c"
    assert model.generate(tokens, 2, progress=False).texts == ["<9><9>"]
    lens = logit_lens(model, tokens, top_k=2)
    assert lens.token.values[0].tolist() == ["b", "<8>", "<10>", "c"]
    assert lens.top_token.values[-1, 0, -1, 0] == "<9>"
    other = torch.tensor([[1, 7, 10, 2]])
    swept = sweep(model, tokens, other, Logit(9), site="resid_pre", progress=False)
    assert "<8>" in "".join(map(str, swept.token.values))
    _, cache = model.run_with_cache(tokens)
    shown = attention(cache, tokens=tokens, correct=9, incorrect="a")._page.meta
    assert "<8>" in json.dumps(shown) and "<9>" in json.dumps(shown)
    assert token_strings(model.tokenizer, [0, 9, 9]) == ["a", "<9>", "<9>"]
    assert token_names(None, torch.tensor([4])) == ["4"]
    with pytest.raises(TokenError, match=r"not among \['b', '<8>'\]"):
        model.get_token_position("a", [1, 8])


# ---------------------------------------------------------------------------------------------- tokenizers as values


def test_equal_tokenizers_are_equal_and_their_copies_work():
    for codec, other in zip(CODECS, [*CODECS[1:], CODECS[0]], strict=True):
        for twin in (copy.deepcopy(codec), copy.copy(codec), pickle.loads(pickle.dumps(codec))):
            assert twin == codec and hash(twin) == hash(codec)
            assert twin.to_str_tokens([0, 1, 99]) == codec.to_str_tokens([0, 1, 99])
            assert isinstance(twin, TextCodec)
        assert codec != other and codec != "a"
    assert Vocabulary("ab") == Vocabulary(["a", "b"]) != Vocabulary("ab", sep=" ") and Vocabulary("ab") != Vocabulary(
        "ba"
    )
    assert Vocabulary("ab", bos="a") != Vocabulary("ab")
    assert word_level() == word_level() != Tokenizer(word_level().backend)
    assert len({Vocabulary("ab"), Vocabulary("ab"), word_level(), word_level()}) == 2
