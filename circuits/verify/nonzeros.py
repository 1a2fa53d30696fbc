"""Nonzeros: MLPs of compiled tables, run through the few entries of their weights that are not zero.

A table of thousands of entries has a neuron or two an entry, each of which reads a few coordinates of the stream and
writes one. Where nothing rotates the stream, nearly all of its weights are zero, and products with them take most of
the time of a verification.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from interp.model import MLP, HookedTransformer

MANY = 500
"""Fewer neurons are fast as they are."""

SPARSE = 0.06
"""The share of entries that may be other than zero."""

PORTION = 512
"""Positions at a time, so that their neurons fit the processor's cache."""


@contextmanager
def through_nonzeros(model: HookedTransformer) -> Iterator[None]:
    """Within the block, large MLPs whose weights are nearly all zero multiply by their nonzero entries alone.

    The sums are the same but for the order of their terms. MLPs that are hooked, gated or normed, those on other
    devices than the CPU, and those in half precision run as they are.
    """
    changed: list[MLP] = []
    try:
        for block in model.blocks if not model.cfg.attn_only else ():
            if (run := _products(block.mlp)) is not None:
                block.mlp.forward = run  # pyright: ignore[reportAttributeAccessIssue]
                changed.append(block.mlp)
        yield
    finally:
        for mlp in changed:
            del mlp.forward


def _products(mlp: MLP) -> Callable[[Tensor], Tensor] | None:
    """The MLP's function with sparse products; None where it has to run as it is."""
    W_in, W_out = mlp.W_in.detach(), mlp.W_out.detach()
    plain = type(mlp).forward is MLP.forward and "forward" not in vars(mlp)
    plain = plain and not (mlp.gated or mlp.normed or mlp.hook_pre.hooks or mlp.hook_post.hooks)
    if not plain or W_in.dtype not in (torch.float32, torch.float64) or W_in.device.type != "cpu":
        return None
    if W_in.shape[1] < MANY or any(float((W != 0).float().mean()) > SPARSE for W in (W_in, W_out)):
        return None
    into, out_of = _sparse(W_in.T), _sparse(W_out.T)

    def forward(x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        flat = x.reshape(-1, x.shape[-1])
        found = torch.empty_like(flat)
        for start in range(0, len(flat), PORTION):
            rows = slice(start, start + PORTION)
            post = mlp.act(into @ flat[rows].T + mlp.b_in[:, None])
            found[rows] = (out_of @ post).T + mlp.b_out
        return found.view(x.shape)

    return forward


def _sparse(W: Float[Tensor, "rows columns"]) -> Tensor:
    with warnings.catch_warnings():  # PyTorch calls the layout a beta
        warnings.simplefilter("ignore")
        return W.to_sparse_csr()
