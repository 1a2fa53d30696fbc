"""What spaces hold: mixtures, promises, soft heads, what is dead, and thresholds of what may be predicted."""

from typing import Any

import pytest
import torch

from circuits import Circuit, copy, match, shift
from interp import ConfigError


def name_of(function: Any) -> str:
    return function.__name__


def circuit(n_ctx: int = 6, **options: Any) -> Circuit:
    return Circuit("!abc", n_ctx, bos="!", **options)


def mean_matched(c: Circuit) -> None:
    where = c.space("where", c.pos)
    c.head("mean", qk=match(c.tok, c.tok), ov=copy(c.pos, where))
    c.head("reads", qk=match(where, c.pos), ov=copy(c.tok, c.out))


def mean_looked_up(c: Circuit) -> None:
    seen = c.space("seen", c.tok)
    c.head("mean", ov=copy(c.tok, seen))
    c.mlp("reads", seen, c.out, {"a": "b"})


def two_tables(c: Circuit) -> None:
    kind = c.space("kind", ["x"])
    c.mlp("one", c.tok, kind, {"a": "x"})
    c.mlp("two", c.pos, kind, {2: "x"})
    c.mlp("reads", kind, c.out, {"x": "a"})


def two_heads(c: Circuit) -> None:
    seen = c.space("seen", c.tok)
    for n in (1, 2):
        c.head(f"back {n}", qk=match(c.pos, c.pos, shift(n)), ov=copy(c.tok, seen))
    c.head("reads", qk=match(seen, c.tok), ov=copy(c.tok, c.out), ties="latest")


def weighted(c: Circuit) -> None:
    seen = c.space("seen", c.tok)
    c.head("back", qk=match(c.pos, c.pos, shift(1)), ov=0.5 * copy(c.tok, seen))
    c.mlp("reads", seen, c.out, {"a": "b"})


def one_to_many(c: Circuit) -> None:
    seen = c.space("seen", c.tok)
    c.head("back", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, seen, {"a": "bc"[:1], "b": ["a", "c"]}))
    c.mlp("reads", seen, c.out, {"a": "b"})


def soft_matched(c: Circuit) -> None:
    seen = c.space("seen", c.tok)
    c.head("soft", qk=match(c.tok, c.tok), ov=copy(c.tok, seen), attend="soft")
    c.head("reads", qk=match(seen, c.tok), ov=copy(c.tok, c.out), ties="latest")


def number_looked_up(c: Circuit) -> None:
    level = c.space("level", ["x"])
    c.function("square", c.one, level, lambda u: u * u, over=(0, 2))
    c.mlp("reads", level, c.out, {"x": "a"})


def shares_in_a_gate(c: Circuit) -> None:
    seen, share = c.space("seen", ["a"]), c.space("share", ["b"])
    c.head("mean", ov=copy(c.tok, seen, {"a": "a"}) + copy(c.tok, share, {"b": "b"}))
    c.bucket("reads", share, c.out, {"a": 0, "b": 1}, gate=seen)


def out_of_the_gates_reach(c: Circuit) -> None:
    level = c.embed("level", {"a": [9.0], "b": [0.5]})
    c.bucket("reads", level, c.out, {"a": 0, "b": 1}, gate=c.tok["b"])


MIXTURES = {
    mean_matched: "head 'reads' matches space 'where', which may hold shares .*: head 'mean' may copy the mean",
    mean_looked_up: "mlp 'reads' looks up space 'seen', which may hold shares .*: head 'mean' may copy the mean",
    two_tables: "mlp 'reads' looks up space 'kind', .*: mlp 'one' and mlp 'two' may write it twice",
    two_heads: "head 'reads' matches space 'seen', .*: head 'back 1' and head 'back 2' may write it twice",
    weighted: "mlp 'reads' looks up space 'seen', .*: head 'back' writes it with weights",
    one_to_many: "mlp 'reads' looks up space 'seen', .*: head 'back' writes it with weights, or several labels for one",
    soft_matched: "head 'reads' matches space 'seen', .*: head 'soft' is soft",
    number_looked_up: "mlp 'reads' looks up space 'level', .*: function 'square' writes it",
    shares_in_a_gate: "bucket 'reads' has its gate in space 'seen', which may hold shares",
    out_of_the_gates_reach: "bucket 'reads': the number it reads may be 9, and its gate keeps it shut below 2.25 only",
}


