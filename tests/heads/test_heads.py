import math
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from grid import SEED, SMALL, Run, build, config, random_tokens, run_of
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from circuits.gallery.induction import induction_model
from interp import (
    CacheError,
    ConfigError,
    HookedTransformer,
    HookNotFoundError,
    ShapeError,
    TokenError,
    TransformerConfig,
    Vocabulary,
)
from interp.heads import head_scores, head_scores_of, score_table
from interp.heads import scores as heads_module
from interp.heads.pattern_scores import (
    BIDIRECTIONAL_SCORES,
    PATTERN_SCORES,
    attention_on,
    follows_earlier_occurrence,
    induction_score,
    previous_token_score,
)
from interp.model import in_context_learning_score
from interp.text.repeats import random_repeats, repeated_tokens

ALPHABET = "!" + "".join(chr(c) for c in range(97, 97 + 26))


# ---------------------------------------------------------------------------------------------- of one pattern


def test_a_perfect_previous_token_head_scores_1():
    assert previous_token_score(torch.eye(7).roll(-1, dims=1)) == 1


def test_the_previous_token_score_is_the_mean_of_the_first_subdiagonal():
    pattern = torch.rand(2, 3, 5, 5)
    expected = torch.stack([pattern[..., i, i - 1] for i in range(1, 5)]).mean(dim=0)
    assert torch.allclose(previous_token_score(pattern), expected)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_the_induction_stripes_are_the_tokens_after_earlier_occurrences(tokens: list[int]):
    stripes = follows_earlier_occurrence(torch.tensor(tokens))
    for i in range(len(tokens)):
        for j in range(len(tokens)):
            assert bool(stripes[i, j]) == (1 <= j <= i and tokens[j - 1] == tokens[i])


def test_attention_shared_among_several_earlier_occurrences_still_scores_1():
    tokens = torch.tensor([9, *torch.randperm(8).tolist() * 4])
    stripes = follows_earlier_occurrence(tokens).float()
    spread = torch.where(stripes.any(-1, keepdim=True), stripes / stripes.sum(-1, keepdim=True).clamp(min=1), 0.0)
    assert float(induction_score(spread, tokens)) == pytest.approx(1)


def test_uniform_attention_scores_far_below_1():
    n = 33
    tokens = torch.tensor([0, *range(1, 17), *range(1, 17)])
    uniform = torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None]
    assert float(induction_score(uniform, tokens)) == pytest.approx(
        sum(1 / (i + 1) for i in range(17, 33)) / 16, abs=1e-6
    )


def test_the_induction_score_needs_a_repeated_token():
    with pytest.raises(TokenError, match="no token occurs twice"):
        induction_score(torch.eye(4), torch.arange(4))


