"""JSON lines: an object on each line of a file."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from interp.errors import ConfigError, describe


def json_lines(file: Path, lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What messages call each line (the file and its number), and the object on it. Blank lines are passed over.

    Raises `ConfigError` for a line that is no JSON, no object, or one that has a field twice.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"

        def with_fields_once(fields: list[tuple[str, Any]], where: str = where) -> dict[str, Any]:
            check_once(where, [name for name, _ in fields])
            return dict(fields)

        try:
            row = json.loads(line, object_pairs_hook=with_fields_once)
        except ConfigError:
            raise
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where}: this is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{where}: this is {describe(row)}, not an object with fields")
        yield where, row


def check_once(where: str, columns: list[str]) -> None:
    """Raise `ConfigError` for a column that is there twice."""
    if len(set(columns)) < len(columns):
        raise ConfigError(f"{where}: a column is there twice: {', '.join(columns)}")
