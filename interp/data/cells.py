"""Cells: what a pair of prompts may have in each of its columns."""

from collections.abc import Sequence
from typing import Any

from interp.errors import ConfigError, TokenError, describe
from interp.indices import is_index
from interp.text import as_ids

COLUMNS = ("clean", "corrupted", "correct", "incorrect")
"""What a pair has; the last may be left out, of all pairs alike."""

MUST_DIFFER = (("clean", "corrupted"), ("correct", "incorrect"))
"""Columns between which nothing could be measured if they were equal."""

PROMPTS = COLUMNS[:2]

Prompt = str | tuple[int, ...]
"""A text, or the token ids of one sequence."""

Cell = Prompt | int
"""A prompt, or an answer: the text of a single token, or its id."""


def of_pair(where: str) -> str:
    """How a message about a pair begins."""
    return f"{where}: " if where else ""


def as_cell(column: str, given: Any, where: str) -> Cell:
    """What was given for a column, with token ids as plain integers.

    Args:
        column: one of `COLUMNS`.
        given: a text; for a prompt also a sequence of token ids, for an answer also one id.
        where: what messages call the pair; nothing where there is only one.

    Raises `ConfigError` for anything else and for what is empty, `TokenError` for an id below 0.
    """
    if isinstance(given, str):
        if not given:
            raise ConfigError(f"{of_pair(where)}{column} is empty")
        return str(given)  # of numpy's strings, too
    if column not in PROMPTS:
        if not is_index(given):
            raise ConfigError(
                f"{of_pair(where)}{column} is {describe(given)}; allowed: a text of one token, or a token id"
            )
        _check_not_negative(where, column, [cell := int(given)])
        return cell
    try:
        ids = as_ids(given)
    except (TokenError, ValueError):
        ids = None
    if ids is None or ids.ndim != 1:
        raise ConfigError(f"{of_pair(where)}{column} is {describe(given)}; allowed: a text, or a list of token ids")
    if not len(ids):
        raise ConfigError(f"{of_pair(where)}{column} is empty")
    cells: list[int] = ids.tolist()
    _check_not_negative(where, column, cells)
    return tuple(cells)


def _check_not_negative(where: str, column: str, ids: Sequence[int]) -> None:
    if (least := min(ids)) < 0:
        raise TokenError(f"{of_pair(where)}{column} has the token id {least}; a token id is 0 or more")


def check_row(row: dict[str, Cell], where: str) -> None:
    """Raise `ConfigError` if both prompts of a pair are the same, or both answers."""
    for one, other in MUST_DIFFER:
        if other in row and row[one] == row[other]:
            raise ConfigError(f"{of_pair(where)}{one} and {other} are both {describe(row[one])}; they must differ")
