"""The parts of random circuits beside heads: tables, buckets, functions, counts, and what the unembedding reads.

Each function here writes the lines of one part. `last` says that nothing comes after it, so that it should predict.
"""

from collections.abc import Sequence
from typing import Any

from random_author import EVERYTHING, WEIGHTS, Author, Held

FEW = 24
"""The most values of a number that a bucket tells apart."""

SMALL = ("one", "states", "shares", "promised shares")
"""What holds numbers from -2 to 2."""


# ---------------------------------------------------------------------- tables


def mlp(a: Author, name: str, last: bool) -> None:
    """A table."""
    reads = [a.rng.choice(a.known("one")) for _ in range(a.rng.choice((1, 1, 2, 2, 3)))]
    reads = [one for one in reads if one.able] or [a.tok]
    if not a.strays():
        reads = list({one.name: one for one in reads}.values())
    layer, said = a.layer(reads, 0.5)
    summed = a.chance(0.1)
    writes = [_table_target(a, (last or summed) and not i) for i in range(1 if summed else a.rng.choice((1, 1, 1, 2)))]
    writes = list({one.name: one for one in writes}.values())
    table = _table(a, reads, writes, summed)
    names = [a.read(one, layer + 0.5, "looked up") for one in reads]
    read = names[0] if len(names) == 1 else f"[{', '.join(names)}]"
    to = writes[0].name if len(writes) == 1 else f"[{', '.join(one.name for one in writes)}]"
    a.use("table", f"{len(reads)} reads", *["several writes"] * (len(writes) > 1))
    a.use(*["reads what was written"] * any(one.late for one in reads), *["sums"] * summed)
    given = [str(layer)] * said + [repr(name), read, to, table] + ['overlaps="sum"'] * summed
    if not summed and a.chance(0.2):
        labels = tuple(a.rng.choice(one.labels) for one in writes)
        for one, label in zip(writes, labels, strict=True):
            one.able.add(label)
        given.append(f"otherwise={labels[0] if len(writes) == 1 else labels!r}")
        a.use("otherwise")
    a.write(f"c.mlp({', '.join(given)})", [(one, layer + 0.5) for one in writes])


def _table_target(a: Author, last: bool) -> Held:
    if last or a.chance(0.3):
        return a.out
    old = [one for one in a.spaces if one.late and one.holds == "one"]
    if old and a.strays():
        return a.rng.choice(old)
    labels = a.rng.choice((["x", "y"], ["n"], [0, 1, 2], list(a.tok.labels)))
    return a.space(repr(labels), labels)


def _table(a: Author, reads: list[Held], writes: list[Held], summed: bool) -> str:
    entries: dict[tuple[Any, ...], Any] = {}
    for _ in range(a.rng.randint(1, 8)):
        key = tuple(_key(a, one, len(reads)) for one in reads)
        if all(label is ... for label in key) or key in entries:
            continue
        if any(_overlap(key, other) for other in entries) and not summed:
            if not a.strays():
                continue
            a.doubts.add("entries overlap")
        _enter(a, entries, key, writes)
    if not entries:
        _enter(a, entries, tuple(min(one.able, key=str) for one in reads), writes)
    said = {key[0] if len(reads) == 1 else key: value for key, value in entries.items()}
    shown = repr(said).replace("Ellipsis", "...")
    if any(... in key or None in key for key in entries) or a.chance(0.7):
        a.use("table as a mapping")
        return shown
    a.use("table as a function")
    names = ", ".join("abc"[: len(reads)])
    return f"lambda {names}: {shown}.get({names if len(reads) == 1 else f'({names})'})"


def _key(a: Author, space: Held, n_reads: int) -> Any:
    if n_reads > 1 and a.chance(0.25):
        a.use("wildcards")
        return ...
    if space.late and a.chance(0.15):
        a.use("empty")
        return None
    return a.rng.choice(space.labels if a.strays(0.1) else sorted(space.able, key=str))


def _enter(a: Author, entries: dict[tuple[Any, ...], Any], key: tuple[Any, ...], writes: list[Held]) -> None:
    value = tuple(a.rng.choice(one.labels) for one in writes)
    for one, label in zip(writes, value, strict=True):
        one.able.add(label)
    entries[key] = value if len(writes) > 1 else value[0]


