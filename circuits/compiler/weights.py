"""Weights: factored heads and merged neurons, put into a basis of the stream and written into a model's parameters."""

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.compiler.basis import Basis
from circuits.compiler.encoding import ONE, POS, Encoding
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
    tables = {name: table.T for name in layout.slices if (table := layout.embedding(name)) is not None}
    model.embed.W_E.copy_(_writes(tables, model.cfg.d_vocab, encoding, basis) + basis.constant)
    if not isinstance(encoding.code, Rotary):
        positions = {POS: torch.eye(model.cfg.n_ctx, dtype=torch.float64)} if POS in layout.slices else {}
        model.pos_embed.W_pos.copy_(_writes(positions, model.cfg.n_ctx, encoding, basis))
    if not model.cfg.tie_word_embeddings:
        read = encoding.read(by_label(layout.unembedding, model.cfg.d_vocab, encoding), "the unembedding")
        model.unembed.W_U.copy_(basis.reads(read))


def _writes(
    blocks: dict[str, Float[Tensor, "labels rows"]], n_rows: int, encoding: Encoding, basis: Basis
) -> Float[Tensor, "rows d_model"]:
    return basis.writes(encoding.written(by_label(blocks, n_rows, encoding)))


def by_label(blocks: dict[str, Float[Tensor, "labels columns"]], n_columns: int, encoding: Encoding) -> Sparse:
    """What is read or written of each space, as columns over all labels."""
    shape, found = (encoding.n_labels, n_columns), []
    for name, block in blocks.items():
        one = Sparse.dense(block)
        found.append(Sparse.of(one.rows + encoding.labels[name].start, one.columns, one.values, shape))
    return Sparse.total(found, shape)


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
