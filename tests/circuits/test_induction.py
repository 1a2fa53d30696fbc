"""The two-layer induction model of lectures, entry by entry against the slide's table, in five readings of its mask."""

import math

import pytest
import torch
from grid import SEED, random_tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.gallery.induction import induction_model, lecture_circuit
from circuits.lecture import READINGS, check_readings, slide_table
from interp import ConfigError, HookedTransformer, TokenError, Vocabulary
from interp.heads.pattern_scores import induction_score, previous_token_score

SLIDE = torch.tensor(
    [
        [0, 100, 0, 0, 0, 0],
        [0, 0, 100, 0, 100, 0],
        [0, 0, 0, 100, 0, 0],
        [0, 0, 100, 0, 100, 0],
        [0, 0, 0, 0, 0, 100],
        [0, 0, 0, 100, 0, 0],
    ]
).float()


def test_the_rule_gives_the_table_on_the_slide():
    assert torch.equal(slide_table(torch.tensor([0, 1, 2, 1, 3, 2])), SLIDE)


def test_under_the_slides_rule_every_entry_but_the_first_is_matched():
    check = check_readings()["causal"]
    assert check.matched == 35
    assert check.differing == [(0, 0)]
    assert check.table[0, 0] == 100
    assert torch.allclose(check.table[1:], SLIDE[1:], atol=1e-40)
    assert "a_00 = 1" in READINGS["causal"].difference


@pytest.mark.parametrize("reading", ["strict", "softmax_then_mask", "row_sum"])
def test_three_readings_match_the_slide_in_all_entries(reading: str):
    check = check_readings()[reading]
    assert check.matched == 36
    assert check.differing == []
    assert check.patterns[0, 0, 0] == 0


def test_masking_scores_with_zero_misses_column_0():
    check = check_readings()["zero_masked"]
    assert check.matched == 30
    assert check.differing == [(i, 0) for i in range(6)]
    assert torch.allclose(check.table[:, 0], 100 * torch.tensor([1, 2, 2, 2, 1, 2]) / 6)
    assert torch.allclose(check.patterns[0, 0], torch.full((6,), 1 / 6))


@pytest.mark.parametrize("reading", READINGS)
def test_in_every_reading_position_3_predicts_b_from_2_and_position_5_predicts_a_from_3(reading: str):
    predictions = check_readings()[reading].predictions
    assert [(p.position, p.token, p.sources) for p in predictions if p.matched] == [(3, "b", [2]), (5, "a", [3])]


def test_without_a_match_the_softmax_gives_the_average_over_the_prefix():
    predictions = check_readings()["causal"].predictions
    assert predictions[4].token is None
    assert predictions[4].shares == pytest.approx({"!": 0.2, "a": 0.4, "b": 0.2, "c": 0.2})
    assert predictions[4].sources == [0, 1, 2, 3, 4]


def test_with_the_strict_mask_position_1_predicts_the_start_with_certainty():
    prediction = check_readings()["strict"].predictions[1]
    assert (prediction.token, prediction.sources, prediction.matched) == ("!", [0], False)


def test_with_the_row_sum_a_row_without_a_match_predicts_nothing():
    assert [p.shares for p in check_readings()["row_sum"].predictions if not p.matched] == [{}] * 4


def test_the_models_own_logits_predict_b_and_a():
    model = induction_model()
    assert isinstance(model, HookedTransformer)
    logits = model("!abacb")
    assert [model.to_string(logits[0, i].argmax()[None]) for i in (3, 5)] == ["b", "a"]


def test_the_causal_reading_is_the_model_itself_bit_for_bit():
    model = induction_model()
    _, cache = model.run_with_cache("!abacb")
    check = check_readings()["causal"]
    assert torch.equal(check.patterns[0], cache["pattern", 0][0, 0])
    assert torch.equal(check.patterns[1], cache["pattern", 1][0, 0])


def test_both_head_scores_are_1():
    check = check_readings()["causal"]
    assert previous_token_score(check.patterns[0]) == 1
    assert induction_score(check.patterns[1], torch.tensor([0, 1, 2, 1, 3, 2])) == 1


@pytest.mark.parametrize(("sharpness", "matched"), [(9.2, 34), (9.3, 35)])
def test_sharpness_9_3_already_prints_the_table_and_9_2_does_not(sharpness: float, matched: int):
    assert check_readings(previous_sharpness=sharpness)["causal"].matched == matched


@pytest.mark.parametrize("n", [16, 64, 512])
def test_the_sharpness_formula_leaves_eps_to_the_other_positions(n: int):
    eps = 1e-3
    beta = math.log((n - 1) * (1 - eps) / eps)
    model = induction_model("!ab", n, previous_sharpness=beta)
    _, cache = model.run_with_cache(random_tokens(model.cfg, SEED, 1, n), names_filter=("pattern", 0))
    assert float(cache["pattern", 0][0, 0, -1, -2]) == pytest.approx(1 - eps, abs=1e-6)


