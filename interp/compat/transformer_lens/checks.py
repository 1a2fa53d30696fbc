"""What is raised where TransformerLens asserts or downloads, and what stands for its names that are not covered."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from interp.errors import ConfigError, ShapeError


class LensError(ConfigError, ShapeError, AssertionError, RuntimeError):
    """One of our errors that code written for theirs catches as well, as an AssertionError or a RuntimeError."""


def ensure(right: bool, message: str) -> None:
    """Raise `LensError` unless `right`."""
    if not right:
        raise LensError(message)


class Refused:
    """What can be imported and not be used: a call raises `ConfigError`, an attribute `AttributeError`.

    Both say what to do instead.
    """

    def __init__(self, name: str, instead: str):
        self.__name__, self._said = name, f"{name} is not covered by interp.compat.transformer_lens: {instead}"

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise it."""
        raise ConfigError(self._said)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(vars(self).get("_said", name))


def answers(module: str, instead: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module: `Refused` for names of TransformerLens that are keys, several in a key."""
    said = {name: what for names, what in instead.items() for name in names.split()}

    def answer(name: str) -> Any:
        if name not in said:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return Refused(name, said[name])

    return answer
