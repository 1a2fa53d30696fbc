"""The report on a file: every use of TransformerLens in it, and what becomes of that here."""

import ast
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from interp.compat.migration.names import CLASSES, MODULES, Names, Use
from interp.compat.migration.sources import Cell, read_cells
from interp.compat.migration.table import VERDICTS, Entry, Rule, Verdict, known


@dataclass(frozen=True)
class Finding:
    """What becomes of one use of TransformerLens.

    Attributes:
        cell: number of the cell among all cells, from 1; None in a Python file.
        line: number of the line in the cell or the file, from 1.
        source: that line.
        name: TransformerLens' name of what is used; empty for a cell that is not Python.
        verdict: one of `VERDICTS`.
        say: what to write instead, or how the number differs.
        in_module: whether `interp.compat.transformer_lens` runs it as it is.
        argument: the arguments of a call that this is about, such as "fold_ln=" or "without seed="; "" for every call.
        from_hub: whether it needs files that a name of the hub stands for, on this machine.
    """

    cell: int | None
    line: int
    source: str
    name: str
    verdict: Verdict
    say: str
    in_module: bool = True
    argument: str = ""
    from_hub: bool = False

    @property
    def about(self) -> str:
        """The name, and the arguments that this is about."""
        return f"{self.name}({self.argument})" if self.argument else self.name


@dataclass(frozen=True)
class Report:
    """All findings on one file, in the order of its lines.

    Attributes:
        path: the file.
        findings: one or more for every use.
    """

    path: str
    findings: tuple[Finding, ...]

    def counts(self) -> dict[Verdict, int]:
        """How many findings there are of each verdict, in the order of `VERDICTS`."""
        counted = Counter(finding.verdict for finding in self.findings)
        return {verdict: counted[verdict] for verdict in VERDICTS}

    @property
    def changes(self) -> tuple[Finding, ...]:
        """The findings that ask for something: all but those that work as they are."""
        return tuple(finding for finding in self.findings if finding.verdict != "same")

    @property
    def outside_module(self) -> tuple[Finding, ...]:
        """The findings that `interp.compat.transformer_lens` does not run either."""
        return tuple(finding for finding in self.findings if not finding.in_module)

    @property
    def from_hub(self) -> tuple[str, ...]:
        """What needs files that a name of the hub stands for, each once."""
        return tuple(dict.fromkeys(finding.about for finding in self.findings if finding.from_hub))

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {"path": self.path, "counts": self.counts(), "findings": [asdict(one) for one in self.findings]}


def read_file(path: str | os.PathLike[str]) -> Report:
    """Read a notebook (.ipynb) or a Python file and say what becomes of its TransformerLens; nothing is executed.

    Raises `CheckpointError` for what is neither, and `OSError` for a file that cannot be read.
    """
    cells = read_cells(Path(path))
    names, findings = Names(), list[Finding]()
    first = Names()  # functions may use what a later line defines, so what all names mean is collected first
    cells = [_visited(first, cell) for cell in cells]
    names.scopes, names.classes = [first.scopes[1], {}], first.classes
    for cell in cells:
        if cell.tree is None:
            said = f"not Python, so nothing is known of it: {cell.error}"
            findings.append(Finding(cell.number, 1, cell.lines[0], "", "unknown", said, in_module=False))
            continue
        names.uses = []
        names.visit(cell.tree)
        found = [finding for use in names.uses for finding in _findings(cell, use)]
        findings += sorted(dict.fromkeys(found), key=lambda finding: finding.line)
    return Report(str(path), tuple(findings))


def _visited(names: Names, cell: Cell) -> Cell:
    """The cell, whose names were collected; without its tree if that is too deep for it."""
    try:
        if cell.tree is not None:
            names.visit(cell.tree)
    except RecursionError:
        del names.scopes[2:]
        return replace(cell, tree=None, error="its expressions are nested too deeply to be read")
    return cell


def _findings(cell: Cell, use: Use) -> Iterator[Finding]:
    line = getattr(use.node, "end_lineno" if isinstance(use.node, ast.Attribute) else "lineno", 1)
    source = cell.lines[line - 1].strip()
    said = dict[Rule, list[str]]()  # arguments of which the same is to be said are named together
    for rule, argument in _rules(use):
        said.setdefault(rule, []).append(argument)
    for rule, arguments in said.items():
        about = ", ".join(filter(None, arguments))
        name = use.meaning or "transformer_lens"
        yield Finding(cell.number, line, source, name, rule.verdict, rule.say, rule.in_module, about, rule.from_hub)


def _rules(use: Use) -> Iterator[tuple[Rule, str]]:
    """What holds for a use, each with the argument that it is about."""
    entry = known(f"import {use.meaning}".strip() if use.imported else use.meaning)
    if entry is None and use.imported and (use.meaning in (*CLASSES, *MODULES) or known(use.meaning)):
        entry = Entry({}, {"": Rule("write", "from interp.compat.transformer_lens import ...")})
    if entry is None:
        owner, _, name = use.meaning.rpartition(".")
        if owner in TORCH_MODULES and hasattr(nn.Module, name):
            yield Rule("same", "a method of torch.nn.Module"), ""
            return
        said = f"no public name of TransformerLens 1 to 3 that is known here: {use.meaning}"
        yield Rule("unknown", said, in_module=False), ""
        return
    fitting = [
        (rule, _argument(condition))
        for condition, rule in entry.rules.items()
        if condition and _holds(condition, use.call, entry)
    ]
    for keyword in use.call.keywords if use.call is not None else ():
        if (here := entry.parameters.get(keyword.arg or "", keyword.arg)) != keyword.arg:
            fitting.append((Rule("write", f"{here}= is its name here"), f"{keyword.arg}="))
    base = entry.rules[""]
    if base.verdict != "same" or not fitting:
        yield base, ""
    yield from fitting


def _argument(condition: str) -> str:
    """The argument that a condition is about: "name=", "name=value", or one of these that is not there."""
    if condition.endswith(" is text"):
        return f"{condition.removeprefix('not ').removesuffix(' is text')}="
    return condition.replace("not ", "without ") + "=" * ("=" not in condition)


TORCH_MODULES = ("HookedTransformer", "HookPoint", "HookedRootModule", "HookedEncoder", "HookedEncoderDecoder")


def _holds(condition: str, call: ast.Call | None, entry: Entry) -> bool:
    """Whether a call has an argument: "name", "name=value", "name is text", or one of these with "not"."""
    if call is None:
        return False
    if condition.startswith("not "):
        return not _holds(condition.removeprefix("not "), call, entry)
    name, kind, value = re.split(r"(=| is text|$)", condition, maxsplit=1)
    given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
    given |= dict(zip(entry.parameters, call.args, strict=False))
    if name not in given:
        return False
    if kind == " is text":
        return isinstance(given[name], ast.JoinedStr) or isinstance(getattr(given[name], "value", None), str)
    if not kind:
        return True
    try:
        return repr(ast.literal_eval(given[name])) == value
    except ValueError:
        return False
