"""The symbolic interpreter: what a circuit means, with attention that chooses instead of weighing.

Every head that chooses attends to the best-scoring keys and to nothing else: to all of them alike (ties "mean"), or to
the latest or the first of them. A soft head weighs its keys by the softmax that was declared. Every ramp of a table or
a bucket is a step, and functions are their straight pieces. The interpreter has no factored matrix, no position code
and no norm, and its heads that choose have no sharpness. So it can say whether a compiled model, which has all of
these, does what was declared.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.language.checks import check_sound
from circuits.language.declaration import Declaration
from circuits.language.forms import real_tensor
from circuits.language.gaps import TIED
from circuits.language.holdings import Holdings
from circuits.language.layout import Layout
from circuits.language.parts import Head, Ties
from circuits.language.space import Label, Space, cut, listed, shortened
from circuits.language.steps import Step
from interp.errors import ConfigError, ShapeError, describe, did_you_mean

HEARD = 0.499
"""The share of a part's smallest write that is enough for a prediction. It is a little below a half, because sums come
to just a half (1 - .5), and rounding would decide whether that is enough."""

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
    """

    tokens: Int[Tensor, "batch pos"]
    stream: Coordinates
    patterns: dict[str, Float[Tensor, "batch query_pos key_pos"]]
    logits: Float[Tensor, "batch pos d_vocab"]
    predictions: list[list[str | None]]
    broken: tuple[str, ...]
    fired: dict[str, Bool[Tensor, "_entry"]]
    layout: Layout
    thresholds: dict[str, Float[Tensor, "_labels"]]

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
        vocabulary = self.layout.declaration.vocabulary
        shown = zip(map(vocabulary.to_string, self.tokens[:SHOWN]), self.predictions[:SHOWN], strict=True)
        lines = [
            f"Interpretation of {n} text{'s' * (n != 1)} of {length} word{'s' * (length != 1)}",
            f"  spaces    {cut(', '.join(self.layout.slices))}",
            f"  heads     {cut(', '.join(self.patterns))}",
            *(f"  {shortened(text, 36)} -> {shortened(said, 56)}" for text, said in shown),
            *(f"  broken    {cut(one)}" for one in self.broken),
        ]
        return "\n".join([*lines, *([f"  ... and {n - SHOWN} more"] if n > SHOWN else [])])


class Interpreter:
    """Runs a circuit on token ids.

    Attributes:
        holdings: what each space can hold.
        thresholds: see `nothing_below`; of the logits under the name of `out`, of readouts under theirs.

    Raises `ConfigError` for a declaration that cannot be kept; see `check_sound`.
    """

    def __init__(self, layout: Layout):
        self.layout, self.declaration = layout, layout.declaration
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

    def run(self, tokens: Int[Tensor, "batch pos"], vectors: Mapping[str, Tensor] | None = None) -> Interpretation:
        """What the circuit does with these sequences, and with the vectors that the user gives.

        Raises `ConfigError` for vectors that are missing, of another shape, or not asked for.
        """
        x = self.layout.embedded(tokens)
        for name, given in checked_vectors(self.declaration, tokens, vectors).items():
            x[..., self.layout.slices[name]] = given.detach()
        visible = visible_keys(self.declaration.attention_dir, tokens.shape[1])
        patterns: dict[str, Tensor] = {}
        fired: dict[str, Tensor] = {}
        broken = self._outside(x)
        for layer in range(self.declaration.n_layers):
            parts = [part for part in self.declaration.parts if part.layer == layer]
            written = torch.zeros_like(x)
            for head in (part for part in parts if isinstance(part, Head)):
                patterns[head.name] = self._attend(head, x, visible, broken)
                self._copy(head, patterns[head.name], x, written)
            x = x + written
            written = torch.zeros_like(x)
            for part in parts:
                if not isinstance(part, Head):
                    fired[part.name] = self._steps[part.name].add(x, written, broken)
            x = x + written
        self._check_promises(x, tokens, broken)
        logits = x.new_zeros(*tokens.shape, self.declaration.vocabulary.d_vocab)
        for name, block in self.layout.unembedding.items():
            logits = logits + x[..., self.layout.slices[name]] @ block
        predictions = in_words(decode(logits, self.nothing_below), self.declaration.vocabulary.words)
        said = tuple(dict.fromkeys(broken))
        return Interpretation(tokens, x, patterns, logits, predictions, said, fired, self.layout, self.thresholds)

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
        self, head: Head, x: Coordinates, visible: Bool[Tensor, "query_pos key_pos"], broken: list[str]
    ) -> Float[Tensor, "batch query_pos key_pos"]:
        slices = self.layout.slices
        scores = x.new_zeros(*x.shape[:2], x.shape[1])
        for (rows, columns), block in self._blocks[head.name][0].items():
            scores = scores + x[..., slices[rows]] @ block @ x[..., slices[columns]].transpose(1, 2)
        if head.attend == "soft":
            return (scores * (head.sharp or 1.0)).masked_fill(~visible, -torch.inf).softmax(-1)
        pattern = attend(scores, visible, head.ties)
        self._check_gap(head, scores, pattern, visible, broken)
        return pattern

    def _copy(
        self, head: Head, pattern: Float[Tensor, "batch query_pos key_pos"], x: Coordinates, written: Coordinates
    ) -> None:
        for (rows, columns), block in self._blocks[head.name][1].items():
            where = self.layout.slices[columns]
            written[..., where] += pattern @ (x[..., self.layout.slices[rows]] @ block)

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


