"""Answers: ids or texts of one token, in every form that analyses take."""

from typing import Any

import numpy as np
import pytest
import torch

from interp import ShapeError, TokenError, Vocabulary
from interp.text.answers import token_ids

WORDS = Vocabulary("abcdefg")


def ids_of(given: Any) -> Any:
    return token_ids(given, WORDS.to_single_token, WORDS.d_vocab).tolist()


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ("c", 2),
        (2, 2),
        (np.int64(2), 2),
        (torch.tensor(2), 2),
        (["a", 3, np.int64(5)], [0, 3, 5]),
        (("a", "b"), [0, 1]),
        (range(2), [0, 1]),
        (np.array([4, 5]), [4, 5]),
        ([["a", "b"], ["c", 3]], [[0, 1], [2, 3]]),
        (torch.tensor([[1, 2, 3]], dtype=torch.int32), [[1, 2, 3]]),
        ([], []),
    ],
)
def test_an_answer_is_the_ids_it_names_in_the_shape_it_has(given: Any, ids: Any):
    assert ids_of(given) == ids


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (7, TokenError, "answer 7 is no token; allowed: 0 to 6"),
        ([1, -1], TokenError, "answer -1 is no token"),
        (True, TokenError, "answer True is neither a token id nor a text"),
        (2.0, TokenError, "answer 2.0 is neither a token id nor a text"),
        (None, TokenError, "answer None is neither"),
        (["a", None], TokenError, "answer None is neither"),
        (torch.tensor([1.0]), TokenError, "answer: token ids are integers, not torch.float32"),
        ("ab", TokenError, "2 tokens"),
        ("z", TokenError, "unknown word 'z'"),
        ([["a"], ["b", "c"]], ShapeError, "answer: 2 lists of different lengths"),
    ],
)
def test_what_is_no_answer_is_an_error_that_says_so(given: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        ids_of(given)
