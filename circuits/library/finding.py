"""What stands where: words some places back, patterns, brackets that belong together."""

from collections.abc import Sequence

from circuits import Circuit
from circuits.language import Form, Label, Space, copy, match, shift


def shift_by(
    c: Circuit, n: int, values: Space | None = None, writes: Space | None = None, name: str | None = None
) -> Space:
    """What the word `n` places back has in `values`, by default the word itself; nothing where there is none.

    Returns where it is, by default a space of its own. Raises `ConfigError` for an `n` that is no integer, a name that
    is taken (by default "n back"), and a space of another circuit.

    >>> from circuits import Circuit, copy
    >>> c = Circuit(vocab="!abc", n_ctx=5, bos="!")
    >>> _ = c.direct(copy(shift_by(c, 2), c.out))
    >>> c.compile().predict("!abc")
    [None, None, None, 'a']
    """
    values = c.tok if values is None else values
    name = f"{n} back" if name is None else name
    writes = c.space(name, values) if writes is None else writes
    c.head(name, qk=match(c.pos, c.pos, shift(n)), ov=copy(values, writes))
    return writes


def detect_pattern(
    c: Circuit,
    pattern: Sequence[Label],
    values: Space | None = None,
    writes: Space | None = None,
    answers: tuple[Label, Label] = ("yes", "no"),
    name: str = "detect_pattern",
) -> Space:
    """Whether the last words are those of a pattern, or have these labels in `values`.

    Args:
        c: the circuit.
        pattern: the labels, in order.
        values: a space with these labels; by default the words.
        writes: where the answer goes; by default a space of its own.
        answers: the labels that say so and otherwise.
        name: of the scope that its parts lie in.

    Returns where the answer is. Raises `ConfigError` for an empty pattern, unknown labels, and as `shift_by` does.

    >>> from circuits import Circuit
    >>> c = Circuit(vocab="!abTF", n_ctx=4, bos="!")
    >>> _ = detect_pattern(c, "ab", writes=c.out, answers=("T", "F"))
    >>> c.compile().predict("!aab")
    ['F', 'F', 'F', 'T']
    """
    values = c.tok if values is None else values
    with c.scope(name):
        writes = c.space("found", answers) if writes is None else writes
        read = [values if n == 0 else shift_by(c, n, values) for n in reversed(range(len(pattern)))]
        c.mlp("pattern", read, writes, {tuple(pattern): answers[0]}, otherwise=answers[1])
    return writes


def shuffle_dyck(
    c: Circuit,
    pairs: Sequence[str],
    writes: Space | None = None,
    answers: tuple[Label, Label] = ("yes", "no"),
    name: str = "shuffle_dyck",
) -> Space:
    """Whether brackets are balanced, those of each pair for themselves: "([)]" is. The start says it, too.

    In a causal circuit it is said of the words so far, in a bidirectional one of the whole text.

    Args:
        c: the circuit.
        pairs: the opening and the closing bracket of each kind, such as `["()", "[]"]`.
        writes: where the answer goes; by default a space of its own.
        answers: the labels that say so and otherwise.
        name: of the scope that its parts lie in.

    Returns where the answer is. Raises `ConfigError` for unknown brackets, a circuit without a start, a name that is
    taken, and a space of another circuit.

    >>> from circuits import Circuit
    >>> c = Circuit(vocab="!()[]TF", n_ctx=5, bos="!")
    >>> _ = shuffle_dyck(c, ["()", "[]"], writes=c.out, answers=("T", "F"))
    >>> c.compile().predict("!([)]")
    ['T', 'F', 'F', 'F', 'T']
    """
    with c.scope(name):
        writes = c.space("balanced", answers) if writes is None else writes
        now = [_signs(c, pairs, "so far", match(c.pos, c.pos, lambda here, there: there <= here))]
        if c.attention_dir == "bidirectional":
            now.append(_signs(c, pairs, "in all", Form()))
        failed = [c.space(f"failed {kind}", ["-"]) for kind in pairs]
        negative, said = Form(), Form()
        for sign, flag in zip(now[0], failed, strict=True):
            negative, said = negative + match(c.one, sign, {"1": "-"}), said + copy(sign, flag, {"-": "-"})
        c.head("any negative", qk=negative, ov=said, ties="first")
        key = (*(None for _ in failed), *("0" for _ in pairs))
        c.mlp("balanced", (*failed, *now[-1]), writes, {key: answers[0]}, otherwise=answers[1])
    return writes


def _signs(c: Circuit, pairs: Sequence[str], name: str, where: Form) -> list[Space]:
    """Whether more brackets were closed than opened, or fewer, or as many, for each pair."""
    balance, signs = c.space(name, pairs), []
    opened, closed = (copy(c.tok, balance, {pair[end]: pair for pair in pairs}) for end in (0, 1))
    c.head(name, qk=where, ov=opened - closed, sink=0)
    for pair in pairs:
        signs.append(c.space(f"sign of {pair} {name}", ["-", "0", "+"]))
        c.bucket(f"{pair} {name}", balance[pair], signs[-1], {"-": -1 / c.n_ctx, "0": 0, "+": 1 / c.n_ctx})
    return signs
