"""Weights: factored heads and merged neurons, put into a basis of the stream and written into a model's parameters."""

from collections.abc import Mapping

import torch

from circuits.compiler.basis import Basis
from circuits.compiler.encoding import Encoding
from circuits.compiler.factors import FactoredHead
from circuits.compiler.neurons import MergedNeurons
from circuits.compiler.plan import Plan
from circuits.compiler.positions import Rotary
from interp.model import MLP, Attention, HookedTransformer

CHUNK = 4096
"""Neurons that are written at a time."""


def write_model(
    model: HookedTransformer, plan: Plan, sharp: Mapping[str, float], basis: Basis, memory: Basis | None = None
) -> None:
    """Write every parameter; those that the circuit does not use become zero.

    Args:
        sharp: the factors on the scores.
        memory: the basis of the source's stream, where cross heads read one.
    """
    for name, parameter in model.named_parameters():
        parameter.fill_(basis.gain if name.endswith(".w") else 0.0)
    model.embed.W_E.copy_(basis.writes(plan.embedding, model.cfg.dtype)).add_(basis.constant.to(model.cfg.dtype))
    if not isinstance(plan.encoding.code, Rotary):
        model.pos_embed.W_pos.copy_(basis.writes(plan.positions))
    if model.cfg.has_unembed and not model.cfg.tie_word_embeddings:
        model.unembed.W_U.copy_(basis.reads(plan.unembedding))
    for one in (*plan.heads, *plan.distractors):
        place = plan.places[one.head.name]
        factor, block = sharp[one.head.name] * model.cfg.attn_scale, model.blocks[place.layer]
        if one.head.cross:
            assert memory is not None
            _write_head(block.cross_attn, place.index or 0, one, factor, plan.encoding, basis, memory)
        else:
            _write_head(block.attn, place.index or 0, one, factor, plan.encoding, basis, basis)
    for layer, neurons in plan.neurons.items():
        _write_neurons(model.blocks[layer].mlp, neurons, basis)


def _write_head(
    attn: Attention, index: int, one: FactoredHead, factor: float, encoding: Encoding, basis: Basis, keys: Basis
) -> None:
    """Write a head, whose keys and values are in the basis `keys`. `factor` multiplies its queries.

    A rotary code has the first dimensions of queries and keys, but for cross heads.
    """
    first, dtype = 0 if one.head.cross else attn.cfg.rotary_dim or 0, attn.cfg.dtype
    qk, ov = slice(first, first + one.qk_rank), slice(one.ov_rank)
    attn.W_Q[index, :, qk] = basis.reads(one.query.times(factor), dtype)
    attn.W_K[index, :, qk] = keys.reads(one.key, dtype)
    attn.W_V[index, :, ov] = keys.reads(one.value, dtype)
    attn.W_O[index, ov] = basis.writes(one.output, dtype)
    if one.rotated:
        query, key = one.rotated
        constant = basis.reads(encoding.constant)[:, 0]
        attn.W_Q[index, :, :first] = torch.outer(constant, query * factor).to(attn.W_Q.dtype)
        attn.W_K[index, :, :first] = torch.outer(constant, key).to(attn.W_K.dtype)


def _write_neurons(mlp: MLP, neurons: MergedNeurons, basis: Basis) -> None:
    """Write the neurons of a layer, from the first on."""
    mlp.b_in[: len(neurons)] = -neurons.starts.to(mlp.b_in.dtype)
    for first in range(0, len(neurons), CHUNK):
        these = slice(first, min(first + CHUNK, len(neurons)))
        mlp.W_in[:, these] = basis.reads(neurons.reads.part(these), mlp.W_in.dtype)
        mlp.W_out[these] = basis.writes(neurons.writes.part(these), mlp.W_out.dtype)
