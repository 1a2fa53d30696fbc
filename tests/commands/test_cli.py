"""The command line as a user runs it, the demo in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from interp.commands.cli import app, main


def interp(*arguments: str, cwd: Path, module: str = "interp") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, encoding="utf-8", check=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("demo")
    done = interp("demo", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout, folder / "induction.html"


def test_the_demo_prints_the_slides_table(demo: tuple[str, Path]):
    rows = [line for line in demo[0].splitlines() if line.startswith("│") and "100" in line]
    numbers = [[cell.strip() for cell in row.strip("│").split("│")][1:] for row in rows if row.count("│") == 8]
    assert numbers == [
        ["100*", "100", "0", "0", "0", "0"],
        ["0", "0", "100", "0", "100", "0"],
        ["0", "0", "0", "100", "0", "0"],
        ["0", "0", "100", "0", "100", "0"],
        ["0", "0", "0", "0", "0", "100"],
        ["0", "0", "0", "100", "0", "0"],
    ]


def test_the_file_of_the_command_runs_it_too(tmp_path: Path):
    done, same = (interp("jobs", "status", "no", cwd=tmp_path, module=of) for of in ("interp", "interp.commands.cli"))
    assert done.returncode == same.returncode == 2
    assert done.stderr and same.stderr == done.stderr


def test_the_demo_says_what_each_reading_matches(demo: tuple[str, Path]):
    for reading, matched in {
        "causal": 35,
        "strict": 36,
        "softmax_then_mask": 36,
        "row_sum": 36,
        "zero_masked": 30,
    }.items():
        (line,) = [line for line in demo[0].splitlines() if line.startswith(f"│ {reading} ")]
        assert f"{matched}/36" in line


def test_the_demo_explains_entry_0_0(demo: tuple[str, Path]):
    assert "causal: (0,0) = 100 where the slide has 0. Position 0 can only attend to itself" in demo[0]


def test_the_demo_prints_predictions_with_their_sources(demo: tuple[str, Path]):
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in demo[0].splitlines()]
    assert ["3", "a", "b", "2 (b)"] in cells
    assert ["5", "b", "a", "3 (a)"] in cells


def test_the_demo_prints_both_head_scores(demo: tuple[str, Path]):
    line = " ".join(demo[0].split())
    assert "L0H0: previous token │ 1.000" in line
    assert "L1H0: induction │ 1.000" in line


def test_the_demo_writes_a_page_with_both_heads_and_the_tables(demo: tuple[str, Path]):
    page = demo[1].read_text(encoding="utf-8")
    assert page.count('<figure class="panel') == 4 and len(page) < 80_000
    assert "L0H0, the previous-token head" in page and "L1H0, the induction head" in page
    assert "35 of 36 entries agree with the table in lectures. (0,0) = 100 where the slide has 0." in page
    assert "no match: ! 0.50, a 0.50" in page and "zero_masked: (0,0) = 16.7" in page


def test_the_demo_takes_other_words_and_texts(tmp_path: Path):
    done = interp(
        "demo", "--text", "<s> to be or not to", "--words", "<s> to be or not", "--out", "x.html", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "2 (be)" in done.stdout
    assert (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--text", "!abd"], "interp: unknown word 'd' at place 3"),
        (["demo", "--text", ""], "interp: an empty sequence"),
        (["demo", "--words", "aa"], "interp: word 'a' stands at places 0 and 1"),
        (["demo", "--out", "/dev/null/x.html"], "cannot write"),
    ],
)
def test_bad_input_ends_with_one_line_and_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["interp", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and message in line
    assert list(tmp_path.iterdir()) == []


def test_every_command_has_help_with_an_example():
    assert "demo" in CliRunner().invoke(app, ["--help"]).output
    assert "Example: interp demo" in CliRunner().invoke(app, ["demo", "--help"]).output
    for command in (["sweep"], ["harvest"], ["circuit"], ["jobs", "status"], ["jobs", "check"]):
        help = " ".join(CliRunner().invoke(app, [*command, "--help"]).output.split())
        assert f"Example: interp {' '.join(command)}" in help
