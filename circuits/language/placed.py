"""Placed: declarations whose layer may be left out."""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload, runtime_checkable

from interp.keywords import known_keywords

P = ParamSpec("P")
Returned = TypeVar("Returned", covariant=True)


@runtime_checkable
class Placed(Protocol[P, Returned]):
    """A declaration that can be called with a layer first, `c.head(0, "previous", ...)`, or without."""

    @overload
    def __call__(self, name: str, /, *args: P.args, **kwargs: P.kwargs) -> Returned: ...
    @overload
    def __call__(self, layer: int | None, name: str, /, *args: P.args, **kwargs: P.kwargs) -> Returned: ...


class placed(Generic[P, Returned]):
    """Lets the first argument of a method, the layer, be left out: `c.head("previous", ...)` has layer None.

    A keyword that the method does not take is refused with the nearest one (`interp.keywords`).
    """

    def __init__(self, method: Callable[Concatenate[Any, int | None, str, P], Returned]):
        self._method: Callable[..., Returned] = known_keywords(method)
        self.__doc__, self.__wrapped__ = method.__doc__, method

    def __get__(self, instance: Any, owner: type | None = None) -> Placed[P, Returned]:
        method = self._method

        @functools.wraps(method)
        def declare(*args: Any, **kwargs: Any) -> Returned:
            if args and not isinstance(args[0], str):
                return method(instance, *args, **kwargs)
            return method(instance, kwargs.pop("layer", None), *args, **kwargs)

        return declare
