"""Random circuits, other ones in every session: what is compiled does what the interpreter says, or was refused."""

import random
import re

import pytest
import torch
from circuit_oracle import DTYPES, EXACT, Bound, held, texts
from grid import SEED
from random_circuits import Program, random_circuit
from test_compiled_edges import from_weights, names

from circuits.compiler import CODES
from circuits.language import Interpreter
from interp.errors import InterpError

N = 40
"""How many circuits are compared in every session."""

FEATURES = {
    *("causal", "bidirectional", "bos", "no bos", "tied", *(f"n_ctx {n}" for n in range(1, 8)), "n_ctx 8 or more"),
    *("head", "ties mean", "ties latest", "ties first", "declared recency", "declared sharp", "declared gap", "soft"),
    *("default sink", "declared sink", "no sink", "no match", "several terms", "several copies", "weighted"),
    *("negative", "drop", "one to many", "reads what was written", "composition of values"),
    *("relation same", "relation shift", "relation mapping", "relation function", "relation matrix"),
    *("embedded labels", "embedded features", "vectors", "holds one", "holds shares", "readout", "scope"),
    *("table", "1 reads", "2 reads", "3 reads", "several writes", "wildcards", "empty", "otherwise", "sums"),
    *("table as a mapping", "table as a function", "no layer given", "sum of coordinates"),
    *("bucket", "bucket of one", "bucket of states", "bucket of shares", "bucket of numbers", "gate"),
    *("count", "function", "knots or error", "product", "direct", "number"),
    *("norm None", "norm LN", "norm RMS", "ballast", "rotate", "d_model", "n_heads", "d_head", "attn_scale"),
    *("fill", "distract", "n_layers", "d_mlp", "slack", "attn_only", *(f"positions {code}" for code in CODES)),
}
"""What circuits are drawn with."""


QUOTED = r"""'([^']+)'|"([^"]+)\""""
"""A name in a line of a program."""


def drawn(first: int, n: int) -> list[tuple[int, Program]]:
    """Programs with their seeds."""
    return [(seed, random_circuit(random.Random(seed))) for seed in range(first, first + n)]


def check(seed: int, program: Program) -> str:
    """Compare a program in every dtype. Returns the message it was refused with, or nothing."""
    for dtype in DTYPES:
        verdict = program.verdict(dtype, random.Random(seed), at_most=60)
        fine = verdict.kind in ("agrees", "threshold") or (verdict.kind == "broken" and program.doubts)
        if verdict.kind != "refused":
            assert fine, f"seed {seed}, {dtype}: {verdict.kind}, {verdict.said}\n{program}"
        elif dtype == DTYPES[0]:
            assert names_what_is_wrong(verdict.said, program), f"seed {seed}: {verdict.said}\n{program}"
            return verdict.said
    return ""


def names_what_is_wrong(message: str, program: Program) -> bool:
    """Whether a message has the name of a part, a space or an option of the program."""
    named = [line.split(", ")[:2] for line in program.lines if re.search(r"c\.(?!direct|number)", line)]
    names = {one for texts in named for text in texts for pair in re.findall(QUOTED, text) for one in pair if one}
    plain = ("match(", "copy(", "unembedding", *program.options)
    return any(f"{mark}{name}'" in message for name in names for mark in "'/") or any(one in message for one in plain)


def test_random_circuits_do_what_the_interpreter_says_or_are_refused_by_name():
    programs = drawn(SEED, N)
    refused = [check(seed, program) for seed, program in programs]
    sound = [said for said, (_, program) in zip(refused, programs, strict=True) if not program.doubts]
    assert len(sound) > N / 2
    assert sum(map(bool, sound)) < len(sound) / 2


def test_every_word_of_the_language_is_drawn_and_accepted():
    missing, seed = set(FEATURES), SEED + N
    while missing:
        assert seed < SEED + N + 4000, f"never accepted: {', '.join(sorted(missing))}"
        ((_, program),) = drawn(seed, 1)
        assert program.features <= FEATURES
        if program.features & missing and not program.doubts and not check(seed, program):
            missing -= program.features
        seed += 1


def test_a_model_that_does_something_else_is_noticed():
    seen = {"logits": 0, "pattern": 0}
    for seed, program in drawn(SEED, 60):
        try:
            circuit = program.circuit()
            models = [circuit.compile(**{**program.options, **EXACT}, dtype=torch.float64) for _ in range(2)]
        except InterpError:
            continue
        interpreter, bound = Interpreter(circuit.layout()), Bound(circuit, models[0], {**program.options, **EXACT})
        chooses = [head for head in circuit.heads if head.qk.terms and circuit.n_ctx > 3]
        with torch.no_grad():
            models[0].unembed.b_U[0] += 2 * bound.logits + 1e-6
            for head in chooses[:1]:
                models[1].blocks[head.layer].attn.W_Q.mul_(0.1)
        for what, model in zip(seen, models[: 1 + bool(chooses)], strict=False):
            verdict = held(model, interpreter, bound, texts(circuit, random.Random(seed), 20))
            seen[what] += verdict.kind == "disagrees"
            assert verdict.kind == "disagrees" or what == "pattern" or program.doubts, f"{verdict}\n{program}"
    assert seen["logits"] > 15 and seen["pattern"] > 0


def test_the_graph_of_a_random_circuit_is_that_of_its_weights():
    compared = 0
    for seed, program in drawn(SEED, N):
        plain = {name: value for name, value in program.options.items() if name not in ("fill", "distract")}
        try:
            model = program.circuit().compile(**{**plain, **EXACT}, dtype=torch.float64)
        except InterpError:
            continue
        if not (model.circuit.inputs or model.circuit.readouts):  # which are not among the weights
            assert names(model) == from_weights(model), f"seed {seed}\n{program}"
            compared += 1
    assert compared > N / 5


@pytest.mark.slow
def test_two_thousand_random_circuits_do_what_the_interpreter_says():
    for seed, program in drawn(SEED + 10**6, 2000):
        check(seed, program)
