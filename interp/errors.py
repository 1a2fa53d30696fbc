"""What can go wrong, as types. A message says what was given, what is allowed, and the nearest match."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from reprlib import Repr


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


class RangeError(InterpError, ValueError):
    """Values that cannot be what they are said to be, such as a pattern with entries above 1."""


class RankError(InterpError, ValueError):
    """A matrix does not fit the width it is to be factored through, or a circuit's spaces the stream."""


class CheckpointError(InterpError, ValueError):
    """A file of weights, activations or configuration cannot be used; no half-loaded object is returned."""


def did_you_mean(given: str, allowed: Iterable[str], cutoff: float = 0.5, said: Mapping[str, str] | None = None) -> str:
    """`"; did you mean 'a' or 'b'?"`, or nothing where no option is close.

    What is suggested must work when it is pasted. Where that is other code than the word that is compared, `said` has
    the code, by the word.
    """
    near = get_close_matches(given, list(allowed), n=3, cutoff=cutoff)
    suggested = dict.fromkeys(repr(word) if said is None else said[word] for word in near)
    return f"; did you mean {' or '.join(suggested)}?" if suggested else ""


class _Described(Repr):
    """Reprs of bounded length; tensors and modules, whose reprs fill screens, by their kind and sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80
        self.maxlong, self.maxlist, self.maxtuple = 40, 8, 8

    def repr_instance(self, x: object, level: int) -> str:  # reprlib's own names
        kind, shape, dtype = type(x).__name__, getattr(x, "shape", None), getattr(x, "dtype", None)
        if not isinstance(x, type) and callable(getattr(x, "state_dict", None)):
            return f"<{kind}>"
        if isinstance(x, type) or shape is None or dtype is None:
            return super().repr_instance(x, level)
        return f"<{kind} of shape {tuple(shape)}, {dtype}>" if len(shape) else f"{kind}({x.item()})"  # type: ignore


_REPR = _Described()


def described(value: object) -> str:
    """What was given, for a message: its repr, cut off in the middle where it is long.

    A tensor, an array or a module is named with its shape and dtype instead of being printed, in lists as well.
    """
    said = _REPR.repr(value)
    return said if len(said) <= 300 else f"{said[:200]} ... {said[-80:]}"


def check_choice(name: str, given: object, allowed: Sequence[str]) -> None:
    """Raise `ConfigError` unless `given` is one of the allowed words."""
    if given not in allowed:
        words = ", ".join(map(repr, allowed))
        raise ConfigError(f"{name} = {described(given)}; allowed: {words}{did_you_mean(str(given), allowed)}")
