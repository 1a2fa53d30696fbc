"""Indices as callers give them: integers of any kind, negative ones counted from the end; and numbers in words."""

import operator
from typing import Any, SupportsIndex

from interp.errors import ConfigError, describe


def as_indices(index: Any) -> list[int]:
    """One index or several, of whatever integer type, as plain integers. Raises `TypeError` for anything else."""
    several = [index] if is_index(index) else list(index)
    if isinstance(index, str) or any(isinstance(i, bool) for i in several):
        raise TypeError(f"{describe(index)} is no index")
    return [operator.index(i) for i in several]


def is_index(value: object) -> bool:
    """Whether it is one integer, of Python, numpy or torch, and no truth value."""
    try:
        operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return False
    return not isinstance(value, bool) and not getattr(value, "ndim", 0)


def layer_index(layer: SupportsIndex, n_layers: int, what: str, *, end: bool = False) -> int:
    """`layer` counted from 0, where negative ones count from the end; with `end`, n_layers stands for after the last.

    Raises `ConfigError` out of range.
    """
    highest = n_layers if end else n_layers - 1
    if not is_index(layer) or not -n_layers <= (index := operator.index(layer)) <= highest:
        raise ConfigError(
            f"{what} = {describe(layer)}; allowed: {-n_layers} to {highest} (the model has {n_layers} layers)"
        )
    return index + n_layers if index < 0 else index


def head_index(head: SupportsIndex, n_heads: int) -> int:
    """`head` counted from 0, where negative ones count from the end. Raises `ConfigError` out of range."""
    if not is_index(head) or not -n_heads <= (index := operator.index(head)) < n_heads:
        raise ConfigError(
            f"head = {describe(head)}; allowed: {-n_heads} to {n_heads - 1} (a layer has {n_heads} heads)"
        )
    return index % n_heads


def check_count(name: str, given: object, most: int | None = None, *, least: int = 1) -> int:
    """A number of things, as a plain integer. Raises `ConfigError` for no integer, or one out of range."""
    if not is_index(given) or (count := operator.index(given)) < least or (most is not None and count > most):  # pyright: ignore[reportArgumentType]
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise ConfigError(f"{name} = {describe(given)}; allowed: {allowed}")
    return count


def check_seed(seed: object) -> int:
    """A seed of torch's generators, as a plain integer. Raises `ConfigError` for no integer, or one out of range."""
    return check_count("seed", seed, 2**63 - 1, least=0)


def chosen_indices(what: str, index: Any, size: int) -> list[int]:
    """Distinct indices along an axis, counted from 0, in the order given; all of them for None.

    Raises `ConfigError`, calling them `what`, for anything else, one out of range, one given twice, or none at all.
    """
    try:
        several = range(size) if index is None else as_indices(index)
    except TypeError:
        raise ConfigError(
            f"{what} = {describe(index)}; allowed: integers from {-size} to {size - 1}, or None"
        ) from None
    if bad := [i for i in several if not -size <= i < size]:
        raise ConfigError(f"{what} = {bad[0]}; allowed: {-size} to {size - 1}")
    found = [i % size for i in several]
    if not found or len(set(found)) < len(found):
        raise ConfigError(f"{what} = {describe(index)} names nothing, or something twice")
    return found


def counted(n: int, what: str) -> str:
    """A number of things in words: "1 head", "2,000 heads"."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def ranges(numbers: list[int]) -> str:
    """Numbers in order, those that follow each other together: "0 to 2, 5"; at most eight such parts."""
    found: list[list[int]] = []
    for one in numbers:
        if found and one == found[-1][-1] + 1:
            found[-1][1:] = [one]
        else:
            found.append([one])
    shown = [" to ".join(map(str, run)) for run in found[:8]]
    return ", ".join(shown) + (", ..." if len(found) > 8 else "")
