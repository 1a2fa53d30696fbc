"""`interp circuit`: the edges that do it, how far their scores are off, and whether they suffice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from interp.commands.common import (
    MODEL,
    ModelName,
    Quiet,
    WithPlotly,
    check_writable,
    load,
    print_whole,
    said_of_ends,
    wrote,
)
from interp.commands.pairs import Pos, pairs_of, read_at
from interp.errors import ConfigError, did_you_mean
from interp.indices import check_count, counted

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from rich.table import Table

    from interp.data import PromptPairs
    from interp.discovery import Subgraph
    from interp.metrics import Metric
    from interp.model import EdgeGraph, HookedTransformer

HELP = """Find a circuit: score every edge between two prompts, and judge the edges that count for most.

An edge is what one component writes of what another reads, such as L0.mlp -> L23H1.v (keys and values count by
key-value head, which several heads may share). Its score is the change of the
logit difference when that edge alone carries the other prompt's activations. Prints the largest, with exact values
beside the estimates, and how much of the difference the circuit of --n edges brings about alone, beside as many edges
at random; writes a page with the circuit and the faithfulness of circuits of all sizes.

Several pairs of prompts go in a file: .csv with the columns clean, corrupted, correct and incorrect, or .jsonl with an
object of these on each line. The two prompts of a pair need as many tokens. Some data sets of pairs ship with interp:
ioi, greater_than, docstring, capitals and pronouns.

Example: interp circuit --clean 'When Mary and John went to the store, John gave a drink to' --corrupted 'When Mary and
John went to the store, Mary gave a drink to' --correct ' Mary' --incorrect ' John'

