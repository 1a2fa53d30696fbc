"""`interp attention`: all heads of a run on a text, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.commands.common import MODEL, ModelName, Quiet, busy, check_different, check_writable, load, wrote
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
"""

BADGES = ("induction", "previous_token", "duplicate_token", "first_token")


def attention(
    text: Annotated[str, typer.Option(help="What the model reads.")],
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
    out = check_writable(out)
    loaded = load(model, quiet)
    for token in answers:
        loaded.to_single_token(token)
    names = ["blocks.*.attn.hook_pattern", "blocks.*.attn.hook_attn_scores", "blocks.*.attn.hook_v"]
    names += ["*.hook_scale"] if answers and loaded.cfg.normalization_type is not None else []
    with busy("reading the text", quiet):
        _, cache = loaded.run_with_cache(text, "logits" if answers else None, names)  # the last norm is for logits
    badges = _badges(loaded, quiet) if scores else None

    from interp.plot import attention as explorer
    from interp.plot import clip

    with busy("drawing", quiet):
        page = explorer(
            cache,
            text,
            badges,
            correct=correct,
            incorrect=incorrect,
            title=f"Attention of {model} on “{clip(text, 100)}”",
            kind="contribution" if answers else "attention",
            sort_by=next(iter(badges)) if badges else None,
        )
        page.to_html(out)
    typer.echo(str(page))
    wrote(out, "attention of all heads")


def _badges(model: HookedTransformer, quiet: bool) -> Any:
    """The scores that are defined for every head, a Dataset that knows its prompts."""
    from interp.heads import head_scores

    found = head_scores(model, scores=BADGES, progress=not quiet)
    return found[[name for name in BADGES if not bool(found[name].isnull().any())]]
