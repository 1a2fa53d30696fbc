"""Programs of Tracr's library, beside Tracr: layers, width, seconds to compile, and how many answers are right.

Run: python tests/benchmarks/programs.py                       this side, and Tracr's where it is installed
     python tests/benchmarks/programs.py --python PYTHON       Tracr's side in another environment's Python

Every program is compiled for texts of up to 8 words, and for up to 40. Answers are counted on random texts, the same
for both: at positions where something is to be said, and at those where nothing is, since a head finds no match there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from source_lines import n_lines

if TYPE_CHECKING:
    from rich.table import Table

    from circuits import Space

Answer = Any  # a word, a count, true or false, a share, None for nothing; ... where it does not matter
SHORT, LONG = 8, 40
N_SHORT, N_LONG = 100, 10
PATIENCE = 120
"""Seconds that a program may take to compile and run."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Task:
    """A program: which words its texts have, and what is right at each.

    Attributes:
        alphabet: the words, in order.
        reference: the right answer for each word of a text.
        distinct: whether all words of a text are different.
    """

    alphabet: Sequence[str]
    reference: Callable[[Sequence[str]], list[Answer]]
    distinct: bool = False

    def texts(self, n: int, least: int, most: int, seed: int = 0) -> list[list[str]]:
        """Random texts of `least` to `most` words."""
        drawn = random.Random(seed)
        lengths = [drawn.randint(least, most) for _ in range(n)]
        draw = drawn.sample if self.distinct else lambda words, k: drawn.choices(words, k=k)
        return [list(draw(self.alphabet, length)) for length in lengths]


def dyck(text: Sequence[str]) -> list[Answer]:
    depths = [text[: i + 1].count("(") - text[: i + 1].count(")") for i in range(len(text))]
    return [min(depths) >= 0 and depths[-1] == 0] * len(text)


TASKS = {
    "length": Task("ab", lambda text: [len(text)] * len(text)),
    "hist": Task("abcd", lambda text: [text.count(word) for word in text]),
    "count_less_freq": Task("abcd", lambda text: [sum(text.count(word) <= 2 for word in text)] * len(text)),
    "frac_prevs": Task("xy", lambda text: [text[: i + 1].count("x") / (i + 1) for i in range(len(text))]),
    "shuffle_dyck": Task("()", dyck),
    "reverse": Task("abcd", lambda text: list(reversed(text))),
    "shift_by": Task("abcd", lambda text: [text[i - 2] if i > 1 else None for i in range(len(text))]),
    "detect_pattern": Task("abc", lambda text: [... if i < 2 else list(text[i - 2 : i + 1]) == list("abc")
                                                for i in range(len(text))]),
    "sort_unique": Task(LETTERS, sorted, distinct=True),
    "sort": Task("abcd", sorted),
    "sort_freq": Task("abcd", lambda text: sorted(text, key=lambda word: -text.count(word))),
}  # fmt: skip


@dataclass
class Measured:
    """What one side makes of a program, for texts up to a length.

    Attributes:
        lines: of the library's functions that it is made of.
        layers, width: of the model; width is that of its residual stream.
        seconds: to compile.
        right, asked: positions with an answer.
        silent, empty: positions where nothing is to be said, and where nothing was.
        failed: why there are no numbers.
    """

    task: str
    length: int
    lines: int = 0
    layers: int = 0
    width: int = 0
    seconds: float = 0.0
    right: int = 0
    asked: int = 0
    silent: int = 0
    empty: int = 0
    failed: str = ""

    def count(self, expected: Sequence[Answer], got: Sequence[Answer]) -> None:
        """Add what was answered for a text."""
        pairs = [(one, other) for one, other in zip(expected, got, strict=True) if one is not ...]
        agree = [same(one, other) for one, other in pairs]
        asked = [one is not None for one, _ in pairs]
        self.right += sum(a for a, b in zip(agree, asked, strict=True) if b)
        self.asked += sum(asked)
        self.silent += sum(a for a, b in zip(agree, asked, strict=True) if not b)
        self.empty += len(asked) - sum(asked)


def same(expected: Answer, got: Answer) -> bool:
    """Whether an answer is right; shares within a thousandth."""
    if expected is None or got is None:
        return expected is got
    return abs(expected - got) < 1e-3 if isinstance(expected, float) else bool(expected == got)


Runs = Callable[[Sequence[str]], Sequence[Answer]]
Compiled = tuple[int, int, Runs]
"""Layers, width, and what answers a text."""


