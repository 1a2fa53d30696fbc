"""Random circuits, as short programs: most of them well formed, some wrong on purpose.

`random_circuit` draws a program, whose lines are those of `Circuit` and nothing else, so that a failure prints what
repeats it. `random_author.py`, `random_heads.py` and `random_parts.py` write the lines, and `circuit_oracle.py` holds
what a program compiles to against the interpreter. As a command, this file does so for thousands of programs and counts
what came of them:

    python tests/circuits/random_circuits.py 2000 --seed 7
"""

import argparse
import random
import re
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from typing import Any

import random_heads
import random_parts
import torch
from circuit_oracle import DTYPES, Verdict, compare
from random_author import Author

from circuits import Circuit, Space, copy, match, shift
from circuits.compiler import Distract, Noise
from interp.errors import InterpError

BLUNDERS = (
    'c.head(0, "wrong", qk=match(c.tok, c.pos, {"?": 0}), ov=copy(c.tok, c.out))',
    'c.head(0, "wrong", qk=match(c.tok, c.tok, {"?": "a"}), ov=copy(c.tok, c.out))',
    'c.head(0, "wrong", ov=copy(c.tok, c.out), ties="mean", recency=.1)',
    'c.head(-1, "wrong", ov=copy(c.tok, c.out))',
    'c.head(0, "wrong", qk=match(c.tok, c.tok), ov=copy(c.tok, c.out), ties="latest", recency=3)',
    'c.mlp(0, "wrong", c.tok, c.out, {})',
    'c.mlp(0, "wrong", c.tok, c.out, {("a", "b"): "a"})',
    'c.bucket(0, "wrong", c.tok, c.out, {"a": 0})',
    'c.head(0, "wrong", ov=copy(c.space("never", "xy"), c.out, {"x": "a"}))',
    'c.bucket(0, "wrong", c.one, c.out, {"a": 0, "b": 0})',
)
"""Lines that have to be refused."""


@dataclass(frozen=True)
class Program:
    """A circuit as the lines that declare it.

    Attributes:
        lines: what declares the circuit `c`.
        options: what it is compiled with.
        features: what of the language it uses.
        doubts: which rules it breaks, if any. A program with doubts may be refused, and must agree if it is not.
    """

    lines: tuple[str, ...]
    options: dict[str, Any]
    features: frozenset[str]
    doubts: frozenset[str]

    def circuit(self) -> Circuit:
        """The circuit that the lines declare. Raises what its declarations raise."""
        names: dict[str, Any] = {"Circuit": Circuit, "Space": Space, "copy": copy, "match": match, "shift": shift}
        exec("\n".join(self.lines), names)
        return names["c"]

    def verdict(self, dtype: torch.dtype, rng: random.Random, at_most: int) -> Verdict:
        """What comes of it in a dtype, on so many texts of a length at most."""
        try:
            circuit = self.circuit()
        except InterpError as error:
            return Verdict("refused", f"{type(error).__name__}: {error}")
        return compare(circuit, self.options, dtype, rng, at_most)

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        imported = ["from circuits import Circuit, copy, match, shift"]
        if "fill" in self.options or "distract" in self.options:
            imported.append("from circuits.compiler import Distract, Noise")
        doubts = [f"# {doubt}" for doubt in sorted(self.doubts)]
        return "\n".join([*imported, *self.lines, f"model = c.compile({options})", *doubts])


def random_circuit(rng: random.Random) -> Program:
    """A program of one to six parts."""
    author = Author(rng)
    for _ in range(rng.choice((0, 0, 1, 2))):
        author.embed()
    if author.chance(0.12):
        author.vectors()
    n_parts = rng.choice((1, 1, 2, 2, 3, 3, 4, 5, 6))
    kinds = [random_heads.head, random_parts.mlp, random_parts.bucket, random_parts.function, random_parts.product]
    kinds += [random_parts.count] * (author.bos is not None)
    for part in range(n_parts):
        write = rng.choices(kinds, (12, 6, 4, 1, 1, 2)[: len(kinds)])[0]
        write(author, f"{write.__name__} {part}", part == n_parts - 1)
    if author.chance(0.15):
        random_parts.direct(author)
    if author.strays(0.1):
        author.doubts.add("a blunder")
        author.write(rng.choice(BLUNDERS))
    _use_everything(author)
    _judge(author)
    options = _options(author)
    lines = _scoped(author, [line.text for line in author.lines])
    features = frozenset().union(*(line.features for line in author.lines), author.noted())
    return Program(tuple(lines), options, features, frozenset(author.doubts))


def _use_everything(author: Author) -> None:
    """Leave out what nothing reads, or make it an answer, unless the author strays."""
    while True:
        read = {space for line in author.lines for space, _, _ in line.reads}
        idle = [
            line for line in author.lines if line.declares and line.declares not in read and "readout" not in line.text
        ]
        if idle and author.strays(0.05):
            author.doubts.add("something is idle")
        if not idle or "something is idle" in author.doubts:
            return
        line = idle[-1]
        writers = [one for one in author.lines if any(space is line.declares for space, _ in one.writes)]
        alone = all(len(one.writes) == 1 for one in writers)
        if "c.space(" in line.text and "holds=" not in line.text and writers and not (alone and author.chance(0.6)):
            line.text = line.text.replace("c.space(", "c.readout(")
            line.features.add("readout")
            continue
        author.lines = [one for one in author.lines if one is not line and one not in writers]


