"""Declarations with odd types, odd names and odd moments: each means what it says, or is an error that names it."""

import copy as copying
import pickle
import re
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch

from circuits import Circuit, copy, match, shift
from circuits.compiler import Distract, Noise
from interp.errors import ConfigError, InterpError, ShapeError


def start(n_ctx: int = 5) -> Circuit:
    return Circuit("!abc", n_ctx, bos="!")


@pytest.mark.parametrize("one", [1, np.int64(1), np.uint8(1), torch.tensor(1)], ids=repr)
@pytest.mark.usefixtures("as_installed")
def test_integers_of_every_kind_are_the_same_label(one: Any):
    c, zero, five = start(), cast(Any, np.int64(0)), cast(Any, np.float32(5))
    number = c.readout("number", [zero, one, 2])
    assert number.labels == (0, 1, 2) and all(type(label) is int for label in number.labels)
    mark = c.space("mark", [0, 1])
    c.mlp(zero, "mark", c.pos, mark, {one: one, 2: 0})
    c.mlp("says", mark, [number, c.out], {one: (one, "a")}, otherwise=(0, "b"))
    c.bucket("again", c.one, number, {2: 0, one: five}, gate=mark[one])
    report = c.verify(length=2, reference=lambda text: ["b", "a", "b"], progress=False)
    assert report.ok, report
    c.verify(length=2, reference=lambda text: [zero, ..., 0], readout="number", progress=False)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda c: c.mlp("t", c.pos, c.out, {True: "a"}), "mlp 't', entry True: space 'pos' has no label True"),
        (lambda c: c.mlp("t", c.pos, c.out, {1.0: "a"}), "mlp 't', entry 1.0: space 'pos' has no label 1.0"),
        (lambda c: c.mlp("t", c.pos, c.pos, lambda i: i > 2), "mlp 't', entry 0: space 'pos' has no label False"),
        (lambda c: c.mlp("t", None, c.out, {"a": "a"}), "mlp 't': None is not a space"),
        (lambda c: c.mlp("t", c.tok, 3, {"a": "a"}), "mlp 't': 3 is not a space"),
        (lambda c: c.mlp("t", c.tok, [], {"a": ()}), "mlp 't': it writes no space"),
        (lambda c: c.bucket("b", c.one, c.out, {"a": 0}, gate=[]), r"bucket 'b': gate = \[\]; allowed: a space"),
        (lambda c: c.bucket("b", c.one, c.out, {"a": 0}, gate=3), "bucket 'b': gate = 3; allowed"),
        (lambda c: c.bucket("b", c.one, c.out, {"a": 0}, gate="tok"), "bucket 'b': gate = 'tok'; allowed"),
        (lambda c: c.bucket("b", c.one, c.out, {"a": 0}, gate=[c.tok]), r"bucket 'b': gate = \[Space.*; allowed"),
        (lambda c: c.mlp("t", c.tok, [c.out, c.out], {"a": ("a", "b")}), "mlp 't': it writes space 'out' twice"),
        (lambda c: c.mlp("t", c.tok, c.one, {"a": "1"}), "mlp 't' writes space 'one', which only the embedding may"),
        (lambda c: c.head("h", ov=copy(c.tok, c.pos, {"a": 1})), "head 'h' writes space 'pos', which only the embed"),
        (lambda c: c.head("h", 1e-6 * match(c.tok, c.tok)), "head 'h': its scores may differ by 5e-07 only"),
        (lambda c: c.head("h", match(c.tok, c.tok), sink=1 + 1e-7), "head 'h': its scores may differ by 1e-07 only"),
        (lambda c: c.number(c.out["a"], 0 * c.pos[1]), r"number out\['a'\]: reads = 0 \* pos\[1\]; allowed: factors"),
        (lambda c: c.space("s", 3), "space 's': labels = 3; allowed: words and integers, or a space"),
        (lambda c: c.bucket("b", c.one, c.out, {"a": 1, "b": 1 + 1e-7}), "'a' and 'b' differ by 1e-07 only"),
        (lambda c: c.readout("unembed", c.tok), "readout 'unembed': the name is taken"),
        (lambda c: c.count("n", match(c.one, c.embed("e", dict.fromkeys("!a", "x")), {"1": "x"}), 3),
         "count 'n': .* also matches the start, '!', which does not count; leave it out of 'e'"),
    ],
)  # fmt: skip
def test_what_a_part_cannot_take_is_an_error_that_names_it(
    declare: Callable[[Circuit], None], message: str, as_installed: None
):
    with pytest.raises(ConfigError, match=message):
        declare(start())


