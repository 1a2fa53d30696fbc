"""`interp circuits`: list the gallery, and verify its circuits over all their inputs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from interp.commands.common import Quiet, paragraphs, print_whole
from interp.errors import ConfigError

if TYPE_CHECKING:
    from circuits.gallery import Entry, PairEntry
    from circuits.verify import Report

app = typer.Typer(
    help="Circuits built by hand: list them, verify them over all their inputs, hide them for a benchmark.",
    no_args_is_help=True,
)

LIST_HELP = """List the circuits of the gallery.

Example: interp circuits list
"""
VERIFY_HELP = """Verify circuits: compiled model, symbolic interpreter and reference function, on every input.

Ends with status 1 if a circuit is wrong anywhere.

Example: interp circuits verify induction_latest reverse

Example: interp circuits verify --all

Example: interp circuits verify addition_3 --sample 1000
"""


@app.command("list", help=paragraphs(LIST_HELP))
def list_circuits() -> None:
    """Print the gallery as a table."""
    from circuits.gallery import entries

    table = Table(Column("circuit", no_wrap=True), "layers", "parts", "what it does", show_lines=True)
    for entry in entries().values():
        circuit = entry.build()
        name = f"{entry.name} (slow)" if entry.slow else entry.name
        sides = [circuit] if circuit.source is None else [circuit.source, circuit]
        layers, parts = (
            " + ".join(map(str, each)) for each in zip(*((one.n_layers, len(one.parts)) for one in sides), strict=True)
        )
        table.add_row(Text(name), layers, parts, Text(entry.summary))
    Console().print(table)


@app.command("verify", help=paragraphs(VERIFY_HELP))
def verify_circuits(
    names: Annotated[list[str] | None, typer.Argument(help="Circuits of the gallery, as listed.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every circuit, without those that take minutes.")] = False,
    slow: Annotated[bool, typer.Option("--slow", help="With --all: also those that take minutes.")] = False,
    sample: Annotated[
        int | None, typer.Option(help="So many inputs of each circuit, drawn at random, in place of all.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.", min=0)] = 0,
    quiet: Quiet = False,
) -> None:
    """Print what `circuits.verify` reports, as a table."""
    chosen = _chosen(names or [], everything, slow)
    inputs = "all inputs" if sample is None else f"a random sample of {sample:,} inputs each"
    table = Table("circuit", title=f"Compiled model against reference, over {inputs}")
    for column in ("inputs", "positions", "model", "symbolic", "margin", "patterns", "seconds"):
        table.add_column(column, justify="right")
    table.caption = (
        "margin: logits to another prediction; patterns: largest error against hard attention; of a circuit with a "
        "source: inputs are sources, positions those of their targets, and the model also writes these by itself"
    )
    wrong: list[tuple[str, Report]] = []
    for entry in chosen:
        start = time.perf_counter()
        report = entry.verify(sample=sample, seed=seed, progress=not quiet, title=entry.name)
        if not report.ok:
            wrong.append((entry.name, report))
        seconds = f"{time.perf_counter() - start:.1f}"
        table.add_row(entry.name, *_cells(report), seconds, style="" if report.ok else "red")
    print_whole(table)
    for name, report in wrong:
        worst = report.worst
        if worst is not None and worst.margin <= 0:
            said = f"predicts {worst.predicted!r} where the reference says {worst.expected!r}"
            typer.echo(f"{name}: position {worst.position} of {worst.text!r} {said}")
        for sentence in report.misgenerated[:1]:
            typer.echo(f"{name}: by itself, {sentence}")
        if worst is not None and worst.margin > 0 and not report.misgenerated:
            typer.echo(f"{name}: {report!r}")
    if wrong:
        raise typer.Exit(1)


def _chosen(names: list[str], everything: bool, slow: bool) -> list[Entry | PairEntry]:
    """The circuits to verify. Raises `ConfigError` for unknown names, and for options that contradict each other."""
    from circuits.gallery import entries, row

    if bool(names) == everything or (slow and not everything):
        raise ConfigError("interp circuits verify takes names of circuits, or --all (with or without --slow)")
    if everything:
        return [one for one in entries().values() if slow or not one.slow]
    return [row(name) for name in dict.fromkeys(names)]


def _cells(report: Report) -> list[str]:
    shares = [(report.n_right, report.accuracy), (report.n_symbolic, report.symbolic_accuracy)]
    return [
        f"{report.n_inputs:,}" if report.sampled_from is None else f"{report.n_inputs:,} of {report.sampled_from:,}",
        f"{report.n_positions:,}",
        *("100 %" if n == report.n_positions else f"{min(share, 0.9999):.2%}" for n, share in shares),
        f"{report.margin:.2g}",
        f"{report.pattern_error:.1g}",
    ]
