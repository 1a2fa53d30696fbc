"""Exact effects of single edges, at a fraction of a run each.

An edge changes nothing before its reader. So all edges share one run up to there; the reader's component alone is
computed anew, from the first position on that differs; and from then on the run is a row of the packed pass through the
remaining layers that `interp.patching` makes for its sweeps. An edge into a late layer costs next to nothing.
"""

import math
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.budget import portions
from interp.discovery.changes import Changes
from interp.discovery.masked import EdgeRuns, Late
from interp.discovery.walk import Walk
from interp.model import Edge, Reader
from interp.patching import (
    PackedForward,
    PackedRows,
    ResumeFile,
    budget_of_rows,
    measure_rows,
    question_of,
    written_points,
)
from interp.progress import progress_bar

WORTH_SAYING = 200
"""From the work of so many runs on, the cost is said before it starts."""


@dataclass(frozen=True, eq=False)
class ExactEffects:
    """Runs in which a single edge carries the other run.

    Attributes:
        runs: the pair. The run as it is has to hold `points_of_changes`.
        edges: which, in the order of the graph.
    """

    runs: EdgeRuns
    edges: list[Edge]

    @torch.no_grad()
    def effects(self) -> Float[Tensor, "metric batch edge"]:
        """The metrics of these runs minus those of the run as it is; exactly 0 where an edge's writer writes the same.

        Raises `CheckpointError` for the settings' checkpoint if that is another question's, `ConfigError` for a budget
        that does not hold one row.
        """
        measured, settings = self.runs.measured, self.runs.measured.settings
        values = measured.baseline[:, :, None].repeat(1, 1, len(self.edges))
        question = {} if settings.checkpoint is None else self._question()
        file = ResumeFile(settings.checkpoint, question, {"edges": values})
        done = file.restore()["edges"]
        most_passing, most_carried = budget_of_rows(self.runs.runs, self.runs.n_pos, settings.max_bytes)
        carried = self._carried * (~done).to(self._carried.device)
        if settings.checkpoint is not None:  # an interruption loses 3 % at most
            most_carried = min(most_carried, max(int(carried.max()), math.ceil(int(carried.sum()) / 32)))
        waiting = carried.nonzero()[:, 0]
        self._say_cost(waiting)
        with progress_bar("patching edges", int(self._work[waiting].sum()), settings.progress) as advance:
            joins = _EdgePatches(self.runs, self.edges)
            packed = PackedForward(self.runs.base, joins, advance, most_passing, self.runs.norms, measured.read)
            for part in portions(carried[waiting].tolist(), most_carried):
                cells = waiting[part]
                measure_rows(measured, self._run(packed, joins, cells), values, self.runs.norms)
                file.keep("edges", cells)
        return values - measured.baseline[:, :, None]

    def _run(self, packed: PackedForward, joins: "_EdgePatches", cells: Int[Tensor, "some"]) -> list[PackedRows]:
        """These edges' rows after the last layer."""
        joining: dict[int, list[PackedRows]] = {}
        for prompt, start in enumerate(self.runs.starts):
            for reader, of_reader in self._by_reader(cells[self._moves[prompt, cells]]):
                at = torch.full((len(of_reader), 2), -1, device=cells.device)
                joining.setdefault(reader.layer, []).append(PackedRows(prompt, start, of_reader, at))
        of_logits = joining.pop(self.runs.graph.n_layers, [])
        return [*(packed.run(joining) if joining else []), *joins.joined(of_logits)]

    def _by_reader(self, cells: Int[Tensor, "some"]) -> list[tuple[Reader, Int[Tensor, "part"]]]:
        numbers = self.runs.graph.numbers
        readers = torch.tensor([numbers[self.edges[cell].reader] for cell in cells.tolist()], device=cells.device)
        return [(self.runs.graph.readers[i], cells[readers == i]) for i in readers.unique().tolist()]

    @cached_property
    def _moves(self) -> Bool[Tensor, "batch edge"]:
        """For which prompts an edge's writer writes something else in the other run."""
        runs = self.runs
        moves = torch.zeros(len(runs.starts), len(runs.graph.writers), dtype=torch.bool, device=runs.base.final.device)
        for prompt, start in enumerate(runs.starts):
            if start < runs.n_pos:
                moves[prompt] = runs.written(Late([prompt], start)).difference.flatten(1).any(dim=1)
        return moves[:, [runs.graph.numbers[edge.writer] for edge in self.edges]]

    @cached_property
    def _carried(self) -> Int[Tensor, "edge"]:
        """How many positions the rows of each edge have, over all prompts."""
        late = self.runs.n_pos - torch.tensor(self.runs.starts, device=self._moves.device)
        return (self._moves * late[:, None]).sum(dim=0)

    @cached_property
    def _work(self) -> Int[Tensor, "edge"]:
        """How many positions pass a block for each edge."""
        after = [max(0, self.runs.graph.n_layers - 1 - edge.reader.layer) for edge in self.edges]
        return self._carried * torch.tensor(after, device=self._carried.device)

    def _say_cost(self, waiting: Int[Tensor, "some"]) -> None:
        of_run = self.runs.n_pos * self.runs.graph.n_layers
        n_runs = int(self._work[waiting].sum()) // of_run
        settings = self.runs.measured.settings
        if settings.progress and n_runs >= WORTH_SAYING:
            resumable = "" if settings.checkpoint is not None else "; with checkpoint= it can be interrupted"
            print(
                f"exact effects of {len(waiting):,} edges on {len(self.runs.starts)} prompts: about the arithmetic of "
                f"{n_runs:,} runs of one prompt{resumable}",
                file=sys.stderr,
            )

    def _question(self) -> dict[str, Any]:
        measured = self.runs.measured
        model = measured.runs.base.model
        asked = {"edges": list(map(str, self.edges)), "norms": self.runs.norms, "positions": self.runs.positions}
        return question_of(measured, written_points(model), asked)


class _EdgePatches:
    """How rows that are patched along an edge join the packed pass: after their reader's layer."""

    def __init__(self, runs: EdgeRuns, edges: list[Edge]):
        self.runs, self.edges = runs, edges

    def before(self, layer: int, rows: list[PackedRows], packed: PackedForward) -> None:
        """They come to differ within the layer."""

    def through(self, layer: int, rows: list[PackedRows], packed: PackedForward) -> list[PackedRows]:
        """The rows after the layer of their reader."""
        return self.joined(rows)

    def joined(self, rows: list[PackedRows]) -> list[PackedRows]:
        """Rows, each of one reader, with the stream after it."""
        numbers, joined = self.runs.graph.numbers, []
        for some in rows:
            edges = [self.edges[cell] for cell in some.cells.tolist()]
            late = Late([some.prompt], some.start)
            walk = Walk(self.runs.base, late.prompts, late.start, self.runs.norms)
            difference = self.runs.written(late).difference[[numbers[edge.writer] for edge in edges]]
            stream = Changes(walk, self.runs.graph).stream_after(edges[0].reader, difference)
            joined.append(some.with_stream(stream[:, 0]))
        return joined
