"""The gallery: every circuit against its reference, and the numbers that its rows promise."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from grid import SEED

from circuits.compiler import CompiledTransformer
from circuits.gallery import (
    Entry,
    addition,
    automaton,
    copy_suppression,
    entries,
    entry,
    histogram,
    induction_latest,
    induction_uniform,
    modular_addition,
    pair,
    regression,
    row,
    skip_induction,
    sort,
    superposition,
)
from circuits.verify import Report
from interp import ConfigError
from interp.interventions import Zero

INPUTS = {
    "previous_token": 5**6, "induction_latest": 5**6, "induction_pointer": 5**6, "induction_uniform": 5**6,
    "virtual_head": 5**6, "duplicate_token": 5**6, "backoff": 3**6, "fuzzy_induction": 5**6, "fuzzy_geometric": 5**6,
    "skip_0": 5**6, "skip_1": 5**6, "skip_2": 5**6, "rhyme": 10_000, "histogram": 5**6, "histogram_bidirectional": 5**6,
    "count": 5**6, "reverse": 19_530, "sort": 5**5, "dyck1": 2**8, "dyck2": 4_480, "addition_2": 10**4,
    "addition_3": 10**6, "ioi": 180, "successor": 9**4, "adjectives": 40_320, "induction": 3**5,
    "automaton_s3": 2**8, "automaton_a5": 2**8, "caesar": 8**4, "copy_suppression": 5**6, "first_unique": 1_364,
    "frac_prevs": 3**6, "balance": 3**6, "greater_than": 400, "modular_addition": 113**2, "modular_addition_23": 23**2,
    "palindrome": 1_092, "regression": 2**6, "sorted_list": 4**6, "superposition": 15, "copy_source": 5_461,
    "reverse_source": 5_461, "translate": 19_607, "masked_token": 9_330,
}  # fmt: skip
LAYERS = {
    "previous_token": 1, "induction_latest": 2, "induction_pointer": 2, "induction_uniform": 2, "virtual_head": 2,
    "duplicate_token": 1, "backoff": 2, "fuzzy_induction": 2, "fuzzy_geometric": 2, "skip_0": 2, "skip_1": 2,
    "skip_2": 2, "rhyme": 1, "histogram": 1, "histogram_bidirectional": 1, "count": 1, "reverse": 3, "sort": 3,
    "dyck1": 2, "dyck2": 2, "addition_2": 2, "addition_3": 2, "ioi": 3, "successor": 1, "adjectives": 1, "induction": 2,
    "automaton_s3": 3, "automaton_a5": 3, "caesar": 0, "copy_suppression": 1, "first_unique": 2, "frac_prevs": 1,
    "balance": 1, "greater_than": 1, "modular_addition": 1, "modular_addition_23": 1, "palindrome": 4, "regression": 1,
    "sorted_list": 2, "superposition": 1, "masked_token": 1,
}  # fmt: skip


LAYERS_OF_PAIRS = {"copy_source": (0, 1), "reverse_source": (2, 1), "translate": (2, 1)}


def check(one: Entry, model: CompiledTransformer) -> Report:
    """The check of another compilation, on some of the inputs, evenly spread."""
    inputs = list(one.inputs())
    return one.build().verify(inputs[:: 1 + len(inputs) // 1000], one.reference, model=model, progress=False)


def test_every_row_is_there():
    assert set(entries()) == set(INPUTS) == {*LAYERS, *LAYERS_OF_PAIRS}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if one.slow else name
                                  for name, one in entries().items() if isinstance(one, Entry)])  # fmt: skip
@pytest.mark.apart
def test_model_and_interpreter_are_right_on_every_input(name: str):
    one = entry(name)
    model = one.build().compile()
    report = one.verify(model=model, progress=False)
    assert report.ok, report.worst
    assert report.n_inputs == INPUTS[name]
    assert report.pattern_error < 1e-5 and report.logit_error < 1e-5
    assert model.cfg.n_layers == LAYERS[name]


@pytest.mark.parametrize("name", LAYERS_OF_PAIRS)
@pytest.mark.apart
def test_a_pair_writes_the_right_answer_to_every_source_word_by_word_and_by_itself(name: str):
    one = pair(name)
    model = one.build().compile()
    report = one.verify(model=model, progress=False)
    assert report.ok, report
    assert report.n_inputs == report.n_generated == INPUTS[name]
    assert report.pattern_error < 1e-5 and report.logit_error < 1e-5
    assert (model.cfg.encoder.n_layers, model.cfg.decoder.n_layers) == LAYERS_OF_PAIRS[name]


@pytest.mark.parametrize("name", entries())
def test_a_row_says_what_it_does_in_a_sentence(name: str):
    assert row(name).summary.endswith((".", "?"))


@pytest.mark.parametrize("name", ["induction_latest", "reverse", "sort", "addition_2", "ioi", "dyck2"])
def test_a_circuit_survives_rotation_and_a_layer_norm(name: str):
    one = entry(name)
    size = one.build().compile().report.n_coordinates
    model = one.build().compile(rotate=11, d_model=2 * (size + 5) + 2, norm="LN")
    assert check(one, model).ok


def test_induction_works_in_a_rotated_stream_of_64():
    one = entry("induction_latest")
    assert check(one, one.build().compile(rotate=0, d_model=64)).ok


def test_uniform_induction_is_the_in_context_bigram_to_4e_14():
    c = induction_uniform.build()
    model = c.compile(dtype=torch.float64, error=1e-16)
    texts = induction_uniform.inputs()[::17]
    report = c.verify(texts, induction_uniform.reference, model=model, tolerance=4e-14, progress=False)
    assert report.ok


def test_k_composition_and_the_pointer_give_the_same_predictions():
    for text in itertools.islice(induction_latest.inputs(), 0, None, 997):
        assert entry("induction_pointer").reference(text) == entry("induction_latest").reference(text)


def test_the_three_mechanisms_of_composition_have_edges_of_three_kinds():
    kinds = {
        "induction_latest": ("L0H0", "L1H0", "K"),
        "induction_pointer": ("L0H0", "L1H0", "Q"),
        "virtual_head": ("L0H0", "L1H0", "V"),
    }
    for name, edge in kinds.items():
        heads = [one for one in entry(name).build().edges().edges(keys=True) if one[0] == edge[0]]
        assert heads == [edge]


def test_without_a_gate_the_start_claims_rank_1_and_sorting_is_right_at_80_percent_of_the_letters():
    c = sort.build(gated=False)
    letters = sort.inputs()[::7]
    report = c.verify(letters, sort.reference, progress=False)
    assert report.n_right == report.n_symbolic
    wrong = report.n_positions - report.n_right
    assert 1 - wrong / (5 * report.n_inputs) == pytest.approx(0.8, abs=1e-3)


def test_the_start_gets_the_share_1_over_w_plus_1():
    c = histogram.build()
    model = c.compile(dtype=torch.float64)
    pattern = model.run_with_cache("!aabaca")[1]["pattern", 0][0, 0]
    assert pattern[[1, 2, 4, 6], 0].tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 4, 1 / 5], abs=1e-5)


def test_a_noun_takes_its_meaning_from_the_adjectives_before_it():
    seen = entry("adjectives").build().interpret("<s> a fluffy blue creature roamed the verdant forest")
    pattern = seen.patterns["description"][0]
    assert pattern[4].tolist() == [0, 0, 0.5, 0.5, 0, 0, 0, 0, 0]
    assert pattern[8, 7] == 1


def test_an_adjective_said_twice_counts_twice():
    one = entry("adjectives")
    report = one.build().verify(["<s> fluffy fluffy blue creature"], one.reference, progress=False)
    assert report.ok, report.worst


@pytest.mark.parametrize("digits", [1, 5])
def test_numbers_of_any_length_are_added(digits: int):
    numbers = torch.randint(10**digits, (50, 2), generator=torch.Generator().manual_seed(SEED)).tolist()
    texts = [f"!{a:0{digits}}+{b:0{digits}}" for a, b in numbers]
    c = addition.build(digits)
    assert c.verify(texts, lambda text: addition.reference(text, digits), progress=False).ok


@pytest.mark.parametrize("n", [4, 6, 9])
def test_induction_skips_any_number_of_words(n: int):
    texts = skip_induction.inputs(n)[:: 5**3]
    report = skip_induction.build(n).verify(texts, lambda text: skip_induction.reference(text, n), progress=False)
    assert report.ok, report.worst


def test_addition_carries_through_nines():
    model = entry("addition_3").build().compile()
    assert model.predict("!999+001") == [None] * 4 + list("1000")
    assert model.predict("!485+517")[4:] == list("1002")


def test_ioi_names_the_other_name_at_the_last_word_only():
    words = "<s> When Mary and John went to the store John gave a drink to"
    assert entry("ioi").build().compile().predict(words) == [None] * 13 + ["Mary"]


def test_some_slow_inputs_are_right_too():
    one = entry("addition_3")
    texts: Sequence[str] = [f"!{a:03}+{b:03}" for a in range(0, 1000, 37) for b in range(0, 1000, 41)]
    assert one.build().verify(texts, one.reference, progress=False).ok


def test_five_features_lie_in_two_dimensions_as_a_regular_pentagon():
    model = superposition.build().compile(dtype=torch.float64)
    ids = [model.circuit.vocabulary.to_single_token(feature) for feature in superposition.FEATURES]
    directions = model.W_E[ids]
    gram = directions @ directions.T
    place = torch.arange(5, dtype=torch.float64)
    assert torch.allclose(gram, torch.cos(2 * math.pi * (place[:, None] - place) / 5), atol=1e-12)
    assert torch.linalg.matrix_rank(gram) == 2
    assert torch.allclose(gram, superposition.directions() @ superposition.directions().T, atol=1e-12)
    dimensionality = directions.square().sum(1) ** 2 / gram.square().sum(
        1
    )  # Elhage et al. 2022: |W_i|^2 / sum (W_i/|W_i| . W_j)^2
    assert torch.allclose(dimensionality, torch.full((5,), 2 / 5, dtype=torch.float64))


def test_a_feature_alone_is_read_alone_and_two_at_once_interfere():
    c = superposition.build()
    alone = c.interpret(list(superposition.FEATURES)).logits[:, 0, :5]
    assert torch.equal(alone > 1e-9, torch.eye(5, dtype=torch.bool))
    both = dict(zip("abcde", c.interpret("ac").logits[0, 0, :5].tolist(), strict=True))
    assert both["b"] > 0.3 and max(both["a"], both["c"]) < 1e-9


def test_regression_makes_the_step_of_gradient_descent_that_autograd_takes():
    text = "!abbaab?"
    given = regression.vectors(text)
    x, y = given["x"], given["y"][:, 0]
    w = torch.zeros(regression.SIZE, dtype=torch.float64, requires_grad=True)
    loss = (y[1:-1] - x[1:-1] @ w).square().sum() / (2 * regression.N_PAIRS)
    (gradient,) = torch.autograd.grad(loss, w)
    predicted = -float(gradient @ x[-1])
    assert abs(predicted) > 0.01
    c = regression.build()
    model = c.compile(dtype=torch.float64)
    vectors = {name: value[None] for name, value in entry("regression").vectors(text).items()}
    place = c.vocabulary.to_single_token("y")
    with torch.no_grad():
        said = model(model.embedded(text, vectors), start_at_layer=0)
    assert float(said[0, -1, place]) == pytest.approx(predicted, abs=1e-4)
    assert float(c.interpret(text, vectors).logits[0, -1, place]) == pytest.approx(predicted, abs=1e-4)


def test_without_its_head_copy_suppression_repeats_what_was_said():
    c = copy_suppression.build()
    model = c.compile()
    assert model.predict("!bcab") == [None, "c", "d", "c", "d"]
    with model.intervene(Zero(site="z", layer=0)):
        assert model.predict("!bcab") == [None, "c", "d", "b", "c"]


def test_modular_addition_takes_far_fewer_neurons_than_a_table():
    model = entry("modular_addition").build().compile()
    assert model.cfg.d_mlp < 2 * 113**2 / 20
    sums = modular_addition.reference("! 100 23", **entry("modular_addition").arguments)
    assert model.predict("! 100 23")[2] == sums[2] == "10"


def test_the_moves_of_the_automata_generate_groups_of_6_and_60():
    for name, order in (("automaton_s3", 6), ("automaton_a5", 60)):
        moves = entry(name).arguments["moves"]
        assert len(automaton.generated(moves, 20)) == order


def test_only_circuits_that_read_vectors_have_some():
    assert [name for name, one in entries().items() if isinstance(one, Entry) and one.reads_vectors] == ["regression"]
    assert entry("sort").vectors("!abc") == {}
    assert regression.vectors("!ab?")["x"].shape == (4, 2)


def test_a_name_that_is_not_in_the_gallery_is_refused_with_the_nearest():
    for find in (entry, pair, row):
        with pytest.raises(ConfigError, match=r"no circuit 'sorting'.*did you mean 'sort'"):
            find("sorting")


def test_circuits_with_a_source_and_without_are_found_apart():
    with pytest.raises(ConfigError, match="circuit 'translate' has a source"):
        entry("translate")
    with pytest.raises(ConfigError, match="circuit 'sort' has no source"):
        pair("sort")
    assert row("translate") == pair("translate") and row("sort") == entry("sort")


def test_an_adjective_moves_behind_its_noun():
    c = pair("translate").build()
    assert c.generate("<s> the red house sees .") == ["la", "maison", "rouge", "voit", "."]
    assert c.generate("<s> red yellow house .") == ["rouge", "maison", "jaune", "."]
