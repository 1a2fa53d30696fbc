"""The `interp` command: a file for each command, what they share in `common`, all put together in `cli`.

A package adds commands of its own through the entry-point group `interp.commands`; what it needs for that is in
`common`.
"""

from interp.commands import common
from interp.commands.cli import main

__all__ = ["common", "main"]
