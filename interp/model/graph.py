"""The computation graph of an architecture: what writes to the residual stream, what reads it, and which write reaches
which reader.

It follows from a few numbers of the architecture and is the one place that knows components by name:

| written | is | writes | reads |
|---|---|---|---|
| `embed` | token and position embeddings together | yes | |
| `L5H3` | head 3 of layer 5 | yes | |
| `L5H3.q` | the queries of that head | | yes |
| `L5H1.k`, `L5H1.v` | keys and values of *key-value* head 1 of layer 5 (head 1 where none are shared) | | yes |
| `L5.mlp` | the MLP of layer 5 | yes | yes |
| `logits` | the final norm and the unembedding | | yes |

An edge, `L5H3 -> L7H1.q`, leads from a writer to a reader. Biases (`b_O`, `b_Q`, `b_U`, ...) write nothing here: they
are the same in every run.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, cast

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import ConfigError, HookNotFoundError, describe, did_you_mean

if TYPE_CHECKING:
    from interp.model.transformer import HookedTransformer

Input = Literal["q", "k", "v"]
"""The inputs of a head: what its queries, keys and values read."""


def head_label(layer: int, head: int, part: str = "attn") -> str:
    """How a head is called everywhere: "L5H3"; a head of cross-attention (`part` "cross_attn") "L5X3".

    >>> head_label(5, 3), head_label(5, 3, "cross_attn")
    ('L5H3', 'L5X3')
    """
    return f"L{layer}{'X' if part == 'cross_attn' else 'H'}{head}"


def head_labels(cfg: "TransformerConfig | EdgeGraph", part: str = "attn") -> list[list[str]]:
    """All heads' names, by layer and head.

    >>> head_labels(cfg)[1]
    ['L1H0', 'L1H1', 'L1H2', 'L1H3']
    """
    return [[head_label(layer, head, part) for head in range(cfg.n_heads)] for layer in range(cfg.n_layers)]


def mlp_label(layer: int) -> str:
    """How an MLP is called everywhere: "L5.mlp".

    >>> mlp_label(5)
    'L5.mlp'
    """
    return f"L{layer}.mlp"


@dataclass(frozen=True)
class Writer:
    """A component that adds to the stream.

    Attributes:
        kind: which sort of component.
        layer: of a head or an MLP; -1 for the embedding, so that earlier ones are smaller.
        head: the number of a (query) head; None for another kind.
    """

    kind: Literal["embed", "head", "mlp"]
    layer: int = -1
    head: int | None = None

    def __str__(self) -> str:
        if self.head is not None:
            return head_label(self.layer, self.head)
        return mlp_label(self.layer) if self.kind == "mlp" else self.kind


@dataclass(frozen=True)
class Reader:
    """A component that reads the stream.

    Attributes:
        kind: which sort of component.
        layer: of a head or an MLP; n_layers for the logits, so that later ones are larger.
        head: the number of a head, or of a key-value head where `input` is "k" or "v"; None for another kind.
        input: which of a head's inputs it is; None for another kind.
    """

    kind: Literal["head", "mlp", "logits"]
    layer: int
    head: int | None = None
    input: Input | None = None

    @property
    def hook_name(self) -> str:
        """The hook point that shows what it reads, before any norm; of a head, one of its point's entries."""
        if self.kind == "logits":
            return f"blocks.{self.layer - 1}.hook_resid_post"
        return f"blocks.{self.layer}." + ("hook_mlp_in" if self.kind == "mlp" else f"hook_{self.input}_input")

    def __str__(self) -> str:
        if self.head is not None:
            return f"{head_label(self.layer, self.head)}.{self.input}"
        return mlp_label(self.layer) if self.kind == "mlp" else self.kind


class Edge(NamedTuple):
    """A writer and a reader that its write reaches."""

    writer: Writer
    reader: Reader

    def __str__(self) -> str:
        return f"{self.writer} -> {self.reader}"


MOST_HEADS = 2**16
"""In all layers of a graph that is read from text: more than four times as many as the largest models have."""


