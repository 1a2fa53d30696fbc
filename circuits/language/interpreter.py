"""The symbolic interpreter: what a circuit means, with attention that chooses instead of weighing.

Every head attends to the best-scoring keys and to nothing else: to all of them alike (ties "mean"), or to the latest or
the first of them. Every ramp is a step. The interpreter has no softmax, no sharpness, no factored matrix, no position
code and no norm. So it can say whether a compiled model, which has all of these, does what was declared.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.language.layout import Layout
from circuits.language.parts import Head, Neurons, Ties
from circuits.language.space import cut, listed, shortened
from interp.errors import ConfigError, did_you_mean

TIED = 1e-6
"""Scores that differ by less are the same score."""


SHOWN = 8
"""The most texts that the repr of an interpretation shows."""


@dataclass(frozen=True, eq=False, repr=False)
class Interpretation:
    """What a circuit does with a batch of sequences.

    Attributes:
        tokens: the sequences.
        stream: the final stream, one coordinate a label; see `space`.
        patterns: where each head attends, by name.
        logits: what the output space holds.
        predictions: a word, or None for nothing to predict, for each position of each sequence.
        layout: where the spaces lie in the stream.
    """

    tokens: Int[Tensor, "batch pos"]
    stream: Float[Tensor, "batch pos size"]
    patterns: dict[str, Float[Tensor, "batch query_pos key_pos"]]
    logits: Float[Tensor, "batch pos d_vocab"]
    predictions: list[list[str | None]]
    layout: Layout

    def space(self, name: str) -> Float[Tensor, "batch pos labels"]:
        """What one space holds at the end.

        Raises `ConfigError`, with the nearest name, for a space that the circuit does not have or does not use.
        """
        held = self.layout.slices
        if name not in held:
            raise ConfigError(f"no space {name!r} is in use; there are {listed(held)}{did_you_mean(name, held)}")
        return self.stream[..., held[name]]

    def __repr__(self) -> str:
        n, length = self.tokens.shape
        vocabulary = self.layout.declaration.vocabulary
        shown = zip(map(vocabulary.to_string, self.tokens[:SHOWN]), self.predictions[:SHOWN], strict=True)
        lines = [
            f"Interpretation of {n} text{'s' * (n != 1)} of {length} word{'s' * (length != 1)}",
            f"  spaces    {cut(', '.join(self.layout.slices))}",
            f"  heads     {cut(', '.join(self.patterns))}",
            *(f"  {shortened(text, 36)} -> {shortened(said, 56)}" for text, said in shown),
        ]
        return "\n".join([*lines, *([f"  ... and {n - SHOWN} more"] if n > SHOWN else [])])


class Interpreter:
    """Runs a circuit on token ids."""

    def __init__(self, layout: Layout):
        self.layout, self.declaration, self.nothing_below = layout, layout.declaration, layout.nothing_below()
        heads = self.declaration.heads
        neurons = [part for part in self.declaration.parts if isinstance(part, Neurons)]
        self._heads = {head.name: (layout.matrix(head.qk), layout.matrix(head.ov)) for head in heads}
        self._neurons = {part.name: _steps(part, layout) for part in neurons}

    def run(self, tokens: Int[Tensor, "batch pos"]) -> Interpretation:
        """What the circuit does with these sequences."""
        x = self.layout.embedding[tokens] + self.layout.positions[: tokens.shape[1]]
        visible = visible_keys(self.declaration.attention_dir, tokens.shape[1])
        patterns = {}
        for layer in range(self.declaration.n_layers):
            parts = [part for part in self.declaration.parts if part.layer == layer]
            written = torch.zeros_like(x)
            for part in parts:
                if isinstance(part, Head):
                    qk, ov = self._heads[part.name]
                    patterns[part.name] = attend(x @ qk @ x.transpose(1, 2), visible, part.ties)
                    written = written + patterns[part.name] @ (x @ ov)
            x = x + written
            fired = [self._neurons[part.name] for part in parts if isinstance(part, Neurons)]
            x = x + sum((((x @ reads) > middle).double() @ writes for reads, middle, writes in fired), x.new_zeros(()))
        logits = x @ self.layout.unembedding
        predictions = in_words(decode(logits, self.nothing_below), self.declaration.vocabulary.words)
        return Interpretation(tokens, x, patterns, logits, predictions, self.layout)


def _steps(
    part: Neurons, layout: Layout
) -> tuple[Float[Tensor, "size ramps"], Float[Tensor, "ramps"], Float[Tensor, "ramps size"]]:
    """The ramps of a part: what they read, the middle of each, and what they write."""
    middle = torch.tensor([(ramp.low + ramp.high) / 2 for ramp in part.ramps], dtype=torch.float64)
    reads = layout.vectors(ramp.reads for ramp in part.ramps).T
    return reads, middle, layout.vectors(ramp.writes for ramp in part.ramps)


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


def leading(logits: Float[Tensor, "batch pos d_vocab"], nothing_below: float) -> Bool[Tensor, "batch pos d_vocab"]:
    """Which words have the largest logit, several of them where they tie.

    Words tie within a tenth of `nothing_below`. That is a twentieth of the smallest logit that a part writes alone, so
    no write is overlooked, and more than the errors of a compiled model, which tell equal logits apart.
    """
    return logits >= logits.amax(-1, keepdim=True) - nothing_below / 10


def decode(logits: Float[Tensor, "batch pos d_vocab"], nothing_below: float) -> Int[Tensor, "batch pos"]:
    """The word with the largest logit, the first of those that tie; -1 where no logit reaches `nothing_below`."""
    ids = leading(logits, nothing_below).int().argmax(-1)
    return ids.where(logits.amax(-1) >= nothing_below, -1)


def in_words(ids: Int[Tensor, "batch pos"], words: tuple[str, ...]) -> list[list[str | None]]:
    """Decoded ids as words, and None for nothing."""
    return [[None if i < 0 else words[i] for i in row] for row in ids.tolist()]
