"""`interp attention`: all heads of a run on a text, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.commands.common import (
    MODEL,
    ModelName,
    Quiet,
    busy,
    check_different,
    check_writable,
    load,
    load_pair,
    wrote,
)
from interp.commands.options import are_of_two_stacks
from interp.errors import ConfigError

if TYPE_CHECKING:
    from interp.model import HookedTransformer

HELP = """Draw the attention of all heads on a text: the explorer, in a page of its own.

With --scores, badges say which heads look like previous-token, duplicate-token, induction and first-token heads on
random repeated tokens (not on the text). With --correct, the page opens on what each attended token adds to the logit
of that token; with --incorrect as well, to the difference of the two logits.

Example: interp attention --text 'When Mary and John went to the store, John gave a drink to' --scores

Example: interp attention --text 'When Mary and John went to the store, John gave a drink to' --correct ' Mary'
--incorrect ' John' --out ioi.html

Example: interp attention --model t5-small --source 'translate English to German: The house is red.' --target 'Das Haus'
"""

BADGES = {
    "causal": ("induction", "previous_token", "duplicate_token", "first_token"),
    "bidirectional": ("previous_token", "next_token", "own_token", "duplicate_token", "first_token", "last_token"),
}
"""By what the queries of a model see."""


def attention(
    text: Annotated[str | None, typer.Option(help="What the model reads.")] = None,
    source: Annotated[str | None, typer.Option(help="Of an encoder with a decoder: what the encoder reads.")] = None,
    target: Annotated[
        str | None, typer.Option(help="What the decoder reads.", show_default="its start token alone")
    ] = None,
    model: ModelName = MODEL,
    scores: Annotated[bool, typer.Option("--scores", help="Score the heads, as badges.")] = False,
    correct: Annotated[str | None, typer.Option(help="A token, such as ' Mary', whose logit counts for.")] = None,
    incorrect: Annotated[str | None, typer.Option(help="A token whose logit counts against.")] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("attention.html"),
    quiet: Quiet = False,
) -> None:
    """Write the explorer's page."""
    if correct is None and incorrect is not None:
        raise ConfigError("--incorrect goes with --correct: the difference of their logits is what is shown")
    answers = [token for token in (correct, incorrect) if token is not None]
    if correct is not None and incorrect is not None:
        check_different(correct, incorrect, "--correct and --incorrect")
    of_two = are_of_two_stacks({"--text": text}, {"--source": source}, target)
    if of_two and scores:
        raise ConfigError("--scores are of the heads of one stack: leave it out with --source")
    out = check_writable(out)
    loaded: Any = load_pair(model, quiet) if of_two else load(model, quiet)
    for token in answers:
        (loaded.decoder if of_two else loaded).to_single_token(token)
    names = ["*.hook_pattern", "*.hook_attn_scores", "*.hook_v"]
    names += ["*.hook_scale"] if answers and any(name.endswith("hook_scale") for name in loaded.hook_points) else []
    read = (source, target) if of_two else (text,)
    with busy("reading the text", quiet):  # the last norm is for logits
        _, cache = loaded.run_with_cache(*read, return_type="logits" if answers else None, names_filter=names)
    badges = _badges(loaded, quiet) if scores else None

    from interp.plot import attention as explorer
    from interp.plot import clip

    with busy("drawing", quiet):
        page = explorer(
            cache,
            read[-1],
            badges,
            source_tokens=source,
            correct=correct,
            incorrect=incorrect,
            title=f"Attention of {model} on {' → '.join(f'“{clip(said, 100)}”' for said in read if said)}",
            sort_by=next(iter(badges)) if badges else None,
        )
        page.to_html(out)
    typer.echo(str(page))
    wrote(out, "attention of all heads")


def _badges(model: HookedTransformer, quiet: bool) -> Any:
    """The scores that are defined for every head, a Dataset that knows its prompts."""
    from interp.heads import head_scores

    names = BADGES[model.cfg.attention_dir]
    found = head_scores(model, scores=names, progress=not quiet)
    return found[[name for name in names if not bool(found[name].isnull().any())]]
