"""Spaces, forms and declarations: what they say, what they refuse, and what edges and the interpreter read off them."""

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from grid import random_tensor
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from circuits import Circuit, Space, copy, match, shift
from circuits.export import compile_as_gpt2
from circuits.gallery import entry
from circuits.language import Form, Ties, attend
from interp import ConfigError, TokenError
from interp.model import EdgeGraph


def wrong(value: object) -> Any:
    """An argument of a type that is not allowed."""
    return value


def induction(vocab: str = "!abc", n_ctx: int = 6, ties: Ties = "mean") -> Circuit:
    """The two heads of circuits.py's docstring."""
    c = Circuit(vocab=vocab, n_ctx=n_ctx, bos="!")
    prev = c.space("prev", c.tok)
    sharp = 100 if ties == "mean" else None
    c.head(0, "previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev), sink=0)
    c.head(1, "induction", qk=match(c.tok, prev), ov=copy(c.tok, c.out, drop="!"), ties=ties, sharp=sharp)
    return c


# ---------------------------------------------------------------------------------------------- the target


def test_the_induction_circuit_is_ten_lines_and_predicts_nothing_where_nothing_matches():
    c = Circuit(vocab="!abc", n_ctx=6, bos="!")
    prev = c.space("prev", c.tok)
    c.head(0, "previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev), sink=0)
    c.head(1, "induction", qk=match(c.tok, prev), ov=copy(c.tok, c.out, drop="!"), sharp=100)
    model = c.compile(d_head=6, d_model=24, rotate=0)
    assert model.predict("!abacb") == [None, None, None, "b", None, "a"]
    assert c.interpret("!abacb").predictions == [[None, None, None, "b", None, "a"]]


# ---------------------------------------------------------------------------------------------- spaces and forms


def test_a_space_with_repeated_labels_is_refused():
    with pytest.raises(ConfigError, match="space 'kind': label 'a' stands at places 0 and 2"):
        Space("kind", ("a", "b", "a"))


def test_a_space_without_labels_is_refused():
    with pytest.raises(ConfigError, match="space 'kind' has no labels"):
        Circuit("!ab", 3).space("kind", [])


def test_a_space_declared_twice_is_refused():
    c = Circuit("!ab", 3)
    with pytest.raises(ConfigError, match="space 'tok' is declared twice"):
        c.space("tok", ["x"])


def test_a_label_that_is_not_there_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"space 'kind' has no label 'verbs'.*did you mean 'verb'"):
        Space("kind", ("noun", "verb"))["verbs"]


def test_spaces_whose_labels_differ_need_a_relation():
    c = Circuit("!ab", 3)
    with pytest.raises(ConfigError, match=r"match\(tok, pos\): the labels of 'tok' \(! a b\) and of 'pos' \(0 1 2\)"):
        match(c.tok, c.pos)


def test_a_relation_of_another_shape_is_refused():
    c = Circuit("!ab", 2)
    with pytest.raises(ConfigError, match=r"copy\(tok, pos\): the relation has shape \(2, 2\), not \(3, 2\)"):
        copy(c.tok, c.pos, torch.eye(2))


def test_a_relation_that_relates_nothing_is_refused():
    c = Circuit("!ab", 2)
    with pytest.raises(ConfigError, match="relates no label of 'tok'"):
        match(c.tok, c.tok, lambda a, b: False)


@pytest.mark.parametrize("relation", [{"x": "a"}, {"a": "x"}, {"a": ["b", "x"]}])
def test_a_word_in_a_relation_that_does_not_exist_is_refused(relation: dict[str, str]):
    c = Circuit("!ab", 2)
    with pytest.raises(ConfigError, match=r"match\(tok, tok\): space 'tok' has no label 'x'"):
        match(c.tok, c.tok, relation)


def test_a_word_to_drop_that_does_not_exist_is_refused():
    c = Circuit("!ab", 2)
    with pytest.raises(ConfigError, match=r"copy\(tok, out\), drop='\?': space 'tok' has no label '\?'"):
        copy(c.tok, c.out, drop="?")


@given(n=st.integers(-5, 5), size=st.integers(1, 6))
def test_shift_relates_each_position_to_the_one_n_before(n: int, size: int):
    c = Circuit("ab", size)
    (term,) = match(c.pos, c.pos, shift(n)).terms
    for i in range(size):
        for j in range(size):
            assert term.matrix[i, j] == (j == i - n)


def test_relations_say_the_same_as_a_mapping_a_function_and_a_matrix():
    c = Circuit("abc", 2)
    ways = [{"a": "b", "b": {"a", "c"}}, lambda x, y: x + y in ("ab", "ba", "bc"), [[0, 1, 0], [1, 0, 1], [0, 0, 0]]]
    matrices = [copy(c.tok, c.out, relation).terms[0].matrix for relation in ways]
    assert all(torch.equal(matrix, matrices[0]) for matrix in matrices)


def test_a_given_matrix_is_not_shared():
    c = Circuit("ab", 2)
    given = torch.eye(2, dtype=torch.float64)
    form = copy(c.tok, c.out, given, drop="a")
    given[1, 1] = 7
    assert form.terms[0].matrix.tolist() == [[0, 0], [0, 1]]


def test_forms_add_and_scale_and_show_it():
    c = Circuit("ab", 2)
    form = match(c.tok, c.tok) - 2 * match(c.pos, c.pos) + 0.5 * Form()
    assert repr(form) == "match(tok, tok) - 2 * match(pos, pos)"
    assert [term.weighted.trace() for term in form.terms] == [2, -4]
    assert repr(-form) == "-1 * match(tok, tok) + 2 * match(pos, pos)"
    assert repr(Form()) == "nothing"


# ---------------------------------------------------------------------------------------------- declarations


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda c, s: c.head(-1, "h"), "head 'h': layer = -1; allowed: 0 or more"),
        (lambda c, s: (c.head(0, "h"), c.head(1, "h")), "head 'h': the name is taken"),
        (lambda c, s: c.head(0, "embed"), "head 'embed': the name is taken"),
        (lambda c, s: c.head(0, "h", match(s, s)), r"head 'h': Space\('foreign', a b\) is not one of this circuit's"),
        (lambda c, s: c.head(0, "h", ties="last"), "head 'h': ties = 'last'; allowed: .*; did you mean 'latest'"),
        (
            lambda c, s: Circuit("ab", 4, attention_dir=wrong("casual")),
            "attention_dir = 'casual'.*did you mean 'causal'",
        ),
        (lambda c, s: c.head(0, ""), "head '': the name is ''; allowed: a word"),
        (lambda c, s: c.head(0, "h", sharp=True), "head 'h': sharp = True; allowed: a finite number above 0"),
        (lambda c, s: c.head(0, "h", c.tok), "head 'h': qk = .*; allowed: a form, as match"),
        (
            lambda c, s: c.mlp(0, "m", wrong("tok"), c.out, {"a": "b"}),
            "mlp 'm': 'tok' is not a space; this circuit has tok pos",
        ),
        (
            lambda c, s: c.mlp(0, "m", c.tok, c.out, "ab"),
            "mlp 'm': the table is 'ab'; allowed: a mapping, or a function",
        ),
        (lambda c, s: c.bucket(0, "b", c.one, c.out, {"a": math.nan}), "bucket 'b': the value of 'a' is nan; allowed"),
        (lambda c, s: c.bucket(0, "b", c.one, c.out, {"a": "1"}), "bucket 'b': the value of 'a' is '1'; allowed"),
        (lambda c, s: c.bucket(0, "b", c.one, c.out, {}), "bucket 'b': no values"),
        (lambda c, s: c.embed("e", {"a": [math.nan]}), r"space 'e': the features of 'a' are \[nan\]; allowed: finite"),
        (lambda c, s: c.embed("e", wrong({"a": None})), "space 'e': the features of 'a' are None; allowed: finite"),
        (lambda c, s: c.embed("e", wrong(["a"])), r"space 'e': the table is \['a'\]; allowed: a mapping from words"),
        (lambda c, s: c.space("", ["a"]), "a space is called ''; allowed: a word"),
        (lambda c, s: c.space("s", [1.5]), "space 's': label 1.5 at place 0; allowed: words and integers"),
        (lambda c, s: match(wrong("tok"), c.tok), "match relates two spaces, and 'tok' is none"),
        (
            lambda c, s: match(c.tok, c.tok, torch.full((3, 3), math.inf)),
            "the relation has entries that are not finite",
        ),
        (
            lambda c, s: match(c.tok, c.tok, 1j * torch.eye(3)),
            "the relation has numbers of torch.complex64; allowed: real numbers",
        ),
        (lambda c, s: match(c.tok, c.tok, [[1], [1, 2]]), r"the relation is \[\[1\], \[1, 2\]\]; allowed: shift"),
        (lambda c, s: match(c.tok, c.tok, wrong("ab")), r"the relation is 'ab'; allowed: shift\(n\), a mapping"),
        (lambda c, s: match(c.tok, c.tok, lambda a, b: math.nan), "the relation of '!' and '!' is nan; allowed: true"),
        (lambda c, s: match(c.tok, c.tok, wrong(lambda a, b: None)), "the relation of '!' and '!' is None; allowed"),
        (lambda c, s: match(c.tok, c.tok, wrong({"a": None})), r"match\(tok, tok\): space 'tok' has no label None"),
        (lambda c, s: copy(c.tok, c.out, drop=wrong(3.5)), r"copy\(tok, out\), drop=3.5: space 'tok' has no label"),
        (lambda c, s: c.head(0, "h", match(c.tok, c.tok), recency=0.1), "recency = 0.1 contradicts ties = 'mean'"),
        (
            lambda c, s: c.head(0, "h", match(c.tok, c.tok), ties="latest", recency=0.5),
            "head 'h': recency = 0.5; allowed: above 0, and below half the gap between scores, 0.5",
        ),
        (lambda c, s: c.head(0, "h", match(c.tok, c.tok), sharp=0), "head 'h': sharp = 0"),
        (lambda c, s: c.head(0, "h", match(c.tok, c.tok), sharp=float("inf")), "head 'h': sharp = inf"),
        (lambda c, s: c.head(0, "h", match(c.tok, c.tok), gap=-1), "head 'h': gap = -1"),
        (lambda c, s: c.head(0, "h", match(c.tok, c.tok), gap="x"), "head 'h': gap = 'x'; allowed: a finite number"),
        (lambda c, s: c.head(0, "h", match(c.tok, c.tok), sink="x"), "head 'h': sink = 'x'; allowed: a finite number"),
        (lambda c, s: c.head(0.5, "h"), "head 'h': layer = 0.5; allowed: 0 or more"),
        (lambda c, s: float("nan") * match(c.tok, c.tok), r"nan \* \(match\(tok, tok\)\); allowed: a finite number"),
        (lambda c, s: wrong("3") * match(c.tok, c.tok), r"'3' \* \(match\(tok, tok\)\); allowed: a finite number"),
        (lambda c, s: shift(wrong(1.5)), r"shift\(1.5\); allowed: a whole number of places"),
        (lambda c, s: Circuit("ab", wrong("4")), "n_ctx = '4'; allowed: 1 or more"),
        (lambda c, s: c.head(0, "h", match(c.tok, c.tok), sink=-1), "head 'h': sink = -1; allowed: a finite number"),
        (lambda c, s: c.mlp(0, "m", c.tok, s, {}), "mlp 'm': Space.'foreign'"),
        (lambda c, s: c.mlp(0, "m", c.tok, c.out, {}), "mlp 'm': the table has no entries"),
        (
            lambda c, s: c.mlp(0, "m", c.tok, c.out, {"x": "a"}),
            r"mlp 'm', entry 'x': space 'tok' has no label 'x'",
        ),
        (lambda c, s: c.mlp(0, "m", c.tok, c.out, {"a": "x"}), r"mlp 'm', entry 'a': space 'out' has no label"),
        (lambda c, s: c.mlp(0, "m", (c.tok, c.pos), c.out, {"a": "a"}), "one label for each of 2 spaces"),
        (lambda c, s: c.mlp(0, "m", c.tok, (c.out, c.out), {"a": "a"}), "a label for each of the 2 spaces it writes"),
        (lambda c, s: c.bucket(0, "b", c.tok, c.out, {"a": 1}), r"'tok' has 3 numbers; say which, as in tok\['!'\]"),
        (lambda c, s: c.bucket(0, "b", c.one, c.out, {"a": 1, "b": 1}), "'a' and 'b' have the same value, 1"),
        (lambda c, s: c.bucket(0, "b", c.one, c.out, {"x": 1}), "bucket 'b': space 'out' has no label 'x'"),
        (lambda c, s: c.embed("e", {"a": "x", "b": [1.0]}), "space 'e': either a label for each word, or vectors"),
        (lambda c, s: c.embed("e", {"a": [1.0], "b": [1.0, 2.0]}), "space 'e': .* vectors of one length"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused_by_name(declare, message: str, as_installed: None):
    c = Circuit("!ab", 4, bos="!")
    with pytest.raises(ConfigError, match=message):
        declare(c, Space("foreign", ("a", "b")))


def test_a_copy_of_nothing_but_the_start_is_refused_where_the_sink_would_drop_it():
    c = Circuit("!ab", 4, bos="!")
    share = c.space("share", ["start"])
    message = r"head 'h': copy\(tok, share\) copies nothing but '!'.*say copy\(..., drop=\(\)\)"
    with pytest.raises(ConfigError, match=message):
        c.head(0, "h", match(c.tok, c.tok), copy(c.tok, share, {"!": "start"}), sink=0.5)
    assert c.head(0, "h", match(c.tok, c.tok), copy(c.tok, share, {"!": "start"}, drop=()), sink=0.5).ov.terms


def test_a_shift_between_spaces_with_other_labels_is_refused():
    c = Circuit("!ab", 3)
    with pytest.raises(ConfigError, match=r"match\(tok, pos\): .* differ; shift\(1\) needs the same for both"):
        match(c.tok, c.pos, shift(1))


def test_a_refused_head_leaves_no_trace():
    c = induction()
    with pytest.raises(ConfigError):
        c.head(1, "more", qk=match(c.tok, c.tok), recency=0.1)
    assert [part.name for part in c.parts] == ["previous", "induction"]


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


def test_a_space_that_nothing_writes_cannot_be_read():
    c = Circuit("!ab", 4, bos="!")
    c.head(1, "reader", qk=match(c.tok, c.space("prev", c.tok)), ov=copy(c.tok, c.out))
    for use in (c.compile, c.edges, lambda: c.interpret("!a")):
        with pytest.raises(ConfigError, match="'reader' in layer 1 reads space 'prev', which nothing writes"):
            use()


def test_a_layer_order_that_cannot_be_is_refused():
    c = Circuit("!ab", 4, bos="!")
    prev = c.space("prev", c.tok)
    c.head(1, "reader", qk=match(c.tok, prev), ov=copy(c.tok, c.out))
    c.head(1, "writer", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
    message = "'reader' in layer 1 reads space 'prev', which is first written by 'writer' in layer 1"
    with pytest.raises(ConfigError, match=message):
        c.compile()


def test_an_mlp_can_read_what_a_head_of_its_layer_writes_and_a_head_cannot_read_what_an_mlp_of_its_layer_writes():
    c = Circuit("!ab", 4, bos="!")
    kind = c.space("kind", ["x", "y"])
    c.head(0, "here", qk=match(c.pos, c.pos), ov=copy(c.tok, c.space("seen", c.tok)))
    c.mlp(0, "kinds", c.spaces["seen"], kind, {"a": "x", "b": "y"})
    c.head(1, "back", qk=match(c.pos, c.pos), ov=copy(kind, c.out, {"x": "b", "y": "a"}))
    assert c.compile().predict("!ab") == [None, "b", "a"]
    c.head(0, "too early", qk=match(c.pos, c.pos), ov=copy(kind, c.out, {"x": "b"}))
    with pytest.raises(ConfigError, match=r"'too early' in layer 0 reads space 'kind'.*MLPs from layer 1 on"):
        c.compile()


def test_a_circuit_that_predicts_nothing_at_all_is_refused():
    c = Circuit("!ab", 4, bos="!")
    with pytest.raises(ConfigError, match="the unembedding reads space 'out', which nothing writes"):
        c.compile()


def test_words_are_checked():
    with pytest.raises(TokenError, match="'a' stands at places 1 and 3"):
        Circuit("!aba", 4)
    with pytest.raises(TokenError, match="unknown word"):
        Circuit("!ab", 4, bos="?")
    c = Circuit(["<s>", "noun", "verb"], 4, bos="<s>")
    with pytest.raises(TokenError, match="space 'kind': 'nouns' is not a word; did you mean 'noun'"):
        c.embed("kind", {"nouns": "n"})


def test_texts_are_checked():
    c = induction()
    for use in (c.interpret, c.compile().predict):
        with pytest.raises(TokenError, match="unknown word 'd' at place 2"):
            use("!ad")
        with pytest.raises(TokenError, match="7 tokens is longer than the context, n_ctx = 6"):
            use("!abcabc")
        with pytest.raises(TokenError, match="text 'abc' does not start with '!'"):
            use("abc")
        with pytest.raises(TokenError, match="empty sequence"):
            use("")


@pytest.mark.parametrize("text", [None, 1.5, {"!a"}])
def test_what_is_neither_text_nor_ids_is_refused(text: Any, as_installed: None):
    with pytest.raises(TokenError, match=r"input \(text, a list of texts, or token ids\): .* is no token id"):
        induction().interpret(text)


def test_ids_in_a_list_are_the_text_they_spell():
    assert induction().tokens([0, 1]).tolist() == induction().tokens("!a").tolist()


WORDS = ["<b>x</b>", "&amp;", "\n", "\u00a0", "🙂", "👨‍👩‍👧", "e\u0301", "é", "\x00", "x" * 5000]


def test_any_words_make_a_circuit_that_predicts_them():
    c = Circuit(["<s>", *WORDS], len(WORDS) + 1, bos="<s>")
    c.head(0, "here", qk=match(c.pos, c.pos), ov=copy(c.tok, c.out))
    assert c.compile().predict(" ".join(["<s>", *WORDS])) == [None, *WORDS]


# ---------------------------------------------------------------------------------------------- edges


def test_the_edges_of_induction_are_its_k_composition_and_what_the_embeddings_feed():
    graph = induction().edges()
    assert {(a, b, kind) for a, b, kind in graph.edges(keys=True)} == {
        ("embed", "L0H0", "Q"),
        ("embed", "L0H0", "K"),
        ("embed", "L0H0", "V"),
        ("embed", "L1H0", "Q"),
        ("L0H0", "L1H0", "K"),
        ("embed", "L1H0", "K"),  # the sink: the word that starts the text
        ("embed", "L1H0", "V"),
        ("L1H0", "logits", "out"),
    }
    assert graph.edges["L0H0", "L1H0", "K"]["spaces"] == ("prev",)
    assert graph.edges["L0H0", "L1H0", "K"]["parts"] == (("previous", "induction"),)
    assert graph.edges["embed", "L0H0", "Q"]["parts"] == (("pos_embed", "previous"),)
    assert graph.edges["embed", "L1H0", "Q"]["spaces"] == ("tok", "one")
    assert graph.nodes["L1H0"] == {"layer": 1, "kind": "head", "parts": ("induction",)}


@pytest.mark.parametrize("name", ["sort", "addition_2", "ioi", "dyck2", "induction"])
def test_every_edge_is_one_of_the_compiled_models_computation_graph(name: str):
    circuit = entry(name).build()
    model, edges = circuit.compile(), circuit.edges()
    graph, report = EdgeGraph.of(model), model.report.heads
    named = {str(edge) for edge in graph.edges()}
    assert {name for _, _, name in edges.edges(data="name")} <= named
    assert set(edges.nodes) <= {str(one) for one in graph.writers} | {"logits"}
    for part, head in report.items():
        assert edges.nodes[f"L{head.layer}H{head.index}"]["parts"] == (part,)
    tables = [part.name for part in circuit.parts if part.name not in report]
    assert sorted(tables) == sorted(one for node in edges if "mlp" in node for one in edges.nodes[node]["parts"])


def test_there_is_no_edge_between_parts_that_share_a_space_but_no_label_of_it():
    c = Circuit("!ab", 4, bos="!")
    kind = c.space("kind", ["x", "y"])
    c.head(0, "writes x", qk=match(c.pos, c.pos), ov=copy(c.tok, kind, {"a": "x"}))
    c.head(0, "writes y", qk=match(c.pos, c.pos), ov=copy(c.tok, kind, {"b": "y"}))
    c.head(1, "reads x", qk=match(c.pos, c.pos), ov=copy(kind, c.out, {"x": "b"}))
    graph = c.edges()
    assert graph.has_edge("L0H0", "L1H0", "V")
    assert not graph.has_edge("L0H1", "L1H0")


def test_neurons_have_edges_in_and_out():
    c = Circuit("!ab", 4, bos="!")
    c.mlp(0, "swap", c.tok, c.out, {"a": "b", "b": "a"})
    assert set(c.edges().edges(keys=True)) == {("embed", "L0.mlp", "mlp"), ("L0.mlp", "logits", "out")}


def test_tables_of_a_layer_are_one_mlp_with_all_their_edges():
    c = Circuit("!ab", 4, bos="!")
    kind = c.space("kind", ["x"])
    c.mlp(0, "kind", c.tok, kind, {"a": "x"})
    c.mlp(0, "swap", (c.tok, c.pos), c.out, {("a", 1): "b"})
    c.mlp(1, "again", kind, c.out, {"x": "a"})
    graph = c.edges()
    assert graph.nodes["L0.mlp"]["parts"] == ("kind", "swap")
    into = graph.edges["embed", "L0.mlp", "mlp"]
    assert into["parts"] == (("embed", "kind"), ("embed", "swap"), ("pos_embed", "swap"))
    assert into["spaces"] == ("tok", "pos") and into["name"] == "embed -> L0.mlp"
    assert graph.edges["L0.mlp", "L1.mlp", "mlp"]["parts"] == (("kind", "again"),)
    assert graph.edges["L0.mlp", "logits", "out"]["parts"] == (("swap", "unembed"),)


# ---------------------------------------------------------------------------------------------- the interpreter


@pytest.mark.parametrize(
    ("ties", "weights"),
    [("mean", [0, 0.5, 0.5, 0]), ("latest", [0, 0, 1, 0]), ("first", [0, 1, 0, 0])],
)
def test_ties_are_shared_or_go_to_the_latest_or_to_the_first(ties, weights: list[float]):
    scores = torch.tensor([[0.5, 1, 1 - 1e-9, 3]], dtype=torch.float64)
    visible = torch.tensor([[True, True, True, False]])
    assert attend(scores, visible, ties)[0].tolist() == pytest.approx(weights)


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


def test_a_head_without_a_match_form_attends_to_everything_alike():
    c = Circuit("!ab", 4, bos="!")
    c.head(0, "all", ov=copy(c.tok, c.out))
    assert c.interpret("!ab").patterns["all"][0, 2].tolist() == pytest.approx([1 / 3] * 3)
    assert c.compile().predict("!aaa") == ["!", "!", "a", "a"]


def test_a_circuit_shows_what_it_is():
    assert repr(induction()) == "Circuit(4 words, n_ctx=6, 2 layers: previous, induction)"
    assert repr(induction().tok) == "Space('tok', ! a b c)"
    assert repr(induction().pos[3]) == "pos[3]"


untyped: Any = SimpleNamespace(Circuit=Circuit, match=match, copy=copy, entry=entry, compile_as_gpt2=compile_as_gpt2)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda c: c.compile(dmodel=30), "compile: .* 'dmodel'; it takes d_head, d_model, .*; did you mean d_model="),
        (lambda c: c.compile(rotation=3), "did you mean rotate="),
        (lambda c: c.verify(samples=3), "verify: unknown argument 'samples'; .*; did you mean sample="),
        (lambda c: c.verify(batchsize=3), "did you mean batch_size="),
        (lambda c: c.head(0, "h", vo=None), "head: unknown argument 'vo'; .*; did you mean ov="),
        (lambda c: c.head(0, "h", sharpness=3), "did you mean sharp="),
        (lambda c: c.space("s", label=c.tok), "space: .* 'label'; it takes name, labels, holds; did you mean labels="),
        (lambda c: c.embed("s", tables={}), "embed: unknown argument 'tables'; .*; did you mean table="),
        (lambda c: c.mlp(0, "m", read=c.tok), "mlp: unknown argument 'read'; .*; did you mean reads="),
        (lambda c: c.bucket(0, "b", gates=c.tok), "bucket: unknown argument 'gates'; .*; did you mean gate="),
        (lambda c: c.interpret(inputs="!"), "interpret: unknown argument 'inputs'; .*; did you mean input="),
        (lambda c: untyped.Circuit("ab", nctx=3), ": unknown argument 'nctx'; .*; did you mean n_ctx="),
        (lambda c: untyped.match(c.tok, c.tok, relations={}), "match: .*; did you mean relation="),
        (lambda c: untyped.copy(c.tok, c.tok, dropped="a"), "copy: .*; did you mean drop="),
        (lambda c: untyped.compile_as_gpt2(c, dhead=3), "compile_as_gpt2: .*; did you mean d_head="),
        (lambda c: untyped.entry("ioi").verify(samples=3), "verify: .*; did you mean sample="),
    ],
)
def test_an_unknown_argument_is_refused_with_the_nearest(declare: Callable[[Any], Any], message: str):
    with pytest.raises(ConfigError, match=message):
        declare(Circuit("!ab", 4, bos="!"))


