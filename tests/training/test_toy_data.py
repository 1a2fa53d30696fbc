"""The generators of toy data."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp import ConfigError, TokenError
from interp.text import random_repeats
from interp.training.toy_data import Batch, iid_tokens, variable_offset_repeats

SEEDS = st.integers(0, 2**31)


@st.composite
def repeats(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `variable_offset_repeats` that fit together."""
    segment = sorted((draw(st.integers(2, 9)), draw(st.integers(2, 9))))
    gap = sorted((draw(st.integers(0, 6)), draw(st.integers(0, 6))))
    bos = draw(st.sampled_from([None, 0, 50]))
    needed = 2 * (segment[1] + gap[1]) + (bos is not None)
    return {
        "n_prompts": draw(st.integers(1, 4)),
        "length": needed + draw(st.integers(0, 40)),
        "words": draw(st.sampled_from([range(1, 48), range(1, 3), range(10, 40, 3)])),
        "segment": tuple(segment),
        "gap": tuple(gap),
        "bos": bos,
        "seed": draw(SEEDS),
    }


@given(repeats())
def test_every_copied_token_and_the_one_before_it_stood_side_by_side_earlier(arguments: dict[str, Any]):
    data = variable_offset_repeats(**arguments)
    for row, copied in zip(data.tokens.tolist(), data.copied.tolist(), strict=True):
        pairs = list(pairwise(row))
        for i in range(1, len(row)):
            assert not copied[i] or pairs[i - 1] in pairs[: i - 1]


@given(repeats())
def test_every_sequence_holds_a_copy_of_its_whole_segment(arguments: dict[str, Any]):
    longest_run = [
        max(map(len, "".join(".x"[c] for c in row).split("."))) for row in variable_offset_repeats(**arguments).copied
    ]
    least, most = arguments["segment"]
    together = 1 if arguments["gap"][0] > 0 else arguments["length"]
    assert all(least - 1 <= run for run in longest_run)
    assert all(run <= (most - 1) * together for run in longest_run)


@given(repeats())
def test_only_the_words_given_are_drawn_after_the_bos(arguments: dict[str, Any]):
    data = variable_offset_repeats(**arguments)
    assert data.tokens.shape == data.copied.shape == (arguments["n_prompts"], arguments["length"])
    has_bos = arguments["bos"] is not None
    assert not has_bos or (data.tokens[:, 0] == arguments["bos"]).all()
    assert set(data.tokens[:, int(has_bos) :].flatten().tolist()) <= set(arguments["words"])
    assert not data.copied[:, 0].any()


def test_segments_of_one_length_without_gaps_repeat_at_that_distance():
    data = variable_offset_repeats(30, 5, 40, segment=(7, 7), gap=(0, 0), seed=3)
    assert torch.equal(data.tokens[:, 7:], data.tokens[:, :-7])
    first_of_segment = torch.arange(40) % 7 == 0
    assert torch.equal(data.copied, (~first_of_segment & (torch.arange(40) > 7)).expand(5, -1))


def test_repeats_lie_at_many_distances():
    data = variable_offset_repeats(range(1, 1000), 64, 64, bos=0, seed=0)
    tokens, distances = data.tokens, []
    for b, i in data.copied.nonzero().tolist():
        earlier = (tokens[b, :i] == tokens[b, i]).nonzero()
        distances.append(i - int(earlier[-1]))
    counts = torch.bincount(torch.tensor(distances))
    assert counts[:8].sum() < 0.05 * counts.sum()  # chance repeats apart, none nearer than the shortest segment
    assert counts.max() < 0.15 * counts.sum()  # no distance serves more than one token in seven


@given(SEEDS)
def test_a_seed_repeats_a_batch_and_a_generator_goes_on(seed: int):
    def draw(seed: int | torch.Generator) -> Tensor:
        return variable_offset_repeats(40, 2, 60, seed=seed).tokens

    generator = torch.Generator().manual_seed(seed)
    assert torch.equal(draw(seed), draw(generator))
    assert not torch.equal(draw(seed), draw(generator))


def test_independent_tokens_are_spread_evenly_and_nothing_counts_as_copied():
    data = iid_tokens(range(2, 12), 200, 51, bos=0, seed=5)
    counts = torch.bincount(data.tokens[:, 1:].flatten(), minlength=12)
    assert counts[:2].sum() == 0 and (counts[2:] / 10_000 - 0.1).abs().max() < 0.02
    assert not data.copied.any()


def test_words_are_a_number_a_range_or_ids_and_the_bos_is_left_out():
    for make in (iid_tokens, variable_offset_repeats, random_repeats):
        made = [make(words, 3, 60, bos=0, seed=7) for words in (50, range(50), range(1, 50), torch.arange(50).flip(0))]
        first, *others = [data.tokens if isinstance(data, Batch) else data for data in made]
        assert all(torch.equal(first, other) for other in others), make
        assert set(first[:, 1:].flatten().tolist()) <= set(range(1, 50)) and (first[:, 0] == 0).all(), make


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_prompts": 0}, ConfigError, "n_prompts = 0"),
        ({"n_prompts": 2.5}, ConfigError, "n_prompts = 2.5; allowed: 1 or more"),
        ({"length": 1}, ConfigError, "length = 1; allowed: 2 or more"),
        (
            {"length": 40},
            ConfigError,
            "39 positions for segments of up to 14 tokens and gaps of up to 12; two of each need 52",
        ),
        ({"words": 1, "bos": None}, TokenError, "words = 1: at least two different ids"),
        ({"words": 2}, TokenError, "words = 2: at least two different ids are needed, the bos not among them"),
        ({"words": 0}, ConfigError, "words = 0; allowed: 1 or more"),
        ({"words": range(-3, 9)}, TokenError, "words: -3 is no token id; allowed: 0 or more"),
        ({"words": torch.rand(9)}, TokenError, "words: token ids are integers, not torch.float32"),
        ({"bos": -1}, ConfigError, "bos = -1; allowed: 0 or more"),
        ({"segment": (1, 4)}, ConfigError, "2 or more"),
        ({"segment": (9, 4)}, ConfigError, r"segment = \(9, 4\); allowed: the shortest and the longest"),
        ({"gap": (-1, 4)}, ConfigError, "0 or more"),
    ],
)
def test_data_that_cannot_be_made_is_refused(
    changes: dict[str, Any], error: type[Exception], message: str, as_installed: None
):
    arguments: dict[str, Any] = {"words": range(1, 48), "n_prompts": 2, "length": 64, "bos": 0, "seed": 0}
    with pytest.raises(error, match=message):
        variable_offset_repeats(**arguments | changes)
