"""Texts in files: text files, one text each, and JSONL, one text a line."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.data.json_lines import json_lines
from interp.errors import ConfigError, describe, did_you_mean

TEXT_ENDINGS = (".txt", ".md", ".rst", ".py")
"""Of the files that are taken from a folder as one text each."""

JSONL_ENDINGS = (".jsonl", ".ndjson")

TABLES = (".json", ".csv", ".tsv")
"""Files that hold several texts in ways of their own, so that they are refused rather than read as one text."""

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True)
class TextFiles:
    """Files, and how texts are found in them. Each is opened when its texts are wanted, and read anew each time.

    Attributes:
        files: in the order in which they are read.
        column: the field of a JSONL object that holds the text, or its token ids.
    """

    files: tuple[Path, ...]
    column: str = "text"

    @classmethod
    def of(cls, paths: Paths, column: str) -> "TextFiles":
        """The files that paths, folders and globs stand for. Raises `ConfigError` as `Texts.read` says."""
        if not isinstance(column, str):
            raise ConfigError(f"column = {describe(column)}; allowed: a text")
        several = [paths] if isinstance(paths, str | os.PathLike) else paths
        if not isinstance(several, Iterable):
            raise ConfigError(f"paths = {describe(paths)}; allowed: a file, a folder, a glob, or several of these")
        found = [file for path in several for file in _files(path)]
        if not found:
            raise ConfigError("paths names no file; allowed: a file, a folder, a glob, or several of these")
        for file in found:
            if file.suffix.lower() in TABLES:
                raise ConfigError(
                    f"{file}: allowed are text files ({', '.join(TEXT_ENDINGS)} and the like), one text each, and "
                    f"JSONL ({', '.join(JSONL_ENDINGS)}), one text a line; of other files give the texts: Texts([...])"
                )
        return cls(tuple(dict.fromkeys(found)), column)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """What messages call each text, and the text. Raises `ConfigError` naming the file, and the line of JSONL."""
        for file in self.files:
            try:
                # A mark of the encoding at the start is no part of the text; ends of lines stay as they are.
                with file.open(encoding="utf-8-sig", newline="\n") as opened:
                    if file.suffix.lower() in JSONL_ENDINGS:
                        yield from self._of_lines(file, opened)
                    else:
                        yield str(file), opened.read()
            except UnicodeDecodeError as error:
                raise ConfigError(f"{file}: this is no text in UTF-8: {error.reason}") from error
            except OSError as error:
                raise ConfigError(f"{file} cannot be read: {error.strerror}") from error

    def _of_lines(self, file: Path, lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """The column of the JSON object on each line that is not blank."""
        for name, row in json_lines(file, lines):
            if self.column not in row:
                near = did_you_mean(self.column, row, said={one: f"column={one!r}" for one in row})
                raise ConfigError(f"{name}: there is no column {self.column!r} among {', '.join(row) or 'none'}{near}")
            yield name, row[self.column]


def _files(path: Any) -> Sequence[Path]:
    """The files that one path stands for, in the order of their names."""
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"{describe(path)} is no path; allowed: a file, a folder, a glob, or several of these")
    given = Path(path).expanduser()
    if given.is_dir():
        there = sorted(file for file in given.rglob("*") if not file.is_dir())
        found = [file for file in there if file.suffix.lower() in TEXT_ENDINGS + JSONL_ENDINGS]
        if not found:
            others = sorted({file.suffix or "none" for file in there})
            raise ConfigError(
                f"{given} has no files that end in {', '.join(TEXT_ENDINGS + JSONL_ENDINGS)}"
                + (f"; endings there: {', '.join(others[:8])}; name such files by a glob" if others else "")
            )
        return found
    if given.exists():
        return [given]
    if any(sign in str(given) for sign in "*?["):
        try:
            found = sorted(Path(given.anchor).glob(str(given.relative_to(given.anchor))))
        except ValueError as error:
            raise ConfigError(f"the glob {str(given)!r}: {error}") from error
        if found := [file for file in found if not file.is_dir()]:
            return found
        raise ConfigError(f"the glob {str(given)!r} matches no file")
    beside = [one.name for one in given.parent.iterdir()] if given.parent.is_dir() else []
    raise ConfigError(f"{given} does not exist{did_you_mean(given.name, beside)}")
