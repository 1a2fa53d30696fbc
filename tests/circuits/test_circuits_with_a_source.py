"""Circuits of two stacks: cross heads that read a source, what they compile to, and what is refused."""

import copy as copying
import pickle
from typing import Any, cast

import pytest
import torch

from circuits import Circuit, EncoderDecoder, copy, match, shift
from circuits.benchmark import make_task
from circuits.compiler import compile_circuit, compile_pair
from circuits.export import compile_as_gpt2
from circuits.gallery import entry, pair
from circuits.language import Interpreter
from circuits.verify import every_text, verify, verify_pair
from interp import ConfigError, HookedEncoderDecoder, ShapeError, TokenError
from interp.plot import figures


def copying_pair(eos: str | None = ".") -> EncoderDecoder:
    """Copies letters and their end."""
    source = Circuit("!abc.", n_ctx=6, bos="!", attention_dir="bidirectional")
    c = EncoderDecoder(source, "!abc.", n_ctx=6, bos="!", eos=eos)
    c.cross("copy", qk=match(c.pos, source.pos, shift(-1)), ov=copy(source.tok, c.out))
    return c


def sources(letters: str = "abc", longest: int = 3) -> list[str]:
    """All sources of so many letters, with their end."""
    return [text + "." for n in range(longest + 1) for text in every_text(letters, n)]


def test_a_cross_head_copies_the_source():
    c = copying_pair()
    assert c.interpret("!cab.", "cab").predictions == [["c", "a", "b", "."]]
    assert c.generate("!cab.") == ["c", "a", "b", "."]
    assert c.generate(["!ca.", "!bb."]) == [["c", "a", "."], ["b", "b", "."]]
    model = c.compile()
    assert isinstance(model, HookedEncoderDecoder)
    assert model.predict("!cab.", "cab") == ["c", "a", "b", "."]
    assert model.predict(["!ca.", "!bb."]) == [["c"], ["b"]]
    assert model.generate("!cab.", max_new_tokens=5, progress=False).texts == ["cab"]


def test_both_sides_of_a_pair_are_stacks_as_compiled_circuits_are():
    model = pair("reverse_source").build().compile()
    assert model.encoder.cfg.d_vocab_out == 0 and model.decoder.cfg.d_memory == model.encoder.cfg.d_model
    assert (model.encoder.cfg.attention_dir, model.decoder.cfg.attention_dir) == ("bidirectional", "causal")
    assert model.encoder.cfg.d_model == model.encoder.report.n_coordinates
    assert not model.decoder.blocks[0].attn.W_O.any() and model.decoder.cfg.attn_only
    assert set(model.encoder.report.heads) == {"length"} and model.decoder.report.heads["fetch"].node == "L0X0"


def test_the_pattern_of_a_cross_head_is_that_of_the_interpreter():
    c = copying_pair()
    symbolic = c.interpret("!cab.", "cab")
    assert symbolic.patterns["copy"][0].tolist() == torch.eye(5)[1:].tolist()
    _, cache = c.compile().run_with_cache("!cab.", "cab", names_filter=("pattern", 0, "cross_attn"))
    assert torch.allclose(cache["pattern", 0, "cross_attn"][:, 0].double(), symbolic.patterns["copy"], atol=1e-5)


