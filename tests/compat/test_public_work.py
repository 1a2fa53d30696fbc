"""What `tests/benchmarks/public_work.py` calls passed, failed and skipped."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that runs cells, from the folder of benchmarks, which is no package."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import public_cells  # pyright: ignore[reportMissingImports]

    yield public_cells
    for name in ("public_cells", "public_stand_in"):
        sys.modules.pop(name, None)


def outcomes(cells: Any, *sources: str, limit: float = 30) -> list[tuple[str, str]]:
    session = cells.Session(Path("a.py"), limit)
    found = [session.run(number, source) for number, source in enumerate(sources)]
    return [(one["status"], one["why"]) for one in found]


def test_a_cell_keeps_what_those_before_it_made_and_one_that_fails_does_not_stop_the_rest(cells: Any) -> None:
    assert outcomes(cells, "x = 1", "1 / 0", "assert x == 1") == [
        ("passed", ""), ("failed", "ZeroDivisionError: division by zero"), ("passed", "")]  # fmt: skip


def test_what_needs_a_name_of_a_cell_shares_its_fate_until_another_cell_gives_the_name(cells: Any) -> None:
    skipped, needs, failed, also, given, uses = outcomes(
        cells, "open('is not here'); a = 1", "a", "1 / 0; b = 2", "b", "a = 3", "assert a == 3"
    )
    assert (skipped[0], needs) == ("skipped", ("skipped", "needs 'a' of cell 0, which was skipped"))
    assert (failed[0], also) == ("failed", ("failed", "needs 'b' of cell 2, which failed"))
    assert given[0] == uses[0] == "passed"
    assert outcomes(cells, "nobody_gives_this")[0][0] == "failed"


def test_shell_lines_do_nothing_and_what_is_python_in_the_cell_runs(cells: Any) -> None:
    assert outcomes(cells, "if True:\n    %pip install x\n    y = 5 % 3", "assert y == 2", "!ls\n%time")[:2] == [
        ("passed", ""), ("passed", "")]  # fmt: skip
    assert outcomes(cells, "z = 'a=%d' % 1", "assert z == 'a=1' and 7 \\\n % 4 == 3", "files = !ls")[:2] == [
        ("passed", ""), ("passed", "")]  # fmt: skip
    assert outcomes(cells, "!ls\n# no more")[0][0] == "skipped"
    assert outcomes(cells, "%%bash\nls -l | head", "x = (1\n  != 2)", "assert x") == [
        ("skipped", "only comments or commands of the shell"), ("passed", ""), ("passed", "")]  # fmt: skip


def test_reasons_not_to_run_are_found_behind_other_exceptions_and_other_errors_are_failures(cells: Any) -> None:
    here = "from public_stand_in import NotHereError\n"
    found = outcomes(
        cells,
        here + "try: raise NotHereError('a download')\nexcept NotHereError as e: raise OSError('no connection') from e",
        "raise AssertionError('Torch not compiled with CUDA enabled')",
        "import nobody_has_this_package",
        "from interp import nobody_has_this",
        "from interp.nobody import has_this",
    )
    assert [status for status, _ in found] == ["skipped", "skipped", "skipped", "failed", "failed"]
    assert [why for _, why in found[:3]] == [
        "needs a download",
        "needs CUDA",
        "needs the package nobody_has_this_package",
    ]


def test_a_cell_that_runs_for_ever_is_a_failure_even_if_it_catches_everything(cells: Any) -> None:
    found = outcomes(cells, "while True:\n    try: 1 / 0\n    except Exception: pass", limit=0.2)
    assert found == [("failed", "took more than 0.2 s")]


def test_cells_come_from_notebooks_and_from_files_with_marks(cells: Any, tmp_path: Path) -> None:
    notebook, file = tmp_path / "a.ipynb", tmp_path / "a.py"
    parts = [{"cell_type": "code", "source": ["a = 1\n", "b = 2"]}, {"cell_type": "markdown", "source": ["text"]}]
    notebook.write_text(json.dumps({"cells": parts}))
    file.write_text("import os\n# %% one\na = 1\n# %% [markdown]\n# text\n#%%\nb = 2\n")
    assert cells.cells_of(notebook) == ["a = 1\nb = 2"]
    assert [cell.strip() for cell in cells.cells_of(file)] == ["import os", "a = 1", "b = 2"]


def test_a_published_name_gives_a_random_model_with_the_tokenizer_that_is_given(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "a": 1, "?": 2}, unk_token="?"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>").save_pretrained(tmp_path / "words")
    (tmp_path / "work.py").write_text(
        "# %%\nfrom transformer_lens import HookedTransformer\n"
        "model = HookedTransformer.from_pretrained('gelu-1l')\n"
        "# %%\nassert model.tokenizer.bos_token_id == 0\n"
    )
    command = [sys.executable, str(BENCHMARKS / "public_work.py"), "work.py", "--tokenizer", "words"]
    done = subprocess.run([*command, "--width", "2"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "2       0        0" in done.stdout, done.stdout + done.stderr