def test_a_gate_may_lie_in_several_spaces_if_one_of_them_is_open_at_a_time():
    def gated(table: dict[str, str]) -> Circuit:
        c = start()
        kind = c.space("kind", ["x", "y"])
        c.mlp("kind", c.tok, kind, table)
        c.bucket("says", c.one, c.out, {"a": 0, "b": 1, "c": 2}, gate=[c.tok["a"], c.tok["a"], kind["x"]])
        return c

    report = gated({"b": "x", "c": "y"}).verify(
        reference=lambda text: ["b" if word in "ab" else None for word in text], progress=False
    )
    assert report.ok, report
    with pytest.raises(ConfigError, match="bucket 'says' has its gate in spaces 'tok' and 'kind', and both may be"):
        gated({"a": "x", "c": "y"}).compile()


@pytest.mark.parametrize("what", ["words", "positions", "both"])
def test_a_count_leaves_out_the_start_also_where_that_would_match(what: str):
    c = start()
    words, earlier = match(c.one, c.tok, {"1": list("!ab")}), match(c.pos, c.pos, lambda query, key: key < query)
    n = c.count("n", {"words": words, "positions": earlier, "both": words + earlier}[what], up_to=4, gate=c.one)
    kind = c.readout("kind", n)
    c.mlp("says", n, kind, lambda n: n)

    def counted(text: str) -> list[int]:
        rows = range(len(text))
        good = [[(what == "positions" or text[j] in "ab") and (what == "words" or j < i) for j in rows] for i in rows]
        return [sum(good[i][1 : i + 1]) for i in rows]

    assert c.verify(reference=counted, readout="kind", progress=False).ok


def test_a_readout_may_have_the_name_of_a_part():
    names = []
    for name in ("same", "other"):
        c = start()
        answer = c.readout(name, ["x", "y"])
        c.head("same", qk=match(c.tok, c.tok), ov=copy(c.tok, c.out))
        c.mlp("says", c.tok, answer, {"a": "x"})
        model = c.compile()
        for graph in (c.edges(), model.edges()):
            names.append(sorted(edge for *_, edge in graph.edges(data="name")))
    assert all(one == names[0] for one in names) and "L0H0 -> logits" in names[0]


def test_what_is_declared_later_is_in_no_model_and_no_interpretation_made_before():
    c = start()
    kind = c.readout("kind", ["x", "y"])
    c.mlp("says", c.tok, kind, {"a": "x"})
    c.head("same", qk=match(c.tok, c.tok), ov=copy(c.tok, c.out))
    model, meant = c.compile(), c.interpret("!ab")
    later = c.readout("later", ["z"])
    c.mlp("more", c.tok, later, {"b": "z"})
    c.head("unfinished", qk=match(c.one, c.space("nothing", ["q"]), {"1": "q"}), ov=copy(c.tok, c.out))
    assert model.predict("!ab", readout="kind") == [None, "x", None] == meant.predicted("kind")[0]
    for ask in (lambda: model.predict("!ab", readout="later"), lambda: meant.predicted("later")):
        with pytest.raises(ConfigError, match="no readout 'later'; it has kind"):
            ask()