def test_a_cross_head_finds_nothing_and_rests_at_the_start_of_the_source():
    seen = copying_pair(eos=None).interpret("!c.", "c.ab")
    assert seen.predictions == [["c", ".", None, None, None]]
    assert seen.patterns["copy"][0, 2:, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pair_is_right_in_both_precisions(dtype: torch.dtype):
    c = copying_pair()
    report = c.verify(sources(), lambda text: list(text[1:]), model=c.compile(dtype=dtype), progress=False)
    assert report.ok and report.n_generated == report.n_inputs == 40, report


def test_without_a_reference_a_pair_answers_what_the_interpreter_writes():
    c = copying_pair(eos=None)
    report = c.verify(sources(), progress=False)
    assert report.ok and report.n_positions == sum(len(text) for text in sources()), report


def test_a_pair_that_was_held_to_a_reference_says_so():
    given = verify_pair(copying_pair(), sources(longest=1), lambda text: list(text[1:]), progress=False)
    assert given.has_reference and "no reference" not in repr(given) and "interpreter 7" in repr(given)
    alone = verify_pair(copying_pair(), sources(longest=1), progress=False)
    assert not alone.has_reference and "no reference was given" in repr(alone)


def test_a_head_that_looks_elsewhere_from_the_start_alone_is_not_called_dead():
    pair_of_one_word = verify_pair(copying_pair(), ["!."], lambda text: ["."], progress=False)
    assert pair_of_one_word.ok and pair_of_one_word.dead == ()
    ahead = Circuit("!ab", n_ctx=2, bos="!", attention_dir="bidirectional")
    ahead.head("next", qk=match(ahead.pos, ahead.pos, shift(-1)), ov=copy(ahead.tok, ahead.out))
    assert verify(ahead, ["!a", "!b"], progress=False).dead == ()


def test_all_sources_of_a_length_are_the_inputs_by_default():
    report = copying_pair().verify(length=2, progress=False)
    assert report.ok and report.n_inputs == 4**2


def test_a_wrong_answer_is_reported_by_its_word_and_by_what_the_model_writes():
    c = copying_pair()
    report = c.verify(["!ab.", "!aa."], lambda text: [*text[-2:0:-1], "."], progress=False)
    assert not report.ok and report.n_generated == 1
    assert report.misgenerated == ("'!ab.' is answered 'ab.', and right is 'ba.'",)
    assert (report.n_right, report.n_positions) == (4, 6)
    assert report.worst is not None and report.worst.text.startswith("!ab. | !") and report.worst.margin < 0
    assert "'!ab.' is answered 'ab.'" in repr(report)


def test_a_damaged_cross_head_is_found_out():
    c = copying_pair()
    model = c.compile()
    with torch.no_grad():
        model.decoder.blocks[0].cross_attn.W_K.mul_(0.5)
    report = c.verify(sources(), lambda text: list(text[1:]), model=model, progress=False)
    assert not report.ok and report.pattern_errors["copy"] > report.pattern_tolerance


def test_heads_of_the_source_are_compared_under_names_of_their_own():
    one = pair("translate")
    c, few = one.build(), list(one.inputs())[::200]
    model = c.compile()
    errors = c.verify(few, one.reference, model=model, progress=False).pattern_errors
    assert set(errors) == {"source/before", "source/after", "translate"} and max(errors.values()) < 1e-5
    with torch.no_grad():
        model.encoder.blocks[0].attn.W_Q[1] *= 0.2
    errors = c.verify(few, one.reference, model=model, progress=False).pattern_errors
    assert errors["source/before"] < 1e-5 and errors["source/after"] > 0.01


def test_a_plain_pair_with_the_same_weights_is_verified_as_the_compiled_one():
    c = copying_pair()
    compiled = c.compile()
    plain = HookedEncoderDecoder(compiled.cfg, c.source.vocabulary, c.vocabulary)
    assert not c.verify(["!ab."], model=plain, progress=False).ok
    plain.load_state_dict(compiled.state_dict())
    assert c.verify(sources(), model=plain, progress=False).ok


def test_cross_heads_read_what_heads_of_their_layer_wrote_and_tables_what_they_wrote():
    source = Circuit("!ab", n_ctx=4, bos="!", attention_dir="bidirectional")
    c = EncoderDecoder(source, "!ab", n_ctx=4, bos="!")
    prev, found = c.space("prev", c.tok), c.space("found", source.tok)
    c.head("previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
    c.cross("same", qk=match(prev, source.tok), ov=copy(source.tok, found), ties="first")
    c.mlp("say", found, c.out, {"a": "b", "b": "a"})
    assert [part.layer for part in c.parts] == [0, 0, 0]
    assert c.interpret("!ab", "abb").predictions == [[None, None, "b", "a"]]
    assert c.compile().predict("!ab", "abb") == [None, None, "b", "a"]


def test_the_edges_of_a_pair_go_from_the_encoder_to_keys_and_values_of_cross_heads():
    graph = copying_pair().edges()
    assert {(a, b, kind) for a, b, kind in graph.edges(keys=True)} == {
        ("decoder.embed", "decoder.L0X0", "Q"),
        ("encoder.embed", "decoder.L0X0", "K"),
        ("encoder.embed", "decoder.L0X0", "V"),
        ("decoder.L0X0", "decoder.logits", "out"),
    }
    assert graph.edges["encoder.embed", "decoder.L0X0", "V"]["spaces"] == ("tok",)
    assert graph.edges["encoder.embed", "decoder.L0X0", "V"]["parts"] == (("source/embed", "copy"),)
    assert graph.edges["encoder.embed", "decoder.L0X0", "K"]["name"] == "encoder.embed -> decoder.L0X0.k"
    assert graph.nodes["decoder.L0X0"] == {"layer": 0, "kind": "cross", "parts": ("copy",), "stack": "decoder"}
    assert set(graph) == {"encoder.embed", "decoder.embed", "decoder.L0X0", "decoder.logits"}


@pytest.mark.parametrize("name", ["copy_source", "reverse_source", "translate"])
def test_a_compiled_pair_has_the_edges_that_were_declared(name: str):
    c = pair(name).build()
    model, declared = c.compile(), c.edges()
    compiled = model.edges()
    assert dict(compiled.nodes(data=True)) == dict(declared.nodes(data=True))
    assert set(compiled.edges(keys=True)) == set(declared.edges(keys=True))
    for edge in declared.edges(keys=True):
        ours, theirs = declared.edges[edge], compiled.edges[edge]
        assert (ours["name"], ours["spaces"]) == (theirs["name"], theirs["spaces"])
        assert set(ours["parts"]) == set(theirs["parts"])
    assert set(model.nodes.values()) <= set(declared)
    assert {part for _, parts in declared.nodes(data="parts") for part in parts} <= set(model.nodes)


def test_a_pair_is_drawn_with_its_decoder_above_its_encoder():
    figure: Any = figures.circuit(pair("translate").build())
    levels = ["embed", "0", "0 MLP", "1 MLP"]
    of_decoder = ["decoder embed", "decoder 0 cross", "decoder logits"]
    assert list(figure.layout.yaxis.ticktext) == [*(f"encoder {level}" for level in levels), *of_decoder]
    said = {one.text for one in figure.layout.annotations}
    assert {"translate (decoder.L0X0)", "source/before (encoder.L0H0)"} <= said


def test_what_is_declared_after_compiling_is_not_in_the_model():
    c = copying_pair()
    model, again = c.compile(), copying.copy(c)
    c.source.space("later", ["x"])
    assert "later" not in again.source.spaces
    assert model.circuit.source is not None and "later" not in model.circuit.source.spaces


def test_a_pickled_circuit_and_a_deep_copy_still_know_their_spaces():
    for again in (pickle.loads(pickle.dumps(copying_pair())), copying.deepcopy(copying_pair())):
        again.cross(
            "more", qk=match(again.tok, again.source.tok), ov=copy(again.source.pos, again.space("p", again.pos))
        )
        assert again.generate("!ab.") == ["a", "b", "."]


def declare(what: str) -> None:
    """Declare something that is refused."""
    c = copying_pair()
    s = c.source
    if what == "own head, source's keys":
        c.head("h", qk=match(c.tok, s.tok), ov=copy(c.tok, c.out))
    elif what == "own head, source's queries":
        c.head("h", qk=match(s.tok, c.tok), ov=copy(c.tok, c.out))
    elif what == "own table":
        c.mlp("t", s.tok, c.out, {"a": "b"})
    elif what == "cross head, own keys":
        c.cross("h", qk=match(c.tok, c.tok), ov=copy(s.tok, c.out))
    elif what == "cross head, own values":
        c.cross("h", qk=match(c.tok, s.tok), ov=copy(c.tok, c.out))
    elif what == "cross head, source's queries":
        c.cross("h", qk=match(s.tok, s.tok), ov=copy(s.tok, c.out))
    elif what == "cross head, written to the source":
        c.cross("h", qk=match(c.tok, s.tok), ov=copy(s.tok, s.out))
    elif what == "source's head, target's keys":
        s.head("h", qk=match(s.tok, c.tok), ov=copy(s.tok, s.out))
    elif what == "cross head without a source":
        s.cross("h", qk=match(s.tok, s.tok), ov=copy(s.tok, s.out))
    elif what == "name of the source":
        c.cross("source/h", qk=match(c.tok, s.tok), ov=copy(s.tok, c.out))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "own head, source's keys",
            r"head 'h': Space\('tok', .* is a space of the source, which cross heads alone read",
        ),
        ("own head, source's queries", "is a space of the source"),
        ("own table", "mlp 't': .* is a space of the source"),
        ("cross head, own keys", r"head 'h': .*is not a space of the source.*did you mean source.spaces\['tok'\]"),
        ("cross head, own values", "is not a space of the source"),
        ("cross head, source's queries", "is a space of the source"),
        ("cross head, written to the source", "is a space of the source"),
        ("source's head, target's keys", r"head 'h': Space\('tok', .* is not one of this circuit's"),
        ("cross head without a source", r"cross head 'h' reads a source.*EncoderDecoder\(source, ...\)"),
        ("name of the source", "names that begin with 'source/' are those of the source"),
    ],
)
def test_a_declaration_that_mixes_the_sides_is_refused(what: str, message: str):
    with pytest.raises(ConfigError, match=message):
        declare(what)