def one_head(c: Circuit) -> Circuit:
    """The circuit with a head that copies the word it stands at."""
    c.head(0, "here", qk=match(c.pos, c.pos), ov=copy(c.tok, c.out))
    return c


MATRIX = "Tensor of float32 .9, 9."


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda c, x: c.head(0, "h", qk=x), f"qk = {MATRIX}; allowed: a form"),
        (lambda c, x: c.head(0, "h", sink=x), f"sink = {MATRIX}"),
        (lambda c, x: untyped.match(c.tok, c.tok, [x, [1.0]]), f"the relation is .{MATRIX}, "),
        (lambda c, x: untyped.match(x, c.tok), f"match relates two spaces, and {MATRIX}"),
        (lambda c, x: c.embed("e", {"a": x}), f"the features of 'a' are {MATRIX}"),
        (lambda c, x: c.compile(error=x), f"error = {MATRIX}"),
        (
            lambda c, x: one_head(c).verify(["!a"], model=wrong(torch.nn.Linear(2, 2))),
            "model = Linear.*; allowed: a HookedTransformer",
        ),
        (lambda c, x: one_head(c).verify(["!a"], lambda text: x), f"answers '!a' with {MATRIX}"),
        (lambda c, x: c.bucket(0, "b", c.one, c.out, {"a": x}), f"the value of 'a' is {MATRIX}"),
    ],
)
def test_no_message_prints_a_tensor(declare: Callable[[Any, Tensor], Any], message: str, as_installed: None):
    with pytest.raises(ConfigError, match=message) as raised:
        declare(Circuit("!ab", 4, bos="!"), torch.zeros(9, 9))
    assert "0., 0." not in str(raised.value)


