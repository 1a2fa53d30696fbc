"""What of a found circuit is drawn, and how."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from interp.discovery import Subgraph, score_matrix
from interp.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    import networkx
    import xarray

NARROW, WIDE = 1.0, 7.0
"""Pixels of the lines of scores near 0 and of the largest score."""

FAINT = 0.3
"""Opacity of dead ends."""


def drawn_part(
    circuit: Subgraph, scores: xarray.DataArray | None, top_k: int, pruned: bool
) -> tuple[networkx.MultiDiGraph, str]:
    """The part of a circuit that is drawn, with how its edges look, and a title. Raises as `figures.circuit`."""
    alive = circuit.pruned()
    whole = alive if pruned else circuit
    if not len(whole):
        left = f", and {len(circuit)} dead ends" if len(circuit) else ""
        raise ConfigError(f"this circuit has no edges to draw{left}")
    values = None if scores is None else _values(whole, scores)
    if len(whole) > top_k and values is None:
        raise ConfigError(f"{len(whole):,} edges are more than top_k = {top_k}: give scores=, so that the largest are "
                          "drawn, or another top_k")  # fmt: skip
    names = whole.names if values is None else sorted(values, key=lambda name: -abs(values[name]))[:top_k]
    part = Subgraph.of_names(circuit.graph, names)
    graph, dead = part.to_networkx(), {name for name in names if alive and name not in alive}
    looks = {} if values is None else _looks({name: values[name] for name in names})
    for *_, about in graph.edges(keys=True, data=True):
        name = about["name"]
        about |= looks.get(name, {}) | {"note": name}
        if values is not None:
            about["note"] += f"\nscore {values[name]:.4g}"
        if name in dead:
            about |= {"opacity": FAINT, "note": f"{about['note']}\na dead end"}
    return graph, _title(circuit, whole, names, values, len(circuit) - len(alive), len(dead), pruned)


def _values(circuit: Subgraph, scores: xarray.DataArray) -> dict[str, float]:
    """The scores of the circuit's edges, by name."""
    graph, matrix = score_matrix(scores)
    if graph != circuit.graph:
        raise ShapeError("scores are of models of another shape than the circuit")
    found = dict(zip(circuit.names, matrix[circuit.mask].tolist(), strict=True))
    if missing := [name for name, value in found.items() if math.isnan(value)]:
        raise ConfigError(f"{len(missing):,} edges of the circuit are not scored, {missing[0]} first among them")
    return found


def _looks(values: dict[str, float]) -> dict[str, dict[str, object]]:
    """Width and dash of each edge's line."""
    largest = max(map(abs, values.values())) or 1.0
    rare = _rare_sign(values)
    return {
        name: {
            "width": NARROW + (WIDE - NARROW) * abs(value) / largest,
            "dash": "dash" if value * rare > 0 else "solid",
        }
        for name, value in values.items()
    }


def _rare_sign(values: dict[str, float]) -> int:
    """The sign that fewer scores have: 1, -1, or 0 where all have the same."""
    above, below = (sum(sign * value > 0 for value in values.values()) for sign in (1, -1))
    return 0 if not above or not below else 1 if above <= below else -1


def _title(
    circuit: Subgraph,
    whole: Subgraph,
    names: list[str],
    values: dict[str, float] | None,
    n_dead: int,
    n_drawn_dead: int,
    pruned: bool,
) -> str:
    """How large the circuit is, how it was found, and what is not drawn or drawn otherwise."""
    said = []
    if len(names) < len(whole) and values is not None:
        total = sum(map(abs, values.values())) or 1.0
        share = sum(abs(values[name]) for name in names) / total
        said.append(f"drawn: the {len(names)} largest, {share:.0%} of the sum of absolute scores")
    if values is not None and (rare := _rare_sign({name: values[name] for name in names})):
        said.append(f"dashed: scores {'above' if rare > 0 else 'below'} 0")
    if n_dead == len(circuit):
        said.append("no edge is on a path from the embeddings to the logits")
    elif n_dead:
        said.append(f"{n_dead:,} dead ends " + ("left out" if pruned else f"in all, {n_drawn_dead} here, faint"))
    lines = [f"Circuit of {len(circuit):,} of {circuit.graph.n_edges:,} edges", circuit.found_by, "; ".join(said)]
    return "\n".join(line for line in lines if line)