@pytest.mark.parametrize("declare", MIXTURES, ids=name_of)
def test_a_mixture_that_is_matched_or_looked_up_is_refused_with_who_reads_and_who_writes_it(
    declare: Any,
):
    c = circuit()
    declare(c)
    for use in (c.compile, lambda: c.interpret("!ab"), lambda: c.verify(length=2, progress=False)):
        with pytest.raises(ConfigError, match=MIXTURES[declare]):
            use()


def same_word(c: Circuit) -> None:
    """The mean is of the same word, wherever it stands."""
    seen = c.space("seen", c.tok)
    c.head("same", qk=match(c.tok, c.tok) - 2 * match(c.pos, c.pos), ov=copy(c.tok, seen))
    c.mlp("reads", seen, c.out, {word: word for word in "abc"})


def one_position(c: Circuit) -> None:
    """Without a sink, the first position has itself alone to look at."""
    seen = c.space("seen", c.tok)
    c.head("back", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, seen), sink=0)
    c.mlp("reads", seen, c.out, {word: word for word in "abc"})


def gates_apart(c: Circuit) -> None:
    kind = c.space("kind", ["x", "y"])
    c.mlp("one", c.tok, kind, {"a": "x"})
    c.mlp("two", (c.tok, c.pos), kind, {("b", i): "y" for i in range(6)})
    c.bucket("three", c.one, kind, {"x": 0, "y": 1}, gate=c.tok["c"])
    c.mlp("reads", kind, c.out, {"x": "a", "y": "b"})


def one_key(c: Circuit) -> None:
    where = c.space("where", c.pos)
    c.head("latest", qk=match(c.tok, c.tok), ov=copy(c.pos, where), ties="latest")
    c.head("reads", qk=match(where, c.pos), ov=copy(c.tok, c.out))


@pytest.mark.parametrize("declare", [same_word, one_position, gates_apart, one_key], ids=name_of)
def test_what_is_one_label_for_sure_is_not_refused(declare: Any):
    c = circuit()
    declare(c)
    assert c.verify(length=5, progress=False).ok


def test_without_a_start_in_texts_of_two_directions_a_positional_head_may_mix():
    c = Circuit("abc", 4, attention_dir="bidirectional")
    seen = c.space("seen", c.tok)
    c.head("ahead", qk=match(c.pos, c.pos, shift(-1)), ov=copy(c.tok, seen))  # the last position has nothing ahead
    c.mlp("reads", seen, c.out, {"a": "b"})
    with pytest.raises(ConfigError, match="mlp 'reads' looks up space 'seen', which may hold shares"):
        c.compile()


# ---------------------------------------------------------------------------------------------- promises


def promised(holds: Any = "one") -> Circuit:
    c = circuit()
    where = c.space("where", c.pos, holds=holds)
    c.head("mean", qk=match(c.tok, c.tok), ov=copy(c.pos, where))
    c.head("reads", qk=match(where, c.pos), ov=copy(c.tok, c.out))
    return c


def test_a_promise_is_taken_and_verification_holds_the_circuit_to_it():
    c = promised()
    report = c.verify(["!abc", "!cab"], progress=False)
    assert report.ok and report.broken == ()
    report = c.verify(["!abc", "!abab"], progress=False)
    assert not report.ok
    assert (
        "space 'where' is declared with holds='one', and holds something else at position 3 of '!abab'" in report.broken
    )
    assert "broken" in repr(report) and "broken" in repr(c.interpret("!abab"))


@pytest.mark.usefixtures("as_installed")
def test_a_promise_that_is_no_word_is_refused():
    with pytest.raises(ConfigError, match="space 's': holds = 'two'; allowed: 'one', 'shares', 'numbers'"):
        circuit().space("s", ["x"], holds="two")  # pyright: ignore[reportArgumentType]


def test_a_head_can_match_shares_where_they_are_declared():
    """The first position where the most a's were before it: the share of a among all that is seen."""
    c = circuit(6)
    share = c.space("share", ["a"], holds="shares")
    c.head("mean", ov=copy(c.tok, share, {"a": "a"}))
    c.head("most", qk=match(c.one, share, {"1": "a"}), ov=copy(c.tok, c.out), ties="first")

    def reference(text: str) -> list[str | None]:
        shares = [text[: i + 1].count("a") / (i + 1) for i in range(len(text))]
        best = [max(range(i + 1), key=lambda j: (shares[j], -j)) for i in range(len(text))]
        return [text[j] if shares[j] else None for j in best]

    for length in (1, 3, 5):
        assert c.verify(length=length, reference=reference, progress=False).ok


