"""Commands run as a user runs them, and what they print, as tests read it."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from interp.commands.cli import app, main


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]


def asks_nothing(page: Path) -> bool:
    """No element of the page fetches anything; plotly's own script only names addresses."""
    text = page.read_text(encoding="utf-8")
    return not re.search(r"<(script|img|iframe|link)\b[^>]*\b(src|href)=(?![\"']?data:)", text)


def refusal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]) -> str:
    """The one line with which a command ends, its status 2 checked."""
    monkeypatch.setattr(sys, "argv", ["interp", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line
