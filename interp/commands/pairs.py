"""Pairs of prompts with their answers, from options or from a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from interp.commands.common import check_different
from interp.errors import ConfigError, ShapeError, describe, did_you_mean

if TYPE_CHECKING:
    from interp.metrics import Metric
    from interp.model import HookedTransformer

COLUMNS = ("clean", "corrupted", "correct", "incorrect")
"""What a pair has, in a file and as options; the last may be left out."""

FORMATS = (".csv", ".jsonl")


@dataclass(frozen=True)
class Pairs:
    """Pairs of prompts, alike but for what is studied, with the answers to the clean ones.

    Attributes:
        clean, corrupted: the prompts.
        correct: the right token of each pair.
        incorrect: the wrong one; None where the logit of the right one is all that is asked for.
        names: what messages call each pair.
    """

    clean: list[str]
    corrupted: list[str]
    correct: list[str]
    incorrect: list[str] | None
    names: list[str]

    @classmethod
    def of(cls, file: Path | None, **given: str | None) -> Pairs:
        """The pair of the options `COLUMNS`, or those of a file instead.

        Raises `ConfigError` for both or neither, prompts or answers that are equal, and as `_rows`; `OSError` for a
        file that cannot be read.
        """
        named = [name for name in COLUMNS if given[name] is not None]
        if file is not None and named:
            raise ConfigError(f"--pairs and --{named[0]} are two sources of prompts; give one")
        missing = [f"--{name}" for name in COLUMNS[:3] if given[name] is None]
        if file is None and missing:
            raise ConfigError(f"give a file of --pairs, or --clean, --corrupted and --correct; {missing[0]} is missing")
        if file is None:
            rows = [("", {name: text for name, text in given.items() if text is not None})]
        else:
            rows = list(_rows(file.expanduser()))
        for name, row in rows:
            for one, other in (("clean", "corrupted"), ("correct", "incorrect")):
                if other in row:
                    words = f"--{one} and --{other}" if file is None else f"{name}: {one} and {other}"
                    check_different(row[one], row[other], words)
        columns = {column: [row[column] for _, row in rows if column in row] for column in COLUMNS}
        return cls(columns["clean"], columns["corrupted"], columns["correct"], columns["incorrect"] or None,
                   [name for name, _ in rows])  # fmt: skip

    @property
    def metric(self) -> Metric:
        """The difference of the two answers' logits, or the logit of the right one."""
        from interp.metrics import Logit, LogitDifference

        correct, incorrect = (one[0] if one and len(one) == 1 else one for one in (self.correct, self.incorrect))
        assert correct is not None
        return Logit(correct) if incorrect is None else LogitDifference(correct, incorrect)

    def check_lengths(self, model: HookedTransformer) -> None:
        """Raise `ShapeError` for a pair of unequal lengths: positions must correspond. Pairs may differ in length."""
        for name, *texts in zip(self.names, self.clean, self.corrupted, strict=True):
            n, m = (model.to_tokens(text).shape[1] for text in texts)
            if n != m:
                where = f"{name}: " if name else ""
                raise ShapeError(
                    f"{where}the clean prompt has {n} tokens, the corrupted one {m}; positions must correspond, so "
                    "make them equally long"
                )


def _rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """What messages call each row of a file, and its columns.

    Raises `ConfigError` for another format, no rows, and what `_check_row` refuses.
    """
    if file.suffix.lower() not in FORMATS:
        raise ConfigError(f"--pairs {str(file)!r}; allowed: a file whose name ends in {' or '.join(FORMATS)}")
    try:
        text = file.read_text(encoding="utf-8-sig")  # spreadsheets put a mark in front, which is no part of a column
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: this is no text in UTF-8: {error.reason}") from error
    with_incorrect = None
    for name, row in (_of_csv if file.suffix.lower() == ".csv" else _of_jsonl)(file, text):
        with_incorrect = "incorrect" in row if with_incorrect is None else with_incorrect
        _check_row(name, row, COLUMNS if with_incorrect else COLUMNS[:3])
        yield name, row
    if with_incorrect is None:
        raise ConfigError(f"{file}: there are no pairs in it")


def _check_row(name: str, row: dict[str, str], columns: Sequence[str]) -> None:
    """Raise `ConfigError` unless a row has these columns, those of the first row, and each is a text."""
    for column, entry in row.items():
        if column not in COLUMNS:
            near = did_you_mean(str(column), COLUMNS)
            raise ConfigError(f"{name}: unknown column {column!r}; allowed: {', '.join(COLUMNS)}{near}")
        if column not in columns:
            raise ConfigError(f"{name}: {column} is given here, but not in the first row")
        if not isinstance(entry, str):
            raise ConfigError(f"{name}: {column} is {describe(entry)}; allowed: a text")
    if absent := [column for column in columns if column not in row]:
        raise ConfigError(f"{name}: {absent[0]} is missing")


def _of_csv(file: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows under a line of column names. A space behind a comma belongs to the entry."""
    lines = csv.reader(StringIO(text, newline=""), strict=True)
    try:
        header = next(lines, [])
        if len(set(header)) < len(header):
            raise ConfigError(f"{file}: a column is there twice: {', '.join(header)}")
        for entries in lines:
            name = f"{file}, line {lines.line_num}"
            if entries and len(entries) != len(header):
                raise ConfigError(f"{name}: {len(entries)} entries under {len(header)} columns")
            if entries:
                yield name, dict(zip(header, entries, strict=True))
    except csv.Error as error:
        raise ConfigError(f"{file}, line {lines.line_num}: this is no CSV: {error}") from error


def _of_jsonl(file: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """A JSON object on each line."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            name = f"{file}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{name}: this is no JSON: {error}") from error
            if not isinstance(row, dict):
                raise ConfigError(f"{name}: this is {describe(row)}, not an object with fields")
            yield name, row
