"""`interp migrate`: what a notebook or a Python file written for TransformerLens becomes here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from interp.compat.migration import Report, Verdict

HELP = """Say what a notebook or a Python file written for TransformerLens 1 to 3 becomes here, line by line.

The file is read, not run: names are followed from its imports. Every line that uses TransformerLens works as it is, or
is followed by what to write instead, or by how its number differs. With interp.compat.transformer_lens in place of
the imports, most work runs unchanged; what does not is said.

The exit status is 0 if all of it works as it is, 1 if something is to be changed, and 2 if a file cannot be read.

Example: interp migrate notebook.ipynb

Example: interp migrate --json src/*.py > changes.json
"""

CHANGES = 1
"""The exit status for files in which something is to be changed."""


def migrate(
    files: Annotated[list[Path], typer.Argument(help="Notebooks (.ipynb) and Python files.")],
    everything: Annotated[bool, typer.Option("--all", help="Also the lines that work as they are.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output, every use in it.")] = False,
) -> None:
    """Print what becomes of each line."""
    from interp.compat.migration import read_file

    reports = [read_file(path.expanduser()) for path in files]
    if as_json:
        typer.echo(json.dumps([report.as_dict() for report in reports], indent=1, ensure_ascii=False))
    else:
        for report in reports:
            _print(report, everything)
    if any(report.changes for report in reports):
        raise typer.Exit(CHANGES)


WORDS: dict[Verdict, str] = {
    "same": "works as it is",
    "write": "write otherwise",
    "number": "another number",
    "missing": "not here",
    "unknown": "not known",
}


def _print(report: Report, everything: bool) -> None:
    typer.echo(report.path)
    before = None
    for finding in report.findings if everything else report.changes:
        cell = "" if finding.cell is None else f"cell {finding.cell}, "
        place = f"{cell}line {finding.line}"
        if place != before:
            typer.echo(f"  {place}: {finding.source}")
        before = place
        module = (
            "" if finding.in_module or not finding.name else " (interp.compat.transformer_lens does not run it either)"
        )
        said = ": ".join(filter(None, (WORDS[finding.verdict], finding.about, finding.say)))
        typer.echo(f"    {said}{module}")
    counts = report.counts()
    if not report.findings:
        typer.echo("  nothing of TransformerLens is used here")
        return
    typer.echo("  " + "; ".join(f"{WORDS[verdict]}: {n}" for verdict, n in counts.items() if n))
    outside, named = len(report.outside_module), " and ".join(report.from_hub)
    once = f", once the hub's files for {named} are on this machine," if named else ""
    runs, gives = ("all of it runs", "gives") if not outside else (f"all but {outside} of these run", "give")
    typer.echo(
        "  with `from interp.compat import transformer_lens` in place of its imports "
        f"{runs}{once} and {gives} TransformerLens' numbers"
    )