def measure(task: str, length: int, compile: Callable[[str, int], Compiled]) -> Measured:
    """Compile a program and run it, or say what went wrong."""

    def late(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"over {PATIENCE} s")

    found = Measured(task, length)
    texts = TASKS[task].texts(N_SHORT, 1, length) if length == SHORT else TASKS[task].texts(N_LONG, length, length)
    signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        start = time.perf_counter()
        found.layers, found.width, runs = compile(task, length)
        found.seconds = time.perf_counter() - start
        for text in texts:
            found.count(TASKS[task].reference(text), runs(text))
    except Exception as error:  # whatever the other side raises is its result
        found.failed = f"{type(error).__name__}: {error}"[:100]
    finally:
        signal.alarm(0)
    return found


# ---------------------------------------------------------------------- Tracr


def compile_tracr(task: str, length: int) -> Compiled:
    """The program of Tracr's library."""
    from tracr.compiler import compiling, lib  # pyright: ignore[reportMissingImports]
    from tracr.rasp import rasp  # pyright: ignore[reportMissingImports]

    letters = TASKS[task].alphabet
    words: dict[str, Any] = {word: i + 1 if task == "sort" else word for i, word in enumerate(letters)}
    back = {value: word for word, value in words.items()}  # its sort of equal words takes numbers
    program = {
        "length": lambda: lib.make_length(),
        "hist": lambda: lib.make_hist(),
        "count_less_freq": lambda: lib.make_count_less_freq(2),
        "frac_prevs": lambda: lib.make_frac_prevs(rasp.tokens == "x"),
        "shuffle_dyck": lambda: lib.make_shuffle_dyck(["()"]),
        "reverse": lambda: lib.make_reverse(rasp.tokens),
        "shift_by": lambda: lib.shift_by(2, rasp.tokens),
        "detect_pattern": lambda: lib.detect_pattern(rasp.tokens, list("abc")),
        "sort_unique": lambda: lib.make_sort_unique(rasp.tokens, rasp.tokens),
        "sort": lambda: lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=length, min_key=1),
        "sort_freq": lambda: lib.make_sort_freq(length),
    }[task]()
    model = compiling.compile_rasp_to_model(program, vocab=set(words.values()), max_seq_len=length, compiler_bos="BOS")

    def runs(text: Sequence[str]) -> list[Answer]:
        decoded = model.apply(["BOS", *(words[word] for word in text)]).decoded[1:]
        return [back.get(one, one) if task == "sort" else one for one in decoded]

    width = model.params["token_embed"]["embeddings"].shape[1]
    return model.model_config.num_layers, width, runs


# ---------------------------------------------------------------------- this side


def compile_ours(task: str, length: int) -> Compiled:
    """The program of `circuits.library`."""
    import torch

    from circuits import Circuit, copy, library

    alphabet = list(TASKS[task].alphabet)
    counts = [str(n) for n in range(length + 1)]
    said = counts if task in ("length", "hist", "count_less_freq") else ["yes", "no", "%"]
    causal = task in ("frac_prevs", "shift_by", "detect_pattern")
    c = Circuit(["!", *alphabet, *said], length + 1, "!", attention_dir="causal" if causal else "bidirectional")

    def as_words(space: Space) -> None:
        c.direct(copy(space, c.out, lambda n, word: word == str(n)))

    declare: dict[str, Callable[[], object]] = {
        "length": lambda: as_words(library.length(c)),
        "hist": lambda: as_words(library.histogram(c)),
        "count_less_freq": lambda: as_words(library.count_less_freq(c, 2)),
        "frac_prevs": lambda: library.fraction(c, c.tok["x"], writes=c.out["%"]),
        "shuffle_dyck": lambda: library.shuffle_dyck(c, ["()"], writes=c.out),
        "reverse": lambda: library.reverse(c, writes=c.out),
        "shift_by": lambda: library.shift_by(c, 2, writes=c.out),
        "detect_pattern": lambda: library.detect_pattern(c, "abc", writes=c.out),
        "sort_unique": lambda: library.sort(c, writes=c.out, unique=True),
        "sort": lambda: library.sort(c, writes=c.out),
        "sort_freq": lambda: library.sort_by_frequency(c, writes=c.out),
    }
    declare[task]()
    model = c.compile()
    meant = {"yes": True, "no": False} | {count: int(count) for count in counts if count in said}

    @torch.no_grad()
    def runs(text: Sequence[str]) -> list[Answer]:
        whole = c.vocabulary.sep.join(["!", *text])
        if task == "frac_prevs":
            return model(whole)[0, 1:, c.vocabulary.to_single_token("%")].tolist()
        return [meant.get(word, word) for word in model.predict(whole)[1:]]

    return model.cfg.n_layers, model.cfg.d_model, runs


