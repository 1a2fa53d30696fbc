"""Sinks and recency: where a head rests that finds nothing, and which of several matches it takes."""

import itertools
from typing import Any

import pytest
from grid import random_tensor
from small_circuits import induction

from circuits import Circuit, copy, match, shift
from circuits.language import Ties
from interp import ConfigError, TokenError


def test_a_copy_of_nothing_but_the_start_is_refused_where_the_sink_would_drop_it():
    c = Circuit("!ab", 4, bos="!")
    share = c.space("share", ["start"])
    message = r"head 'h': copy\(tok, share\) copies nothing but '!'.*say copy\(..., drop=\(\)\)"
    with pytest.raises(ConfigError, match=message):
        c.head(0, "h", match(c.tok, c.tok), copy(c.tok, share, {"!": "start"}), sink=0.5)
    assert c.head(0, "h", match(c.tok, c.tok), copy(c.tok, share, {"!": "start"}, drop=()), sink=0.5).ov.terms


def test_a_sink_needs_a_start_of_the_text():
    c = Circuit("ab", 4)
    with pytest.raises(ConfigError, match=r"head 'h': sink = 0.5 needs the start of the text; give the circuit bos="):
        c.head(0, "h", match(c.tok, c.tok), sink=0.5)
    assert c.head(0, "h", match(c.tok, c.tok)).sink == 0


def test_a_sink_whose_place_is_not_known_must_be_declared():
    c = Circuit("!ab", 200, bos="!")
    scores = match(c.pos, c.pos, random_tensor(200, 200))
    with pytest.raises(ConfigError, match=r"head 'h': its scores are too many .*; declare gap= or sink="):
        c.head(0, "h", scores, sharp=1.0)
    assert c.head(0, "h", scores, sharp=1.0, sink=0).sink == 0
    assert c.head(0, "i", scores, gap=0.5).sink == 0.25


