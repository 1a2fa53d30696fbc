"""One short file a circuit, and the registry that finds them.

A file declares its circuit in `build()`, says in plain Python what it should predict in `reference(text)` (a word, None
for nothing to predict, logits by word, or `...` where it does not matter, for each position), and lists its check in
`inputs()`. A circuit that reads vectors has `vectors(text)`, too. A file with several circuits has `VARIANTS`, from
their names to the arguments that all these functions then take. Names in `SLOW` take minutes, and are checked on
request.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Unpack

from torch import Tensor

from circuits import Circuit
from circuits.verify import Expected, Report, VerifyOptions, verify
from interp.errors import ConfigError, did_you_mean
from interp.keywords import known_keywords

if TYPE_CHECKING:
    from circuits.gallery import induction

__all__ = ["Entry", "entries", "entry", "induction"]  # every other circuit is found by its name


@dataclass(frozen=True)
class Entry:
    """A circuit of the gallery. A pickled entry is found again by its name.

    Attributes:
        name: as `interp circuits verify` takes it.
        module: its file.
        arguments: what this variant gives to the file's functions.
        slow: whether its check takes minutes.
    """

    name: str
    module: ModuleType
    arguments: Mapping[str, Any]
    slow: bool

    @property
    def summary(self) -> str:
        """The first sentence of the file's docstring."""
        return (inspect.getdoc(self.module) or "").split("\n\n")[0].replace("\n", " ")

    def build(self) -> Circuit:
        """The circuit."""
        return self.module.build(**self.arguments)

    def reference(self, text: str) -> list[Expected]:
        """The predictions that are right, one for each position of `text`."""
        return self.module.reference(text, **self.arguments)

    @property
    def reads_vectors(self) -> bool:
        """Whether its texts come with vectors."""
        return hasattr(self.module, "vectors")

    def vectors(self, text: str) -> Mapping[str, Tensor]:
        """The vectors of a text, [pos, size], by the space that they are given in; none for most circuits."""
        return self.module.vectors(text, **self.arguments) if self.reads_vectors else {}

    def inputs(self) -> Iterable[str]:
        """The texts it is checked on."""
        return self.module.inputs(**self.arguments)

    @known_keywords
    def verify(self, **options: Unpack[VerifyOptions]) -> Report:
        """The check over all its inputs, or a sample of them; options as `circuits.verify.verify` takes them."""
        if self.reads_vectors:
            options.setdefault("vectors", self.vectors)
        return verify(self.build(), self.inputs(), self.reference, **options)

    def __reduce__(self) -> tuple[Callable[[str], "Entry"], tuple[str]]:
        return entry, (self.name,)


def entries() -> dict[str, Entry]:
    """Every circuit of the gallery by name."""
    found: dict[str, Entry] = {}
    for info in pkgutil.iter_modules(__path__, f"{__name__}."):
        module = importlib.import_module(info.name)
        variants = getattr(module, "VARIANTS", {info.name.rsplit(".", 1)[1]: {}})
        slow = getattr(module, "SLOW", ())
        found |= {name: Entry(name, module, arguments, name in slow) for name, arguments in variants.items()}
    return found


def entry(name: str) -> Entry:
    """The circuit of that name. Raises `ConfigError` with the nearest name."""
    found = entries()
    if name not in found:
        raise ConfigError(f"the gallery has no circuit {name!r}; it has {', '.join(found)}{did_you_mean(name, found)}")
    return found[name]