def test_a_space_of_another_circuit_is_refused_with_what_to_write():
    c, other = Circuit("!ab", 4, bos="!"), Circuit("!abc", 4, bos="!")
    said = r"Space\('tok', ! a b c\) is not one of this .* did you mean circuit.spaces\['tok'\]"
    with pytest.raises(ConfigError, match=said):
        c.head(0, "h", qk=match(other.tok, other.tok))
    with pytest.raises(ConfigError, match=r"no label '2'; .*; did you mean 2\?"):
        c.pos["2"]


def test_a_table_of_too_many_combinations_is_refused_before_it_is_asked():
    c = Circuit([f"w{i}" for i in range(101)], 4)
    back1, back2 = c.space("back1", c.tok), c.space("back2", c.tok)
    with pytest.raises(ConfigError, match="mlp 'm': the table is a function of 1,030,301 combinations of labels"):
        c.mlp(0, "m", (c.tok, back1, back2), c.out, lambda *labels: pytest.fail("asked"))


# ---------------------------------------------------------------------- sinks, recency and positions of every length


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


@pytest.mark.parametrize("positions", ["onehot", "quadratic", "circle", "sinusoidal", "rotary"])
def test_a_positional_head_of_a_bidirectional_circuit_is_sharp_in_texts_of_every_length_or_refused(positions: str):
    kept = 0
    for by, bos in itertools.product((1, 2, -1), (None, "!")):
        c = Circuit("abc!", n_ctx=7, bos=bos, attention_dir="bidirectional")
        c.head(0, "look", qk=match(c.pos, c.pos, shift(by)), ov=copy(c.tok, c.out))
        try:
            model = c.compile(positions=positions, dtype=torch.float64)
        except ConfigError as error:
            assert "its best key is not the declared one for every query" in str(error)
            continue
        kept += 1
        for n in range(1, 8):
            ids = torch.zeros(1, n, dtype=torch.long)
            ids[:, 0] = 0 if bos is None else 3
            pattern = model.run_with_cache(ids)[1]["pattern", 0][:, 0]
            assert (pattern - c.interpret(ids).patterns["look"]).abs().max() < 2e-6, (by, bos, n)
    assert kept >= 1


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


def test_a_table_may_say_anything_of_a_space_and_a_bucket_may_have_one_label():
    c = Circuit("ab", 2)
    c.mlp("any", [c.tok, c.one], c.out, {("a", ...): "b"})
    c.bucket("one", c.pos[0], c.out, {"a": 1.0}, gate=c.tok["b"])
    assert c.interpret("ab").predictions == [["b", "a"]]
    assert c.compile().predict("ab") == ["b", "a"]


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
    for ties, chosen in (("latest", "b"), ("first", None)):
        c = Circuit("!abc", 4, bos="!")
        c.head("same", qk=match(c.tok, c.tok, {"a": "b"}), ov=copy(c.tok, c.out), sink=1, ties=ties)
        report = c.verify(progress=False)
        assert report.ok and report.pattern_error < 1e-5
        assert c.interpret("!ba").predictions[0][2] == chosen
