"""`interp circuits`, as a user runs it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from circuits.commands import gallery as commands
from circuits.gallery import Entry, entries, entry
from interp import ConfigError


def interp(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from interp.commands import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, encoding="utf-8", check=False)


def cells(text: str) -> dict[str, list[str]]:
    """The rows of a printed table by their first cell."""
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]
    return {row[0]: row[1:] for row in rows}


def test_verify_prints_a_row_for_each_circuit(tmp_path: Path):
    done = interp("circuits", "verify", "dyck1", "ioi", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = cells(done.stdout)
    assert rows["dyck1"][:4] == ["256", "2,304", "100 %", "100 %"]
    assert rows["ioi"][:4] == ["180", "2,520", "100 %", "100 %"]


def test_verify_takes_a_sample():
    done = CliRunner().invoke(commands.app, ["verify", "dyck1", "--sample", "20"], catch_exceptions=False)
    assert done.exit_code == 0 and "a random sample of 20 inputs each" in done.output
    assert cells(done.output)["dyck1"][:3] == ["20 of 256", "180", "100 %"]


def test_an_unknown_circuit_ends_with_the_nearest_and_status_2(tmp_path: Path):
    done = interp("circuits", "verify", "dyck", cwd=tmp_path)
    assert done.returncode == 2
    assert "the gallery has no circuit 'dyck'" in done.stderr
    assert "did you mean 'dyck2' or 'dyck1'" in done.stderr or "did you mean 'dyck1' or 'dyck2'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_interrupted_check_says_so_and_ends_with_status_130(tmp_path: Path):
    code = """
import circuits.gallery
from interp.commands import main
def interrupt(*ignored, **options):
    raise KeyboardInterrupt
circuits.gallery.verify = interrupt
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "circuits", "verify", "ioi"],
        cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interp: interrupted\n")


@pytest.mark.parametrize("arguments", [[], ["--slow"], ["ioi", "--all"], ["ioi", "--slow"]])
def test_verify_takes_names_or_all(arguments: list[str]):
    with pytest.raises(ConfigError, match="takes names of circuits, or --all"):
        CliRunner().invoke(commands.app, ["verify", *arguments], catch_exceptions=False)


@pytest.mark.parametrize("command", ["list", "verify"])
def test_every_command_has_help_with_an_example(command: str):
    assert f"Example: interp circuits {command}" in CliRunner().invoke(commands.app, [command, "--help"]).output


def test_list_shows_every_circuit():
    done = CliRunner().invoke(commands.app, ["list"], catch_exceptions=False)
    listed = {name.removesuffix(" (slow)") for name in cells(done.output)}
    assert set(entries()) <= listed


def test_names_stay_whole_on_a_narrow_terminal():
    done = CliRunner().invoke(commands.app, ["list"], env={"COLUMNS": "50"}, catch_exceptions=False)
    assert set(entries()) <= {name.removesuffix(" (slow)") for name in cells(done.output)}


def test_all_leaves_out_what_is_slow_unless_told(monkeypatch: pytest.MonkeyPatch):
    few = {name: entry(name) for name in ("dyck1", "addition_3")}
    monkeypatch.setattr("circuits.gallery.entries", lambda: few)
    seen: list[str] = []
    report = entry("dyck1").verify(progress=False)
    monkeypatch.setattr(Entry, "verify", lambda self, **options: seen.append(self.name) or report)
    for arguments in (["--all"], ["--all", "--slow"]):
        assert CliRunner().invoke(commands.app, ["verify", *arguments]).exit_code == 0
    assert seen == ["dyck1", "dyck1", "addition_3"]


def test_a_circuit_that_is_wrong_ends_with_status_1_and_the_worst_input(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("circuits.gallery.dyck1.reference", lambda text: ["T"] * len(text))
    done = CliRunner().invoke(commands.app, ["verify", "dyck1"])
    assert done.exit_code == 1
    assert "dyck1: position " in done.output
    assert "where the reference says 'T'" in done.output


def test_a_circuit_whose_predictions_are_right_is_not_said_to_predict_wrongly(monkeypatch: pytest.MonkeyPatch):
    found = replace(entry("dyck1").verify(sample=5, progress=False), pattern_errors={"count": 0.25})
    monkeypatch.setattr(Entry, "verify", lambda self, **options: found)
    done = CliRunner().invoke(commands.app, ["verify", "dyck1"])
    assert done.exit_code == 1
    assert "where the reference says" not in done.output
    assert "dyck1: Report: wrong" in done.output and "within 0.25 of the interpreter's, most in head" in done.output
