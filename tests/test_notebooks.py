"""The notebooks run, and are what their sources say.

Outside the gate a notebook is not run again while nothing that it depends on has changed since it last ran well; pytest
then says so (`-rs`). In CI every one runs.
"""

import hashlib
import os
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import pytest

from interp.checkpoints import fetch

HERE = Path(__file__).parent
PROJECT = HERE.parent
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.py"))


@cache
def beneath() -> str:
    """Everything that all notebooks depend on: the packages' files, the renderer, Python, and what is installed."""
    files = [path for package in ("interp", "circuits") for path in (PROJECT / package).rglob("*") if path.is_file()]
    code = [path for path in files if path.suffix != ".pyc"]
    seen = hashlib.sha256(sys.version.encode())
    for path in (*sorted(code), HERE / "render_notebooks.py"):
        seen.update(f"{path.relative_to(PROJECT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    for installed in sorted({f"{one.name} {one.version}" for one in distributions()}):
        seen.update(f"{installed}\n".encode())
    return seen.hexdigest()


def fingerprint(source: Path) -> str:
    """Of a notebook's source, its executed form, and everything beneath both."""
    own = source.read_bytes() + b"\0" + source.with_suffix(".ipynb").read_bytes()
    return hashlib.sha256(own + beneath().encode()).hexdigest()


@pytest.mark.long
@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda source: source.stem)
def test_a_notebook_runs_without_error_output_and_is_what_its_source_says(
    source: Path, pytestconfig: pytest.Config, request: pytest.FixtureRequest
):
    loaded = re.findall(r'from_pretrained\("(.+?)"', source.read_text(encoding="utf-8"))
    for word, model in fetch.MODELS.items():
        if {word, model.name} & set(loaded):
            request.getfixturevalue(f"{word}_path")  # fetches it, where it is not there yet
    now, ran_well = fingerprint(source), f"interp/notebooks/{source.stem}"
    kept = pytestconfig.cache
    if kept is not None and kept.get(ran_well, None) == now and not os.environ.get("CI"):
        pytest.skip("ran well, and nothing that it depends on has changed since; CI=1 runs it all the same")
    command = [sys.executable, str(HERE / "render_notebooks.py"), "--check", source.stem]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # other workers keep the other cores busy
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False, env=one_thread)
    assert done.returncode == 0, done.stdout + done.stderr
    if kept is not None:
        kept.set(ran_well, now)


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda source: source.stem)
def test_a_notebook_stays_under_1_5_megabytes(source: Path):
    assert source.with_suffix(".ipynb").stat().st_size < 1_500_000


def test_a_change_in_a_notebook_or_beneath_it_is_a_reason_to_run_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    source = tmp_path / "notebook.py"
    source.write_text("1 + 1")
    source.with_suffix(".ipynb").write_text("{}")
    seen = [fingerprint(source)]
    assert fingerprint(source) == seen[0]
    source.write_text("1 + 2")
    seen.append(fingerprint(source))
    source.with_suffix(".ipynb").write_text("{ }")
    seen.append(fingerprint(source))
    monkeypatch.setattr(sys.modules[__name__], "beneath", lambda: "other packages")
    seen.append(fingerprint(source))
    assert len(set(seen)) == 4
