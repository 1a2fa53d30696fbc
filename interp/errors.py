"""What can go wrong, as types. A message says what was given, what is allowed, and the nearest match."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches


class InterpError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(InterpError, ValueError):
    """A configuration field is unknown, out of range, or contradicts another."""


class ShapeError(InterpError, ValueError):
    """A tensor has another shape, dtype or device than its place allows."""


class TokenError(InterpError, ValueError):
    """Text or token ids that the vocabulary or the model cannot take."""


class HookNotFoundError(InterpError, KeyError):
    """No activation answers to that name."""

    __str__ = Exception.__str__  # KeyError would print the message's repr


class HookNotFiredError(InterpError, RuntimeError):
    """A hook was asked for that this run cannot reach, or did not reach."""


class CacheError(InterpError, RuntimeError):
    """A cache and the model it is read with do not belong together."""


class ReadOnlyError(InterpError, TypeError):
    """Something is written to that is a copy, so that nothing else would change."""


class RangeError(InterpError, ValueError):
    """Values that cannot be what they are said to be, such as a pattern with entries above 1."""


class RankError(InterpError, ValueError):
    """A matrix does not fit the width it is to be factored through, or a circuit's spaces the stream."""


class CheckpointError(InterpError, ValueError):
    """A file of weights, activations or configuration cannot be used; no half-loaded object is returned."""


class JobError(InterpError, RuntimeError):
    """Units of a job failed, or are missing.

    Attributes:
        failed: what went wrong, by unit.
        missing: the units that have no result, those that failed among them.
    """

    def __init__(self, message: str, failed: Mapping[int, str] | None = None, missing: Sequence[int] = ()):
        super().__init__(message)
        self.failed, self.missing = dict(failed or {}), list(missing)

    def __reduce__(self) -> tuple[type["JobError"], tuple[str, dict[int, str], list[int]]]:
        return type(self), (str(self), self.failed, self.missing)


def did_you_mean(given: str, allowed: Iterable[str], cutoff: float = 0.5, said: Mapping[str, str] | None = None) -> str:
    """`"; did you mean 'a' or 'b'?"`, or nothing where no option is close.

    A suggestion must work when it is pasted. Where the code to paste differs from the word that is compared, `said`
    gives the code for each word.
    """
    near = get_close_matches(given, list(allowed), n=3, cutoff=cutoff)
    suggested = dict.fromkeys(repr(word) if said is None else said[word] for word in near)
    return f"; did you mean {' or '.join(suggested)}?" if suggested else ""


def describe(value: object) -> str:
    """A value that somebody gave, short enough for a message: a tensor's shape, not its numbers; a module's kind.

    Text and numbers are shown as Python writes them; what is long is cut.
    """
    shape, kind = getattr(value, "shape", None), type(value).__name__
    if shape is not None and not isinstance(value, type):
        held = not len(shape) and hasattr(value, "item") and not getattr(value, "is_meta", False)
        number = f": {value.item()}" if held else ""  # pyright: ignore
        return f"{kind} of {getattr(value, 'dtype', '')} {tuple(shape)}{number}".replace("torch.", "")
    if isinstance(value, list | tuple | set | frozenset):
        shown = ", ".join(describe(item) for item in list(value)[:4]) + (", ..." if len(value) > 4 else "")
        if len(shown) > 200:
            return f"{kind} of {len(value)}"
        return f"({shown}{',' * (len(value) == 1)})" if isinstance(value, tuple) else f"[{shown}]"
    if isinstance(value, Mapping):
        return f"{kind} of {', '.join(map(str, list(value)[:4]))}{', ...' if len(value) > 4 else ''}"
    text = repr(value)
    if len(text) <= 80 and "\n" not in text:
        return text
    begun = f"{text.splitlines()[0][:60]}..."
    return begun if begun.startswith(kind) else f"{kind} {begun}"


def check_choice(name: str, given: object, allowed: Sequence[str]) -> None:
    """Raise `ConfigError` unless `given` is one of the allowed words."""
    if not isinstance(given, str) or given not in allowed:
        words = ", ".join(map(repr, allowed))
        raise ConfigError(f"{name} = {describe(given)}; allowed: {words}{did_you_mean(str(given), allowed)}")
