"""FactoredMatrix: whatever is asked of it equals what the matrix multiplied out would answer."""

from typing import Any

import pytest
import torch
from grid import assert_close, random_tensor
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp import FactoredMatrix, ShapeError

sizes = st.integers(1, 5)


@st.composite
def factored(draw: st.DrawFn, square: bool = False, batch: tuple[int, ...] | None = None) -> FactoredMatrix:
    """Random factors, their batch axes broadcast, the rank above or below the size, often deficient."""
    rows, rank, columns, seed = draw(sizes), draw(st.integers(1, 7)), draw(sizes), draw(st.integers(0, 2**31))
    batches = st.sampled_from([(), (2,), (1,), (3, 1), (3, 2)])
    one, other = (draw(batches), draw(batches)) if batch is None else (batch, batch)
    A = random_tensor(*one, rows, rank, seed=seed)
    B = random_tensor(*other, rank, rows if square else columns, seed=seed + 1)
    match draw(st.sampled_from(["full", "A", "B", "zero"])):
        case "A":
            A[..., -1] = A[..., 0]
        case "B":
            B[..., -1, :] = B[..., 0, :]
        case "zero":
            A = A * 0
    return FactoredMatrix(A, B)


def dense(value: Any) -> Tensor:
    return value.dense() if isinstance(value, FactoredMatrix) else value


# ---------------------------------------------------------------------------------------------- like a tensor


@given(factored())
def test_it_has_the_shape_of_the_product(m: FactoredMatrix):
    product = m.A @ m.B
    assert (m.shape, m.ndim, m.dtype, m.device) == (product.shape, product.ndim, product.dtype, product.device)
    assert torch.equal(m.dense(), product)


@given(factored())
def test_transposing_exchanges_rows_and_columns(m: FactoredMatrix):
    assert_close(m.T.dense(), m.dense().mT)


def test_broadcast_factors_take_no_memory():
    m = FactoredMatrix(random_tensor(50, 1, 4, 2), random_tensor(60, 2, 4))
    assert m.shape == (50, 60, 4, 4)
    assert m.A.untyped_storage().nbytes() == 50 * 4 * 2 * 8


def test_it_moves_and_casts_as_a_tensor_does():
    m = FactoredMatrix(random_tensor(4, 2), random_tensor(2, 3)).to(torch.float32)
    assert m.dtype == torch.float32
    assert m.to("meta").device.type == "meta"


def test_it_says_what_it_is():
    m = FactoredMatrix(random_tensor(7, 9, 2), random_tensor(2, 3))
    assert repr(m) == "FactoredMatrix([7, 9, 3] of rank <= 2, torch.float64)"


# ---------------------------------------------------------------------------------------------- arithmetic


@given(factored(), factored(), st.booleans())
def test_a_product_with_another_is_that_of_the_dense_ones(m: FactoredMatrix, other: FactoredMatrix, turned: bool):
    other = FactoredMatrix(random_tensor(m.shape[-1], other.rank), other.B)
    product = (other.T @ m.T).T if turned else m @ other
    assert isinstance(product, FactoredMatrix)
    assert product.rank == min(m.rank, other.rank)
    assert_close(product.dense(), m.dense() @ other.dense())


@given(factored(), sizes)
def test_a_product_with_a_matrix_stays_factored(m: FactoredMatrix, n: int):
    right, left = random_tensor(m.shape[-1], n), random_tensor(4, n, m.shape[-2])[:, None, None]
    for product, want in ((m @ right, m.dense() @ right), (left @ m, left @ m.dense())):
        assert isinstance(product, FactoredMatrix)
        assert product.rank == m.rank
        assert_close(product.dense(), want)


@given(factored())
def test_a_product_with_a_vector_is_a_tensor(m: FactoredMatrix):
    right, left = random_tensor(m.shape[-1]), random_tensor(m.shape[-2])
    assert_close(dense(m @ right), m.dense() @ right)
    assert_close(dense(left @ m), left @ m.dense())


@given(factored(), st.sampled_from([(), (2,), (3, 1), (3, 2)]), st.booleans())
def test_sums_and_differences_are_those_of_the_dense_ones(m: FactoredMatrix, batch: tuple[int, ...], minus: bool):
    other = FactoredMatrix(random_tensor(*batch, m.shape[-2], 3), random_tensor(3, m.shape[-1]))
    got, want = (m - other, m.dense() - other.dense()) if minus else (m + other, m.dense() + other.dense())
    assert got.rank == m.rank + 3
    assert_close(got.dense(), want)


@given(factored(), st.floats(0.1, 9), st.booleans())
def test_scaling_scales_the_product(m: FactoredMatrix, number: float, as_tensor: bool):
    factor = torch.tensor(number, dtype=torch.float64) if as_tensor else number
    assert_close((m * factor).dense(), m.dense() * number)
    assert_close((factor * m).dense(), m.dense() * number)
    assert_close((m / factor).dense(), m.dense() / number)
    assert_close((-m).dense(), -m.dense())


