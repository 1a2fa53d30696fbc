"""Names of hook points: how they are written, what they stand for, and the map of all of them."""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, SupportsIndex, cast

from interp.errors import ConfigError, HookNotFoundError, describe, did_you_mean
from interp.indices import is_index, layer_index

HookName = str | tuple[str, SupportsIndex] | tuple[str, SupportsIndex, str] | Callable[[str], bool]
"""How points are named: in full, as a glob, short (`("pattern", 3)`, `("scale", 0, "ln2")`), or by a predicate."""


@functools.cache
def layer_of(name: str) -> int | None:
    """The block number in a full name, or None outside the blocks."""
    found = re.match(r"blocks\.(\d+)\.", name)
    return int(found[1]) if found else None


def resolve(asked: HookName, names: Sequence[str], n_layers: int) -> list[str]:
    """The full names that `asked` stands for, in the order of `names`.

    Layers may be negative, in full names as well. The word of a short name may carry its part: `("ln1.hook_scale", 0)`
    is `("scale", 0, "ln1")`. Raises `HookNotFoundError` where nothing answers, or where a short name fits several
    points; the names that it suggests work as they stand.
    """
    if callable(asked):
        found = [name for name in names if asked(name)]
        if not found:
            raise HookNotFoundError(f"the predicate {describe(asked)} is true of none of the {len(names)} names here")
        return found
    if isinstance(asked, tuple):
        return [_resolve_short(asked, names, n_layers)]
    if not isinstance(asked, str):
        raise HookNotFoundError(
            f"{describe(asked)} is not a name; allowed: a full name, a glob, (name, layer), (name, layer, part) or a "
            "predicate"
        )

    full = re.sub(r"^blocks\.(-\d+)\.", lambda match: f"blocks.{int(match[1]) + n_layers}.", asked)
    if full in names:
        return [full]
    if f"hook_{full}" in names:
        return [f"hook_{full}"]
    if any(sign in full for sign in "*?["):
        if found := [name for name in names if fnmatchcase(name, full)]:
            return found
        in_blocks = [name for name in names if layer_of(name) is not None]
        globs = [f"*.{name.rsplit('.', 1)[-1]}" for name in in_blocks]
        globs += [re.sub(r"^blocks\.\d+\.", "blocks.*.", name) for name in in_blocks]
        near = did_you_mean(full, dict.fromkeys(globs), 0.8)
        raise HookNotFoundError(f"the glob {asked!r} matches none of the {len(names)} names here{near}")
    raise HookNotFoundError(_unknown(asked, full, names, n_layers))


def _unknown(asked: str, full: str, names: Sequence[str], n_layers: int) -> str:
    """What is said of a word that is no name: that it is one of every layer, or which names are near."""
    *parts, word = full.split(".")
    tail = ".".join([*parts, f"hook_{word.removeprefix('hook_')}"])
    if full and (found := [name for name in names if name.endswith(f".{tail}")]):
        shorts = _short_names([name for name in names if layer_of(name) == layer_of(found[0])])
        one = dict.fromkeys(short for short, name in shorts.values() if name in found)
        return f"{asked!r} is in every layer: say {' or '.join(map(repr, one))} for one of them, or '*.{tail}' for all"
    outside = _range_hint(full, n_layers)
    if near := did_you_mean(full, names):
        return f"{asked!r} names nothing here{outside}{near}"
    first = next((layer for name in names if (layer := layer_of(name)) is not None), None)
    shorts = {key: repr(short) for key, (short, _) in _short_names(n for n in names if layer_of(n) == first).items()}
    return f"{asked!r} names nothing here{outside}{did_you_mean(full.replace('hook_', ''), shorts, said=shorts)}"


def _short_names(names: Iterable[str]) -> dict[str, tuple[tuple[str, int] | tuple[str, int, str], str]]:
    """The short name of each point of a layer with its full name, by all words that one may compare with it."""
    split = [(name, name.split(".")) for name in names if layer_of(name) is not None and "hook_" in name]
    words = [parts[-1].removeprefix("hook_") for _, parts in split]
    found: dict[str, tuple[tuple[str, int] | tuple[str, int, str], str]] = {}
    for (name, parts), word in zip(split, words, strict=True):
        part = parts[-2] if len(parts) > 3 else ""
        if words.count(word) == 1:
            found[word] = (word, int(parts[1])), name
            found[f"{part}.{word}"] = found[word]
        else:
            found[f"{part}.{word}"] = (word, int(parts[1]), part), name
    return found


