"""Numbers: functions, products, numeric read-outs and vectors as inputs."""

import itertools
import math
from typing import Any

import pytest
import torch
from grid import random_tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits import Circuit, copy, match, shift
from circuits.language.knots import pieces
from interp import ConfigError, ShapeError


def reader(size: int = 2, over: tuple[float, float] | None = (-1.0, 1.0)) -> Circuit:
    """A circuit that is given vectors."""
    c = Circuit("!ab", 4, bos="!")
    c.vectors("v", size, over)
    return c


def logits_of(c: Circuit, x: torch.Tensor) -> torch.Tensor:
    """What model and interpreter make of vectors, after both were held to each other."""
    text = ["!ab"[: x.shape[1]]] * len(x)
    model = c.compile(dtype=torch.float64, rotate=3)
    found = model(model.embedded(text, {"v": x}), start_at_layer=0).detach()
    assert torch.allclose(found, c.interpret(text, {"v": x}).logits, atol=1e-9)
    return found


FUNCTIONS = {"square": lambda u: u * u, "sine": lambda u: math.sin(3 * u), "bump": lambda u: math.exp(-u * u)}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("error", [0.1, 1e-3])
def test_a_function_lies_within_its_error_and_is_constant_outside_of_its_stretch(name: str, error: float):
    c, f = reader(1), FUNCTIONS[name]
    made = c.function("f", c.spaces["v"], c.out["a"], f, error=error, over=(-1.5, 2))
    assert made.error <= error
    x = torch.linspace(-1, 1, 41, dtype=torch.float64)
    found = logits_of(c, x[:, None, None])[:, 0, 1]
    assert float((found - torch.tensor([f(float(u)) for u in x])).abs().max()) <= error * 1.001
    outside = torch.tensor([-9.0, 7.0], dtype=torch.float64)[:, None, None]
    ends = logits_of(c, outside)[:, 0, 1]
    assert torch.allclose(ends, torch.tensor([f(-1.5), f(2.0)], dtype=torch.float64), atol=error * 1.001)


@settings(max_examples=10)
@given(st.integers(2, 40), st.floats(-3, 0.5), st.floats(1, 3))
def test_more_knots_never_make_it_worse_and_an_error_takes_no_more_than_it_needs(n: int, low: float, high: float):
    f = math.exp
    few, more = pieces("f", f, low, high, n, None), pieces("f", f, low, high, n + 5, None)
    assert len(few.knots) <= n and more.error <= few.error + 1e-12
    assert len(pieces("f", f, low, high, None, few.error + 1e-9).knots) <= n


def test_a_straight_line_takes_two_knots_and_a_constant_writes_itself():
    assert len(pieces("f", lambda u: 3 * u - 1, -2.0, 5.0, None, 1e-6).knots) == 2
    c = reader(1)
    c.function("always", c.spaces["v"], c.out["b"], lambda u: 2.5)
    c.number(c.out["a"], c.spaces["v"])
    assert logits_of(c, torch.zeros(1, 2, 1).double())[0, :, 2].tolist() == [2.5, 2.5]


def test_a_product_lies_within_its_error_whatever_is_multiplied():
    for low, high in ((-1.0, 1.0), (0.0, 3.0), (-2.0, 0.5)):
        c = reader(2, (low, high))
        v = c.spaces["v"]
        error = c.product("p", v[0], v[1], writes=2 * c.out["a"] - c.out["b"], error=0.01)
        assert error <= 0.01
        x = low + (high - low) * random_tensor(2000, 1, 2).double().sigmoid()
        found = logits_of(c, x)[:, 0]
        exact = x[:, 0, 0] * x[:, 0, 1]
        assert float((found[:, 1] - 2 * exact).abs().max()) <= 0.02 * 1.001
        assert float((found[:, 2] + exact).abs().max()) <= 0.01 * 1.001


def test_a_product_of_products_lies_where_it_is_said_to_lie():
    c = reader(3, (-1.0, 0.0))
    v, twice = c.spaces["v"], c.space("twice", ["x"])
    c.product("first", v[0], v[1], twice, knots=3)
    error = c.product("second", twice, v[2], c.out["a"], error=0.01)
    x = -torch.tensor(list(itertools.product([0, 0.5, 1], repeat=3)), dtype=torch.float64)[:, None]
    report = c.verify(["!"] * len(x), vectors=iter_of(x), progress=False)
    assert report.ok and report.broken == () and error <= 0.01


def iter_of(x: torch.Tensor) -> Any:
    """Gives the next vectors to each text that asks, in order, and begins again."""
    rows = itertools.cycle(x)
    return lambda text: {"v": next(rows)}


def test_sums_of_coordinates_are_read_and_written_with_their_factors():
    c = reader(3)
    v = c.spaces["v"]
    c.function("f", v[0] - 2 * v[1] + 0.5 * v[2], writes=c.out["a"] + 3 * c.out["b"], f=lambda u: u)
    x = random_tensor(5, 3, 3).double().tanh()
    wanted = x @ torch.tensor([1, -2, 0.5]).double()
    found = logits_of(c, x)
    assert torch.allclose(found[..., 1], wanted) and torch.allclose(found[..., 2], 3 * wanted)