def test_each_matrix_of_a_stack_may_have_a_factor_of_its_own():
    m, factor = FactoredMatrix(random_tensor(3, 4, 2), random_tensor(2, 5)), random_tensor(3, 1, 1)
    assert_close((m * factor).dense(), m.dense() * factor)
    assert_close((m / factor).dense(), m.dense() / factor)


# ---------------------------------------------------------------------------------------------- what the matrix is


@given(factored())
def test_the_singular_vectors_and_values_are_those_of_the_product(m: FactoredMatrix):
    U, S, Vh = m.svd()
    k = min(m.rank, *m.shape[-2:])
    eye = torch.eye(k, dtype=torch.float64)
    assert_close(U @ S.diag_embed() @ Vh, m.dense())
    assert_close(S, torch.linalg.svdvals(m.dense())[..., :k])
    assert_close(m.singular_values(), S)
    assert_close(U.mT @ U, eye.expand(*m.shape[:-2], k, k))
    assert_close(Vh @ Vh.mT, eye.expand(*m.shape[:-2], k, k))


@given(factored())
def test_the_norm_is_that_of_the_product(m: FactoredMatrix):
    assert_close(m.norm(), torch.linalg.matrix_norm(m.dense()))


def test_the_norm_of_a_tiny_product_of_large_factors_keeps_its_digits():
    A, B = random_tensor(30, 4), random_tensor(4, 20)
    A[:, 1] = -A[:, 0]
    B[1] = B[0] + 1e-9 * B[2]
    A[:, 2:], A[:, :2] = 0, A[:, :2] * 1e3
    m = FactoredMatrix(A, B)
    assert float(m.norm() / torch.linalg.matrix_norm(m.dense())) == pytest.approx(1, abs=1e-5)


@given(factored(square=True))
def test_the_trace_is_that_of_the_product(m: FactoredMatrix):
    assert_close(m.trace(), m.dense().diagonal(dim1=-2, dim2=-1).sum(-1))


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**31))
def test_the_eigenvalues_are_those_of_the_product_without_the_zeros(n: int, rank: int, seed: int):
    m = FactoredMatrix(random_tensor(2, n, rank, seed=seed), random_tensor(rank, n, seed=seed + 1))
    found = m.eigenvalues()
    assert found.shape == (2, min(n, rank))
    assert (found.abs().diff(dim=-1) <= 1e-12).all()
    for power in range(1, n + 1):  # power sums determine the eigenvalues, and do not depend on their order
        want = torch.linalg.matrix_power(m.dense(), power).diagonal(dim1=-2, dim2=-1).sum(-1)
        assert_close(found.pow(power).sum(-1).real, want, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_factors_are_computed_with_in_float32(dtype: torch.dtype):
    m = FactoredMatrix(random_tensor(2, 6, 3), random_tensor(3, 6)).to(dtype)
    exact = m.A.double() @ m.B.double()
    square = m @ m
    assert isinstance(square, FactoredMatrix)
    assert m.dense().dtype == square.dtype == (m + m).dtype == (2 * m).dtype == (m @ m.B[0, 0]).dtype == dtype
    assert torch.equal(m.dense(), (m.A.float() @ m.B.float()).to(dtype))
    assert_close(square.dense().double(), exact @ exact, atol=0.02)
    for value, want in (
        (m.norm(), torch.linalg.matrix_norm(exact)),
        (m.trace(), exact.diagonal(dim1=-2, dim2=-1).sum(-1)),
        (m.singular_values(), torch.linalg.svdvals(exact)[..., :3]),
        (m.eigenvalues().sum(-1).real, exact.diagonal(dim1=-2, dim2=-1).sum(-1)),
    ):
        assert value.dtype == torch.float32
        assert_close(value, want.float())


def test_gradients_flow_to_the_factors():
    A, B = random_tensor(4, 2).requires_grad_(), random_tensor(2, 3).requires_grad_()
    FactoredMatrix(A, B).norm().backward()
    (want,) = torch.autograd.grad((A @ B).norm(), A)
    assert A.grad is not None
    assert_close(A.grad, want)


# ---------------------------------------------------------------------------------------------- indexing

STACK = FactoredMatrix(random_tensor(3, 4, 5, 2), random_tensor(4, 2, 6))


@given(st.data())
def test_indexing_is_that_of_the_dense_tensor(data: st.DataObject):
    index: list[Any] = []
    lists_left = 1
    for size in STACK.shape[: data.draw(st.integers(1, 4))]:
        one = data.draw(
            st.one_of(
                st.integers(-size, size - 1),
                st.slices(size).filter(lambda s: s.step is None or s.step > 0),
                *([st.lists(st.integers(-size, size - 1), min_size=1, max_size=3)] if lists_left else []),
            )
        )
        lists_left -= isinstance(one, list)
        index.append(one)
    if data.draw(st.booleans()):
        index.append(...)
    got, want = STACK[tuple(index)], STACK.dense()[tuple(index)]
    assert got.shape == want.shape
    assert_close(dense(got), want)


@pytest.mark.parametrize(
    ("index", "stays"),
    [
        (1, True),
        ((0, 2), True),
        ((..., slice(1, 3)), True),
        ((slice(None), 0, [3, 0]), True),
        ((2, 1, torch.tensor([True, False, True, True, False])), True),
        (([0, 2], [1, 3]), True),
        ((None, 1), True),
        (random_tensor(3, 4) > 0, True),
        ((0, 1, 2), False),
        ((..., 2, 3), False),
        ((..., -1), False),
        ((..., torch.tensor(4), slice(None)), False),
    ],
    ids=str,
)
def test_only_integers_among_rows_and_columns_give_a_tensor(index: Any, stays: bool):
    got, want = STACK[index], STACK.dense()[index]
    assert isinstance(got, FactoredMatrix) == stays
    assert got.shape == want.shape
    assert_close(dense(got), want)


def test_iterating_gives_the_matrices_of_a_stack():
    assert [m.shape for m in STACK] == [(4, 5, 6)] * 3


@pytest.mark.parametrize(
    "index", [3, (0, 0, 5), (0, 0, 0, 6), (0, 0, 0, 0, 0), "a", True, 1.5, (..., [0, 1], [0, 1]), ([0, 1], 0, [0, 1]),
              (..., None, 0), (..., torch.ones(5, 6, dtype=torch.bool)), (..., torch.zeros(2, 2, dtype=torch.long), 0)],
    ids=str,
)  # fmt: skip
def test_an_impossible_index_is_an_error(index: Any):
    with pytest.raises(IndexError):
        _ = STACK[index]


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("A", "B", "message"),
    [
        (random_tensor(4, 2), random_tensor(3, 4), r"A is \[4, 2\] and B is \[3, 4\]"),
        (random_tensor(4), random_tensor(4, 4), r"A \[\*batch, rows, rank\]"),
        (random_tensor(2, 4, 2), random_tensor(3, 2, 4), "do not broadcast"),
        (random_tensor(4, 2), random_tensor(2, 4).float(), "one floating dtype"),
        (torch.ones(4, 2, dtype=torch.long), torch.ones(2, 4, dtype=torch.long), "one floating dtype"),
    ],
    ids=["inner size", "vector", "batch", "dtypes", "integers"],
)
def test_factors_that_do_not_fit_are_an_error(A: Tensor, B: Tensor, message: str, as_installed: None):
    with pytest.raises(ShapeError, match=message):
        FactoredMatrix(A, B)


