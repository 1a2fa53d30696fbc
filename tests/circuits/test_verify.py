"""Verification: what it counts, what it finds, and what it refuses."""

import copy as copying
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_circuits import induction

from circuits import Circuit, copy, match, shift
from circuits.compiler import CODES
from circuits.gallery import entry
from circuits.verify import every_text
from circuits.verify.limits import duration
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


def test_a_report_says_that_right_is_what_was_declared_where_no_reference_was_given():
    c = Circuit("!abc", 6, bos="!")
    c.head(0, "two back", qk=match(c.pos, c.pos, shift(2)), ov=copy(c.tok, c.out), sink=0)  # an average at the start
    meant = c.verify(length=3, reference=lambda text: [None, None, None, *text[1:-2]], progress=False)
    declared = c.verify(length=3, progress=False)
    assert declared.ok and not declared.has_reference and "no reference was given" in repr(declared)
    assert meant.has_reference and not meant.ok and "no reference" not in repr(meant)


def test_all_texts_are_run_by_default():
    report = induction(ties="latest").verify(progress=False)
    assert (report.n_inputs, report.n_positions) == (3**5, 6 * 3**5)
    assert report.ok and report.accuracy == report.symbolic_accuracy == 1


def test_a_reference_is_compared_with_model_and_interpreter():
    report = induction(ties="latest").verify(every_text("abc", 4), next_to_latest, progress=False)
    assert report.ok and report.n_inputs == 3**4
    assert report.margin == pytest.approx(0.499, abs=1e-5)
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
        assert c.verify(reference=note, sample=20, seed=seed, progress=False).ok
        runs.append(seen[:20])
    assert runs[0] == runs[1] != runs[2]