@dataclass(frozen=True, kw_only=True)
class EdgeGraph:
    """Writers, readers and edges of an architecture. Two are equal if everything below is.

    The order everywhere is that of execution: by layer the heads before the MLP; a layer's readers by input (all `.q`,
    all `.k`, all `.v`), then its MLP. In a parallel block the MLP does not read what the heads of its layer write.

    Attributes:
        n_layers, n_heads, n_key_value_heads, d_model, attn_only, parallel_attn_mlp: as in the architecture's config.
    """

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    attn_only: bool = False
    parallel_attn_mlp: bool = False

    @classmethod
    def of(cls, model: "HookedTransformer | TransformerConfig") -> "EdgeGraph":
        """The graph of a model, or of a configuration.

        Raises `ConfigError` for one with cross-attention, whose writes no component here names.
        """
        cfg = model if isinstance(model, TransformerConfig) else model.cfg
        if not isinstance(cfg, TransformerConfig) or cfg.cross_attention:
            which = (
                "a model of two stacks" if not isinstance(cfg, TransformerConfig) else "a stack with cross-attention"
            )
            raise ConfigError(f"{which} has no graph of components: what attention to a memory reads and writes is not "
                              "among them; an encoder by itself, model.encoder, has one")  # fmt: skip
        return cls(**{field.name: getattr(cfg, field.name) for field in dataclasses.fields(cls)})

    def to_json(self) -> str:
        """The fields as JSON text, for `attrs` of results and for files."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "EdgeGraph":
        """What `to_json` wrote. Raises `ConfigError` for any other text, or sizes that no architecture has."""
        names = [field.name for field in dataclasses.fields(cls)]
        try:
            fields = json.loads(text)
        except (TypeError, ValueError):
            fields = None
        if not isinstance(fields, dict) or sorted(fields) != sorted(names):
            raise ConfigError(f"{describe(text)} does not describe a graph; its fields are {', '.join(names)}")
        for name, value in fields.items():
            if isinstance(value, bool) != (name in ("attn_only", "parallel_attn_mlp")) or not isinstance(value, int):
                raise ConfigError(f"{name} = {describe(value)} does not describe a graph")
        made = cls(**fields)
        too_many = made.n_layers * made.n_heads > MOST_HEADS  # a graph of them would not fit into any memory
        if too_many or made.n_layers < 0 or min(made.n_heads, made.n_key_value_heads, made.d_model) < 1:
            raise ConfigError(f"{describe(text)}: no architecture has such sizes")
        if made.n_heads % made.n_key_value_heads:
            raise ConfigError(
                f"n_heads = {made.n_heads} is no multiple of n_key_value_heads = {made.n_key_value_heads}"
            )
        return made

    @cached_property
    def writers(self) -> tuple[Writer, ...]:
        """All writers: `embed`, `L0H0`, `L0H1`, ..., `L0.mlp`, `L1H0`, ..."""
        found = [Writer("embed")]
        for layer in range(self.n_layers):
            found += [Writer("head", layer, head) for head in range(self.n_heads)]
            found += [] if self.attn_only else [Writer("mlp", layer)]
        return tuple(found)

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """All readers: `L0H0.q`, ..., `L0H0.k`, ..., `L0H0.v`, ..., `L0.mlp`, `L1H0.q`, ..., `logits`."""
        found: list[Reader] = []
        for layer in range(self.n_layers):
            for input, n_heads in self._heads_by_input.items():
                found += [Reader("head", layer, head, input) for head in range(n_heads)]
            found += [] if self.attn_only else [Reader("mlp", layer)]
        return (*found, Reader("logits", self.n_layers))

    def edges(self) -> tuple[Edge, ...]:
        """All edges, reader by reader, each reader's writers in order."""
        return self._edges

    @cached_property
    def _edges(self) -> tuple[Edge, ...]:
        return tuple(Edge(writer, reader) for reader in self.readers for writer in self.writers_of(reader))

    def edge_mask(self) -> Bool[Tensor, "reader writer"]:
        """Which pairs of a reader and a writer are edges; row by row, these are `edges()` in order."""
        reached = torch.tensor([self.n_writers_of(reader) for reader in self.readers])
        return torch.arange(len(self.writers)) < reached[:, None]

    @property
    def n_edges(self) -> int:
        """How many edges there are, without making them."""
        return sum(map(self.n_writers_of, self.readers))

    @cached_property
    def numbers(self) -> Mapping[Writer | Reader, int]:
        """The place of each writer among the writers, and of each reader among the readers."""
        return {one: i for all in (self.writers, self.readers) for i, one in enumerate(all)}

    @cached_property
    def _heads_by_input(self) -> dict[Input, int]:
        return {"q": self.n_heads, "k": self.n_key_value_heads, "v": self.n_key_value_heads}

    def n_writers_of(self, reader: Reader) -> int:
        """How many writers reach a reader: since writers stand in order, the first so many."""
        each_layer = self.n_heads + (not self.attn_only)
        before = 1 + reader.layer * each_layer
        return before + (self.n_heads if reader.kind == "mlp" and not self.parallel_attn_mlp else 0)

    def writers_of(self, reader: Reader) -> tuple[Writer, ...]:
        """The writers that reach a reader, in order."""
        return self.writers[: self.n_writers_of(reader)]

    def reaches(self, writer: Writer, reader: Reader) -> bool:
        """Whether what `writer` adds to the stream is read by `reader`."""
        within = writer.kind == "head" and reader.kind == "mlp" and not self.parallel_attn_mlp
        return writer.layer < reader.layer or (writer.layer == reader.layer and within)

    def reads_of(self, writer: Writer) -> tuple[Reader, ...]:
        """What a writer's component itself reads: a head its queries, keys and values; an MLP its input."""
        if writer.head is None:
            return () if writer.kind == "embed" else (Reader("mlp", writer.layer),)
        shared = writer.head // (self.n_heads // self.n_key_value_heads)
        heads: dict[Input, int] = {"q": writer.head, "k": shared, "v": shared}
        return tuple(Reader("head", writer.layer, head, input) for input, head in heads.items())

    def writes_of(self, reader: Reader) -> tuple[Writer, ...]:
        """What a reader's component writes: of shared keys or values, every head that they serve."""
        if reader.head is None:
            return () if reader.kind == "logits" else (Writer("mlp", reader.layer),)
        if reader.input == "q":
            return (Writer("head", reader.layer, reader.head),)
        group = self.n_heads // self.n_key_value_heads
        first = reader.head * group
        return tuple(Writer("head", reader.layer, head) for head in range(first, first + group))

    # ------------------------------------------------------------------ names

    def writer(self, name: str) -> Writer:
        """The writer of that name; an MLP's write may also be called as decompositions call it, "5_mlp_out".

        Raises `HookNotFoundError` naming what is near, what is out of range, or that this is a reader.
        """
        plain = re.sub(r"^(\d+)_mlp_out$", r"L\1.mlp", name) if isinstance(name, str) else name
        kind, layer, head, input = self._parsed(plain)
        if kind == "logits" or input:
            _refuse(name, "does not write to the stream; writers are such as 'embed', 'L0H1' or 'L2.mlp'")
        return Writer(cast(Any, kind), layer, head)

    def reader(self, name: str) -> Reader:
        """The reader of that name. Raises as `writer`."""
        kind, layer, head, input = self._parsed(name)
        if kind == "head" and not input:
            _refuse(name, f"is not an input, but a whole head; name one of its inputs, such as '{name}.q'")
        if kind == "embed":
            _refuse(name, "is not an input; readers are such as 'L9H6.q', 'L2.mlp' or 'logits'")
        return Reader(cast(Any, kind), layer, head, input)

    def edge(self, name: str) -> Edge:
        """The edge of that name, such as "L0H1 -> L2H3.q".

        Raises as `writer`, and where the reader does not read what the writer writes.
        """
        if not isinstance(name, str) or name.count("->") != 1:
            _refuse(name, "is no edge; edges are written as 'L0H1 -> L2H3.q'")
        writer, reader = (part.strip() for part in name.split("->"))
        edge = Edge(self.writer(writer), self.reader(reader))
        if not self.reaches(*edge):
            _refuse(name, f"is no edge: {edge.reader} does not read what {edge.writer} writes")
        return edge

    def _parsed(self, name: object) -> tuple[str, int, int | None, Input | None]:
        """Kind, layer, head and input, all there. Raises `HookNotFoundError`."""
        if not isinstance(name, str):
            _refuse(name, "is no component; components are named as text, such as 'L0H1'")
        if name in ("embed", "logits"):
            return name, -1 if name == "embed" else self.n_layers, None, None
        found = re.fullmatch(r"L(\d+)(?:H(\d+)(?:\.([qkv]))?|\.mlp)", name)
        if not found:
            known = ["embed", "logits", "L0H0", "L0H0.q", "L0H0.k", "L0H0.v", "L0.mlp"]
            _refuse(name, f"is no component; written as {', '.join(known)}{did_you_mean(name, known)}")
        layer, input = int(found[1]), cast(Input | None, found[3])
        head = None if found[2] is None else int(found[2])
        n_heads = self.n_heads if input is None else self._heads_by_input[input]
        if layer >= self.n_layers or (head is not None and head >= n_heads):
            kind = "heads" if n_heads == self.n_heads else "key-value heads"
            _refuse(name, f"is not there: the model has {self.n_layers} layers of {n_heads} {kind}")
        if head is None and self.attn_only:
            _refuse(name, "is not there: this model has no MLPs")
        return "mlp" if head is None else "head", layer, head, input

    def __len__(self) -> int:
        return self.n_edges

    def __iter__(self) -> Iterator[Edge]:
        return iter(self._edges)

    def __repr__(self) -> str:
        return f"EdgeGraph({len(self.writers)} writers, {len(self.readers)} readers, {self.n_edges:,} edges)"


def _refuse(name: object, why: str) -> NoReturn:
    raise HookNotFoundError(f"{describe(name)} {why}")
