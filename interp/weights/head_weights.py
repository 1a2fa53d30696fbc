"""The weights of heads, alone and as the norms beside them have them, and results over heads as tables."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError
from interp.indices import head_index, layer_index
from interp.model import HookedTransformer, Norm
from interp.precision import at_least_float32

if TYPE_CHECKING:
    import xarray


class HeadWeights(NamedTuple):
    """Of some heads, in float32 at least; W_Q is divided by attn_scale."""

    W_Q: Float[Tensor, "*heads d_model d_head"]
    W_K: Float[Tensor, "*heads d_model d_head"]
    W_V: Float[Tensor, "*heads d_model d_head"]
    W_O: Float[Tensor, "*heads d_head d_model"]


def of_layer(model: HookedTransformer, layer: int, fold_norms: bool) -> HeadWeights:
    """Of the heads of one layer [head, ...], keys and values repeated to them."""
    if fold_norms and model.cfg.normalizes_stream:
        raise ConfigError(
            "fold_norms = True, but norm_position = 'post' normalises the stream itself: its gains belong to no head; "
            "leave fold_norms out"
        )
    block, groups = model.blocks[layer], model.cfg.n_heads // model.cfg.n_key_value_heads
    attn = block.attn
    W_Q, W_K, W_V, W_O = (at_least_float32(weight) for weight in (attn.W_Q, attn.W_K, attn.W_V, attn.W_O))
    if fold_norms:
        W_Q, W_K, W_V = (_as_read_through(block.ln1, weight) for weight in (W_Q, W_K, W_V))
        W_O = through(block.ln1_post, W_O)
    W_K, W_V = (weight.repeat_interleave(groups, dim=0) for weight in (W_K, W_V))
    return HeadWeights(W_Q / model.cfg.attn_scale, W_K, W_V, W_O)


def of_all_heads(model: HookedTransformer, fold_norms: bool) -> HeadWeights:
    """[layer, head, ...]. Raises `ConfigError` for a model without blocks."""
    if model.cfg.n_layers == 0:
        raise ConfigError("n_layers = 0: this model has no blocks, so it has no heads")
    layers = [of_layer(model, layer, fold_norms) for layer in range(model.cfg.n_layers)]
    return HeadWeights(*(torch.stack(weights) for weights in zip(*layers, strict=True)))


def of_head(model: HookedTransformer, layer: int, head: int, fold_norms: bool) -> HeadWeights:
    """[...], of one head. Raises `ConfigError` for a layer or head out of range."""
    layer, head = layer_index(layer, model.cfg.n_layers, "layer"), head_index(head, model.cfg.n_heads)
    return HeadWeights(*(weight[head] for weight in of_layer(model, layer, fold_norms)))


def through(norm: Norm, written: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
    """Writes after the matrix of a norm: what it does at scale 1."""
    return norm.at_scale(written, written.new_ones(*written.shape[:-1], 1))


def _as_read_through(
    norm: Norm, weight: Float[Tensor, "*heads d_model d_head"]
) -> Float[Tensor, "*heads d_model d_head"]:
    """A reading weight with the matrix of the norm before it counted in."""
    if norm.w is None:
        return weight
    weight = at_least_float32(norm.w)[:, None] * weight
    return weight - weight.mean(dim=-2, keepdim=True) if norm.kind == "LN" else weight


def embedding(model: HookedTransformer, fold_norms: bool) -> Float[Tensor, "d_vocab d_model"]:
    """`W_E` as it enters the stream."""
    W_E = model.embed.scaled(at_least_float32(model.W_E))
    return through(model.embed_ln, W_E) if fold_norms and model.cfg.embed_norm else W_E


def check_reads_stream(model: HookedTransformer, what: str) -> None:
    """Raise `ConfigError` unless the unembedding reads the stream, but for its norm; `what` multiplies the two."""
    if not model.cfg.has_unembed:
        raise ConfigError(f"{what} needs W_U, and this model has no unembedding (d_vocab_out = 0)")
    if model.cfg.masked_token_head:
        raise ConfigError(
            f"{what}: with masked_token_head = True the activation function of the head stands between the stream and "
            "W_U, so that no product of weights leads from one to the other"
        )


def table_of_heads(
    model: HookedTransformer, values: Tensor, dims: tuple[str, ...], name: str, definition: str, fold_norms: bool
) -> "xarray.DataArray":
    """Numbers with their axes named and counted, and what they are."""
    import xarray

    counted = {dim: range(size) for dim, size in zip(dims, values.shape, strict=True) if dim != "kind"}
    about = {"definition": definition, "fold_norms": int(fold_norms), "model": model.weights_hash()}
    return xarray.DataArray(values.cpu().numpy(), dims=dims, coords=counted, name=name, attrs=about)
