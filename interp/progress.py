"""One way to show that something takes long: a bar on standard error, where that is a terminal and it is wanted."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Step = TypeVar("Step")


@contextmanager
def progress_bar(what: str, total: int | None, wanted: bool = True, done: int = 0) -> Iterator[Callable[..., None]]:
    """A bar while the block runs; yields what advances it, by so many steps and with news for the end of the line.

    The time that is left is estimated from all steps since the bar began. Several workers end their steps together, so
    that the time between two of them says nothing.

    Args:
        what: is done, in front of the bar.
        total: how many steps there are; None if that is not known.
        wanted: False for no bar.
        done: how many steps were done before, by an earlier call.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(
        console=console,
        transient=True,
        disable=not (wanted and console.is_terminal),
        speed_estimate_period=float("inf"),
    ) as bars:
        bar = bars.add_task(escape(what), total=total, completed=done)
        bars.advance(bar, 0)  # speed is counted from here on
        yield lambda n, news="": bars.update(bar, advance=n, description=f"{escape(what)} {escape(news)}".strip())


def shown(steps: Iterable[Step], what: str, total: int, progress: bool = True) -> Iterator[Step]:
    """The same steps, with a bar that advances by one after each."""
    with progress_bar(what, total, progress) as advance:
        for step in steps:
            yield step
            advance(1)
