"""One vector for a whole sequence, made of the last stream, and the logits of classes on it.

What happens here is outside of the stream: it reads what the final norm leaves, or the last stream in a model without
one, and never what a masked-token head makes of it. `model(texts, return_type="pooled")` returns it.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.config import TransformerConfig
from interp.precision import at_least_float32

Pooling = Literal["mean", "cls", "pooler"]
"""How a last stream becomes one vector; see `TransformerConfig.pooling`."""

LinearPooling = Literal["mean", "cls"]
"""The ways that are linear maps of the stream."""


class Pooler(nn.Module):
    """The pooling that a config names.

    Attributes:
        W_in, b_in: with "pooler", the first token's vector becomes `tanh(x W_in + b_in)` (Devlin et al. 2019).
        W_class, b_class: with classes, the pooled vector times `W_class` [d_model, class] plus `b_class` are their
            logits.
    """

    def __init__(self, cfg: TransformerConfig):
        super().__init__()
        self.cfg, d = cfg, cfg.d_model
        if cfg.pooling == "pooler":
            self.W_in = nn.Parameter(torch.empty(d, d))
            self.b_in = nn.Parameter(torch.zeros(d))
        if cfg.n_pooled_classes:
            self.W_class = nn.Parameter(torch.empty(d, cfg.n_pooled_classes))
            self.b_class = nn.Parameter(torch.zeros(cfg.n_pooled_classes))

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], is_token: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch d_model"]:
        """One vector a sequence; padding has no part in it."""
        pooled = pool(x, is_token, "mean" if self.cfg.pooling == "mean" else "cls")
        if self.cfg.pooling == "pooler":
            pooled = self.transformed(pooled)
        return F.normalize(pooled, dim=-1) if self.cfg.normalize_pooled else pooled

    def transformed(self, first: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_model"]:
        """What "pooler" makes of the first token's vector."""
        return F.linear(first, self.W_in.T, self.b_in).tanh()

    def classes(self, pooled: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch class"]:
        """The logits of the classes."""
        return F.linear(pooled, self.W_class.T, self.b_class)


def pool(
    x: Float[Tensor, "*rows pos d_model"], is_token: Bool[Tensor, "*#rows pos"], pooling: LinearPooling
) -> Float[Tensor, "*rows d_model"]:
    """The mean over the tokens of each sequence, or the vector of its first token: a linear map of the stream.

    It is computed in float32 at least, for in half precision the weights of a mean do not sum to 1.

    >>> stream = torch.arange(6.0).reshape(1, 3, 2)
    >>> pool(stream, torch.tensor([[False, True, True]]), "mean")
    tensor([[3., 4.]])
    """
    wide = at_least_float32(x)
    weights = pooling_weights(is_token, pooling, wide.dtype)
    return (wide * weights[..., None]).sum(dim=-2).to(x.dtype)


def pooling_weights(
    is_token: Bool[Tensor, "*rows pos"], pooling: LinearPooling, dtype: torch.dtype
) -> Float[Tensor, "*rows pos"]:
    """How much of each position is in the pooled vector; they sum to 1, and padding has 0.

    >>> pooling_weights(torch.tensor([[False, True, True]]), "mean", torch.float32)
    tensor([[0.0000, 0.5000, 0.5000]])
    """
    if pooling == "mean":
        return is_token.to(dtype) / is_token.sum(dim=-1, keepdim=True)
    return F.one_hot(is_token.int().argmax(dim=-1), is_token.shape[-1]).to(dtype)
