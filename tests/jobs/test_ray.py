"""Units as tasks on a Ray cluster. These tests run where Ray is installed, best in an environment without Jupyter."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDS_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed")


@NEEDS_RAY
@pytest.mark.apart
@pytest.mark.long
def test_a_cluster_gives_the_same_bits_and_says_what_it_could_not_do(tmp_path: Path):
    driver = Path(__file__).with_name("on_ray.py")
    variables = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(driver.parent))), "RAY_AUTH_MODE": "disabled"}
    line = [sys.executable, str(driver), str(tmp_path)]
    done = subprocess.run(line, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["roots"] == [math.sqrt(i) for i in range(20)]
    assert sorted(found["tries"], key=int) == ["0", "5", "10", "10", "15"]  # the unit of the killed worker, twice
    assert "Unit 2 (rows 10 to 14" in found["dies"] and "its worker dies every time" in found["dies"]
    assert "3 units are done" in found["dies"] and found["left"] == [2]
    assert "it cannot be sent to a worker: ModuleNotFoundError: No module named 'unknown'" in found["unknown"]
    assert found["logits"] == found["want"]
    assert found["folders"] == ["killed", "killed once", "model", "unknown"]
