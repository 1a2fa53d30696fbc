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
    if merge is not None and not callable(merge):
        raise ConfigError(f"merge = {describe(merge)}; allowed: a function of all units' results, or None")
    if not len(rows):
        raise ConfigError("jobs.map: there are no rows")
    try:
        rows[0:unit]
    except Exception as error:
        raise ConfigError(f"jobs.map: {describe(rows)} cannot be cut into slices: {error!r}; give a list") from error
    work = Mapped(fn, rows, None if model is None else ModelRef.of(model), unit)
    with run(work, **options) as job:
        return (put_together if merge is None else merge)(job.results())


def put_together(results: Iterable[dict[str, Any]], dim: int = 0) -> dict[str, Any]:
    """Results of units in one: tensors one after another along an axis, other values in lists.

    Raises `ConfigError` for tensors that have no such axis, and for names, shapes or dtypes that differ between units.

    >>> put_together([{"loss": torch.tensor([1.0])}, {"loss": torch.tensor([2.0, 3.0])}])
    {'loss': tensor([1., 2., 3.])}
    """
    held: dict[str, list[Any]] = {}
    for unit, result in enumerate(results):
        if unit and result.keys() != held.keys():
            raise ConfigError(f"unit 0 has {', '.join(held)}, and unit {unit} {', '.join(result)}; jobs.map takes "
                              "merge=")  # fmt: skip
        for name, value in result.items():
            held.setdefault(name, []).append(value)
    merged: dict[str, Any] = {}
    for name, values in held.items():
        kinds = [str(value.dtype) if isinstance(value, Tensor) else "no tensor" for value in values]
        if other := [unit for unit, kind in enumerate(kinds) if kind != kinds[0]]:
            raise ConfigError(f"{name!r} is {kinds[0]} in unit 0, and {kinds[other[0]]} in unit {other[0]}; jobs.map "
                              "takes merge=")  # fmt: skip
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
        return {
            "function": key_of(self.fn, "the function"),
            "rows": self._key_of_rows(),
            "model": None if self.model is None else self.model.key(),
            "unit": self.unit,
        }

    def called(self) -> dict[str, str]:
        """The function, the rows and the model."""
        names = {"function": getattr(self.fn, "__qualname__", describe(self.fn)), "rows": describe(self.rows)}
        return names if self.model is None else {**names, "model": repr(self.model)}

    def _key_of_rows(self) -> Any:
        if isinstance(digest := getattr(self.rows, "digest", None), str):
            return digest
        try:  # as units see them: to iterate over a table gives the names of its columns
            return key_of(self.rows[0 : len(self.rows)], "the data set")
        except ConfigError as error:
            raise ConfigError(
                f"jobs.map: {describe(self.rows)} has no key by which another process would find the same rows; give a "
                "list of numbers, texts, tensors or frozen dataclasses, or rows with a text `digest`"
            ) from error

    def describe(self, unit: int) -> str:
        """The rows of a unit, and the first of them."""
        part = self._part(unit)
        return f"rows {unit * self.unit} to {unit * self.unit + len(part) - 1}: {describe(part)}"

    def compute(self, unit: int) -> Result:
        """Call the function. Raises `ConfigError` for what no file can hold."""
        part = self._part(unit)
        made = self.fn(part) if self.model is None else self.fn(self.model.load(), part)
        if not isinstance(made, dict) or not all(_is_name(name) for name in made):
            raise ConfigError(f"the function returned {describe(made)}; allowed: a dictionary of tensors, arrays and "
                              "JSON values by name")  # fmt: skip
        return {name: _keepable(name, value) for name, value in made.items()}

    def shared(self, folder: Path) -> "Mapped":
        """With the model in the job's folder."""
        return self if self.model is None else replace(self, model=self.model.snapshotted(folder / "model"))

    def _part(self, unit: int) -> Any:
        return self.rows[unit * self.unit : (unit + 1) * self.unit]


def _is_name(name: object) -> bool:
    """Whether a file of tensors can have something by that name."""
    return isinstance(name, str) and name != "__metadata__" and not any("\ud800" <= c <= "\udfff" for c in name)


def _keepable(name: str, value: Any) -> Any:
    """A tensor or a JSON value that comes back from a file as it was. Raises `ConfigError` for anything else."""
    try:
        if isinstance(value, np.ndarray):  # a copy, of which torch demands an order of bytes and of axes
            value = torch.from_numpy(np.array(value, value.dtype.newbyteorder("="), order="C"))
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.is_meta:
                raise TypeError("it has no values of its own for every place")
            return value.detach().resolve_conj().resolve_neg()
        value = value.item() if isinstance(value, np.generic) else value
        _check_keys(value)
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the function returned {name!r} = {describe(value)}; allowed: tensors, arrays and JSON "
                          f"values ({error})") from error  # fmt: skip
    return value


def _check_keys(value: Any) -> None:
    """Raise `TypeError` for a key that JSON would turn into a text, perhaps that of another."""
    if isinstance(value, dict):
        if bad := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"the key {bad[0]!r} is no text")
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            _check_keys(one)
