"""Which tests a session takes, and in which order its workers meet them."""

from collections.abc import Callable

import pytest
from grid import GRID, SHAPE_CHECKED


def keep(config: pytest.Config, items: list[pytest.Item], wanted: Callable[[pytest.Item], bool]) -> None:
    """Leave the others out; pytest says how many."""
    config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
    items[:] = [item for item in items if wanted(item)]


def shows_shapes(item: pytest.Item) -> bool:
    """Whether the test belongs to a session that checks shapes: see SHAPE_CHECKED."""
    assert isinstance(item, pytest.Function)
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    architectures = {one for one in parameters if isinstance(one, str) and one in GRID}
    apart = {"smollm2_path", "minilm_path", "chromium"} & set(item.fixturenames)
    apart |= {name for name in ("apart", "long") if item.get_closest_marker(name)}
    return architectures <= set(SHAPE_CHECKED) and not apart


def some_cases(items: list[pytest.Item], most: int) -> set[pytest.Item]:
    """Of the cases of every test at most so many, spread evenly over them."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return {of_one[i * len(of_one) // most] for of_one in cases.values() for i in range(most)}


def dealt(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """The tests marked `long` dealt out to the heads of what each worker starts with, so that none is left to the end.

    `--dist worksteal` cuts the list into one piece a worker.
    """
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    hands: list[pytest.Item] = []
    size, more = divmod(len(items), workers)
    for i in range(workers):
        hand = long[i::workers]
        rest = max(size + (i >= workers - more) - len(hand), 0)
        hands += hand + others[:rest]
        del others[:rest]
    return hands + others
