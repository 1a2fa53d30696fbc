"""Functions and modules that have a name, by which they are compared and saved."""

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from interp.digests import digest_of
from interp.errors import ConfigError, describe


class Named:
    """A function or a module, and the name that stands for it in files and comparisons.

    Two with the same name are equal; without names they are equal if they hold the same object.

    Attributes:
        fn: the function.
        name: its name. By default, that of a function at the top of a module is where it stands ("package.file.name"),
            and other functions and modules have none.

    Raises `ConfigError` for something that cannot be called, or for an empty name.
    """

    def __init__(self, fn: Callable[..., Any], name: str | None = None):
        if not callable(fn) or isinstance(fn, type):
            raise ConfigError(f"a function or a module is needed, not {type(fn).__name__}")
        if name is not None and not (isinstance(name, str) and name):
            raise ConfigError(f"a name is a text that is not empty, not {describe(name)}")
        self.fn, self.name = fn, _where(fn) if name is None else name

    def weights(self) -> str | None:
        """A hash of the weights of a module, or None."""
        return digest_of(self.fn.state_dict()) if isinstance(self.fn, nn.Module) else None

    def __call__(self, x: Tensor) -> Any:
        """What the function makes of `x`."""
        return self.fn(x)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Named):
            return False
        return self.fn is other.fn if self.name is None else self.name == other.name

    def __hash__(self) -> int:
        return id(self.fn) if self.name is None else hash(self.name)

    def __repr__(self) -> str:
        return self.name or getattr(self.fn, "__qualname__", type(self.fn).__name__)


def _where(fn: Callable[..., Any]) -> str | None:
    """Where a function stands, if it can be found there again."""
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "")
    found = getattr(sys.modules.get(module or ""), name, None)
    return f"{module}.{name}" if found is fn else None
