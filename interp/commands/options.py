"""Options that several commands share, declared once: as fields of a dataclass, and as what a model reads."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from interp.errors import ConfigError

Command = Callable[..., None]


def with_fields(command: Command) -> Command:
    """The command with the fields of every dataclass among its arguments as options of their own, in its place."""
    hints = get_type_hints(command, include_extras=True)
    shared: dict[str, Any] = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    options: list[inspect.Parameter] = []
    for name, own in inspect.signature(command).parameters.items():
        if name not in shared:
            options.append(own.replace(annotation=hints[name]))
            continue
        of_fields = get_type_hints(shared[name], include_extras=True)
        for field in dataclasses.fields(shared[name]):
            options.append(own.replace(name=field.name, annotation=of_fields[field.name], default=field.default))

    @functools.wraps(command)
    def flat(**given: Any) -> None:
        for name, kind in shared.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in dataclasses.fields(kind)})
        command(**given)

    flat.__signature__ = inspect.Signature(options)  # pyright: ignore[reportAttributeAccessIssue]
    flat.__annotations__ = {option.name: option.annotation for option in options}
    return flat


def are_of_two_stacks(texts: Mapping[str, str | None], sources: Mapping[str, str | None], *more: str | None) -> bool:
    """Whether the prompts among the options, by name, are those of an encoder with a decoder.

    Args:
        texts: what a model of one stack reads.
        sources: what the encoder reads.
        more: what the decoder reads besides; it may be left out.

    Raises `ConfigError` where some of both kinds are given, or not all of one.
    """
    one, two = (any(text is not None for text in given) for given in (texts.values(), (*sources.values(), *more)))
    said, in_pair = " and ".join(texts), " and ".join(sources)
    if one and two:
        raise ConfigError(f"a model of one stack reads {said}, an encoder with a decoder {in_pair}; give one kind")
    if not (one or two):
        raise ConfigError(f"give {said}; of an encoder with a decoder, {in_pair}")
    needed = sources if two else texts
    if missing := [name for name, text in needed.items() if text is None]:
        raise ConfigError(f"{missing[0]} is missing; give {in_pair if two else said}")
    return two
