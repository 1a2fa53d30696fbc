"""Names of hook points: how they are written, what they stand for, and the map of all of them."""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, SupportsIndex, TypeVar, cast

from interp.errors import ConfigError, HookNotFoundError, describe, did_you_mean
from interp.indices import is_index, layer_index, ranges

HookName = (
    str
    | tuple[str, SupportsIndex]
    | tuple[str, SupportsIndex, str]
    | tuple[str, SupportsIndex, str, str]
    | Callable[[str], bool]
)
"""How points are named: in full, as a glob, short (`("pattern", 3)`, `("scale", 0, "ln2")`), or by a predicate. In a
model of two stacks a short name may say its stack, `("pattern", 3, "encoder")`."""


STACKS = ("encoder", "decoder")
"""The words with which names of points begin in a model of two stacks."""

_IN_BLOCK = re.compile(r"^((?:encoder\.|decoder\.)?)blocks\.(-?\d+)\.")
"""How names of points in blocks begin."""


@functools.cache
def layer_of(name: str) -> int | None:
    """The block number in a full name, or None outside the blocks.

    >>> layer_of("blocks.3.attn.hook_z"), layer_of("ln_final.hook_scale")
    (3, None)
    """
    found = _IN_BLOCK.match(name)
    return int(found[2]) if found else None


def resolve(asked: HookName, names: Sequence[str], n_layers: int) -> list[str]:
    """The full names that `asked` stands for, in the order of `names`.

    In a model of two stacks `names` are those of one of them, which begin with its word, and so do suggestions. Layers
    may be negative, in full names as well. The word of a short name may carry its part: `("ln1.hook_scale", 0)`
    is `("scale", 0, "ln1")`. Where a block attends to a memory as well, a short name without a part means the attention
    to the stream. Raises `HookNotFoundError` where nothing answers, or where a short name fits several
    points; the names that it suggests work as they stand.

    >>> resolve(("pattern", -1), list(model.hook_points), cfg.n_layers)
    ['blocks.1.attn.hook_pattern']
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

    full = _IN_BLOCK.sub(lambda at: f"{at[1]}blocks.{int(at[2]) + n_layers * at[2].startswith('-')}.", asked, count=1)
    stack, within = in_stack(full)
    for name in (full, f"{stack}.hook_{within}" if stack else f"hook_{within}"):
        if name in names:
            return [name]
    if any(sign in full for sign in "*?["):
        if found := [name for name in names if fnmatchcase(name, full)]:
            return found
        in_blocks = [name for name in names if layer_of(name) is not None]
        globs = [f"*.{name.rsplit('.', 1)[-1]}" for name in in_blocks]
        globs += [_IN_BLOCK.sub(r"\1blocks.*.", name) for name in in_blocks]
        near = did_you_mean(full, dict.fromkeys(globs), 0.8)
        raise HookNotFoundError(f"the glob {asked!r} matches none of the {len(names)} names here{near}")
    raise HookNotFoundError(_unknown(asked, full, names, n_layers))


def _unknown(asked: str, full: str, names: Sequence[str], n_layers: int) -> str:
    """What is said of a word that is no name: that it is one of every layer, or which names are near."""
    stack, within = in_stack(full)
    *parts, word = within.split(".")
    tail = ".".join([*parts, f"hook_{word.removeprefix('hook_')}"])
    if full and (found := [name for name in names if name.endswith(f".{tail}")]):
        shorts = _short_names([name for name in names if layer_of(name) == layer_of(found[0])])
        one = dict.fromkeys(short for short, name in shorts.values() if name in found)
        every = f"{stack}.*.{tail}" if stack else f"*.{tail}"
        return f"{asked!r} is in every layer: say {' or '.join(map(repr, one))} for one of them, or {every!r} for all"
    outside = _range_hint(full, n_layers)
    if near := did_you_mean(full, names):
        return f"{asked!r} names nothing here{outside}{near}"
    first = next((layer for name in names if (layer := layer_of(name)) is not None), None)
    shorts = {key: repr(short) for key, (short, _) in _short_names(n for n in names if layer_of(n) == first).items()}
    return f"{asked!r} names nothing here{outside}{did_you_mean(full.replace('hook_', ''), shorts, said=shorts)}"


def _short_names(names: Iterable[str]) -> dict[str, tuple[tuple[Any, ...], str]]:
    """The short name of each point of a layer with its full name, by all words that one may compare with it.

    In a model of two stacks a short name says its stack.
    """
    found: dict[str, tuple[tuple[Any, ...], str]] = {}
    split = [(name, *in_stack(name)) for name in names if layer_of(name) is not None and "hook_" in name]
    for name, stack, within in split:
        of_stack = [within.split(".") for _, said, within in split if said == stack]
        words = [parts[-1] for parts in of_stack]
        plain = [parts[-1] for parts in of_stack if "cross_attn" not in parts]
        _, layer, *parts, last = within.split(".")
        word, part = last.removeprefix("hook_"), ".".join(parts[-1:])
        alone = words.count(last) == 1 or (plain.count(last) == 1 and part != "cross_attn")
        said = () if stack is None else (stack,)
        short = (word, int(layer), *(() if alone else (part,)), *said)
        for key in (f"{part}.{word}", word) if alone else (f"{part}.{word}",):
            found[".".join([*said, key])] = short, name
    return found


Value = TypeVar("Value")


def in_stack(asked: Any) -> tuple[str | None, Any]:
    """The stack that a name of a point says, and the name within it; None where it says none.

    >>> in_stack("decoder.blocks.0.hook_resid_pre")
    ('decoder', 'blocks.0.hook_resid_pre')
    >>> in_stack(("z", 0))
    (None, ('z', 0))
    """
    if isinstance(asked, str):
        stack, _, within = asked.partition(".")
        return (stack, within) if stack in STACKS and within else (None, asked)
    if isinstance(asked, tuple) and len(asked) > 1 and isinstance(asked[0], str):
        *parts, word = asked[0].split(".")
        said = [part for part in (*parts, *asked[2:]) if part in STACKS]
        if len(said) == 1:
            short = ".".join([*(part for part in parts if part not in STACKS), word])
            return said[0], (short, asked[1], *(part for part in asked[2:] if part not in STACKS))
    return None, asked


def of_stack(stack: str, held: Mapping[str, Value]) -> dict[str, Value]:
    """What one stack has of something by full names, by the names within it."""
    return {within: value for name, value in held.items() for said, within in [in_stack(name)] if said == stack}


def as_site(site: object) -> tuple[str, ...]:
    """A site without a layer, `"z"` or `("z", "cross_attn")`, as a tuple. Raises `ConfigError` for what is none."""
    parts = (site,) if isinstance(site, str) else site
    if not isinstance(parts, tuple | list) or not parts or not all(isinstance(part, str) for part in parts):
        raise ConfigError(f"site = {describe(site)}; allowed: a short name such as 'z', or ('scale', 'ln1')")
    return tuple(parts)


def stack_with(names: Mapping[str, Iterable[str]], asked: tuple[Any, ...]) -> str:
    """The only stack that has the site of this short name, which says none; `names` within each stack, by its word.

    Which one that is does not depend on the layer: a site of both is refused in a layer that only one has, too. Raises
    `HookNotFoundError`.
    """
    word, parts = _short(asked)
    found = [stack for stack, held in names.items() if any(_fits(name, word, parts) for name in held)]
    if not found:
        every = [f"{stack}.{name}" for stack, held in names.items() for name in held]
        n_layers = 1 + max((layer for name in every if (layer := layer_of(name)) is not None), default=-1)
        _resolve_short(asked, every, n_layers)  # raises, and says what is near
    if len(found) != 1:
        ways = " or ".join(repr((*asked, stack)) for stack in found)
        raise HookNotFoundError(f"{describe(asked)} fits points of both stacks; say {ways}")
    return found[0]


def stack_of(names: Mapping[str, Iterable[str]], site: str | tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The stack that a site without a layer, `("pattern", "cross_attn")`, is in, and the site within it.

    `names` are those of points within each stack, by its word. Raises `HookNotFoundError` where the site is in none, or
    in both, `ConfigError` for what is no site.
    """
    short, *parts = as_site(site)
    stack, within = in_stack((short, 0, *parts))
    if stack is not None:
        return stack, (within[0], *within[2:])
    try:
        return stack_with(names, (short, 0, *parts)), (short, *parts)
    except HookNotFoundError as error:
        if "both stacks" not in str(error):
            raise
        ways = " or ".join(repr((short, *parts, word)) for word in names)
        if not parts and any(name.endswith(f".cross_attn.hook_{short}") for name in names["decoder"]):
            ways += f", or {(short, 'cross_attn')} for cross-attention"
        raise HookNotFoundError(f"site = {describe(site)} is in both stacks; say {ways}") from None


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


