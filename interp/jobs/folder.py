"""A job's folder: what is computed, in `job.json`, and one file for every unit that is done.

Files appear whole or not at all, and nothing here ever deletes one, so that any number of processes, on any machines
that share the folder, may work on a job at once: a unit that two of them compute is written twice, with the same bits.
"""

import json
import os
import platform
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.digests import digest_of, digest_of_text
from interp.errors import CheckpointError, JobError, describe
from interp.files import TEMPORARY, load_about, load_json, load_tensors, save_json, save_tensors

MANIFEST, KIND, FORMAT = "job.json", "interp.jobs.unit", 1
"""The file that says what a job is; what its units' files say they are; how both are written."""

Result = Mapping[str, Any]
"""What a unit makes: tensors, and JSON values, by name."""


@dataclass(frozen=True)
class Status:
    """How far a job is.

    Attributes:
        n_units: how many units there are.
        done: those that are done.
        bad: those whose file cannot be used, and why.
        made_with: on how many units what software, and which kind of device, worked.
    """

    n_units: int
    done: list[int]
    bad: dict[int, str]
    made_with: dict[str, int]

    @property
    def missing(self) -> list[int]:
        """The units that have no result."""
        done = set(self.done)
        return [unit for unit in range(self.n_units) if unit not in done]


