"""`interp demo`: the two-layer induction model, checked against the lecture's table and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from torch import Tensor

from interp.commands.common import Quiet, busy, check_writable, print_whole, wrote
from interp.text import visible

if TYPE_CHECKING:
    from circuits.lecture import ReadingCheck

LONGEST_TABLE = 32
ABOUT = """Two attention layers, built by hand. L0H0, the previous-token head, tells every token which one came before.
L1H0, the induction head, seeks a token that came after the current one's like, and predicts it.
"""
HELP = """Build the two-layer induction model that lectures on transformers teach, by hand; check it entry by entry
against the lecture's table, and draw it.

Example: interp demo --text '!abcabc' --words '!abc' --out induction.html
"""


def demo(
    text: Annotated[
        str, typer.Option(help="What the model reads; let it begin with a word that does not recur.")
    ] = "!abacb",
    words: Annotated[
        str, typer.Option(help="The vocabulary: one-character words in a row, or longer words with spaces between.")
    ] = "!abc",
    out: Annotated[Path, typer.Option(help="The page to write, with both attention patterns.")] = Path(
        "induction.html"
    ),
    quiet: Quiet = False,
) -> None:
    """Print the checks of the lecture model and write its page."""
    from circuits.lecture import check_readings
    from interp import Vocabulary

    out = check_writable(out)
    vocabulary = Vocabulary(words.split(), sep=" ") if " " in words else Vocabulary(words)
    with busy("checking the model", quiet):
        checks = check_readings(text, vocabulary)
    causal = checks["causal"]
    scores = _head_scores(causal, vocabulary.to_tokens(text)[0])
    with busy("drawing", quiet):
        _write_page(out, causal, text, vocabulary.to_str_tokens(text), scores)
    _print(checks, [visible(word) for word in vocabulary.to_str_tokens(text)], scores)
    wrote(out, "both attention patterns")


def _print(checks: dict[str, ReadingCheck], labels: list[str], scores: tuple[str, str]) -> None:
    """The tables: predictions, scores, layer-2 logits, readings of the mask with their differences."""
    causal, console = checks["causal"], Console()
    console.print(ABOUT)
    console.print(_prediction_table(causal, labels))
    console.print(_score_table(scores))
    if len(labels) <= LONGEST_TABLE:
        print_whole(_logit_table(causal, labels))
    else:
        console.print(f"(a table of {len(labels)} x {len(labels)} layer-2 logits is too large to print)")
    console.print(_reading_table(checks))
    for name, check in checks.items():
        if check.differing:
            console.print(f"[bold]{name}[/bold]: {escape(_difference(check))}", soft_wrap=True)
    console.print()


def _logit_table(check: ReadingCheck, labels: list[str]) -> Table:
    table = Table(title=Text("Layer-2 logits, 100 x [x_i = x_(j-1)]"))
    table.add_column("query \\ key", justify="right")
    for j, label in enumerate(labels):
        table.add_column(Text(f"{label}\n{j}"), justify="right")
    different = set(check.differing)
    for i, label in enumerate(labels):
        cells = [
            Text(_number(value) + ("*" if (i, j) in different else ""), "bold" if value >= 0.05 else "dim")
            for j, value in enumerate(check.table[i].tolist())
        ]
        table.add_row(Text(f"{i}  {label}"), *cells)
    if different:
        table.caption = "* differs from the lectures' table, see below"
    return table


def _reading_table(checks: dict[str, ReadingCheck]) -> Table:
    from circuits.lecture import READINGS

    title = "Entries that agree with the table in lectures, by how its mask is read"
    table = Table("reading", "rule", "entries", title=title)
    for name, check in checks.items():
        table.add_row(name, Text(READINGS[name].rule), f"{check.matched}/{check.slide.numel()}")
    return table


def _difference(check: ReadingCheck) -> str:
    """Which entries differ, with their values, and why."""
    from circuits.lecture import READINGS

    shown = [f"({i},{j}) = {_number(float(check.table[i, j]))}" for i, j in check.differing[:6]]
    more = f" and {len(check.differing) - 6} more" if len(check.differing) > 6 else ""
    slide = ", ".join(sorted({_number(float(check.slide[place])) for place in check.differing}))
    return f"{', '.join(shown)}{more} where the slide has {slide}. {READINGS[check.reading].difference}"


def _prediction_table(check: ReadingCheck, labels: list[str]) -> Table:
    table = Table(
        "position",
        "token",
        "prediction",
        "copied from",
        title="Predictions (causal reading); without a match, the average of what is seen",
    )
    for p in check.predictions:
        mixture = ", ".join(f"{visible(word)} {share:.2f}" for word, share in p.shares.items())
        what = visible(p.token) if p.matched and p.token is not None else mixture or "nothing"
        if not p.matched:
            what = f"no match: {what}"
        sources = ", ".join(f"{j} ({labels[j]})" for j in p.sources[:6]) + (" ..." if len(p.sources) > 6 else "")
        table.add_row(str(p.position), Text(labels[p.position]), Text(what), Text(sources), style="bold" * p.matched)
    return table


def _head_scores(check: ReadingCheck, tokens: Tensor) -> tuple[str, str]:
    """Previous-token score of the first head, induction score of the second, or why there is none."""
    from interp.errors import ShapeError, TokenError
    from interp.heads import induction_score, previous_token_score

    try:
        previous = f"{float(previous_token_score(check.patterns[0])):.3f}"
    except ShapeError:
        previous = "none: a single position"
    try:
        induction = f"{float(induction_score(check.patterns[1], tokens)):.3f}"
    except TokenError:
        induction = "none: no token occurs twice"
    return previous, induction


def _score_table(scores: tuple[str, str]) -> Table:
    table = Table("head", "score", title="Head scores (1 is perfect)")
    table.add_row("L0H0: previous token", scores[0])
    table.add_row("L1H0: induction", scores[1])
    return table


def _write_page(out: Path, check: ReadingCheck, text: str, tokens: list[str], scores: tuple[str, str]) -> None:
    from interp.plot import figures, report

    heads = ("L0H0: previous-token head", "L1H0: induction head")
    captions = (
        f"Every position but the first attends to the one before it; score {scores[0]}. Grey: masked.",
        f"A position whose token occurred before attends to what followed it then; score {scores[1]}. "
        "The others spread over all they see. Grey: masked.",
    )
    report.write_page(
        out,
        "The induction model, built by hand",
        f"Attention patterns of the two heads on {text!r}, causal reading (L0H0: the lecture's layer 1).",
        [
            report.Panel(figures.pattern(pattern, tokens, title=head), caption)
            for pattern, head, caption in zip(check.patterns, heads, captions, strict=True)
        ],
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value - round(value)) < 0.05 else f"{value:.1f}"
