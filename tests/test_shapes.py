"""The shapes that annotations promise, checked by jaxtyping and beartype in sessions of their own.

The checks make a run several times as long, so the other tests go without them. The sessions here take the tests of all
folders, on the architectures of the grid that `SHAPE_CHECKED` names.
"""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import jaxtyping
import pytest
import torch
from grid import GRID, SHAPE_CHECKED

from interp.model.loss import next_token_loss

TESTS = Path(__file__).parent
CHECKER = "--jaxtyping-packages=interp,circuits,beartype.beartype"
PROCESSES = {
    "browser",
    "commands",
    "test_notebooks.py",
    "test_readme.py",
    "test_sessions.py",
}  # whose tests start processes and pages, without the checks
NAMED = ["model", "lens heads weights", "metrics interventions patching training", "discovery"]
PLACES = {path.parent.name for path in TESTS.glob("*/test_*.py")} | {path.name for path in TESTS.glob("test_*.py")}
OTHERS = PLACES - PROCESSES - set(" ".join(NAMED).split())
SESSIONS = [*NAMED, " ".join(sorted(OTHERS))]


@pytest.mark.long
@pytest.mark.parametrize("places", SESSIONS, ids=[*NAMED, "everything else"])
def test_every_value_has_the_shape_that_its_annotation_promises(places: str):
    command = [sys.executable, "-m", "pytest", "--quiet", "-n0", "-p", "no:cacheprovider", CHECKER]
    command += [f"tests/{place}" for place in places.split()]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_value_of_another_shape_is_an_error_in_these_sessions_and_only_there(pytestconfig: pytest.Config):
    checked = pytestconfig.getoption("jaxtyping_packages")
    with pytest.raises(jaxtyping.TypeCheckError) if checked else nullcontext():
        next_token_loss(torch.zeros(3, 4, 5), torch.zeros(3, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.bool))


def test_the_architectures_with_checks_are_of_the_grid():
    assert set(SHAPE_CHECKED) < set(GRID)