def test_without_a_sink_a_head_that_finds_nothing_averages_over_what_it_sees():
    c = Circuit("!ab", 4, bos="!")
    prev = c.space("prev", c.tok)
    c.head(0, "previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev), sink=0)
    c.head(1, "induction", qk=match(c.tok, prev), ov=copy(c.tok, c.out), sink=0)
    seen = c.interpret("!ab")
    assert seen.patterns["induction"][0].tolist() == [[1, 0, 0], [0.5, 0.5, 0], pytest.approx([1 / 3] * 3)]


def test_with_a_sink_it_rests_at_the_start_and_copies_nothing_from_there():
    c = induction()
    seen = c.interpret("!abc")
    assert seen.patterns["induction"][0, 1:, 0].tolist() == [1, 1, 1]
    assert not seen.logits.any()
    assert seen.space("prev")[0, 2].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("ties", ["latest", "first"])
def test_a_sink_within_the_reach_of_recency_is_refused_and_beyond_it_the_model_does_as_declared(ties: Ties):
    texts = ["!" + "".join(word) for n in range(1, 6) for word in itertools.product("abc", repeat=n)]
    refused = set()
    for sink in (0.1, 0.25, 0.32, 0.35, 0.5, 0.65, 0.68, 0.9, 0.95, 1.3, 1.5):
        c = Circuit("abc!", n_ctx=6, bos="!")
        ask: dict[str, Any] = {"qk": match(c.tok, c.tok, {"a": "b"}), "ov": copy(c.tok, c.out), "ties": ties}
        try:
            c.head(0, "same", **ask, sink=sink)
        except ConfigError as error:
            assert f"head 'same': sink = {sink:g} is within reach of recency" in str(error)
            refused.add(sink)
            continue
        report = c.verify(texts, progress=False)
        assert report.ok and report.pattern_error < 1e-5, (sink, report)
    # A key gains .4 x 5 / 6 by its place, or loses it: up from the scores 0 and 1, or down from 1.
    assert refused == ({0.1, 0.25, 0.32, 1.3} if ties == "latest" else {0.68, 0.9, 0.95})


def test_a_head_whose_scores_are_all_zero_attends_to_all_alike_or_rests_at_its_sink():
    resting: list[dict[str, Any]] = [{}, {"sink": 0}, {"sink": 0, "ties": "first"}, {"ties": "latest"}]
    for nothing in ("times zero", "cancelled", "shifted out"):
        for options in resting:
            c = Circuit("abc!", n_ctx=5, bos="!")
            same = match(c.tok, c.tok)
            forms = {"times zero": 0 * same, "cancelled": same - same, "shifted out": match(c.pos, c.pos, shift(7))}
            c.head(0, "blind", qk=forms[nothing], ov=copy(c.tok, c.out), **options)
            report = c.verify(["!abca", "!b", "!"], progress=False)
            assert report.ok and report.pattern_error < 1e-5, (nothing, options, report)


def test_a_start_that_comes_again_is_refused_where_a_head_rests_at_it():
    c = Circuit("abc!", n_ctx=6, bos="!")
    c.head(0, "same", qk=match(c.tok, c.tok), ov=copy(c.tok, c.out, drop="!"), sink=0)
    c.interpret("!ab!a")
    c.head(0, "other", qk=match(c.tok, c.tok, {"a": "b"}), ov=copy(c.tok, c.out))
    for ask in (c.interpret, lambda text: c.verify([text], progress=False)):
        with pytest.raises(TokenError, match="'!ab!a' has its start '!' again at place 3, and head 'other' rests"):
            ask("!ab!a")


def test_a_sink_where_the_start_matches_by_itself_is_refused_if_recency_reaches_it():
    c = Circuit("!abcd", 5, bos="!")
    kind = c.space("kind", ["n"])
    c.mlp("kinds", c.pos, kind, {0: "n", 3: "n", 4: "n"})
    scores = -1 * match(kind, kind) + 0.6 * match(c.pos, c.pos, shift(1))
    said = "head 'first': sink = 0.95, with the -1 that the start scores by itself, is within reach of recency: "
    with pytest.raises(ConfigError, match=said + "a key that scores 0, above the sink, gets -0.128 by its place"):
        c.head("first", qk=scores, ov=copy(c.tok, c.out), sink=0.95, ties="first")
    c.head("default", qk=scores, ov=copy(c.tok, c.out), ties="first")
    assert c.verify(length=4, sample=200, progress=False).ok


def test_a_sink_by_default_lies_in_the_middle_of_a_declared_gap_and_is_as_sharp():
    for ties in ("mean", "latest", "first"):
        c = Circuit("!ab", 5, bos="!")
        head = c.head("same", qk=0.05 * match(c.tok, c.tok), ov=copy(c.tok, c.out), gap=0.05, ties=ties)
        assert head.gap == pytest.approx(0.025 if ties == "mean" else 0.02 / 5)
        report = c.verify(progress=False)
        assert report.ok and report.pattern_error < 1e-5


def test_a_sink_that_is_as_heavy_as_a_match_ties_with_it():
    asked: dict[Ties, str | None] = {"latest": "b", "first": None}
    for ties, chosen in asked.items():
        c = Circuit("!abc", 4, bos="!")
        c.head("same", qk=match(c.tok, c.tok, {"a": "b"}), ov=copy(c.tok, c.out), sink=1, ties=ties)
        report = c.verify(progress=False)
        assert report.ok and report.pattern_error < 1e-5
        assert c.interpret("!ba").predictions[0][2] == chosen


def test_the_latest_of_keys_whose_scores_are_not_known_needs_a_gap():
    c = Circuit("abcd", 2)
    seen = c.space("seen", ["n"], holds="shares")
    c.head("mean", ov=copy(c.tok, seen, {"b": "n", "c": "n"}))
    scores = match(c.pos, c.pos, shift(1)) - match(seen, seen)
    for recency in (None, 0.1):
        with pytest.raises(
            ConfigError, match=r"head 'last': the gap between its scores, .* is not known.*declare gap="
        ):
            c.head("last", qk=scores, ov=copy(c.tok, c.out), ties="latest", recency=recency)
    assert c.head("first", qk=scores, ov=copy(c.tok, c.out), ties="first", gap=0.25).gap == pytest.approx(0.05)
