"""The author of random circuits: what it knows of the spaces it has declared, and how it says relations between them.

An author writes lines. It keeps to the rules of the language, unless it is wild: then it breaks one now and then.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from circuits.compiler import CODES

WILD = 0.25
"""The share of authors that may break a rule."""

WEIGHTS = (1.0, 1.0, 1.0, 0.5, 2.0, 0.6, -1.0, -0.5, -2.0)
"""What terms are multiplied by. Scores are multiples of .05 then, and so are the gaps between them."""

EVERYTHING = ("one", "states", "shares", "promised shares", "numbers")
"""What a space can hold."""

FUNCTIONS: dict[str, Callable[[Any, Any], float]] = {
    "a != b": lambda a, b: a != b,
    "str(a) <= str(b)": lambda a, b: str(a) <= str(b),
    ".5 * (str(a) >= str(b))": lambda a, b: 0.5 * (str(a) >= str(b)),
    "(a == b) - 1.5": lambda a, b: (a == b) - 1.5,
}
"""Relations of two labels, by how they are said."""

Labels = Sequence[str | int]


@dataclass(eq=False)
class Held:
    """A space as the author knows it.

    Attributes:
        name: how the program calls it.
        labels: its labels.
        holds: "one" label or none, "states" that are known, "shares" of labels ("promised shares" where the program
            declares them), or any "numbers".
        values: the numbers that a coordinate can be; None where there are too many.
        able: the labels that can be there.
        written: when each of its writers writes: -1 for the embedding, for neurons half a step later than for heads.
    """

    name: str
    labels: Labels
    holds: str = "one"
    values: tuple[float, ...] | None = (0.0, 1.0)
    able: set[str | int] = field(default_factory=set)
    written: list[float] = field(default_factory=lambda: [-1.0])

    @property
    def embedded(self) -> bool:
        """Whether it is there before the first layer."""
        return -1.0 in self.written

    @property
    def since(self) -> float:
        """When it is first written; infinite before that."""
        return min(self.written, default=float("inf"))

    @property
    def late(self) -> bool:
        """Whether a part writes it first."""
        return 0 <= self.since < float("inf")


@dataclass(eq=False)
class Line:
    """A line of the program.

    Attributes:
        text: as it is written.
        declares: the space that it declares, if it does.
        reads: the spaces that it reads, when, and what it does with them.
        writes: the spaces that it writes, and when.
        features: what of the language it uses.
    """

    text: str
    declares: Held | None = None
    reads: list[tuple[Held, float, str]] = field(default_factory=list)
    writes: list[tuple[Held, float]] = field(default_factory=list)
    features: set[str] = field(default_factory=set)


class Author:
    """Writes one program."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.wild = rng.random() < WILD
        self.doubts: set[str] = set()
        self.lines: list[Line] = []
        self._features: set[str] = set()
        self._reads: list[tuple[Held, float, str]] = []
        self.n_ctx = rng.randint(1, 7) if self.chance(0.95) else rng.randint(8, 24)
        words = ("!abcd" if self.chance(0.6) else "abcde")[: rng.randint(2, 5)]
        self.bos = words[0] if words[0] == "!" else None
        self.bidirectional, self.tied = self.chance(0.35), self.chance(0.15)
        self.code = rng.choice(("onehot", "onehot", "onehot", *CODES))
        self.tok, self.pos = Held("c.tok", words, able=set(words)), Held("c.pos", range(self.n_ctx))
        self.pos.able = set(self.pos.labels)
        self.one = Held("c.one", ["1"], values=(1.0,), able={"1"})
        self.out = self.tok if self.tied else Held("c.out", words, "numbers", None, written=[])
        self.spaces = [self.tok, self.pos, self.one]
        self.use("bidirectional" if self.bidirectional else "causal", "bos" if self.bos else "no bos")
        self.use(f"n_ctx {self.n_ctx}" if self.n_ctx < 8 else "n_ctx 8 or more", *["tied"] * self.tied)
        given = [repr(words), str(self.n_ctx)] + [f"bos={self.bos!r}"] * (self.bos is not None)
        given += ['attention_dir="bidirectional"'] * self.bidirectional + ["tied=True"] * self.tied
        self.write(f"c = Circuit({', '.join(given)})")

    # ------------------------------------------------------------------ choices

    def chance(self, p: float) -> bool:
        """True with this probability."""
        return self.rng.random() < p

    def strays(self, p: float = 0.25) -> bool:
        """Whether a rule is broken here."""
        return self.wild and self.chance(p)

    def some(self, of: Iterable[Any]) -> list[Any]:
        """One or more of them, in any order."""
        given = list(of)
        return self.rng.sample(given, self.rng.randint(1, len(given)))

    def known(self, *holds: str) -> list[Held]:
        """Spaces that are written and hold one of these; any, in a program that strays."""
        wanted = [one for one in self.spaces if one.written and (one.holds in holds or self.strays(0.1))]
        if self.code != "onehot" and not self.strays():
            wanted = [one for one in wanted if one is not self.pos]  # a low-rank code can write shifts only
        late = [one for one in wanted if one.late or one.name[0] == "e"]
        return late if late and self.chance(0.6) else wanted

    def layer(self, spaces: Iterable[Held], half: float) -> tuple[int, bool]:
        """The earliest layer where these can be read, by a head or by neurons, or one soon after; whether to say it."""
        first = max((int(one.since + 1 - half) for one in spaces if one.late), default=0)
        if self.strays(0.1):
            return self.rng.randint(0, 2), True
        if self.chance(0.4):
            self.use("no layer given")
            return first, False
        return first + (self.chance(0.15) if first < 4 else 0), True

    # ------------------------------------------------------------------ lines

    def use(self, *features: str) -> None:
        """Note what the next line uses."""
        self._features.update(features)

    def noted(self) -> set[str]:
        """What is used that no line has yet."""
        return self._features

    def read(self, space: Held, at: float, how: str) -> str:
        """Note what the next line reads, and what it does with it. Returns how the program calls the space."""
        self._reads.append((space, at, how))
        return space.name

    def write(self, text: str, writes: Iterable[tuple[Held, float]] = (), declares: Held | None = None) -> None:
        """Add a line, which has what was noted since the last one."""
        line = Line(text, declares, self._reads, list(writes), self._features)
        self._reads, self._features = [], set()
        for space, at in line.writes:
            space.written.append(at)
        self.lines.append(line)

    def space(self, said: str, labels: Labels, holds: str = "one", promise: str = "") -> Held:
        """Another space; `said` is how the program says its labels, `promise` what it is declared to hold."""
        name = f"s{sum(line.declares is not None for line in self.lines)}"
        space = Held(name, labels, holds, written=[])
        self.lines.append(Line(f"{name} = c.space({name!r}, {said}{promise})", space))
        self.spaces.append(space)
        return space

    def embed(self) -> None:
        """A space that the embedding writes."""
        name = f"e{sum(line.declares is not None for line in self.lines)}"
        words = self.some(self.tok.labels)
        if self.chance(0.5):
            labels = self.rng.choice(("xy", "xyz", (0, 1, 2)))
            table: dict[Any, Any] = {word: self.rng.choice(labels) for word in words}
            space = Held(name, list(dict.fromkeys(table.values())))
            self.use("embedded labels")
        else:
            width = self.rng.randint(1, 3)
            table = {word: [self.rng.choice((0.0, 1.0, 0.5, -1.0, 2.0)) for _ in range(width)] for word in words}
            values = sorted({0.0, *(x for row in table.values() for x in row)})
            space = Held(name, range(width), "states", tuple(values))
            self.use("embedded features")
        space.able = set(space.labels)
        self.spaces.append(space)
        self.write(f"{name} = c.embed({name!r}, {table!r})", declares=space)

    def vectors(self) -> None:
        """A space of numbers that the user gives."""
        name = f"e{sum(line.declares is not None for line in self.lines)}"
        space = Held(name, range(self.rng.randint(1, 2)), "numbers", None, set(range(2)))
        self.use("vectors")
        self.spaces.append(space)
        self.write(f"{name} = c.vectors({name!r}, {len(space.labels)}, over=(-1, 1))", declares=space)

    # ------------------------------------------------------------------ relations

    def relation(self, rows: Held, columns: Held, one_to_one: bool = False) -> str:
        """A third argument for match or copy, with its comma; empty for "the same"."""
        kind = self._kind_of_relation(rows, columns, one_to_one)
        self.use(f"relation {kind}")
        if kind == "same":
            return ""
        if kind == "shift":
            anchored = self.code == "onehot" or self.bos or self.strays()  # else some query has no key at this distance
            far = self.rng.choice((1, 1, 2, -1, 3, 0)) if anchored else 0
            return f", shift({far if abs(far) < len(rows.labels) or self.chance(0.05) else 0})"
        if kind == "function":
            said = [f for f in FUNCTIONS if any(FUNCTIONS[f](a, b) for a in rows.labels for b in columns.labels)]
            return f", lambda a, b: {self.rng.choice(said)}"
        if kind == "matrix":
            matrix = [[self.rng.choice((0, 0, 1, 1, 0.5, -1, 2)) for _ in columns.labels] for _ in rows.labels]
            matrix[-1][-1] = matrix[-1][-1] or 1
            return f", {matrix}"
        related = {}
        for label in self.some(rows.labels):
            several = not one_to_one and self.chance(0.3)
            related[label] = self.some(columns.labels) if several else self.rng.choice(columns.labels)
            self.use(*["one to many"] * several)
        return f", {related}"

    def _kind_of_relation(self, rows: Held, columns: Held, one_to_one: bool) -> str:
        if self.code != "onehot" and rows is columns is self.pos and not self.strays():
            return "shift"
        kinds = ["mapping"] if one_to_one else ["mapping", "mapping", "function", "matrix"]
        if set(rows.labels) == set(columns.labels):
            kinds += ["same"] * 4 + ["shift"] * (3 if rows is self.pos else 1)
        return self.rng.choice(kinds)

    def term(self, verb: str, rows: Held, columns: Held, relation: str, weight: float = 1.0) -> str:
        """A term of a form, with the factor in front."""
        factor = "" if weight == 1 else f"{weight:g} * "
        self.use(*["weighted"] * (weight != 1), *["negative"] * (weight < 0))
        return f"{factor}{verb}({rows.name}, {columns.name}{relation})"

    def moved(self, source: Held, target: Held, relation: str) -> set[str | int]:
        """The labels that a copy with this relation can bring."""
        said = relation.partition(", drop")[0].removeprefix(", ")
        if not said:
            return source.able & set(target.labels)
        if said.startswith("{"):
            pairs: dict[Any, Any] = eval(said)  # the author's own words
            several = [[to] if isinstance(to, str | int) else to for label, to in pairs.items() if label in source.able]
            return {to for ones in several for to in ones}
        return set(target.labels)
