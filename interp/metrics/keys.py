"""Keys: what a metric computes, in JSON values that are the same in every process and differ where the metric does.

A resumed sweep compares them. Numbers, texts and tensors are keyed by value. A function is keyed by its code, its
defaults, what it captures, and the variables of its module that it uses, each keyed in turn; a class by its methods and
the values that it holds. Functions and classes of installed packages are keyed by name alone. What cannot be keyed this
way, such as an object with state of its own, is refused, because two of them cannot be told apart in another process.
"""

import dataclasses
import dis
import enum
import functools
import sys
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.digests import digest_of
from interp.errors import ConfigError, describe
from interp.interventions import Named, Values


def key_of(value: object, where: str = "the metric", within: tuple[object, ...] = ()) -> Any:
    """`value` as JSON values.

    Args:
        value: what is keyed.
        where: what messages call it.
        within: the functions that are being keyed around it, which it may call again.

    Raises `ConfigError` for what cannot be keyed, with the way out.

    >>> from interp.metrics import LogitDifference
    >>> key_of(LogitDifference("Mary", "John")) == key_of(LogitDifference("Mary", "John"))
    True
    """
    if isinstance(value, enum.Enum):
        return ["enum", type(value).__qualname__, value.name, key_of(value.value, where, within)]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | complex | bytes | range | slice | torch.dtype | torch.device | np.dtype):
        return [type(value).__name__, repr(value)]  # a float's repr is exact
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "buifc":
        return ["array", digest_of({"": torch.as_tensor(np.ascontiguousarray(value))})]
    if isinstance(value, Tensor):
        return ["tensor", digest_of({"": value})]
    if isinstance(value, list | tuple):
        return [type(value).__name__, *(key_of(one, where, within) for one in value)]
    if isinstance(value, set | frozenset):
        return ["set", *sorted((key_of(one, where, within) for one in value), key=str)]
    if isinstance(value, Values):
        return ["values", value.digest, value.made_by]
    if isinstance(value, Mapping):
        pairs = ([key_of(k, where, within), key_of(v, where, within)] for k, v in value.items())
        return ["mapping", *sorted(pairs, key=str)]
    if isinstance(value, types.ModuleType):
        return ["module", value.__name__]
    if isinstance(value, functools.partial):
        return ["partial", *(key_of(part, where, within) for part in (value.func, value.args, value.keywords))]
    if isinstance(value, types.FunctionType):
        return _key_of_function(value, where, within)
    if isinstance(value, Named):
        return _key_of_named(value, where, within)
    if isinstance(value, types.BuiltinFunctionType) and _is_stateless(value.__self__):
        return ["builtin", value.__module__, value.__qualname__]
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and type(value).__hash__ is not None:
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return [key_of(type(value), where, within), key_of(fields, where, within)]  # frozen: its fields are what it is
    if isinstance(value, type):
        return _key_of_class(value, where, within)
    raise ConfigError(
        f"{where} uses {describe(value)}, which has no key that another process would find again, so neither "
        "a checkpoint nor a job could tell whether it is the same; use one of interp.metrics, capture numbers, texts "
        "or tensors, say which it is by Function(fn, key_text='...'), or (in a single call) leave checkpoint= out"
    )


def _key_of_named(value: Named, where: str, within: tuple[object, ...]) -> list[Any]:
    """A function by its code, or by its name if its code cannot be keyed; a module by its name and weights."""
    weights = value.weights()
    if weights is None:
        try:
            return key_of(value.fn, where, within)
        except ConfigError:
            if value.name is None:
                raise
    if value.name is None:
        raise ConfigError(
            f"{where} uses {describe(value.fn)}, a module, which is more than its weights: give it a name that says "
            "which it is, Named(module, 'a name')"
        )
    return ["named", value.name, weights]


def _key_of_function(fn: types.FunctionType, where: str, within: tuple[object, ...]) -> list[Any]:
    name = [fn.__module__, fn.__qualname__]
    if any(fn is outer for outer in within):  # it calls itself
        return ["again", name[1]]
    if within and not _is_callers(fn, fn.__code__):
        return ["function", *name]
    inner = (*within, fn)
    captured = {}
    for variable, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            captured[variable] = cell.cell_contents
        except ValueError:  # not assigned yet
            captured[variable] = None
    named = {name: fn.__globals__[name] for name in _globals_used(fn.__code__) if name in fn.__globals__}
    used = {f"captured {v}": value for v, value in captured.items()} | {f"global {n}": g for n, g in named.items()}
    inside = f"{where} {fn.__qualname__}" if not within else f"{where}, in {fn.__qualname__},"
    parts = [[what, key_of(each, f"{inside} ({what})", inner)] for what, each in sorted(used.items())]
    defaults = key_of([fn.__defaults__, fn.__kwdefaults__], f"{inside} (a default)", inner)
    return ["function", name[1], _key_of_code(fn.__code__), defaults, parts]


def _key_of_class(kind: type, where: str, within: tuple[object, ...]) -> list[Any]:
    name = [kind.__module__, kind.__qualname__]
    if any(kind is outer for outer in within) or not _is_callers(kind, sys.modules.get(kind.__module__)):
        return ["type", *name]
    inside, inner = f"{where}, in {kind.__qualname__},", (*within, kind)
    parts = [[member, key_of(value, inside, inner)] for member, value in sorted(_members(kind).items())]
    return ["type", name[1], [key_of(base, inside, inner) for base in kind.__bases__], parts]


def _members(kind: type) -> dict[str, Any]:
    """The methods of a class and the values that it holds, without what Python adds."""
    members = {}
    for name, value in vars(kind).items():
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        if isinstance(value, property | functools.cached_property):
            value = value.fget if isinstance(value, property) else value.func
        if isinstance(value, types.FunctionType):
            added = value.__code__.co_filename.startswith("<string") or value.__module__ != kind.__module__
        else:
            added = (name.startswith("_") and name.endswith("_")) or name == "_abc_impl"
            added |= isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType)
        if not added:
            members[name] = value
    return members


def _is_stateless(of: object) -> bool:
    """Whether a built-in function belongs to a module, a class, or torch itself, rather than to a list and the like."""
    return isinstance(of, types.ModuleType | type | None) or type(of).__module__.partition(".")[0] == "torch"


def _is_callers(what: types.FunctionType | type, stands_in: object) -> bool:
    """Whether it is the caller's, whose code may change from run to run, rather than that of an installed package."""
    package = (what.__module__ or "").partition(".")[0]
    path = stands_in.co_filename if isinstance(stands_in, types.CodeType) else getattr(stands_in, "__file__", None)
    return package not in {"interp", *sys.stdlib_module_names} - {"__main__"} and "site-packages" not in (path or "")


def _key_of_code(code: types.CodeType) -> list[Any]:
    constants = [
        _key_of_code(c) if isinstance(c, types.CodeType) else ["..."] if c is ... else key_of(c) for c in code.co_consts
    ]
    return [code.co_code.hex(), code.co_exceptiontable.hex(), constants, list(code.co_names), list(code.co_varnames)]


def _globals_used(code: types.CodeType) -> list[str]:
    """The names of the module's variables (and built-in ones) that code reads, in functions inside it as well."""
    found = {i.argval for i in dis.get_instructions(code) if "GLOBAL" in i.opname or i.opname == "LOAD_NAME"}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found.update(_globals_used(constant))
    return sorted(found)
