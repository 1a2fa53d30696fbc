"""Data to train toy models on: what a batch says is to be predicted, and two kinds of random tokens.

`variable_offset_repeats` teaches induction: a random segment comes again and again until the sequence is full, at
distances that vary, for the reason that `interp/text/repeats.py` gives. `iid_tokens` are its control.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import ConfigError, TokenError, describe
from interp.indices import check_count
from interp.keywords import known_keywords
from interp.text import AttentionMask, Words, word_ids

Seed = int | torch.Generator
"""A seed, or a generator that goes on from where it is."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences to train on, and what is to be predicted in them.

    For an encoder and a decoder, the sequences are targets from the start token on, and each has a source. Without
    labels every token is to be predicted from those before it. A mark then belongs to the token that is to be
    predicted; with labels it belongs to the label at its place.

    A masked-token model trains on tokens of which some are hidden: `labels` are the tokens as they were, and
    `loss_mask` marks those that are hidden. Its loss is `interp.metrics.MaskedTokenLoss`, with all of them alike.

    Attributes:
        tokens: token ids.
        copied: true at a token that repeats what followed an earlier occurrence of the token before it. The loss of
            these tokens is recorded apart. Without it no token counts as copied.
        labels: what the logits at each position are to say, in place of the next token; or one id a sequence, which
            the logits at its last position are to say.
        loss_mask: true where the loss counts; None for everywhere. Where it is false, a label may be any number.
        attention_mask: true for tokens and false for padding, which predicts nothing and is not predicted.
        source: token ids that the encoder reads, one sequence for each target; None for a model of one stack.
        source_mask: true for tokens of the source and false for padding.
    """

    tokens: Int[Tensor, "batch pos"]
    copied: Bool[Tensor, "batch pos"] = None  # pyright: ignore[reportAssignmentType]  # filled in below
    labels: Int[Tensor, "batch pos"] | Int[Tensor, "batch"] | None = None
    loss_mask: AttentionMask | None = None
    attention_mask: AttentionMask | None = None
    source: Int[Tensor, "batch source_pos"] | None = None
    source_mask: AttentionMask | None = None

    def __post_init__(self) -> None:
        if self.copied is None:
            object.__setattr__(self, "copied", torch.zeros_like(self.tokens, dtype=torch.bool))


def iid_tokens(words: Words, n_prompts: int, length: int, *, bos: int | None = None, seed: Seed) -> Batch:
    """Tokens that are drawn independently and evenly, after the bos. They are a control: there is nothing to learn.

    Args:
        words: the token ids to draw from (see `interp.text.Words`); `bos` is left out.
        n_prompts: how many sequences.
        length: the length of a sequence, the bos included.
        bos: the id that every sequence starts with, or None.
        seed: of this batch, or a generator.

    Raises:
        ConfigError: sizes that are not positive, or a negative bos.
        TokenError: fewer than two different ids; else as `interp.text.word_ids`.

    >>> batch = iid_tokens(torch.arange(5), 2, 6, bos=0, seed=1)
    >>> batch.tokens.shape, batch.tokens[:, 0].tolist()
    (torch.Size([2, 6]), [0, 0])
    """
    ids = word_ids(words, bos)
    n_prompts = check_count("n_prompts", n_prompts)
    length = check_count("length", length, least=1 if bos is None else 2)
    if len(ids) < 2:
        raise TokenError(f"words = {describe(words)}: at least two different ids are needed, the bos not among them")
    generator = _generator(seed)
    tokens = ids[torch.randint(len(ids), (n_prompts, length), generator=generator)]
    if bos is not None:
        tokens[:, 0] = bos
    return Batch(tokens, torch.zeros_like(tokens, dtype=torch.bool))


@known_keywords
def variable_offset_repeats(
    words: Words,
    n_prompts: int,
    length: int,
    *,
    segment: tuple[int, int] = (8, 14),
    gap: tuple[int, int] = (0, 12),
    bos: int | None = None,
    seed: Seed,
) -> Batch:
    """Random tokens in which one random segment is repeated, at distances that cannot be predicted.

    A sequence is `gap segment gap segment ...`, cut off at `length`. The segment is the same each time. Every gap has a
    random length of its own and holds other random tokens. To copy from one fixed distance is therefore of little use
    here, though it passes for induction where repeats lie equally far apart.

    Args:
        words, n_prompts, length, bos, seed: as for `iid_tokens`; segments and gaps draw from the same ids.
        segment: shortest and longest length of a segment, in tokens; at least 2, as the first cannot be predicted.
        gap: shortest and longest length of a gap, the one before the first segment included. With the defaults copies
            lie 8 to 26 positions apart, so that no distance is worth learning, and 64 positions hold two at least.

    Raises as `iid_tokens`, and `ConfigError` for lengths that cannot be, and where two segments might not fit.
    """
    generator = _generator(seed)
    tokens = iid_tokens(words, n_prompts, length, bos=bos, seed=generator).tokens
    body = length - (bos is not None)
    for name, (least, most), lowest in (("segment", segment, 2), ("gap", gap, 0)):
        if not lowest <= least <= most:
            raise ConfigError(f"{name} = {(least, most)}; allowed: the shortest and the longest, {lowest} or more")
    if body < (needed := 2 * (segment[1] + gap[1])):
        raise ConfigError(
            f"{body} positions for segments of up to {segment[1]} tokens and gaps of up to {gap[1]}; two of each need "
            f"{needed}"
        )
    segments = iid_tokens(word_ids(words, bos), n_prompts, segment[1], seed=generator).tokens
    segment_length = _between(segment, (n_prompts, 1), generator)
    gap_lengths = _between(gap, (n_prompts, body // segment[0] + 1), generator)
    starts = (gap_lengths + segment_length).cumsum(dim=1) - segment_length  # [prompt occurrence]
    at = torch.arange(body).expand(n_prompts, -1).contiguous()
    occurrence = torch.searchsorted(starts, at, right=True) - 1  # -1 in the gap before the first
    within = at - starts.gather(1, occurrence.clamp(min=0))
    inside = (occurrence >= 0) & (within < segment_length)
    after_bos = tokens[:, length - body :]
    after_bos[inside] = segments.gather(1, within.clamp(0, segment[1] - 1))[inside]
    copied = torch.zeros_like(tokens, dtype=torch.bool)
    copied[:, length - body :] = inside & (occurrence >= 1) & (within >= 1)
    return Batch(tokens, copied)


def _between(ends: tuple[int, int], shape: tuple[int, int], generator: torch.Generator) -> Int[Tensor, "rows columns"]:
    """Random integers from the first end to the second, both included."""
    least, most = ends
    return least + torch.randint(most - least + 1, shape, generator=generator)


def _generator(seed: Seed) -> torch.Generator:
    return seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