def test_texts_of_several_lengths_are_verified_in_their_order():
    texts = ["!a", "!ab", "!b", "!abc", "!cba"]
    report = induction(ties="latest").verify(texts, next_to_latest, batch_size=1, progress=False)
    assert report.ok and report.n_positions == 2 + 3 + 2 + 4 + 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": ["!a"], "length": 2}, "takes inputs or length, not both"),
        ({"length": 6}, "length = 6 does not fit n_ctx = 6"),
        ({"sample": 0}, "^sample = 0; allowed: 1 or more"),
        ({"sample": 1.5}, "^sample = 1.5; allowed: 1 or more"),
        ({"length": 0}, "^length = 0; allowed: 1 or more"),
        ({"length": "3"}, "^length = '3'; allowed: 1 or more"),
        ({"batch_size": 0}, "^batch_size = 0; allowed: 1 or more"),
        ({"tolerance": float("nan")}, "tolerance = nan; allowed: a finite number above 0"),
        ({"inputs": []}, "there are no inputs"),
        ({"inputs": ["!ab"], "reference": lambda text: [None]}, "answers for 1 positions of '!ab', which has 3"),
        ({"inputs": ["!ab"], "reference": lambda text: None}, "answers '!ab' with None; allowed: a list"),
        ({"inputs": ["!ab"], "reference": lambda text: [None, 3, None]}, "predicts 3 at position 1 of '!ab'"),
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
        ({"sample": 3, "seed": "x"}, "seed = 'x'; allowed: 0 to "),
        (
            {"inputs": ["!"], "reference": lambda text: [{"a": math.nan}]},
            "gives 'a' the logit nan at position 0",
        ),
        ({"inputs": ["!"], "reference": lambda text: [{"a": "1"}]}, "gives 'a' the logit '1' at position 0 of '!'"),
        (
            {"inputs": ["!"], "reference": lambda text: [{1: 1.0}]},
            "predicts 1 at position 0 of .*; allowed: a word of the circuit",
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


WORDS_8 = "!abcdefgh"


@pytest.mark.parametrize("n_words", [8, 39, 200])
def test_more_texts_than_a_million_are_refused_with_their_number_the_time_and_ways_out(n_words: int):
    c = Circuit(WORDS_8, 1 + n_words, bos="!")
    c.head(0, "here", qk=match(c.pos, c.pos), ov=copy(c.tok, c.out))
    many = {8: "16,777,216", 39: r"about 10\^35", 200: r"about 10\^180"}[n_words]
    ways = "give sample=10000 for a random sample, or a smaller length="
    ways += ", or limit=16777216 to run them all$" if n_words == 8 else "$"
    with pytest.raises(ConfigError, match=f"there are {many} inputs, which would take about [0-9.,^]+ [a-z]+; {ways}"):
        c.verify(progress=False)
    report = c.verify(sample=3, progress=False)  # each way out is one
    assert report.ok and (report.n_inputs, report.sampled_from) == (3, 8**n_words)
    assert c.verify(length=2, progress=False).n_inputs == 64


def test_the_limit_is_what_the_caller_says():
    c = one_head("!ab")
    with pytest.raises(ConfigError, match=r"there are 32 inputs, .* or limit=32 to run them all"):
        c.verify(limit=31, progress=False)
    report = c.verify(limit=32, progress=False)
    assert report.n_inputs == 32 and report.sampled_from is None
    with pytest.raises(
        ConfigError, match=r"there are 31 inputs, .*; give sample=30 for a random sample, or limit=31 to"
    ):
        c.verify(every_text("ab", 5)[:31], limit=30, progress=False)
    with pytest.raises(ConfigError, match=r"there are 31 inputs"):
        c.verify(sample=31, limit=30, progress=False)


def test_inputs_that_would_take_more_than_an_hour_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("circuits.verify.asked.LONG", 0.0)
    monkeypatch.setattr("circuits.verify.asked.TRIAL", 4)
    c, asked = one_head("!ab"), []
    with pytest.raises(ConfigError, match=r"there are 32 inputs, which would take about .* limit=32"):
        c.verify(reference=lambda text: asked.append(text) or [None, *text[1:]], progress=False)
    assert len(asked) == 8  # told after the second batch
    assert c.verify(limit=32, progress=False).ok  # asked for
    assert c.verify(sample=4, progress=False).ok


def test_inputs_without_a_length_are_counted_as_far_as_the_limit():
    texts = every_text("ab", 3)
    assert one_head("!ab").verify(iter(texts), limit=8, progress=False).n_inputs == 8
    with pytest.raises(ConfigError, match=r"more than 7 inputs, .* more than .*; give a list for inputs= and sample=7"):
        one_head("!ab").verify(iter(texts), limit=7, progress=False)
    assert one_head("!ab").verify(set(texts), sample=5, progress=False).sampled_from == 8
    assert one_head("!ab").verify(iter(texts), sample=5, progress=False).sampled_from == 8


def test_a_sample_is_drawn_without_replacement_and_in_order():
    seen: list[str] = []
    texts = ["!" + word * n for word in "ab" for n in range(1, 6)]
    for size in (1, 7, 10, 11):
        seen.clear()
        report = one_head("!ab").verify(
            texts, lambda text: seen.append(text) or [None, *text[1:]], sample=size, seed=size, progress=False
        )
        assert report.ok and report.n_inputs == len(set(seen)) == min(size, 10)
        assert report.sampled_from == (10 if size < 10 else None)
        assert seen == sorted(seen, key=texts.index)


def test_every_text_is_written_when_it_is_asked_for():
    texts = every_text("abc", 3)
    assert len(texts) == 27 and list(texts) == [texts[i] for i in range(27)] == texts[:]
    assert list(texts)[:4] == ["!aaa", "!aab", "!aac", "!aba"] and texts[-1] == "!ccc"
    assert texts[20:2:-7] == list(texts)[20:2:-7]
    assert "!abc" in texts and "!abd" not in texts
    with pytest.raises(IndexError):
        texts[27]
    assert list(every_text("ab", 0)) == ["!"] and repr(every_text("ab", 70)) == "<about 10^21 texts of 70 words>"
    with pytest.raises(ConfigError, match="length = -1; allowed: 0 or more"):
        every_text("ab", -1)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "0.1 seconds"), (1.26, "1.3 seconds"), (89.0, "89 seconds"), (90.0, "1.5 minutes"), (3600.0, "60 minutes"),
     (7200.0, "2 hours"), (1e6, "12 days"), (5e9, "159 years"), (1e30, r"10^22 years")],
)  # fmt: skip
def test_a_time_is_said_in_words(seconds: float, said: str):
    assert duration(seconds) == said


