"""The tools of the tests: the order of long tests, ids, and devices that are not there."""

import os
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest
from grid import as_text, random_tensor
from sessions import dealt, some_cases


def items(n: int, long: set[int]) -> list[Any]:
    return [SimpleNamespace(n=i, get_closest_marker=lambda name, i=i: i in long or None) for i in range(n)]


@pytest.mark.parametrize(("n", "workers"), [(20, 2), (21, 2), (23, 4), (7, 3), (5, 8), (9, 1)])
def test_every_worker_starts_with_its_share_of_the_long_tests(n: int, workers: int):
    long = {n - 1, n - 2, n // 2}
    found = [cast(Any, item).n for item in dealt(items(n, long), workers)]
    assert sorted(found) == list(range(n))
    left = found  # cut into pieces as `--dist worksteal` does
    for worker in range(workers):
        piece, left = left[: len(left) // (workers - worker)], left[len(left) // (workers - worker) :]
        flags = [i in long for i in piece]
        assert flags == sorted(flags, reverse=True)
        if n >= 2 * workers + len(long):
            assert sum(flags) in (len(long) // workers, -(-len(long) // workers))


@dataclass(eq=False)
class Case:
    nodeid: str


@pytest.mark.parametrize("most", [1, 3, 14])
def test_of_a_test_with_many_cases_some_are_taken_from_the_first_on_evenly(most: int):
    many = [Case(f"a.py::many[{i}]") for i in range(40)]
    others = [Case("a.py::alone"), *(Case(f"b.py::few[{i}]") for i in range(most))]
    found = some_cases(cast(Any, [*many, *others]), most)
    assert found.issuperset(cast(Any, others)) and len(found) == len(others) + most
    numbers = [i for i, case in enumerate(many) if case in found]
    assert numbers[0] == 0 and 40 - numbers[-1] <= 40 // most + 1


def test_an_id_is_text_that_every_process_writes_alike():
    assert as_text({"pos": slice(1, None)}) == "{'pos': slice(1, None, None)}"
    for value in (lambda: None, [as_text], random_tensor(2)):
        assert as_text(value) is None


def test_a_device_that_is_not_there_is_an_error_by_name():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-n0", "-p", "no:cacheprovider", __file__]
    environment["INTERP_DEVICE"] = "cuda:99"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "INTERP_DEVICE = cuda:99 is not on this machine" in done.stderr
