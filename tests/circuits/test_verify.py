"""Verification: what it counts, what it finds, and what it refuses."""

import math
from pathlib import Path

import pytest
import torch
from test_language import induction

from circuits import Circuit, copy, match
from circuits.compiler import CODES
from circuits.gallery import entry
from circuits.verify import every_text
from interp import ConfigError, HookedTransformer, TokenError


def one_head(vocab: str) -> Circuit:
    """A circuit of one head, which copies the word it stands at."""
    c = Circuit(vocab, 6, bos="!")
    c.head(0, "here", qk=match(c.pos, c.pos), ov=copy(c.tok, c.out))
    return c


def next_to_latest(text: str) -> list[str | None]:
    """What followed the latest earlier occurrence."""
    places = [text.rfind(word, 1, i) for i, word in enumerate(text)]
    return [text[place + 1] if place > 0 else None for place in places]


def test_all_texts_are_run_by_default():
    report = induction(ties="latest").verify(progress=False)
    assert (report.n_inputs, report.n_positions) == (3**5, 6 * 3**5)
    assert report.ok and report.accuracy == report.symbolic_accuracy == 1


def test_a_reference_is_compared_with_model_and_interpreter():
    report = induction(ties="latest").verify(every_text("abc", 4), next_to_latest, progress=False)
    assert report.ok and report.n_inputs == 3**4
    assert report.margin == pytest.approx(0.5, abs=1e-5)
    assert report.pattern_error == max(report.pattern_errors.values()) < 1e-5
    assert report.logit_error < 1e-5


def test_a_wrong_reference_is_found_with_its_worst_input():
    def wrong(text: str) -> list[str | None]:
        answers = next_to_latest(text)
        return [*answers[:-1], "c"] if text == "!abab" else answers

    report = induction(ties="latest").verify(every_text("abc", 4), wrong, progress=False)
    assert not report.ok
    assert report.n_right == report.n_symbolic == report.n_positions - 1
    assert report.worst is not None
    assert (report.worst.text, report.worst.position) == ("!abab", 4)
    assert (report.worst.predicted, report.worst.expected) == ("a", "c")
    assert report.margin == report.worst.margin < 0


def test_a_model_that_is_not_sharp_enough_is_found():
    c = Circuit("!abc", 6, bos="!")
    prev = c.space("prev", c.tok)
    c.head(0, "previous", qk=match(c.pos, c.pos, lambda i, j: j == i - 1), ov=copy(c.tok, prev), sharp=1)
    c.head(1, "induction", qk=match(c.tok, prev), ov=copy(c.tok, c.out), sharp=2)
    report = c.verify(progress=False)
    assert report.symbolic_accuracy == 1 > report.accuracy
    assert report.pattern_errors["previous"] > 0.3


def test_a_model_that_was_damaged_is_found():
    c = induction(ties="latest")
    model = c.compile()
    with torch.no_grad():
        model.blocks[1].attn.W_O[0] *= 0
    report = c.verify(model=model, progress=False)
    assert report.symbolic_accuracy == 1 > report.accuracy


def test_a_model_without_numbers_is_wrong_everywhere():
    c = induction(ties="latest")
    model = c.compile()
    with torch.no_grad():
        model.unembed.W_U.fill_(torch.nan)
    report = c.verify(model=model, length=3, progress=False)
    assert report.accuracy == 0 and report.margin == -torch.inf


def test_a_model_that_was_saved_and_loaded_can_be_verified(tmp_path: Path):
    c = induction(ties="latest")
    c.compile(rotate=4).save_pretrained(tmp_path)
    assert c.verify(model=HookedTransformer.from_pretrained(tmp_path), progress=False).ok


def test_a_distribution_is_compared_as_a_whole():
    def shares(text: str) -> list[dict[str, float]]:
        followers = [[text[j + 1] for j in range(1, i) if text[j] == word] for i, word in enumerate(text)]
        return [{word: found.count(word) / len(found) for word in found} for found in followers]

    c = induction()
    assert c.verify(every_text("abc", 5), shares, progress=False).ok
    assert not c.verify(
        every_text("abc", 5), lambda text: [{**one, "a": 0.5} for one in shares(text)], progress=False
    ).ok


def test_where_words_tie_any_of_them_will_do():
    report = induction().verify(["!abacac"[:6], "!abaca"], progress=False)
    assert report.ok


def test_samples_are_repeatable_and_other_seeds_are_others():
    c = Circuit("!abc", 9, bos="!")
    c.head(0, "here", qk=match(c.pos, c.pos), ov=copy(c.tok, c.out))
    seen: list[str] = []

    def note(text: str) -> list[str | None]:
        seen.append(text)
        return [None, *text[1:]]

    runs = []
    for seed in (1, 1, 2):
        seen.clear()
        assert c.verify(reference=note, samples=20, seed=seed, progress=False).ok
        runs.append(seen[:20])
    assert runs[0] == runs[1] != runs[2]


