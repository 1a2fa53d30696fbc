"""Files of pairs of prompts: an object a line (.jsonl), or rows under a line of column names (.csv)."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path

from interp.data.cells import COLUMNS, Cell, as_cell, check_row
from interp.data.json_lines import check_once, json_lines
from interp.errors import ConfigError, describe, did_you_mean
from interp.files import atomic_path

FORMATS = (".csv", ".jsonl")
"""The endings of files of pairs."""


def read_rows(file: Path) -> Iterator[tuple[str, dict[str, Cell]]]:
    """What messages call each pair of a file (the file and the line), and its columns.

    Raises `ConfigError` for another format, for what is no text, CSV or JSON, for no pairs at all, and for a pair that
    has not the columns of the first one; `OSError` for a file that cannot be read; and as `as_cell` and `check_row`.
    """
    check_format(file)
    try:
        # Spreadsheets put a mark in front, which is no part of a column. Ends of lines inside of a cell are kept.
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: this is no text in UTF-8: {error.reason}") from error
    columns: Sequence[str] = ()
    for where, given in _of_csv(file, text) if _is_csv(file) else json_lines(file, text.split("\n")):
        columns = columns or (COLUMNS if "incorrect" in given else COLUMNS[:3])
        for column in given:
            _check_column(where, column, columns)
        row = {column: as_cell(column, cell, where) for column, cell in given.items()}
        if absent := [column for column in columns if column not in row]:
            raise ConfigError(f"{where}: {absent[0]} is missing")
        check_row(row, where)
        yield where, row
    if not columns:
        raise ConfigError(f"{file}: there are no pairs in it")


def write_rows(file: Path, columns: Mapping[str, Sequence[Cell]]) -> None:
    """Write the columns to a file that `read_rows` reads, whole or not at all.

    Raises `ConfigError` for another format, and for what a .csv cannot hold: token ids, and halves of characters.
    """
    check_format(file)
    rows = list(zip(*columns.values(), strict=True))
    if _is_csv(file):
        if given := [cell for row in rows for cell in row if not isinstance(cell, str)]:
            raise ConfigError(f"{file}: a .csv holds texts, and {describe(given[0])} is token ids; take a .jsonl")
        held = StringIO(newline="")
        csv.writer(held).writerows([[*columns], *rows])
        text = held.getvalue()
    else:  # characters beyond ASCII are escaped: no reader takes one of them for the end of a line
        text = "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"{file}: {error.object[error.start]!r} is no character; take a .jsonl") from error
    with atomic_path(file) as temporary:
        temporary.write_bytes(encoded)


def check_format(file: Path) -> None:
    """Raise `ConfigError` unless the file's name says that it is one of `FORMATS`."""
    if file.suffix.lower() not in FORMATS:
        raise ConfigError(f"pairs of prompts {str(file)!r}; allowed: a file whose name ends in {' or '.join(FORMATS)}")


def _is_csv(file: Path) -> bool:
    return file.suffix.lower() == ".csv"


def _check_column(where: str, column: str, columns: Sequence[str]) -> None:
    if column not in COLUMNS:
        near = did_you_mean(column, COLUMNS)
        raise ConfigError(f"{where}: unknown column {column!r}; allowed: {', '.join(COLUMNS)}{near}")
    if column not in columns:
        raise ConfigError(f"{where}: {column} is given here, but not in the first row")


def _of_csv(file: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows under a line of column names. A space behind a comma belongs to the entry."""
    lines = csv.reader(StringIO(text, newline=""), strict=True)
    try:
        header = next(lines, [])
        if len(header) == 1:
            raise ConfigError(f"{file}, line 1: there is one column, {header[0]!r}; allowed: {','.join(COLUMNS)}, with "
                              "commas between them")  # fmt: skip
        for column in header:
            _check_column(f"{file}, line 1", column, COLUMNS)
        check_once(f"{file}", header)
        for entries in lines:
            where = f"{file}, line {lines.line_num}"
            if entries and len(entries) != len(header):
                raise ConfigError(f"{where}: {len(entries)} entries under {len(header)} columns")
            if entries:
                yield where, dict(zip(header, entries, strict=True))
    except csv.Error as error:
        raise ConfigError(f"{file}, line {lines.line_num}: this is no CSV: {error}") from error