def as_list(asked: HookName | Iterable[HookName] | None) -> list[HookName | None]:
    """One name, or several, as a list. Raises `HookNotFoundError` for a list without items."""
    if asked is None or isinstance(asked, str) or callable(asked):
        return [asked]
    if not isinstance(asked, Iterable):
        raise HookNotFoundError(f"{describe(asked)} is not a name, a predicate or a list of them")
    if isinstance(asked, tuple):  # a short name; several names come in a list
        return [cast(HookName, asked)]
    if not (several := list(asked)):
        raise HookNotFoundError("an empty list names nothing; None stands for every point that is not lazy")
    return cast(list[HookName | None], several)


def _resolve_short(asked: tuple[Any, ...], names: Sequence[str], n_layers: int) -> str:
    if (
        len(asked) not in (2, 3)
        or not all(isinstance(one, str) for one in (asked[0], *asked[2:]))
        or not is_index(asked[1])
    ):
        raise HookNotFoundError(
            f"{describe(asked)} is not a short name; allowed: (name, layer) such as ('pattern', 0), or "
            "(name, layer, part) such as ('scale', 0, 'ln1'); several names go in a list"
        )
    *parts, word = asked[0].split(".")
    word, parts = word.removeprefix("hook_"), [*parts, *asked[2:]]
    try:
        layer = layer_index(asked[1], n_layers, "layer")
    except ConfigError as error:
        raise HookNotFoundError(f"{describe(asked)}: {error}") from None
    here = [name for name in names if layer_of(name) == layer]
    found = [name for name in here if name.endswith(f".hook_{word}") and set(parts) <= set(name.split(".")[2:])]
    if len(found) == 1:
        return found[0]
    shorts = {key: repr(short) for key, (short, _) in _short_names(here).items()}
    if found:
        ways = " or ".join(shorts[".".join(name.rsplit(".", 2)[-2:]).replace("hook_", "")] for name in found)
        raise HookNotFoundError(f"{describe(asked)} fits {len(found)} points; say {ways}")
    near = did_you_mean(".".join([*parts, word]), shorts, said=shorts)
    raise HookNotFoundError(f"{describe(asked)} names nothing in layer {layer}{near}")


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
    """Every hook point of a model in order of execution: a mapping, a table in a terminal, HTML in a notebook.

    As a mapping it has every name. The table shows blocks that are alike once, under a glob that names all of them;
    `hook_map().full` shows every point.
    """

    def __init__(self, rows: Iterable[HookInfo], whole: bool = False):
        self._rows, self._whole = {row.name: row for row in rows}, whole

    def __getitem__(self, name: str) -> HookInfo:
        if name not in self._rows:
            raise HookNotFoundError(f"{name!r} names nothing here{did_you_mean(name, self._rows)}")
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def full(self) -> "HookMap":
        """The same points, shown one by one."""
        return HookMap(self.values(), whole=True)

    def _shown(self) -> list[tuple[str, str, str, str]]:
        """Name, layers, shape and meaning of every line: a point, or what is the same in several layers."""
        alike: dict[tuple[str, str, str, bool], list[int | None]] = {}
        for row in self.values():
            layer = layer_of(row.name)
            name = row.name if layer is None or self._whole else row.name.replace(str(layer), "*", 1)
            alike.setdefault((name, row.shape, row.meaning, row.lazy), []).append(layer)
        every = {layer for layer in map(layer_of, self) if layer is not None}
        lines = []
        for (name, shape, meaning, lazy), layers in alike.items():
            numbers = [layer for layer in layers if layer is not None]
            if len(numbers) == 1:
                name = name.replace("*", str(numbers[0]), 1)
            where = f"all {len(every)}" if len(numbers) == len(every) > 1 else spans(numbers)
            lines.append((name, where, shape, meaning + (" (lazy)" if lazy else "")))
        return lines

    def _title(self) -> str:
        return f"{len(self)} hook points, in order of execution"

    def __rich__(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(*COLUMNS, title=self._title())
        for line in self._shown():
            table.add_row(*map(Text, line))
        return table

    def __repr__(self) -> str:
        from rich.console import Console

        console = Console(width=160)
        with console.capture() as text:
            console.print(self)
        return text.get()

    def _repr_html_(self) -> str:
        from html import escape

        head = "".join(f"<th>{column}</th>" for column in COLUMNS)
        body = "".join(
            f"<tr><td><code>{escape(name)}</code></td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
            for name, *cells in self._shown()
        )
        return f"<table><caption>{self._title()}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


COLUMNS = ("name", "layers", "shape", "meaning")
"""Of the table that a `HookMap` shows."""


def spans(numbers: Sequence[int]) -> str:
    """Rising numbers in words: "0 to 4, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
