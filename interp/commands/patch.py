"""`interp patch`: a sweep of activation patching over two prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interp.commands.common import MODEL, ModelName, Quiet, check_different, check_writable, load
from interp.commands.sweeps import (
    DIRECTION,
    OVER,
    SITE,
    TOP_K,
    Direction,
    Over,
    Site,
    TopK,
    check_site,
    checked_words,
    print_sweep,
    write_sweep,
)

HELP = """Patch activations from one prompt into another, place by place, and measure the logit difference.

Denoising runs the corrupted prompt and restores clean activations (what suffices?); noising runs the clean prompt and
writes corrupted ones (what is necessary?). Both prompts need as many tokens. Prints the places that change most, of
each position the one that does, and writes a page with the whole sweep.

Example: interp patch --clean 'When Mary and John went to the store, John gave a drink to' --corrupted 'When Mary and
John went to the store, Mary gave a drink to' --correct ' Mary' --incorrect ' John'

Example: interp patch ... --site z --over layer,head --direction noising --out heads.html
"""


def patch(
    clean: Annotated[str, typer.Option(help="The prompt that shows the behaviour.")],
    corrupted: Annotated[str, typer.Option(help="The prompt that does not.")],
    correct: Annotated[str, typer.Option(help="The right token, such as ' Mary' (mind the space).")],
    incorrect: Annotated[
        str | None, typer.Option(help="The wrong token; without it, the logit of the right one.")
    ] = None,
    model: ModelName = MODEL,
    site: Site = SITE,
    over: Over = OVER,
    direction: Direction = DIRECTION,
    top_k: TopK = TOP_K,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("patching.html"),
    quiet: Quiet = False,
) -> None:
    """Print the top of a sweep and write its page."""
    from interp.metrics import Logit, LogitDifference
    from interp.patching import sweep

    words, chosen = checked_words(over, direction)
    check_different(clean, corrupted, "--clean and --corrupted")
    if incorrect is not None:
        check_different(correct, incorrect, "--correct and --incorrect")
    out = check_writable(out)
    loaded = load(model, quiet)
    check_site(loaded, site)
    metric = Logit(correct) if incorrect is None else LogitDifference(correct, incorrect)
    result = sweep(loaded, corrupted, clean, metric, site, words, direction=chosen, progress=not quiet)
    print_sweep(result, top_k)
    write_sweep(out, result, model, f"Clean: {clean!r}. Corrupted: {corrupted!r}.")
