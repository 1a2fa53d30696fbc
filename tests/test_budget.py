import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp import ConfigError
from interp.budget import check_bytes, portions

SIZES = st.lists(st.integers(0, 9), max_size=30)


@given(SIZES, st.integers(0, 20))
def test_portions_are_all_things_in_order_and_as_few_as_fit(sizes: list[int], most: int):
    cut = portions(sizes, most)
    assert list(itertools.chain(*(sizes[part] for part in cut))) == sizes
    for part, later in itertools.pairwise(cut):
        assert sizes[part] and sum(sizes[part]) + sizes[later.start] > most
    for part in cut:
        assert sum(sizes[part]) <= max(most, max(sizes[part]))


@given(SIZES, st.integers(0, 20))
def test_work_that_goes_on_from_a_cut_is_cut_as_it_was(sizes: list[int], most: int):
    cut = portions(sizes, most)
    for i, part in enumerate(cut):
        rest = portions(sizes[part.start :], most)
        assert [slice(p.start + part.start, p.stop + part.start) for p in rest] == cut[i:]


def test_a_budget_is_a_whole_number_of_bytes_and_enough():
    assert check_bytes(100, 100) == 100 and portions([], 5) == []
    wrong: list[Any] = [0, -1, 1.5, "1 GB", True, None]
    for one in wrong:
        with pytest.raises(ConfigError, match="allowed: a whole number of bytes"):
            check_bytes(one)
    with pytest.raises(ConfigError, match="max_bytes = 99 is too small: one row needs 100"):
        check_bytes(99, 100, "one row")
