"""A function over a data set, unit by unit: the way to any analysis that is not one of this package's own."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Unpack, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from interp.errors import ConfigError, describe
from interp.indices import check_count
from interp.jobs.folder import Result
from interp.jobs.models import AnyModel, ModelRef
from interp.jobs.running import JobOptions, run
from interp.jobs.work import Work
from interp.keywords import known_keywords
from interp.metrics import key_of


@runtime_checkable
class Rows(Protocol):
    """What has a length and can be cut into slices, such as a list or `interp.data.PromptPairs`.

    A `digest`, where it has one, is its key; else its content is keyed as metrics are (`interp.metrics.key_of`).
    """

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Any: ...


@known_keywords
def map(
    fn: Callable[..., Result],
    rows: Rows,
    *,
    model: AnyModel | None = None,
    unit: int = 32,
    merge: Callable[[Iterable[dict[str, Any]]], Any] | None = None,
    **options: Unpack[JobOptions],
) -> Any:
    """What a function makes of a data set, unit by unit, as a job: it can be interrupted, and shared by many workers.

        def last_stream(model, pairs):
            prompts = model.masked_tokens(list(pairs.clean))
            return {"stream": model.run_with_cache(prompts, names_filter=("resid_post", -1), ...)}

        jobs.map(last_stream, pairs, model="smollm2-135m-instruct", folder="streams", workers=4)

    Args:
        fn: called as fn(part), or with a model as fn(model, part), where `part` is the rows of a unit. Returns tensors,
            arrays and JSON values by name. It stands at the top of a module, perhaps in a functools.partial, and what
            it returns depends on its arguments alone. Its code is part of the job's key.
        rows: the data set.
        model: given to `fn`: a model, a name, a folder, or a `ModelRef`. Every process loads it once.
        unit: how many rows a unit has.
        merge: makes the result of all units' results, which it is given in order, one at a time. By default they are
            put together: tensors one after another along their first axis, other values as lists.
        options: see `JobOptions`.

    Raises:
        ConfigError: an option out of range, no rows, a function that another process would not find, or a key that
            cannot be made.
        CheckpointError: the folder has another job.
        JobError: units failed or are missing.
    """
    unit = check_count("unit", unit)
    if not callable(fn) or not isinstance(rows, Rows):
        raise ConfigError(f"jobs.map({describe(fn)}, {describe(rows)}): a function and a sequence of rows are needed")
    if not len(rows):
        raise ConfigError("jobs.map: there are no rows")
    work = Mapped(fn, rows, None if model is None else ModelRef.of(model), unit)
    with run(work, **options) as job:
        return (put_together if merge is None else merge)(job.results())


def put_together(results: Iterable[dict[str, Any]], dim: int = 0) -> dict[str, Any]:
    """Results of units in one: tensors one after another along an axis, other values in lists.

    Raises `ConfigError` for tensors that have no such axis, or other shapes in other units.
    """
    held: dict[str, list[Any]] = {}
    for result in results:
        for name, value in result.items():
            held.setdefault(name, []).append(value)
    merged: dict[str, Any] = {}
    for name, values in held.items():
        if not all(isinstance(value, Tensor) for value in values):
            merged[name] = values
            continue
        try:
            merged[name] = torch.cat(values, dim)
        except RuntimeError as error:
            raise ConfigError(
                f"{name!r} of several units cannot be put together: {error}; jobs.map takes merge="
            ) from error
    return merged


@dataclass(frozen=True, eq=False)
class Mapped(Work):
    """A function over rows."""

    fn: Callable[..., Result]
    rows: Any
    model: ModelRef | None
    unit: int

    @property
    def n_units(self) -> int:
        """One for every `unit` rows; the last may have fewer."""
        return math.ceil(len(self.rows) / self.unit)

    @property
    def device(self) -> str:
        """The model's, if there is one."""
        return "cpu" if self.model is None else str(self.model.load().W_E.device)

    def specification(self) -> dict[str, Any]:
        """The function's code, the rows, the model and the unit."""
        digest = getattr(self.rows, "digest", None)
        return {
            "function": key_of(self.fn, "the function"),
            "rows": key_of(list(self.rows), "the data set") if digest is None else digest,
            "model": None if self.model is None else self.model.key(),
            "unit": self.unit,
        }

    def describe(self, unit: int) -> str:
        """The rows of a unit, and the first of them."""
        part = self._part(unit)
        return f"rows {unit * self.unit} to {unit * self.unit + len(part) - 1}: {describe(part)}"

    def compute(self, unit: int) -> Result:
        """Call the function. Raises `ConfigError` for what no file can hold."""
        part = self._part(unit)
        made = self.fn(part) if self.model is None else self.fn(self.model.load(), part)
        if not isinstance(made, dict) or not all(isinstance(name, str) for name in made):
            raise ConfigError(f"the function returned {describe(made)}; allowed: a dictionary of tensors, arrays and "
                              "JSON values by name")  # fmt: skip
        result = {name: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for name, v in made.items()}
        for name, value in result.items():
            try:
                if not isinstance(value, Tensor):
                    json.dumps(value)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"the function returned {name!r} = {describe(value)}; allowed: tensors, arrays and "
                                  "JSON values") from error  # fmt: skip
        return result

    def shared(self, folder: Path) -> "Mapped":
        """With the model in the job's folder."""
        return self if self.model is None else replace(self, model=self.model.snapshotted(folder / "model"))

    def _part(self, unit: int) -> Any:
        return self.rows[unit * self.unit : (unit + 1) * self.unit]
