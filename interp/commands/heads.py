"""`interp heads`: what the heads of a model do, as numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interp.commands.common import MODEL, ModelName, Quiet, check_writable, load, print_whole, wrote
from interp.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from rich.table import Table

HELP = """Score all heads: previous-token, duplicate-token, induction, first-token, copying.

Patterns are scored on random repeated tokens (16 prompts of varied distance), or on --text; copying is read off the
weights. With --out, a page has a map of the heads for each score.

Example: interp heads --sort induction --top 10

Example: interp heads --model ./checkpoint --sort previous_token --out heads.html
"""


def heads(
    model: ModelName = MODEL,
    sort: Annotated[str, typer.Option(help="The score to sort by.")] = "induction",
    top: Annotated[int, typer.Option(help="How many heads to print.", min=1)] = 20,
    text: Annotated[str | None, typer.Option(help="Score on this text instead.")] = None,
    out: Annotated[Path | None, typer.Option(help="A page to write, with a map for each score.")] = None,
    quiet: Quiet = False,
) -> None:
    """Print a table of the best heads."""
    from interp.heads import WEIGHT_SCORES, head_scores, score_table
    from interp.pattern_scores import PATTERN_SCORES

    known = [*PATTERN_SCORES, *WEIGHT_SCORES]
    if sort not in known:
        raise ConfigError(f"--sort {sort!r}; allowed: {', '.join(known)}{did_you_mean(sort, known)}")
    if out is not None:
        out = check_writable(out)
    scores = head_scores(load(model, quiet), text, progress=not quiet)
    best = score_table(scores, sort, top=top)
    on = repr(text) if text is not None else f"{scores.attrs['n']} prompts of random repeats"
    print_whole(_table(best, f"Heads by {sort}, on {on}"))
    for name in known:
        if said := scores[name].attrs.get("undefined"):
            typer.echo(f"{name} is undefined {said if said.startswith('everywhere') else f'for {said}'}")
    if out is not None:
        _write_page(out, scores, best, model, on)
        wrote(out, "a map of the heads for each score")


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


def _write_page(out: Path, scores: xr.Dataset, best: pd.DataFrame, model: str, on: str) -> None:
    from interp.heads import score_table
    from interp.plot import figures, report

    shown = [str(name) for name in scores if not str(name).endswith("_se")]
    columns = {"head": [str(label) for label in best.index]}
    columns |= {_short(name): [_number(value) for value in best[name].tolist()] for name in best if name in shown}
    panels = [report.Panel(figures.table(columns, title="The first heads"), "As printed.")]
    for name in shown:
        first = score_table(scores, name, top=1).index[0]
        caption = f"Largest: {first}." if bool(scores[name].notnull().any()) else "Undefined for every head."
        panels.append(report.Panel(figures.head_scores(scores, name), caption))
    report.write_page(out, f"Heads of {model}", f"Patterns scored on {on}; copying is read off the weights.", panels)