# ---------------------------------------------------------------------- both

OURS = {
    "hist": ["histogram"], "reverse": ["reverse", "length"], "sort_unique": ["sort"],
    "sort_freq": ["sort_by_frequency", "sort", "histogram"], "count_less_freq": ["count_less_freq", "histogram"],
    "frac_prevs": ["fraction"], "shuffle_dyck": ["shuffle_dyck", "finding._signs"],
}  # fmt: skip
TRACR = {
    "length": ["make_length"], "hist": ["make_hist"], "count_less_freq": ["make_count_less_freq", "make_hist"],
    "frac_prevs": ["make_frac_prevs"], "reverse": ["make_reverse", "make_length"],
    "shuffle_dyck": ["make_shuffle_dyck", "make_pair_balance", "make_frac_prevs", "make_length"],
    "shift_by": ["shift_by"], "detect_pattern": ["detect_pattern", "shift_by"], "sort_unique": ["make_sort_unique"],
    "sort": ["make_sort", "make_sort_unique"],
    "sort_freq": ["make_sort_freq", "make_hist", "make_sort", "make_sort_unique"],
}  # fmt: skip
"""Which functions of the libraries a program is made of; by default the one of its name."""


def side(compile: Callable[[str, int], Compiled], library: ModuleType, functions: Mapping[str, Sequence[str]],
         tasks: Sequence[str]) -> Iterator[Measured]:  # fmt: skip
    """All that is measured of one side."""
    for length, task in itertools.product((SHORT, LONG), tasks):
        found = measure(task, length, compile)
        found.lines = sum(n_lines(attrgetter(name)(library)) for name in functions.get(task, [task]))
        yield found


def ours(tasks: Sequence[str]) -> list[Measured]:
    """This side."""
    from circuits import library

    return list(side(compile_ours, library, OURS, tasks))


def tracrs(tasks: Sequence[str], python: str) -> list[Measured]:
    """Tracr's side, in the process of that Python; nothing where Tracr is not installed there."""
    asked = subprocess.run([python, "-c", "import tracr"], check=False, capture_output=True)
    if asked.returncode:
        return []
    done = subprocess.run([python, __file__, "--tracr", *tasks], check=True, stdout=subprocess.PIPE, text=True)
    return [Measured(**json.loads(line)) for line in done.stdout.splitlines()]


def table(tasks: Sequence[str], mine: Sequence[Measured], theirs: Sequence[Measured]) -> Table:
    """Both sides, a program a row."""
    from rich.table import Table

    shown = Table("program", title="Programs of Tracr's library: here / Tracr")
    for column in ("lines", "layers", "width", "seconds", "right", "silent", f"right at {LONG}", "seconds"):
        shown.add_column(column, justify="right")
    sides = [{(one.task, one.length): one for one in side} for side in (mine, theirs) if side]
    for task in tasks:
        short, long = ([side[task, length] for side in sides] for length in (SHORT, LONG))
        cells = [
            [one.lines for one in short],
            [one.layers for one in short],
            [one.width for one in short],
            [f"{one.seconds:.2g}" for one in short],
            [one.failed or f"{one.right} of {one.asked}" for one in short],
            [f"{one.silent} of {one.empty}" if one.empty else "-" for one in short],
            [one.failed or f"{one.right} of {one.asked}" for one in long],
            [f"{one.seconds:.2g}" for one in long],
        ]
        shown.add_row(task, *(" / ".join(map(str, cell)) for cell in cells))
    return shown


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[[], *TASKS])
    parser.add_argument("--python", default=sys.executable, help="of an environment with Tracr")
    parser.add_argument("--tracr", action="store_true", help="print Tracr's side as lines of JSON")
    args = parser.parse_args()
    tasks = args.tasks or list(TASKS)
    if args.tracr:
        from tracr.compiler import lib  # pyright: ignore[reportMissingImports]

        for one in side(compile_tracr, lib, TRACR, tasks):
            print(json.dumps(asdict(one)), flush=True)
        return
    from rich.console import Console

    Console(width=150).print(table(tasks, ours(tasks), tracrs(tasks, args.python)))


if __name__ == "__main__":
    main()
