"""What is raised where TransformerLens asserts, and what stands for its names that are not covered."""

from collections.abc import Callable
from typing import Any, NoReturn

from interp.compat.migration.table import known
from interp.errors import ConfigError, ShapeError


class LensError(ConfigError, ShapeError, AssertionError, RuntimeError):
    """One of our errors that code written for theirs catches as well, as an AssertionError or a RuntimeError."""


def ensure(right: bool, message: str) -> None:
    """Raise `LensError` unless `right`."""
    if not right:
        raise LensError(message)


def not_covered(owner: str, name: str) -> str:
    """What to do instead of a name that `interp migrate` knows and this module has not; "" for any other name."""
    entry = None if name.startswith("_") else known(f"{owner} {name}" if owner == "import" else f"{owner}.{name}")
    if entry is None or entry.rules[""].in_module:
        return ""
    return f"{name} is not covered by interp.compat.transformer_lens: {entry.rules[''].say}"


class Refused:
    """What can be imported and not be used: a call raises `ConfigError`, an attribute `AttributeError`."""

    def __init__(self, name: str, said: str):
        self.__name__, self._said = name, said

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise it."""
        raise ConfigError(self._said)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(vars(self).get("_said", name))


def refusals(module: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module: `Refused` for its names that are not covered, and for no other."""
    file = module.rpartition(".")[2]

    def refuse(name: str) -> Any:
        said = not_covered("import" if file == "transformer_lens" else file, name)
        if not said:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return Refused(name, said)

    return refuse