def test_a_declared_gap_lets_a_head_match_what_may_be_a_mixture_and_verification_says_when_it_is_too_near():
    c = circuit()
    where = c.space("where", c.pos)
    c.head("mean", qk=match(c.tok, c.tok), ov=copy(c.pos, where))
    c.head("reads", qk=match(where, c.pos), ov=copy(c.tok, c.out), gap=0.5, sink=0.25)
    assert c.verify(["!abc", "!cab"], progress=False).ok
    report = c.verify(["!aaab"], progress=False)
    assert not report.ok and any("head 'reads': at position" in one for one in report.broken)


# ---------------------------------------------------------------------------------------------- soft heads


@pytest.mark.parametrize("sharp", [None, 0.3, 4.0])
def test_a_soft_head_is_the_softmax_that_was_declared_for_the_interpreter_as_for_the_model(sharp: float | None):
    c = circuit(5)
    form = 1.5 * match(c.tok, c.tok) - 0.5 * match(c.pos, c.pos, shift(1))
    c.head("soft", qk=form, ov=copy(c.tok, c.out), attend="soft", sharp=sharp, sink=0.7)
    report = c.verify(length=4, progress=False)
    assert report.ok and report.pattern_error < 1e-6
    tokens = c.tokens("!abca")[0]
    scores = torch.tensor([[1.5 * (q == k) - 0.5 * (i - 1 == j) + 0.7 * (j == 0) for j, k in enumerate(tokens.tolist())]
                           for i, q in enumerate(tokens.tolist())], dtype=torch.float64)  # fmt: skip
    scores[0, 0] = scores[0, 0]
    pattern = (scores * (sharp or 1)).masked_fill(~torch.ones(5, 5).tril().bool(), -torch.inf).softmax(-1)
    assert torch.allclose(c.interpret("!abca").patterns["soft"][0], pattern)


@pytest.mark.parametrize("option", [{"ties": "latest"}, {"recency": 0.1}, {"gap": 0.5}])
@pytest.mark.usefixtures("as_installed")
def test_a_soft_head_has_neither_ties_recency_nor_gap(option: dict[str, Any]):
    c = circuit()
    with pytest.raises(ConfigError, match=f"head 's': {next(iter(option))} = .* contradicts attend = 'soft'"):
        c.head("s", qk=match(c.tok, c.tok), ov=copy(c.tok, c.out), attend="soft", **option)
    with pytest.raises(ConfigError, match="head 's': attend = 'sharp'; allowed: 'hard', 'soft'"):
        c.head("s", qk=match(c.tok, c.tok), ov=copy(c.tok, c.out), attend="sharp")  # pyright: ignore[reportArgumentType]


def test_a_soft_head_of_shifts_needs_one_hot_positions():
    c = circuit()
    c.head("soft", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, c.out), attend="soft", sharp=2)
    assert c.verify(length=3, progress=False).ok
    with pytest.raises(ConfigError, match=r"head 'soft' is soft, and in the position code 'rotary' .* use 'onehot'"):
        c.compile(positions="rotary")


# ---------------------------------------------------------------------------------------------- what is dead


def unread(c: Circuit) -> None:
    c.head("back", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, c.space("prev", c.tok)))


def unused(c: Circuit) -> None:
    c.space("never", ["x"])


def never_fires(c: Circuit) -> None:
    kind = c.space("kind", ["x", "y"])
    c.mlp("one", c.tok, kind, {"a": "x"})
    c.mlp("two", kind, c.out, {"x": "a", "y": "b"})


