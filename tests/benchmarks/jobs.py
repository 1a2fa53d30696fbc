"""What many processes that work on one model cost. Run: interp fetch smollm2 && python tests/benchmarks/jobs.py

Three fresh processes of one thread work on SmolLM2 (float32) at once, on Linux. Each has a pickled `ModelRef`, imports
the package, loads the model (which checks the hash of its weights), and runs it on a sentence. Printed are,
the median over processes and rounds:

- the seconds from the start of the process to its logits, and what of it went into imports, loading and the run;
- the seconds that the hash alone takes, measured afterwards;
- the memory after the run, with all three there, as the proportional set size: a page that n processes share counts as
  1 / n of a page for each of them. What is private to the process is a part of it.

They do so from a snapshot, which is mapped, and from a folder of `save_pretrained`, which is copied.
"""

from __future__ import annotations

import json
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, cast

from interp import HookedTransformer
from interp.digests import digest_of
from interp.jobs import ModelRef

NAME = "smollm2-135m-instruct"
PROMPT = "When Mary and John went to the store, John gave a drink to"
WORKERS = 3
WORKER = f"""
import json, pickle, sys, time
begun, file = float(sys.argv[1]), sys.argv[2]
import torch
import interp.jobs
torch.set_num_threads(1)
imported = time.time()
with open(file, "rb") as opened:
    model = pickle.load(opened).load()
loaded = time.time()
with torch.no_grad():
    total = model({PROMPT!r}).double().sum().item()
ran = time.time()
print(total, flush=True)
sys.stdin.readline()  # until all are there
with open("/proc/self/smaps_rollup") as opened:
    sizes = {{line.split(":")[0]: int(line.split()[1]) / 1000 for line in opened if line.rstrip().endswith("kB")}}
private = sizes["Private_Clean"] + sizes["Private_Dirty"]
print(json.dumps([ran - begun, imported - begun, loaded - imported, ran - loaded, sizes["Pss"], private]), flush=True)
sys.stdin.readline()
"""
PARTS = ("s to the logits", "s of imports", "s of loading", "s of the run", "MB in proportion", "MB of them private")


def three_at_once(ref: ModelRef, folder: Path) -> list[list[float]]:
    """What each of the processes measures; all have the same logits."""
    file = folder / "ref.pickle"
    file.write_bytes(pickle.dumps(ref))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(time.time()), str(file)], **pipes) for _ in range(WORKERS)
    ]

    def said_by_each() -> list[str]:
        return [cast(IO[str], process.stdout).readline() for process in processes]

    def go_on() -> None:
        for process in processes:
            cast(IO[str], process.stdin).write("\n")
            cast(IO[str], process.stdin).flush()

    totals = said_by_each()
    go_on()
    measured = [json.loads(line) for line in said_by_each()]
    go_on()
    assert len(set(totals)) == 1 and all(process.wait() == 0 for process in processes)
    return measured


def main(rounds: int = 4) -> None:
    """Print the rows."""
    with tempfile.TemporaryDirectory() as folder:
        model = HookedTransformer.from_pretrained(NAME)
        model.save_pretrained(Path(folder) / "copied")
        refs = {
            "mapped": ModelRef.of(model).snapshotted(Path(folder) / "mapped"),
            "copied": ModelRef(Path(folder) / "copied"),
        }
        found: dict[str, list[list[float]]] = {name: [] for name in refs}
        for _ in range(rounds):
            for name, ref in refs.items():  # in turn, so that another load of the machine meets both
                found[name] += three_at_once(ref, Path(folder))
        for name, rows in found.items():
            columns = [sorted(column) for column in zip(*rows, strict=True)]
            for part, column in zip(PARTS, columns, strict=True):
                print(f"{name}: {statistics.median(column):7.2f} {part} ({column[0]:.2f} at the least)")
        start = time.perf_counter()
        digest_of(model.state_dict())
        print(f"the hash, in one process: {time.perf_counter() - start:.2f} s")
        mapped, copied = (statistics.median(row[4] for row in found[name]) for name in ("mapped", "copied"))
        print(f"memory, mapped / copied: {mapped / copied:.2f}")


if __name__ == "__main__":
    main()
