"""Jobs on SmolLM2 (float32). Run: interp fetch smollm2 && python tests/benchmarks/jobs.py workers equality

`workers`: what many processes that work on one model cost. Three fresh processes of one thread work at once, on Linux.
Each has a pickled `ModelRef`, imports the package, loads the model (which checks the hash of its weights), and runs it
on a sentence. Printed are, as median and least over processes and rounds:

- the seconds from the start of the process to its logits, what of it went into imports, loading and the run, and how
  long it had a CPU, which a busy machine disturbs least;
- the seconds that the hash alone takes, measured afterwards;
- the memory after the run, with all three there, as the proportional set size: a page that n processes share counts as
  1 / n of a page for each of them. What is private to the process is a part of it.

They do so from a snapshot, which is mapped, and from a folder of `save_pretrained`, which is copied.

`equality`: whether a job has one result. A sweep of z over pairs of prompts of several lengths and a harvest of two
sites run in one process, with 1, 2 and 4 workers of joblib, and, where Ray is installed, on a cluster of two nodes on
this machine; each also with a worker, the driver or a node that is killed (`kill -9`) in the middle. A driver that was
killed is started again. Printed are the SHA-256 over all values, how many units were there when somebody was killed,
and whether any of these was computed once more.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import pickle
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch

from interp import HookedTransformer, jobs
from interp.data import PromptPairs
from interp.digests import digest_of
from interp.harvest import harvest
from interp.jobs import ModelRef
from interp.patching import sweep_dataset

NAME = "smollm2-135m-instruct"
PROMPT = "When Mary and John went to the store, John gave a drink to"
AT_ONCE = 3
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
ran, cpu = time.time(), time.process_time()
print(total, flush=True)
sys.stdin.readline()  # until all are there
with open("/proc/self/smaps_rollup") as opened:
    sizes = {{line.split(":")[0]: int(line.split()[1]) / 1000 for line in opened if line.rstrip().endswith("kB")}}
memory = sizes["Pss"], sizes["Private_Clean"] + sizes["Private_Dirty"]
print(json.dumps([ran - begun, imported - begun, loaded - imported, ran - loaded, cpu, *memory]), flush=True)
sys.stdin.readline()
"""
PARTS = (
    "s to the logits",
    "s of imports",
    "s of loading",
    "s of the run",
    "s of a CPU",
    "MB in proportion",
    "MB of them private",
)


def three_at_once(ref: ModelRef, folder: Path) -> list[list[float]]:
    """What each of the processes measures; all have the same logits."""
    file = folder / "ref.pickle"
    file.write_bytes(pickle.dumps(ref))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(time.time()), str(file)], **pipes) for _ in range(AT_ONCE)
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


def workers(rounds: int = 4) -> None:
    """Print what processes cost."""
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
        mapped, copied = (statistics.median(row[5] for row in found[name]) for name in ("mapped", "copied"))
        print(f"memory, mapped / copied: {mapped / copied:.2f}")


# ---------------------------------------------------------------------------------------------- equality


def sweep_of_z(folder: Path, engine: Any) -> Iterator[np.ndarray]:
    """All values of a sweep of some heads over pairs of five to some twenty tokens."""
    pairs = [PromptPairs.shipped(name) for name in ("capitals", "ioi")]
    columns = ("clean", "corrupted", "correct", "incorrect")
    mixed = PromptPairs(*([one for set_ in pairs for one in getattr(set_, column)[:8]] for column in columns))
    options: Any = {"layers": [0, 29], "unit": 2, "per_prompt": True, "folder": folder, "progress": False}
    found = sweep_dataset(NAME, mixed, site="z", over=("layer", "head"), workers=engine, **options)
    yield found.to_numpy()
    yield from (
        found.coords[name].to_numpy() for name in sorted(map(str, found.coords)) if found[name].dtype.kind == "f"
    )


def harvest_of_two_sites(folder: Path, engine: Any) -> Iterator[np.ndarray]:
    """All rows of a harvest of the documentation of some modules, their means and a covariance."""
    texts = [text for module in (json, statistics, subprocess) for text in (module.__doc__ or "").split("\n\n")]
    sites = [("resid_post", 3), ("z", 4)]
    store = harvest(NAME, texts, sites, folder=folder, workers=engine, unit_tokens=256, n_ctx=32, progress=False)
    for site in sites:
        yield from (store[site].numpy(), store[site].mean().numpy())
    yield store[sites[0]].covariance().numpy()


TASKS: dict[str, Callable[[Path, Any], Iterator[np.ndarray]]] = {
    "sweep": sweep_of_z,
    "harvest": harvest_of_two_sites,
}


