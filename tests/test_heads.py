import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp import ShapeError, TokenError
from interp.heads import follows_earlier_occurrence, induction_score, previous_token_score


def test_a_perfect_previous_token_head_scores_1():
    assert previous_token_score(torch.eye(7).roll(-1, dims=1)) == 1


def test_the_previous_token_score_is_the_mean_of_the_first_subdiagonal():
    pattern = torch.rand(2, 3, 5, 5)
    expected = torch.stack([pattern[..., i, i - 1] for i in range(1, 5)]).mean(dim=0)
    assert torch.allclose(previous_token_score(pattern), expected)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_the_induction_stripes_are_the_tokens_after_earlier_occurrences(tokens: list[int]):
    stripes = follows_earlier_occurrence(torch.tensor(tokens))
    for i in range(len(tokens)):
        for j in range(len(tokens)):
            assert bool(stripes[i, j]) == (1 <= j <= i and tokens[j - 1] == tokens[i])


def test_attention_shared_among_several_earlier_occurrences_still_scores_1():
    tokens = torch.tensor([9, *torch.randperm(8).tolist() * 4])
    stripes = follows_earlier_occurrence(tokens).float()
    spread = torch.where(stripes.any(-1, keepdim=True), stripes / stripes.sum(-1, keepdim=True).clamp(min=1), 0.0)
    assert float(induction_score(spread, tokens)) == pytest.approx(1)


def test_uniform_attention_scores_far_below_1():
    n = 33
    tokens = torch.tensor([0, *range(1, 17), *range(1, 17)])
    uniform = torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None]
    assert float(induction_score(uniform, tokens)) == pytest.approx(
        sum(1 / (i + 1) for i in range(17, 33)) / 16, abs=1e-6
    )


def test_the_induction_score_needs_a_repeated_token():
    with pytest.raises(TokenError, match="no token occurs twice"):
        induction_score(torch.eye(4), torch.arange(4))


def test_the_induction_score_needs_as_many_tokens_as_positions():
    with pytest.raises(ShapeError, match="does not fit 3 tokens"):
        induction_score(torch.eye(4), torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("shape", [(1, 1), (2, 3)])
def test_the_previous_token_score_needs_a_square_of_two_or_more(shape: tuple[int, int]):
    with pytest.raises(ShapeError, match="square pattern"):
        previous_token_score(torch.ones(shape))
