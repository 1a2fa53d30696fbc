"""What logits say: the thresholds below which nothing is predicted, and the words above them."""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.language.gaps import TIED
from circuits.language.holdings import Holdings

HEARD = 0.499
"""The share of a part's smallest write that is enough for a prediction. It is a little below a half, because sums come
to just a half (1 - .5), and rounding would decide whether that is enough."""


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


def leading(
    logits: Float[Tensor, "batch pos d_vocab"], nothing_below: Float[Tensor, "d_vocab"]
) -> Bool[Tensor, "batch pos d_vocab"]:
    """Which words have the largest logit of those that reach their threshold, several of them where they tie.

    Words tie within a tenth of the lowest threshold. That is a twentieth of the smallest logit that a part writes
    alone, so no write is overlooked, and more than the errors of a compiled model, which tell equal logits apart. Where
    every position predicts a word, there is no such scale, and they tie within `TIED`.

    >>> leading(torch.tensor([[[2.0, 2.0, 0.0]]]).double(), torch.tensor([0.5, 0.5, 0.5]).double())
    tensor([[[ True,  True, False]]])
    """
    heard = logits >= nothing_below
    lowest = float(nothing_below.amin().clamp(max=1e300))
    best = logits.masked_fill(~heard, -torch.inf).amax(-1, keepdim=True)
    return heard & (logits >= best - (lowest / 10 if lowest > -math.inf else TIED))


def decode(
    logits: Float[Tensor, "batch pos d_vocab"], nothing_below: Float[Tensor, "d_vocab"]
) -> Int[Tensor, "batch pos"]:
    """The word with the largest logit, the first of those that tie; -1 where no logit reaches its threshold.

    >>> logits = torch.tensor([[[0.0, 2.0], [0.1, 0.0]]], dtype=torch.float64)
    >>> decode(logits, torch.tensor([0.5, 0.5], dtype=torch.float64))
    tensor([[ 1, -1]])
    """
    ahead = leading(logits, nothing_below)
    return ahead.int().argmax(-1).where(ahead.any(-1), -1)


Said = TypeVar("Said")


def in_words(ids: Int[Tensor, "batch pos"], words: Sequence[Said]) -> list[list[Said | None]]:
    """Decoded ids as words, and None for nothing.

    >>> in_words(torch.tensor([[1, -1]]), ["a", "b"])
    [['b', None]]
    """
    return [[None if i < 0 else words[i] for i in row] for row in ids.tolist()]
