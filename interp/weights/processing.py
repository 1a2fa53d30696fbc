"""Other weights for the same function: what a model computes can be written in several ways, some easier to read.

Each function returns a new model and leaves the given one as it is. What is kept, and where it is possible:

| function | keeps | impossible (`ConfigError`) |
|---|---|---|
| `fold_layer_norm` | logits | norms on the stream itself (`norm_position="post"`); shortformer positions |
| `center_writing_weights` | logits | anything but LayerNorm, in `norm_position="pre"`; a norm of the embeddings |
| `center_unembed` | log-probabilities | a cap on the logits; no unembedding |
| `fold_value_biases` | logits | |
| `refactor_factored_attn_matrices` | logits | rotary positions, norms of queries and keys, grouped keys |

All is computed in float64 and rounded once to the model's own dtype; up to that rounding the above is kept, and a
second time changes nothing more. Activations on the way may change: that is the purpose. Tokenizer, device, dtype and
which parameters are trained carry over; hooks do not. No decomposition in this package needs any of this. In a model
without an unembedding, what is said of logits holds for the stream after the final norm.
"""

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import ConfigError
from interp.model import Attention, Block, HookedTransformer, Norm, Part, check_one_stack, steps

FIXED = ("onehot", "sinusoidal", "sinusoidal_halves")
"""Positions whose vectors are a fixed table."""

Reader = tuple[Tensor, Tensor]
"""A weight [..., d_model, out] that reads a norm, and the bias [..., out] beside it."""


@torch.no_grad()
def fold_layer_norm(model: HookedTransformer) -> HookedTransformer:
    """The gain `w` and bias `b` of every norm that is read, moved into the weights that read it. Keeps the logits.

        (n * w + b) W + c  =  n (diag(w) W) + (b W + c),    n the normalised stream

    Afterwards these norms have gain 1 and bias 0, and `hook_normalized` shows n. With LayerNorm, n has mean 0 over
    d_model, so that the part of W that reads this mean is idle; as is the custom it is taken off (every column of W
    then sums to 0). So is the norm of neurons ("solu_ln"), into `W_out`, whose columns then sum to 0 over neurons. Tied
    embeddings are untied, since only the unembedding reads a norm. Norms of queries and keys, and norms on what is
    written (`norm_position="both"`), stay: what they scale is not a weight's input. So does the norm of the embeddings
    (`embed_norm`), whose output is the stream, and the final norm where no weight reads it (without an unembedding) or
    a `pooling` does as well. A model without norms is only copied.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", on handling layer norm.

    Raises:
        ConfigError: `norm_position="post"`, or shortformer positions, which the same weights read beside the norm.
    """
    check_one_stack(model.cfg, "fold_layer_norm")
    cfg = model.cfg
    if cfg.normalization_type is None:
        return _with_folded_neurons(_copy(model))
    if not cfg.norms_reads:
        raise ConfigError(
            "norm_position = 'post' normalises the stream itself: the gain is part of what later layers add to, and no "
            "reading weight can take it over; fold_layer_norm needs norm_position = 'pre' or 'both'"
        )
    if cfg.positional_embedding_type == "shortformer":
        raise ConfigError(
            "positional_embedding_type = 'shortformer' adds positions to the normalised stream that queries and keys "
            "read: weights that take over the gain would scale the positions as well"
        )
    new = _copy(model, tie_word_embeddings=False)
    for step in steps(cfg):
        if step.read_norm is not None:
            _fold_norm(cast(Norm, new.get_submodule(step.read_norm)), _readers(new.blocks[step.layer], step.part))
    _with_folded_neurons(new)
    if cfg.masked_token_head:
        _fold_norm(new.mlm_head.ln, [(new.unembed.W_U, new.unembed.b_U)])
    if cfg.has_unembed and cfg.pooling is None:
        head = (new.mlm_head.W_in, new.mlm_head.b_in) if cfg.masked_token_head else (new.unembed.W_U, new.unembed.b_U)
        _fold_norm(new.ln_final, [head])
    return new


