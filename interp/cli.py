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


FETCH_HELP = """Fetch a small real model into the cache; HookedTransformer.from_pretrained then works offline.

Known: smollm2 (SmolLM2-135M-Instruct, 98 MB, Apache-2.0), then loaded by from_pretrained("smollm2-135m-instruct").

The cache is the folder interp in the user's cache, or INTERP_CACHE. A model that is there and sound is left as it is.

Example: interp fetch smollm2
"""


@app.command("fetch", help=FETCH_HELP)
def fetch(
    model: Annotated[str, typer.Argument(help="Which model: smollm2.")],
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Fetch a model and say where it is."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from interp.checkpoints import fetch as fetching

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as bars:
        bar = bars.add_task(model, total=None)
        path, new = fetching.fetch(
            model, lambda doing, done, total: bars.update(bar, description=doing, completed=done, total=total)
        )
    typer.echo(f"{'Fetched' if new else 'Already there'}: {path}")


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