def test_texts_of_several_lengths_are_verified_in_their_order():
    texts = ["!a", "!ab", "!b", "!abc", "!cba"]
    report = induction(ties="latest").verify(texts, next_to_latest, batch_size=1, progress=False)
    assert report.ok and report.n_positions == 2 + 3 + 2 + 4 + 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": ["!a"], "length": 2}, "takes inputs, or length and samples, not both"),
        ({"length": 6}, "length = 6 does not fit n_ctx = 6"),
        ({"samples": 0}, "^samples = 0; allowed: 1 or more"),
        ({"samples": 1.5}, "^samples = 1.5; allowed: 1 or more"),
        ({"length": 0}, "^length = 0; allowed: 1 or more"),
        ({"length": "3"}, "^length = '3'; allowed: 1 or more"),
        ({"batch_size": 0}, "^batch_size = 0; allowed: 1 or more"),
        ({"tolerance": float("nan")}, "tolerance = nan; allowed: a finite number above 0"),
        ({"inputs": []}, "there are no inputs"),
        ({"inputs": ["!ab"], "reference": lambda text: [None]}, "answers for 1 positions of '!ab', which has 3"),
        ({"inputs": ["!ab"], "reference": lambda text: None}, "answers '!ab' with None; allowed: a list"),
        ({"inputs": ["!ab"], "reference": lambda text: [None, 3, None]}, "answers 3 at position 1 of '!ab'"),
        (
            {"inputs": ["!ab"], "model": entry("virtual_head").build().compile()},
            "the model has 6 words, the circuit 4",
        ),
        ({"inputs": ["!ab"], "model": one_head("!abc").compile()}, "the model has 1 layers, the circuit 2"),
        (
            {"inputs": ["!ab"], "model": induction("!acb").compile()},
            "the model's words are ! a c b, the circuit",
        ),
        ({"inputs": ["!ab"], "model": "induction"}, "model = 'induction'; allowed: a HookedTransformer"),
        ({"inputs": "!ab"}, "inputs = '!ab'; allowed: a list of texts"),
        ({"reference": "!ab"}, "reference = '!ab'; allowed: a function"),
        ({"samples": 3, "seed": "x"}, "seed = 'x'; allowed: an integer"),
        (
            {"inputs": ["!"], "reference": lambda text: [{"a": math.nan}]},
            "gives 'a' the logit nan at position 0",
        ),
        ({"inputs": ["!"], "reference": lambda text: [{"a": "1"}]}, "gives 'a' the logit '1' at position 0 of '!'"),
        (
            {"inputs": ["!"], "reference": lambda text: [{1: 1.0}]},
            "predicts 1 at position 0 of .*, which is not a word",
        ),
    ],
)
def test_what_cannot_be_verified_is_refused(options, message: str, as_installed: None):
    with pytest.raises(ConfigError, match=message):
        induction().verify(**options, progress=False)


def test_a_model_with_fewer_heads_than_the_circuit_is_refused():
    c = one_head("!abc")
    model = c.compile()
    c.head(0, "another", qk=match(c.pos, c.pos), ov=copy(c.tok, c.out))
    with pytest.raises(ConfigError, match="the model has 1 heads a layer, the circuit 2"):
        c.verify(["!ab"], model=model, progress=False)
    assert one_head("!abc").verify(["!ab"], model=one_head("!abc").compile(n_heads=3), progress=False).ok


def test_a_circuit_without_heads_can_be_verified():
    c = Circuit("!ab", 3, bos="!")
    c.mlp(0, "swap", c.tok, c.out, {"a": "b", "b": "a"})
    swap = {"!": None, "a": "b", "b": "a"}
    for positions in CODES:
        model = c.compile(positions=positions)
        report = c.verify(reference=lambda text: [swap[word] for word in text], model=model, progress=False)
        assert report.ok and report.pattern_errors == {}


def test_a_reference_is_asked_once_for_each_text():
    asked: list[str] = []

    def wrong(text: str) -> list[str | None]:
        asked.append(text)
        return ["c"] * len(text)

    report = induction().verify(["!ab", "!ba"], wrong, progress=False)
    assert asked == ["!ab", "!ba"]
    assert report.worst is not None and report.worst.expected == "c"


def test_more_texts_than_can_be_run_are_refused_unless_sampled():
    c = Circuit("!ab", 40, bos="!")
    c.head(0, "here", qk=match(c.pos, c.pos), ov=copy(c.tok, c.out))
    with pytest.raises(ConfigError, match=r"there are 2\^39 texts of 39 words; give samples="):
        c.verify(progress=False)
    assert c.verify(samples=3, progress=False).ok


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "an empty text"), ("!ad", "unknown word 'd'"), ("ab", "does not start with"), ("!abcabc", "longer than")],
)
def test_texts_that_the_circuit_does_not_take_are_refused(text: str, message: str):
    with pytest.raises(TokenError, match=message):
        induction().verify([text], progress=False)


def test_inputs_that_are_no_texts_are_refused(as_installed: None):
    with pytest.raises(TokenError, match="the inputs have 3 among them; allowed: texts"):
        induction().verify(["!a", 3], progress=False)  # pyright: ignore[reportArgumentType]


def test_a_reference_that_names_an_unknown_word_is_refused():
    with pytest.raises(ConfigError, match="the reference predicts 'x' at position 1 of '!a', which is not a word"):
        induction().verify(["!a"], lambda text: [None, "x"], progress=False)
