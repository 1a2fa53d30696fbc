"""The symbolic interpreter: what a circuit means, with attention that chooses instead of weighing.

Every head that chooses attends to the best-scoring keys and to nothing else: to all of them alike (ties "mean"), or to
the latest or the first of them. A soft head weighs its keys by the softmax that was declared. Every ramp of a table or
a bucket is a step, and functions are their straight pieces. The interpreter has no factored matrix, no position code
and no norm, and its heads that choose have no sharpness. So it can say whether a compiled model, which has all of
these, does what was declared.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.language.checks import check_sound
from circuits.language.declaration import Declaration
from circuits.language.decoding import decode, in_words, nothing_below
from circuits.language.forms import real_tensor
from circuits.language.gaps import TIED
from circuits.language.holdings import Holdings
from circuits.language.layout import Layout, time_of
from circuits.language.parts import Head, Ties
from circuits.language.space import Label, Space, cut, listed, shortened
from circuits.language.steps import Step
from interp.errors import ConfigError, ShapeError, describe, did_you_mean
from interp.indices import counted

SHOWN = 8
"""The most texts that the repr of an interpretation shows."""

Coordinates = Float[Tensor, "batch pos size"]


@dataclass(frozen=True, eq=False, repr=False)
class Interpretation:
    """What a circuit does with a batch of sequences.

    Attributes:
        tokens: the sequences.
        stream: the final stream, one coordinate a label; see `space`.
        patterns: where each head attends, by name.
        logits: what the unembedding reads.
        predictions: a word, or None for nothing to predict, for each position of each sequence.
        broken: what these sequences do that the declaration excludes, in sentences that name it; empty as a rule.
        fired: for each table, which of its entries fired anywhere.
        layout: where the spaces lie in the stream.
        thresholds: below which logits, and numbers of readouts, there is nothing to predict; see `nothing_below`.
        source: what the source does with its sequences, for a circuit that has one. Cross heads attend to their
            positions: their patterns are [batch, query_pos, source_pos].
    """

    tokens: Int[Tensor, "batch pos"]
    stream: Coordinates
    patterns: dict[str, Float[Tensor, "batch query_pos _key_pos"]]
    logits: Float[Tensor, "batch pos d_vocab"]
    predictions: list[list[str | None]]
    broken: tuple[str, ...]
    fired: dict[str, Bool[Tensor, "_entry"]]
    layout: Layout
    thresholds: dict[str, Float[Tensor, "_labels"]]
    source: "Interpretation | None" = None

    def space(self, name: str) -> Float[Tensor, "batch pos labels"]:
        """What one space holds at the end.

        Raises `ConfigError`, with the nearest name, for a space that the circuit does not have or does not use.
        """
        held = self.layout.slices
        if name not in held:
            raise ConfigError(f"no space {name!r} is in use; there are {listed(held)}{did_you_mean(name, held)}")
        return self.stream[..., held[name]]

    def predicted(self, readout: str) -> list[list[Label | None]]:
        """What a readout says at each position of each sequence: a label, or None for nothing.

        Raises `ConfigError`, with the nearest name, for a readout that the circuit does not have.
        """
        space = checked_readout(self.layout, readout)
        return in_words(decode(self.space(readout), self.thresholds[readout]), space.labels)

    def __repr__(self) -> str:
        n, length = self.tokens.shape
        shown = zip(self._texts(), self.predictions[:SHOWN], strict=True)
        lines = [
            f"Interpretation of {counted(n, 'text')} of {counted(length, 'word')}",
            f"  spaces    {cut(', '.join(self.layout.slices))}",
            f"  heads     {cut(', '.join(self.patterns))}",
            *(f"  {shortened(text, 36)} -> {shortened(said, 56)}" for text, said in shown),
            *(f"  broken    {cut(one)}" for one in self.broken),
        ]
        return "\n".join([*lines, *([f"  ... and {n - SHOWN} more"] if n > SHOWN else [])])

    def _texts(self) -> list[str]:
        """The first texts, as they are shown, with their sources."""
        texts = [self.layout.declaration.vocabulary.to_string(row) for row in self.tokens[:SHOWN]]
        if self.source is None:
            return texts
        return [f"{source} | {text}" for source, text in zip(self.source._texts(), texts, strict=True)]


class Interpreter:
    """Runs a circuit on token ids.

    Attributes:
        holdings: what each space can hold.
        source: the interpreter of the source, for a circuit that has one.
        thresholds: see `nothing_below`; of the logits under the name of `out`, of readouts under theirs.

    Raises `ConfigError` for a declaration that cannot be kept; see `check_sound`.

    >>> from circuits.gallery import entry
    >>> c = entry("previous_token").build()
    >>> run = Interpreter(Layout(c)).run(c.tokens("!ab"))
    >>> run.logits.shape, list(run.patterns)
    (torch.Size([1, 3, 6]), ['previous'])
    """

    def __init__(self, layout: Layout):
        self.layout, self.declaration = layout, layout.declaration
        self.source = None if layout.source is None else Interpreter(layout.source)
        self.holdings = Holdings(layout)
        check_sound(self.holdings)
        self.thresholds = nothing_below(self.holdings)
        self._blocks = {head.name: (layout.blocks(head.qk), layout.blocks(head.ov)) for head in self.declaration.heads}
        neurons = [part for part in self.declaration.parts if not isinstance(part, Head)]
        self._steps = {part.name: Step(part, layout) for part in neurons}

    @property
    def nothing_below(self) -> Float[Tensor, "d_vocab"]:
        """The thresholds of the logits."""
        return self.thresholds[self.declaration.out.name]

    def run(
        self,
        tokens: Int[Tensor, "batch pos"],
        vectors: Mapping[str, Tensor] | None = None,
        source: Int[Tensor, "n_sources source_pos"] | None = None,
    ) -> Interpretation:
        """What the circuit does with these sequences, and with the vectors that the user gives.

        A circuit with a source also takes that, a sequence for each of `tokens`. Raises `ConfigError` for vectors, or a
        source, that are missing or not asked for, `ShapeError` for another number of sources than of tokens.
        """
        x = self.layout.embedded(tokens)
        for name, given in checked_vectors(self.declaration, tokens, vectors).items():
            x[..., self.layout.slices[name]] = given.detach()
        visible = visible_keys(self.declaration.attention_dir, tokens.shape[1])
        patterns: dict[str, Tensor] = {}
        fired: dict[str, Tensor] = {}
        memory = self._memory(tokens, source)
        broken = [*(memory.broken if memory is not None else ()), *self._outside(x)]
        for _, together in itertools.groupby(sorted(self.declaration.parts, key=time_of), key=time_of):
            written = torch.zeros_like(x)
            for part in together:
                if isinstance(part, Head):
                    keys = _Keys.of(memory, visible) if part.cross else _Keys(x, self.layout.slices, visible)
                    patterns[part.name] = self._attend(part, x, keys, broken)
                    self._copy(part, patterns[part.name], keys, written)
                else:
                    fired[part.name] = self._steps[part.name].add(x, written, broken)
            x = x + written
        self._check_promises(x, tokens, broken)
        logits = x.new_zeros(*tokens.shape, self.declaration.vocabulary.d_vocab)
        for name, block in self.layout.unembedding.items():
            logits = logits + x[..., self.layout.slices[name]] @ block
        predictions = in_words(decode(logits, self.nothing_below), self.declaration.vocabulary.words)
        said = tuple(dict.fromkeys(broken))
        return Interpretation(
            tokens, x, patterns, logits, predictions, said, fired, self.layout, self.thresholds, memory
        )

    def generate(self, source: Int[Tensor, "batch source_pos"]) -> list[list[str | None]]:
        """What a circuit with a source answers to each source: it reads its start, then what it predicted itself.

        An answer ends with the word `eos` of the circuit, with None, where there is nothing to predict, or when the
        text is as long as it may be.
        """
        vocabulary, ends = self.declaration.vocabulary, (None, self.declaration.eos)
        start = vocabulary.to_single_token(self.declaration.bos or "")
        tokens = torch.full((len(source), 1), start)
        answers: list[list[str | None]] = [[] for _ in range(len(source))]
        for _ in range(self.declaration.n_ctx):
            said = [row[-1] for row in self.run(tokens, source=source).predictions]
            for answer, word in zip(answers, said, strict=True):
                if not answer or answer[-1] not in ends:
                    answer.append(word)
            if all(answer[-1] in ends for answer in answers):
                break
            # what an ended answer goes on with does not matter, as no position reads a later one
            next_ids = [start if word is None else vocabulary.to_single_token(word) for word in said]
            tokens = torch.cat([tokens, torch.tensor(next_ids)[:, None]], dim=1)
        return answers

    def _memory(
        self, tokens: Int[Tensor, "batch pos"], source: Int[Tensor, "n_sources source_pos"] | None
    ) -> Interpretation | None:
        """What the source does with its sequences; None for a circuit without one."""
        if (self.source is None) != (source is None):
            reads = "no source, and one is given" if self.source is None else "a source, and none is given"
            raise ConfigError(f"the circuit reads {reads}")
        if self.source is None or source is None:
            return None
        if len(source) != len(tokens):
            raise ShapeError(f"{len(source)} sources for {len(tokens)} targets; allowed: as many")
        return self.source.run(source)

    def _outside(self, x: Coordinates) -> list[str]:
        """Vectors that do not lie where the declaration says."""
        broken: list[str] = []
        for name, (low, high) in self.declaration.inputs.items():
            given = x[..., self.layout.slices[name]]
            outside = given[(given < low - TIED) | (given > high + TIED)]
            if outside.numel():
                broken.append(f"vectors {name!r} hold {float(outside[0]):.4g}, and lie between {low:g} and {high:g}")
        return broken

    def _attend(
        self, head: Head, x: Coordinates, keys: "_Keys", broken: list[str]
    ) -> Float[Tensor, "batch query_pos key_pos"]:
        scores, visible = x.new_zeros(*x.shape[:2], keys.x.shape[1]), keys.visible
        for (rows, columns), block in self._blocks[head.name][0].items():
            scores = scores + x[..., self.layout.slices[rows]] @ block @ keys.held(columns).transpose(1, 2)
        if head.attend == "soft":
            return (scores * (head.sharp or 1.0)).masked_fill(~visible, -torch.inf).softmax(-1)
        pattern = attend(scores, visible, head.ties)
        self._check_gap(head, scores, pattern, visible, broken)
        return pattern

    def _copy(
        self, head: Head, pattern: Float[Tensor, "batch query_pos key_pos"], keys: "_Keys", written: Coordinates
    ) -> None:
        for (rows, columns), block in self._blocks[head.name][1].items():
            written[..., self.layout.slices[columns]] += pattern @ (keys.held(rows) @ block)

    def _check_gap(
        self,
        head: Head,
        scores: Float[Tensor, "batch query_pos key_pos"],
        pattern: Float[Tensor, "batch query_pos key_pos"],
        visible: Bool[Tensor, "query_pos key_pos"],
        broken: list[str],
    ) -> None:
        """Note a key that is not chosen and scores, with recency, too near to one that is, as mixtures make it."""
        if head.gap is None:
            return
        for term in head.recency.terms:
            scores = scores + term.weighted[0, : scores.shape[-1]]
        least = scores.masked_fill(pattern == 0, torch.inf).amin(-1, keepdim=True)
        near = visible & (pattern == 0) & (scores > least - head.gap * (1 - 1e-6) + 1e-12)
        if bool(near.any()):
            row, query, key = (int(i) for i in near.nonzero()[0])
            less = f"{float(least[row, query, 0] - scores[row, query, key]):.3g} less than one it chooses"
            where = f"{head.title}: at position {query} key {key}"
            broken.append(f"{where} scores only {less}, and {head.gap:.3g} is what it can tell apart")

    def _check_promises(self, x: Coordinates, tokens: Int[Tensor, "batch pos"], broken: list[str]) -> None:
        """Note a space that does not hold what its author promised."""
        for name, promise in self.declaration.holds.items():
            if name not in self.layout.slices or promise == "numbers":
                continue
            held = x[..., self.layout.slices[name]]
            if promise == "shares":
                bad = (held.amin(-1) < -TIED) | (held.sum(-1) > 1 + TIED)
            else:
                states = self.declaration.spaces[name].states
                allowed = torch.tensor(states, dtype=x.dtype) if states else torch.eye(held.shape[-1], dtype=x.dtype)
                allowed = torch.cat([allowed, torch.zeros_like(allowed[:1])])
                distinct, which = held.flatten(0, 1).unique(dim=0, return_inverse=True)
                off = (distinct[:, None] - allowed).abs().amax(-1).amin(-1) > TIED
                bad = off[which].view(held.shape[:2])
            if bool(bad.any()):
                row, position = (int(i) for i in bad.nonzero()[0])
                text = shortened(self.declaration.vocabulary.to_string(tokens[row]), 60)
                broken.append(f"space {name!r} is declared with holds={promise!r}, and holds something else at "
                              f"position {position} of {text}")  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Keys:
    """What a head attends to.

    Attributes:
        x: the stream that its keys, and what it copies, are in.
        slices: where the spaces lie in it.
        visible: which keys a query may attend to.
    """

    x: Float[Tensor, "batch key_pos size"]
    slices: dict[str, slice]
    visible: Bool[Tensor, "query_pos key_pos"]

    @classmethod
    def of(cls, memory: Interpretation | None, visible: Bool[Tensor, "query_pos query_pos"]) -> "_Keys":
        """The final stream of a source, all of it visible."""
        assert memory is not None
        return cls(memory.stream, memory.layout.slices, visible.new_ones(len(visible), memory.stream.shape[1]))

    def held(self, space: str) -> Float[Tensor, "batch key_pos labels"]:
        """What a space of the keys holds."""
        return self.x[..., self.slices[space]]


def checked_vectors(
    declaration: Declaration, tokens: Int[Tensor, "batch pos"], vectors: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """The vectors that a circuit asks for, in float64.

    Raises `ConfigError` for vectors that are missing, not asked for, or no finite numbers; `ShapeError` for another
    shape.

    >>> from circuits.gallery import entry
    >>> c = entry("previous_token").build()
    >>> checked_vectors(c, c.tokens("!ab"), None)
    {}
    """
    wanted = declaration.inputs
    if not isinstance(vectors, Mapping | None):
        raise ConfigError(f"vectors = {describe(vectors)}; allowed: a mapping from {listed(wanted) or 'nothing'} to "
                          "tensors [batch, pos, size]")  # fmt: skip
    given = dict(vectors or {})
    for name in given:
        if name not in wanted:
            raise ConfigError(f"vectors {name!r} are given, and the circuit takes {listed(wanted) or 'none'}"
                              f"{did_you_mean(name, wanted)}")  # fmt: skip
    checked: dict[str, Tensor] = {}
    for name in wanted:
        if name not in given:
            raise ConfigError(f"the circuit reads vectors {name!r}; give {{{name!r}: a tensor [batch, pos, size]}}")
        value = real_tensor(f"vectors {name!r}", given[name])
        shape = (*tokens.shape, len(declaration.spaces[name]))
        if tuple(value.shape) != shape:
            raise ShapeError(f"vectors {name!r} have shape {tuple(value.shape)}; allowed: {shape}, [batch, pos, size]")
        if not value.isfinite().all():
            raise ConfigError(f"vectors {name!r} have entries that are not finite")
        checked[name] = value
    return checked


def checked_readout(layout: Layout, readout: str) -> Space:
    """The space of a readout. Raises `ConfigError`, with the nearest name, for one that the circuit does not have.

    >>> from circuits.gallery import entry
    >>> checked_readout(Layout(entry("previous_token").build()), "logit")
    Traceback (most recent call last):
    interp.errors.ConfigError: the circuit has no readout 'logit'; it has none
    """
    readouts = layout.declaration.readouts
    if readout not in readouts:
        raise ConfigError(f"the circuit has no readout {readout!r}; it has {listed(readouts) or 'none'}"
                          f"{did_you_mean(str(readout), readouts)}")  # fmt: skip
    return readouts[readout]


def visible_keys(attention_dir: str, n_pos: int) -> Bool[Tensor, "query_pos key_pos"]:
    """Which keys a query may attend to.

    >>> visible_keys("causal", 3).int()
    tensor([[1, 0, 0],
            [1, 1, 0],
            [1, 1, 1]], dtype=torch.int32)
    """
    everything = torch.ones(n_pos, n_pos, dtype=torch.bool)
    return everything.tril() if attention_dir == "causal" else everything


def attend(
    scores: Float[Tensor, "*batch query_pos key_pos"], visible: Bool[Tensor, "query_pos key_pos"], ties: Ties
) -> Float[Tensor, "*batch query_pos key_pos"]:
    """Hard attention: all weight on the best visible keys, shared or not as `ties` says.

    >>> attend(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), visible_keys("causal", 2), "mean").tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    scores = scores.masked_fill(~visible, -torch.inf)
    best = (scores >= scores.amax(-1, keepdim=True) - TIED).double()
    if ties == "mean":
        return best / best.sum(-1, keepdim=True)
    place = torch.arange(1, scores.shape[-1] + 1, dtype=torch.float64)
    chosen = (best * (place if ties == "latest" else 1 / place)).argmax(-1)
    return torch.nn.functional.one_hot(chosen, scores.shape[-1]).double()
