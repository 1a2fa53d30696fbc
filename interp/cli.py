"""The `interp` command.

Commands of other packages join through the entry-point group `interp.commands`: each entry is a function that receives
the typer application and adds its commands to it.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points, version
from io import TextIOWrapper
from typing import Annotated

import typer

from interp.errors import InterpError

app = typer.Typer(
    help="Inspect attention, build circuits by hand, cache and patch activations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"interp {version('interp')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors made on purpose end it with one line and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a token must not end the run
    for entry in entry_points(group="interp.commands"):
        entry.load()(app)
    try:
        app()
    except (InterpError, OSError) as error:
        typer.echo(f"interp: {error}", err=True)
        sys.exit(2)