def test_operations_between_shapes_that_do_not_fit_are_errors():
    m = FactoredMatrix(random_tensor(4, 2), random_tensor(2, 3))
    stack = FactoredMatrix(random_tensor(2, 4, 2), random_tensor(2, 3))
    other = FactoredMatrix(random_tensor(3, 4, 2), random_tensor(2, 3))
    for attempt, message in (
        (lambda: m @ m, "have no product"),
        (lambda: m @ random_tensor(4), "have no product"),
        (lambda: m @ torch.tensor(2.0), "have no product"),
        (lambda: random_tensor(5, 5) @ m, "have no product"),
        (lambda: stack @ other.T, "do not broadcast"),
        (lambda: m @ random_tensor(3, 3).float(), "bring them together with .to"),
        (lambda: m + m.T, "have no sum"),
        (lambda: stack - other, "do not broadcast"),
        (lambda: m * random_tensor(3), r"\[\*batch, 1, 1\]"),
        (m.trace, "not square"),
        (m.eigenvalues, "not square"),
    ):
        with pytest.raises(ShapeError, match=message):
            attempt()


@pytest.mark.parametrize("other", ["a", None, 2, 1j], ids=repr)
def test_sums_and_products_with_other_things_are_type_errors(other: Any, as_installed: None):
    m = FactoredMatrix(random_tensor(4, 2), random_tensor(2, 4))
    for attempt in (lambda: m + other, lambda: other - m, lambda: m @ other, lambda: other @ m):
        with pytest.raises(TypeError):
            attempt()


def test_a_dense_matrix_is_never_added_behind_ones_back(as_installed: None):
    m = FactoredMatrix(random_tensor(4, 2), random_tensor(2, 4))
    with pytest.raises(TypeError):
        _ = m + random_tensor(4, 4)  # pyright: ignore[reportOperatorIssue]
    with pytest.raises(TypeError):
        _ = random_tensor(4, 4) - m  # pyright: ignore[reportOperatorIssue]