@pytest.mark.parametrize("again", [copying.copy, copying.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_copy_of_a_circuit_goes_its_own_way(again: Callable[[Circuit], Circuit]):
    c = start()
    c.head("same", qk=match(c.tok, c.tok), ov=copy(c.tok, c.out))
    new = again(c)
    new.mlp("more", new.tok, new.readout("kind", ["x"]), {"a": "x"})
    c.mlp("more", c.tok, c.readout("kind", ["y"]), {"b": "y"})
    assert [len(one.parts) for one in (c, new)] == [2, 2]
    assert new.interpret("!ab").predicted("kind") == [[None, "x", None]]
    assert c.interpret("!ab").predicted("kind") == [[None, None, "y"]]


def reader() -> Circuit:
    c = start()
    x = c.vectors("x", 2, over=(-1, 1))
    c.number(c.out["a"], x[0] - x[1])
    return c


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ("no", ConfigError, "vectors = 'no'; allowed: a mapping from x"),
        (torch.zeros(1, 3, 2), ConfigError, "vectors = Tensor.*; allowed: a mapping from x"),
        ({"x": None}, ConfigError, "vectors 'x' is None; allowed: a tensor"),
        ({"x": torch.zeros(1, 3, 2) * 1j}, ConfigError, "vectors 'x' has numbers of torch.complex64; allowed: real"),
        ({"x": torch.full((1, 3, 2), torch.nan)}, ConfigError, "vectors 'x' have entries that are not finite"),
        ({"x": torch.zeros(3, 2)}, ShapeError, r"vectors 'x' have shape \(3, 2\); allowed: \(1, 3, 2\)"),
    ],
)
def test_vectors_that_are_none_are_refused(given: Any, kind: type[InterpError], message: str, as_installed: None):
    c = reader()
    for ask in (c.interpret, c.compile().embedded):
        with pytest.raises(kind, match=message):
            ask("!ab", given)


def test_vectors_for_a_verification_are_one_shape_a_length(as_installed: None):
    c = reader()
    cases: list[tuple[Any, str]] = [
        (lambda text: None, "the vectors of '!aa' are None; allowed: a mapping from x"),
        (lambda text: {"x": "no"}, "vectors 'x' of '!aa' is 'no'"),
        (lambda text: {"x": torch.zeros(2 + (text[-1] == "b"), 2)}, "vectors 'x' have shapes .*; allowed: one shape"),
        (lambda text: {"x": torch.zeros(3, 2)} if text == "!aa" else {}, "vectors 'x' have shapes .* for 1 of 9 texts"),
    ]
    for vectors, message in cases:
        with pytest.raises(InterpError, match=message):
            c.verify(length=2, vectors=vectors, progress=False)


def test_vectors_keep_their_gradient_and_their_range():
    c = reader()
    x = torch.full((1, 3, 2), 0.5, requires_grad=True)
    model = c.compile()
    model(model.embedded("!ab", {"x": x}), start_at_layer=0)[..., 1].sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.tensor([1.0, -1.0]).expand(1, 3, 2))
    assert not c.interpret("!ab", {"x": x}).broken
    assert c.interpret("!ab", {"x": 5 * x}).broken == ("vectors 'x' hold 2.5, and lie between -1 and 1",)


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8])
def test_functions_of_every_size_are_written(scale: float):
    c = start()
    mean = c.space("mean", ["a"])
    c.head("mean", ov=copy(c.tok, mean, {"a": "a"}))
    c.function("f", mean, c.out["a"], lambda u: scale * u * u, knots=5)
    model = c.compile(dtype=torch.float64)
    logits = model(c.tokens("!aab"))
    torch.testing.assert_close(logits / scale, c.interpret("!aab").logits / scale, rtol=1e-5, atol=1e-5)


def test_the_gap_between_products_of_shares_is_not_known(as_installed: None):
    c = start()
    share = c.space("share", c.tok, holds="shares")
    c.head("mean", ov=copy(c.tok, share))
    with pytest.raises(ConfigError, match=re.escape("head 'both': its scores are too many to find their smallest gap")):
        c.head("both", qk=match(share, share), ov=copy(c.tok, c.out))
    c.head("back", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, c.out))


