"""Spaces, forms and declarations: what they say, and what the interpreter reads off them."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_circuits import induction

from circuits import Circuit, Space, copy, match, shift
from circuits.language import Form, attend
from interp import ConfigError, TokenError

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
    with pytest.raises(ConfigError, match=r"\(! a b\) and of .few. \(a\) differ; .* lambda a, b: a == b"):
        copy(c.tok, c.space("few", ["a"]))


@pytest.mark.usefixtures("as_installed")
def test_functions_of_another_number_of_labels_and_bare_numbers_are_refused_by_name():
    c = Circuit("!ab", 3)
    one: Any = lambda label: label  # noqa: E731
    back: Any = -1
    with pytest.raises(
        ConfigError, match=r"match\(pos, pos\): the relation of 0 and 0 fails .* a function of two labels"
    ):
        match(c.pos, c.pos, one)
    with pytest.raises(ConfigError, match=r"match\(pos, pos\): the relation is -1; allowed: shift\(n\), n places back"):
        match(c.pos, c.pos, back)
    with pytest.raises(ConfigError, match=r"mlp 'm': the table of '!', 0 fails .* a function of 2 labels"):
        c.mlp("m", (c.tok, c.pos), c.out, one)


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


def test_a_shift_between_spaces_with_other_labels_is_refused():
    c = Circuit("!ab", 3)
    with pytest.raises(ConfigError, match=r"match\(tok, pos\): .* differ; shift\(1\) needs the same for both"):
        match(c.tok, c.pos, shift(1))


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
    with pytest.raises(TokenError, match=r"bos = '\?' is an unknown word; .* 3 words"):
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


# ---------------------------------------------------------------------------------------------- the interpreter


@pytest.mark.parametrize(
    ("ties", "weights"),
    [("mean", [0, 0.5, 0.5, 0]), ("latest", [0, 0, 1, 0]), ("first", [0, 1, 0, 0])],
)
def test_ties_are_shared_or_go_to_the_latest_or_to_the_first(ties, weights: list[float]):
    scores = torch.tensor([[0.5, 1, 1 - 1e-9, 3]], dtype=torch.float64)
    visible = torch.tensor([[True, True, True, False]])
    assert attend(scores, visible, ties)[0].tolist() == pytest.approx(weights)


def test_a_head_without_a_match_form_attends_to_everything_alike():
    c = Circuit("!ab", 4, bos="!")
    c.head(0, "all", ov=copy(c.tok, c.out))
    assert c.interpret("!ab").patterns["all"][0, 2].tolist() == pytest.approx([1 / 3] * 3)
    assert c.compile().predict("!aaa") == ["!", "!", "a", "a"]


def test_a_circuit_shows_what_it_is():
    assert repr(induction()) == "Circuit(4 words, n_ctx=6, 2 layers: previous, induction)"
    assert repr(induction().tok) == "Space('tok', ! a b c)"
    assert repr(induction().pos[3]) == "pos[3]"


def test_a_table_may_say_anything_of_a_space_and_a_bucket_may_have_one_label():
    c = Circuit("ab", 2)
    c.mlp("any", [c.tok, c.one], c.out, {("a", ...): "b"})
    c.bucket("one", c.pos[0], c.out, {"a": 1.0}, gate=c.tok["b"])
    assert c.interpret("ab").predictions == [["b", "a"]]
    assert c.compile().predict("ab") == ["b", "a"]
