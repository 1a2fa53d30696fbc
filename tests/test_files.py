import os
from pathlib import Path

import pytest
import torch

from interp.errors import CheckpointError
from interp.files import atomic_folder, atomic_path, load_about, load_json, load_tensors, save_json, save_tensors


def test_a_file_appears_when_the_block_ends_well(tmp_path: Path):
    with atomic_path(tmp_path / "new" / "file.txt") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "new" / "file.txt").exists()
    assert (tmp_path / "new" / "file.txt").read_text() == "whole"


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with atomic_path(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_the_longest_file_name_is_no_longer_while_it_is_written(tmp_path: Path):
    name = "x" * 255
    with atomic_path(tmp_path / name) as temporary:
        temporary.write_text("new")
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("path", [".", "file.txt/below.txt"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, path: str):
    (tmp_path / "file.txt").write_text("old")
    with pytest.raises(OSError, match="cannot write") as error, atomic_path(tmp_path / path):
        pass
    assert os.path.realpath(tmp_path / path) == error.value.filename


def test_tensors_come_back_bit_for_bit_with_their_description(tmp_path: Path):
    base = torch.arange(12, dtype=torch.float64).view(3, 4)
    tensors = {"whole": base, "shared": base[1:].T, "half": base.half(), "mask": base > 3, "empty": base[:0]}
    about = {"name": 'L0H1 "é"', "numbers": [1, 2.5, None], "nested": {"edited": False}}
    save_tensors(tmp_path / "file", "interp.Example", tensors, about)
    back, described = load_tensors(tmp_path / "file", "interp.Example")
    assert described == about and set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor)


def test_a_file_of_another_kind_or_none_is_refused_by_name(tmp_path: Path):
    save_tensors(tmp_path / "file", "interp.Example", {"x": torch.zeros(1)}, {})
    (tmp_path / "text").write_text("no tensors")
    for name, said in (("file", "not a saved Other"), ("text", "cannot be read"), ("absent", "cannot be read")):
        with pytest.raises(CheckpointError, match=said):
            load_tensors(tmp_path / name, "interp.Other")


def test_a_description_is_read_without_the_tensors_and_not_from_half_a_file(tmp_path: Path):
    file = tmp_path / "file"
    save_tensors(file, "interp.Example", {"numbers": torch.arange(1000)}, {"of": [1, None]})
    assert load_about(file, "interp.Example") == {"of": [1, None]}
    with pytest.raises(CheckpointError, match="not a saved Other"):
        load_about(file, "interp.Other")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cannot be read as a saved Example"):
        load_about(file, "interp.Example")


def test_values_come_back_if_their_format_is_known(tmp_path: Path):
    file = tmp_path / "about.json"
    save_json(file, 2, {"name": "é", "numbers": [1, None]})
    assert load_json(file, 2, "a list") == {"format": 2, "name": "é", "numbers": [1, None]}
    with pytest.raises(CheckpointError, match="has format 2; this version reads 3"):
        load_json(file, 3, "a list")
    for broken in ("{", "[]", "{}", None):
        file.unlink() if broken is None else file.write_text(broken)
        with pytest.raises(CheckpointError, match=r"about\.json cannot be read as a list"):
            load_json(file, 2, "a list")


def test_a_folder_appears_when_the_block_ends_well(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for name in ("deep/new", "empty"):
        with atomic_folder(tmp_path / name) as temporary:
            (temporary / "file.txt").write_text("whole")
            assert not (tmp_path / name / "file.txt").exists()
        assert (tmp_path / name / "file.txt").read_text() == "whole"
        assert [path.name for path in (tmp_path / name).iterdir()] == ["file.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "empty"]
    (tmp_path / "ordinary").mkdir()
    assert (tmp_path / "empty").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_folder_that_is_not_finished_or_that_would_hide_another_is_not_there(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "new") as temporary:
        (temporary / "file.txt").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="not empty"), atomic_folder(tmp_path / "new"):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "theirs.txt").write_text("written in the meantime")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "theirs.txt"]
    with pytest.raises(CheckpointError, match="is not empty: it has"), atomic_folder(tmp_path / "new"):
        pytest.fail("the block began")
    with pytest.raises(CheckpointError, match="is a file"), atomic_folder(tmp_path / "new" / "theirs.txt"):
        pytest.fail("the block began")
    with pytest.raises(OSError, match="cannot write"), atomic_folder(tmp_path / "new" / "theirs.txt" / "below"):
        pytest.fail("the block began")
