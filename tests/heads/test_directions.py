"""Head scores where attention looks both ways, and where it looks at another text."""

import re
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from grid import SEED, SMALL, build, config, run_of
from torch import Tensor

from interp import (
    ConfigError,
    EncoderDecoderConfig,
    HookedEncoderDecoder,
    HookNotFoundError,
    PairCache,
    ShapeError,
    TransformerConfig,
)
from interp.heads import (
    BIDIRECTIONAL_SCORES,
    CROSS_SCORES,
    attention_on,
    cross_scores_of,
    head_scores,
    head_scores_of,
    is_duplicate,
    is_last,
    is_next,
    is_self,
    score_table,
)
from interp.heads.pattern_scores import is_first_of_source, is_last_of_source, is_same_place

BOTH_WAYS: dict[str, Any] = {"attention_dir": "bidirectional"}


def test_perfect_heads_of_each_kind_score_1_and_no_other_kind_does():
    n, tokens = 6, torch.tensor([0, 5, 6, 5, 6, 1])
    eye = torch.eye(n)
    first, last = torch.zeros(n, n), torch.zeros(n, n)
    first[:, 0], last[:, -1] = 1, 1
    heads = {
        "previous_token": eye.roll(-1, dims=1), "next_token": eye.roll(1, dims=1), "own_token": eye,
        "first_token": first, "last_token": last, "duplicate_token": eye[[0, 3, 4, 1, 2, 5]],
    }  # fmt: skip
    assert list(heads) != sorted(heads)
    assert set(heads) == set(BIDIRECTIONAL_SCORES)
    for kind, pattern in heads.items():
        for name, score in BIDIRECTIONAL_SCORES.items():
            value = float(attention_on(pattern, score.marks(tokens)))
            assert (value == 1) == (name == kind), (kind, name)


def test_padding_on_either_side_neither_attends_nor_is_attended_to():
    tokens = torch.tensor([-1, 4, 7, 4, -1, -1])
    real = torch.tensor([4, 7, 4])
    for marks_of in (score.marks for score in BIDIRECTIONAL_SCORES.values()):
        marks = marks_of(tokens)
        assert torch.equal(marks[1:4, 1:4], marks_of(real))
        assert marks.sum() == marks[1:4, 1:4].sum()


@pytest.mark.usefixtures("as_installed")
def test_duplicates_are_earlier_ones_where_queries_look_back_and_all_others_where_they_look_both_ways():
    tokens = torch.tensor([3, 3, 8, 3])
    both = is_duplicate(tokens, "bidirectional")
    assert torch.equal(is_duplicate(tokens), both.tril())
    assert torch.equal(both, both.T)
    assert both.sum() == 6
    with pytest.raises(ConfigError, match="attention_dir = 'sideways'"):
        is_duplicate(tokens, "sideways")  # pyright: ignore[reportArgumentType]


def test_no_causal_query_can_look_at_the_next_or_the_last_token():
    tokens = torch.arange(5)
    for marks in (is_next(tokens), is_last(tokens)):
        assert not marks.tril().any()
    assert torch.equal(is_self(tokens), torch.eye(5, dtype=torch.bool))


def test_a_model_that_looks_both_ways_has_its_own_scores_and_refuses_those_that_need_a_before():
    run = run_of("post_ln_sinusoidal_bidirectional")
    scores = head_scores(run.model, run.tokens)
    of_patterns = [name for name in scores if not str(name).endswith("_se") and not str(name).startswith("copying")]
    assert of_patterns == list(BIDIRECTIONAL_SCORES)
    for refused in (
        lambda: head_scores(run.model, run.tokens, scores="induction"),
        lambda: head_scores_of(run.cache, run.tokens, scores=["own_token", "induction"]),
    ):
        with pytest.raises(ConfigError, match="'induction' is not defined where attention is bidirectional; allowed"):
            refused()
    causal = run_of("learned_ln")
    with pytest.raises(ConfigError, match="'next_token' is not defined where attention is causal"):
        head_scores(causal.model, causal.tokens, scores="next_token")


def test_copying_is_not_read_off_weights_that_reach_no_logit_or_reach_it_through_an_activation_function():
    for fields, message in (
        ({"d_vocab_out": 0}, "no unembedding"),
        ({"masked_token_head": True}, "masked-token head stands between"),
    ):
        model = build(config(SMALL | BOTH_WAYS | fields), SEED)
        assert "copying" not in head_scores(model, torch.arange(7))
        with pytest.raises(ConfigError, match=message):
            head_scores(model, scores="copying")


# ---------------------------------------------------------------------------------------------- cross-attention


