"""The bar of long work."""

import pytest
import rich.progress

from interp.progress import progress_bar


class Watched(rich.progress.Progress):
    """A bar with a clock that is set by hand."""

    now = 0.0
    last: "Watched"

    def __init__(self, **options: object):
        super().__init__(get_time=lambda: Watched.now, **options)  # pyright: ignore[reportArgumentType]
        Watched.last = self


def test_the_time_that_is_left_counts_from_the_beginning_however_steps_come(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rich.progress, "Progress", Watched)
    monkeypatch.setattr(Watched, "now", 0.0)
    with progress_bar("computing", 20, done=4) as advance:
        (bar,) = Watched.last.tasks
        assert bar.percentage == 20 and bar.time_remaining is None
        for Watched.now in (100.0, 101.0):  # two workers, which began together
            advance(1)
        assert bar.time_remaining == 101 / 2 * 14 and bar.percentage == 30
        for Watched.now in (200.0, 202.0):
            advance(1)
        assert bar.time_remaining == 202 / 4 * 12
