"""Runs the cells of one notebook or Python file in this process, and prints a line of JSON for each.

`public_work.py` starts it. Run: python tests/benchmarks/public_cells.py FILE --tokenizer FOLDER --limit SECONDS
"""

from __future__ import annotations

import argparse
import ast
import builtins
import json
import os
import re
import sys
import textwrap
import traceback
import types
from pathlib import Path
from typing import Any, TextIO

from public_stand_in import DRAWING, Idle, TookTooLongError, in_one_line, judge, prepare, time_limit

from interp.compat.migration.sources import NOT_PYTHON

SHELL = re.compile(r"^(\s*)(?:(?:\w+\s*=\s*)?(?:%%?[A-Za-z]|!(?!=)).*)$")
"""Lines of IPython alone: `%autoreload 2`, `!pip install x`, `files = !ls`."""


def cells_of(path: Path) -> list[str]:
    """The code cells of a notebook, or the parts of a Python file between lines that start with `# %%`."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        return ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    parts = re.split(r"^# ?%%(.*)$", text, flags=re.M)
    titled = [("", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]
    return [part for title, part in titled if "[markdown]" not in title and part.strip()]


def without_shell(source: str) -> str:
    """A cell whose shell lines do nothing; `%%time` and its like leave the rest of it as it is, `%%bash` nothing."""
    magic = re.match(r"\s*%%(\w+)", source)
    if magic and magic[1] in NOT_PYTHON:
        return ""
    return "\n".join(SHELL.sub(r"\1pass", line) for line in source.splitlines())


def _says_nothing(python: str) -> bool:
    try:
        return all(isinstance(statement, ast.Pass) for statement in ast.parse(python).body)
    except SyntaxError:
        return False


def names_defined(source: str) -> set[str]:
    """Every name that a cell would have defined, its functions' own names not told apart."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return names


class Session:
    """One notebook: its names, and what became of its cells.

    Attributes:
        lost: by name, the cell that would have defined it and was skipped or failed, and which of the two.
    """

    def __init__(self, path: Path, limit: float):
        self.path, self.limit = path, limit
        self.module = types.ModuleType("__main__")
        self.names: dict[str, Any] = self.module.__dict__
        self.names |= {"__file__": str(path), "display": lambda *args, **kwargs: None, "get_ipython": lambda: Idle("")}
        self.lost: dict[str, tuple[int, str]] = {}

    def run(self, number: int, source: str) -> dict[str, Any]:
        """What became of a cell: its `status` is "passed", "failed" or "skipped"; `why`; what it `drew` without."""
        python, Idle.used = without_shell(source), None
        if _says_nothing(python):
            return self._outcome(number, python, "skipped", "only comments or commands of the shell")
        status, why = "passed", ""
        try:
            with time_limit(self.limit):
                exec(compile(python, f"{self.path.name}, cell {number}", "exec"), self.names)
        except TookTooLongError as error:
            status, why = "failed", f"took {error}"
        except BaseException as error:
            status, why = self._verdict(error)
            traceback.print_exc()
        return self._outcome(number, python, status, why)

    def _verdict(self, error: BaseException) -> tuple[str, str]:
        missing = getattr(error, "name", None) if isinstance(error, NameError) else None
        if missing in self.lost:
            cell, status = self.lost[missing]
            fate = "failed" if status == "failed" else "was skipped"
            return status, f"needs {missing!r} of cell {cell}, which {fate}"
        if missing in DRAWING:
            return "skipped", f"draws with {missing}, which it does not import"
        reason = judge(error)
        return ("failed", in_one_line(error)) if reason is None else ("skipped", reason)

    def _outcome(self, number: int, python: str, status: str, why: str) -> dict[str, Any]:
        for name in names_defined(python):
            if name in self.names:
                self.lost.pop(name, None)
            else:
                self.lost[name] = (number, status)
        return {
            "name": f"cell {number}",
            "status": status,
            "why": why,
            "drew": Idle.used if status == "passed" else None,
        }


def run_file(path: Path, limit: float, out: TextIO) -> None:
    """Run every cell, each with the names of those before it, and write a line about each as soon as it is known."""
    os.chdir(path.parent)
    sys.path.insert(0, str(path.parent))
    sys.argv = [str(path)]
    session = Session(path, limit)
    sys.modules["__main__"] = session.module  # classes of cells can be pickled, as in a notebook
    builtins.input = lambda *args: ""
    for number, source in enumerate(cells_of(path)):
        outcome = session.run(number, textwrap.dedent(source))
        out.write(json.dumps(outcome) + "\n")
        out.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--tokenizer")
    parser.add_argument("--width", type=int)
    parser.add_argument("--limit", type=float, default=120)
    arguments = parser.parse_args()
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what cells print goes where their tracebacks go
    prepare(arguments.tokenizer, arguments.width)
    run_file(arguments.file.resolve(), arguments.limit, lines)
