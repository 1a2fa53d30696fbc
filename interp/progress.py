"""One way to show that something takes long."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(what: str, total: int, wanted: bool = True) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where that is a terminal and the caller wants one; yields what advances it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (wanted and console.is_terminal)) as bars:
        bar = bars.add_task(what, total=total)
        yield lambda n: bars.update(bar, advance=n)
