"""Running a job to its end: what is missing is computed, what failed is tried again, and what is there is merged."""

import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TypedDict

from interp.errors import ConfigError, describe
from interp.indices import check_count, counted
from interp.jobs.engines import Part, engine_of
from interp.jobs.folder import JobFolder, our_version
from interp.jobs.work import Engine, Outcome, Task, Work, check_all_went_well, check_picklable
from interp.keywords import known_keywords
from interp.progress import progress_bar


class JobOptions(TypedDict, total=False):
    """How a job is done, and where its results are kept.

    None of these changes a result, but for `threads`, which may change its last bits.

    Attributes:
        folder: where results are kept, unit by unit. Another call for the same work, in any process and with any
            workers, goes on from what it has. None for one that is gone at the end.
        workers: how many processes of this machine work; 1 for this one alone. Or an engine: `jobs.ray(...)` for a
            cluster, `jobs.part(i, n)` for a share of the work. Processes share a model's weights in memory, from a
            copy in the folder, which takes as much of the disk as they do (of SmolLM2 half a gigabyte).
        threads: of the CPU, in each of them; 1 by default. More processes are better than more threads.
        retries: how many times a unit is tried again that failed, or whose worker died; 2 by default.
        progress: show a bar on a terminal; by default yes.
    """

    folder: str | os.PathLike[str] | None
    workers: int | Engine
    threads: int
    retries: int
    progress: bool


@known_keywords
@contextmanager
def run(
    work: Work,
    *,
    folder: str | os.PathLike[str] | None = None,
    workers: int | Engine = 1,
    threads: int = 1,
    retries: int = 2,
    progress: bool = True,
) -> Iterator[JobFolder]:
    """Compute the units of a job that are missing, and yield its folder.

    Args:
        work: what is computed.
        folder, workers, threads, retries, progress: see `JobOptions`.

    Raises, before any unit:
        ConfigError: an option out of range; work that cannot be sent to another process.
        CheckpointError: the folder has another job; what differs is named.
    And at the end:
        JobError: units failed, after all others are done.
    """
    check_options({"folder": folder, "workers": workers, "threads": threads, "retries": retries})
    threads = int(threads)
    engine = engine_of(workers, retries)
    check_picklable(work)
    with tempfile.TemporaryDirectory(prefix="interp-job-") if folder is None else nullcontext(folder) as path:
        specification = {**work.specification(), "threads": threads, "interp": our_version()}
        job = JobFolder.open(path, specification, work.n_units, work.called())
        _compute(job, Task(work, job, threads), engine, retries, progress, kept=folder is not None)
        yield job


def check_options(options: JobOptions) -> None:
    """Raise `ConfigError` for an option of a job that is out of range; for callers who do much before it begins.

    >>> check_options({"retries": -1})
    Traceback (most recent call last):
    interp.errors.ConfigError: retries = -1; allowed: 0 or more
    """
    check_count("threads", options.get("threads", 1))
    workers, folder = options.get("workers", 1), options.get("folder")
    engine_of(workers, check_count("retries", options.get("retries", 2), least=0))
    if folder is not None and not (isinstance(folder, str | os.PathLike) and os.fspath(folder)):
        raise ConfigError(f"folder = {describe(folder)}; allowed: a path, or None")
    if folder is None and isinstance(workers, Part) and workers.n > 1:
        raise ConfigError(
            f"workers = part {workers.i} of {workers.n} needs folder=, the one that all parts share; without one its "
            "results would be gone"
        )


def _compute(job: JobFolder, task: Task, engine: Engine, retries: int, progress: bool, kept: bool) -> None:
    status = job.status()
    for unit, why in status.bad.items():
        warnings.warn(f"{why}, so unit {unit} has to be computed again", stacklevel=5)
    tries, failed = Counter[int](), dict[int, Outcome]()
    waiting = status.missing
    what, done = f"computing {counted(job.n_units, 'unit')}", job.n_units - len(waiting)
    with progress_bar(what, job.n_units, progress, done) as advance:
        while waiting:
            again: list[int] = []
            for outcome in engine(task, waiting):
                tries[outcome.unit] += 1
                if outcome.error is None:
                    advance(1)
                elif outcome.again and not outcome.stop and tries[outcome.unit] <= retries:
                    again.append(outcome.unit)
                else:
                    failed[outcome.unit] = outcome
                    if outcome.stop:
                        check_all_went_well(job, task.work, failed, kept)
            waiting = again
    check_all_went_well(job, task.work, failed, kept)