def words_of(n: int) -> list[str]:
    return ["!", *(f"a-rather-long-word-{i}" for i in range(n))]


def many_heads() -> Circuit:
    """A circuit with long words, long names and many heads, of which the prediction is a mixture."""
    c = Circuit(words_of(12), 12, bos="!")
    for i in range(14):
        c.head(0, f"a head with a long name, number {i}", qk=match(c.pos, c.pos), ov=copy(c.tok, c.out))
    return c


def test_a_report_and_an_interpretation_fit_a_terminal():
    c = many_heads()
    mixture = dict.fromkeys(words_of(12), 1.0)
    for reference in (None, lambda text: [mixture] * 12):
        report = c.verify(reference=reference, sample=40, progress=False)
        said = repr(report).splitlines()
        assert max(map(len, said)) <= 100 and len(said) == 6
        assert ("ok" in said[0]) == report.ok
        assert f"random sample of 40 of {12**11:,} inputs, 480 positions" in said[0]
        assert len(report.pattern_errors) == 14  # all is still there
        assert len(repr(report.worst)) <= 100
    for n in (1, 40):
        made = c.interpret([" ".join(words_of(11))] * n)
        said = repr(made).splitlines()
        assert max(map(len, said)) <= 100 and len(said) <= 13
        assert f"{n} text" in said[0] and ("... and 32 more" in said[-1]) == (n == 40)
        assert len(made.predictions) == n
    assert max(map(len, repr(c.compile().report).splitlines())) <= 100
    assert len(repr(c)) <= 400 and len(repr(entry("addition_2").build().parts)) < 2000


def test_an_interpretation_names_the_nearest_space():
    made = induction().interpret("!ab")
    assert made.space("prev").shape == (1, 3, 4)
    with pytest.raises(ConfigError, match=r"no space 'prv' is in use; there are .*did you mean 'prev'"):
        made.space("prv")


def through_pickle(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("copied", [through_pickle, copying.deepcopy])
def test_a_copy_of_anything_works_as_the_original(copied: Callable[[Any], Any]):
    c = copied(induction(ties="latest"))
    c.head(1, "another", qk=match(c.pos, c.pos), ov=0.25 * copy(c.tok, c.out))
    assert c.verify(length=3, progress=False).ok and c.edges().number_of_edges() > 0
    model = copied(c.compile(rotate=1, norm="LN"))
    assert model.predict("!abab") == c.interpret("!abab").predictions[0] == copied(c).compile().predict("!abab")
    assert copied(model.report) == model.report and model.circuit.n_layers == 2
    report = copied(c.verify(length=2, sample=4, model=model, progress=False))
    assert report.ok and report.sampled_from == 9 and report == copied(report) and repr(report) == repr(copied(report))
    made, again = c.interpret("!abab"), copied(c.interpret("!abab"))
    assert repr(made) == repr(again) and torch.equal(made.space("prev"), again.space("prev"))
    texts = copied(every_text("ab", 2))
    assert list(texts) == list(every_text("ab", 2))
    assert copied(c.parts) and repr(copied(c.parts)) == repr(c.parts)
    assert copied(entry("skip_1")).build().compile().predict("!ab") == entry("skip_1").build().compile().predict("!ab")
    assert copied(c.compile(positions="quadratic").report).n_coordinates > 0


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
    with pytest.raises(
        ConfigError, match="the reference predicts 'x' at position 1 of '!a'; allowed: a word of the circuit"
    ):
        induction().verify(["!a"], lambda text: [None, "x"], progress=False)
