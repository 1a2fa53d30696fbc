"""`interp heads`: what the heads of a model do, as numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interp.commands.common import MODEL, ModelName, Quiet, WithPlotly, check_writable, load, print_whole, wrote
from interp.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from rich.table import Table

HELP = """Score all heads: previous-token, duplicate-token, induction, first-token, copying.

Where attention looks both ways there is no induction; such models have next-token, own-token and last-token scores
instead. Patterns are scored on random repeated tokens (16 prompts of varied distance), or on --text; copying is read
off the weights. With --out, a page has a map of the heads for each score.

Example: interp heads --sort induction --top-k 10

Example: interp heads --model ./checkpoint --sort previous_token --out heads.html
"""


def heads(
    model: ModelName = MODEL,
    sort: Annotated[
        str | None,
        typer.Option(
            help="The score to sort by; by default induction (previous_token where attention looks both ways)."
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(help="How many heads to print.", min=1)] = 20,
    text: Annotated[str | None, typer.Option(help="Score on this text instead.")] = None,
    out: Annotated[Path | None, typer.Option(help="A page to write, with a map for each score.")] = None,
    plotly: WithPlotly = False,
    quiet: Quiet = False,
) -> None:
    """Print a table of the best heads."""
    from interp.heads import BIDIRECTIONAL_SCORES, PATTERN_SCORES, WEIGHT_SCORES, head_scores, score_table

    known = list(dict.fromkeys([*PATTERN_SCORES, *BIDIRECTIONAL_SCORES, *WEIGHT_SCORES]))
    if sort is not None and sort not in known:
        raise ConfigError(f"--sort {sort!r}; allowed: {', '.join(known)}{did_you_mean(sort, known)}")
    if out is not None:
        out = check_writable(out)
    loaded = load(model, quiet)
    here, of = loaded.cfg.attention_dir, {"causal": PATTERN_SCORES, "bidirectional": BIDIRECTIONAL_SCORES}
    if sort is None:
        sort = "induction" if "induction" in of[here] else "previous_token"
    if sort not in (*of[here], *WEIGHT_SCORES):
        raise ConfigError(f"--sort {sort!r}: not defined where attention is {here}; allowed: {', '.join(of[here])}")
    scores = head_scores(loaded, text, progress=not quiet)
    best = score_table(scores, sort, top_k=top_k)
    on = repr(text) if text is not None else f"{scores.attrs['n']} prompts of random repeats"
    where = "read off the weights" if sort in WEIGHT_SCORES else f"on {on}"
    told = _told_apart(best, sort)
    print_whole(_table(told, f"Heads by {_short(sort)}, {where}"))
    typer.echo("\n".join(_legend(scores, told, on)))
    for name in (name for name in known if name in scores):
        if said := scores[name].attrs.get("undefined"):
            typer.echo(f"{name} is undefined {said if said.startswith('everywhere') else f'for {said}'}")
    if out is not None:
        _write_page(out, scores, told, model, sort, on, plotly)
        wrote(out, "a map of the heads for each score")


def _told_apart(best: pd.DataFrame, sort: str) -> pd.DataFrame:
    """The table without the mean of single entries, where no row of it shows that to be another than `induction`."""
    mean = "induction_entry_mean"
    if mean not in best:
        return best
    same = all(_number(a) == _number(b) for a, b in zip(best["induction"], best[mean], strict=True))
    return best.drop(columns=mean) if same and sort != mean else best


def _legend(scores: xr.Dataset, best: pd.DataFrame, on: str) -> list[str]:
    """What the columns are, a line each, and what they were measured on."""
    from interp.heads import WEIGHT_SCORES

    columns = [str(name) for name in best.columns if name in scores.data_vars]
    named = [name for name in columns if not name.endswith("_se")]
    lines = [f"{_short(name)}: {scores[name].attrs['definition']}" for name in named]
    if named != columns:
        lines.append("±: standard error over the prompts")
    if "induction" in named and "induction_entry_mean" not in named:
        lines.append("induction entry mean: as induction, to the digits shown")
    if of_weights := " and ".join(_short(name) for name in WEIGHT_SCORES if name in named):
        return [*lines, f"Patterns are scored on {on}; {of_weights} are read off the weights."]
    return [*lines, f"Patterns are scored on {on}."]


def _table(best: pd.DataFrame, title: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    columns = [str(name) for name in best.columns if name not in ("layer", "head")]
    table = Table(title=Text(title))
    table.add_column("head")
    for name in columns:
        table.add_column(_short(name), justify="right")
    cells = [[_number(value) for value in best[name].tolist()] for name in columns]
    for label, *row in zip(best.index, *cells, strict=True):
        table.add_row(str(label), *row)
    return table


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _short(name: str) -> str:
    return "±" if name.endswith("_se") else name.replace("_", " ")


def _write_page(
    out: Path, scores: xr.Dataset, best: pd.DataFrame, model: str, sort: str, on: str, plotly: bool
) -> None:
    from interp.heads import score_table
    from interp.plot import figures, report

    shown = [str(name) for name in scores if not str(name).endswith("_se")]
    columns = {"head": [str(label) for label in best.index]}
    columns |= {_short(name): [_number(value) for value in best[name].tolist()] for name in best if name in shown}
    caption = f"The first {len(best)} of {scores['label'].size} heads."
    panels = [report.Panel(figures.table(columns, title=f"Top heads by {_short(sort)}"), caption)]
    for name in shown:
        first = score_table(scores, name, top_k=1).index[0]
        caption = f"Largest: {first}." if bool(scores[name].notnull().any()) else "Undefined for every head."
        panels.append(report.Panel(figures.head_scores(scores, name), caption))
    said = f"Patterns scored on {on}; copying is read off the weights."
    report.write_page(out, f"Heads of {model}", said, panels, plotly=plotly)
