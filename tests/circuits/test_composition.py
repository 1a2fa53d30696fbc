"""Layers by themselves, counts, scopes, circuits as functions, readouts, direct paths, and tables that say more."""

import itertools
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits import Circuit, Space, copy, match, shift
from circuits.gallery import entries
from circuits.language import Head
from circuits.language.layers import settle
from circuits.language.parts import UNSETTLED
from interp import ConfigError

# ---------------------------------------------------------------------------------------------- layers


def test_a_part_without_a_layer_goes_into_the_earliest_after_all_that_writes_what_it_reads():
    c = Circuit("!abc", 6, bos="!")
    prev, kind, both = c.space("prev", c.tok), c.space("kind", ["x", "y"]), c.space("both", ["yes"])
    c.head("late", qk=match(both, both), ov=copy(c.tok, c.out))  # declared first, read last
    c.mlp("same layer", prev, kind, {"a": "x", "b": "y"})
    c.head("previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
    c.mlp("next layer", kind, both, {"x": "yes"})
    c.mlp("at once", c.tok, c.out, {"c": "c"})
    layers = {part.name: part.layer for part in c.parts}
    assert layers == {"late": 2, "same layer": 0, "previous": 0, "next layer": 1, "at once": 0}


@pytest.mark.parametrize("name", [name for name, one in entries().items() if not one.slow])
def test_layers_of_the_gallery_found_by_themselves_are_no_later_than_declared(name: str):
    c = entries()[name].build()
    declared = {part.name: part.layer for part in c.parts}
    unsettled = [replace(part, layer=UNSETTLED) for part in c.parts]
    settled = settle(unsettled, tied_to=c.tok.name if c.out is c.tok else None)
    assert all(part.layer <= declared[part.name] for part in settled)


def test_a_layer_that_is_given_is_obeyed_and_moves_those_that_wait_for_it():
    c = Circuit("!abc", 6, bos="!")
    prev = c.space("prev", c.tok)
    c.head(3, "previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
    c.head("induction", qk=match(c.tok, prev), ov=copy(c.tok, c.out), ties="latest")
    assert [part.layer for part in c.parts] == [3, 4] and c.compile().cfg.n_layers == 5
    assert c.verify(length=4, progress=False).ok


def test_the_layer_may_come_first_by_keyword_or_not_at_all():
    for declare in (
        lambda c, **form: c.head(2, "h", **form),
        lambda c, **form: c.head("h", layer=2, **form),
        lambda c, **form: c.head(layer=2, name="h", **form),
    ):
        c = Circuit("!ab", 3, bos="!")
        declare(c, qk=match(c.pos, c.pos), ov=copy(c.tok, c.out))
        assert c.parts[0].layer == 2
    c = Circuit("!ab", 3, bos="!")
    c.head(None, "h", match(c.pos, c.pos), copy(c.tok, c.out))
    assert c.parts[0].layer == 0


def test_parts_that_read_one_another_in_a_circle_are_named():
    c = Circuit("!abc", 6, bos="!")
    a, b = c.space("a", c.tok), c.space("b", c.tok)
    c.head("first", qk=match(a, c.tok), ov=copy(c.tok, b))
    c.mlp("second", b, a, {word: word for word in "abc"})
    said = "head 'first' reads 'a', which mlp 'second' writes; mlp 'second' reads 'b', which head 'first' writes"
    with pytest.raises(ConfigError, match=f"no layer is early enough: {said}; give one of them a layer"):
        c.compile()


def test_the_words_of_a_tied_circuit_can_be_read_without_waiting_for_predictions():
    c = Circuit("!abc", 6, bos="!", tied=True)
    prev = c.space("prev", c.tok)
    c.head("previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
    c.head("induction", qk=match(c.tok, prev), ov=2 * copy(c.tok, c.out), ties="latest")
    assert [part.layer for part in c.parts] == [0, 1] and c.verify(length=4, progress=False).ok


# ---------------------------------------------------------------------------------------------- counts and scopes


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
@pytest.mark.parametrize("up_to", [1, 2, 5])
def test_a_count_is_how_many_keys_match_and_stops_where_it_is_told_to(direction: Any, up_to: int):
    c = Circuit("!ab", 6, bos="!", attention_dir=direction)
    n = c.count("same", qk=match(c.tok, c.tok), up_to=up_to)
    others = c.count("others", qk=match(c.tok, c.tok, {"a": "b", "b": "a"}), up_to=up_to)
    everything = c.count("all", None, up_to=5)
    seen = {space: c.readout(f"seen {space.name}", space.labels) for space in (n, others, everything)}
    for space, readout in seen.items():
        c.mlp(f"show {space.name}", space, readout, lambda number: number)
    model = c.compile(rotate=0)
    for length in (1, 3, 5):
        texts = ["!" + "".join(word) for word in itertools.product("ab", repeat=length)]
        said = {space: model.predict(texts, readout=readout.name) for space, readout in seen.items()}
        for (row, text), i in itertools.product(enumerate(texts), range(length + 1)):
            word, visible = text[i], text[1 : i + 1] if direction == "causal" else text[1:]
            wanted = {n: visible.count(word), others: len(visible) - visible.count(word), everything: len(visible)}
            for space, number in wanted.items():
                assert said[space][row][i] == (min(number, len(space) - 1) if i else None)


def test_a_count_needs_a_start_and_a_match():
    c = Circuit("ab", 4)
    with pytest.raises(ConfigError, match="count 'n': counting needs the start of the text; give the circuit bos="):
        c.count("n", match(c.tok, c.tok), up_to=2)
    c = Circuit("!ab", 4, bos="!")
    with pytest.raises(ConfigError, match="count 'n': no key scores above 0"):
        c.count("n", -match(c.tok, c.tok), up_to=2)
    with pytest.raises(ConfigError, match="count 'n': up_to = 0; allowed: 1 or more"):
        c.count("n", match(c.tok, c.tok), up_to=0)
    assert c.parts == [] and list(c.spaces) == ["tok", "pos", "one", "out"]


def twice(c: Circuit, words: Space, writes: Space) -> None:
    """A circuit as a function: the word two places back."""
    middle = c.space("middle", words)
    c.head("one", qk=match(c.pos, c.pos, shift(1)), ov=copy(words, middle))
    c.head("two", qk=match(c.pos, c.pos, shift(1)), ov=copy(middle, writes))


def test_a_circuit_is_a_function_that_can_be_called_twice_in_scopes():
    c = Circuit("!abc", 7, bos="!")
    back2 = c.space("back2", c.tok)
    with c.scope("first"):
        twice(c, c.tok, back2)
    with c.scope("second"), c.scope("inner"):
        twice(c, back2, c.out)
    assert [part.name for part in c.parts] == ["first/one", "first/two", "second/inner/one", "second/inner/two"]
    assert c.spaces["second/inner/middle"].name == "second/inner/middle" and c.n_layers == 4
    assert c.verify(length=6, reference=lambda text: [None] * 5 + [*text[1:-4]], progress=False).ok


@pytest.mark.usefixtures("as_installed")
def test_names_that_clash_between_scopes_are_refused():
    c = Circuit("!abc", 7, bos="!")
    with c.scope("s"):
        twice(c, c.tok, c.out)
    with c.scope("s"):
        with pytest.raises(ConfigError, match="space 's/middle' is declared twice; give the scope another name"):
            twice(c, c.tok, c.out)
        with pytest.raises(ConfigError, match="head 's/one': the name is taken; give the scope another name"):
            c.head("one", ov=copy(c.tok, c.out))
    with pytest.raises(ConfigError, match="space 's/middle' is declared twice"):
        c.space("s/middle", ["x"])
    for wrong in ("", "a/b", 3):
        with pytest.raises(ConfigError, match="a scope is called"), c.scope(wrong):  # pyright: ignore[reportArgumentType]
            pass


def test_a_scope_ends_when_an_error_ends_it():
    c = Circuit("!abc", 7, bos="!")
    with pytest.raises(ZeroDivisionError), c.scope("s"):
        raise ZeroDivisionError
    assert c.space("x", ["y"]).name == "x"


# ---------------------------------------------------------------------------------------------- tables


KEYS = st.sampled_from(["a", "b", ..., None])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_table_writes_for_each_combination_what_its_keys_say_and_otherwise_the_rest(data: st.DataObject):
    keys = data.draw(st.lists(st.tuples(KEYS, KEYS), min_size=1, max_size=5, unique=True))
    otherwise = data.draw(st.sampled_from([None, "x", "y"]))
    table = {key: data.draw(st.sampled_from("xy")) for key in keys}
    c = Circuit("!abxy", 4, bos="!")
    first, second = c.space("first", ["a", "b"]), c.space("second", ["a", "b"])
    words = {"a": "a", "b": "b"}
    c.head("here", qk=match(c.pos, c.pos), ov=copy(c.tok, first, words))
    c.head("back", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, second, words))

    def fits(key: tuple[Any, ...], held: tuple[Any, ...]) -> bool:
        return all(one is ... or one == other for one, other in zip(key, held, strict=True))

    every = list(itertools.product(["a", "b", None], repeat=2))
    overlapping = any(sum(fits(key, held) for key in keys) > 1 for held in every)
    if overlapping or (..., ...) in keys:
        with pytest.raises(
            ConfigError, match=r"mlp 't': entr(ies .* can fire together|y .* reads nothing; say otherwise=)"
        ):
            c.mlp("t", (first, second), c.out, table, otherwise=otherwise)
        return
    c.mlp("t", (first, second), c.out, table, otherwise=otherwise)

    def reference(text: str) -> list[str | None]:
        held = [(text[i] if text[i] in "ab" else None, text[i - 1] if i and text[i - 1] in "ab" else None)
                for i in range(len(text))]  # fmt: skip
        return [next((value for key, value in table.items() if fits(key, one)), otherwise) for one in held]

    assert c.verify(length=3, reference=reference, progress=False).ok


@pytest.mark.usefixtures("as_installed")
def test_entries_that_overlap_add_up_only_on_purpose():
    c = Circuit("!abxy", 4, bos="!")
    with pytest.raises(ConfigError, match=r"entries \('a', ...\) and \(..., 2\) can fire together, and would add up"):
        c.mlp("t", (c.tok, c.pos), c.out, {("a", ...): "x", (..., 2): "x"})
    c.mlp("t", (c.tok, c.pos), c.out, {("a", ...): "x", (..., 2): "x"}, overlaps="sum")

    def reference(text: str) -> list[dict[str, int]]:
        return [{"x": (text[i] == "a") + (i == 2)} for i in range(len(text))]

    assert c.verify(length=3, reference=reference, progress=False).ok
    with pytest.raises(ConfigError, match=r"otherwise = \('a',\) contradicts overlaps = 'sum'"):
        c.mlp("u", c.tok, c.out, {"a": "x"}, otherwise="a", overlaps="sum")
    with pytest.raises(ConfigError, match="mlp 'u': overlaps = 'mean'; allowed: 'error', 'sum'"):
        c.mlp("u", c.tok, c.out, {"a": "x"}, overlaps="mean")  # pyright: ignore[reportArgumentType]


S3 = ["".join(p) for p in itertools.permutations("123")]


def after(g: str, h: str) -> str:
    """First g, then h."""
    return "".join(h[int(i) - 1] for i in g)


def test_an_empty_space_can_be_asked_for():
    c = Circuit(["!", *S3], 4, bos="!")
    back, new = c.space("back", S3), c.readout("new", S3)
    c.head("back", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, back, {g: g for g in S3}))
    products = {(g, h): after(g, h) for g in S3 for h in S3}
    own = c.embed("own", {g: g for g in S3})
    c.mlp("compose", (back, own), new, {**products, **{(None, g): g for g in S3}})

    def reference(text: str) -> list[str | None]:
        words = text.split()
        return [None, *(words[i] if i == 1 else after(words[i - 1], words[i]) for i in range(1, len(words)))]

    assert c.verify(length=2, reference=reference, readout="new", progress=False).ok


# ---------------------------------------------------------------------------------------------- read-outs


def test_a_second_readout_answers_beside_the_words():
    c = Circuit("!()", 5, bos="!")
    balance = c.space("balance", ["opened - closed"])
    kind = c.readout("kind", ["balanced", "open", "wrong"])
    opened, closed = (copy(c.tok, balance, {one: "opened - closed"}) for one in "()")
    c.head("balance", ov=opened - closed)
    c.bucket("kind", balance, kind, {"wrong": -0.2, "balanced": 0, "open": 0.2})
    c.head("again", qk=match(c.pos, c.pos), ov=copy(c.tok, c.out), sink=0)
    model = c.compile(rotate=1, norm="LN")

    def reference(text: str) -> list[Any]:
        depth = [text[: i + 1].count("(") - text[: i + 1].count(")") for i in range(len(text))]
        return ["open" if d > 0 else "wrong" if d < 0 else "balanced" for d in depth]

    assert c.verify(length=4, reference=reference, readout="kind", model=model, progress=False).ok
    assert c.verify(length=4, reference=list, model=model, progress=False).ok
    assert model.predict("!(()", readout="kind") == reference("!(()") == c.interpret("!(()").predicted("kind")[0]
    assert model.predict(["!()", "!))"], readout="kind") == [reference("!()"), reference("!))")]
    for ask in (c.interpret("!(").predicted, lambda name: model.predict("!(", readout=name),
                lambda name: c.verify(["!("], readout=name, progress=False)):  # fmt: skip
        with pytest.raises(ConfigError, match="the circuit has no readout 'kin'; it has kind"):
            ask("kin")


def test_a_readout_is_saved_with_no_plain_model(tmp_path: Any):
    from interp import HookedTransformer

    c = Circuit("!ab", 3, bos="!")
    c.mlp("k", c.tok, c.readout("kind", ["yes"]), {"a": "yes"})
    c.compile().save_pretrained(tmp_path)
    plain = HookedTransformer.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="readouts and vectors need a model as `compile` returns it"):
        c.verify(["!ab"], readout="kind", model=plain, progress=False)


