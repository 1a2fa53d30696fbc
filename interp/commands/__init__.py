"""The `interp` command: a file for each command, what they share in `common`, all put together in `cli`.

A package adds commands of its own through the entry-point group `interp.commands`; what it needs for that is in
`common`.
"""

from interp.commands import common

__all__ = ["common", "main"]


def main() -> None:
    """Run the command line: `cli.main`, imported only now, so that `python -m interp.commands.cli` imports it once."""
    from interp.commands import cli

    cli.main()
