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


def not_covered(owner: str, name: str) -> Refused | None:
    """What stands for a name that the table of `interp migrate` has, and says that it does not run here."""
    entry = None if name.startswith("_") else known(f"{owner}{name}")
    return None if entry is None or entry.rules[""].in_module else Refused(name, entry.rules[""].say)


def refusals(module: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module of this package: `not_covered` for its names."""
    file = module.rpartition(".")[2]
    owner = "import " if file == "transformer_lens" else f"{file}."

    def refuse(name: str) -> Any:
        if refused := not_covered(owner, name):
            return refused
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return refuse