@pytest.mark.usefixtures("as_installed")
def test_bad_pairs_are_refused():
    source, bad = Circuit("!ab", 4, bos="!"), copying_pair()
    with pytest.raises(ConfigError, match=r"source = .*allowed: a Circuit"):
        EncoderDecoder("!ab", "!ab", 4, bos="!")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="which has no source itself"):
        EncoderDecoder(bad, "!ab", 4, bos="!")
    with pytest.raises(ConfigError, match="bos = None"):
        EncoderDecoder(source, "!ab", 4, bos=None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TokenError, match="'#'"):
        EncoderDecoder(source, "!ab", 4, bos="!", eos="#")
    alone = EncoderDecoder(source, "!ab", 4, bos="!")
    alone.head("copy", ov=copy(alone.tok, alone.out))
    with pytest.raises(ConfigError, match="the source is read by nothing"):
        alone.compile()
    bad.source.head("dead", qk=match(bad.source.tok, bad.source.tok), ov=copy(bad.source.tok, bad.source.out))
    with pytest.raises(ConfigError, match=r"head 'dead'.* nothing reads after it"):
        bad.compile()


def test_a_source_predicts_nothing_and_neither_side_reads_vectors():
    c = copying_pair()
    c.source.direct(copy(c.source.tok, c.source.out))
    with pytest.raises(ConfigError, match="the source predicts no words"):
        c.interpret("!a.")
    for side in (0, 1):
        c = copying_pair()
        (c, c.source)[side].vectors("x", 2)
        with pytest.raises(ConfigError, match="vectors x are declared"):
            c.interpret("!a.")


