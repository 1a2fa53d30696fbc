"""Attention, a few lines of arithmetic with hook points in between.

The axes are those of `components.py`.
"""

from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.config import TransformerConfig
from interp.model.context import LayerContext, whole_span
from interp.model.hooks import HookPoint
from interp.model.norms import Norm
from interp.model.split_inputs import SHARED, SplitInput, SplitInputs
from interp.precision import at_least_float32

WRITE_PER_HEAD = "batch pos head d_head, head d_head d_model -> batch pos head d_model"
READ_PER_HEAD = "batch pos head d_model, head d_model d_head -> batch pos head d_head"
FEW_VECTORS = 32
"""Up to so many vectors are read through each head's weights where these lie; see `per_head`."""


class Attention(nn.Module):
    """Multi-head attention with everything in sight.

    Called with a stream alone, `attn(x)`, it attends over whole sequences without padding.

    Attributes:
        crosses: whether keys and values are read from a memory instead of the stream.
        layer: the number of its block, which decides where the config differs between layers.
        W_Q: [head, d_model, d_head]; W_K, W_V: [kv_head, d_model, d_head]; W_O: [head, d_head, d_model].
        b_Q: [head, d_head]; b_K, b_V: [kv_head, d_head]; b_O: [d_model].
    """

    crosses: ClassVar[bool] = False

    def __init__(self, cfg: TransformerConfig, layer: int = 0):
        super().__init__()
        self.cfg, self.layer = cfg, layer
        heads, kv_heads = cfg.n_heads, cfg.n_key_value_heads
        d_read, pos, key_pos = cfg.d_model, "pos", "key_pos"
        if self.crosses:
            d_read, pos, key_pos = cfg.d_memory, "source_pos", "source_pos"
        self.W_Q = nn.Parameter(torch.empty(heads, cfg.d_model, cfg.d_head))
        self.b_Q = nn.Parameter(torch.zeros(heads, cfg.d_head))
        self.W_K = nn.Parameter(torch.empty(kv_heads, d_read, cfg.d_head))
        self.b_K = nn.Parameter(torch.zeros(kv_heads, cfg.d_head))
        self.W_V = nn.Parameter(torch.empty(kv_heads, d_read, cfg.d_head))
        self.b_V = nn.Parameter(torch.zeros(kv_heads, cfg.d_head))
        self.W_O = nn.Parameter(torch.empty(heads, cfg.d_head, cfg.d_model))
        self.b_O = nn.Parameter(torch.zeros(cfg.d_model))
        qk_kind = "RMS" if cfg.use_qk_norm else None
        kv = "kv_head" if kv_heads < heads else "head"
        self.q_norm = Norm(qk_kind, cfg.d_head, cfg.eps, "batch pos head", "d_head")
        self.hook_q = HookPoint("batch pos head d_head", "queries, before any rotation")
        self.k_norm = Norm(qk_kind, cfg.d_head, cfg.eps, f"batch {pos} {kv}", "d_head")
        self.hook_k = HookPoint(f"batch {pos} {kv} d_head", "keys, before any rotation")
        self.hook_v = HookPoint(f"batch {pos} {kv} d_head", "values")
        if cfg.positional_embedding_type == "rotary" and not self.crosses:
            self.hook_rot_q = HookPoint("batch pos head d_head", "queries, rotated by their position")
            self.hook_rot_k = HookPoint(f"batch pos {kv} d_head", "keys, rotated by their position")
        self.hook_attn_scores = HookPoint(
            f"batch head query_pos {key_pos}", "q . k / scale; -inf where a query may not attend"
        )
        self.hook_pattern = HookPoint(f"batch head query_pos {key_pos}", "softmax of the scores over keys")
        self.hook_z = HookPoint("batch pos head d_head", "values mixed by the pattern")
        self.hook_result = HookPoint("batch pos head d_model", "each head's own write, z W_O", lazy=True)

    def forward(
        self,
        x_qk: Float[Tensor, "batch pos d_model"],
        x_v: Float[Tensor, "batch pos d_model"] | None = None,
        context: LayerContext | None = None,
        split: SplitInputs = SHARED,
    ) -> Float[Tensor, "batch going_on d_model"]:
        """What all heads together write, at all positions or at `context.going_on`.

        Queries and keys read `x_qk`, values `x_v` (the same but in shortformer).

        Without `context` raises as `LayerContext.of_whole_sequences`.
        """
        x_v = x_qk if x_v is None else x_v
        if context is None:
            context = LayerContext.of_whole_sequences(self.cfg, self.layer, x_qk)
            with self.hook_z.running.over(whole_span(x_qk)):
                return self(x_qk, x_v, context, split)
        q, k, v = self._read(x_qk, x_v, context, split)
        if context.past is not None and not self.crosses:
            k, v = context.past.extend(k, v)
        z = self.attend(q, k, v, context) if context.attend is None else context.attend(q, k, v)
        return self.write(self.hook_z(z))

    def _read(
        self,
        x_qk: Float[Tensor, "batch pos d_model"],
        x_v: Float[Tensor, "batch pos d_model"],
        context: LayerContext,
        split: SplitInputs,
    ) -> tuple[
        Float[Tensor, "batch pos head d_head"],
        Float[Tensor, "batch pos kv_head d_head"],
        Float[Tensor, "batch pos kv_head d_head"],
    ]:
        """Queries, keys and values."""
        q = self._project(x_qk, split.q, self.W_Q, self.b_Q)
        k = self._project(x_qk, split.k, self.W_K, self.b_K)
        q = self.hook_q(self.q_norm(q) if self.cfg.use_qk_norm else q)
        k = self.hook_k(self.k_norm(k) if self.cfg.use_qk_norm else k)
        v = self.hook_v(self._project(x_v, split.v, self.W_V, self.b_V))
        if context.rotation is not None:
            q = self.hook_rot_q(rotate(q, context.rotation))
            k = self.hook_rot_k(rotate(k, context.rotation))
        return q, k, v

    def attend(
        self,
        q: Float[Tensor, "batch query_pos head d_head"],
        k: Float[Tensor, "batch key_pos kv_head d_head"],
        v: Float[Tensor, "batch key_pos kv_head d_head"],
        context: LayerContext,
    ) -> Float[Tensor, "batch query_pos head d_head"]:
        """Values mixed by `softmax(q . k / scale)`."""
        observed = self.hook_attn_scores.hooks or self.hook_pattern.hooks
        if self.cfg.attn_implementation == "sdpa" and not observed:
            triangular = context.triangular and context.bias is None
            return F.scaled_dot_product_attention(
                *(part.transpose(1, 2) for part in (q, k, v)),
                attn_mask=None if triangular else _fused_mask(context),
                is_causal=triangular,
                scale=1 / self.cfg.attn_scale,
                enable_gqa=self.cfg.n_key_value_heads < self.cfg.n_heads,
            ).transpose(1, 2)
        scores = self.hook_attn_scores(self.scores(q, k, context.visible, context.bias))
        pattern = self.hook_pattern(at_least_float32(scores).softmax(dim=-1).to(q.dtype))
        return self.mix(pattern, v)

    def _project(
        self,
        x: Float[Tensor, "batch pos d_model"],
        split: SplitInput | None,
        W: Float[Tensor, "n d_model d_head"],
        b: Float[Tensor, "n d_head"],
    ) -> Float[Tensor, "batch pos n d_head"]:
        """`x @ W[h] + b[h]` for every head at once; of a head's own copy of `x` where that was edited."""
        out = per_head(x, W, b)
        if split is None:
            return out
        return torch.where(
            split.edited,
            einsum(split.own, W, READ_PER_HEAD) + b,
            out + einsum(split.difference, W, READ_PER_HEAD),
        )

    def scores(
        self,
        q: Float[Tensor, "batch query_pos head d_head"],
        k: Float[Tensor, "batch key_pos kv_head d_head"],
        visible: Bool[Tensor, "batch_or_1 1 query_pos_or_1 key_pos"],
        bias: Float[Tensor, "its_batch_or_1 head query_pos key_pos"] | None,
    ) -> Float[Tensor, "batch head query_pos key_pos"]:
        """`q . k / scale + bias`, soft-capped where the config says so, and -inf where a query may not attend.

        Heads may be some of the layer's, if their keys are too: each key head serves as many query heads as it should.
        """
        batch, n_queries, heads, _ = q.shape
        # The query heads of a group are stacked on the rows of one product with their keys.
        groups = q.transpose(1, 2).reshape(batch * k.shape[2], -1, q.shape[3])
        keys = k.permute(0, 2, 3, 1).reshape(len(groups), q.shape[3], -1)
        scores = torch.baddbmm(q.new_zeros(()), groups, keys, beta=0, alpha=1 / self.cfg.attn_scale)
        scores = scores.view(batch, heads, n_queries, -1)
        scores = scores if bias is None else scores + bias
        cap = self.cfg.attn_scores_soft_cap
        scores = scores if cap is None else cap * torch.tanh(scores / cap)
        return scores.masked_fill_(~visible, float("-inf"))

    def mix(
        self,
        pattern: Float[Tensor, "batch head query_pos key_pos"],
        v: Float[Tensor, "batch key_pos kv_head d_head"],
    ) -> Float[Tensor, "batch query_pos head d_head"]:
        """`sum over keys of pattern * v`; heads as in `scores`."""
        batch, heads, n_queries, n_keys = pattern.shape
        groups = pattern.reshape(batch, v.shape[2], -1, n_keys) @ v.transpose(1, 2)
        return groups.view(batch, heads, n_queries, -1).transpose(1, 2)

    def write(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_model"]:
        """`sum over heads of z W_O`, plus `b_O`; the sum of the heads' edited writes where one was edited."""
        out = F.linear(z.flatten(2), self.W_O.flatten(0, 1).T, self.b_O)
        if self.hook_result.hooks:
            result = einsum(z, self.W_O, WRITE_PER_HEAD)
            edited = self.hook_result(result)
            if edited is not result:  # adding a difference of 0 changes no bit, and carries gradients
                touched = (edited != result).any(dim=2).any(dim=-1, keepdim=True)
                out = torch.where(touched, edited.sum(dim=2) + self.b_O, out + (edited - result).sum(dim=2))
        return out


class CrossAttention(Attention):
    """Attention to a memory: queries read the stream, keys and values the memory (Vaswani et al. 2017, 3.2.3).

    Nothing turns with positions, and every query sees the whole memory but its padding.

    Attributes:
        W_K, W_V: [kv_head, d_memory, d_head]; the others as in `Attention`.
    """

    crosses = True

    def _read(
        self,
        x_qk: Float[Tensor, "batch pos d_model"],
        x_v: Float[Tensor, "batch pos d_model"],
        context: LayerContext,
        split: SplitInputs,
    ) -> tuple[
        Float[Tensor, "batch pos head d_head"],
        Float[Tensor, "its_batch source_pos kv_head d_head"],
        Float[Tensor, "its_batch source_pos kv_head d_head"],
    ]:
        """Queries of the stream, keys and values of the memory."""
        q = self._project(x_qk, split.q, self.W_Q, self.b_Q)
        return self.hook_q(self.q_norm(q) if self.cfg.use_qk_norm else q), *self.read_memory(context)

    def read_memory(
        self, context: LayerContext
    ) -> tuple[
        Float[Tensor, "batch source_pos kv_head d_head"],
        Float[Tensor, "batch source_pos kv_head d_head"],
    ]:
        """Keys and values. Their products are made once for all runs with one `kv_cache`; hooks act in every run."""
        memory = context.memory
        assert memory is not None
        products = partial(self.products, memory)
        k, v = products() if context.past is None else context.past.of_memory(products)
        return self.hook_k(self.k_norm(k) if self.cfg.use_qk_norm else k), self.hook_v(v)

    def products(
        self, memory: Float[Tensor, "batch source_pos d_memory"]
    ) -> tuple[Float[Tensor, "batch source_pos kv_head d_head"], Float[Tensor, "batch source_pos kv_head d_head"]]:
        """Keys and values of a memory before all hook points and norms."""
        return per_head(memory, self.W_K, self.b_K), per_head(memory, self.W_V, self.b_V)


def _fused_mask(context: LayerContext) -> Tensor:
    """What the fused kernel takes for the visible keys, and the biases of the scores where there are any."""
    return context.visible if context.bias is None else context.bias.masked_fill(~context.visible, float("-inf"))


def per_head(
    x: Float[Tensor, "*axes d_model"], W: Float[Tensor, "n d_model d_head"], b: Float[Tensor, "n d_head"]
) -> Float[Tensor, "*axes n d_head"]:
    """`x @ W[h] + b[h]` for every head.

    With few vectors, reading the weights takes the time: they are read where they lie. With many, one product with the
    matrices of all heads side by side is faster, and that copy costs little beside it.
    """
    if x.numel() <= FEW_VECTORS * x.shape[-1]:
        rows = x.reshape(1, -1, x.shape[-1]).expand(len(W), -1, -1)
        return torch.baddbmm(b[:, None], rows, W).transpose(0, 1).unflatten(0, x.shape[:-1])
    return F.linear(x, W.transpose(0, 1).flatten(1).T, b.flatten()).unflatten(-1, b.shape)


def rotate(
    x: Float[Tensor, "batch pos n d_head"],
    rotation: tuple[Float[Tensor, "batch_or_1 pos 1 pairs"], Float[Tensor, "batch_or_1 pos 1 pairs"]],
) -> Float[Tensor, "batch pos n d_head"]:
    """Turn dimensions (i, i + pairs) of every head by its position's angles; the rest pass through.

    >>> from interp.config import rotary_angles
    >>> x = torch.randn(1, 3, 1, 4)
    >>> turned = rotate(x, rotary_angles(10_000.0, 4, None, torch.arange(3)[None], x.dtype))
    >>> torch.equal(turned[:, 0], x[:, 0]), torch.allclose(turned.norm(dim=-1), x.norm(dim=-1))
    (True, True)
    """
    cos, sin = rotation
    pairs = cos.shape[-1]
    first, second = x[..., :pairs], x[..., pairs : 2 * pairs]
    turned = [torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)]
    return torch.cat(turned if 2 * pairs == x.shape[-1] else [*turned, x[..., 2 * pairs :]], dim=-1)
