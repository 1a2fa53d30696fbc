"""What can go wrong, as types. A message says what was given, what is allowed, and the nearest match."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches


class InterpError(Exception):
    """Base of every error this package raises on purpose.

    >>> try:
    ...     model("Mary gave the aardvark")
    ... except InterpError as error:
    ...     print(type(error).__name__)
    TokenError
    """


class ConfigError(InterpError, ValueError):
    """A configuration field is unknown, out of range, or contradicts another.

    >>> TransformerConfig(n_layers=2, d_model=30, n_heads=4, n_ctx=16, d_vocab=12)
    Traceback (most recent call last):
    interp.errors.ConfigError: d_model = 30 is not a multiple of n_heads = 4; give d_head as well
    """


class ShapeError(InterpError, ValueError):
    """A tensor has another shape, dtype or device than its place allows.

    >>> model(model.to_tokens(clean), attention_mask=torch.ones(1, 3))
    Traceback (most recent call last):
    interp.errors.ShapeError: attention_mask has shape (1, 3) on cpu; the input has (1, 10) [batch, pos] on cpu
    """


class TokenError(InterpError, ValueError):
    """Text or token ids that the vocabulary or the model cannot take.

    >>> model.to_tokens("Mary gave the aardvark")
    Traceback (most recent call last):
    interp.errors.TokenError: unknown word 'aardvark' at place 3 (character 14) of 'Mary gave the aardvark'; ...
    """


class HookNotFoundError(InterpError, KeyError):
    """No activation answers to that name.

    >>> model.run_with_cache(clean, names_filter="hook_patern")
    Traceback (most recent call last):
    interp.errors.HookNotFoundError: 'hook_patern' names nothing here; did you mean ...
    """

    __str__ = Exception.__str__  # KeyError would print the message's repr


class HookNotFiredError(InterpError, RuntimeError):
    """A hook was asked for that this run cannot reach, or did not reach.

    >>> model.run_with_cache(clean, None, names_filter=[("z", 1)], stop_at_layer=1)
    Traceback (most recent call last):
    interp.errors.HookNotFiredError: ('z', 1) is not reached by a run with start_at_layer = None, stop_at_layer = 1
    """


class CacheError(InterpError, RuntimeError):
    """A cache and the model it is read with do not belong together.

    >>> _, cache = model.run_with_cache(clean)
    >>> with torch.no_grad():
    ...     _ = model.W_U.mul_(2)
    >>> cache.logit_attrs(cache.decompose_resid(), "Mary")
    Traceback (most recent call last):
    interp.errors.CacheError: the model's weights changed after this cache was made: run it again
    """


class ReadOnlyError(InterpError, TypeError):
    """Something is written to that is a copy, so that nothing else would change.

    >>> model.W_Q[0, 0] = 0.0
    Traceback (most recent call last):
    interp.errors.ReadOnlyError: these are weights of all layers stacked into a copy, ...
    """


class RangeError(InterpError, ValueError):
    """Values that cannot be what they are said to be, such as a pattern with entries above 1.

    >>> from interp.training import phase_change
    >>> phase_change(torch.full((500,), torch.nan))
    Traceback (most recent call last):
    interp.errors.RangeError: losses that are not finite ...
    """


class RankError(InterpError, ValueError):
    """A matrix does not fit the width it is to be factored through, or a circuit's spaces the stream.

    >>> from circuits import Circuit, copy
    >>> c = Circuit(vocab="abc", n_ctx=4)
    >>> _ = c.head("copy", ov=copy(c.tok, c.out))
    >>> c.compile(d_model=1)
    Traceback (most recent call last):
    interp.errors.RankError: the circuit's spaces need d_model >= 6 but d_model = 1 (tok 3, out 3); ...
    """


class CheckpointError(InterpError, ValueError):
    """A file of weights, activations or configuration cannot be used; no half-loaded object is returned.

    >>> HookedTransformer.from_pretrained("none.gguf")
    Traceback (most recent call last):
    interp.errors.CheckpointError: 'none.gguf' ...
    """


class JobError(InterpError, RuntimeError):
    """Units of a job failed, or are missing.

    Attributes:
        failed: what went wrong, by unit.
        missing: the units that have no result, those that failed among them.

    >>> from interp.jobs import map
    >>> map(dict, [1, 2], folder="pairs", progress=False)
    Traceback (most recent call last):
    interp.errors.JobError: 1 of 1 units failed. Unit 0 ...
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


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Errors of this block say what they are about: `"source: ..."`, where a caller gave several things of a kind."""
    try:
        yield
    except InterpError as error:
        raise type(error)(f"{what}: {error}") from None


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
    if text.startswith(f"{kind}(\n"):  # a module, whose parts stand on lines of their own
        return kind
    begun = f"{text.splitlines()[0][:60]}..."
    return begun if begun.startswith(kind) else f"{kind} {begun}"


def check_choice(name: str, given: object, allowed: Sequence[str]) -> None:
    """Raise `ConfigError` unless `given` is one of the allowed words."""
    if not isinstance(given, str) or given not in allowed:
        words = ", ".join(map(repr, allowed))
        raise ConfigError(f"{name} = {describe(given)}; allowed: {words}{did_you_mean(str(given), allowed)}")
