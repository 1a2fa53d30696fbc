"""What functions of units may return, what of, and how it is put together."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tasks
import torch

from interp import CheckpointError, ConfigError, JobError, jobs

ROWS = list(range(20))


def run(fn: Any, rows: Any = ROWS, **options: Any) -> Any:
    return jobs.map(fn, rows, unit=4, progress=False, **options)


class Table:
    """Rows under column names, as tables of pandas have them: to iterate over it gives the names."""

    def __init__(self, numbers: list[int], digest: str | None = None):
        self.numbers = numbers
        if digest is not None:
            self.digest = digest

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: slice) -> list[int]:
        return self.numbers[rows]

    def __iter__(self) -> Any:
        return iter(["number"])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("name", "unit 0 has x, and unit 4 y"),
        ("dtype", "'x' is torch.int64 in unit 0, and torch.float16 in unit 4"),
        ("kind", "'x' is torch.int64 in unit 0, and no tensor in unit 4"),
        ("shape", "'x' of several units cannot be put together"),
    ],
)
def test_units_that_return_different_things_are_not_put_together(tmp_path: Path, what: str, message: str):
    with pytest.raises(ConfigError, match=f"{message}.*;.*merge="):
        run(partial(tasks.differs, what=what), folder=tmp_path)
    assert len(run(partial(tasks.differs, what=what), folder=tmp_path, merge=list)) == 5


def test_arrays_and_tensors_of_any_layout_and_numbers_of_numpy_come_back_as_they_were():
    found = run(tasks.arrays)
    there = torch.tensor(ROWS)
    assert torch.equal(found["backwards"], there.view(5, 4).flip(1).flatten())
    assert found["of another machine"].dtype == torch.float32 and found["of another machine"].tolist() == ROWS
    assert torch.equal(found["read only"], there) and found["negated"].tolist() == (-there).tolist()
    assert torch.equal(found["transposed"], there[:, None].expand(-1, 2))
    assert found["number"] == [0.5] * 5 and found["count"] == [3] * 5


@pytest.mark.parametrize("what", ["key", "object", "sparse", "no value", "reserved", "half a character"])
def test_what_a_file_would_not_give_back_is_refused_and_not_tried_again(tmp_path: Path, what: str):
    with pytest.raises(JobError, match=r"ConfigError: the function returned .*; allowed: .*tensors, arrays and"):
        run(partial(tasks.returns, what=what), folder=tmp_path)


def test_rows_are_keyed_by_what_units_see_of_them(tmp_path: Path):
    rows = np.arange(8)
    run(tasks.square_roots, rows, folder=tmp_path)
    with pytest.raises(CheckpointError, match="differs in: rows"):
        run(tasks.square_roots, rows + 1, folder=tmp_path)
    run(tasks.square_roots, Table([1, 2, 3]), folder=tmp_path / "table")
    with pytest.raises(CheckpointError, match="differs in: rows"):
        run(tasks.square_roots, Table([1, 2, 4]), folder=tmp_path / "table")
    run(tasks.square_roots, Table([1, 2, 3], digest="of a table"), folder=tmp_path / "digest")


@pytest.mark.usefixtures("as_installed")
def test_rows_without_a_key_or_slices_and_merge_that_is_no_function_are_refused_before_any_work(tmp_path: Path):
    for rows, message in (
        (Table([object()]), "no key by which another process would find the same rows"),  # pyright: ignore
        ({0: 1}, "cannot be cut into slices"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(tasks.square_roots, rows, folder=tmp_path / "job")
    with pytest.raises(ConfigError, match="merge = 3; allowed: a function"):
        run(tasks.square_roots, folder=tmp_path / "job", merge=3)
    assert not (tmp_path / "job").exists()