def drive(task: str, engine: str, folder: str) -> None:
    """A driver: do the task, and print the SHA-256 of all its values."""
    torch.set_num_threads(1)
    digest = hashlib.sha256()
    for array in TASKS[task](Path(folder), jobs.ray(engine, num_cpus=1) if ":" in engine else int(engine)):
        digest.update(f"{array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).data)
    print(digest.hexdigest())


@dataclass(frozen=True)
class Case:
    """A way to do a task.

    Attributes:
        engine: a number of workers, or "ray".
        killed: "worker", "driver", "node" or "".
    """

    engine: str
    killed: str = ""


CASES = [
    Case(n, killed) for n in ("1", "2", "4") for killed in ("", "worker", "driver") if (n, killed) != ("1", "worker")
]
RAY_CASES = [Case("ray", killed) for killed in ("", "worker", "driver", "node")]


def commands() -> dict[int, tuple[int, str]]:
    """The parent and the command line of every process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            found[int(folder.name)] = parent, (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it ended meanwhile
            continue
    return found


def workers_below(ancestor: int) -> list[int]:
    """The workers of joblib or Ray that are descendants of a process."""
    known = commands()

    def is_below(process: int) -> bool:
        while process in known and process != ancestor:
            process = known[process][0]
        return process == ancestor

    mine = [process for process in known if process != ancestor and is_below(process)]
    return [
        process for process in mine if known[process][1].startswith("ray::_call") or "popen_loky" in known[process][1]
    ]


@contextmanager
def cluster_for(case: Case) -> Iterator[Any]:
    """A Ray cluster of two nodes with a CPU each, below this process; None for other engines."""
    if case.engine != "ray":
        yield None
        return
    os.environ["RAY_AUTH_MODE"] = "disabled"
    from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.second = cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def units_of(folder: Path) -> dict[str, int]:
    """When the file of every unit was written."""
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("unit-*.safetensors")}


def in_the_middle(case: Case, driver: subprocess.Popen[str], folder: Path, cluster: Any) -> dict[str, int]:
    """Kill whom the case says when two units are done; returns these."""
    while len(units_of(folder)) < 2:
        assert driver.poll() is None, f"{case}: the task was done before anybody was killed"
        time.sleep(0.02)
    there = units_of(folder)
    if case.killed == "driver":
        driver.kill()
    elif case.killed == "node":
        cluster.remove_node(cluster.second, allow_graceful=False)
    else:
        os.kill(workers_below(os.getpid())[0], signal.SIGKILL)
    return there


def result_of(task: str, case: Case) -> str:
    """The hash of a task done in this way, with what is to be said of it."""
    with tempfile.TemporaryDirectory() as base, cluster_for(case) as cluster:
        folder, engine = Path(base) / "job", case.engine if cluster is None else cluster.address
        line = [sys.executable, __file__, "drive", task, engine, str(folder)]

        def start() -> subprocess.Popen[str]:
            return subprocess.Popen(line, stdout=subprocess.PIPE, text=True)

        begun = time.perf_counter()
        driver, there = start(), {}
        if case.killed:
            there = in_the_middle(case, driver, folder, cluster)
            if case.killed == "driver":
                driver.wait()
                driver = start()
        digest = driver.communicate()[0].split()[-1]  # Ray says on standard output what befell it
        assert driver.returncode == 0, f"{case} failed"
        now = units_of(folder)
        again = sum(now[name] != when for name, when in there.items())
        said = f"{len(there)} of {len(now)} units were there, {again} of them computed again; " if case.killed else ""
        return f"{digest}  {said}{time.perf_counter() - begun:.1f} s"


def equality() -> None:
    """Print a row for every way to do each task. Raises `AssertionError` if any result differs."""
    with_ray = importlib.util.find_spec("ray") is not None
    for task in TASKS:
        digests = set()
        for case in CASES + RAY_CASES * with_ray:
            row = result_of(task, case)
            digests.add(row.split()[0])
            killed = f", {case.killed} killed" if case.killed else ""
            print(
                f"{task}, {'Ray, two nodes' if case.engine == 'ray' else f'{case.engine} workers'}{killed}: {row}",
                flush=True,
            )
        assert len(digests) == 1, digests
        print(f"{task}: one result")


def main() -> None:
    """Print the rows that are asked for."""
    rows = {"workers": workers, "equality": equality}
    if sys.argv[1:2] == ["drive"]:
        drive(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*", choices=[*rows, []], default=list(rows))
    for row in parser.parse_args().rows:
        rows[row]()


if __name__ == "__main__":
    main()
