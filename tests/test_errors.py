"""Messages: what they show of a value, and what they suggest."""

import numpy as np
import pytest
import torch
from torch import nn

from interp import ConfigError
from interp.errors import check_choice, described, did_you_mean


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(3, 4), "<Tensor of shape (3, 4), torch.float32>"),
        ([torch.zeros(1000, dtype=torch.bfloat16), "a"], "[<Tensor of shape (1000,), torch.bfloat16>, 'a']"),
        ({"z": nn.Parameter(torch.zeros(2))}, "{'z': <Parameter of shape (2,), torch.float32>}"),
        (np.zeros((2, 0)), "<ndarray of shape (2, 0), float64>"),
        (torch.tensor(float("nan")), "Tensor(nan)"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "<Sequential>"),
        (torch.float32, "torch.float32"),
        (int, "<class 'int'>"),
        (nn.Linear, "<class 'torch.nn.modules.linear.Linear'>"),
        ("words", "'words'"),
        (("pattern", -1), "('pattern', -1)"),
        (list(range(99)), "[0, 1, 2, 3, 4, 5, 6, 7, ...]"),
        (None, "None"),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_a_message_names_a_value_and_prints_no_tensor(value: object, said: str):
    assert described(value) == said


def test_what_a_message_shows_of_a_value_is_short():
    for value in ("x" * 1000, b"x" * 1000, 10**1000, [["x" * 1000] * 99] * 99, {"x" * 1000: torch.zeros(99)}):
        assert len(described(value)) < 300
    with pytest.raises(ConfigError, match=r"^n = <Tensor of shape \(99,\), torch.float32>; allowed: 'a', 'b'$"):
        check_choice("n", torch.zeros(99), ("a", "b"))


def test_a_suggestion_is_said_once_and_as_it_is_written():
    assert did_you_mean("patern", ["pattern", "z"]) == "; did you mean 'pattern'?"
    assert did_you_mean("zz", ["pattern"]) == ""
    same = {"scale": "('scale', 0)", "scales": "('scale', 0)"}
    assert did_you_mean("scal", same, said=same) == "; did you mean ('scale', 0)?"
