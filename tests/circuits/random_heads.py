"""The heads of random circuits."""

from random_author import EVERYTHING, WEIGHTS, Author, Held


def head(a: Author, name: str, last: bool) -> None:
    """An attention head."""
    soft = a.chance(0.12)
    pairs = _matched(a, soft)
    source = a.rng.choice(a.known(*EVERYTHING))
    if source is a.pos and len(a.pos.labels) == 1:
        source = a.tok
    layer, said = a.layer([source, *(one for pair in pairs for one in pair)], 0)
    qk = _scores(a, pairs, layer, soft)
    given, single = _chooses(a, pairs, qk, layer, soft)
    ov, writes = _copied(a, source, layer, single, last, soft)
    given = [str(layer)] * said + [repr(name), *[f"qk={qk}"] * bool(qk), f"ov={ov}", *given]
    a.use("head")
    a.read(source, layer, "copied")
    a.write(f"c.head({', '.join(given)})", writes)


def _matched(a: Author, soft: bool) -> list[tuple[Held, Held]]:
    """The spaces that the terms of a QK circuit relate, query and key."""
    if a.chance(0.15):
        return []
    if a.chance(0.3):
        return [(a.pos, a.pos)]
    promised = [one for one in a.spaces if one.holds == "promised shares" and one.late]
    if promised and a.chance(0.5):
        return [(a.rng.choice(a.known("one")), promised[-1])]
    pairs = []
    for _ in range(a.rng.choice((1, 1, 1, 2, 2, 3))):
        if pairs and a.chance(0.3) and (a.code == "onehot" or a.strays()):
            pairs.append((a.pos, a.pos))
            continue
        holds = EVERYTHING if soft else ("one", "states", "promised shares")
        query, keys = a.rng.choice(a.known(*holds)), a.known(*holds)
        alike = [one for one in keys if set(one.labels) == set(query.labels)]
        pairs.append((query, a.rng.choice(alike if alike and a.chance(0.6) else keys)))
    return pairs


def _scores(a: Author, pairs: list[tuple[Held, Held]], layer: int, soft: bool) -> str:
    """A QK circuit."""
    terms = []
    for query, key in pairs:
        how = "weighed" if soft else "matched"
        a.read(query, layer, how)
        a.read(key, layer, how)
        weight = a.rng.choice(WEIGHTS) if len(pairs) > 1 or a.chance(0.2) else 1.0
        weight = abs(weight) if a.code != "onehot" and query is key is a.pos else weight
        terms.append(a.term("match", query, key, a.relation(query, key), weight))
    a.use(*["no match"] * (not terms), *["several terms"] * (len(terms) > 1))
    a.use(*["reads what was written"] * any(one.late for pair in pairs for one in pair))
    return " + ".join(terms)


def _chooses(a: Author, pairs: list[tuple[Held, Held]], qk: str, layer: int, soft: bool) -> tuple[list[str], bool]:
    """How a head chooses its keys, as arguments, and whether it surely chooses one."""
    given, rests = [], a.bos is not None and bool(qk) and not soft
    if (a.bos or a.strays()) and a.chance(0.35):
        if a.bos is None:
            a.doubts.add("a sink without a start")
        sink = a.rng.choice((0, 0, 0.25, 0.5, 0.75, 0.95, 1, 1.5))
        given.append(f"sink={sink}")
        rests = 0 < sink < 1
        a.use("declared sink" if sink else "no sink")
        if sink:
            a.read(a.tok, layer, "weighed" if soft else "matched")
    elif rests:
        a.use("default sink")
        a.read(a.tok, layer, "matched")
    if soft:
        a.use("soft")
        return [*given, 'attend="soft"', *a.rng.choice(([], [], ["sharp=2.5"], ["sharp=.5"]))], False
    ties = a.rng.choice(("mean", "mean", "latest", "first"))
    if a.code not in ("onehot", "quadratic") and not a.strays():
        ties = "mean"  # only these two can write a recency
    if ties != "mean":
        given.append(f"ties={ties!r}")
        if a.chance(0.3):
            given.append(f"recency={a.rng.choice((0.05, 0.1, 0.2, 0.4))}")
            a.use("declared recency")
    if a.chance(0.05) and all(one.holds == "one" for pair in pairs for one in pair):
        given.append("gap=.05")  # weights are such that no two scores are nearer
        a.use("declared gap")
    if a.chance(0.05):
        given.append("sharp=2000")
        a.use("declared sharp")
    a.use(f"ties {ties}")
    by_place = len(pairs) == 1 and qk.startswith(("match(c.pos, c.pos)", "match(c.pos, c.pos, shift("))
    return given, ties != "mean" or (by_place and rests)


