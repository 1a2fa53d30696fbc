"""`interp demo`: the two-layer induction model, checked against the lecture's table and drawn."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from torch import Tensor

from interp.commands.common import Quiet, busy, check_writable, print_whole, wrote
from interp.text import visible

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from circuits.lecture import ReadingCheck
    from interp import Vocabulary
    from interp.plot.report import Panel

Badges = dict[str, list[list[float]]]
"""Scores of the two heads, [layer][head], by name."""

LONGEST_TABLE = 32
HALF = 560
"""Pixels of a figure that has half of a page."""

PREDICTED = "Predictions (causal reading); without a match, the average of what is seen"
READ = "Entries that agree with the table in lectures, by how its mask is read"
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
    out: Annotated[Path, typer.Option(help="The page to write, with both heads and the tables.")] = Path(
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
    badges = _badges(causal, vocabulary.to_tokens(text)[0])
    with busy("drawing", quiet):
        _write_page(out, checks, text, vocabulary, badges)
    _print(checks, [visible(word) for word in vocabulary.to_str_tokens(text)], badges)
    wrote(out, "both heads, and the tables")


def _print(checks: dict[str, ReadingCheck], labels: list[str], badges: Badges) -> None:
    """The tables: predictions, scores, layer-2 logits, readings of the mask with their differences."""
    causal, console = checks["causal"], Console()
    console.print(ABOUT)
    console.print(_prediction_table(causal, labels))
    console.print(_score_table(badges))
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

    table = Table("reading", "rule", "entries", title=READ)
    for name, check in checks.items():
        table.add_row(name, Text(READINGS[name].rule), _agreeing(check))
    return table


def _agreeing(check: ReadingCheck) -> str:
    return f"{check.matched}/{check.slide.numel()}"


def _difference(check: ReadingCheck) -> str:
    """Which entries differ, with their values, and why."""
    from circuits.lecture import READINGS

    shown = [f"({i},{j}) = {_number(float(check.table[i, j]))}" for i, j in check.differing[:6]]
    more = f" and {len(check.differing) - 6} more" if len(check.differing) > 6 else ""
    slide = ", ".join(sorted({_number(float(check.slide[place])) for place in check.differing}))
    return f"{', '.join(shown)}{more} where the slide has {slide}. {READINGS[check.reading].difference}"


def _prediction_table(check: ReadingCheck, labels: list[str]) -> Table:
    rows = _predictions(check, labels)
    table = Table(*rows, title=PREDICTED)
    for p, row in zip(check.predictions, zip(*rows.values(), strict=True), strict=True):
        table.add_row(*map(Text, row), style="bold" * p.matched)
    return table


def _predictions(check: ReadingCheck, labels: list[str]) -> dict[str, list[str]]:
    """What is predicted at each position, as columns by their names."""
    rows = []
    for p in check.predictions:
        mixture = ", ".join(f"{visible(word)} {share:.2f}" for word, share in p.shares.items())
        what = visible(p.token) if p.matched and p.token is not None else mixture or "nothing"
        if not p.matched:
            what = f"no match: {what}"
        sources = ", ".join(f"{j} ({labels[j]})" for j in p.sources[:6]) + (" ..." if len(p.sources) > 6 else "")
        rows.append((str(p.position), labels[p.position], what, sources))
    columns = map(list, zip(*rows, strict=True))
    return dict(zip(("position", "token", "prediction", "copied from"), columns, strict=True))


def _badges(check: ReadingCheck, tokens: Tensor) -> Badges:
    """The scores of both heads by name, as far as there are any on these tokens."""
    from interp.errors import ShapeError, TokenError
    from interp.heads import induction_score, previous_token_score

    found: Badges = {}
    with suppress(ShapeError):  # a single position
        found["previous token"] = [[float(previous_token_score(pattern))] for pattern in check.patterns]
    with suppress(TokenError):  # no token occurs twice
        found["induction"] = [[float(induction_score(pattern, tokens))] for pattern in check.patterns]
    return found


def _said_scores(badges: Badges) -> tuple[str, str]:
    """Previous-token score of the first head, induction score of the second, or why there is none."""
    previous, induction = badges.get("previous token"), badges.get("induction")
    return (
        f"{previous[0][0]:.3f}" if previous else "none: a single position",
        f"{induction[1][0]:.3f}" if induction else "none: no token occurs twice",
    )


def _score_table(badges: Badges) -> Table:
    table = Table("head", "score", title="Head scores (1 is perfect)")
    for head, score in zip(("L0H0: previous token", "L1H0: induction"), _said_scores(badges), strict=True):
        table.add_row(head, score)
    return table


def _write_page(out: Path, checks: dict[str, ReadingCheck], text: str, vocabulary: Vocabulary, badges: Badges) -> None:
    """Both heads in the explorer with the layer-2 logits beside them; below, what they predict and the readings."""
    from interp.plot import report

    labels = [visible(word) for word in vocabulary.to_str_tokens(text)]
    panels = [
        _head_panel(checks["causal"], text, vocabulary, badges),
        _logit_panel(checks["causal"], labels),
        _prediction_panel(checks["causal"], labels),
        _reading_panel(checks),
    ]
    about = f"{' '.join(ABOUT.split())} Here both read “{text}”, as the causal mask lets them."
    report.write_page(out, "The induction model, built by hand", about, panels)


def _head_panel(check: ReadingCheck, text: str, vocabulary: Vocabulary, badges: Badges) -> Panel:
    """The explorer, on the last position at which a match tells what comes next."""
    import torch

    from circuits.gallery import induction
    from interp.plot import attention, report

    model = induction.induction_model(vocabulary, max(1, len(check.table)))
    with torch.no_grad():
        _, cache = model.run_with_cache(text)
    last = next((p for p in reversed(check.predictions) if p.matched and p.token is not None), None)
    asked = {"lock_query": last.position, "correct": last.token} if last else {}
    scores = _said_scores(badges)
    said = (
        "L0H0, the previous-token head (the lecture's layer 1): every position but the first attends to the one "
        f"before it; score {scores[0]}. L1H0, the induction head: a position whose token occurred before attends to "
        f"what followed it then, and the others spread over all they see; score {scores[1]}."
    )
    return report.Panel(attention(cache, text, badges, head=(1, 0), kind="attention", **asked), said)


def _prediction_panel(check: ReadingCheck, labels: list[str]) -> Panel:
    from interp.plot import figures, report

    said = "A position whose token occurred before predicts what followed it then."
    return report.Panel(_of_half(figures.table(_predictions(check, labels), title=PREDICTED)), said)


def _reading_panel(checks: dict[str, ReadingCheck]) -> Panel:
    from circuits.lecture import READINGS
    from interp.plot import figures, report

    rules = [READINGS[name].rule for name in checks]
    columns = {"reading": [*checks], "rule": rules, "entries": [_agreeing(check) for check in checks.values()]}
    others = {name: check for name, check in checks.items() if check.differing and name != "causal"}
    said = " ".join(f"{name}: {_difference(check)}" for name, check in others.items())
    return report.Panel(figures.table(columns, title=READ), said)


def _of_half(figure: Figure) -> Figure:
    """A figure as wide as half a page, unless it is far too wide for that."""
    width: Any = figure.layout["width"]
    return figure.update_layout(width=HALF) if width <= 1.4 * HALF else figure


def _logit_panel(check: ReadingCheck, labels: list[str]) -> Panel:
    """The table of lectures as a heat-map, with its numbers where there is room for them."""
    from interp.plot import figures, report

    numbers = [[_number(value) for value in row] for row in check.table.tolist()]
    different = set(check.differing)
    slide = [[f"in lectures {_number(value)}" for value in row] for row in check.slide.tolist()]
    notes = [[said if (i, j) in different else "" for j, said in enumerate(row)] for i, row in enumerate(slide)]
    figure = figures.heatmap(
        check.table,
        labels,
        labels,
        title="Layer-2 logits\n100 x [x_i = x_(j-1)], before the mask",
        x="key",
        y="query",
        value="logit",
        text=numbers if len(labels) <= LONGEST_TABLE else None,
        notes=notes,
    )
    agree = f"{check.matched} of {check.slide.numel()} entries agree with the table in lectures."
    return report.Panel(_of_half(figure), f"{agree} {_difference(check)}" if different else agree)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value - round(value)) < 0.05 else f"{value:.1f}"
