"""Messages: what they show of a value, and what they suggest."""

import numpy as np
import pytest
import torch
from torch import nn

from interp import ConfigError
from interp.errors import check_choice, describe, did_you_mean


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(3, 4), "Tensor of float32 (3, 4)"),
        ([torch.zeros(1000, dtype=torch.bfloat16), "a"], "[Tensor of bfloat16 (1000,), 'a']"),
        ((nn.Parameter(torch.zeros(2)),), "(Parameter of float32 (2,),)"),
        (np.zeros((2, 0)), "ndarray of float64 (2, 0)"),
        (torch.tensor(float("nan")), "Tensor of float32 (): nan"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "Sequential"),
        (torch.float32, "torch.float32"),
        (int, "<class 'int'>"),
        ("words", "'words'"),
        (("pattern", -1), "('pattern', -1)"),
        (list(range(99)), "[0, 1, 2, 3, ...]"),
        ({"z": torch.zeros(99)}, "dict of z"),
        (None, "None"),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_a_message_names_a_value_and_prints_no_tensor(value: object, said: str):
    assert describe(value) == said


def test_what_a_message_shows_of_a_value_is_short():
    for value in ("x" * 1000, b"x" * 1000, 10**1000, [["x" * 1000] * 99] * 99, {"x": torch.zeros(99)}):
        assert len(describe(value)) < 250
    assert describe(torch.zeros((), device="meta")) == "Tensor of float32 ()"
    with pytest.raises(ConfigError, match=r"^n = Tensor of float32 \(99,\); allowed: 'a', 'b'$"):
        check_choice("n", torch.zeros(99), ("a", "b"))


def test_a_suggestion_is_said_once_and_as_it_is_written():
    assert did_you_mean("patern", ["pattern", "z"]) == "; did you mean 'pattern'?"
    assert did_you_mean("zz", ["pattern"]) == ""
    same = {"scale": "('scale', 0)", "scales": "('scale', 0)"}
    assert did_you_mean("scal", same, said=same) == "; did you mean ('scale', 0)?"


def test_a_long_value_is_said_with_its_kind_once():
    assert describe(range(10**90)) == f"range(0, 1{'0' * 50}..."
    assert describe("a" * 100) == f"str '{'a' * 59}..."