def test_a_direct_path_needs_no_layer():
    c = Circuit("!ab", 4, bos="!")
    bigram = torch.tensor([[0.0, 2.0, 1.0], [0.5, 0.25, 3.0], [1.0, 0.75, 0.5]], dtype=torch.float64)
    c.direct(copy(c.tok, c.out, bigram))
    model = c.compile()
    assert model.cfg.n_layers == 0

    def reference(text: str) -> list[dict[str, float]]:
        return [dict(zip("!ab", bigram["!ab".index(word)].tolist(), strict=True)) for word in text]

    assert c.verify(length=3, reference=reference, model=model, progress=False).ok
    assert model.predict("!ab") == ["a", "b", "!"]
    assert [edge["name"] for *_, edge in c.edges().edges(data=True)] == ["embed -> logits"]


def test_log_probabilities_are_predicted_where_every_position_predicts_a_word():
    P = torch.tensor([[0.1, 0.4, 0.5], [0.3, 0.3, 0.4], [0.2, 0.79, 0.01]], dtype=torch.float64)
    for below, said in ((None, [None] * 4), (-math.inf, ["b", "b", "a", "b"])):
        c = Circuit("!ab", 4, bos="!", nothing_below=below)
        c.direct(copy(c.tok, c.out, P.log()))
        model = c.compile()
        assert model.predict("!aba") == c.interpret("!aba").predictions[0] == said
        assert ("every position predicts a word" in repr(model.report)) == (below is not None)
        assert "hidden in 2 layers, none of them its own" in repr(c.compile(n_layers=2, n_heads=1, d_model=9).report)
        assert torch.allclose(model("!ab").softmax(-1)[0], P.float(), atol=1e-6)
        assert c.verify(length=3, progress=False).ok
    best = P.argmax(-1).tolist()
    assert c.verify(length=3, reference=lambda text: ["!ab"[best["!ab".index(w)]] for w in text], progress=False).ok
    assert not c.verify(length=3, reference=lambda text: [None, *text[1:]], progress=False).ok
    with pytest.raises(ConfigError, match=r"nothing_below = -1.0; allowed: a finite number above 0, -math.inf"):
        Circuit("!ab", 4, nothing_below=-1.0)


