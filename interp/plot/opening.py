"""What a reader of the explorer sees before touching anything, and the checks on what was asked for that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from interp.errors import ConfigError, check_choice, describe
from interp.model import ActivationCache, PairCache
from interp.plot.attention_run import StackName
from interp.plot.attention_stack import AttentionStack
from interp.plot.style import clip, printable

Quantity = Literal["attention", "weighted", "contribution"]
"""What is drawn of a head: `A`; `A |v W_O|`; the contribution to the logit difference."""

Run = Literal["clean", "patched", "difference"]
"""The run that it is drawn of; the difference is patched - clean."""

ShownRun = Run | Literal["side by side"]
"""What a page may show of two runs: one of them, their difference, or all three beside each other."""

SHOWN_RUNS: tuple[ShownRun, ...] = (*get_args(Run), "side by side")


def check_caches(cache: object, patched: object) -> None:
    """Raise `ConfigError` unless these are caches, the second or None."""
    for name, given in (("cache", cache), ("patched", patched)):
        if not isinstance(given, ActivationCache | PairCache) and (given is not None or name == "cache"):
            raise ConfigError(
                f"{name} is an ActivationCache, not {type(given).__name__}; run_with_cache returns (logits, cache)"
            )


def title_of(*texts: object) -> str:
    """The title of heads on these, as far as they are texts; "" where none is."""
    said = [f"“{clip(text, 100)}”" for text in texts if isinstance(text, str)]
    return f"Attention on {' → '.join(said)}" if said else ""


def two_names(names: Any) -> tuple[str, str]:
    """The names of two runs. Raises `ConfigError` for anything but two different strings."""
    if (
        not isinstance(names, tuple | list)
        or len({name for name in names if isinstance(name, str)}) != 2
        or len(names) != 2
    ):
        raise ConfigError(f"run_names = {describe(names)}; allowed: two different names")
    first, second = names
    return printable(first), printable(second)


def sorting(stack: AttentionStack, sort_by: str | None) -> int:
    """The index of the score that orders the heads, or -1."""
    if sort_by is None:
        return -1
    names = [score.name for score in stack.scores]
    if not names:
        raise ConfigError(f"sort_by = {describe(sort_by)} without scores= to sort by")
    check_choice("sort_by", sort_by, names)
    return names.index(sort_by)


@dataclass(frozen=True)
class Opening:
    """What a reader sees before touching anything.

    Attributes:
        title: above the heads, or "".
        notes: sentences below it.
        stack: whose heads are shown.
        kind: what is drawn.
        run: of which run.
        sort: the index of the score that orders the heads, or -1.
        head: (layer, head) shown large, or None for the one that says most.
        lock: the query and the key that are locked, each None if none is.
        run_names: what the two runs are called.
    """

    title: str
    notes: list[str]
    stack: StackName
    kind: Quantity
    run: ShownRun
    sort: int
    head: tuple[int, int] | None
    lock: tuple[int | None, int | None]
    run_names: tuple[str, str]