def after_the_last_read(c: Circuit) -> None:
    prev = c.space("prev", c.tok)
    c.head(0, "first", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
    c.head(1, "reads", qk=match(c.tok, prev), ov=copy(c.tok, c.out), ties="latest")
    c.head(1, "late", qk=match(c.pos, c.pos, shift(2)), ov=copy(c.tok, prev))


def copies_nothing(c: Circuit) -> None:
    c.head("idle", qk=match(c.tok, c.tok))


def embedded_and_unread(c: Circuit) -> None:
    c.embed("kind", {"a": "x"})


DEAD = {
    unread: "space 'prev' is read by nothing, though head 'back' writes it; .*c.readout",
    unused: "space 'never' is read by nothing; leave it out",
    never_fires: "mlp 'two': entry 'y' never fires, because space 'kind' holds x there; leave it out, or .* a function",
    after_the_last_read: "head 'late' in layer 1 writes prev, which nothing reads after it; give it an earlier layer",
    copies_nothing: "head 'idle' copies nothing; give it ov=",
    embedded_and_unread: "space 'kind' is read by nothing",
}


@pytest.mark.parametrize("declare", DEAD, ids=name_of)
def test_what_does_nothing_is_refused_by_name_when_it_is_compiled(declare: Any):
    c = circuit()
    c.head("here", qk=match(c.pos, c.pos), ov=copy(c.tok, c.out))
    declare(c)
    with pytest.raises(ConfigError, match=DEAD[declare]):
        c.compile()
    assert c.interpret("!ab").predictions  # looking at half of a circuit is no mistake


def test_a_report_says_what_never_happened():
    c = circuit()
    c.head("second", qk=match(c.pos, c.pos, {5: 4}), ov=copy(c.tok, c.out))
    c.mlp("table", c.tok, c.out, dict.fromkeys("abc", "a"))
    report = c.verify(["!abb", "!baa"], progress=False)
    assert report.ok
    assert report.dead == (
        "head 'second' never looks elsewhere than at the start",
        "mlp 'table': 1 of 3 entries never fire, such as 'c'",
    )
    assert "dead" in repr(report) and c.verify(length=5, progress=False).dead == ()


# ---------------------------------------------------------------------------------------------- thresholds


def test_a_mean_of_a_mean_is_heard_and_a_small_weight_of_one_word_lowers_no_other():
    c = circuit(6)
    seen = c.space("seen", c.tok)
    c.head("mean", ov=copy(c.tok, seen, drop="!"))
    c.head("mean of it", ov=copy(seen, c.out, {"a": "a"}))
    c.mlp("small", c.tok, c.out, {"b": "b"})
    report = c.verify(length=5, progress=False)
    assert report.ok and report.n_symbolic == report.n_positions
    said = c.interpret("!abbbb").predictions[0]
    assert (
        said[1] == "a" and said[-1] == "b" and c.interpret("!accc").predictions[0][-1] == "a"
    )  # (1/4 + 1/3 + 1/2) / 5

    def weights(word: str, other: str) -> float:
        return {("a", "a"): 1.0, ("b", "b"): 1e-3}.get((word, other), 0.0)

    c = circuit()
    c.head("back", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, c.out, weights))
    assert c.compile().report.nothing_below == pytest.approx((float("inf"), 0.499, 4.99e-4, float("inf")))
    assert c.interpret("!ab").predictions == [[None, None, "a"]] and c.interpret("!ba").predictions[0][-1] == "b"


def test_rounding_does_not_decide_whether_half_a_write_is_heard():
    c = circuit()
    here = match(c.pos, c.pos)
    c.head("half", qk=here, ov=1.5 * copy(c.tok, c.out) - copy(c.tok, c.out))
    for dtype in (torch.float64, torch.float32):
        assert c.compile(dtype=dtype).predict("!abc") == c.interpret("!abc").predictions[0] == [None, "a", "b", "c"]


def test_one_threshold_can_be_declared_for_all_words():
    c = circuit(nothing_below=0.75)
    c.head("mean", ov=copy(c.tok, c.out, drop="!"))
    assert c.interpret("!aab").predictions == [[None, None, None, None]]
    c = circuit(nothing_below=0.3)
    c.head("mean", ov=copy(c.tok, c.out, drop="!"))
    assert c.interpret("!aab").predictions == [[None, "a", "a", "a"]]
    assert c.verify(length=4, progress=False).ok
    with pytest.raises(ConfigError, match="nothing_below = 0; allowed"):
        circuit(nothing_below=0)


def test_a_word_that_only_vectors_write_has_no_threshold():
    c = circuit()
    x, mean = c.vectors("x", 1), c.readout("mean", ["x"])
    c.head("mean", ov=0.5 * copy(x, mean, {0: "x"}))
    c.number(c.out["a"], 0.1 * mean["x"])
    model = c.compile()
    assert model.report.nothing_below == (float("inf"),) * 4
    assert model.ends.thresholds["mean"].tolist() == [float("inf")]