class JobFolder:
    """The folder of a job.

    Attributes:
        path: where it is; absolute, since whoever works on it may stand elsewhere.
        specification: all that the results depend on, part by part; what is long, as its hash.
        n_units: how many units there are.
        called: by what names people know some of the parts; they decide nothing.
        key: the hash of specification and number of units, by which a unit's file says whose it is.
    """

    def __init__(
        self, path: Path, specification: Mapping[str, Any], n_units: int, called: Mapping[str, str] | None = None
    ):
        self.path, self.n_units, self.called = path, n_units, dict(called or {})
        self.specification = {part: _short(value) for part, value in specification.items()}
        said = json.dumps([FORMAT, n_units, self.specification], sort_keys=True)
        self.key = digest_of_text(said)

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> "JobFolder":
        """The job that is in a folder. Raises `CheckpointError` for a folder without one."""
        folder = Path(path).expanduser().absolute()
        file = folder / MANIFEST
        if not file.exists():
            raise CheckpointError(f"{folder} is no folder of a job: it has no {MANIFEST}")
        about = load_json(file, FORMAT, "a job")
        specification, n_units = about.get("specification"), about.get("n_units")
        if not isinstance(specification, dict) or not isinstance(n_units, int):
            raise CheckpointError(f"{file} cannot be read as a job: it has no specification of units")
        called = about.get("called")
        names = {str(part): str(name) for part, name in called.items()} if isinstance(called, dict) else {}
        return cls(folder, specification, n_units, names)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        specification: Mapping[str, Any],
        n_units: int,
        called: Mapping[str, str] | None = None,
    ) -> "JobFolder":
        """The job that is in a folder, or a new one where none is yet, with the names of its parts.

        Raises `CheckpointError`, naming what differs, where the folder has another job.
        """
        mine = cls(Path(path).expanduser().absolute(), specification, n_units, called)
        file = mine.path / MANIFEST
        if not file.exists():
            about = {"n_units": n_units, "specification": mine.specification, "called": mine.called}
            save_json(file, FORMAT, about)
        theirs = cls.at(mine.path)
        parts = {**theirs.specification, **mine.specification}
        both = [(part, theirs.specification.get(part), mine.specification.get(part)) for part in parts]
        both.append(("number of units", theirs.n_units, mine.n_units))
        if differing := [f"{part} ({a!r} there, {b!r} here)" for part, a, b in both if a != b]:
            raise CheckpointError(
                f"{path} has another job, which differs in: {'; '.join(differing)}. Give another folder, or remove it"
            )
        return mine

    def file(self, unit: int) -> Path:
        """Where the result of a unit is."""
        return self.path / f"unit-{unit:06}.safetensors"

    # ------------------------------------------------------------------ units

    def write(self, unit: int, result: Result, made_with: str) -> None:
        """Write the result of a unit, whole or not at all."""
        tensors = {name: value for name, value in result.items() if isinstance(value, Tensor)}
        values = {name: value for name, value in result.items() if name not in tensors}
        about = {"job": self.key, "unit": unit, "made_with": made_with, "digest": digest_of(tensors), "values": values}
        save_tensors(self.file(unit), KIND, tensors, about)

    def is_done(self, unit: int) -> bool:
        """Whether a unit has a result. Only the description in its file is read."""
        return self.file(unit).exists() and self._described(unit)[0] is None

    def _described(self, unit: int) -> tuple[str | None, dict[str, Any]]:
        """What is wrong with the file of a unit, or None; and what it says of itself."""
        file = self.file(unit)
        try:
            about = load_about(file, KIND)
        except CheckpointError as error:
            return str(error), {}
        if about.get("job") != self.key:
            return f"{file} is of another job", about
        if not {"made_with", "digest", "values"} <= about.keys():
            return f"{file} does not say all that it should", about
        return (None if about.get("unit") == unit else f"{file} is unit {about.get('unit')}"), about

    def status(self) -> Status:
        """How far the job is, from the description of every unit."""
        done, bad, made_with = [], {}, Counter[str]()
        for unit in range(self.n_units):
            if not self.file(unit).exists():
                continue
            fault, about = self._described(unit)
            if fault is None:
                done.append(unit)
                made_with[about["made_with"]] += 1
            else:
                bad[unit] = fault
        return Status(self.n_units, done, bad, dict(made_with))

    def result(self, unit: int) -> dict[str, Any]:
        """The result of a unit, bit for bit as it was written. Raises `CheckpointError` where it is not."""
        tensors, about = load_tensors(self.file(unit), KIND)
        if about["job"] != self.key or about["unit"] != unit or digest_of(tensors) != about["digest"]:
            raise CheckpointError(
                f"{self.file(unit)} does not hold what was written for unit {unit} of this job; remove it, and run the "
                "job again"
            )
        return tensors | about["values"]

    def mapped(self, unit: int) -> dict[str, Any]:
        """As `result`, with tensors that are mapped from the file: nothing of them is read before it is used.

        So whether their bits are those that were written is not looked at.
        """
        tensors, about = load_tensors(self.file(unit), KIND)
        return tensors | about["values"]

    def unfinished(self) -> list[Path]:
        """Files that are being written now, or whose process was killed: nobody can tell which, so they are left."""
        return sorted(self.path.rglob(f"{TEMPORARY}*"))

    def units(self, partial: bool = False) -> list[int]:
        """The units that have a result, in their order: all of them, unless a part will do.

        Warns where they were computed by different software, or on different kinds of device, which agree up to
        rounding only. Raises `JobError` where units are missing.
        """
        status = self.status()
        missing = status.missing
        if missing and not partial:
            raise JobError(
                f"{self.path}: {len(missing)} of {self.n_units} units are missing (unit {missing[0]} first); run the "
                "job again, or wait for those who compute them",
                missing=missing,
            )
        if len(status.made_with) > 1:
            said = "; ".join(f"{n} units with {what}" for what, n in sorted(status.made_with.items()))
            warnings.warn(f"{self.path} is mixed, so that its units agree up to rounding only: {said}", stacklevel=3)
        return status.done

    def results(self) -> Iterator[dict[str, Any]]:
        """The results of all units, in their order, one at a time. Warns and raises as `units`."""
        for unit in self.units():
            yield self.result(unit)


def _short(value: Any) -> Any:
    """A JSON value as it comes back from a file, or the hash of one that nobody would read."""
    text = json.dumps(value, sort_keys=True, default=_of_numpy)
    return json.loads(text) if len(text) <= 200 else f"hash {digest_of_text(text)}"


def _of_numpy(value: Any) -> Any:
    """A number of numpy, as options may be, as one of Python."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a job's specification has {describe(value)}, which is no JSON value")


def our_version() -> str:
    """Of this package: results of two versions may differ."""
    try:
        return version("interp")
    except PackageNotFoundError:  # it runs from its source
        return "not installed"


def made_with(device: str) -> str:
    """The software and the kind of device that decide the last bits of a result."""
    where = f"cpu {torch.backends.cpu.get_cpu_capability()} {platform.machine()}"
    if not device.startswith("cpu"):
        where = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return f"interp {our_version()}, torch {torch.__version__}, {where}"
