"""Public notebooks and test files of TransformerLens 1 to 3, run with `interp.compat.transformer_lens` in its place.

Run: python tests/benchmarks/public_work.py Main_Demo.ipynb solutions.py tests/unit --tokenizer gpt2 --width 8

Notebooks, Python files with cells (`# %%`) and files or folders of pytest are run as they are, and nothing is
downloaded. A name in `from_pretrained` gives a random model of that architecture (a dozen names; 12 layers of 12 heads
for "gpt2") with the tokenizer that you give, by default that of SmolLM2 (`interp fetch smollm2`). `--width` makes heads
of another width, so that a model of all its layers and heads runs in a hundredth of the time.

A file is a process. A cell runs with what the cells before it left, and one that fails does not stop the rest.

- passed: it ran to its end. Drawing packages that are not installed draw nothing; the table says how many cells that
  concerns.
- skipped: it needs what cannot be had here (a download, a file, CUDA, a package), holds shell commands alone, or needs
  a name of such a cell. Single shell lines within a cell do nothing.
- failed: everything else, with the first line of the error; running past `--limit` seconds too, and the need of a cell
  that failed.

The exit code is 1 if something failed, 2 if a file could not be run at all. `--json` prints all outcomes; `--log` keeps
what the files print, with tracebacks.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

HERE = Path(__file__).resolve().parent
STATUSES = ("passed", "failed", "skipped")


def is_pytest(path: Path) -> bool:
    return path.is_dir() or (path.suffix == ".py" and path.name.startswith("test_"))


def options(arguments: argparse.Namespace, prefix: str = "") -> list[str]:
    given = {"tokenizer": arguments.tokenizer, "width": arguments.width, "limit": arguments.limit}
    return [f"--{prefix}{name}={value}" for name, value in given.items() if value is not None]


def environment() -> dict[str, str]:
    paths = [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def run_cells(path: Path, arguments: argparse.Namespace, log: TextIO) -> Iterator[dict[str, Any]]:
    """The outcomes of a file's cells; a process that says nothing for long is ended."""
    command = [sys.executable, str(HERE / "public_cells.py"), str(path), *options(arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment(), text=True) as process:
        assert process.stdout is not None
        while True:
            watch = threading.Timer(2 * arguments.limit + 120, process.kill)
            watch.start()
            line = process.stdout.readline()
            watch.cancel()
            if not line:
                break
            yield json.loads(line)
    if process.returncode != 0:
        yield {"name": "the process", "status": "failed", "why": f"ended with {process.returncode}"}


def run_pytest(path: Path, arguments: argparse.Namespace, log: TextIO) -> Iterator[dict[str, Any]]:
    """The outcomes of a file's or a folder's tests, by their names."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "outcomes")
        out.touch()
        command = [sys.executable, "-m", "pytest", str(path), "-p", "public_stand_in", "-p", "no:cacheprovider", "-q",
                   "--continue-on-collection-errors",
                   "--import-mode=importlib", "-c", os.devnull, f"--rootdir={path if path.is_dir() else path.parent}",
                   f"--public-out={out}", *options(arguments, "public-")]  # fmt: skip
        code = subprocess.run(command, stdout=log, stderr=log, env=environment()).returncode
        outcomes = [json.loads(line) for line in out.read_text().splitlines()]
    if code not in (0, 1, 2):
        outcomes.append({"name": "pytest", "status": "failed", "why": f"ended with {code}"})
    yield from outcomes


def summary(outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many passed, failed and were skipped, and of those that ran the share that passed."""
    counts: dict[str, Any] = {status: sum(one["status"] == status for one in outcomes) for status in STATUSES}
    ran = counts["passed"] + counts["failed"]
    return counts | {"without drawing": sum(bool(one.get("drew")) for one in outcomes),
                     "share": counts["passed"] / ran if ran else None}  # fmt: skip


def show(found: dict[str, list[dict[str, Any]]]) -> None:
    heads = ("file", *STATUSES, "without drawing", "share")
    rows = [(name, summary(outcomes)) for name, outcomes in found.items()]
    rows.append(("total", summary([one for outcomes in found.values() for one in outcomes])))
    width = max(len(name) for name, _ in rows)
    print(f"{heads[0]:{width}}", *heads[1:], sep="  ")
    for name, row in rows:
        share = "-" if row["share"] is None else f"{row['share']:.1%}"
        print(f"{name:{width}}", *(f"{row[head]:{len(head)}}" for head in heads[1:-1]), share, sep="  ")
    for name, outcomes in found.items():
        whys = collections.defaultdict(list)
        for one in outcomes:
            if one["status"] != "passed":
                whys[one["status"], one["why"]].append(one["name"])
        if whys:
            print(f"\n{name}")
        for (status, why), names in sorted(whys.items(), key=lambda item: item[0][0]):
            listed = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
            print(f"  {status}: {listed}: {why}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--tokenizer", help="a folder of transformers, or a tokenizer.json")
    parser.add_argument("--width", type=int, help="of a head of the random models")
    parser.add_argument("--limit", type=float, default=120, help="seconds for a cell or a test")
    parser.add_argument("--log", type=argparse.FileType("w"), default=None)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.tokenizer = arguments.tokenizer and str(Path(arguments.tokenizer).resolve())
    missing = [str(path) for path in arguments.paths if not path.exists()]
    if missing:
        print(f"not found: {', '.join(missing)}", file=sys.stderr)
        return 2
    found: dict[str, list[dict[str, Any]]] = {}
    with arguments.log or open(os.devnull, "w") as log:  # noqa: PTH123
        for path in map(Path.resolve, arguments.paths):
            run = run_pytest if is_pytest(path) else run_cells
            found[str(path.name if path.name not in found else path)] = list(run(path, arguments, log))
    if arguments.json:
        print(json.dumps({name: {"summary": summary(those), "outcomes": those} for name, those in found.items()}))
    else:
        show(found)
    empty = [name for name, outcomes in found.items() if not outcomes]
    if empty:
        print(f"nothing to run in: {', '.join(empty)}", file=sys.stderr)
    failed = any(one["status"] == "failed" for outcomes in found.values() for one in outcomes)
    return 2 if empty else int(failed)


if __name__ == "__main__":
    sys.exit(main())
