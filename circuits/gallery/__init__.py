"""One short file a circuit, and the registry that finds them.

A file declares its circuit in `build()`, says in plain Python what it should predict in `reference(text)` (a word, None
for nothing to predict, logits by word, or `...` where it does not matter, for each position), and lists its check in
`inputs()`. A circuit that reads vectors has `vectors(text)`, too. A file with several circuits has `VARIANTS`, from
their names to the arguments that all these functions then take. Names in `SLOW` take minutes, and are checked on
request.

A file whose circuit has a source builds an `EncoderDecoder`. Its inputs are sources, and its reference gives the whole
answer to each.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Unpack

from torch import Tensor

from circuits import Circuit, EncoderDecoder
from circuits.verify import Expected, Report, VerifyOptions, VerifyPairOptions, verify, verify_pair
from interp.errors import ConfigError, did_you_mean
from interp.keywords import known_keywords

if TYPE_CHECKING:
    from circuits.gallery import induction

__all__ = [
    "Entry",
    "PairEntry",
    "entries",
    "entry",
    "induction",
    "pair",
    "row",
]  # every other circuit is found by its name


@dataclass(frozen=True)
class Row:
    """A row of the gallery: what circuits of one stack and of two have in common.

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

    def inputs(self) -> Iterable[str]:
        """The texts, or the sources, that it is checked on."""
        return self.module.inputs(**self.arguments)


@dataclass(frozen=True)
class Entry(Row):
    """A circuit of the gallery. A pickled entry is found again by its name. Attributes are those of `Row`."""

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

    @known_keywords
    def verify(self, **options: Unpack[VerifyOptions]) -> Report:
        """The check over all its inputs, or a sample of them; options as `circuits.verify.verify` takes them."""
        if self.reads_vectors:
            options.setdefault("vectors", self.vectors)
        return verify(self.build(), self.inputs(), self.reference, **options)

    def __reduce__(self) -> tuple[Callable[[str], "Entry"], tuple[str]]:
        return entry, (self.name,)


@dataclass(frozen=True)
class PairEntry(Row):
    """A circuit of the gallery that has a source. Attributes are those of `Row`."""

    def build(self) -> EncoderDecoder:
        """The circuit."""
        return self.module.build(**self.arguments)

    def reference(self, text: str) -> list[str]:
        """The right answer to a source: the words of the whole target."""
        return self.module.reference(text, **self.arguments)

    @known_keywords
    def verify(self, **options: Unpack[VerifyPairOptions]) -> Report:
        """The check over all its sources, or a sample; options as `circuits.verify.verify_pair` takes them."""
        return verify_pair(self.build(), self.inputs(), self.reference, **options)

    def __reduce__(self) -> tuple[Callable[[str], "PairEntry"], tuple[str]]:
        return pair, (self.name,)


def entries() -> dict[str, Entry | PairEntry]:
    """Every circuit of the gallery by name.

    >>> "previous_token" in entries()
    True
    """
    found: dict[str, Entry | PairEntry] = {}
    for info in pkgutil.iter_modules(__path__, f"{__name__}."):
        module = importlib.import_module(info.name)
        variants = getattr(module, "VARIANTS", {info.name.rsplit(".", 1)[1]: {}})
        slow = getattr(module, "SLOW", ())
        kind = PairEntry if module.build.__annotations__["return"] is EncoderDecoder else Entry
        found |= {name: kind(name, module, arguments, name in slow) for name, arguments in variants.items()}
    return found


def entry(name: str) -> Entry:
    """The circuit of that name. Raises `ConfigError` with the nearest name, and for a circuit that has a source."""
    one = row(name)
    if not isinstance(one, Entry):
        raise ConfigError(f"circuit {name!r} has a source; here circuits of one stack are asked for (`pair` finds it)")
    return one


def pair(name: str) -> PairEntry:
    """The circuit with a source of that name. Raises `ConfigError` with the nearest name, and for one without."""
    one = row(name)
    if not isinstance(one, PairEntry):
        raise ConfigError(
            f"circuit {name!r} has no source; here circuits that have one are asked for (`entry` finds it)"
        )
    return one


def row(name: str) -> Entry | PairEntry:
    """The circuit of that name, of either kind. Raises `ConfigError` with the nearest name.

    >>> type(row("copy_source")).__name__, type(row("ioi")).__name__
    ('PairEntry', 'Entry')
    """
    found = entries()
    if name not in found:
        raise ConfigError(f"the gallery has no circuit {name!r}; it has {', '.join(found)}{did_you_mean(name, found)}")
    return found[name]
