"""Engines: who computes which unit. None of them changes a result."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from interp.errors import ConfigError
from interp.indices import check_count
from interp.jobs.work import Engine, Outcome, Task


def in_process(task: Task, units: list[int]) -> Iterator[Outcome]:
    """One unit after another, here."""
    yield from map(task, units)


@dataclass(frozen=True)
class Workers:
    """Processes of this machine, by joblib; inside `joblib.parallel_config("dask")`, those of a Dask cluster.

    A worker that dies takes the pool of workers with it, and does not say which unit it was on. So the units that are
    left are tried again in a new pool; after a few of these one by one, until the unit is found that kills its worker.

    Attributes:
        n: how many.
        retries: how many pools may be lost before units are tried one by one.
    """

    n: int
    retries: int = 2

    def __call__(self, task: Task, units: list[int]) -> Iterator[Outcome]:
        """All units."""
        task, left, lost = task.shared(), list(units), 0
        while left:
            alone = lost > self.retries
            try:
                for outcome in self._pool(task, left[:1] if alone else left):
                    left.remove(outcome.unit)
                    yield outcome
            except Exception as error:  # the pool's own: a task returns what goes wrong in it
                lost += 1
                done = [unit for unit in left if task.is_done(unit)]
                yield from map(Outcome, done)
                left = [unit for unit in left if unit not in done]
                if alone and left:
                    lost = 0
                    yield Outcome(left.pop(0), f"its worker dies every time ({_short(error)})", again=False)

    def _pool(self, task: Task, units: list[int]) -> Iterator[Outcome]:
        from joblib import Parallel, delayed

        # Of one process joblib would make none, and a unit that kills its process would kill this one.
        n = max(2, min(self.n, len(units)))
        pool: Any = Parallel(n_jobs=n, return_as="generator_unordered", batch_size=1)  # pyright: ignore[reportArgumentType]
        yield from pool(delayed(task)(unit) for unit in units)


@dataclass(frozen=True)
class Part:
    """Every n-th unit, computed by an engine of its own; see `part`."""

    i: int
    n: int
    engine: Engine

    def __call__(self, task: Task, units: list[int]) -> Iterator[Outcome]:
        """Those units of these that are this part's."""
        return self.engine(task, [unit for unit in units if unit % self.n == self.i - 1])

    def tried(self, retries: int) -> "Part":
        """The same part, whose workers take the job's number of retries."""
        return replace(self, engine=replace(self.engine, retries=retries)) if isinstance(self.engine, Workers) else self


def part(i: int, n: int, workers: int | Engine = 1) -> Part:
    """The i-th of n parts of a job, for arrays of machines without a scheduler of ours (Slurm, Kubernetes).

    All parts name the same folder. A call whose part is done while others are not raises `JobError`, whose `missing`
    names the units that are left; the last to finish, or any later call, collects.

    Args:
        i: from 1 to n, such as $SLURM_ARRAY_TASK_ID of `--array=1-n`.
        n: how many parts there are.
        workers: who computes this part.

    Raises `ConfigError` for a part that there is not.

    >>> from interp import JobError
    >>> from interp.data import PromptPairs
    >>> from interp.patching import sweep_dataset
    >>> pairs = PromptPairs([clean, corrupted], [corrupted, clean], ["Mary", "John"], ["John", "Mary"])
    >>> asked = {"site": "resid_pre", "over": ("layer",), "unit": 1, "folder": "shared", "progress": False}
    >>> try:
    ...     sweep_dataset(model, pairs, workers=part(1, 2), **asked)
    ... except JobError as error:
    ...     print(error.missing)
    [1]
    >>> sweep_dataset(model, pairs, workers=part(2, 2), **asked).dims
    ('layer',)
    """
    n = check_count("n", n)
    return Part(check_count("i", i, n), n, engine_of(workers))


@dataclass(frozen=True)
class RayTasks:
    """Tasks on a Ray cluster; see `ray`."""

    address: str | None
    retries: int
    resources: dict[str, Any]

    def __call__(self, task: Task, units: list[int]) -> Iterator[Outcome]:
        """All units."""
        import ray  # pyright: ignore[reportMissingImports]

        task = task.shared()
        started = not ray.is_initialized()
        if started:
            ray.init(address=self.address, log_to_driver=False)
        try:
            remote = ray.remote(max_retries=self.retries, **self.resources)(_call)
            sent = ray.put(task)
            waiting = {remote.remote(sent, unit): unit for unit in units}
            while waiting:
                (ready,), _ = ray.wait(list(waiting), num_returns=1)
                unit = waiting.pop(ready)
                try:
                    yield ray.get(ready)
                except ray.exceptions.RayTaskError as error:  # a task returns what goes wrong in it, if it can be read
                    yield Outcome(unit, f"it cannot be sent to a worker: {_last_line(error)}", again=False)
                except ray.exceptions.RayError as error:  # after the cluster's own retries
                    yield Outcome(unit, f"its worker dies every time ({_short(error)})", again=False)
        finally:
            if started:
                ray.shutdown()


def _call(task: Task, unit: int) -> Outcome:
    return task(unit)


def ray(address: str | None = None, *, retries: int = 3, **resources: Any) -> RayTasks:
    """Units as tasks on a Ray cluster (extra `ray`). A worker or a node that dies goes unnoticed.

    The job's folder must be one that all nodes share, and functions of your own must be importable there; where their
    module does not lie beside the script, `runtime_env={"env_vars": {"PYTHONPATH": ...}}` says where. Ray and the
    `jupyter` of one environment may hinder each other; an environment of its own for the cluster is safe.

    Args:
        address: of the cluster; "local" starts one here. None takes the one that $RAY_ADDRESS names, or that runs on
            this machine already, and starts one where there is none.
        retries: how many times a unit is tried again whose worker or node died.
        resources: of each task, as `ray.remote` takes them: `num_cpus`, `num_gpus`, `resources`, `runtime_env`.

    Raises `ConfigError` where Ray is not installed.
    """
    try:
        import ray as installed  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("jobs.ray needs Ray: python -m pip install 'interp[ray]'") from error
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else it writes a secret into the home folder
    return RayTasks(address, check_count("retries", retries, least=0), resources)


def engine_of(workers: int | Engine, retries: int = 2) -> Engine:
    """The engine that `workers=` names. Raises `ConfigError`."""
    if isinstance(workers, Part):
        return workers.tried(retries)
    if callable(workers):
        return workers
    n = check_count("workers", workers)
    return in_process if n == 1 else Workers(n, retries)


def _short(error: Exception) -> str:
    sentence = str(error).strip().split("\n")[0].split(". ")[0]
    return f"{type(error).__name__}: {sentence}"


def _last_line(error: Exception) -> str:
    return str(error).strip().rsplit("\n", 1)[-1]
