"""Checks: what a declaration promises and cannot keep, and what in it does nothing."""

import itertools
from collections.abc import Iterator

from circuits.language.holdings import Conditions, Held, Holdings
from circuits.language.layers import read_spaces, written_spaces
from circuits.language.layout import Layout, time_of
from circuits.language.neurons import key_as_written
from circuits.language.parts import Head, Neurons, Part
from circuits.language.space import Space, listed
from interp.errors import ConfigError

WAYS = (
    "let the head that writes it attend to one key (ties='latest' or 'first'), or, if texts never make it so, declare "
    "the space with holds='one'"
)


def check_sound(holdings: Holdings) -> None:
    """Raise `ConfigError`, naming the reader, if a head that chooses or a table may read more than one label.

    Also if a bucket may read a number so large that its gate does not keep it shut. A source is checked by itself.
    """
    for part in holdings.declaration.parts:
        if isinstance(part, Head):
            _check_head(part, holdings)
        else:
            _check_neurons(part, holdings)


def _check_head(head: Head, holdings: Holdings) -> None:
    if head.attend == "soft" or head.trusted:
        return
    of_keys, time = holdings.of_keys(head)
    queries = {term.rows.name: (term.rows, holdings, time_of(head)) for term in head.qk.terms}
    keys = {term.columns.name: (term.columns, of_keys, time) for term in head.qk.terms}
    for space, whose, when in (*queries.values(), *keys.values()):
        held = whose.at(space, when)
        if held.kind == "one" or (held.kind == "shares" and whose.declaration.holds.get(space.name) == "shares"):
            continue
        raise ConfigError(
            f"{head.title} matches space {space.name!r}, which may hold {_amount(held)}: {held.why}; {WAYS}, "
            "with holds='shares', or give the head gap="
        )


def _check_neurons(part: Neurons, holdings: Holdings) -> None:
    time = time_of(part)
    reads = part.table.reads if part.table is not None else tuple({one.space: None for one in part.gate})
    for space in reads:
        _check_states(part, space)
        held = holdings.at(space, time)
        if held.kind != "one":
            does = "looks up" if part.table is not None else "has its gate in"
            raise ConfigError(
                f"{part.title} {does} space {space.name!r}, which may hold {_amount(held)}: {held.why}; {WAYS}"
            )
    _check_gates(part, holdings)
    for reach in part.reach:
        lowest, highest = holdings.reach(reach.number, time) if reach.inferred else (reach.low, reach.high)
        if lowest < reach.low - 1e-9 or highest > reach.high + 1e-9:
            raise ConfigError(
                f"{part.title} reads a number from {reach.low:g} to {reach.high:g}, as was declared before it, and by "
                f"what was declared later it may lie between {lowest:g} and {highest:g}; declare it last, or give "
                "over=(low, high)"
            )
    always_open = {one.space.name for one in part.gate} == {holdings.declaration.one.name}
    for reach in part.reach if part.gate and not always_open else ():
        highest = holdings.reach(reach.number, time)[1]
        if highest >= reach.high:
            raise ConfigError(
                f"{part.title}: the number it reads may be {highest:g}, and its gate keeps it shut below "
                f"{reach.high:g} only; scale the number, or give values that reach as far"
            )


def _check_states(part: Neurons, space: Space) -> None:
    """A table and a gate read labels that are there or not; dense vectors of features hold them by halves."""
    several = part.table is not None and part.table.summed
    for state in space.states:
        if set(state) - {0.0, 1.0} or (sum(state) > 1 and not several):
            raise ConfigError(
                f"{part.title} reads space {space.name!r} label by label, and that may hold the features "
                f"{listed(state)}; declare a space of labels, or match it in a head"
            )


def _check_gates(part: Neurons, holdings: Holdings) -> None:
    """A gate in several spaces may be open in one of them at a time: each adds what the neurons are shut by."""
    open_at: dict[Space, Conditions] = {}
    for space in dict.fromkeys(one.space for one in part.gate):
        labels = frozenset(space.index(one.label) for one in part.gate if one.space == space)
        open_at[space] = {**holdings.at(space, time_of(part)).when, space.name: labels}
    for (space, one), (other, beside) in itertools.combinations(open_at.items(), 2):
        if not any(not labels & beside[name] for name, labels in one.items() if name in beside):
            raise ConfigError(
                f"{part.title} has its gate in spaces {space.name!r} and {other.name!r}, and both may be open at a "
                "position; let a table write one label where either is, and give that as gate="
            )


def _amount(held: Held) -> str:
    return "shares of several labels" if held.kind == "shares" else "more than one label, or numbers"


def check_alive(layout: Layout) -> None:
    """Raise `ConfigError`, naming it, for what was declared and does nothing.

    That is a space that nothing writes or reads, a part whose writing nobody reads, an entry of a table that can never
    fire, and a source that no cross head reads.

    >>> from circuits import Circuit
    >>> c = Circuit(vocab="ab", n_ctx=3)
    >>> check_alive(Layout(c))
    Traceback (most recent call last):
    interp.errors.ConfigError: the unembedding reads space 'out', which nothing writes
    """
    c = layout.declaration
    if layout.source is not None:
        if not any(head.cross for head in c.heads):
            raise ConfigError("the source is read by nothing; declare a cross head, or a Circuit without a source")
        check_alive(layout.source)
    own = {c.tok.name, c.pos.name, c.one.name, c.out.name}
    read_at_the_end = layout.read_at_the_end
    for name, space in c.spaces.items():
        if name not in own and name not in read_at_the_end and not any(name in read_spaces(part) for part in c.parts):
            by = [part.title for part in c.parts if name in written_spaces(part)]
            writers = f", though {' and '.join(by)} writes it" if by else ""
            ways = "leave it out, or declare it with c.readout if it is an answer"
            raise ConfigError(f"space {space.name!r} is read by nothing{writers}; {ways}")
    for part in c.parts:
        _check_read_later(part, layout, read_at_the_end)
    holdings = Holdings(layout)
    for part in c.parts:
        if isinstance(part, Neurons):
            for entry, space, held in _never(part, holdings):
                able = [label for label, there in zip(space.labels, held.support.tolist(), strict=True) if there]
                raise ConfigError(
                    f"{part.title}: entry {entry} never fires, because space {space.name!r} holds "
                    f"{listed(able) if able else 'nothing'} there; leave it out, or give the table as a function"
                )


def _check_read_later(part: Part, layout: Layout, read_at_the_end: set[str]) -> None:
    writes = written_spaces(part)
    if not writes:
        raise ConfigError(f"{part.title} copies nothing; give it ov=")
    later = [other for other in layout.declaration.parts if time_of(other) > time_of(part)]
    if not writes & read_at_the_end and not any(writes & read_spaces(other) for other in later):
        written = f"{part.title} in layer {part.layer} writes {listed(sorted(writes))}"
        raise ConfigError(f"{written}, which nothing reads after it; give it an earlier layer, or none")


def _never(part: Neurons, holdings: Holdings) -> Iterator[tuple[str, Space, Held]]:
    """Entries that were listed and cannot fire, with the space that never holds what they ask for."""
    if part.table is None or not part.table.listed:
        return
    held = [holdings.at(space, time_of(part)) for space in part.table.reads]
    for entry in part.table.entries:
        for space, one, label in zip(part.table.reads, held, entry.key, strict=True):
            if isinstance(label, str | int) and not one.support[space.index(label)]:
                yield key_as_written(entry.key), space, one
