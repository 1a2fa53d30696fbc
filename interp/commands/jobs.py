"""`interp jobs`: how far a job is, and whether what is in its folder is sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.commands.common import Quiet, paragraphs
from interp.indices import ranges

if TYPE_CHECKING:
    from interp.jobs import JobFolder

app = typer.Typer(help="Jobs in their folders: how far they are, whether they are sound.", no_args_is_help=True)

STATUS_HELP = """Say what a job computes, which units are done and missing, and what they were computed with.

Ends with status 1 if units are missing or cannot be used. Reads the description of every unit, not its numbers.

Example: interp jobs status ioi-z
"""
CHECK_HELP = """Read every unit of a job, and compare its numbers with the digest that was written beside them.

Ends with status 1 if units are missing or not as they were written.

Example: interp jobs check ioi-z
"""

JobFolderName = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of the job.", show_default=False)]


@app.command("status", help=paragraphs(STATUS_HELP))
def status(folder: JobFolderName) -> None:
    """Print how far a job is."""
    from interp.jobs import JobFolder

    job = JobFolder.at(folder.expanduser())
    asked = {part: value for part, value in job.specification.items() if value is not None}
    typer.echo(f"{folder} computes:")
    for part, value in asked.items():  # lines and no table: a value may be longer than any terminal, or a pipe, is wide
        typer.echo(f"  {part:<{max(map(len, asked))}}  {job.called.get(part) or _shown(value)}")
    found = job.status()
    _say_units("done", len(found.done), job, found.missing, found.bad)
    for software, n in sorted(found.made_with.items()):
        typer.echo(f"{n} with {software}")
    if len(found.made_with) > 1:
        typer.echo("The folder is mixed: its units agree up to rounding only.")
    if left := job.unfinished():
        typer.echo(
            f"{len(left)} unfinished files ({left[0].name} first) are being written, or were left by a process that "
            "was killed; remove them when nobody works here."
        )
    _end(not found.missing)


@app.command("check", help=paragraphs(CHECK_HELP))
def check(folder: JobFolderName, quiet: Quiet = False) -> None:
    """Read every unit."""
    from interp.jobs import JobFolder

    job = JobFolder.at(folder.expanduser())
    found = job.status()
    changed = _changed(job, found.done, quiet)
    sound = len(found.done) - len(changed)
    _say_units("done, and as they were written", sound, job, found.missing, found.bad | changed)
    _end(sound == job.n_units)


def _changed(job: JobFolder, units: list[int], quiet: bool) -> dict[int, str]:
    """What is wrong with the numbers of units whose description is sound."""
    from interp.errors import CheckpointError
    from interp.progress import shown

    changed = {}
    for unit in shown(units, f"reading {len(units)} units", len(units), not quiet):
        try:
            job.result(unit)
        except CheckpointError as error:
            changed[unit] = str(error)
    return changed


def _shown(value: Any) -> str:
    """A part of a specification; lists of numbers in short."""
    if isinstance(value, list) and value and all(isinstance(one, int) for one in value):
        return ranges(value)
    return value if isinstance(value, str) else json.dumps(value)


def _say_units(what: str, n: int, job: JobFolder, missing: list[int], bad: dict[int, str]) -> None:
    """Print what is wrong with each file, how many units are what they are said to be, and which are to be computed."""
    for _, why in sorted(bad.items()):
        typer.echo(why)
    left = f" To be computed: {ranges(missing)}." if missing else ""
    typer.echo(f"{n} of {job.n_units} units are {what}.{left}")


def _end(well: bool) -> None:
    if not well:
        raise typer.Exit(1)
