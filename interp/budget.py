"""Memory: how work is cut into portions that fit a budget. `max_bytes=` means this everywhere."""

from collections.abc import Iterable

from interp.errors import ConfigError, describe
from interp.indices import is_index

GIGABYTE = 10**9

BLOCK_BYTES = 2**27
"""How much of a large tensor (logits, patterns, a matrix over the vocabulary) is held at a time by default where it is
reduced anyway: 134 MB. More makes the products no faster."""


def check_bytes(max_bytes: object, needed: int = 1, what: str = "anything") -> int:
    """The budget as an integer. Raises `ConfigError` for one that is none, or is below what `what` needs."""
    if not is_index(max_bytes) or (budget := int(max_bytes)) < 1:  # pyright: ignore[reportArgumentType]
        raise ConfigError(f"max_bytes = {describe(max_bytes)}; allowed: a whole number of bytes")
    if budget < needed:
        raise ConfigError(f"max_bytes = {max_bytes} is too small: {what} needs {needed}")
    return budget


def portions(sizes: Iterable[int], most: int) -> list[slice]:
    """Things in their order, cut into portions whose sizes sum to `most` at most; a larger thing is a portion alone.

    Where the cuts are depends on nothing before a cut, so that work which goes on from one is cut as it was.
    """
    cut: list[slice] = []
    begin = end = held = 0
    for end, size in enumerate(sizes, start=1):
        if held and held + size > most:
            cut.append(slice(begin, end - 1))
            begin, held = end - 1, 0
        held += size
    return [*cut, slice(begin, end)] if end else []
