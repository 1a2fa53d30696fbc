"""Composition: how much of what a head writes each later head can read, from the weights alone."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp.budget import check_bytes, portions
from interp.errors import ConfigError, check_choice
from interp.factored import FactoredMatrix
from interp.keywords import known_keywords
from interp.model import HookedTransformer, check_one_stack
from interp.precision import without_autocast
from interp.progress import shown
from interp.weights.head_weights import HeadWeights, of_all_heads, table_of_heads

if TYPE_CHECKING:
    import xarray

Kind = Literal["Q", "K", "V"]
"""Through which input of a later head an earlier one is read."""

PRODUCT_BYTES = 2**24
"""How much the products of heads take at a time by default: 2048 x 2048 numbers in float32."""


@torch.no_grad()
@without_autocast()
@known_keywords
def composition_scores(
    model: HookedTransformer,
    kinds: Iterable[Kind] = ("Q", "K", "V"),
    score: Literal["raw", "aligned"] = "raw",
    *,
    fold_norms: bool = False,
    max_bytes: int = PRODUCT_BYTES,
    progress: bool = True,
) -> "xarray.DataArray":
    """How much of what each head writes each later head can read: all pairs, from the weights alone.

    A is W_OV of the writer. B depends on the kind: W_QK of the reader for Q-composition, its transpose for
    K-composition, W_OV of the reader for V-composition. The raw score is `|AB| / (|A| |B|)` in Frobenius norms (Elhage
    et al. 2021); two heads that copy the same r orthonormal directions score `1 / sqrt(r)`. The aligned score is
    `|AB| / sqrt(sum_i s_i(A)^2 s_i(B)^2)`, with singular values in falling order. It divides by the most that `|AB|`
    could be (von Neumann), so that perfectly composed heads of any rank score 1. In a rotary model W_QK is that at
    distance 0.

    Args:
        kinds: which compositions.
        score: "raw" or "aligned".
        fold_norms: count the norms in, as `circuits.py` says.
        max_bytes: how much the products of writing and reading heads may take at a time; of one pair of heads they are
            always made. Results do not depend on it.
        progress: show a progress bar on a terminal.

    Returns:
        [kind, writer_layer, writer_head, reader_layer, reader_head], in float32 at least; NaN where the writer is not
        in an earlier layer than the reader, or one of both circuits is 0. `attrs` hold definition and model hash.

    Raises `ConfigError` for another kind or score, a budget that is none, no blocks, or `fold_norms` with post-norm.
    """
    check_one_stack(model.cfg, "composition_scores")
    kinds = list(kinds)
    for kind in kinds:
        check_choice("kinds", kind, get_args(Kind))
    check_choice("score", score, ("raw", "aligned"))
    if not kinds or len(set(kinds)) < len(kinds):
        raise ConfigError(f"kinds = {kinds}; allowed: at least one, each once")
    heads_at_once = math.isqrt(check_bytes(max_bytes) // 4) // model.cfg.d_head  # on either side of a product
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    n, weights = layers * heads, HeadWeights(*(weight.flatten(0, 1) for weight in of_all_heads(model, fold_norms)))
    writer = FactoredMatrix(weights.W_V, weights.W_O)
    written, sizes = writer.reduced(), writer.singular_values()
    blocks = portions([1] * n, heads_at_once)
    steps = [(i, block) for i in range(len(kinds)) for block in blocks]

    scores = torch.full((len(kinds), n, n), math.nan, dtype=written.dtype)
    for i, readers in shown(steps, "composition", len(steps), progress):
        reader = _reader(weights, kinds[i], readers)
        read, most = reader.T.reduced().mT, _most(sizes, reader.singular_values(), score)
        for writers in blocks:
            if writers.start // heads < (readers.stop - 1) // heads:  # else none of them comes before any reader
                norms = _norms_of_products(written[writers], read)
                scores[i, writers, readers] = (norms / most[writers]).cpu()
    layer_of = torch.arange(n) // heads
    scores.masked_fill_((layer_of[:, None] >= layer_of) | scores.isinf(), math.nan)

    definition = "|AB| / (|A| |B|)" if score == "raw" else "|AB| / sqrt(sum_i s_i(A)^2 s_i(B)^2)"
    dims = ("kind", "writer_layer", "writer_head", "reader_layer", "reader_head")
    values = scores.view(len(kinds), layers, heads, layers, heads)
    where_b = "B = W_QK (Q), W_QK^T (K), W_OV (V) of the reader"
    result = table_of_heads(
        model, values, dims, f"{score} composition", f"{definition}; A = W_OV, {where_b}", fold_norms
    )
    return result.assign_coords(kind=kinds)


def _reader(weights: HeadWeights, kind: Kind, heads: slice) -> FactoredMatrix:
    """B, by which a later head reads a write `A` as `A @ B`."""
    W_Q, W_K, W_V, W_O = (weight[heads] for weight in weights)
    return {"Q": FactoredMatrix(W_Q, W_K.mT), "K": FactoredMatrix(W_K, W_Q.mT), "V": FactoredMatrix(W_V, W_O)}[kind]


def _most(
    writers: Float[Tensor, "writer k"], readers: Float[Tensor, "reader k"], score: str
) -> Float[Tensor, "writer reader"]:
    """What `|AB|` is compared with, from the singular values of both."""
    if score == "raw":
        return writers.norm(dim=-1)[:, None] * readers.norm(dim=-1)
    return (writers.square() @ readers.square().T).sqrt()


def _norms_of_products(
    written: Float[Tensor, "writer rank d_model"], read: Float[Tensor, "reader d_model rank"]
) -> Float[Tensor, "writer reader"]:
    """Frobenius norms of all products at once."""
    (writers, rank, _), (readers, _, width) = written.shape, read.shape
    products = written.flatten(0, 1) @ read.transpose(0, 1).flatten(1)
    squares = products.square_().view(-1, readers, width).sum(dim=-1)  # of each row, in two steps: memory in order
    return squares.view(writers, rank, readers).sum(dim=1).sqrt()
