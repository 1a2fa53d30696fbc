"""What the fields of a configuration may hold, read off their annotations."""

import dataclasses
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import torch

from interp.errors import ConfigError, did_you_mean


def refuse(contradiction: bool, explanation: str) -> None:
    """Raise `ConfigError` with the explanation where there is a contradiction."""
    if contradiction:
        raise ConfigError(explanation)


def check_by_name(values: object, config: type) -> None:
    """Raise `ConfigError` unless these are fields by name, of a `config`."""
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        article = "an" if config.__name__.startswith("E") else "a"
        raise ConfigError(f"a config is {article} {config.__name__}, or a dictionary with its fields by name, not a "
                          f"{type(values).__name__}")  # fmt: skip


def check_names(given: Iterable[str], config: Any) -> None:
    """Raise `ConfigError` for names that are no fields of a `config`, and for fields that have to be given."""
    given, fields = list(given), dataclasses.fields(config)
    names = [field.name for field in fields]
    for name in given:
        if name not in names:
            raise ConfigError(f"unknown config field {name!r}{did_you_mean(name, names)}")
    if missing := [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in given]:
        raise ConfigError(f"config fields without a default are missing: {', '.join(missing)}")


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of that name, such as "float32". Raises `ConfigError` with the nearest one."""
    dtypes = {n: d for n in dir(torch) if isinstance(d := getattr(torch, n), torch.dtype)}
    if name not in dtypes:
        raise ConfigError(f"dtype = {name!r} is not a torch dtype{did_you_mean(name, dtypes)}")
    return dtypes[name]


def alternatives(hint: Any) -> list[Any]:
    """The types and literal values that a field's annotation allows, in a flat list."""
    if get_origin(hint) in (Literal, Union, UnionType):
        return [leaf for part in get_args(hint) for leaf in alternatives(part)]
    return [hint]


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is one that a field's annotation allows. An integer passes for a number with a point."""
    for option in alternatives(hint):
        if isinstance(option, str):
            ok = isinstance(value, str) and value == option
        elif option is float:
            ok = isinstance(value, int | float) and not isinstance(value, bool)
        elif option is int:
            ok = isinstance(value, int) and not isinstance(value, bool)
        elif get_origin(option) is tuple:
            ok = isinstance(value, tuple) and all(fits(item, get_args(option)[0]) for item in value)
        else:
            ok = isinstance(value, option)
        if ok:
            return True
    return False


def spell_all(hint: Any) -> str:
    """What a field's annotation allows, as messages say it."""

    def spell(option: Any) -> str:
        if get_origin(option) is tuple:
            return f"a tuple of {spell_all(get_args(option)[0])}, one a layer"
        return repr(option) if isinstance(option, str) else "None" if option is NoneType else option.__name__

    return " | ".join(map(spell, alternatives(hint)))
