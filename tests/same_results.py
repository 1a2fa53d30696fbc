"""Pairs of prompts of unequal length, as a data set and as one padded batch; and results that must be the same."""

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp import HookedTransformer
from interp.data import PromptPairs
from interp.metrics import LogitDifference

TOLERANCE = 1e-10


def random_pairs(model: HookedTransformer, lengths: list[int], seed: int = 0) -> PromptPairs:
    """One pair for each length, which differ in one or two tokens after the first; each with answers of its own."""
    generator = torch.Generator().manual_seed(seed)
    d_vocab, n_answers = model.cfg.d_vocab, model.cfg.d_vocab_out
    clean, corrupted = [], []
    for n in lengths:
        ids = torch.randint(d_vocab, (n,), generator=generator)
        other = ids.clone()
        for place in torch.randint(min(1, n - 1), n, (2,), generator=generator):
            other[place] = (ids[place] + 1) % d_vocab
        clean.append(ids.tolist())
        corrupted.append(other.tolist())
    answers = [torch.randperm(n_answers, generator=generator)[:2].tolist() for _ in lengths]
    return PromptPairs(clean, corrupted, *zip(*answers, strict=True))


def in_one_batch(pairs: PromptPairs) -> dict[str, Any]:
    """Arguments of a call on all pairs at once: ids padded on the left, their mask, and the metric of their answers."""
    clean, mask = _padded(pairs.clean)
    corrupted, _ = _padded(pairs.corrupted)
    assert pairs.incorrect is not None
    return {
        "corrupted": corrupted,
        "clean": clean,
        "metric": LogitDifference(list(pairs.correct), list(pairs.incorrect), pos=-1),
        "attention_mask": mask,
    }


def _padded(rows: Any) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], dtype=torch.bool)
    return ids, mask


def assert_same(found: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    """Two results, arrays or data sets of them, have the same numbers, coordinates, and words about themselves.

    `tolerance` is absolute for values up to 1, and a share of the largest beyond: shares of a small gap are large.
    """
    if isinstance(expected, xr.Dataset):
        assert set(found) == set(expected)
        for name in expected:
            assert_same(found[name], expected[name], tolerance)
    else:
        assert (found.dims, found.name) == (expected.dims, expected.name)
        _assert_near(found.to_numpy(), expected.to_numpy(), tolerance)
    assert set(found.coords) == set(expected.coords)
    for name in expected.coords:
        ours, theirs = found[name].to_numpy(), expected[name].to_numpy()
        if theirs.dtype.kind == "f":
            _assert_near(ours, theirs, tolerance)
        else:
            assert ours.tolist() == theirs.tolist(), name
    assert set(found.attrs) - {"pairs", "n_pos"} == set(expected.attrs)
    for name, value in expected.attrs.items():
        numbers = isinstance(value, float) or (isinstance(value, list) and isinstance(value[0], float))
        if numbers:
            _assert_near(np.asarray(found.attrs[name]), np.asarray(value), tolerance)
        else:
            assert found.attrs[name] == value, name


def _assert_near(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    finite = np.abs(expected[np.isfinite(expected)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1.0, finite.max(initial=0.0)))
