import pytest
import torch
from grid import SEED, SMALL, build, config
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from interp import ConfigError, TokenError, Vocabulary
from interp.text.repeats import ordinary_tokens, random_repeats, repeated_tokens


def copies(row: Tensor) -> tuple[list[int], list[int]]:
    """Where the tokens that come twice stand first, and second."""
    ids = row.tolist()
    pairs = [(ids.index(token), j) for j, token in enumerate(ids) if ids.index(token) < j]
    return [i for i, _ in pairs], [j for _, j in pairs]


@given(st.integers(5, 30), st.integers(3, 60), st.booleans(), st.integers(0, 2**31))
def test_one_segment_comes_twice_and_everything_else_once(body: int, n_words: int, with_bos: bool, seed: int):
    assume(n_words >= body - (body - 1) // 2)
    bos = n_words if with_bos else None
    words = n_words + with_bos
    tokens = random_repeats(words, 4, body + with_bos, bos=bos, seed=seed)
    assert tokens.shape == (4, body + with_bos)
    for row in tokens:
        first, second = copies(row)
        assert len(first) >= 2
        assert first == list(range(first[0], first[0] + len(first)))
        assert second == list(range(second[0], second[0] + len(first)))
        assert second[0] >= first[0] + len(first)
        assert not with_bos or ((row == bos).sum() == 1 and row[0] == bos)


def test_length_offset_and_gap_of_the_segment_vary():
    found = [copies(row) for row in random_repeats(1000, 200, 64, seed=SEED)]
    lengths = {len(first) for first, _ in found}
    offsets = {first[0] for first, _ in found}
    gaps = {second[0] - first[-1] - 1 for first, second in found}
    distances = [second[0] - first[0] for first, second in found]
    assert min(len(lengths), len(offsets), len(gaps)) > 12
    assert max(distances.count(d) for d in distances) < 30


def test_equal_seeds_give_equal_sequences_and_others_do_not():
    assert torch.equal(random_repeats(99, 5, 20, seed=SEED), random_repeats(99, 5, 20, seed=SEED))
    assert not torch.equal(random_repeats(99, 5, 20, seed=SEED), random_repeats(99, 5, 20, seed=SEED + 1))


def test_only_the_words_given_are_drawn():
    assert set(random_repeats(torch.arange(7, 70), 9, 21, bos=7).flatten().tolist()) <= set(range(7, 70))


@pytest.mark.parametrize(
    ("n_prompts", "length", "message"),
    [(0, 20, "n_prompts = 0; allowed: 1 or more"), (3, 4, "length = 4; allowed: 5 tokens or more")],
)
def test_too_few_or_too_short_sequences_are_an_error(n_prompts: int, length: int, message: str):
    with pytest.raises(ConfigError, match=message):
        random_repeats(99, n_prompts, length)


def test_a_vocabulary_too_small_for_distinct_tokens_is_an_error():
    with pytest.raises(TokenError, match="needs 11 different ones, and there are 10 to draw from"):
        random_repeats(10, 2, 20)
    assert random_repeats(11, 2, 20).shape == (2, 20)


def test_a_model_draws_from_its_vocabulary_after_its_bos():
    model = build(config(SMALL | {"n_ctx": 12}), SEED, Vocabulary("!abcdefghij", bos="!"))
    tokens = repeated_tokens(model.cfg, model.tokenizer, 6, seed=SEED)
    assert tokens.shape[0] == 6
    assert (tokens[:, 0] == 0).all()
    assert (tokens[:, 1:] > 0).all()
    with pytest.raises(ConfigError, match="longer than the context, n_ctx = 12"):
        repeated_tokens(model.cfg, model.tokenizer, 6, 13)


@pytest.mark.parametrize("words", ["abc", "abcd", "abcdefg"])
def test_small_vocabularies_get_short_sequences_by_default(words: str):
    model = build(config(SMALL | {"n_ctx": 30, "d_vocab": len(words)}), SEED, Vocabulary(words))
    assert copies(repeated_tokens(model.cfg, model.tokenizer, 1)[0])[0]


def test_a_vocabulary_of_two_words_cannot_repeat_a_segment():
    with pytest.raises(TokenError, match="at least 3"):
        repeated_tokens(config(SMALL | {"d_vocab": 2}), Vocabulary("ab"))


def test_rows_that_only_fill_up_the_embedding_are_not_drawn():
    assert ordinary_tokens(Vocabulary("abcdefg"), SMALL["d_vocab"])[0].tolist() == list(range(7))
