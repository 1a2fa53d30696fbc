"""Automata whose state is a permutation: the product of all moves so far, in a group.

What the last two, four and eight moves come to is put together from two halves, so that three layers are enough for
eight moves (Liu et al. 2023, "Transformers Learn Shortcuts to Automata"). Where there is nothing before, half a window
is all of it. S3 is what three things can be put into by a swap and a rotation; A5, which a rotation of three and one of
five generate, is the smallest group that is not solvable.
"""

from circuits import Circuit, copy, match, shift
from circuits.verify import EveryText

VARIANTS = {
    "automaton_s3": {"moves": {"s": "213", "r": "231"}},
    "automaton_a5": {"moves": {"t": "23145", "r": "23451"}},
}


def build(moves: dict[str, str]) -> Circuit:
    """Three layers, all with MLPs."""
    c = Circuit(["!", *moves, *generated(moves, 8)], n_ctx=9, bos="!")
    window = c.embed("last 1", moves)
    for n in (1, 2, 4):
        back = c.space(f"{n} back", window)
        c.head(f"{n} back", qk=match(c.pos, c.pos, shift(n)), ov=copy(window, back))
        longer = c.space(f"last {2 * n}", generated(moves, 2 * n)) if n < 4 else c.out
        halves = generated(moves, n)
        products = {(one, other): then(one, other) for one in halves for other in halves}
        c.mlp(f"last {2 * n}", (back, window), longer, products | {(None, one): one for one in halves})
        window = longer
    return c


def then(one: str, other: str) -> str:
    """One permutation after the other."""
    return "".join(one[int(place) - 1] for place in other)


def generated(moves: dict[str, str], most: int) -> list[str]:
    """All products of one to `most` moves."""
    found = layer = dict.fromkeys(moves.values())
    for _ in range(most - 1):
        layer = dict.fromkeys(then(one, move) for one in layer for move in moves.values())
        found = found | layer
    return list(found)


def reference(text: str, moves: dict[str, str]) -> list[str | None]:
    """The moves so far, one after the other; nothing at the start."""
    answers: list[str | None] = [None]
    for move in text.split()[1:]:
        answers.append(then(answers[-1], moves[move]) if answers[-1] else moves[move])
    return answers


def inputs(moves: dict[str, str]) -> EveryText:
    """All 2^8 texts of eight moves."""
    return EveryText(moves, 8, start="! ", separator=" ")