def _overlap(key: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return all(one is ... or two is ... or one == two for one, two in zip(key, other, strict=True))


# ---------------------------------------------------------------------- numbers


def bucket(a: Author, name: str, last: bool) -> None:
    """A number as a label."""
    number, values, read = _number(a)
    if a.strays(0.4):
        values = sorted(a.rng.sample((0.0, 0.3, 1.0, 2.0, -1.0), 3))
        a.doubts.add("a bucket has no value for a number")
    gate = a.rng.choice(a.known("one")) if a.chance(0.4) else None
    layer, said = a.layer([*read, *([gate] if gate else [])], 0.5)
    target = _bucket_target(a, last, values)
    shown = {label: values[i] for i, label in enumerate(target.labels[: len(values)])}
    target.able |= set(shown)
    if len(shown) < len(values):
        a.doubts.add("a bucket has no value for a number")
    given = [str(layer)] * said + [repr(name), number, target.name, repr(shown)]
    for one in read:
        a.read(one, layer + 0.5, "a number")
    if gate:
        given.append(f"gate={_gate(a, a.read(gate, layer + 0.5, 'a gate'), gate.labels)}")
    a.use("bucket", *(f"bucket of {one.holds.removeprefix('promised ')}" for one in read))
    a.write(f"c.bucket({', '.join(given)})", [(target, layer + 0.5)])
    if last and target is not a.out:
        _say(a, target, layer + 1)


def _number(a: Author) -> tuple[str, list[float], list[Held]]:
    """A number with few values: how the program says it, its values, and the spaces that it reads."""
    spaces = [one for one in a.spaces if one.written and one.values and len(one.values) < FEW and one is not a.out]
    if a.code != "onehot" and not a.strays():
        spaces.remove(a.pos)
    chosen, values = a.rng.sample(spaces, min(len(spaces), a.rng.choice((1, 1, 1, 2)))), {0.0}
    shares = [one for one in spaces if one.holds != "one"]
    if shares and a.chance(0.7):
        chosen[0] = a.rng.choice(shares)
    chosen, terms = list(dict.fromkeys(chosen)), []
    for one in chosen:
        factor = a.rng.choice((1, 2, -1, 0.5)) if len(chosen) > 1 else 1
        more = {value + factor * own for value in values for own in one.values or ()}
        if terms and len(more) >= FEW:
            break
        values = more
        terms.append(f"{'' if factor == 1 else f'{factor} * '}{one.name}[{a.rng.choice(list(one.labels))!r}]")
    a.use(*["sum of coordinates"] * (len(terms) > 1))
    return " + ".join(terms), _apart(values), chosen[: len(terms)]


def _apart(values: set[float]) -> list[float]:
    """The values in order, without those that differ by rounding only."""
    order = sorted(values)
    return [one for i, one in enumerate(order) if not i or one - order[i - 1] > 1e-9]


def _gate(a: Author, name: str, labels: Sequence[Any]) -> str:
    a.use("gate")
    kind = a.rng.choice(("space", "coordinate", "list"))
    chosen = [f"{name}[{label!r}]" for label in a.some(labels)]
    return {"space": name, "coordinate": chosen[0], "list": f"[{', '.join(chosen)}]"}[kind]


def _bucket_target(a: Author, last: bool, values: Sequence[float]) -> Held:
    fits = len(values) <= len(a.out.labels) or a.strays()
    if fits and (last or a.chance(0.3)):
        return a.out
    return a.space(f"range({len(values)})", range(len(values)))


def _say(a: Author, space: Held, layer: int) -> None:
    """A table that predicts something for one label of a space, in a later layer."""
    a.read(space, layer + 0.5, "looked up")
    entry = {min(space.able, key=str): a.out.labels[-1]}
    a.write(f"c.mlp({layer}, 'say', {space.name}, {a.out.name}, {entry})", [(a.out, layer + 0.5)])


def function(a: Author, name: str, last: bool) -> None:
    """A function of a number."""
    spaces = [one for one in a.known(*SMALL) if one is not a.out]
    spaces = a.rng.sample(spaces, min(len(spaces), a.rng.choice((1, 1, 2))))
    layer, _ = a.layer(spaces, 0.5)
    read = _sum(a, spaces, layer)
    writes, target = _written(a, last)
    f = a.rng.choice(("lambda u: u * u", "lambda u: abs(u - .4)", "lambda u: max(u, 0)", "lambda u: 1 - u"))
    how = a.rng.choice(("knots=5", "error=.05", "knots=2", ""))
    over = a.rng.choice((["over=(-6, 6)"], [] if a.one not in spaces else ["over=(-6, 7)"]))
    if a.strays():
        over = ["over=(-.25, .3)"]
        a.doubts.add("a number lies beyond what a function follows")
    a.use("function", *["knots or error"] * bool(how))
    given = [repr(name), f"reads={read}", f"writes={writes}", f"f={f}", *[how] * bool(how), *over]
    a.write(f"c.function({layer}, {', '.join(given)})", [(target, layer + 0.5)])


def product(a: Author, name: str, last: bool) -> None:
    """The product of two numbers."""
    spaces = [one for one in a.known(*SMALL) if one is not a.out]
    one, other = a.rng.choice(spaces), a.rng.choice(spaces)
    layer, _ = a.layer([one, other], 0.5)
    first, second = _sum(a, [one], layer), _sum(a, [other], layer)
    writes, target = _written(a, last)
    how = a.rng.choice(("knots=5", "error=.1", "knots=9"))
    over = a.rng.choice((["over=(-4, 4)"], [] if a.one not in (one, other) else ["over=(-4, 5)"]))
    a.use("product")
    given = [repr(name), first, second, f"writes={writes}", how, *over]
    a.write(f"c.product({layer}, {', '.join(given)})", [(target, layer + 0.5)])


def _sum(a: Author, spaces: Sequence[Held], layer: int) -> str:
    """A sum of coordinates, which is read in this layer's MLP."""
    terms = []
    for one in spaces:
        factor = a.rng.choice(("", "", "-.5 * "))
        terms.append(f"{factor}{a.read(one, layer + 0.5, 'a number')}[{a.rng.choice(list(one.labels))!r}]")
    return " + ".join(terms)


def _written(a: Author, last: bool) -> tuple[str, Held]:
    """Where a number goes."""
    target = a.out
    if not last and a.chance(0.6):
        target = a.space("['x', 'y']", ["x", "y"], "numbers")
        target.values, target.able = None, {"x", "y"}
    one, other = (f"{target.name}[{a.rng.choice(list(target.labels))!r}]" for _ in range(2))
    relation = [[a.rng.choice((1, 0.5, -1, 2)) for _ in target.labels]]
    return a.rng.choice((one, f"{one} - 2 * {other}", f"copy(c.one, {target.name}, {relation})")), target


def count(a: Author, name: str, last: bool) -> None:
    """How many keys match, and where nothing comes after it, a table that says it."""
    pairs = [(a.tok, a.tok)] if a.chance(0.5) else [(a.rng.choice(a.known("one")), a.rng.choice(a.known("one")))]
    (query, key) = pairs[0]
    relation = a.relation(query, key, one_to_one=True)
    layer, _ = a.layer([query, key], 0)
    everything = a.chance(0.2)
    qk = "None" if everything else a.term("match", query, key, relation)
    for one in [a.tok] if everything else [query, key, a.tok]:
        a.read(one, layer, "matched")
    up_to = a.rng.randint(1, min(7, a.n_ctx))
    space = Held(f"n{len(a.lines)}", range(up_to + 1), able=set(range(up_to + 1)), written=[])
    a.spaces.append(space)
    gated = ""
    if a.chance(0.3):
        gate = a.rng.choice(a.known("one"))
        if gate.since <= layer:
            gated = f", gate={_gate(a, a.read(gate, layer + 0.5, 'a gate'), gate.labels)}"
    a.use("count")
    a.write(f"{space.name} = c.count({layer}, {name!r}, {qk}, {up_to}{gated})", [(space, layer + 0.5)], declares=space)
    if last:
        _say(a, space, layer + 1)


# ---------------------------------------------------------------------- beside `out`


def direct(a: Author) -> None:
    """What the unembedding reads beside `out`, as a form or as a number."""
    source = a.rng.choice(a.known(*EVERYTHING))
    if source is a.out:
        return
    a.read(source, float("inf"), "read out")
    if a.chance(0.5):
        a.use("direct")
        a.write(f"c.direct({a.term('copy', source, a.out, a.relation(source, a.out), a.rng.choice(WEIGHTS))})")
    else:
        a.use("number")
        a.write(f"c.number(c.out[{a.out.labels[-1]!r}], 2 * {source.name}[{a.rng.choice(list(source.labels))!r}])")
