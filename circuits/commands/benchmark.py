"""`interp circuits benchmark`: write hidden circuits as plain files, for others to score their methods on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from interp.commands.common import Quiet

HELP = """Write a benchmark set for circuit discovery: models with hidden circuits, pairs of prompts and the true edges.

A folder for each task, with config.json, model.safetensors, prompts.jsonl and edges.json; README.md says how to read
them and to score methods without this package.

Example: interp circuits benchmark --out hidden

Example: interp circuits benchmark --out few --circuits ioi,dyck1 --sizes small,large --soft soft --seed 1
"""


def benchmark(
    out: Annotated[Path, typer.Option(help="The folder to write: a new or an empty one.")],
    circuits: Annotated[
        str | None, typer.Option(help="Circuits of the gallery, with commas between them; by default six of them.")
    ] = None,
    sizes: Annotated[str | None, typer.Option(help="Some of small,medium,large; by default all.")] = None,
    soft: Annotated[str | None, typer.Option(help="hard, soft, or both: hard,soft (the default).")] = None,
    pairs: Annotated[int, typer.Option(help="Pairs of prompts for each circuit.", min=1)] = 8,
    seed: Annotated[int, typer.Option(help="Of everything that is random.", min=0)] = 0,
    quiet: Quiet = False,
) -> None:
    """Write the set and say what is in it."""
    from circuits.benchmark import CIRCUITS, SIZES, SOFTNESS, make

    chosen = [_listed(given, by_default) for given, by_default in
              ((circuits, CIRCUITS), (sizes, SIZES), (soft, SOFTNESS))]  # fmt: skip
    folder = make(out, *chosen, n_pairs=pairs, seed=seed, progress=not quiet)
    n_tasks = sum(1 for path in folder.iterdir() if path.is_dir())
    typer.echo(f"Wrote {folder}: {n_tasks} tasks; README.md says how to read and score them.")


def _listed(given: str | None, by_default: Iterable[str]) -> list[str]:
    """Names with commas between them."""
    return list(by_default) if given is None else [name.strip() for name in given.split(",")]