def test_the_induction_score_needs_as_many_tokens_as_positions():
    with pytest.raises(ShapeError, match="does not fit 3 tokens"):
        induction_score(torch.eye(4), torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("shape", [(1, 1), (2, 3)])
def test_the_previous_token_score_needs_a_square_of_two_or_more(shape: tuple[int, int]):
    with pytest.raises(ShapeError, match="square pattern"):
        previous_token_score(torch.ones(shape))


def test_both_averages_of_a_batch_are_those_of_its_sequences():
    tokens, pattern = torch.randint(0, 4, (3, 9)), torch.rand(3, 2, 9, 9)
    for average in ("queries", "entries"):
        want = torch.stack([induction_score(pattern[i], tokens[i], average) for i in range(3)])
        assert torch.allclose(induction_score(pattern, tokens, average), want)


def test_marks_that_do_not_fit_the_pattern_are_an_error():
    with pytest.raises(ShapeError, match="does not fit marks"):
        attention_on(torch.rand(2, 4, 5, 5), torch.ones(3, 5, 5, dtype=torch.bool))


# ---------------------------------------------------------------------------------------------- closed forms


def test_the_heads_of_the_hand_built_induction_circuit_score_1():
    model = induction_model(Vocabulary(ALPHABET, bos="!"), n_ctx=30)
    scores = head_scores(model, n_prompts=9, seed=SEED, progress=False)
    assert float(scores.previous_token.sel(layer=0, head=0)) == pytest.approx(1)
    assert float(scores.induction.sel(layer=1, head=0)) == pytest.approx(1)
    assert float(scores.induction_entry_mean.sel(layer=1, head=0)) == pytest.approx(1)
    assert float(scores.copying.sel(layer=1, head=0)) == pytest.approx(1)
    assert float(scores.copying_top.sel(layer=1, head=0)) == 1
    assert np.isnan(scores.copying.sel(layer=0, head=0))
    assert scores.copying.attrs["undefined"].startswith("L0H0: ")
    assert float(scores.induction.sel(layer=0, head=0)) < 0.3


def test_four_copies_score_a_half_averaged_by_entries_and_1_summed_by_queries():
    model = induction_model(Vocabulary(ALPHABET[:26], bos="!"), n_ctx=101)
    tokens = torch.tensor([[0, *((torch.randperm(25) + 1).tolist() * 4)]])
    scores = head_scores(model, tokens, scores=["induction", "induction_entry_mean"])
    assert float(scores.induction[1, 0]) == pytest.approx(1)
    assert float(scores.induction_entry_mean[1, 0]) == pytest.approx(0.5)


def induction_with_a_sink(n_words: int, n_ctx: int, gain: float) -> HookedTransformer:
    """Stream [current | previous | position | out]; token 0 is the bos, a sink that is not copied; `out` is read."""
    V, n = n_words, n_ctx
    cfg = TransformerConfig(
        n_layers=2, d_model=3 * V + n, n_ctx=n, d_vocab=V, n_heads=1, d_head=max(V + 1, n), attn_only=True,
        normalization_type=None, positional_embedding_type="standard", attn_scale=1.0, dtype=torch.float64,
    )  # fmt: skip
    model = HookedTransformer(cfg)
    current, previous, position, out = slice(V), slice(V, 2 * V), slice(2 * V, 2 * V + n), slice(2 * V + n, None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        words, places = torch.eye(V), torch.eye(n)
        model.embed.W_E[:, current] = words
        model.pos_embed.W_pos[:, position] = places
        model.unembed.W_U[out] = words
        first, second = (block.attn for block in model.blocks)
        first.W_Q[0, position, :n] = 100 * places.roll(-1, dims=1)
        first.W_K[0, position, :n] = places
        first.W_V[0, current, :V] = words
        first.W_O[0, :V, previous] = words
        second.W_Q[0, current, :V], second.W_Q[0, current, V] = 100 * words, 50
        second.W_K[0, previous, :V], second.W_K[0, 0, V] = words, 1
        second.W_V[0, current, :V] = words
        second.W_V[0, 0] = 0
        second.W_O[0, :V, out] = gain * words
    return model


@pytest.mark.parametrize(("gain", "later"), [(5, 0.239), (10, 1.81e-3), (20, 8.2e-8)])
def test_the_losses_of_repeated_random_tokens(gain: float, later: float):
    model = induction_with_a_sink(41, 121, gain)
    tokens = torch.tensor([[0, *((torch.randperm(40) + 1).tolist() * 3)]])
    losses = model(tokens, "loss", loss_per_token=True).detach()[0]
    assert losses[:41] == pytest.approx(math.log(41))
    assert losses[41:] == pytest.approx(math.log1p(40 * math.exp(-gain)), rel=1e-4)
    assert losses[41:] == pytest.approx(later, rel=1e-2)


def test_the_in_context_learning_score_of_a_permutation_eight_times():
    model = induction_with_a_sink(65, 513, 10)
    tokens = torch.tensor([[0, *((torch.randperm(64) + 1).tolist() * 8)]])
    losses = model(tokens, "loss", loss_per_token=True).detach()
    assert float(in_context_learning_score(losses)) == pytest.approx(-4.171486, abs=1e-6)
    with pytest.raises(ConfigError, match="1 <= early < late <= 512"):
        in_context_learning_score(losses, late=513)


# ---------------------------------------------------------------------------------------------- the one-layer control


def fixed_distance_copier(n_words: int, n_ctx: int, distance: int) -> HookedTransformer:
    """One layer: position i copies the token at i + 1 - distance, whatever the tokens."""
    cfg = TransformerConfig(
        n_layers=1, d_model=2 * n_words + n_ctx, n_ctx=n_ctx, d_vocab=n_words, n_heads=1, d_head=max(n_words, n_ctx),
        attn_only=True, normalization_type=None, positional_embedding_type="onehot", attn_scale=1.0,
    )  # fmt: skip
    model = HookedTransformer(cfg)
    current, out = slice(n_words), slice(n_words, 2 * n_words)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        attn, words = model.blocks[0].attn, torch.eye(n_words)
        model.embed.W_E[:, current], model.unembed.W_U[out] = words, words
        attn.W_Q[0, -n_ctx:, :n_ctx] = 100 * torch.diag(torch.ones(n_ctx - distance + 1), diagonal=1 - distance)
        attn.W_K[0, -n_ctx:, :n_ctx] = torch.eye(n_ctx)
        attn.W_V[0, current, :n_words], attn.W_O[0, :n_words, out] = words, words
    return model


def accuracy_on_copied_tokens(model: HookedTransformer, tokens: Tensor) -> float:
    """Of the tokens whose predecessor occurred before, followed by the same token."""
    predicted = model(tokens)[:, :-1].argmax(dim=-1)
    hits = [
        bool(predicted[row, i] == tokens[row, i + 1])
        for row in range(len(tokens))
        for i in range(1, tokens.shape[1] - 1)
        if any(torch.equal(tokens[row, j : j + 2], tokens[row, i : i + 2]) for j in range(i))
    ]
    return sum(hits) / len(hits)


def test_a_one_layer_model_passes_for_induction_at_a_fixed_distance_and_fails_at_varied_ones():
    model = fixed_distance_copier(50, 41, distance=20)
    one_copy = torch.stack([torch.randperm(49)[:20] + 1 for _ in range(12)])
    fixed = torch.cat([torch.zeros(12, 1, dtype=torch.long), one_copy, one_copy], dim=1)
    varied = random_repeats(50, 12, 41, bos=0, seed=SEED)
    induction = {name: head_scores(model, t, scores="induction") for name, t in (("fixed", fixed), ("varied", varied))}
    assert float(induction["fixed"].induction[0, 0]) == pytest.approx(1)
    assert accuracy_on_copied_tokens(model, fixed) == 1
    assert float(induction["varied"].induction[0, 0]) < 0.4
    assert accuracy_on_copied_tokens(model, varied) < 0.4

    two_layers = induction_with_a_sink(50, 41, 10)
    assert float(head_scores(two_layers, varied, scores="induction").induction[1, 0]) == pytest.approx(1)
    assert accuracy_on_copied_tokens(two_layers, varied) == 1


# ---------------------------------------------------------------------------------------------- all heads at once


def names_for(cfg: TransformerConfig) -> list[str]:
    """The scores of patterns that a model has."""
    return list(PATTERN_SCORES if cfg.attention_dir == "causal" else BIDIRECTIONAL_SCORES)


def by_loops(pattern: Any, tokens: list[int], both_ways: bool = False) -> dict[str, float]:
    """The scores of one pattern [query, key], as their definitions say."""
    n, sums, entries = len(tokens), {}, {}
    keys = {
        "previous_token": lambda q: [q - 1] if q else [],
        "next_token": lambda q: [q + 1] if q + 1 < n else [],
        "own_token": lambda q: [q],
        "duplicate_token": lambda q: [k for k in range(n if both_ways else q) if tokens[k] == tokens[q] and k != q],
        "induction": lambda q: [k for k in range(1, q + 1) if tokens[k - 1] == tokens[q]],
        "first_token": lambda q: [0] if q else [],
        "last_token": lambda q: [n - 1] if q + 1 < n else [],
    }
    for name, keys_of in keys.items():
        marked = [[float(pattern[q, k]) for k in keys_of(q)] for q in range(n) if keys_of(q)]
        sums[name] = sum(map(sum, marked)) / len(marked) if marked else math.nan
        entries[name] = sum(map(sum, marked)) / sum(map(len, marked)) if marked else math.nan
    return sums | {"induction_entry_mean": entries["induction"]}


def two_prompts(run: Run) -> int:
    """What the patterns of two prompts take in one layer."""
    return 2 * run.cfg.n_heads * run.tokens.shape[1] ** 2 * run.model.W_E.element_size()


def test_the_pass_over_all_heads_equals_loops_over_patterns(run: Run):
    names, both_ways = names_for(run.cfg), run.cfg.attention_dir == "bidirectional"
    scores = head_scores(run.model, run.tokens, scores=names, max_bytes=two_prompts(run))
    for layer in range(3):
        for head in range(4):
            pattern = run.cache["pattern", layer][:, head]
            single = [by_loops(pattern[i], run.tokens[i].tolist(), both_ways) for i in range(3)]
            for name in names:
                values = np.array([one[name] for one in single])
                values = values[~np.isnan(values)]
                assert scores[name].attrs["n"] == len(values)
                if len(values):
                    assert float(scores[name][layer, head]) == pytest.approx(values.mean())
                if len(values) > 1:
                    error = values.std(ddof=1) / math.sqrt(len(values))
                    assert float(scores[f"{name}_se"][layer, head]) == pytest.approx(error)


def test_scores_do_not_depend_on_how_many_prompts_run_at_a_time(plain: Run):
    tokens = random_tokens(plain.cfg, SEED, batch=7)
    whole = head_scores(plain.model, tokens)
    for n_bytes in (1, 3 * two_prompts(plain) // 2, 10**9):
        cut = head_scores(plain.model, tokens, max_bytes=n_bytes)
        for name in whole.data_vars:
            np.testing.assert_allclose(cut[name], whole[name], atol=1e-12)


def test_padding_takes_no_part_in_the_scores(run: Run):
    names = names_for(run.cfg)
    real = torch.ones(3, 7, dtype=torch.bool)
    real[1, :3] = False
    padded = head_scores(run.model, run.tokens, scores=names, attention_mask=real)
    alone = [head_scores(run.model, t, scores=names) for t in (run.tokens[0], run.tokens[1, 3:], run.tokens[2])]
    for name in names:
        want = np.stack([one[name].values for one in alone if one[name].attrs["n"]] or [np.full((3, 4), np.nan)])
        np.testing.assert_allclose(padded[name], want.mean(axis=0), atol=1e-10)


def test_a_cache_is_scored_as_the_run_was(run: Run):
    want = head_scores(run.model, run.tokens)
    got = head_scores_of(run.cache, run.tokens)
    for name in want.data_vars:
        np.testing.assert_allclose(got[name], want[name], atol=1e-12)


def test_patterns_are_reduced_one_layer_at_a_time(plain: Run, monkeypatch: pytest.MonkeyPatch):
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def watch(pattern: Tensor, *rest: Any) -> Tensor:
        nonlocal most
        if not any(ref() is pattern for ref in alive):
            alive.append(weakref.ref(pattern))
        most = max(most, sum(ref() is not None for ref in alive))
        return attention_on(pattern, *rest)

    monkeypatch.setattr(heads_module, "attention_on", watch)
    head_scores(plain.model, n_prompts=4, length=7, max_bytes=two_prompts(plain), scores=["induction", "first_token"])
    assert len(alive) == 6
    assert most == 1


def test_prompts_without_a_repeat_leave_the_induction_score_undefined_and_say_so(plain: Run):
    scores = head_scores(plain.model, torch.arange(7))
    for name in ("induction", "duplicate_token"):
        assert np.isnan(scores[name]).all()
        assert "no prompt has a token that occurs twice" in scores[name].attrs["undefined"]
    assert not np.isnan(scores.previous_token).any()
    assert np.isnan(scores.previous_token_se).all()


def test_a_score_says_what_it_is_of_and_how_it_was_made(plain: Run):
    scores = head_scores(plain.model, n_prompts=3, length=6, seed=5)
    assert {name: scores.attrs[name] for name in ("n", "length", "seed")} == {
        "n": 3, "length": 6, "seed": 5
    }  # fmt: skip
    assert scores.attrs["model"] == plain.model.weights_hash()
    assert all(scores[name].attrs["definition"] for name in scores.data_vars)
    assert scores.label.sel(layer=2, head=1) == "L2H1"
    assert scores.equals(head_scores(plain.model, n_prompts=3, length=6, seed=5))


def test_the_hash_in_the_results_follows_the_weights():
    model = run_of("learned_ln").fresh_model()
    before = head_scores(model, n_prompts=1, scores="first_token").attrs["model"]
    with torch.no_grad():
        model.blocks[0].attn.W_Q[0] += 1
    after = head_scores(model, n_prompts=1, scores="first_token").attrs["model"]
    assert before != after == model.weights_hash()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scores": "inductoin"}, ConfigError, "did you mean 'induction'"),
        ({"scores": []}, ConfigError, "one or more"),
        ({"scores": ["induction", "induction"]}, ConfigError, "each once"),
        ({"prompt": torch.arange(5), "seed": 3}, ConfigError, "those of random repeats"),
        ({"attention_mask": torch.ones(3, 7)}, ConfigError, "random repeats have none"),
        ({"max_bytes": 0}, ConfigError, "max_bytes = 0"),
        ({"length": 9}, ConfigError, "n_ctx = 8"),
        ({"scores": "copying", "n_prompts": 3}, ConfigError, "weights alone"),
        ({"n_prompts": 0}, ConfigError, "n_prompts = 0"),
        ({"prompt": torch.tensor([11])}, TokenError, "allowed: 0 to 10"),
        ({"prompt": "abc"}, TokenError, "no tokenizer"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_an_error(options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        head_scores(run_of("learned_ln").model, **options)


def test_scores_of_the_weights_need_no_prompts():
    two_words = build(config(SMALL | {"d_vocab": 2}), SEED, Vocabulary("ab"))
    scores = head_scores(two_words, scores=["copying", "copying_top"])
    assert scores.copying.shape == (3, 4)
    assert scores.attrs["n"] == 0


def test_a_model_without_blocks_has_no_heads():
    with pytest.raises(ConfigError, match="no heads"):
        head_scores(build(config(SMALL | {"n_layers": 0}), SEED))


def test_a_cache_that_cannot_be_scored_is_an_error():
    model = run_of("learned_ln").fresh_model()
    tokens = run_of("learned_ln").tokens
    cache = model.run_with_cache(tokens)[1]
    with pytest.raises(ShapeError, match="whole sequences"):
        head_scores_of(cache.slice(pos=slice(2, 5)), tokens)
    with pytest.raises(ShapeError, match="whole sequences"):
        head_scores_of(cache, tokens[:2])
    with pytest.raises(HookNotFoundError, match="names_filter"):
        head_scores_of(model.run_with_cache(tokens, names_filter="*hook_z")[1], tokens)
    with torch.no_grad():
        model.unembed.W_U += 1
    assert head_scores_of(cache, tokens, scores="induction").induction.shape == (3, 4)
    with pytest.raises(CacheError, match="weights changed"):
        head_scores_of(cache, tokens, scores="copying")


# ---------------------------------------------------------------------------------------------- the table


def test_the_table_is_sorted_and_filtered(plain: Run):
    scores = head_scores(plain.model, n_prompts=4)
    table = score_table(scores, "previous_token")
    assert len(table) == 12
    assert list(table["previous_token"]) == sorted(scores.previous_token.values.ravel(), reverse=True)
    label = table.index[0]
    assert table.loc[label, "induction"] == float(scores.induction.where(scores.label == label).max())
    bound = float(scores.previous_token.median())
    assert min(score_table(scores, "previous_token", at_least=bound)["previous_token"]) >= bound
    assert list(score_table(scores, layer=-1).index) == ["L2H0", "L2H1", "L2H2", "L2H3"]
    assert set(score_table(scores, "first_token", layer=[0, 2], top_k=5)["layer"]) <= {0, 2}
    assert len(score_table(scores, top_k=5)) == 5
    assert [c for c in table.columns if c.endswith("_se")] == ["previous_token_se"]


def test_undefined_scores_come_last_in_the_table_and_reach_no_threshold():
    scores = head_scores(induction_model(Vocabulary(ALPHABET, bos="!"), n_ctx=20), scores="copying")
    assert list(score_table(scores, "copying").index) == ["L1H0", "L0H0"]
    assert list(score_table(scores, "copying", at_least=-1.0).index) == ["L1H0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sort": "previous"}, "did you mean 'previous_token'"),
        ({"at_least": 0.5}, "of which score"),
        ({"layer": 3}, "layer = 3"),
        ({"top_k": 0}, "top_k = 0"),
    ],
    ids=str,
)
def test_a_table_that_cannot_be_made_is_an_error(plain: Run, options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        score_table(head_scores(plain.model, n_prompts=2), **options)


# ---------------------------------------------------------------------------------------------- a real model


def test_the_heads_of_a_real_model_show_the_known_kinds(smollm2: HookedTransformer):
    model = smollm2
    scores = head_scores(model, n_prompts=3, length=40, seed=SEED, scores=list(PATTERN_SCORES))
    for name in ("previous_token", "induction", "first_token"):
        assert len(score_table(scores, name, at_least=0.5)) >= 1
    tokens = repeated_tokens(model.cfg, model.tokenizer, 3, 40, SEED)
    assert (tokens[:, 0] == model.to_single_token("<|im_start|>")).all()
    assert (tokens[:, 1:] > 16).all()  # below are the special tokens
    layers = [0, 18, 29]
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, None, [("pattern", layer) for layer in layers])
    for layer in layers:
        for head in (0, 6):
            single = [by_loops(cache["pattern", layer][i, head], tokens[i].tolist()) for i in range(3)]
            for name in PATTERN_SCORES:
                want = sum(one[name] for one in single) / 3
                assert float(scores[name].sel(layer=layer, head=head)) == pytest.approx(want, abs=1e-5)


def test_what_was_padding_in_a_cached_run_is_not_scored():
    run, real = run_of("learned_ln"), torch.ones(3, 7, dtype=torch.bool)
    real[1, :3] = False
    _, cache = run.model.run_with_cache(run.tokens, attention_mask=real)
    assert (
        head_scores_of(cache, run.tokens)
        .drop_vars("edited", errors="ignore")
        .equals(head_scores(run.model, run.tokens, attention_mask=real))
    )