def test_the_k_composition_path_alone_is_the_slides_table_with_its_first_entry():
    model = induction_model()
    V, beta = 4, 100.0
    W_OV = model.W_V[0, 0] @ model.W_O[0, 0]
    W_QK = model.W_Q[1, 0] @ model.W_K[1, 0].T
    circuit = model.W_E @ W_QK @ W_OV.T @ model.W_E.T
    assert circuit.trace() == beta * V
    assert torch.equal(circuit.argmax(dim=-1), torch.arange(V))

    tokens = model.to_tokens("!abacb")[0]
    previous = check_readings()["causal"].patterns[0]
    table = circuit[tokens][:, tokens] @ previous.T
    assert table[0, 0] == 100
    assert torch.allclose(table[:, 1:], SLIDE[:, 1:], atol=1e-40)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_vocabulary_and_context_length_gives_the_rules_table(data: st.DataObject):
    words = data.draw(st.lists(st.text("abcdefgh", min_size=1, max_size=3), min_size=1, max_size=8, unique=True))
    vocabulary = Vocabulary(["<s>", *words], sep=" ")
    text = " ".join(["<s>", *data.draw(st.lists(st.sampled_from(words), max_size=24))])
    tokens = vocabulary.to_tokens(text)[0]
    n_ctx = len(tokens) + data.draw(st.integers(0, 9))
    checks = check_readings(text, vocabulary, n_ctx)
    assert [checks[name].differing for name in ("strict", "softmax_then_mask", "row_sum")] == [[], [], []]
    assert checks["causal"].differing == [(0, 0)]
    for p in checks["row_sum"].predictions:
        followers = {int(tokens[j]) for j in range(1, p.position) if tokens[j - 1] == tokens[p.position]}
        assert {vocabulary.to_single_token(word) for word in p.shares} == followers
        assert p.matched == any(tokens[j - 1] == tokens[p.position] for j in range(1, p.position + 1))


def test_after_layer_1_the_stream_holds_current_and_previous_token_and_position():
    _, cache = induction_model().run_with_cache("!abacb")
    stream = cache["resid_post", 0][0]
    assert stream.shape == (6, 14)
    one_hot = torch.eye(4)[[0, 1, 2, 1, 3, 2]]
    assert torch.equal(stream[:, :4], one_hot)
    assert torch.allclose(stream[1:, 4:8], one_hot[:-1], atol=1e-40)
    assert torch.equal(stream[:, 8:], torch.eye(6))


def test_a_word_outside_the_vocabulary_is_named_with_its_place():
    with pytest.raises(TokenError, match="unknown word 'd' at place 2"):
        check_readings("!ad")


def test_words_can_be_longer_than_a_character():
    words = ["<s>", "to", "be", "or"]
    assert check_readings("<s> to be to", words)["causal"].predictions[3].token == "be"
    assert torch.equal(induction_model(words, 4)("<s> to be to"), induction_model(Vocabulary(words), 4)("<s> to be to"))


def test_a_sharpness_that_is_no_number_is_refused(as_installed: None):
    with pytest.raises(ConfigError, match="previous_sharpness = 'high'; allowed: a finite number above 0"):
        induction_model(previous_sharpness="high")  # pyright: ignore[reportArgumentType]


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(TokenError, match="6 tokens is longer than the context, n_ctx = 5"):
        check_readings("!abacb", n_ctx=5)


def test_an_empty_text_is_refused():
    with pytest.raises(TokenError, match="empty sequence"):
        check_readings("")


def test_an_impossible_context_length_is_refused():
    with pytest.raises(ConfigError, match="n_ctx"):
        induction_model("!ab", n_ctx=0)


def test_repeated_words_in_a_vocabulary_are_refused():
    with pytest.raises(TokenError, match="'a' stands at places 1 and 3"):
        induction_model("!aba")


def test_the_lecture_model_has_no_sink_whatever_the_vocabulary_says():
    with_bos = Vocabulary("!abc", bos="!")
    assert [check.matched for check in check_readings(vocabulary=with_bos).values()] == [35, 36, 36, 36, 30]
    assert torch.equal(induction_model(with_bos)("!abacb"), induction_model()("!abacb"))


def test_the_lecture_model_is_declared_in_the_language():
    edges = set(lecture_circuit("!abc", 6).edges().edges(keys=True))
    assert ("L0H0", "L1H0", "K") in edges
    assert ("embed", "logits", "out") in edges  # a tied unembedding reads what the embedding wrote
