"""`interp patch`: a sweep of activation patching over two prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.commands.common import MODEL, ModelName, Quiet, check_different, check_writable, load, load_pair
from interp.commands.options import are_of_two_stacks, with_fields
from interp.commands.pairs import read_at
from interp.commands.sweeps import Asked, print_sweep, write_sweep

HELP = """Patch activations from one prompt into another, place by place, and measure the logit difference.

Denoising runs the corrupted prompt and restores clean activations (what suffices?); noising runs the clean prompt and
writes corrupted ones (what is necessary?). Both prompts need as many tokens. Prints the places that change most, of
each position the one that does, and writes a page with the whole sweep.

Example: interp patch --clean 'When Mary and John went to the store, John gave a drink to' --corrupted 'When Mary and
John went to the store, Mary gave a drink to' --correct ' Mary' --incorrect ' John'

Example: interp patch ... --site z --over layer,head --direction noising --out heads.html

Of an encoder with a decoder: interp patch --model t5-small --clean-source ... --corrupted-source ... --clean-target ...
--correct ... --site cross_attn.z --over layer,head
"""


@with_fields
def patch(
    correct: Annotated[str, typer.Option(help="The right token, such as ' Mary' (mind the space).")],
    incorrect: Annotated[
        str | None, typer.Option(help="The wrong token; without it, the logit of the right one.")
    ] = None,
    clean: Annotated[str | None, typer.Option(help="The prompt that shows the behaviour.")] = None,
    corrupted: Annotated[str | None, typer.Option(help="The prompt that does not.")] = None,
    clean_source: Annotated[
        str | None, typer.Option(help="Of an encoder with a decoder: what the encoder reads.")
    ] = None,
    corrupted_source: Annotated[str | None, typer.Option(help="The same, of the corrupted prompt.")] = None,
    clean_target: Annotated[
        str | None, typer.Option(help="What the decoder reads.", show_default="its start token alone")
    ] = None,
    corrupted_target: Annotated[
        str | None, typer.Option(help="The same, of the corrupted prompt.", show_default="the clean one")
    ] = None,
    model: ModelName = MODEL,
    asked: Asked = Asked(),  # noqa: B008
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("patching.html"),
    quiet: Quiet = False,
) -> None:
    """Print the top of a sweep and write its page."""
    from interp.metrics import Logit, LogitDifference
    from interp.patching import sweep

    words, direction = asked.words()
    sources = {"--clean-source": clean_source, "--corrupted-source": corrupted_source}
    of_two = are_of_two_stacks({"--clean": clean, "--corrupted": corrupted}, sources, clean_target, corrupted_target)
    targets = clean_target, clean_target if corrupted_target is None else corrupted_target
    prompts: list[Any] = [*zip(sources.values(), targets, strict=True)] if of_two else [clean, corrupted]
    check_different(
        prompts[0], prompts[1], "the clean prompt and the corrupted one" if of_two else "--clean and --corrupted"
    )
    if incorrect is not None:
        check_different(correct, incorrect, "--correct and --incorrect")
    out = check_writable(out)
    loaded = load_pair(model, quiet) if of_two else load(model, quiet)
    site = asked.site_in(loaded)
    metric = read_at(Logit(correct) if incorrect is None else LogitDifference(correct, incorrect), asked.pos)
    result = sweep(loaded, prompts[1], prompts[0], metric, site, words, direction=direction, progress=not quiet)
    print_sweep(result, asked.top_k)
    write_sweep(out, result, model, f"Clean: {prompts[0]!r}. Corrupted: {prompts[1]!r}.", asked.plotly)
