"""What the fields of a configuration may hold, read off their annotations."""

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import torch

from interp.errors import ConfigError, did_you_mean


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
