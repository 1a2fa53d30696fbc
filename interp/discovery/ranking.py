"""Scores of edges as a matrix in the order of their graph, and which of them counts for more."""

import heapq
import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, HookNotFoundError, RangeError, ShapeError, check_choice, describe, did_you_mean
from interp.model import EdgeGraph

if TYPE_CHECKING:
    import xarray

RankBy = Literal["absolute", "signed"]
"""Which edges count for more: those that move the metric far, or those that move it far towards the other run."""

DIMS = ("reader", "writer")

UNSIGNED = ("combined",)
"""Methods whose scores have no sign."""

IMPORTANCE = "importance"
"""What `attrs["values"]` says of scores that are larger where an edge counts for more by "signed"."""

WAYS_OUT = {"prompt": 'scores.mean("prompt", keep_attrs=True)', "metric": 'scores.sel(metric="the name of one")'}


def score_matrix(scores: "xarray.DataArray") -> tuple[EdgeGraph, Float[Tensor, "reader writer"]]:
    """The graph that scores are of, and the scores as a matrix in its order, in float64; NaN: not scored, or no edge.

    Readers and writers are found by their names: scores of some of them, or in another order, are placed where they
    belong.

    Raises:
        ConfigError: no labelled array, or one that does not say of which graph it is (`attrs["graph"]`).
        ShapeError: further axes, such as prompts or metrics, or a number where the graph has no edge.
        HookNotFoundError: a name that the graph does not have.
        RangeError: infinite scores.

    >>> from interp.metrics import LogitDifference
    >>> metric = LogitDifference("Mary", "John")
    >>> scores = edge_scores(model, corrupted, clean, metric, "eap", progress=False)
    >>> graph, matrix = score_matrix(scores)
    >>> matrix.shape == (len(graph.readers), len(graph.writers)), int((~matrix.isnan()).sum()) == graph.n_edges
    (True, True)
    """
    if not hasattr(scores, "dims") or not hasattr(scores, "coords") or hasattr(scores, "data_vars"):
        raise ConfigError(f"scores is what edge_scores returns, a DataArray [reader, writer], not {describe(scores)}")
    further = [dim for dim in map(str, scores.dims) if dim not in DIMS and scores.sizes[dim] != 1]
    if missing := [dim for dim in DIMS if dim not in scores.dims or dim not in scores.coords]:
        raise ShapeError(f"scores has the axes {scores.dims}; its axis {missing[0]!r}, labelled with names, is missing")
    if further:
        way = WAYS_OUT.get(further[0], f"scores.isel({further[0]}=0)")
        raise ShapeError(f"scores has {scores.sizes[further[0]]} values along {further[0]!r}; take one: {way}")
    if "graph" not in scores.attrs:
        raise ConfigError('scores does not say of which graph it is, attrs["graph"]; what arithmetic has dropped comes '
                          "back with scores.assign_attrs(original.attrs)")  # fmt: skip
    graph = EdgeGraph.from_json(scores.attrs["graph"])
    flat = scores.squeeze([dim for dim in scores.dims if dim not in DIMS], drop=True).transpose(*DIMS)
    if flat.dtype.kind not in "iuf":
        raise ConfigError(f"scores are numbers, not values of dtype {flat.dtype}")
    rows = _places("reader", flat["reader"].to_numpy().tolist(), graph.readers)
    columns = _places("writer", flat["writer"].to_numpy().tolist(), graph.writers)
    given = torch.from_numpy(flat.to_numpy().astype("float64"))
    if given.isinf().any():
        raise RangeError("scores has infinite entries")
    matrix = torch.full((len(graph.readers), len(graph.writers)), math.nan, dtype=torch.float64)
    matrix[torch.tensor(rows, dtype=torch.long)[:, None], torch.tensor(columns, dtype=torch.long)] = given
    if wrong := (~graph.edge_mask() & ~matrix.isnan()).nonzero().tolist():
        reader, writer = graph.readers[wrong[0][0]], graph.writers[wrong[0][1]]
        raise ShapeError(f"scores has a number for {writer} -> {reader}, which is no edge: NaN belongs there")
    return graph, matrix


