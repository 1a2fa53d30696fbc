"""`interp sweep`: activation patching over a data set of pairs, as a job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interp.commands.common import MODEL, ModelName, Quiet, check_writable
from interp.commands.options import with_fields
from interp.commands.pairs import pairs_named, read_at
from interp.commands.sweeps import Asked, print_sweep, write_sweep
from interp.commands.working import (
    Device,
    Folder,
    Part,
    Threads,
    Workers,
    check_folder,
    engine_of,
    reference,
    said_where_work_is_left,
)

HELP = """Patch activations over a data set of pairs of prompts, place by place, with intervals over prompts.

As interp patch, for all pairs. Each pair is judged by its own answers. The work is cut into units, which are kept in
--folder: interrupted or killed, the same command goes on where it was, and any number of --workers, or of machines with
a --part each, give the same bits. interp jobs status says how far it is.

Pairs go in a .csv with the columns clean, corrupted, correct and (or not) incorrect, or in a .jsonl with an object of
these on each line. These sets ship with interp: ioi, greater_than, docstring, capitals, pronouns.

Example: interp sweep --pairs ioi --site z --over layer,head --folder ioi-z --workers 2 --out z.html

Example, on each of 8 machines: interp sweep --pairs pairs.jsonl --folder /shared/sweep --part $SLURM_ARRAY_TASK_ID/8
"""


@with_fields
def sweep(
    pairs: Annotated[str, typer.Option(help="A .csv or .jsonl file of pairs of prompts, or a data set's name.")],
    folder: Folder,
    model: ModelName = MODEL,
    device: Device = None,
    asked: Asked = Asked(),  # noqa: B008
    divergence: Annotated[
        bool,
        typer.Option("--divergence", help="Measure how far all next tokens are from the clean run's, not answers."),
    ] = False,
    unit: Annotated[int, typer.Option(help="How many pairs are computed and kept together.", min=1)] = 8,
    workers: Workers = 1,
    threads: Threads = 1,
    part: Part = None,
    out: Annotated[Path | None, typer.Option(help="A page to write.")] = None,
    quiet: Quiet = False,
) -> None:
    """Print the top of a sweep over a data set, and write its page."""
    from interp.metrics import KLDivergence
    from interp.patching import sweep_dataset

    words, direction = asked.words()
    engine, folder = engine_of(workers, part), check_folder(folder)
    prompts = pairs_named(pairs)
    out = None if out is None else check_writable(out)
    ref = reference(model, device, quiet)
    site = str(asked.site_in(ref.load()))
    own = asked.pos is None and not divergence
    metric = None if own else read_at(KLDivergence() if divergence else prompts.metric, asked.pos)
    with said_where_work_is_left(part, folder):
        result = sweep_dataset(ref, prompts, metric, site, words, direction=direction, unit=unit, folder=folder,
                               workers=engine, threads=threads, progress=not quiet)  # fmt: skip
    print_sweep(result, asked.top_k)
    if out is not None:
        write_sweep(out, result, model, f"{len(prompts)} pairs of prompts: {pairs}.", asked.plotly)