def _copied(
    a: Author, source: Held, layer: int, single: bool, last: bool, soft: bool
) -> tuple[str, list[tuple[Held, float]]]:
    """An OV circuit, and what it writes when."""
    a.use(*["composition of values"] * source.late)
    if last or a.chance(0.3):
        terms = []
        for _ in range(a.rng.choice((1, 1, 1, 2))):
            weight = a.rng.choice(WEIGHTS) if a.chance(0.5) else 1.0
            relation = a.relation(source, a.out)
            terms.append(a.term("copy", source, a.out, relation + _dropped(a, source, relation), weight))
        a.use(*["several copies"] * (len(terms) > 1))
        return " + ".join(terms), [(a.out, layer)]
    weight = a.rng.choice((2.0, 0.5, -1.0)) if source.holds != "states" and a.chance(0.1) else 1.0
    target, relation = _destination(a, source, single, promising=weight == 1 and not soft)
    relation += _dropped(a, source, relation)
    if weight != 1:
        target.holds = "numbers"
    target.values = None if soft else _values(a, source, target, single, weight)
    target.able |= a.moved(source, target, relation)
    return a.term("copy", source, target, relation, weight), [(target, layer)]


def _destination(a: Author, source: Held, single: bool, promising: bool) -> tuple[Held, str]:
    """Where a head writes that does not write the prediction: its space, and the relation of the copy."""
    old = [one for one in a.spaces if one.late and one is not a.out]
    if old and a.strays():
        target = a.rng.choice(old)  # a second writer
        return target, a.relation(source, target, one_to_one=True)
    holds = source.holds if single else "shares" if source.holds == "one" else "numbers"
    promise = ""
    if source.holds == "one" and promising and a.chance(0.2):
        promise = f", holds={holds!r}"
        a.use(f"holds {holds}")
        holds = "promised shares" if holds == "shares" else holds
    if a.chance(0.6):
        target = a.space(source.name, source.labels, holds, promise)
        return target, "" if source.holds == "states" else a.relation(source, target, one_to_one=True)
    labels = a.rng.choice((["x", "y"], ["n"], [0, 1, 2]))
    target = a.space(repr(labels), labels, "numbers" if source.holds == "states" else holds, promise)
    return target, a.relation(source, target, one_to_one=True)


def _values(a: Author, source: Held, target: Held, single: bool, weight: float) -> tuple[float, ...] | None:
    """The numbers that can arrive at a coordinate, where all that is copied is one label or none."""
    if source.holds != "one" or source.values is None:
        return source.values if single and weight == 1 and source.holds == target.holds else None
    keys = (1,) if single else range(1, a.n_ctx + 1)
    return tuple(sorted({weight * part / n for n in keys for part in range(n + 1)}))


def _dropped(a: Author, source: Held, relation: str) -> str:
    if not a.chance(0.3):
        return ""
    a.use("drop")
    leaves = len(source.labels) > 1 and (not relation or "lambda" in relation)
    return f", drop={a.rng.choice(source.labels)!r}" if leaves or a.chance(0.05) else ", drop=()"
