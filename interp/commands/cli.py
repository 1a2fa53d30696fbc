"""The `interp` command.

Commands of other packages join through the entry-point group `interp.commands`: each entry is a function that receives
the typer application and adds its commands to it.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points, version
from io import TextIOWrapper
from typing import Annotated, Any

import typer

from interp.commands import attention, circuit, docs, fetch, harvest, heads, jobs, migrate, patch, sweep
from interp.commands.common import paragraphs
from interp.errors import InterpError

ABOUT = """Inspect attention, build circuits by hand, cache and patch activations.

Every command has an example in its --help. Pages that are written open offline.

To begin: interp demo; then, with a real model, interp fetch smollm2 and interp attention --text 'the cat and the cat'
"""

app = typer.Typer(help=paragraphs(ABOUT), no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

LOOKING = "Look at a model"

app.command("attention", help=paragraphs(attention.HELP), rich_help_panel=LOOKING)(attention.attention)
app.command("heads", help=paragraphs(heads.HELP), rich_help_panel=LOOKING)(heads.heads)
app.command("patch", help=paragraphs(patch.HELP), rich_help_panel=LOOKING)(patch.patch)
app.command("circuit", help=paragraphs(circuit.HELP), rich_help_panel=LOOKING)(circuit.circuit)
app.command("fetch", help=paragraphs(fetch.HELP), rich_help_panel=LOOKING)(fetch.fetch)

MANY = "Over data sets, on one machine or many"

app.command("sweep", help=paragraphs(sweep.HELP), rich_help_panel=MANY)(sweep.sweep)
app.command("harvest", help=paragraphs(harvest.HELP), rich_help_panel=MANY)(harvest.harvest)
app.add_typer(jobs.app, name="jobs", rich_help_panel=MANY)

app.command("docs", help=paragraphs(docs.HELP), rich_help_panel="Read")(docs.docs)
app.command("migrate", help=paragraphs(migrate.HELP), rich_help_panel="Work that exists")(migrate.migrate)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"interp {version('interp')}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


INTERRUPTED = 130
"""The exit status after Ctrl-C (128 and the signal's number), with which newer versions of typer return from it."""


def main() -> None:
    """Run the command line; errors made on purpose, and wrong usage, end it with one line and status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a token must not end the run
    try:
        for entry in entry_points(group="interp.commands"):
            entry.load()(app)
        command = typer.main.get_command(app)
        _hide_types_of_flags(command)
        status = command.main(prog_name="interp", standalone_mode=False)
    except BrokenPipeError:  # such as `interp circuits list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except InterpError as error:
        _say(str(error))
        status = 2
    except OSError as error:
        _say(f"{error.strerror}: {str(error.filename)!r}" if error.strerror and error.filename else str(error))
        status = 2
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except Exception as error:
        format_message = getattr(error, "format_message", None)
        if format_message is None:  # wrong usage has it; typer does not export the class that it is
            raise
        if message := format_message():  # else it was the help that was printed
            _say(f"{message} (see {getattr(getattr(error, 'ctx', None), 'command_path', 'interp')} --help)")
        status = 2
    if status == INTERRUPTED:
        _say("interrupted")
    sys.exit(status)


def _hide_types_of_flags(command: Any) -> None:
    """Let no flag look in the help as if it took a value: newer versions of typer write `<bool>` beside it."""
    for below in getattr(command, "commands", {}).values():
        _hide_types_of_flags(below)
    for option in command.get_params(typer.Context(command)):
        if getattr(option, "is_flag", False):
            option.metavar = ""


def _say(what: str) -> None:
    """Print a message in one line on standard error."""
    typer.echo(f"interp: {' '.join(line.strip() for line in what.splitlines())}", err=True)


if __name__ == "__main__":  # `python -m interp.commands.cli`; `python -m interp` is the shorter way
    main()
