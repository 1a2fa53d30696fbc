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
random repeated tokens (not on the text). With --answer and --wrong, the page opens on what each attended token adds to
the difference of these two logits.

Example: interp attention --text 'When Mary and John went to the store, John gave a drink to' --scores

Example: interp attention --text 'When Mary and John went to the store, John gave a drink to' --answer ' Mary' --wrong
' John' --out ioi.html
"""

BADGES = ("induction", "previous_token", "duplicate_token", "first_token")


def attention(
    text: Annotated[str, typer.Option(help="What the model reads.")],
    model: ModelName = MODEL,
    scores: Annotated[bool, typer.Option("--scores", help="Score the heads, as badges.")] = False,
    answer: Annotated[str | None, typer.Option(help="A token, such as ' Mary', whose logit counts for.")] = None,
    wrong: Annotated[str | None, typer.Option(help="A token whose logit counts against.")] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("attention.html"),
    quiet: Quiet = False,
) -> None:
    """Write the explorer's page."""
    if (answer is None) != (wrong is None):
        raise ConfigError("--answer and --wrong go together: the difference of their logits is what is shown")
    difference = None if answer is None or wrong is None else (answer, wrong)
    if difference:
        check_different(*difference, "--answer and --wrong")
    out = check_writable(out)
    loaded = load(model, quiet)
    if difference:
        for token in difference:
            loaded.to_single_token(token)
    names = ["blocks.*.attn.hook_pattern", "blocks.*.attn.hook_attn_scores", "blocks.*.attn.hook_v"]
    names += ["*.hook_scale"] if difference and loaded.cfg.normalization_type is not None else []
    with busy("reading the text", quiet):
        _, cache = loaded.run_with_cache(text, "logits" if difference else None, names)  # the last norm is for logits
    badges = _badges(loaded, quiet) if scores else None

    from interp.plot import attention as explorer
    from interp.plot import clip

    with busy("drawing", quiet):
        page = explorer(
            cache,
            text,
            badges,
            logit_difference=difference,
            title=f"Attention of {model} on “{clip(text, 100)}”",
            kind="contribution" if difference else "attention",
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
