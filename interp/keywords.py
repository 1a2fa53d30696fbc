"""Keywords: an argument that a function does not take is refused with the nearest one."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar, get_args

from interp.errors import ConfigError, did_you_mean

P = ParamSpec("P")
Returned = TypeVar("Returned")


def known_keywords(function: Callable[P, Returned]) -> Callable[P, Returned]:
    """The same function, which raises `ConfigError` for a keyword that it does not take.

    The message names the nearest keyword, and all of them. Options declared as `**options: Unpack[Options]` count.
    """
    parameters = list(inspect.signature(function).parameters.values())
    allowed: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            allowed += get_args(parameter.annotation)[0].__annotations__
        elif parameter.name not in ("self", "cls"):
            allowed.append(parameter.name)
    name = function.__qualname__.removesuffix(".__init__").rsplit(".", 1)[-1]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Returned:
        for keyword in kwargs:
            if keyword not in allowed:
                near = did_you_mean(keyword, allowed, said={one: f"{one}=" for one in allowed})
                raise ConfigError(f"{name}: unknown argument {keyword!r}; it takes {', '.join(allowed)}{near}")
        return function(*args, **kwargs)

    return checked