def test_a_space_that_nothing_of_the_source_writes_is_refused_with_its_reader():
    c = copying_pair()
    c.cross("h", qk=match(c.tok, c.source.space("empty", c.source.tok)), ov=copy(c.source.tok, c.out))
    with pytest.raises(ConfigError, match="cross head 'h' reads space 'empty', which nothing writes"):
        c.interpret("!a.")


@pytest.mark.usefixtures("as_installed")
def test_texts_that_a_side_does_not_take_are_refused():
    c = copying_pair()
    with pytest.raises(TokenError, match="does not start with '!'"):
        c.interpret("cab.")
    with pytest.raises(TokenError, match=r"has its start '!' again at place 2, and head 'copy' rests at the start"):
        c.interpret("!a!b")
    with pytest.raises(TokenError, match="7"):
        c.interpret("!abcab.")
    with pytest.raises(ShapeError, match="1 sources for 2 targets"):
        c.interpret("!ab.", ["a", "b"])


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "LN", "rotate": 1},
        {"norm": "RMS", "n_heads": 2},
        {"rotate": 3, "d_model": 50},
        {"slack": 0.2, "attn_only": False},
        {"dtype": torch.float16},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:head .* scores reach")
def test_a_pair_survives_norms_rotation_slack_and_half_precision(options: dict[str, Any]):
    one = pair("translate")
    c, few = one.build(), list(one.inputs())[::97]
    report = c.verify(few, one.reference, model=c.compile(**options), progress=False)
    assert report.ok and report.n_generated == len(few), report


def test_a_pair_that_half_precision_breaks_is_not_handed_out():
    with pytest.raises(ConfigError, match=r"head 'fetch': in torch.bfloat16 its pattern is off.*float32"):
        pair("reverse_source").build().compile(dtype=torch.bfloat16)


@pytest.mark.parametrize("option", ["fill", "distract", "layers", "like", "compress"])
def test_a_pair_is_not_hidden(option: str):
    with pytest.raises(ConfigError, match=f"unknown argument '{option}'; it takes d_head"):
        cast(Any, copying_pair()).compile(**{option: 1})


def test_positions_of_two_streams_are_matched_one_hot():
    with pytest.raises(ConfigError, match=r"head 'copy': .* position code 'quadratic'; use 'onehot'"):
        copying_pair().compile(positions="quadratic", dtype=torch.float64)


@pytest.mark.usefixtures("as_installed")
def test_bad_answers_are_refused():
    c = copying_pair()
    for answer, message in (("ab", "a list of words"), ([], "a list of words"), (["a", "x"], "'x' at place 1"),
                            ([None, "a"], "None at place 0"), (["a"] * 7, "7 words, and n_ctx = 6")):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            c.verify(["!a."], lambda text, answer=answer: answer, progress=False)
    with pytest.raises(ConfigError, match="allowed: a HookedEncoderDecoder"):
        c.verify(["!a."], model=c.compile().decoder, progress=False)  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("as_installed")
def test_what_is_for_one_stack_refuses_two_and_the_other_way_round():
    c = copying_pair()
    alone, masked = cast(Any, c.source), entry("masked_token").build()
    for call, message in (
        (lambda: compile_circuit(c), "say compile_pair"),
        (lambda: verify(c), "say verify_pair"),
        (lambda: compile_as_gpt2(cast(Any, c)), "GPT-2 is one stack"),
        (lambda: compile_pair(alone), "say compile_circuit"),
        (lambda: verify_pair(alone), "say verify"),
        (lambda: Interpreter(c.layout()).run(c.tokens("a")), "reads a source, and none is given"),
        (lambda: Interpreter(masked.layout()).run(masked.tokens("!a"), source=masked.tokens("!a")), "reads no source"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()
    with pytest.raises(TokenError, match="the circuit has no source"):
        alone.source_tokens("!a")


def test_pairs_are_no_tasks_of_the_benchmark():
    with pytest.raises(ConfigError, match="circuit 'translate' has a source"):
        make_task("translate")
