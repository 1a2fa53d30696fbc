"""The compiler at size: what it computes, and that it computes no more."""

import random
from typing import Any

import pytest
import torch

from circuits import Circuit, copy, match, shift
from circuits.compiler.sparse import Sparse, rank_factors
from circuits.language import Neurons


def many_words(n: int, **head: Any) -> Circuit:
    """Induction over n words."""
    c = Circuit([f"w{i}" for i in range(n)], n_ctx=32, bos="w0")
    prev = c.space("prev", c.tok)
    c.head(0, "previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
    c.head(1, "induction", qk=match(c.tok, prev), ov=copy(c.tok, c.out), **head)
    return c


@pytest.fixture
def decomposed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of all matrices that are decomposed."""
    shapes, svd = [], torch.linalg.svd

    def watched(matrix: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        shapes.append(tuple(matrix.shape))
        return svd(matrix, *args, **kwargs)

    monkeypatch.setattr(torch.linalg, "svd", watched)
    return shapes


# ---------------------------------------------------------------------------------------------- factors


@pytest.mark.parametrize("seed", range(4))
def test_the_factors_of_a_matrix_are_those_of_its_singular_value_decomposition(seed: int):
    generator, draw = torch.Generator().manual_seed(seed), random.Random(seed)
    for _ in range(50):
        n, m = draw.randint(1, 9), draw.randint(1, 9)
        matrix = torch.randn(n, m, dtype=torch.float64, generator=generator)
        matrix *= torch.rand(n, m, generator=generator) < draw.choice([0.1, 0.3, 1.0])
        matrix[draw.randrange(n)] = 2 * matrix[draw.randrange(n)]  # a rank below its size
        left, right = rank_factors(Sparse.dense(matrix))
        assert torch.allclose(left.to_dense() @ right.to_dense().T, matrix, atol=1e-12)
        sizes = torch.linalg.svdvals(matrix)
        sizes = sizes[sizes > 1e-10]
        assert torch.allclose(left.to_dense().norm(dim=0), sizes)
        assert torch.allclose(right.to_dense().T @ right.to_dense(), torch.eye(len(sizes), dtype=torch.float64))


def test_a_permutation_needs_no_decomposition(decomposed: list[tuple[int, ...]]):
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    left, right = rank_factors(Sparse.dense(-3 * torch.eye(50, dtype=torch.float64)[order]))
    assert left.shape == right.shape == (50, 50) and decomposed == []


def test_what_is_not_connected_is_decomposed_apart(decomposed: list[tuple[int, ...]]):
    blocks = [torch.ones(2, 3), torch.eye(4), torch.ones(3, 2)]
    left, _ = rank_factors(Sparse.dense(torch.block_diag(*blocks).double()))
    assert left.shape == (9, 6) and sorted(decomposed) == [(2, 3), (3, 2)]


def test_the_heads_of_a_circuit_with_many_words_are_decomposed_but_for_sink_and_recency(
    decomposed: list[tuple[int, ...]],
):
    model = many_words(200, ties="latest").compile()
    assert decomposed == [(1, 32)]  # the constant, beside the start and 31 positions: the first prefers nothing
    report = model.report.heads["induction"]
    assert (report.qk_rank, report.ov_rank) == (201, 199)
    assert model.predict("w0 w7 w8 w9 w7") == [None, None, None, None, "w8"]


# ---------------------------------------------------------------------------------------------- neurons


def test_entries_of_two_tables_with_the_same_key_share_their_neurons():
    c = Circuit("!ab", 3, bos="!")
    kind = c.space("kind", ["x", "y"])
    c.mlp(0, "kind", c.tok, kind, {"a": "x", "b": "y"})
    c.mlp(0, "swap", c.tok, c.out, {"a": "b", "b": "a"})
    c.mlp(1, "again", kind, c.out, {"x": "a"})
    model = c.compile()
    assert model.cfg.d_mlp == 4
    assert c.verify(model=model, progress=False).ok


def test_a_function_of_k_pieces_has_k_plus_1_neurons_and_those_of_its_constant():
    c = Circuit("!ab", 3, bos="!")
    x, y = c.embed("x", {"a": [0.5], "b": [-0.75]}), c.space("y", ["y"], holds="numbers")
    c.function("square", reads=x[0], writes=y["y"], f=lambda u: u * u, knots=8, over=(-1, 1))
    c.number(c.out["a"], y["y"])
    model = c.compile(dtype=torch.float64)
    (neurons,) = c.parts
    assert isinstance(neurons, Neurons)
    n_pieces = sum(not ramp.snaps for ramp in neurons.ramps)
    assert n_pieces >= 7 and model.cfg.d_mlp == n_pieces + 1 + 2
    assert c.verify(model=model, progress=False).ok


def test_neurons_that_write_nothing_are_left_out():
    c = Circuit("!ab", 3, bos="!")
    number = c.embed("number", {"a": [0.5]})
    for name, values in (("up", {"a": 0.0, "b": 1.0}), ("down", {"b": 0.0, "a": 1.0})):
        c.bucket(0, name, number, c.out, values)
    model = c.compile(dtype=torch.float64)
    assert model.cfg.d_mlp == 2  # the ramps between the values cancel, and that of the gate is one for both
    assert torch.allclose(model(torch.tensor([[0, 1, 2]])), torch.tensor([0.0, 1, 1], dtype=torch.float64))


@torch.no_grad()
def test_neurons_that_are_shared_are_exact_to_rounding():
    c = Circuit("!ab", 6, bos="!")
    n = c.count("n", match(c.tok, c.tok), up_to=5)
    c.direct(copy(n, c.out, {5: "a", 4: "b", 3: "!"}))
    text = "!aaaaa"
    logits = c.compile(dtype=torch.float64, error=1e-12)(text)
    assert isinstance(logits, torch.Tensor)
    assert float((logits - c.interpret(text).logits).abs().max()) < 1e-12
