"""Circuits of a head or two, for tests."""

from typing import Any

from circuits import Circuit, copy, match, shift
from circuits.language import Ties


def wrong(value: object) -> Any:
    """An argument of a type that is not allowed."""
    return value


def induction(vocab: str = "!abc", n_ctx: int = 6, ties: Ties = "mean") -> Circuit:
    """The two heads of the docstring of `circuits.circuit`."""
    c = Circuit(vocab=vocab, n_ctx=n_ctx, bos="!")
    prev = c.space("prev", c.tok)
    sharp = 100 if ties == "mean" else None
    c.head(0, "previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev), sink=0)
    c.head(1, "induction", qk=match(c.tok, prev), ov=copy(c.tok, c.out, drop="!"), ties=ties, sharp=sharp)
    return c


def previous_token(n_ctx: int, n: int = 1) -> Circuit:
    """One head that attends n back, without a sink."""
    c = Circuit("!ab", n_ctx, bos="!")
    c.head(0, "previous", qk=match(c.pos, c.pos, shift(n)), ov=copy(c.tok, c.out), sink=0)
    return c
