"""A circuit as a value: some edges of a computation graph, and the shape of the models that have them."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from interp.config import TransformerConfig
from interp.discovery.ranking import RankBy, best_places, first_places, grown, ranked
from interp.errors import CheckpointError, ConfigError, HookNotFoundError, RangeError, ShapeError, describe
from interp.files import atomic_path
from interp.indices import check_count
from interp.model import Edge, EdgeGraph, HookedTransformer, Reader
from interp.patching import way_of

if TYPE_CHECKING:
    import networkx
    import xarray

GraphLike = EdgeGraph | HookedTransformer | TransformerConfig
"""What says of which shape a model is."""

KEYS = {"q": "Q", "k": "K", "v": "V", "mlp": "mlp", "logits": "out"}
"""Keys of the edges of a networkx graph, as `circuits.Circuit.edges()` has them."""


def graph_of(model: GraphLike) -> EdgeGraph:
    """The graph itself, or that of a model or a configuration. Raises `ConfigError` for anything else."""
    if isinstance(model, EdgeGraph):
        return model
    if not isinstance(model, TransformerConfig) and not isinstance(getattr(model, "cfg", None), TransformerConfig):
        raise ConfigError(f"an EdgeGraph, a model or its config is needed here, not {describe(model)}")
    return EdgeGraph.of(model)


@dataclass(frozen=True, repr=False)
class Subgraph:
    """Some edges of a model's computation graph. Two are equal if shape and edges are.

    It is a set of edges: it has a length, `in` takes an `Edge` or its name, iterating gives the edges in the order of
    the graph, and `& | -` combine subgraphs of one shape. It is made by a class method, such as `Subgraph.top`.

    Attributes:
        graph: the shape of the models that have these edges.
        packed: a bit for each edge of the graph, in the order of `graph.edges()`, eight in a byte.
        found_by: how it was found, in words; two that are found differently can be equal.
    """

    graph: EdgeGraph
    packed: bytes = field(repr=False)
    found_by: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name, kind in {"graph": EdgeGraph, "packed": bytes, "found_by": str}.items():
            if not isinstance(given := getattr(self, name), kind):
                raise ConfigError(f"{name} = {describe(given)}; allowed: {kind.__name__}")
        n = self.graph.n_edges
        surplus = 0 if not self.packed else self.packed[-1] & ((1 << -n % 8) - 1)
        if len(self.packed) != -(-n // 8) or surplus:
            raise ShapeError(f"{len(self.packed)} bytes are no bits for {n:,} edges; make it with Subgraph.of_mask")

    # ------------------------------------------------------------------ from scores

    @classmethod
    def top(cls, scores: "xarray.DataArray", n: int, by: RankBy = "absolute") -> "Subgraph":
        """The n edges that count for most. Of edges that count alike the earlier in the graph is taken.

        It may hold dead ends; see `pruned`.

        Args:
            scores: what `edge_scores` returns: [reader, writer], of all edges or of those of some readers and writers.
            n: so many edges, from 0 to as many as are scored.
            by: "absolute" takes the largest scores of either sign. "signed" takes those that move the metric furthest
                from the run as it is towards the other run, and leaves out the edges that hold the metric back: the
                ranking for a circuit that performs well, not for one that is faithful.

        Raises as `score_matrix`; `ConfigError` for another `n` or `by`, or where the scores do not say what a sign
        means.
        """
        graph, values = ranked(scores, by)
        n = check_count("n", n, _n_scored(values), least=0)
        return cls._of_places(graph, best_places(values, n), f"top({n}, by={by!r}){_of_scores(scores)}")

    @classmethod
    def greedy(cls, scores: "xarray.DataArray", n: int, by: RankBy = "absolute") -> "Subgraph":
        """So many edges, grown from the logits: always the best edge into a component that is in already.

        A component is in once one of its writes is: all that it reads can then be added. So every edge leads to the
        logits, though not every one comes from the embeddings; see `pruned`.

        Args and errors are those of `top`; `ConfigError` too where fewer than n scored edges lead to the logits.
        """
        graph, values = ranked(scores, by)
        n = check_count("n", n, _n_scored(values), least=0)
        chosen = grown(graph, values, n)
        if len(chosen) < n:
            raise ConfigError(f"n = {n}, but only {len(chosen)} of the scored edges lead to the logits")
        return cls._of_places(graph, chosen, f"greedy({n}, by={by!r}){_of_scores(scores)}")

    @classmethod
    def threshold(cls, scores: "xarray.DataArray", t: int | float, by: RankBy = "absolute") -> "Subgraph":
        """The edges that count for at least `t`, in the metric's units.

        Args:
            scores, by: as for `top`; by "signed" an edge counts for how far it moves the metric *towards the other
                run*, whatever the sign of its score.
            t: the least that an edge counts for.

        Raises as `top`; `RangeError` for a threshold that keeps nothing or everything, with the range of the scores.
        """
        graph, values = ranked(scores, by)
        if not isinstance(t, Real) or isinstance(t, bool) or not math.isfinite(t):
            raise RangeError(f"t = {describe(t)}; allowed: a finite number")
        kept = values >= float(t)
        n, scored = int(kept.sum()), _n_scored(values)
        if n in (0, scored):
            known = values[~values.isnan()]
            ends = f"from {known.min():.4g} to {known.max():.4g}" if scored else "nowhere, since none is scored"
            lost = "nothing" if n == 0 else "everything"
            raise RangeError(f"t = {t} keeps {lost}: by {by!r} the {scored:,} scored edges count {ends}")
        return cls._of_places(graph, kept.nonzero()[:, 0].numpy(), f"threshold({t}, by={by!r}){_of_scores(scores)}")

    # ------------------------------------------------------------------ from edges

    @classmethod
    def of_names(cls, model: GraphLike, names: Iterable[str | Edge], found_by: str = "") -> "Subgraph":
        """The edges of these names, such as "L0H1 -> L2H3.q", of a model or of models of a shape.

        Raises `HookNotFoundError` for one that is no edge there, saying what is near.
        """
        graph = graph_of(model)
        if isinstance(names, str):
            raise HookNotFoundError(f"names = {describe(names)}; allowed: a list of edges, such as [{names!r}]")
        try:
            names = list(names)
        except TypeError:
            raise HookNotFoundError(f"names = {describe(names)}; allowed: a list of edges") from None
        return cls._of_places(graph, [_place(graph, name) for name in names], found_by)

    @classmethod
    def of_mask(cls, model: GraphLike, mask: Bool[Tensor, "reader writer"], found_by: str = "") -> "Subgraph":
        """The edges where a mask is true. Raises `ShapeError` for another shape or dtype, or truth where no edge is."""
        graph = graph_of(model)
        shape = (len(graph.readers), len(graph.writers))
        mask = torch.from_numpy(mask) if isinstance(mask, np.ndarray) and mask.dtype == bool else mask
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != shape:
            raise ShapeError(f"mask is {describe(mask)}; allowed: truth values [reader, writer] = {shape}")
        mask, there = mask.cpu(), graph.edge_mask()
        if wrong := (mask & ~there).nonzero().tolist():
            reader, writer = graph.readers[wrong[0][0]], graph.writers[wrong[0][1]]
            raise ShapeError(f"mask is true for {writer} -> {reader}, which is no edge")
        return cls(graph, np.packbits(mask[there].numpy()).tobytes(), found_by)

    @classmethod
    def whole(cls, model: GraphLike) -> "Subgraph":
        """All edges."""
        graph = graph_of(model)
        return cls.of_mask(graph, graph.edge_mask(), "whole graph")

    @classmethod
    def empty(cls, model: GraphLike) -> "Subgraph":
        """No edge at all."""
        return cls._of_places(graph_of(model), [], "empty graph")

    @classmethod
    def _of_places(cls, graph: EdgeGraph, places: Any, found_by: str) -> "Subgraph":
        """The edges at these places among all edges of the graph."""
        flags = np.zeros(graph.n_edges, dtype=bool)
        flags[np.asarray(places, dtype=np.int64)] = True
        return cls(graph, np.packbits(flags).tobytes(), found_by)

    # ------------------------------------------------------------------ as a set

    def _flags(self) -> np.ndarray:
        """Whether each edge of the graph is in, in its order."""
        return np.unpackbits(np.frombuffer(self.packed, dtype=np.uint8), count=self.graph.n_edges).astype(bool)

    @property
    def mask(self) -> Bool[Tensor, "reader writer"]:
        """Which edges are in, a tensor of the caller's own."""
        mask = self.graph.edge_mask()
        mask[mask.clone()] = torch.from_numpy(self._flags())
        return mask

    def edges(self) -> tuple[Edge, ...]:
        """The edges, in the order of the graph."""
        all = self.graph.edges()
        return tuple(all[place] for place in self._flags().nonzero()[0])

    @property
    def names(self) -> list[str]:
        """The edges' names, in the order of the graph."""
        return [str(edge) for edge in self.edges()]

    def __len__(self) -> int:
        return int.from_bytes(self.packed, "big").bit_count()

    def __iter__(self) -> Iterator[Edge]:
        return iter(self.edges())

    def __contains__(self, edge: object) -> bool:
        """Whether the edge is in. Raises `HookNotFoundError` for a name that is no edge of the graph."""
        if not isinstance(edge, str | Edge):
            return False
        place = _place(self.graph, edge)
        return bool(self.packed[place // 8] >> (7 - place % 8) & 1)

    def check_fits(self, model: GraphLike) -> None:
        """Raise `ShapeError` unless the edges are those of this model, or of models of this shape."""
        if (other := graph_of(model)) != self.graph:
            raise ShapeError(f"this subgraph is of models of another shape: {_differences(self.graph, other)}")

    def _combined(self, other: "Subgraph", bits: int, sign: str) -> "Subgraph":
        self.check_fits(other.graph)
        found_by = f"({self.found_by or 'a subgraph'}) {sign} ({other.found_by or 'a subgraph'})"
        return Subgraph(self.graph, bits.to_bytes(len(self.packed), "big"), found_by)

    def __and__(self, other: "Subgraph") -> "Subgraph":
        return self._combined(other, self._bits & other._bits, "&") if isinstance(other, Subgraph) else NotImplemented

    def __or__(self, other: "Subgraph") -> "Subgraph":
        return self._combined(other, self._bits | other._bits, "|") if isinstance(other, Subgraph) else NotImplemented

    def __sub__(self, other: "Subgraph") -> "Subgraph":
        return self._combined(other, self._bits & ~other._bits, "-") if isinstance(other, Subgraph) else NotImplemented

    @property
    def _bits(self) -> int:
        return int.from_bytes(self.packed, "big")

    def complement(self) -> "Subgraph":
        """All edges of the graph that are not in."""
        found_by = f"complement of {self.found_by or 'a subgraph'}"
        return Subgraph(self.graph, np.packbits(~self._flags()).tobytes(), found_by)

    # ------------------------------------------------------------------ files

    def to_json(self) -> str:
        """Shape, edges by name and `found_by` as JSON text, with the version of its schema."""
        from interp.discovery.exchange import to_json

        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "Subgraph":
        """What `to_json` wrote. Raises `CheckpointError` for other text, another schema, or what is no edge."""
        from interp.discovery.exchange import from_json

        return from_json(text)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json()` to a file, whole or not at all."""
        with atomic_path(path) as file:
            file.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Subgraph":
        """What `save` wrote. Raises as `from_json`, naming the file, and for a file that is not there."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, CheckpointError) as error:
            raise CheckpointError(f"{path} cannot be read as a subgraph: {error}") from error

    # ------------------------------------------------------------------ as a graph

    def pruned(self) -> "Subgraph":
        """Without dead ends: the edges that lie on a path from the embeddings to the logits.

        An edge is left out where no path from `embed` reaches its writer, since that write is the same whatever the
        prompt says within the circuit, or where nothing leads on from its reader to the logits.
        """
        mask, writes = self.mask, _writes(self.graph)
        reached = torch.zeros(len(self.graph.writers), dtype=torch.bool)
        reached[0] = True  # embed
        for reader, row in enumerate(mask):
            if writes[reader] and bool((row & reached).any()):
                reached[writes[reader]] = True
        needed, useful = torch.zeros_like(reached), torch.zeros(len(mask), dtype=torch.bool)
        useful[-1] = True  # logits
        for reader in range(len(mask) - 1, -1, -1):
            useful[reader] |= bool(needed[writes[reader]].any())
            if useful[reader]:
                needed |= mask[reader]
        return Subgraph.of_mask(
            self.graph, mask & reached & useful[:, None], f"{self.found_by or 'a subgraph'}, pruned"
        )

    @property
    def nodes(self) -> list[str]:
        """The names of the components on the edges, in the order of the graph; "logits" is the last.

        Of keys or values that several heads share, these are the heads that write along an edge here, or all of them
        where none does.
        """
        mask, writers = self.mask, self.graph.writers
        ends = {str(writer) for writer, writes in zip(writers, mask.any(dim=0).tolist(), strict=True) if writes}
        leads = self._leads(mask)
        ends |= {name for reader, read in zip(self.graph.readers, mask.any(dim=1).tolist(), strict=True) if read
                 for name in leads(reader)}  # fmt: skip
        return [name for name in [*map(str, writers), "logits"] if name in ends]

    def _leads(self, mask: Tensor) -> Callable[[Reader], list[str]]:
        """From a reader to the names of the components that an edge into it leads to; see `nodes`."""
        writing = mask.any(dim=0).tolist()

        def leads(reader: Reader) -> list[str]:
            if reader.kind == "logits":
                return ["logits"]
            all = self.graph.writes_of(reader)
            return [str(one) for one in all if writing[self.graph.numbers[one]]] or [str(one) for one in all]

        return leads

    def to_networkx(self) -> "networkx.MultiDiGraph":
        """The components as nodes with their `layer` and `kind`, and an edge for every input that one feeds.

        Keys of edges are "Q", "K", "V", "mlp" and "out", and `name` is the edge's name here: as
        `circuits.Circuit.edges()` has them. An edge into keys or values that several heads share leads to each of the
        heads that `nodes` speaks of, under one name.
        """
        import networkx

        made = networkx.MultiDiGraph()
        known = {str(writer): (writer.layer, writer.kind) for writer in self.graph.writers}
        known["logits"] = (self.graph.n_layers, "logits")
        for name in self.nodes:
            made.add_node(name, layer=known[name][0], kind=known[name][1])
        leads = self._leads(self.mask)
        for edge in self.edges():
            key = KEYS[edge.reader.input or edge.reader.kind]
            for end in leads(edge.reader):
                made.add_edge(str(edge.writer), end, key=key, name=str(edge))
        return made

    def __repr__(self) -> str:
        found = f", found by {self.found_by}" if self.found_by else ""
        return f"Subgraph({len(self):,} of {self.graph.n_edges:,} edges, {len(self.nodes)} components{found})"


def check_subgraph(name: str, given: object) -> None:
    """Raise `ConfigError` unless it is a subgraph."""
    if not isinstance(given, Subgraph):
        raise ConfigError(f"{name} = {describe(given)}; allowed: a Subgraph, such as Subgraph.top makes")


def _n_scored(values: Tensor) -> int:
    return int((~values.isnan()).sum())


def _of_scores(scores: "xarray.DataArray") -> str:
    """What scores say of themselves, to follow a word."""
    about = dict(scores.attrs)
    if "metric" in scores.coords and scores["metric"].size == 1:  # one of several, whose attrs these are
        about["metric"] = scores["metric"].item()
    said = [str(one) for one in (about.get("method"), about.get("metric"), way_of(about)) if one]
    return f" of {', '.join(said)}" if said else ""


def _differences(own: EdgeGraph, other: EdgeGraph) -> str:
    names = EdgeGraph.__dataclass_fields__
    pairs = [(name, getattr(own, name), getattr(other, name)) for name in names]
    return ", ".join(f"{name} = {mine} here and {yours} there" for name, mine, yours in pairs if mine != yours)


@lru_cache(maxsize=8)
def _writes(graph: EdgeGraph) -> list[list[int]]:
    """The writers of each reader's component, by their places."""
    return [[graph.numbers[writer] for writer in graph.writes_of(reader)] for reader in graph.readers]


def _place(graph: EdgeGraph, edge: str | Edge) -> int:
    """Where an edge stands among all edges. Raises `HookNotFoundError`."""
    found = edge if isinstance(edge, Edge) else graph.edge(edge)
    numbers = graph.numbers
    if found.writer not in numbers or found.reader not in numbers or not graph.reaches(*found):
        raise HookNotFoundError(f"{found} is no edge of {graph}")
    return first_places(graph)[numbers[found.reader]] + cast(int, numbers[found.writer])
