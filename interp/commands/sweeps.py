"""What the commands of sweeps share: their options, what they print, and their pages."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from interp.commands.common import WithPlotly, print_whole, said_of_ends, wrote
from interp.commands.pairs import Pos
from interp.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from rich.table import Table

    from interp.model import HookedEncoderDecoder, HookedTransformer
    from interp.patching import Granularity, PatchDirection


@dataclass(frozen=True)
class Asked:
    """The options of every sweep: what is patched, which way, where the answer is read, and how much is shown."""

    pos: Pos = None
    site: Annotated[
        str | None,
        typer.Option(
            help="resid_pre, resid_mid, attn_out, mlp_out, z, q, k, v, pattern, result, post, ...; of an encoder with "
            "a decoder encoder.z, decoder.z, cross_attn.z, ...",
            show_default="resid_pre, or encoder.resid_pre",
        ),
    ] = None
    over: Annotated[str, typer.Option(help="What is patched at a time, of: layer, pos, head, neuron.")] = "layer,pos"
    direction: Annotated[str, typer.Option(help="denoising or noising.")] = "denoising"
    top_k: Annotated[int, typer.Option(help="How many places to print, one a position.", min=1)] = 10
    plotly: WithPlotly = False

    def words(self) -> tuple[list[Granularity], PatchDirection]:
        """The words of `--over`, and that of `--direction`. Raises `ConfigError` for others."""
        from interp.patching import Granularity, PatchDirection

        words = [word.strip() for word in self.over.split(",")]
        for name, given, allowed in (
            ("--direction", [self.direction], get_args(PatchDirection)),
            ("--over", words, get_args(Granularity)),
        ):
            if unknown := [one for one in given if one not in allowed]:
                raise ConfigError(
                    f"{name} {unknown[0]!r}; allowed: {', '.join(allowed)}{did_you_mean(unknown[0], allowed)}"
                )
        if "layer" not in words or len({*words}) < len(words):
            raise ConfigError(f"--over {self.over!r}; allowed: layer, and at most once each pos, head, neuron")
        return words, self.direction  # pyright: ignore[reportReturnType]

    def site_in(self, model: HookedTransformer | HookedEncoderDecoder) -> str | tuple[str, str]:
        """The site of `--site`, as `patching.sweep` takes it.

        Raises `ConfigError` unless it is the short name of one point in every layer.
        """
        counts = Counter(map(_short, (name for name in model.hook_points if "blocks.0." in name)))
        sites = [name for name, n in counts.items() if n == 1]
        usual = next(name for name in sites if name.endswith("resid_pre"))
        site = usual if self.site is None else self.site.removeprefix("hook_")
        if site not in sites:
            raise ConfigError(f"--site {self.site!r}; allowed: {', '.join(sites)}{did_you_mean(site, sites)}")
        part, _, short = site.rpartition(".")
        return (short, part) if part else short


def _short(name: str) -> str:
    """The short name of a point, after the word for what else has such points: z, encoder.z, cross_attn.z."""
    from interp.model import in_stack

    stack, within = in_stack(name)
    part, short = "cross_attn" if ".cross_attn." in within else stack, within.rsplit("hook_", 1)[1]
    return f"{part}.{short}" if part else short


def print_sweep(result: xr.DataArray, top_k: int) -> None:
    """Print the metric of both ends, and the places of a sweep that change it most."""
    typer.echo(said_of_ends(result.attrs))
    print_whole(table_of(result, top_k))


def _strongest(changes: np.ndarray, axis: int | None, top_k: int) -> list[tuple[int, ...]]:
    """The places of the largest changes, the largest first: of each index on `axis` the one that changes most."""
    import numpy as np

    order = np.argsort(-np.abs(changes), axis=None, kind="stable").tolist()
    places = [tuple(int(i) for i in np.unravel_index(flat, changes.shape)) for flat in order]
    if axis is not None:
        first = {place[axis]: place for place in reversed(places)}  # the largest is written last
        places = [place for place in places if first[place[axis]] == place]
    return places[:top_k]


def table_of(result: xr.DataArray, top_k: int) -> Table:
    """The places that change the metric most, with the tokens at their positions, and intervals over prompts."""
    from rich.table import Table
    from rich.text import Text

    from interp.patching import ROLES
    from interp.text import visible

    base, target = result.attrs["baseline"], result.attrs["target"]
    values = result.to_numpy()
    axes = [str(dim) for dim in result.dims]
    places = next((axis for axis in axes if axis in ("pos", "source_pos")), None)
    by_position = places is not None and len(axes) > 1
    which = "of each position, the place that changes" if by_position else "the places that change"
    table = Table(title=Text(f"{result.attrs['site']}: {which} it most"))
    tokens = result["token"].to_numpy() if "token" in result.coords else None
    for name in [*axes, *([f"{ROLES[result.attrs['direction']][0]} token"] if tokens is not None else [])]:
        table.add_column(name.replace("_", " "))
    with_intervals = "ci_low" in result.coords
    for name in ("metric", *(["95 % interval"] if with_intervals else []), "change", "of the gap"):
        table.add_column(name, justify="right")
    for at in _strongest(values - base, axes.index(places) if places and by_position else None, top_k):
        cells = [str(result[axis].to_numpy()[i]) for axis, i in zip(axes, at, strict=True)]
        if tokens is not None and places is not None:
            cells.append(visible(str(tokens[at[axes.index(places)]])))
        change = float(values[at]) - base
        share = f"{change / (target - base):z.0%}" if target != base else "-"
        numbers = [f"{float(values[at]):z.3f}", f"{change:+z.3f}", share]
        if with_intervals:
            low, high = (float(result.coords[end].to_numpy()[at]) for end in ("ci_low", "ci_high"))
            numbers.insert(1, f"{low:z.3f} to {high:z.3f}")
        table.add_row(*map(Text, [*cells, *numbers]))
    return table


def write_sweep(out: Path, result: xr.DataArray, model: str, prompts: str, plotly: bool) -> None:
    """Write the page of a sweep, which says what the prompts were, and print where it is."""
    from interp.plot import figures, report

    caption = "Blue: the patch raises the metric; red: it lowers it; white: nothing changes."
    if result.ndim > 2:  # such as layers, positions and heads: one map for each of the last
        last = result.dims[-1]
        panels = [report.Panel(figures.sweep(result.isel({last: i})), caption) for i in range(result.sizes[last])]
    else:
        panels = [report.Panel(figures.sweep(result), caption)]
    said = f"{prompts} Measured: {result.attrs['metric']}."
    report.write_page(out, f"Patching {result.attrs['site']} of {model}", said, panels, plotly=plotly)
    wrote(out, "the whole sweep")