def _places(what: str, names: Sequence[Any], all: Sequence[object]) -> list[int]:
    """Where each name stands. Raises `HookNotFoundError` for another name, `ShapeError` for one that is there twice."""
    known = {str(one): place for place, one in enumerate(all)}
    for name in names:
        if name not in known:
            near = did_you_mean(str(name), known)
            raise HookNotFoundError(f"scores has the {what} {name!r}, which its graph does not have{near}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ShapeError(f"scores has the {what} {twice!r} twice")
    return [known[name] for name in names]


def ranked(scores: "xarray.DataArray", by: RankBy) -> tuple[EdgeGraph, Float[Tensor, "edge"]]:
    """How much each edge of the graph counts, in the order of `edges()`; NaN where it is not scored.

    By "absolute" that is the size of its score. By "signed" it is how far the edge moves the metric from the run as it
    is *towards the other run*: what a share (`normalize=True`) says; else the score, counted in the direction in which
    the other run's metric lies (`attrs` baseline and target). Where that is not known, a metric is meant of which the
    clean run has more.

    Raises as `score_matrix`; `ConfigError` for another `by`, or a sign that the scores do not have or do not say.
    """
    check_choice("by", by, get_args(RankBy))
    graph, matrix = score_matrix(scores)
    values = matrix[graph.edge_mask()]
    return graph, values.abs() if by == "absolute" else values * _towards_other(scores)


def best_places(values: Float[Tensor, "edge"], n: int) -> np.ndarray:
    """The places of the n largest values, in descending order: of equal ones the earlier first, NaN last."""
    return np.argsort(-values.numpy(), kind="stable")[:n]


def is_signed(scores: "xarray.DataArray") -> bool:
    """Whether scores have a sign to rank by: those of method "combined" are sizes."""
    return scores.attrs.get("method") not in UNSIGNED


def importance(scores: "xarray.DataArray") -> tuple[EdgeGraph, Float[Tensor, "reader writer"]]:
    """Scores with the sign by which "signed" ranks; sizes, which have none, as they are. Raises as `ranked`."""
    graph, matrix = score_matrix(scores)
    return graph, matrix * _towards_other(scores) if is_signed(scores) else matrix


def labelled(
    graph: EdgeGraph, matrix: Float[Tensor, "reader writer"], attrs: Mapping[str, object]
) -> "xarray.DataArray":
    """A matrix in the order of a graph as scores; `attrs` are what else they say of themselves."""
    import xarray

    coords = {"reader": list(map(str, graph.readers)), "writer": list(map(str, graph.writers))}
    about = {**attrs, "graph": graph.to_json()}
    return xarray.DataArray(matrix.detach().cpu().numpy(), coords, DIMS, "effect", about)


def _towards_other(scores: "xarray.DataArray") -> int:
    """The sign of a score that moves the metric towards the other run."""
    about = scores.attrs
    if (method := about.get("method")) in UNSIGNED:
        raise ConfigError(f"by = 'signed': scores of method {method!r} are sizes, without a sign; allowed: 'absolute'")
    if about.get("values") in ("fraction", IMPORTANCE):
        return 1
    base, target = about.get("baseline"), about.get("target")
    if base is not None and target is not None:
        # A file makes arrays of lists.
        ends = dict(enumerate(zip(np.ravel(base).tolist(), np.ravel(target).tolist(), strict=True)))
        if "metric" in scores.coords and scores["metric"].size == 1:  # one of several
            names = json.loads(about.get("metrics", "[]"))
            ends = {i: ends[i] for i, name in enumerate(names) if name == scores["metric"].item()} or ends
        rises = {there > here for here, there in ends.values()}
        if len(rises) > 1:
            raise ConfigError("by = 'signed': the other run has more of one metric and less of another, and scores do "
                              f"not say of which they are; take one: {WAYS_OUT['metric']}")  # fmt: skip
        return 1 if rises.pop() else -1
    if about.get("direction") not in ("noising", "denoising"):
        raise ConfigError('by = \'signed\': scores does not say, attrs["direction"], whether "noising" or "denoising"')
    return -1 if about["direction"] == "noising" else 1


# ---------------------------------------------------------------------- edges by their places in `edges()`


@lru_cache(maxsize=8)
def first_places(graph: EdgeGraph) -> list[int]:
    """Where each reader's edges begin among all edges; and at the end, how many there are."""
    return list(accumulate(map(graph.n_writers_of, graph.readers), initial=0))


@lru_cache(maxsize=8)
def _reads(graph: EdgeGraph) -> list[list[int]]:
    """The readers of each writer's component, by their places."""
    return [[graph.numbers[reader] for reader in graph.reads_of(writer)] for writer in graph.writers]


def grown(graph: EdgeGraph, values: Float[Tensor, "edge"], n: int) -> list[int]:
    """At most n edges from the logits upwards, by their places: always the best into a component that writes to one.

    NaN is never taken; of edges that count alike the earlier in the graph is.
    """
    first, reads, value_of = first_places(graph), _reads(graph), values.tolist()
    waiting: list[tuple[float, int, int]] = []  # by value, then by place: the writer of each edge
    opened: set[int] = set()
    chosen: list[int] = []

    def opens(readers: Sequence[int]) -> None:
        for reader in readers:
            if reader not in opened:
                opened.add(reader)
                for writer, place in enumerate(range(first[reader], first[reader + 1])):
                    if not math.isnan(value_of[place]):
                        heapq.heappush(waiting, (-value_of[place], place, writer))

    opens([len(graph.readers) - 1])
    while waiting and len(chosen) < n:
        _, place, writer = heapq.heappop(waiting)
        chosen.append(place)
        opens(reads[writer])
    return chosen