def _short(asked: tuple[Any, ...]) -> tuple[str, list[str]]:
    """The word of a short name, and the parts that it says, its stack first.

    Raises `HookNotFoundError` for what is no short name.
    """
    strings = [one for one in (*asked[:1], *asked[2:]) if isinstance(one, str)]
    most = 3 + any(stack in strings for stack in STACKS)
    if not 2 <= len(asked) <= most or len(strings) != len(asked) - 1 or not is_index(asked[1]):
        raise HookNotFoundError(
            f"{describe(asked)} is not a short name; allowed: (name, layer) such as ('pattern', 0), or "
            "(name, layer, part) such as ('scale', 0, 'ln1'); several names go in a list"
        )
    *parts, word = strings[0].split(".")
    return word.removeprefix("hook_"), sorted([*parts, *strings[1:]], key=lambda part: part not in STACKS)


def _fits(name: str, word: str, parts: list[str]) -> bool:
    """Whether this is the full name of a point in a block that has this word and these parts."""
    found = _IN_BLOCK.match(name)
    if found is None or not name.endswith(f".hook_{word}"):
        return False
    return set(parts) <= {found[1].removesuffix("."), *name[found.end() :].split(".")}


def _resolve_short(asked: tuple[Any, ...], names: Sequence[str], n_layers: int) -> str:
    word, parts = _short(asked)
    try:
        layer = layer_index(asked[1], n_layers, "layer")
    except ConfigError as error:
        raise HookNotFoundError(f"{describe(asked)}: {error}") from None
    here = [name for name in names if layer_of(name) == layer]
    found = [name for name in here if _fits(name, word, parts)]
    if len(found) > 1:
        found = [name for name in found if ".cross_attn." not in name] or found
    if len(found) == 1:
        return found[0]
    shorts = _short_names(here)
    if found:
        ways = " or ".join(dict.fromkeys(repr(short) for short, name in shorts.values() if name in found))
        raise HookNotFoundError(f"{describe(asked)} fits {len(found)} points; say {ways}")
    said = {key: repr(short) for key, (short, _) in shorts.items()}
    near = did_you_mean(".".join([*parts, word]), said, said=said)
    raise HookNotFoundError(f"{describe(asked)} names nothing in layer {layer}{near}")


def _range_hint(name: str, n_layers: int) -> str:
    found = _IN_BLOCK.match(name)
    outside = found and not 0 <= int(found[2]) < n_layers
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
            where = f"all {len(every)}" if len(numbers) == len(every) > 1 else ranges(numbers)
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