def run_of_pair(n_layers: int = 2) -> tuple[PairCache, Tensor, Tensor]:
    """A random pair's run, padded on the left in the first source and target."""
    encoder = config(SMALL | BOTH_WAYS | {"d_vocab_out": 0, "dtype": torch.float64})
    decoder = TransformerConfig(**SMALL | {"n_layers": n_layers, "d_memory": encoder.d_model, "dtype": torch.float64})
    model = HookedEncoderDecoder(EncoderDecoderConfig(encoder=encoder, decoder=decoder))
    model.decoder.load_state_dict(build(decoder, SEED).state_dict())
    source, target = torch.randint(11, (2, 7)), torch.randint(11, (2, 5))
    real, told = torch.ones_like(source), torch.ones_like(target)
    real[0, :3], told[0, :1] = 0, 0
    with torch.no_grad():
        return model.run_with_cache(source, target, source_mask=real, target_mask=told)[1], source, target


def test_scores_of_cross_heads_equal_loops_over_the_tokens_of_both_texts():
    cache, _, _ = run_of_pair()
    scores = cross_scores_of(cache)
    assert list(scores["label"].values.ravel()[:4]) == ["L0X0", "L0X1", "L0X2", "L0X3"]
    sides = [(range(1, 5), range(3, 7)), (range(5), range(7))]  # target and source, without padding
    for layer, head in np.ndindex(2, 4):
        patterns = cache["pattern", layer, "cross_attn"][:, head]
        want: dict[str, list[float]] = {name: [] for name in CROSS_SCORES}
        for pattern, (queries, keys) in zip(patterns.numpy(), sides, strict=True):
            want["diagonal"].append(statistics.mean([pattern[q, k] for q, k in zip(queries, keys, strict=False)]))
            want["first_token"].append(statistics.mean([pattern[q, keys[0]] for q in queries]))
            want["last_token"].append(statistics.mean([pattern[q, keys[-1]] for q in queries]))
        for name, values in want.items():
            assert float(scores[name][layer, head]) == pytest.approx(np.mean(values))
            assert float(scores[f"{name}_se"][layer, head]) == pytest.approx(np.std(values, ddof=1) / 2**0.5)
    assert len(score_table(scores, "diagonal", top_k=3)) == 3


def test_the_marks_of_a_source_that_is_longer_or_shorter_than_the_target():
    short, long = torch.tensor([7, 7, -1]), torch.tensor([-1, 7, 7, 7])
    assert is_same_place(short, long).nonzero().tolist() == [[0, 1], [1, 2]]
    assert is_same_place(long, short).nonzero().tolist() == [[1, 0], [2, 1]]
    assert is_first_of_source(short, long).nonzero().tolist() == [[0, 1], [1, 1]]
    assert is_last_of_source(long, short).nonzero().tolist() == [[1, 1], [2, 1], [3, 1]]


def test_self_attention_of_a_decoder_beside_an_encoder_is_scored_from_its_cache():
    cache, source, target = run_of_pair()
    scores = head_scores_of(cache.decoder, target, scores=["previous_token", "first_token"])
    patterns = cache.decoder["pattern", 1].numpy()
    previous = [
        np.mean([patterns[0, 2, q, q - 1] for q in range(2, 5)]),
        np.mean([patterns[1, 2, q, q - 1] for q in range(1, 5)]),
    ]
    assert float(scores.previous_token[1, 2]) == pytest.approx(np.mean(previous))
    assert head_scores_of(cache.encoder, source).last_token.shape == (3, 4)
    with pytest.raises(
        ConfigError, match=re.escape("head_scores_of(cache.decoder, model.to_target_tokens(target)[0])")
    ):
        head_scores(cache.decoder.model, target)


REFUSED: dict[str, tuple[Callable[[PairCache], Any], type[Exception], str]] = {
    "one stack": (lambda c: cross_scores_of(c.decoder), ConfigError, "head_scores_of"),  # pyright: ignore
    "cut": (
        lambda c: cross_scores_of(PairCache(c.encoder.slice(pos=slice(2, 5)), c.decoder)),
        ShapeError, "7 positions of the source",
    ),
    "no patterns": (
        lambda c: cross_scores_of(PairCache(c.encoder, type(c.decoder)({}, c.decoder.model))),
        HookNotFoundError, "cross_attn",
    ),
    "no layers": (lambda c: cross_scores_of(run_of_pair(0)[0]), ConfigError, "has no heads"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.usefixtures("as_installed")
def test_what_is_no_run_of_cross_attention_is_refused(case: str):
    call, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        call(run_of_pair()[0])
