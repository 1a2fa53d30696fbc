"""Words put in order."""

from circuits import Circuit
from circuits.language import Space, copy, match
from circuits.library.counting import histogram, length
from circuits.library.words import check_sees_all, labels_of_words, words


def sort(
    c: Circuit,
    keys: Space | None = None,
    values: Space | None = None,
    writes: Space | None = None,
    *,
    descending: bool = False,
    unique: bool = False,
    name: str = "sort",
) -> Space:
    """The first word gets the value with the smallest key, the second that with the next, and so on (bidirectional).

    Args:
        c: the circuit.
        keys: a space with a label at each word. Its labels are in the order of their declaration; equal ones keep the
            order of their places. By default the words themselves.
        values: what is put in order; by default the words.
        writes: where it goes; by default a space of its own.
        descending: the largest key first.
        unique: no two keys of a text are equal. This takes two layers instead of three.
        name: of the scope that its parts lie in.

    Returns where the values are. Raises `ConfigError` for a causal circuit, one without a start, a name that is taken,
    and a space of another circuit.
    """
    check_sees_all(c, name)
    keys, values = c.tok if keys is None else keys, c.tok if values is None else values
    order = {label: i for i, label in enumerate(labels_of_words(c, keys))}
    if descending:
        order = {label: -i for label, i in order.items()}
    earlier_keys = {own: [other for other in order if order[other] < order[own]] for own in order}
    with c.scope(name):
        writes = c.space("sorted", values) if writes is None else writes
        gate, most = [keys[label] for label in order], c.n_ctx - 1
        before = c.count("smaller", match(keys, keys, earlier_keys), up_to=most, gate=gate)
        if not unique:
            earlier = match(c.pos, c.pos, lambda here, there: 0 < there < here)
            equal = c.count("equal", match(keys, keys, {own: own for own in order}) + earlier, up_to=most, gate=gate)
            rank = c.space("before", range(c.n_ctx))
            together = sum((n * (before[n] + equal[n]) for n in range(2, c.n_ctx)), before[1] + equal[1])
            c.bucket("before", together, rank, {n: n for n in range(c.n_ctx)}, gate=gate)
            before = rank
        c.head("fetch", qk=match(c.pos, before, lambda place, n: place == n + 1), ov=copy(values, writes))
    return writes


def sort_by_frequency(c: Circuit, writes: Space | None = None, name: str = "sort_by_frequency") -> Space:
    """The words, the most frequent first; equally frequent ones keep the order of their places (bidirectional).

    Raises `ConfigError` as `sort` does.

    >>> from circuits import Circuit
    >>> c = Circuit(vocab="!ab", n_ctx=4, bos="!", attention_dir="bidirectional")
    >>> _ = sort_by_frequency(c, writes=c.out)
    >>> c.compile().predict("!baa")
    [None, 'a', 'a', 'b']
    """
    with c.scope(name):
        return sort(c, keys=histogram(c), writes=writes, descending=True)


def reverse(c: Circuit, values: Space | None = None, writes: Space | None = None, name: str = "reverse") -> Space:
    """The values backwards, the last word's first, in texts of any length (bidirectional).

    Returns where the values are. Raises `ConfigError` as `sort` does.
    """
    check_sees_all(c, name)
    values = c.tok if values is None else values
    with c.scope(name):
        writes = c.space("reversed", values) if writes is None else writes
        n, mirror = length(c), c.space("mirror", c.pos)
        place = sum((i * (n[i] - c.pos[i]) for i in range(2, c.n_ctx)), n[1] - c.pos[1])
        c.bucket("mirror", place, mirror, {i: i - 1 for i in range(1, c.n_ctx)}, gate=words(c))
        c.head("fetch", qk=match(mirror, c.pos), ov=copy(values, writes))
    return writes