def test_where_a_number_lies_follows_from_what_was_declared():
    c = Circuit("!ab", 5, bos="!")
    mean = c.space("mean", ["balance"])
    up, down = copy(c.tok, mean, {"a": "balance"}), copy(c.tok, mean, {"b": "balance"})
    c.head("mean", ov=2 * up - down)
    made = c.function("f", mean, c.out["a"], lambda u: u * u, error=0.01)
    assert (made.knots[0], made.knots[-1]) == (-1, 2)


def test_sums_of_coordinates_and_forms_are_those_of_python():
    c = Circuit("!ab", 4, bos="!")
    total: Any = sum(n * c.tok[word] for n, word in enumerate("ab", 1))
    alone: Any = sum([c.tok["a"]])
    assert total.terms == ((c.tok["a"], 1), (c.tok["b"], 2))
    assert alone.terms == ((c.tok["a"], 1),)
    assert repr(sum([copy(c.tok, c.out), 2 * copy(c.pos, c.out, {1: "a"})])) == "copy(tok, out) + 2 * copy(pos, out)"
    one: Any = 1
    for wrong in (lambda: c.tok["a"] + one, lambda: one + c.tok["a"]):
        with pytest.raises(ConfigError, match=r"tok\['a'\] \+ 1: a bare number is no coordinate; say 1 \* c.one"):
            wrong()
    with pytest.raises(ConfigError, match=r"say -0.5 \* c.one"):
        c.number(c.out["a"], 2 * c.tok["a"] - 0.5 * one)
    with pytest.raises(TypeError):
        sum([copy(c.tok, c.out)], one)


def test_where_a_number_lies_follows_from_words_that_nothing_else_reads_as_well():
    c = Circuit("ab", 2)
    made = c.function("f", c.tok["a"] - 0.5 * c.one["1"], c.out["a"], lambda u: u * u, error=0.01)
    assert (made.knots[0], made.knots[-1]) == (-0.5, 1)
    assert not c.interpret("ab").broken


def test_a_logit_can_be_a_number_and_a_reference_gives_it():
    c = Circuit("!()%", 7, bos="!")
    mean = c.space("mean", ["share"])
    c.head("all", qk=match(c.one, c.tok, {"1": ["(", ")", "%"]}), ov=copy(c.tok, mean, {"(": "share"}), sink=0)
    c.number(c.out["%"], mean["share"])

    def share(text: str) -> list[dict[str, float]]:
        return [{"%": text[1 : i + 1].count("(") / max(i, 1)} for i in range(len(text))]

    report = c.verify(length=6, reference=share, progress=False)
    assert report.ok and report.n_inputs == 3**6
    assert not c.verify(length=3, reference=lambda text: [{"%": 0.5}] * 4, progress=False).ok


def test_addition_modulo_a_prime_by_waves_is_exact_with_a_margin():
    p, frequencies = 13, (1, 4)
    c = Circuit([*map(str, range(p)), "="], n_ctx=3, nothing_below=0.5)
    for k in frequencies:
        turn = 2 * math.pi * k / p
        wave = c.embed(f"wave {k}", {str(i): (math.cos(turn * i), math.sin(turn * i)) for i in range(p)})
        a, b = (c.space(f"{name} {k}", ["cos", "sin"]) for name in "ab")
        for place, space in enumerate((a, b)):
            there = match(c.pos, c.pos, {2: place})
            c.head(f"{space.name} from {place}", qk=there, ov=copy(wave, space, {0: "cos", 1: "sin"}))
        for x, y, f, sign in (("cos", "cos", math.cos, 1), ("sin", "sin", math.cos, -1), ("sin", "cos", math.sin, 1),
                              ("cos", "sin", math.sin, 1)):  # fmt: skip
            factors = [[sign * f(turn * i) for i in range(p)] + [0.0]]
            c.product(f"{x} {y} {k}", a[x], b[y], writes=copy(c.one, c.out, factors), error=0.02)
    texts = [f"{i} {j} =" for i, j in itertools.product(range(p), repeat=2)]
    report = c.verify(texts, lambda text: [..., ..., str(sum(map(int, text.split()[:2])) % p)], progress=False)
    assert report.ok and report.margin > 0.2
    assert c.compile().cfg.n_layers == 1


def f_of(c: Circuit, f: Any = lambda u: u, writes: Any = None, reads: Any = None, **options: Any) -> None:
    """A function of the first number, followed from -1 to 1 unless said otherwise."""
    reads = c.spaces["v"][0] if reads is None else reads
    c.function("f", reads, c.out["a"] if writes is None else writes, f, **{"over": (-1, 1), **options})


