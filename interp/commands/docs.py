"""`interp docs`: the reference of the whole public interface, as a site that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interp.commands.common import busy, check_writable
from interp.commands.reference import write_site

HELP = r"""Write the reference as a site: all rooms of the package, from their docstrings, with search, sources and
links, and a page of recipes, "How do I ...". It is made and read without a network.

Needs the extra `docs`: pip install 'interp\[docs]'.

Example: interp docs --out reference
"""


def docs(
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("reference"),
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Write the site."""
    check_writable(out / "index.html")
    with busy("reading the docstrings", quiet):
        written = write_site(out.expanduser())
    size = sum(path.stat().st_size for path in written) / 1e6
    typer.echo(f"Wrote {written[0]}: {len(written) - 2} pages, {size:.0f} MB; it opens offline.")
