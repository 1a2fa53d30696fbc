"""`interp patch`: a sweep of activation patching over two prompts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.commands.common import MODEL, ModelName, Quiet, check_different, check_writable, load, print_whole, wrote
from interp.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from rich.table import Table

    from interp.model import HookedTransformer

HELP = """Patch activations from one prompt into another, place by place, and measure the logit difference.

Denoising runs the corrupted prompt and restores clean activations (what suffices?); noising runs the clean prompt and
writes corrupted ones (what is necessary?). Both prompts need as many tokens. Prints the places that change most, of
each position the one that does, and writes a page with the whole sweep.

Example: interp patch --clean 'When Mary and John went to the store, John gave a drink to' --corrupted 'When Mary and
John went to the store, Mary gave a drink to' --correct ' Mary' --incorrect ' John'

Example: interp patch ... --site z --over layer,head --direction noising --out heads.html
"""

GRANULARITIES = ("layer", "pos", "head", "neuron")


def patch(
    clean: Annotated[str, typer.Option(help="The prompt that shows the behaviour.")],
    corrupted: Annotated[str, typer.Option(help="The prompt that does not.")],
    correct: Annotated[str, typer.Option(help="The right token, such as ' Mary' (mind the space).")],
    incorrect: Annotated[
        str | None, typer.Option(help="The wrong token; without it, the logit of the right one.")
    ] = None,
    model: ModelName = MODEL,
    site: Annotated[
        str, typer.Option(help="resid_pre, resid_mid, attn_out, mlp_out, z, q, k, v, pattern, result, post, ...")
    ] = "resid_pre",
    over: Annotated[str, typer.Option(help="What is patched at a time, of: layer, pos, head, neuron.")] = "layer,pos",
    direction: Annotated[str, typer.Option(help="denoising or noising.")] = "denoising",
    top_k: Annotated[int, typer.Option(help="How many places to print, one a position.", min=1)] = 10,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("patching.html"),
    quiet: Quiet = False,
) -> None:
    """Print the top of a sweep and write its page."""
    from interp.metrics import Logit, LogitDifference
    from interp.patching import ROLES, sweep

    words: list[Any] = [word.strip() for word in over.split(",")]
    for name, given, allowed in (("--direction", [direction], list(ROLES)), ("--over", words, GRANULARITIES)):
        if unknown := [one for one in given if one not in allowed]:
            raise ConfigError(
                f"{name} {unknown[0]!r}; allowed: {', '.join(allowed)}{did_you_mean(unknown[0], allowed)}"
            )
    if "layer" not in words or len({*words}) < len(words):
        raise ConfigError(f"--over {over!r}; allowed: layer, and at most once each pos, head, neuron")
    check_different(clean, corrupted, "--clean and --corrupted")
    if incorrect is not None:
        check_different(correct, incorrect, "--correct and --incorrect")
    out = check_writable(out)
    loaded = load(model, quiet)
    sites = _sites(loaded)
    if site.removeprefix("hook_") not in sites:
        raise ConfigError(f"--site {site!r}; allowed: {', '.join(sites)}{did_you_mean(site, sites)}")
    metric = Logit(correct) if incorrect is None else LogitDifference(correct, incorrect)
    chosen: Any = direction
    result = sweep(loaded, corrupted, clean, metric, site, words, direction=chosen, progress=not quiet)
    base, target = result.attrs["baseline"], result.attrs["target"]
    runs, other = ROLES[direction]
    typer.echo(f"{result.attrs['metric']}: {base:.3f} on the {runs} prompt, {target:.3f} on the {other} one")
    print_whole(_table(result, top_k, f"{runs} token"))
    _write_page(out, result, model, clean, corrupted)
    wrote(out, "the whole sweep")


def _sites(model: HookedTransformer) -> list[str]:
    """The short names that stand for one point in every layer."""
    counts = Counter(name.rsplit("hook_", 1)[1] for name in model.hook_points if name.startswith("blocks.0."))
    return [name for name, n in counts.items() if n == 1]


def _strongest(changes: np.ndarray, axis: int | None, top_k: int) -> list[tuple[int, ...]]:
    """The places of the largest changes, the largest first: of each index on `axis` the one that changes most."""
    import numpy as np

    order = np.argsort(-np.abs(changes), axis=None, kind="stable").tolist()
    places = [tuple(int(i) for i in np.unravel_index(flat, changes.shape)) for flat in order]
    if axis is not None:
        first = {place[axis]: place for place in reversed(places)}  # the largest is written last
        places = [place for place in places if first[place[axis]] == place]
    return places[:top_k]


def _table(result: xr.DataArray, top_k: int, token: str) -> Table:
    """The places that change the metric most; `token` heads the column of the tokens at their positions."""
    from rich.table import Table
    from rich.text import Text

    from interp.text import visible

    base, target = result.attrs["baseline"], result.attrs["target"]
    values = result.to_numpy()
    axes = [str(dim) for dim in result.dims]
    by_position = "pos" in axes and len(axes) > 1
    which = "of each position, the place that changes" if by_position else "the places that change"
    table = Table(title=Text(f"{result.attrs['site']}: {which} it most"))
    tokens = result["token"].to_numpy() if "token" in result.coords else None
    for name in [*axes, *([token] if tokens is not None else [])]:
        table.add_column(name.replace("_", " "))
    for name in ("metric", "change", "of the gap"):
        table.add_column(name, justify="right")
    for at in _strongest(values - base, axes.index("pos") if by_position else None, top_k):
        cells = [str(result[axis].to_numpy()[i]) for axis, i in zip(axes, at, strict=True)]
        if tokens is not None:
            cells.append(visible(str(tokens[at[axes.index("pos")]])))
        change = float(values[at]) - base
        share = f"{change / (target - base):z.0%}" if target != base else "-"
        table.add_row(*map(Text, cells), f"{float(values[at]):z.3f}", f"{change:+z.3f}", share)
    return table


def _write_page(out: Path, result: xr.DataArray, model: str, clean: str, corrupted: str) -> None:
    from interp.plot import figures, report

    caption = "Blue: the patch raises the metric; red: it lowers it; white: nothing changes."
    if result.ndim > 2:  # such as layers, positions and heads: one map for each of the last
        last = result.dims[-1]
        names = [f"{last} {i}" for i in result[last].to_numpy().tolist()]
        panels = [
            report.Panel(figures.sweep(result.isel({last: i}), title=name), caption) for i, name in enumerate(names)
        ]
    else:
        panels = [report.Panel(figures.sweep(result), caption)]
    said = f"Clean: {clean!r}. Corrupted: {corrupted!r}. Measured: {result.attrs['metric']}."
    report.write_page(out, f"Patching {result.attrs['site']} of {model}", said, panels)