def steep(u: float) -> float:
    return float(u > 0.1)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda c: f_of(c, over=None), "function 'f': what it reads is not bounded; .*over="),
        (lambda c: f_of(c, lambda u: 1 / u), r"f\(0\) is not defined"),
        (lambda c: f_of(c, math.sqrt), r"f\(-1\) is not defined"),
        (lambda c: f_of(c, torch.relu), r"f\(-1\) fails .*allowed: a function of one float"),
        (lambda c: f_of(c, lambda u: float("nan")), "allowed: a finite number"),
        (
            lambda c: f_of(c, lambda u: u * u, knots=4, error=1e-3),
            "function 'f': 4 knots between -1 and 1 reach an error of 0.111 and not 0.001; allowed: more knots",
        ),
        (lambda c: f_of(c, steep, error=0.1), "an error of 0.5 and not 0.1; allowed: .* a function without jumps"),
        (lambda c: f_of(c, over=(1, 1)), "over = .* the lower one first"),
        (lambda c: f_of(c, over=(-1, float("inf"))), "two finite numbers"),
        (lambda c: f_of(c, knots=1), "knots = 1; allowed: 2 to 4097"),
        (lambda c: f_of(c, error=0), "error = 0; allowed"),
        (lambda c: f_of(c, lambda u: 0), "function 'f': it is 0 everywhere"),
        (lambda c: f_of(c, 3), "f = 3; allowed: a function"),
        (lambda c: f_of(c, reads=c.spaces["v"]), r"space 'v' has 2 numbers; say which, as in v\[0\]"),
        (lambda c: f_of(c, reads=c.pos), r"say which, as in pos\[0\]; a label is the number sum\(n \* s\[n\] for"),
        (lambda c: f_of(c, writes=copy(c.tok, c.out)), "copies from 3 labels"),
        (lambda c: c.product("f", c.spaces["v"][0], c.spaces["v"][1], c.out["a"]), "product 'f': .* not bounded"),
        (lambda c: f_of(c, reads=c.space("s", ["x"]), over=None), "always 0, as nothing that was declared"),
        (lambda c: c.number(c.spaces["v"][0], c.out["a"]), r"number: v\[0\]; allowed: a coordinate of 'out'"),
        (lambda c: c.direct(copy(c.tok, c.spaces["v"], {"a": 0})), "leads to 'v'; allowed: 'out'"),
        (lambda c: c.spaces["v"][0] * float("nan"), "allowed: a finite number"),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_name(declare: Any, message: str, as_installed: None):
    c = reader(2, None)
    with pytest.raises(ConfigError, match=message):
        declare(c)
    assert c.parts == []


def test_vectors_are_asked_for_by_name_and_shape():
    c = reader(2)
    c.number(c.out["a"], c.spaces["v"][0])
    with pytest.raises(ConfigError, match="the circuit reads vectors 'v'; give"):
        c.interpret("!ab")
    with pytest.raises(ConfigError, match="vectors 'w' are given, and the circuit takes v"):
        c.interpret("!ab", {"w": torch.zeros(1, 3, 2)})
    with pytest.raises(ShapeError, match=r"vectors 'v' have shape \(1, 3, 1\); allowed: \(1, 3, 2\)"):
        c.compile().embedded("!ab", {"v": torch.zeros(1, 3, 1)})
    model = c.compile()
    for run in (model, model.run_with_cache):  # words alone would be run with vectors of zeros
        with pytest.raises(
            ConfigError, match=r"reads vectors beside words; run model\(model.embedded\(text, {'v': ...}\)"
        ):
            run("!ab")
    assert model(model.embedded("!ab", {"v": torch.ones(1, 3, 2)}), start_at_layer=0)[0, 2, 1] == 1
    with pytest.raises(ConfigError, match="the circuit reads vectors v, and vectors = None"):
        c.verify(["!ab"], progress=False)


def test_a_circuit_of_vectors_is_verified_with_the_vectors_of_each_text():
    c = reader(2)
    v = c.spaces["v"]
    before = c.space("before", ["x"], holds="numbers")
    c.head("back", qk=match(c.pos, c.pos, shift(1)), ov=copy(v, before, {0: "x"}))
    c.number(c.out["a"], before["x"] - v[1])

    def given(text: str) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(sum(map(ord, text)))
        return {"v": torch.rand(len(text), 2, generator=generator, dtype=torch.float64)}

    def wanted(text: str) -> list[dict[str, float]]:
        x = given(text)["v"]
        return [{"a": float(x[max(i - 1, 0), 0] - x[i, 1])} for i in range(len(text))]

    assert c.verify(length=3, reference=wanted, vectors=given, progress=False).ok


def test_a_number_outside_of_where_a_function_follows_it_is_reported():
    c = reader(1)
    c.function("f", c.spaces["v"], c.out["a"], lambda u: u * u, over=(-1, 1))
    report = c.verify(["!ab"], vectors=lambda text: {"v": torch.full((3, 1), 1.5)}, progress=False)
    assert not report.ok and "function 'f' reads 1.5, which it follows from -1 to 1" in report.broken
