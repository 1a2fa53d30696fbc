"""Pairs of prompts with their answers, from options or from a file."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.commands.common import check_different
from interp.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from interp.data import PromptPairs
    from interp.metrics import Metric

Pos = Annotated[
    str | None,
    typer.Option(
        help="Where the answer is read: a position such as 3 or -1, or a token that each prompt holds once, such as "
        "[MASK].",
        show_default="the last position",
    ),
]


def read_at(metric: Metric, pos: str | None) -> Metric:
    """A metric that has a position, with that of `--pos`. Text that is no number is that of a token."""
    if pos is None:
        return metric
    place: Any = int(pos) if re.fullmatch(r"[+-]?\d+", pos, re.ASCII) else pos
    return dataclasses.replace(metric, pos=place)


def pairs_named(given: str) -> PromptPairs:
    """The pairs of `--pairs`: those of a file, or those that ship with the package under a name without an ending.

    Raises `ConfigError` for another name, and as `PromptPairs.read`.
    """
    from interp.data import PromptPairs, shipped_names

    path, names = Path(given), shipped_names()
    if path.suffix or len(path.parts) > 1:
        return PromptPairs.read(path)
    if given not in names:
        raise ConfigError(f"--pairs {given!r}; allowed: a file whose name ends in .csv or .jsonl, or one of "
                          f"{', '.join(names)}{did_you_mean(given, names)}")  # fmt: skip
    return PromptPairs.shipped(given)


def pairs_of(named: str | None, **given: str | None) -> PromptPairs:
    """The pair of the options clean, corrupted, correct and incorrect, or those of `--pairs` instead.

    Raises `ConfigError` for both or neither, and prompts or answers that are equal; and as `pairs_named`.
    """
    from interp.data import PromptPairs

    options = [name for name, text in given.items() if text is not None]
    if named is not None and options:
        raise ConfigError(f"--pairs and --{options[0]} are two sources of prompts; give one")
    if named is not None:
        return pairs_named(named)
    for name in ("clean", "corrupted", "correct"):
        if given[name] is None:
            raise ConfigError(f"give --pairs, or --clean, --corrupted and --correct; --{name} is missing")
    for one, other in (("clean", "corrupted"), ("correct", "incorrect")):
        if given[other] is not None:
            check_different(str(given[one]), str(given[other]), f"--{one} and --{other}")
    columns = {name: [text] for name, text in given.items() if text is not None}
    return PromptPairs(**columns, names=[""])
