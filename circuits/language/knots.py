"""Knots: a function as straight pieces, as many as an error needs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from circuits.language.space import Number, is_finite
from interp.errors import ConfigError, describe
from interp.indices import check_count

GRID = 4096
"""Pieces begin and end at the points of a grid of so many steps. The error is also measured between them."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """A piecewise-linear function: straight between its knots, constant outside.

    Attributes:
        knots: where its pieces meet, ascending.
        values: what it is there.
        error: its largest distance from the function that it stands for, measured at 8,193 points.
    """

    knots: tuple[float, ...]
    values: tuple[float, ...]
    error: float


def pieces(
    where: str, f: Callable[[float], Number], low: float, high: float, n_knots: int | None, error: Number | None
) -> Pieces:
    """`f` between `low` and `high`, with the fewest knots that keep to `error`, or the least error with `n_knots`.

    Without either, the error is a thousandth of the values' range. Raises `ConfigError`, whose message begins with
    `where`: for a value that is no finite number, and for an error that `n_knots`, or any knots of the grid, cannot
    reach.
    """
    if not callable(f):
        raise ConfigError(f"{where}: f = {describe(f)}; allowed: a function of one number")
    if n_knots is not None:
        check_count(f"{where}: knots", n_knots, GRID + 1, least=2)
    if error is not None and (not is_finite(error) or error <= 0):
        raise ConfigError(f"{where}: error = {describe(error)}; allowed: a finite number above 0")
    places = np.linspace(low, high, 2 * GRID + 1)
    values = np.array([_value(where, f, float(u)) for u in places])
    extent = float(np.ptp(values))
    if n_knots is None:
        wanted = max(extent / 1000, 1e-12) if error is None else float(error)
        chosen = _fewest(values, wanted)
    else:
        chosen = _best(values, n_knots, extent)
        wanted = math.inf if error is None else float(error)
    reached = float(np.abs(np.interp(places, places[chosen], values[chosen]) - values).max())
    if reached > wanted * (1 + 1e-9):
        ways = "more knots" if n_knots is not None else "a smaller stretch, a larger error, or a function without jumps"
        raise ConfigError(
            f"{where}: {len(chosen):,} knots between {low:g} and {high:g} reach an error of {reached:.3g} and not "
            f"{wanted:g}; allowed: {ways}"
        )
    return Pieces(tuple(map(float, places[chosen])), tuple(map(float, values[chosen])), reached)


def _value(where: str, f: Callable[[float], Number], u: float) -> float:
    try:
        value = f(u)
    except (ArithmeticError, ValueError) as error:
        raise ConfigError(f"{where}: f({u:g}) is not defined ({error}); say by over= where it is") from error
    except TypeError as error:  # such as torch.relu, which takes tensors
        raise ConfigError(f"{where}: f({u:g}) fails ({error}); allowed: a function of one float") from error
    if not is_finite(value):
        raise ConfigError(f"{where}: f({u:g}) = {describe(value)}; allowed: a finite number")
    return float(value)


def _fewest(values: np.ndarray, error: float, most: int = GRID + 1) -> list[int]:
    """Places of the knots: every piece reaches as far as the error lets it, in steps of the grid.

    It stops short of the end when there would be more than `most`.
    """
    chosen, last = [0], len(values) - 1
    while chosen[-1] < last and len(chosen) <= most:
        start, reach = chosen[-1], 2
        while start + 2 * reach <= last and _piece_error(values, start, start + 2 * reach) <= error:
            reach *= 2
        lowest, highest = reach // 2, min(reach, (last - start) // 2)  # in steps of two places
        while lowest < highest:
            middle = (lowest + highest + 1) // 2
            enough = _piece_error(values, start, start + 2 * middle) <= error
            lowest, highest = (middle, highest) if enough else (lowest, middle - 1)
        chosen.append(start + 2 * max(lowest, 1))
    return chosen


def _best(values: np.ndarray, n_knots: int, extent: float) -> list[int]:
    """Places of at most so many knots, with the error as small as they allow."""
    lowest, highest = 0.0, max(extent, 1e-12)
    for _ in range(40):
        middle = (lowest + highest) / 2
        few = len(_fewest(values, middle, n_knots)) <= n_knots
        lowest, highest = (lowest, middle) if few else (middle, highest)
    return _fewest(values, highest)


def _piece_error(values: np.ndarray, start: int, end: int) -> float:
    inner = values[start : end + 1]
    return float(np.abs(np.linspace(inner[0], inner[-1], len(inner)) - inner).max())
