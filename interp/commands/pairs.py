"""Pairs of prompts with their answers, from options or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from interp.commands.common import check_different
from interp.errors import ConfigError

if TYPE_CHECKING:
    from interp.data import PromptPairs


def pairs_of(file: Path | None, **given: str | None) -> PromptPairs:
    """The pair of the options clean, corrupted, correct and incorrect, or those of a file instead.

    Raises `ConfigError` for both or neither, and prompts or answers that are equal; and as `PromptPairs.read`.
    """
    from interp.data import PromptPairs

    named = [name for name, text in given.items() if text is not None]
    if file is not None and named:
        raise ConfigError(f"--pairs and --{named[0]} are two sources of prompts; give one")
    if file is not None:
        return PromptPairs.read(file)
    for name in ("clean", "corrupted", "correct"):
        if given[name] is None:
            raise ConfigError(f"give a file of --pairs, or --clean, --corrupted and --correct; --{name} is missing")
    for one, other in (("clean", "corrupted"), ("correct", "incorrect")):
        if given[other] is not None:
            check_different(str(given[one]), str(given[other]), f"--{one} and --{other}")
    columns = {name: [text] for name, text in given.items() if text is not None}
    return PromptPairs(**columns, names=[""])
