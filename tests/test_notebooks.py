import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NOTEBOOKS = sorted((HERE.parent / "notebooks").glob("*.py"))


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda source: source.stem)
def test_a_notebook_runs_without_error_output_and_is_what_its_source_says(source: Path):
    command = [sys.executable, str(HERE / "render_notebooks.py"), "--check", source.stem]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda source: source.stem)
def test_a_notebook_stays_under_1_5_megabytes(source: Path):
    assert source.with_suffix(".ipynb").stat().st_size < 1_500_000