@torch.no_grad()
def center_writing_weights(model: HookedTransformer) -> HookedTransformer:
    """Everything that is written to the stream with its mean over d_model taken off. Keeps the logits.

    `W_E`, `W_pos`, `W_type`, `W_O`, `b_O`, `W_out` and `b_out` then sum to 0 over d_model, and so does the stream
    everywhere: LayerNorm, which takes the mean off before all else, is left with dividing by the scale. Tied embeddings
    are untied: only the embedding is written. One-hot and sinusoidal positions become "standard" ones that are not
    trained, for the centred table is neither; those of shortformer models, which are no part of the stream, stay as
    they are.

    Raises:
        ConfigError: something reads the stream otherwise than through a LayerNorm, or is written through a norm.
    """
    check_one_stack(model.cfg, "center_writing_weights")
    cfg = model.cfg
    if cfg.normalization_type != "LN" or cfg.norm_position != "pre":
        why = "not everything that reads the stream ignores its mean over d_model"
        if cfg.normalization_type == "LN" and cfg.norm_position == "both":
            why = "the norms on what is written bring back a mean that no weight can take off"
        raise ConfigError(
            f"normalization_type = {cfg.normalization_type!r}, norm_position = {cfg.norm_position!r}: {why}; "
            "center_writing_weights needs 'LN' and 'pre'"
        )
    if cfg.embed_norm:
        raise ConfigError("embed_norm = True: the stream begins with a norm's output, and the mean over d_model that "
                          "its gain gives this can be taken off by no weight")  # fmt: skip
    if not cfg.first_ln1:
        raise ConfigError("first_ln1 = False: attention of layer 0 reads the stream with its mean over d_model, as no "
                          "norm takes it off")  # fmt: skip
    positions = cfg.positional_embedding_type
    new = _copy(
        model,
        tie_word_embeddings=False,
        positional_embedding_type="standard" if positions in FIXED else positions,
    )
    _center(new.embed.W_E)
    if cfg.positions_in_stream:
        _center(new.pos_embed.W_pos)
    if cfg.n_token_types:
        _center(new.token_type_embed.W_type)
    for block in new.blocks:
        for attn in block.attentions:
            _center(attn.W_O, attn.b_O)
        if not cfg.attn_only:
            _center(block.mlp.W_out, block.mlp.b_out)
    return new


@torch.no_grad()
def center_unembed(model: HookedTransformer) -> HookedTransformer:
    """`W_U` and `b_U` with their mean over d_vocab taken off. Keeps the log-probabilities.

    The logits of a position lose their mean over the vocabulary, which the softmax does not see. Tied embeddings are
    untied.

    Raises:
        ConfigError: the logits are soft-capped: the cap is not linear, and sees their mean. Or there are none.
    """
    check_one_stack(model.cfg, "center_unembed")
    if not model.cfg.has_unembed:
        raise ConfigError("d_vocab_out = 0: this model has no unembedding that could be centred")
    if model.cfg.output_logits_soft_cap is not None:
        raise ConfigError(
            f"output_logits_soft_cap = {model.cfg.output_logits_soft_cap} bends logits by their distance from 0, so "
            "that moving them all by the same amount changes probabilities; center_unembed needs a model without a cap"
        )
    new = _copy(model, tie_word_embeddings=False)
    _center(new.unembed.W_U, new.unembed.b_U)
    return new


