"""Weights: factored heads and merged neurons, put into a basis of the stream and written into a model's parameters."""

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.compiler.basis import Basis
from circuits.compiler.encoding import ONE, Encoding
from circuits.compiler.factors import FactoredHead
from circuits.compiler.neurons import MergedNeurons
from circuits.compiler.positions import Rotary
from circuits.compiler.sparse import Sparse
from circuits.language import Layout
from interp.model import MLP, Attention, HookedTransformer

CHUNK = 4096
"""Neurons that are written at a time."""


def write_ends(model: HookedTransformer, layout: Layout, encoding: Encoding, basis: Basis) -> None:
    """Write embeddings and unembedding; every other parameter becomes zero, or the gain of a norm."""
    for name, parameter in model.named_parameters():
        parameter.fill_(basis.gain if name.endswith(".w") else 0.0)
    model.embed.W_E.copy_(_writes(layout.embedding, encoding, basis) + basis.constant)
    if not isinstance(encoding.code, Rotary):
        model.pos_embed.W_pos.copy_(_writes(layout.positions, encoding, basis))
    if not model.cfg.tie_word_embeddings:
        read = encoding.read(_by_label(layout.unembedding, encoding), "the unembedding")
        model.unembed.W_U.copy_(basis.reads(read))


def _writes(rows: Float[Tensor, "rows labels"], encoding: Encoding, basis: Basis) -> Float[Tensor, "rows d_model"]:
    return basis.writes(encoding.written(_by_label(rows.T, encoding)))


def _by_label(columns: Float[Tensor, "labels columns"], encoding: Encoding) -> Sparse:
    """A layout's columns among all labels, of which the layout's are the first."""
    found = Sparse.dense(columns)
    return Sparse(found.rows, found.columns, found.values, (encoding.n_labels, columns.shape[1]))


def write_head(attn: Attention, index: int, one: FactoredHead, factor: float, encoding: Encoding, basis: Basis) -> None:
    """Write a head. `factor` multiplies its queries. A rotary code has the first dimensions of queries and keys."""
    first = attn.cfg.rotary_dim or 0
    qk, ov = slice(first, first + one.qk_rank), slice(one.ov_rank)
    attn.W_Q[index, :, qk] = basis.reads(one.query).mul_(factor).to(attn.W_Q.dtype)
    attn.W_K[index, :, qk] = basis.reads(one.key).to(attn.W_K.dtype)
    attn.W_V[index, :, ov] = basis.reads(one.value).to(attn.W_V.dtype)
    attn.W_O[index, ov] = basis.writes(one.output).to(attn.W_O.dtype)
    if one.rotated:
        query, key = one.rotated
        at = torch.tensor([encoding.slices[ONE].start])
        constant = basis.reads(Sparse.of(at, torch.zeros(1, dtype=torch.long), torch.ones(1), (encoding.size, 1)))[:, 0]
        attn.W_Q[index, :, :first] = torch.outer(constant, query * factor).to(attn.W_Q.dtype)
        attn.W_K[index, :, :first] = torch.outer(constant, key).to(attn.W_K.dtype)


def write_neurons(mlp: MLP, neurons: MergedNeurons, encoding: Encoding, basis: Basis) -> None:
    """Write the neurons of a layer, from the first on."""
    reads = encoding.read(neurons.reads, "an MLP's read of 'pos'")
    writes = encoding.written(neurons.writes)
    mlp.b_in[: len(neurons)] = -neurons.starts.to(mlp.b_in.dtype)
    for first in range(0, len(neurons), CHUNK):
        these = slice(first, min(first + CHUNK, len(neurons)))
        mlp.W_in[:, these] = basis.reads(reads.part(these)).to(mlp.W_in.dtype)
        mlp.W_out[these] = basis.writes(writes.part(these)).to(mlp.W_out.dtype)
