"""What a job computes: work in units, and the task that computes one of them wherever it is sent."""

import dataclasses
import errno
import pickle
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from interp.errors import ConfigError, InterpError, JobError
from interp.jobs.folder import JobFolder, Result, made_with
from interp.jobs.models import ModelRef
from interp.precision import without_autocast


class Work(ABC):
    """A computation in units, each of which depends on this value and its own number alone. Frozen and picklable."""

    @property
    @abstractmethod
    def n_units(self) -> int:
        """How many units there are: fixed by the data and the unit's size, never by who computes them."""

    @property
    def device(self) -> str:
        """The kind of device that units are computed on."""
        return "cpu"

    @abstractmethod
    def specification(self) -> dict[str, Any]:
        """All that results depend on, part by part, in JSON values that mean the same in another process."""

    def called(self) -> dict[str, str]:
        """By what names people know parts of the specification of which only hashes are kept."""
        return {}

    @abstractmethod
    def describe(self, unit: int) -> str:
        """What a unit is about, for messages."""

    @abstractmethod
    def compute(self, unit: int) -> Result:
        """The result of a unit."""

    def shared(self, folder: Path) -> "Work":
        """The same work for other processes, after what they read has been put into the job's folder."""
        return self


@dataclass(frozen=True, eq=False)
class ModelWork(Work):
    """Work that runs a model.

    Attributes:
        model: by reference.
    """

    model: ModelRef

    @property
    def device(self) -> str:
        """The model's."""
        return str(self.model.load().W_E.device)

    def called(self) -> dict[str, str]:
        """The model."""
        return {"model": repr(self.model)}

    def shared(self, folder: Path) -> "ModelWork":
        """With the model in the job's folder."""
        return dataclasses.replace(self, model=self.model.snapshotted(folder / "model"))


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a disk, a quota or a limit says that has no room for a file."""


@dataclass(frozen=True)
class Outcome:
    """What became of a unit.

    Attributes:
        unit: which.
        error: what was raised, in words, or None.
        trace: where it was raised.
        again: whether it may go well another time.
        stop: whether the others need not be tried.
    """

    unit: int
    error: str | None = None
    trace: str = ""
    again: bool = True
    stop: bool = False


@dataclass(frozen=True, eq=False)
class Task:
    """Computes a unit and writes its file; never raises, but for an interruption.

    Attributes:
        work: what is computed.
        folder: of the job.
        threads: how many threads of the CPU take part.
    """

    work: Work
    folder: JobFolder
    threads: int

    def __call__(self, unit: int) -> Outcome:
        """Do one unit, if nobody else has done it meanwhile."""
        try:
            if self.is_done(unit):
                return Outcome(unit)
            with as_anywhere(self.threads):
                self.folder.write(unit, self.work.compute(unit), made_with(self.work.device))
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            full = isinstance(error, OSError) and error.errno in FULL
            return Outcome(unit, said, traceback.format_exc(), not isinstance(error, InterpError), stop=full)
        return Outcome(unit)

    def is_done(self, unit: int) -> bool:
        """Whether the unit has a result."""
        return self.folder.is_done(unit)

    def shared(self) -> "Task":
        """The same task for other processes."""
        return Task(self.work.shared(self.folder.path), self.folder, self.threads)


@contextmanager
def as_anywhere(threads: int) -> Iterator[None]:
    """What decides bits beside the arguments is as in every other process that works on a job.

    So many threads work on an operation of torch: in how many parts it is cut can decide its last bits. Autocast and a
    default dtype that surround the call do not reach a unit, since they would not reach one in another process.

    >>> with as_anywhere(threads=1):
    ...     print(torch.get_num_threads())
    1
    """
    before = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    try:
        with without_autocast():
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_default_dtype(before[1])


def check_picklable(work: Work) -> None:
    """Raise `ConfigError` for work that another process could not be sent, such as a lambda."""
    try:
        pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"a job is sent to other processes, and goes on in later ones, so it takes no lambda, no function that "
            f"stands inside another, and nothing that cannot be pickled: {error}; put the function at the top of a "
            "module, and what it captures into functools.partial"
        ) from error


def check_all_went_well(folder: JobFolder, work: Work, failed: dict[int, Outcome], kept: bool) -> None:
    """Raise `JobError` for units that failed: which, on what, and why. `kept` says whether the folder stays."""
    if not failed:
        return
    first = failed[min(failed)]
    missing = folder.status().missing
    rest = (
        f". {folder.n_units - len(missing)} units are done, and the same call goes on from {folder.path}"
        if kept
        else ""
    )
    error = JobError(
        f"{len(failed)} of {folder.n_units} units failed. Unit {first.unit} ({work.describe(first.unit)}): "
        f"{first.error}{rest}",
        {unit: str(outcome.error) for unit, outcome in sorted(failed.items())},
        missing,
    )
    if first.trace:
        error.add_note(f"In unit {first.unit}:\n{first.trace}")
    raise error


Engine = Callable[[Task, list[int]], Iterator[Outcome]]
"""Decides who computes which of some units, and says what became of each, in any order."""
