"""Names of hook points: how they are written, what they stand for, and the map of all of them."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, SupportsIndex, cast

from interp.errors import ConfigError, HookNotFoundError, did_you_mean
from interp.indices import is_index, layer_index

HookName = str | tuple[str, SupportsIndex] | tuple[str, SupportsIndex, str] | Callable[[str], bool]
"""How points are named: in full, as a glob, short (`("pattern", 3)`, `("scale", 0, "ln2")`), or by a predicate."""


def layer_of(name: str) -> int | None:
    """The block number in a full name, or None outside the blocks."""
    found = re.match(r"blocks\.(\d+)\.", name)
    return int(found[1]) if found else None


def resolve(asked: HookName, names: Sequence[str], n_layers: int) -> list[str]:
    """The full names that `asked` stands for, in the order of `names`.

    Layers may be negative, in full names as well. Raises `HookNotFoundError` where nothing answers, or where a short
    name fits several points.
    """
    if callable(asked):
        found = [name for name in names if asked(name)]
        if not found:
            raise HookNotFoundError(f"the predicate {asked!r} is true of none of the {len(names)} names here")
        return found
    if isinstance(asked, tuple):
        return [_resolve_short(asked, names, n_layers)]
    if not isinstance(asked, str):
        raise HookNotFoundError(
            f"{asked!r} is not a name; allowed: a full name, a glob, (name, layer), (name, layer, part) or a predicate"
        )

    full = re.sub(r"^blocks\.(-\d+)\.", lambda match: f"blocks.{int(match[1]) + n_layers}.", asked)
    if full in names:
        return [full]
    if f"hook_{full}" in names:
        return [f"hook_{full}"]
    if any(sign in full for sign in "*?["):
        if found := [name for name in names if fnmatchcase(name, full)]:
            return found
        raise HookNotFoundError(f"the glob {asked!r} matches none of the {len(names)} names here")
    short = full.removeprefix("hook_")
    if any(name.endswith(f".hook_{short}") for name in names):
        raise HookNotFoundError(
            f"{asked!r} is in every layer: say ({short!r}, layer), or '*hook_{short}' for all of them"
        )
    raise HookNotFoundError(f"{asked!r} names nothing here{_range_hint(full, n_layers)}{did_you_mean(full, names)}")


def as_list(asked: HookName | Iterable[HookName] | None) -> list[HookName | None]:
    """One name, or several, as a list. Raises `HookNotFoundError` for a list without items."""
    if asked is None or isinstance(asked, str) or callable(asked):
        return [asked]
    if not isinstance(asked, Iterable):
        raise HookNotFoundError(f"{asked!r} is not a name, a predicate or a list of them")
    if isinstance(asked, tuple):  # a short name; several names come in a list
        return [cast(HookName, asked)]
    if not (several := list(asked)):
        raise HookNotFoundError("an empty list names nothing; None stands for every point that is not lazy")
    return cast(list[HookName | None], several)


def _resolve_short(asked: tuple[Any, ...], names: Sequence[str], n_layers: int) -> str:
    if len(asked) not in (2, 3) or not isinstance(asked[0], str) or not is_index(asked[1]):
        raise HookNotFoundError(
            f"{asked!r} is not a short name; allowed: (name, layer) such as ('pattern', 3), or "
            "(name, layer, part) such as ('scale', 3, 'ln1'); several names go in a list"
        )
    short = asked[0].removeprefix("hook_")
    try:
        layer = layer_index(asked[1], n_layers, "layer")
    except ConfigError as error:
        raise HookNotFoundError(f"{asked!r}: {error}") from None
    here = [name for name in names if layer_of(name) == layer]
    found = [name for name in here if name.endswith(f".hook_{short}")]
    if len(asked) == 3:
        found = [name for name in found if asked[2] in name.split(".")]
    if len(found) == 1:
        return found[0]
    if found:
        parts = " or ".join(repr(name.split(".")[-2]) for name in found)
        raise HookNotFoundError(f"{asked!r} fits {len(found)} points; add which part, {parts}, as a third item")
    shorts = [name.rsplit("hook_", 1)[1] for name in here]
    raise HookNotFoundError(f"{asked!r} names nothing in layer {layer}{did_you_mean(short, shorts)}")


def _range_hint(name: str, n_layers: int) -> str:
    found = re.match(r"blocks\.(-?\d+)\.", name)
    outside = found and not 0 <= int(found[1]) < n_layers
    return f" (this model has {n_layers} layers, counted from 0)" if outside else ""


@dataclass(frozen=True)
class HookInfo:
    """A row of `hook_map()`: full name, axes with their sizes where the model fixes them, meaning, laziness."""

    name: str
    shape: str
    meaning: str
    lazy: bool


class HookMap(Mapping[str, HookInfo]):
    """Every hook point of a model in order of execution: a mapping, a table in a terminal, HTML in a notebook."""

    def __init__(self, rows: Iterable[HookInfo]):
        self._rows = {row.name: row for row in rows}

    def __getitem__(self, name: str) -> HookInfo:
        if name not in self._rows:
            raise HookNotFoundError(f"{name!r} names nothing here{did_you_mean(name, self._rows)}")
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __rich__(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table("name", "shape", "meaning", title=f"{len(self)} hook points, in order of execution")
        for row in self.values():
            table.add_row(*map(Text, (row.name, row.shape, row.meaning + (" (lazy)" if row.lazy else ""))))
        return table

    def __repr__(self) -> str:
        from rich.console import Console

        console = Console(width=160)
        with console.capture() as text:
            console.print(self)
        return text.get()

    def _repr_html_(self) -> str:
        from html import escape

        cells = "".join(
            f"<tr><td><code>{escape(row.name)}</code></td><td>{escape(row.shape)}</td>"
            f"<td>{escape(row.meaning)}{' <em>(lazy)</em>' if row.lazy else ''}</td></tr>"
            for row in self.values()
        )
        return (
            f"<table><thead><tr><th>name</th><th>shape</th><th>meaning</th></tr></thead><tbody>{cells}</tbody></table>"
        )