def test_a_direct_path_into_a_readout_is_refused_with_the_way_out():
    c = Circuit("!ab", 4, bos="!")
    kind = c.readout("kind", c.tok)
    with pytest.raises(
        ConfigError, match="leads to 'kind'; allowed: 'out'; a readout is written by a part, such as an"
    ):
        c.direct(copy(c.tok, kind))


def test_a_direct_path_adds_to_what_heads_write():
    c = Circuit("!ab", 5, bos="!")
    c.direct(0.5 * copy(c.tok, c.out))
    c.head("back", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, c.out))

    def reference(text: str) -> list[dict[str, float]]:
        said = []
        for i, word in enumerate(text):
            said.append(dict(Counter({word: 0.5}) + Counter({text[i - 1]: 1.0} if i > 1 else {})))
        return said

    assert c.verify(length=4, reference=reference, progress=False).ok


def test_anything_will_do_where_the_reference_says_dots():
    c = Circuit("!ab", 4, bos="!")
    c.head("back", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, c.out))
    report = c.verify(length=3, reference=lambda text: [...] * 3 + [text[-2]], progress=False)
    assert report.ok and report.margin == pytest.approx(0.5, abs=2e-3)
    assert not c.verify(length=3, reference=lambda text: [..., "b", ..., text[-2]], progress=False).ok


def test_heads_in_a_scope_are_found_by_their_whole_name_everywhere():
    c = Circuit("!abc", 7, bos="!")
    with c.scope("deep"):
        twice(c, c.tok, c.out)
    model = c.compile()
    assert model.nodes["deep/one"] == "L0H0" and model.nodes["deep/two"] == "L1H0"
    assert set(c.interpret("!abc").patterns) == {"deep/one", "deep/two"} == {h.name for h in c.heads}
    assert all(isinstance(part, Head) for part in c.parts)
