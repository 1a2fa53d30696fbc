"""FactoredMatrix of the TransformerLens module: its names, and where it differs from the core's."""

import copy
import pickle
from typing import Any

import pytest
import torch
from grid import assert_close, random_tensor

import interp
from interp import ShapeError
from interp.compat.transformer_lens.factored_matrix import FactoredMatrix

SHAPES = [((4, 2), (2, 4)), ((3, 6), (6, 5)), ((2, 1, 4, 3), (5, 3, 4))]


def made(shapes: tuple[tuple[int, ...], tuple[int, ...]], seed: int = 0) -> tuple[FactoredMatrix, torch.Tensor]:
    A, B = random_tensor(*shapes[0], seed=seed), random_tensor(*shapes[1], seed=seed + 1)
    return FactoredMatrix(A, B), A @ B


def test_it_names_its_parts_as_transformerlens_does():
    m, dense = made(SHAPES[2])
    assert (m.ldim, m.mdim, m.rdim, m.ndim, m.shape) == (4, 3, 4, 4, dense.shape)
    assert m.has_leading_dims and not made(SHAPES[0])[0].has_leading_dims
    assert_close(m.AB, dense)
    assert_close(m.BA, m.B @ m.A)
    assert_close(m.T.AB, dense.mT)
    assert m.pair == (m.A, m.B) or all(torch.equal(*two) for two in zip(m.pair, (m.A, m.B), strict=True))
    assert isinstance(m.core, interp.FactoredMatrix) and torch.equal(m.core.dense(), m.AB)
    assert repr(m) == f"FactoredMatrix: Shape({dense.shape}), Hidden Dim(3)"


@pytest.mark.parametrize("shapes", SHAPES)
def test_the_third_factor_of_its_svd_has_the_right_singular_vectors_as_columns(shapes: Any):
    m, dense = made(shapes)
    U, S, V = m.svd()
    assert V.shape == (*dense.shape[:-2], dense.shape[-1], S.shape[-1])
    assert_close(U * S[..., None, :] @ V.mT, dense)
    assert_close(V.mT @ V, torch.eye(S.shape[-1], dtype=V.dtype).expand((*V.mT.shape[:-1], S.shape[-1])))
    assert_close(S, torch.linalg.svdvals(dense)[..., : S.shape[-1]])
    assert all(one is other for one, other in zip((m.U, m.S, m.Vh), m.svd(), strict=True))
    assert_close(m.norm(), torch.linalg.matrix_norm(dense))
    assert_close(m.collapse_l(), S[..., :, None] * V.mT)
    assert_close(m.collapse_r(), U * S[..., None, :])
    even = m.make_even()
    assert_close(even.AB, dense)
    assert_close(torch.linalg.svdvals(even.A), S.sqrt())


def test_its_eigenvalues_are_all_those_of_the_inner_product():
    m, dense = made(((3, 5), (5, 3)))
    assert m.eigenvalues.shape == (5,)  # of a 3 x 3 matrix: two are 0
    of_product = torch.linalg.eigvals(dense)
    nearest = (m.eigenvalues[:, None] - of_product).abs().amin(dim=0)
    assert (nearest < 1e-10).all()
    assert sorted(m.eigenvalues.abs().tolist())[1] < 1e-10


def test_products_have_the_lower_rank():
    wide, narrow = random_tensor(4, 7, seed=5), random_tensor(3, 5, seed=6)
    m, dense = made(((5, 2), (2, 4)))
    for product, want, rank in (
        (m @ wide, dense @ wide, 2),
        (narrow @ m, narrow @ dense, 2),
        (made(((5, 6), (6, 4)))[0] @ wide, made(((5, 6), (6, 4)))[1] @ wide, 4),
        (m @ made(((4, 3), (3, 6)), 8)[0], dense @ made(((4, 3), (3, 6)), 8)[1], 2),
    ):
        assert isinstance(product, FactoredMatrix)
        assert_close(product.AB, want)
        assert product.mdim == rank
    vector, other = random_tensor(4, seed=7), random_tensor(5, seed=8)
    assert_close(m @ vector, dense @ vector)
    assert_close(other @ m, other @ dense)
    for scalar in (3, 0.5, torch.tensor([2.0], dtype=torch.float64)):
        assert_close((m * scalar).AB, dense * scalar)
        assert_close((scalar * m).AB, dense * scalar)


def test_indexing_always_gives_a_factored_matrix():
    m, dense = made(((3, 2, 5, 4), (3, 2, 4, 6)))
    for index, want in (
        (1, dense[1]),
        ((1, 0), dense[1, 0]),
        ((slice(None), 1), dense[:, 1]),
        ((None, 2), dense[None, 2]),
        ((1, 0, 3), dense[1, 0, 3:4]),
        ((1, 0, -1), dense[1, 0, -1:]),
        ((1, 0, 3, 2), dense[1, 0, 3:4, 2:3]),
        ((slice(None), 0, [0, 2], -1), dense[:, 0, [0, 2]][..., -1:]),
    ):
        found = m[index]
        assert isinstance(found, FactoredMatrix)
        assert_close(found.AB, want)
    assert_close(m.unsqueeze(1).AB, dense[:, None])
    assert_close(m.get_corner(2), dense[:2, :2, :2, :2])


@pytest.mark.usefixtures("as_installed")
def test_what_does_not_fit_is_an_error_of_ours_and_of_theirs():
    m, _ = made(((3, 2), (2, 4)))
    batched, _ = made(((2, 3, 2), (2, 2, 4)))
    for wrong in (
        lambda: FactoredMatrix(torch.ones(3, 2), torch.ones(3, 4)),
        lambda: FactoredMatrix(torch.ones(9, 3, 2), torch.ones(4, 2, 3)),
        lambda: m @ torch.ones(5, 2, dtype=torch.float64),
        lambda: torch.ones(2, 5, dtype=torch.float64) @ m,
        lambda: m.BA,
        lambda: m * torch.ones(2, dtype=torch.float64),
        lambda: batched[0, 0, 0, 0],
    ):
        with pytest.raises(ShapeError) as caught:
            wrong()
        assert isinstance(caught.value, AssertionError) and isinstance(caught.value, RuntimeError)


def test_copies_and_pickles_have_the_same_factors_after_an_svd():
    A = random_tensor(3, 2).requires_grad_()
    m = FactoredMatrix(A * 2, random_tensor(2, 3))
    m.svd()
    for other in (copy.copy(m), copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        assert_close(other.AB, m.AB)
        assert_close(other.S, m.S)


def test_half_precision_is_decomposed_in_float32():
    m = FactoredMatrix(random_tensor(4, 2).half(), random_tensor(2, 4).half())
    assert m.AB.dtype == torch.float16
    assert m.S.dtype == torch.float32 and m.eigenvalues.dtype == torch.complex64