@torch.no_grad()
def fold_value_biases(model: HookedTransformer) -> HookedTransformer:
    """The value biases, moved through `W_O` into `b_O`. Keeps the logits.

        sum_key pattern[key] (v[key] + b_V) W_O + b_O  =  sum_key pattern[key] v[key] W_O + (b_V W_O + b_O)

    because a pattern sums to one over keys; under hooks that change this sum, the two models differ. Afterwards `b_V`
    is 0, and what a head writes depends on what it attends to alone. Any architecture.
    """
    check_one_stack(model.cfg, "fold_value_biases")
    new = _copy(model)
    for attn in (attn for block in new.blocks for attn in block.attentions):
        W_O = attn.W_O.double()
        b_V = attn.b_V.double().repeat_interleave(len(W_O) // len(attn.b_V), dim=0)  # [head, d_head]
        attn.b_O.copy_(attn.b_O.double() + (b_V[:, None] @ W_O).sum(dim=(0, 1)))
        attn.b_V.zero_()
    return new


@torch.no_grad()
def refactor_factored_attn_matrices(model: HookedTransformer) -> HookedTransformer:
    """Queries and keys, values and outputs of each head along the singular directions of their products. Keeps logits.

        [W_Q; b_Q] [W_K; b_K]^T = U S V^T,    [W_Q; b_Q] := U sqrt(S),    [W_K; b_K] := V sqrt(S)
        [W_V; b_V] W_O          = U S V^T,    [W_V; b_V] := U S,          W_O        := V^T

    The biases are one more row, read by a constant 1. Only these products matter to the logits (Elhage et al. 2021);
    afterwards the dimensions of a head are orthogonal and ordered by how much they carry, and those that carry nothing
    are 0. The sign of each is such that the largest entry of its column of U is positive.

    Raises:
        ConfigError: something stands between the factors (a rotation, a norm of queries and keys), or several query
            heads share one key, so that the product of each could not be refactored for itself.
    """
    check_one_stack(model.cfg, "refactor_factored_attn_matrices")
    _refuse_refactoring(model.cfg)
    new = _copy(model)
    for attn in (attn for block in new.blocks for attn in block.attentions):
        _refactor(attn)
    return new


# ---------------------------------------------------------------------------------------------- the steps


def _copy(model: HookedTransformer, **changes: Any) -> HookedTransformer:
    """A model of the same weights without hooks, its config changed; `tie_word_embeddings=False` unties."""
    new, cfg = copy.deepcopy(model), dataclasses.replace(model.cfg, dtype=model.W_E.dtype, **changes)
    new.tokenizer = model.tokenizer
    for module in new.modules():
        if isinstance(getattr(module, "cfg", None), TransformerConfig):
            vars(module)["cfg"] = cfg
    if model.cfg.tie_word_embeddings and not cfg.tie_word_embeddings:
        new.unembed.untie()
    if cfg.positional_embedding_type != model.cfg.positional_embedding_type:  # a table becomes a parameter
        table = new.pos_embed.W_pos.detach()
        del new.pos_embed.W_pos
        new.pos_embed.W_pos = torch.nn.Parameter(table, requires_grad=False)
    return new


def _readers(block: Block, part: Part) -> Iterable[Reader]:
    """What reads the norm before a part of a block. Keys and values of cross-attention read the memory."""
    if part == "cross_attn":
        return [(block.cross_attn.W_Q, block.cross_attn.b_Q)]
    if part == "attn":
        attn = block.attn
        return [(attn.W_Q, attn.b_Q), (attn.W_K, attn.b_K), (attn.W_V, attn.b_V)]
    mlp = block.mlp
    return [(mlp.W_in, mlp.b_in)] + ([(mlp.W_gate, mlp.b_gate)] if mlp.gated else [])


def _with_folded_neurons(new: HookedTransformer) -> HookedTransformer:
    """The norm of neurons, where a model has it, folded in place; returns the model."""
    for block in new.blocks if new.cfg.norms_neurons else ():
        _fold_norm(block.mlp.ln, [(block.mlp.W_out, block.mlp.b_out)])
    return new


def _fold_norm(norm: Norm, readers: Iterable[Reader]) -> None:
    """Move a norm's gain and bias into its readers, in place, and centre these where the norm centres."""
    assert norm.w is not None
    gain = norm.w.double()[:, None]
    for W, b in readers:
        wide = W.double()
        folded = gain * wide
        if norm.b is not None:
            b.copy_(b.double() + norm.b.double() @ wide)
            folded -= folded.mean(dim=-2, keepdim=True)
        W.copy_(folded)
    norm.w.fill_(1)
    if norm.b is not None:
        norm.b.zero_()


def _center(*tensors: Tensor) -> None:
    """Take the mean over the last axis off, in place."""
    for tensor in tensors:
        wide = tensor.double()
        tensor.copy_(wide - wide.mean(dim=-1, keepdim=True))


def _refuse_refactoring(cfg: TransformerConfig) -> None:
    obstacles = {
        "positional_embedding_type = 'rotary' turns queries and keys before they meet": cfg.rotary_dim is not None,
        "use_qk_norm = True normalises queries and keys before they meet": cfg.use_qk_norm,
        f"n_key_value_heads = {cfg.n_key_value_heads} share keys and values among n_heads = {cfg.n_heads}": (
            cfg.n_key_value_heads < cfg.n_heads
        ),
    }
    if any(obstacles.values()):
        found = "; ".join(text for text, present in obstacles.items() if present)
        raise ConfigError(f"{found}: a head's factors cannot be exchanged for others with the same product")


def _refactor(attn: Attention) -> None:
    """Refactor the two products of every head, in place."""
    U, S, V = _svd_of_product(_with_bias(attn.W_Q, attn.b_Q), _with_bias(attn.W_K, attn.b_K))
    half = S.sqrt()[:, None]
    _split_bias(U * half, attn.W_Q, attn.b_Q)
    _split_bias(V * half, attn.W_K, attn.b_K)
    U, S, V = _svd_of_product(_with_bias(attn.W_V, attn.b_V), attn.W_O.double().transpose(1, 2))
    _split_bias(U * S[:, None], attn.W_V, attn.b_V)
    attn.W_O.copy_(V.transpose(1, 2))


def _with_bias(W: Tensor, b: Tensor) -> Float[Tensor, "head d_model_and_1 d_head"]:
    """The bias as one more row of the weight, in float64."""
    return torch.cat([W, b[:, None]], dim=1).double()


def _split_bias(both: Float[Tensor, "head d_model_and_1 d_head"], W: Tensor, b: Tensor) -> None:
    """Write what `_with_bias` joined, in place."""
    W.copy_(both[:, :-1])
    b.copy_(both[:, -1])


def _svd_of_product(
    left: Float[Tensor, "head rows d_head"], right: Float[Tensor, "head columns d_head"]
) -> tuple[Float[Tensor, "head rows d_head"], Float[Tensor, "head d_head"], Float[Tensor, "head columns d_head"]]:
    """U, S, V with `left right^T = U diag(S) V^T`, by the small product of triangular factors.

    The d_head singular values fall; where they are 0, up to rounding, so are the vectors.
    """
    (q_left, r_left), (q_right, r_right) = torch.linalg.qr(left), torch.linalg.qr(right)
    U, S, Vh = torch.linalg.svd(r_left @ r_right.transpose(1, 2), full_matrices=False)
    U, V = q_left @ U, q_right @ Vh.transpose(1, 2)
    # Relative to the factors and not to S, which may be all rounding where the product vanishes.
    rounding = max(left.shape[1:] + right.shape[1:]) * torch.finfo(S.dtype).eps
    used = S.gt(rounding * (left.norm(dim=(1, 2)) * right.norm(dim=(1, 2)))[:, None])
    largest = U.gather(1, U.abs().argmax(dim=1, keepdim=True))
    U, S, V = U * largest.sign() * used[:, None], S * used, V * largest.sign() * used[:, None]
    missing = left.shape[-1] - S.shape[-1]  # dimensions of the head beyond those of the stream
    return F.pad(U, (0, missing)), F.pad(S, (0, missing)), F.pad(V, (0, missing))