@pytest.mark.parametrize(
    "scores",
    [
        lambda c: match(c.tok, c.tok, {"a": "b"}) - 2 * match(c.one, c.tok, {"1": "!"}),  # the start scores below 0
        lambda c: (
            1.5 * match(c.tok, c.tok, {"a": "b"}) + match(c.one, c.tok, {"1": "!"})
        ),  # it scores what a match does
    ],
)
def test_what_the_start_scores_by_itself_is_known_where_nothing_matches(scores: Callable[[Circuit], Any]):
    c = start()
    held = c.space("held", c.tok)
    c.head("fetch", qk=scores(c), ov=copy(c.tok, held), sink=0.5)
    c.mlp("says", held, c.out, {"a": "c", "b": "b"})
    with pytest.raises(ConfigError, match="mlp 'says' looks up space 'held', which may hold shares of several labels"):
        c.interpret("!ab")


@pytest.mark.parametrize(
    ("features", "overlaps", "fine"),
    [
        ({"a": [1, 0], "b": [0, 1]}, "error", True),
        ({"a": [1, 1], "b": [0, 1]}, "error", False),
        ({"a": [1, 1], "b": [0, 1]}, "sum", True),
        ({"a": [2, 0], "b": [0, 1]}, "sum", False),
        ({"a": [0.5, 0], "b": [0, 1]}, "error", False),
    ],
)
def test_a_table_reads_features_only_where_they_are_labels(features: Any, overlaps: Any, fine: bool):
    c = start()
    c.mlp("says", c.embed("features", features), c.out, {0: "a", 1: "b"}, overlaps=overlaps)
    if fine:
        assert c.verify(progress=False).ok
    else:
        with pytest.raises(ConfigError, match="mlp 'says' reads space 'features' label by label, and that may hold"):
            c.compile()


def test_a_coordinate_that_is_read_twice_reaches_twice_as_far():
    c = start()
    mean = c.space("mean", ["a"])
    c.head("mean", ov=copy(c.tok, mean, {"a": "a"}))
    assert c.function("f", mean["a"] + mean["a"], c.out["a"], lambda u: u * u, error=0.01).knots[-1] == 2
    assert c.verify(progress=False).ok


@pytest.mark.parametrize("layers", [3, np.array([0, 1]), {0: 1}])
def test_layers_of_a_hidden_circuit_are_a_list(layers: Any, as_installed: None):
    c = start()
    c.head("same", qk=match(c.tok, c.tok), ov=copy(c.tok, c.out))
    with pytest.raises(ConfigError, match=r"layers = .*; allowed: a list"):
        c.compile(layers=layers)


@pytest.mark.parametrize("kind", ["function", "product"])
def test_a_number_that_grows_after_a_function_of_it_was_declared_is_refused(kind: str):
    def grown(**over: Any) -> Circuit:
        c = start()
        mean = c.space("mean", ["a"])
        c.head("first", ov=copy(c.tok, mean, {"a": "a"}))
        if kind == "function":
            c.function("f", mean, c.out["a"], lambda u: u * u, error=0.01, **over)
        else:
            c.product("f", mean, mean, c.out["a"], error=0.01, **over)
        c.head("second", ov=2 * copy(c.tok, mean, {"b": "a"}))
        return c

    with pytest.raises(ConfigError, match=rf"{kind} 'f' reads a number from .*; declare it last, or give over="):
        grown().compile()
    assert grown(over=(0, 3)).verify(progress=False).ok


@pytest.mark.parametrize("hidden", [{}, {"distract": Distract(2)}, {"fill": Noise()}, {"norm": "LN"}], ids=repr)
def test_a_tied_circuit_reads_its_words_whether_or_not_anything_else_does(hidden: Any):
    c = Circuit("!ab", 3, bos="!", tied=True)
    c.direct(0.5 * copy(c.one, c.out, {"1": "b"}))
    report = c.verify(["!", "!ab"], list, model=c.compile(**hidden), progress=False)
    assert report.ok, report
    assert "embed -> logits" in {name for *_, name in c.edges().edges(data="name")}