def _judge(author: Author) -> None:
    """Note what is read that is not surely one label or one of some known states."""
    writers: dict[Any, list[float]] = {}
    for line in author.lines:
        for space, at in line.writes:
            writers.setdefault(space, []).append(at)
    for line in author.lines:
        if "holds=" in line.text and len(writers.get(line.declares, ())) > 1:
            author.doubts.add("a promise may not be kept")
    for features, (space, at, how) in [(line.features, read) for line in author.lines for read in line.reads]:
        waits = "no layer given" in features and space is not author.tok  # for all that write what it reads
        before = space.embedded + sum(waits or time < at for time in writers.get(space, ()))
        needed = {"matched": ("one", "states", "promised shares"), "looked up": ("one",), "a gate": ("one",)}
        if before > 1 and (how in needed or how == "a number"):
            author.doubts.add(f"a space of two writers is {how}")
        elif space.holds not in needed.get(how, (space.holds,)):
            author.doubts.add(f"{space.holds} are {how}")


def _scoped(author: Author, lines: list[str]) -> list[str]:
    """The lines, some of them in a scope."""
    if not author.chance(0.15):
        return lines
    author.use("scope")
    first = author.rng.randrange(1, len(lines))
    last = author.rng.randrange(first, len(lines)) + 1
    return [*lines[:first], "with c.scope('inner'):", *(f"    {line}" for line in lines[first:last]), *lines[last:]]


def _options(author: Author) -> dict[str, Any]:
    """What the program is compiled with."""
    rng, options = author.rng, {}
    if author.code != "onehot":
        options["positions"] = author.code
    if author.chance(0.3):
        options["norm"] = rng.choice(("LN", "RMS"))
        large = any(line.features & {"function", "product"} for line in author.lines)
        if large or author.chance(0.3):
            options["ballast"] = 1e4
    if author.chance(0.3):
        options["rotate"] = rng.randint(0, 9)
        if author.chance(0.5):
            options["d_model"] = 2 * rng.randint(20, 60)
    if author.chance(0.2):
        options["n_heads"] = rng.randint(2, 6)
    if author.chance(0.2):
        options["d_head"] = rng.choice((3, 10, 30, 80))
    if author.chance(0.1):
        options["attn_scale"] = rng.choice((1.0, 8.0))
    if author.chance(0.05):
        options["attn_only"] = False
    _hidden(author, options)
    author.use(f"positions {author.code}", f"norm {options.get('norm')}")
    author.use(*(name for name in options if name not in ("positions", "norm")))
    return options


def _hidden(author: Author, options: dict[str, Any]) -> None:
    """A larger model around the circuit, and ramps through which gradients flow."""
    rng = author.rng
    if author.chance(0.12):
        options["fill"] = Noise(std=rng.choice((0.05, 0.3)), seed=rng.randint(0, 99))
    if author.chance(0.08):
        options["distract"] = Distract(heads=rng.randint(1, 4), seed=rng.randint(0, 99))
    if author.chance(0.1):
        options["n_layers"] = rng.randint(4, 8)
    if author.chance(0.05):
        options["d_mlp"] = rng.choice((30, 200))
    if author.chance(0.1) and not author.doubts:  # slack passes on how far a number is from those of the labels
        options["slack"] = rng.choice((0.1, 0.5))


# ---------------------------------------------------------------------- the command


def kind_of(said: str) -> str:
    """A message without what differs from one program to the next, so that refusals can be counted."""
    plain = re.sub(r"'[^']*'|\([^()]*\)|-?\d[\d.e+-]*|\b[es]\d+\b", "_", said)
    return re.split(r"; (?:allowed|use|say|declare|give|let|raise|split)", plain)[0][:120]


def main() -> int:
    """Draw programs, compare each in every dtype, and print what came of them. Returns 1 after a disagreement."""
    parser = argparse.ArgumentParser(description="Draw random circuits, and hold each to its interpreter.")
    parser.add_argument("n", type=int, help="how many programs")
    parser.add_argument("--seed", type=int, default=None, help="of the first; by default another one each time")
    parser.add_argument("--texts", type=int, default=100, help="of each length, at most")
    given = parser.parse_args()
    first = random.SystemRandom().randrange(2**31) if given.seed is None else given.seed
    counts, refusals, features = Counter[str](), Counter[str](), Counter[str]()
    start = time.perf_counter()
    for seed in range(first, first + given.n):
        program = random_circuit(random.Random(seed))
        sort = "doubtful" if program.doubts else "sound"
        for dtype in DTYPES:
            try:
                verdict = program.verdict(dtype, random.Random(seed), given.texts)
            except Exception:
                verdict = Verdict("crashes", traceback.format_exc(limit=-2))
            counts[f"{sort} {verdict.kind} in {dtype}"] += 1
            if verdict.kind == "agrees":
                features.update(program.features)
            elif verdict.kind == "refused":
                refusals[f"{sort}: {kind_of(verdict.said)}"] += dtype == DTYPES[0]
            elif not (verdict.kind == "broken" and program.doubts):
                print(f"\n# seed {seed}, {dtype}: {verdict.kind}, {verdict.said}\n{program}", flush=True)
        if (done := seed - first + 1) % 200 == 0:
            print(f"# {done} of {given.n} after {time.perf_counter() - start:.0f} s", flush=True)
    print(f"\nseed {first}, {given.n} programs")
    for said, counted in (*sorted(counts.items()), ("refused:", 0), *refusals.most_common()):
        print(f"{counted:6d}  {said}")
    print("features:", ", ".join(f"{name} {counted}" for name, counted in sorted(features.items())))
    return int(any(not re.search("agrees|refused|doubtful broken", said) for said in counts))


if __name__ == "__main__":
    raise SystemExit(main())
