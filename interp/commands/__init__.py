"""The `interp` command: one file a command, what they share in `common`, put together in `cli`."""

from interp.commands.cli import main

__all__ = [
    "main",
]
