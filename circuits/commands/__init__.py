"""What this package adds to the `interp` command: a module for each command, put together by `register`."""

import typer

from circuits.commands import benchmark, demo, gallery
from interp.commands.common import paragraphs

__all__ = ["register"]

PANEL = "Build circuits by hand"

gallery.app.command("benchmark", help=paragraphs(benchmark.HELP))(benchmark.benchmark)


def register(app: typer.Typer) -> None:
    """Add this package's commands to `app`.

    >>> import typer
    >>> app = typer.Typer()
    >>> register(app)
    >>> [group.name for group in app.registered_groups]
    ['circuits']
    """
    app.command("demo", help=paragraphs(demo.HELP), rich_help_panel=PANEL)(demo.demo)
    app.add_typer(gallery.app, name="circuits", rich_help_panel=PANEL)