Example: interp circuit --pairs pairs.csv --method combined --n 1000 --json circuit.json
"""

WHOLE, FOUND, RANDOM, NOTHING = "the whole model", "the circuit", "as many edges at random", "no edge"


def circuit(
    clean: Annotated[str | None, typer.Option(help="The prompt that shows the behaviour.")] = None,
    corrupted: Annotated[str | None, typer.Option(help="The prompt that does not.")] = None,
    correct: Annotated[str | None, typer.Option(help="The right token, such as ' Mary' (mind the space).")] = None,
    incorrect: Annotated[
        str | None, typer.Option(help="The wrong token; without it, the logit of the right one.")
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(help="Instead of these four: a .csv or .jsonl file of pairs of prompts, or a data set's name."),
    ] = None,
    pos: Pos = None,
    model: ModelName = MODEL,
    method: Annotated[
        str, typer.Option(help="How edges are scored: exact, eap, eap_ig, qk, local, local_ig, gim or combined.")
    ] = "eap_ig",
    direction: Annotated[str, typer.Option(help="noising or denoising.")] = "noising",
    n: Annotated[int, typer.Option("--n", help="How many edges the circuit has.", min=1)] = 200,
    top_k: Annotated[int, typer.Option(help="How many edges to print.", min=1)] = 10,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("circuit.html"),
    json: Annotated[Path | None, typer.Option(help="A file to write the circuit to, as JSON.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="With --method exact: a file from which an interrupted run goes on.")
    ] = None,
    plotly: WithPlotly = False,
    quiet: Quiet = False,
) -> None:
    """Print the largest edges and how the circuit is judged; write its page."""
    from interp.discovery import Subgraph, edge_scores
    from interp.model import EdgeGraph

    _check_words(method, direction, checkpoint)
    prompts = pairs_of(pairs, clean=clean, corrupted=corrupted, correct=correct, incorrect=incorrect)
    out, json, checkpoint = _check_files(out, json, checkpoint)
    loaded = load(model, quiet)
    check_count("--n", n, EdgeGraph.of(loaded).n_edges)
    judge = _Judge(loaded, prompts, pos, {"direction": direction, "progress": not quiet})
    typer.echo(judge.ends())
    how: Any = {"method": method, "probe": max(20, top_k), "checkpoint": checkpoint}
    scores = edge_scores(loaded, *judge.asked, **how, **judge.options)
    edges = _largest(scores, top_k)
    print_whole(_table(edges, f"The largest of {int(scores.notnull().sum()):,} edges"))
    said = " ".join(filter(None, [_said_of_shared(EdgeGraph.of(loaded), edges["edge"]), _said_of_probe(scores)]))
    typer.echo(said)
    found = Subgraph.top(scores, n)
    judged = judge.judged(found, _at_random(scores, n))
    print_whole(_table(judged, "What circuits do alone on these prompts, all other edges from the other prompt"))
    _write_page(out, model, found, scores, edges, said, judged, judge.curve(scores), plotly)
    wrote(out, "the circuit, its largest edges, and the faithfulness of circuits of all sizes")
    if json is not None:
        found.save(json)
        typer.echo(f"Wrote {json}: the circuit, for Subgraph.load.")


# ---------------------------------------------------------------------- before a model is loaded


def _check_words(method: str, direction: str, checkpoint: Path | None) -> None:
    """Raise `ConfigError` for a word that is not allowed, or a checkpoint of what keeps none."""
    from interp.discovery import MethodName
    from interp.patching import ROLES

    for name, given, allowed in (("--method", method, get_args(MethodName)), ("--direction", direction, [*ROLES])):
        if given not in allowed:
            raise ConfigError(f"{name} {given!r}; allowed: {', '.join(allowed)}{did_you_mean(given, allowed)}")
    if checkpoint is not None and method != "exact":
        raise ConfigError(f"--checkpoint goes with --method exact; {method} keeps none")


def _check_files(out: Path, *more: Path | None) -> tuple[Path, Path | None, Path | None]:
    """The files to write. Raises as `check_writable`, and `ConfigError` for one that is there twice."""
    first, json, checkpoint = (None if path is None else check_writable(path) for path in (out, *more))
    names = [path.absolute() for path in (first, json, checkpoint) if path is not None]
    if len(set(names)) < len(names):
        raise ConfigError("--out, --json and --checkpoint are three files; two of them have one name")
    assert first is not None
    return first, json, checkpoint


# ---------------------------------------------------------------------- what is measured


class _Judge:
    """Runs of circuits on the pairs of prompts.

    Attributes:
        asked: both prompts of all pairs, and the metric of their answers.
        options: of all runs.
    """

    def __init__(self, model: HookedTransformer, prompts: PromptPairs, pos: str | None, options: dict[str, Any]):
        self.model, self.options = model, options
        tokens, device = prompts.tokens(model), model.W_E.device  # all pairs are checked before any is run
        batches = tokens.corrupted_batch(device), tokens.clean_batch(device)
        self.asked: tuple[Any, Any, Metric] = (*batches, read_at(prompts.metric, pos))

    def ends(self) -> str:
        """The metric of both prompts, in words. Raises what no circuit can be judged on; see `faithfulness`."""
        from interp.discovery import Subgraph, faithfulness

        return said_of_ends(faithfulness(self.model, Subgraph.empty(self.model), *self.asked, **self.options).attrs)

    def judged(self, found: Subgraph, random: Subgraph) -> dict[str, list[str]]:
        """How the circuit is judged, and what stands beside it: columns of a table."""
        from interp.discovery import Subgraph, faithfulness

        circuits = {
            WHOLE: Subgraph.whole(self.model),
            FOUND: found,
            RANDOM: random,
            NOTHING: Subgraph.empty(self.model),
        }
        result = faithfulness(self.model, circuits, *self.asked, **self.options)
        columns = {
            "": list(circuits),
            "edges": [f"{n:,}" for n in result["n_edges"].to_numpy()],
            "without dead ends": [f"{n:,}" for n in result["n_pruned"].to_numpy()],
            "metric": [f"{value:z.3f}" for value in result["value"].to_numpy()],
            "faithfulness": [f"{share:z.3f}" for share in result["faithfulness"].to_numpy()],
        }
        return columns | _intervals(result.get("faithfulness_ci_low"), result.get("faithfulness_ci_high"))

    def curve(self, scores: xr.DataArray) -> xr.Dataset:
        """The faithfulness of circuits of all sizes, by these scores and at random."""
        from interp.discovery import faithfulness_curve

        return faithfulness_curve(self.model, *self.asked, scores, by="absolute", **self.options)


def _at_random(scores: xr.DataArray, n: int) -> Subgraph:
    """So many of the scored edges, each set equally likely; the same each time."""
    import numpy as np

    from interp.discovery import Subgraph

    there = scores.notnull().to_numpy()
    order = np.full(there.shape, np.nan)
    order[there] = np.random.default_rng(0).permutation(int(there.sum()))
    return Subgraph.top(scores.copy(data=order), n)


def _largest(scores: xr.DataArray, top_k: int) -> dict[str, list[str]]:
    """The largest edges by the size of their scores, with exact effects beside estimates: columns of a table."""
    import numpy as np

    sizes = np.nan_to_num(np.abs(scores.to_numpy()), nan=-1)
    n = min(top_k, int(scores.notnull().sum()))
    places = np.unravel_index(np.argsort(-sizes, axis=None, kind="stable")[:n], sizes.shape)

    def at(values: xr.DataArray) -> np.ndarray:
        return values.to_numpy()[places]

    names = [
        f"{scores['writer'].to_numpy()[u]} -> {scores['reader'].to_numpy()[v]}" for v, u in zip(*places, strict=True)
    ]
    exact, sized = (scores.attrs["method"] == method for method in ("exact", "combined"))
    named = "exact effect" if exact else "estimate of its size" if sized else "estimate"
    columns = {"edge": names, named: [f"{value:{'' if sized else '+'}z.3f}" for value in at(scores)]}
    coords = scores.coords
    if "ci_low" in coords:
        columns |= _intervals(at(coords["ci_low"]), at(coords["ci_high"]))
    if not exact:
        columns |= {"exact effect": [f"{value:+z.3f}" for value in at(coords["exact"])]}
    return columns


def _intervals(low: Any, high: Any) -> dict[str, list[str]]:
    """A column of intervals over prompts; none of a single prompt."""
    if low is None:
        return {}
    return {"95 % interval": [f"{float(a):z.3f} to {float(b):z.3f}" for a, b in zip(low, high, strict=True)]}


def _said_of_shared(graph: EdgeGraph, names: list[str]) -> str:
    """Which heads the first keys or values among these edges belong to, in words, where several heads share them."""
    for name in names:
        reader = graph.edge(name).reader
        heads = [str(writer) for writer in graph.writes_of(reader)]
        if len(heads) > 1:
            return f"{reader}: keys and values count by key-value head; this one is shared by {', '.join(heads)}."
    return ""


def _said_of_probe(scores: xr.DataArray) -> str:
    """How far estimates are off, in words."""
    about = scores.attrs
    if about["method"] == "exact":
        return "Every effect is exact: each edge was patched on its own."
    sign = ", sizes without a sign" if about["method"] == "combined" else ""
    miss = f"; most missed: {about['probe_largest_miss']:.3f}, of {about['probe_largest_miss_edge']}"
    return (
        f"Probe: {about['probe_n']} edges were patched exactly. Estimates ({about['method']}{sign}) are off by "
        f"{about['probe_rms']:.3f} there (root mean square), and their ranks agree to "
        f"{about['probe_rank_correlation']:.3f} (Spearman). Largest error: {about['probe_largest_error']:+.3f}, of "
        f"{about['probe_largest_error_edge']}{miss if about['probe_largest_miss_edge'] else ''}."
    )


# ---------------------------------------------------------------------- what is shown


def _table(columns: dict[str, list[str]], title: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, row))
    return table


def _write_page(
    out: Path,
    model: str,
    found: Subgraph,
    scores: xr.DataArray,
    edges: dict[str, list[str]],
    said_of_edges: str,
    judged: dict[str, list[str]],
    curve: xr.Dataset,
    plotly: bool,
) -> None:
    from interp.plot import figures, report

    panels = [
        report.Panel(
            figures.circuit(found, scores=scores),
            "Wider: a larger score. What an edge is, under the pointer. An edge into keys or values that several heads "
            "share is drawn to each of them.",
        ),
        report.Panel(figures.table(edges, title="The largest edges"), said_of_edges),
        report.Panel(figures.table(judged, title="What circuits do alone"), "All other edges carry the other prompt."),
        report.Panel(figures.faithfulness(curve), "1: as the whole model; 0: as the other prompt."),
    ]
    about = scores.attrs
    pairs = counted(about["n"], "pair")
    said = f"Measured: {about['metric']}, {about['direction']}, over {pairs} of prompts."
    report.write_page(out, f"A circuit of {model}", said, panels, plotly=plotly)
