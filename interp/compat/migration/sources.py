"""The Python in a notebook or a file, with the line numbers that its author sees."""

import ast
import io
import json
import re
import tokenize
import warnings
from dataclasses import dataclass
from pathlib import Path

from interp.errors import CheckpointError

NOT_PYTHON = {"bash", "cmd", "html", "javascript", "js", "latex", "markdown", "perl", "ruby", "script", "sh", "svg",
              "system", "sx", "writefile"}  # fmt: skip
"""Magics `%%...` whose cells hold something else."""


@dataclass(frozen=True)
class Cell:
    """A piece of Python: a cell of a notebook, or a whole file.

    Attributes:
        number: of the cell, counted over all cells from 1; None for a file.
        lines: as they were written.
        tree: their syntax tree, where the lines of IPython's own stand for nothing; None if they are not Python.
        error: then, why.
    """

    number: int | None
    lines: list[str]
    tree: ast.Module | None
    error: str | None = None


def read_cells(path: Path) -> list[Cell]:
    """The code of a file. Raises `CheckpointError` for a notebook that is none, and `OSError`."""
    data, is_notebook = path.read_bytes(), path.suffix.lower() == ".ipynb"
    try:  # a Python file may name its encoding
        coding = "utf-8-sig" if is_notebook else tokenize.detect_encoding(io.BytesIO(data).readline)[0]
        text = data.decode(coding)
    except (UnicodeDecodeError, SyntaxError) as error:
        why = f"{error.reason} at byte {error.start}" if isinstance(error, UnicodeDecodeError) else error.msg
        raise CheckpointError(f"{str(path)!r} is not text in UTF-8, or in the encoding that it names: {why}") from None
    if not is_notebook:
        return [_parsed(None, text)]
    try:
        notebook = json.loads(text)
        sources = [(cell["cell_type"], cell["source"]) for cell in notebook["cells"]]
        texts = [(kind, source if isinstance(source, str) else "".join(source)) for kind, source in sources]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} is no notebook of version 4 ({type(error).__name__}: {error})") from None
    return [_parsed(i, text) for i, (kind, text) in enumerate(texts, start=1) if kind == "code"]


def _parsed(number: int | None, text: str) -> Cell:
    lines = re.split(r"\r\n|\r|\n", text)  # as Python counts them
    magic = re.match(r"\s*%%(\w+)", text)
    if number is not None and magic and magic[1] in NOT_PYTHON:
        return Cell(number, lines, ast.parse(""))
    error: Exception | None = None
    for attempt in (text, _without_magic(lines)):  # files of cells (`# %%`) have magics too
        try:
            with warnings.catch_warnings(action="ignore"):  # such as those about escapes in strings
                flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
                return Cell(number, lines, compile(attempt, "<cell>", "exec", flags, dont_inherit=True))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as failed:  # a ValueError for null bytes
            error = failed
    where = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) and error.lineno else str(error)
    return Cell(number, lines, None, where)


def _without_magic(lines: list[str]) -> str:
    """The text with `pass` or `None` where IPython would act: `%magic`, `!command`, `x = !command`, `name?`."""
    plain, goes_on = list[str](), False
    for line in lines:
        acts = re.match(r"(\s*)(%%?\w|!(?!=)|\?|[%\w.*]+\?{1,2}\s*$)", line)
        assigned = re.match(r"(\s*[\w, ]+=\s*)[!%]", line)
        instead = f"{acts[1]}pass" if acts else f"{assigned[1]}None" if assigned else line
        plain.append("" if goes_on else instead)
        goes_on = (goes_on or instead != line) and line.endswith("\\")
    return "\n".join(plain)
