"""What each public name of TransformerLens 1 to 3 is called here: `table.txt`, which says how it is written."""

import fnmatch
import functools
import re
from dataclasses import dataclass
from importlib import resources
from typing import Literal, cast, get_args

Verdict = Literal["same", "write", "number", "missing", "unknown"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""It works as it is; something else is to be written; it runs and gives another number; there is no such thing here;
nothing is known of it."""


@dataclass(frozen=True)
class Rule:
    """What becomes of a name, or of a call with some argument; attributes as of `Finding`."""

    verdict: Verdict
    say: str
    in_module: bool = True
    from_hub: bool = False


@dataclass(frozen=True)
class Entry:
    """All rules about one name; under "" the one for every use.

    Attributes:
        parameters: of TransformerLens 2.16, in order, for calls that give them by position, with their names here.
    """

    parameters: dict[str, str]
    rules: dict[str, Rule]


def known(name: str) -> Entry | None:
    """What the table has on a name, such as "utils.to_numpy" or "import utils"."""
    entries = table()
    if name in entries:
        return entries[name]
    patterns = [one for one in entries if "*" in one and one.count(".") == name.count(".")]  # of the same modules
    return next((entries[pattern] for pattern in patterns if fnmatch.fnmatch(name, pattern)), None)


@functools.cache
def table() -> dict[str, Entry]:
    """The whole table, by name."""
    entries = dict[str, Entry]()
    text = (resources.files("interp.compat.migration") / "table.txt").read_text(encoding="utf-8")
    entry = Entry({}, {})
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        found = re.fullmatch(r"(    )?(.+?)(?:\(([\w >]*)\))?: (\w+)([!~]?)(?: (.*))?", line)
        if found is None or found[4] not in VERDICTS:
            raise ValueError(f"table.txt has a line that is no rule: {line!r}")
        below, name, parameters, verdict, mark, say = found.groups()
        rule = Rule(cast(Verdict, verdict), say or "", mark != "!", mark == "~")
        if below:
            entry.rules[name] = rule
            continue
        pairs = [parameter.partition(">") for parameter in (parameters or "").split()]
        entry = Entry({there: here or there for there, _, here in pairs}, {"": rule})
        stem, _, several = name.partition("{")
        for one in several.rstrip("}").split() or [""]:
            entries[stem + one] = entry
    return entries