def checked_vectors(
    declaration: Declaration, tokens: Int[Tensor, "batch pos"], vectors: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """The vectors that a circuit asks for, in float64.

    Raises `ConfigError` for vectors that are missing, not asked for, or no finite numbers; `ShapeError` for another
    shape.
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
    """The space of a readout. Raises `ConfigError`, with the nearest name, for one that the circuit does not have."""
    readouts = layout.declaration.readouts
    if readout not in readouts:
        raise ConfigError(f"the circuit has no readout {readout!r}; it has {listed(readouts) or 'none'}"
                          f"{did_you_mean(str(readout), readouts)}")  # fmt: skip
    return readouts[readout]


def nothing_below(holdings: Holdings) -> dict[str, Float[Tensor, "_labels"]]:
    """For each word, and each label of a readout, the threshold below which it is not predicted.

    It is `HEARD` times the smallest number that a part can write when no other part writes. For a word that nothing
    writes it is infinite. A circuit may declare one threshold for all words.
    """
    layout = holdings.layout
    declaration = layout.declaration
    smallest = torch.full((declaration.vocabulary.d_vocab,), torch.inf, dtype=torch.float64)
    for name, block in layout.unembedding.items():
        least = holdings.at(declaration.spaces[name]).smallest.clamp(max=1e300)[:, None]
        smallest = smallest.minimum((block.abs() * least).where(block != 0, torch.inf).amin(0))
    thresholds = {declaration.out.name: _heard(smallest)}
    if declaration.nothing_below is not None:
        thresholds[declaration.out.name] = torch.full_like(smallest, declaration.nothing_below)
    for name, space in declaration.readouts.items():
        thresholds[name] = _heard(holdings.at(space).smallest)
    return thresholds


def _heard(smallest: Float[Tensor, "labels"]) -> Float[Tensor, "labels"]:
    """The thresholds of numbers whose smallest ones are known; what is nearly infinite came of ones that are not."""
    return (HEARD * smallest).where(smallest < 1e200, torch.inf)


def visible_keys(attention_dir: str, n_pos: int) -> Bool[Tensor, "query_pos key_pos"]:
    """Which keys a query may attend to."""
    everything = torch.ones(n_pos, n_pos, dtype=torch.bool)
    return everything.tril() if attention_dir == "causal" else everything


def attend(
    scores: Float[Tensor, "*batch query_pos key_pos"], visible: Bool[Tensor, "query_pos key_pos"], ties: Ties
) -> Float[Tensor, "*batch query_pos key_pos"]:
    """Hard attention: all weight on the best visible keys, shared or not as `ties` says."""
    scores = scores.masked_fill(~visible, -torch.inf)
    best = (scores >= scores.amax(-1, keepdim=True) - TIED).double()
    if ties == "mean":
        return best / best.sum(-1, keepdim=True)
    place = torch.arange(1, scores.shape[-1] + 1, dtype=torch.float64)
    chosen = (best * (place if ties == "latest" else 1 / place)).argmax(-1)
    return torch.nn.functional.one_hot(chosen, scores.shape[-1]).double()


def leading(
    logits: Float[Tensor, "batch pos d_vocab"], nothing_below: Float[Tensor, "d_vocab"]
) -> Bool[Tensor, "batch pos d_vocab"]:
    """Which words have the largest logit of those that reach their threshold, several of them where they tie.

    Words tie within a tenth of the lowest threshold. That is a twentieth of the smallest logit that a part writes
    alone, so no write is overlooked, and more than the errors of a compiled model, which tell equal logits apart. Where
    every position predicts a word, there is no such scale, and they tie within `TIED`.
    """
    heard = logits >= nothing_below
    lowest = float(nothing_below.amin().clamp(max=1e300))
    best = logits.masked_fill(~heard, -torch.inf).amax(-1, keepdim=True)
    return heard & (logits >= best - (lowest / 10 if lowest > -math.inf else TIED))


def decode(
    logits: Float[Tensor, "batch pos d_vocab"], nothing_below: Float[Tensor, "d_vocab"]
) -> Int[Tensor, "batch pos"]:
    """The word with the largest logit, the first of those that tie; -1 where no logit reaches its threshold."""
    ahead = leading(logits, nothing_below)
    return ahead.int().argmax(-1).where(ahead.any(-1), -1)


Said = TypeVar("Said")


def in_words(ids: Int[Tensor, "batch pos"], words: Sequence[Said]) -> list[list[Said | None]]:
    """Decoded ids as words, and None for nothing."""
    return [[None if i < 0 else words[i] for i in row] for row in ids.tolist()]
