"""Every public name is shown by an example that runs: a recipe, README, a notebook, or one in a docstring."""

import importlib
import inspect
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from examples import all_rooms, examples, offered, shown, used

from interp.commands.reference import packages

NOWHERE = {
    "Prompt": "a part of the alias `Source`, which examples reach",
    "main": "the command line itself, which tests/commands runs",
    "ray": "needs a cluster",
    "to_polars": "needs polars; it takes and gives what `to_pandas` does",
}
"""Names that no example reaches, and why."""

WITHIN = {
    "PairsWork", "budget_of_rows", "fields_of_pairs", "measure_rows", "numbers_of", "question_of", "run", "with_ends",
}  # fmt: skip
"""What `interp.jobs` and `interp.patching` lend to other rooms: no example uses it, and those of these rooms run it."""


@cache
def public_names() -> dict[str, list[Any]]:
    """What every public name stands for, in each room that has it."""
    found: dict[str, list[Any]] = {}
    for room in all_rooms():
        for name, value in offered(room).items():
            found.setdefault(name, []).append(value)
    return found


def public_among(named: Iterable[tuple[str, Any]]) -> set[str]:
    """The public names among these. Something else that is called the same is none."""
    return {name for name, value in named if any(value is one for one in public_names().get(name, ()))}


@cache
def used_by_examples() -> tuple[tuple[str, Any], ...]:
    return tuple(pair for code, known in examples() for pair in used(code, known))


def test_every_public_name_is_used_by_an_example_or_is_what_that_calls_takes_returns_or_raises():
    ahead, seen = list(used_by_examples()), set[int]()
    reached = public_among(ahead)
    while ahead:
        _, value = ahead.pop()
        if id(value) not in seen:
            seen.add(id(value))
            further = list(shown(value))
            reached |= public_among(further)
            ahead += further
    assert public_names().keys() - reached == NOWHERE.keys()


def test_every_function_and_every_name_that_a_room_introduces_is_used_by_an_example():
    told = [inspect.getdoc(importlib.import_module(room)) or "" for room in all_rooms()]
    introduced = set(re.findall(r"`(?:\w+\.)*(\w+)(?:\(\))?`", "\n".join(told)))
    introduced |= set[str]().union(*(importlib.import_module(package).__all__ for package in packages()))
    functions = {name for name, values in public_names().items() if any(map(inspect.isroutine, values))}
    classes = {name for name, values in public_names().items() if any(map(inspect.isclass, values))}
    unused = (functions | classes & introduced) - public_among(used_by_examples())
    assert unused == WITHIN | NOWHERE.keys() - {"Prompt"}
