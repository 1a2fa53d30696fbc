"""The parts of a transformer, each a few lines of arithmetic with hook points in between.

Axes, everywhere in this package:

- `batch`: independent sequences.
- `pos`: positions in a sequence; `query_pos` and `key_pos` where two positions meet.
- `d_model`: the residual stream. Vectors are rows: `y = x @ W`.
- `head`, `d_head`: attention heads and their width; `kv_head` where several query heads share keys and values.
- `d_mlp`: hidden neurons. `d_vocab`: tokens; `d_vocab_out`: logits, as many unless the
  config says otherwise.

Weights have the field's shapes (`W_Q[head, d_model, d_head]`) and are contiguous, as torch's own tools for parameters
expect them to be (flat vectors of parameters, pruning, LBFGS, safetensors).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.config import NormType, TransformerConfig, rotary_angles
from interp.errors import ConfigError, ShapeError
from interp.model.generate import LayerKeysValues
from interp.model.hooks import HookPoint, Span
from interp.model.split_inputs import PrivateRead, PrivateReads
from interp.precision import at_least_float32


def solu(x: Float[Tensor, "*axes d_mlp"]) -> Float[Tensor, "*axes d_mlp"]:
    """`x * softmax(x)` over the neurons (Elhage et al. 2022, "Softmax Linear Units")."""
    return x * at_least_float32(x).softmax(dim=-1).to(x.dtype)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),  # and no lambda, so that a model can be pickled
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "solu": solu,
    "solu_ln": solu,
}

WRITE_PER_HEAD = "batch pos head d_head, head d_head d_model -> batch pos head d_model"
NO_EDITS = PrivateReads()
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""What parameters can be."""
FEW_VECTORS = 32
"""Up to so many vectors are read through each head's weights where these lie; see `per_head`."""
READ_PER_HEAD = "batch pos head d_model, head d_model d_head -> batch pos head d_head"


@dataclass(frozen=True, eq=False)
class SideInputs:
    """What one layer needs to know beyond the stream itself.

    Attributes:
        visible: which key each query may attend to; the first axis is 1 where all sequences agree.
        rotation: cosines and sines of the rotary angles, or None.
        position_reads: what is added to the normalised stream that queries and keys, but not values, read
            (shortformer), or None.
        past: the layer's keys and values of earlier positions, to which this run's are added, or None.
        attend: what mixes the values in place of attention over one rectangle of queries and keys: (queries, keys,
            values) to z, where positions of several runs are packed into one list, or None.
        triangular: whether `visible` is the lower triangle of a square, which the fused kernel knows without a mask.
    """

    visible: Bool[Tensor, "batch_or_1 1 query_pos key_pos"]
    rotation: tuple[Float[Tensor, "batch_or_1 pos 1 pairs"], Float[Tensor, "batch_or_1 pos 1 pairs"]] | None
    position_reads: Float[Tensor, "batch pos d_model"] | None
    past: LayerKeysValues | None = None
    attend: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    triangular: bool = False

    @classmethod
    def of_whole_sequences(
        cls, cfg: TransformerConfig, layer: int, x: Float[Tensor, "batch pos d_model"]
    ) -> "SideInputs":
        """For a layer that runs on its own: whole sequences without padding, counted from 0.

        Raises:
            ShapeError: no stream [batch, pos, d_model] of at most n_ctx positions.
            ConfigError: queries and keys read position vectors (shortformer), which only the model has.
        """
        if x.ndim != 3 or x.shape[2] != cfg.d_model or not 0 < x.shape[1] <= cfg.n_ctx:
            raise ShapeError(
                f"a layer on its own takes a stream [batch, pos, {cfg.d_model}] of 1 to {cfg.n_ctx} positions, not "
                f"{tuple(x.shape)}"
            )
        if cfg.has_position_vectors and not cfg.positions_in_stream:
            raise ConfigError(
                "positional_embedding_type = 'shortformer': this layer reads position vectors that only its model has; "
                f"run model(x, start_at_layer={layer}, stop_at_layer={layer + 1})"
            )
        n = x.shape[1]
        visible = visible_keys(cfg.attention_dir, cfg.in_layer(cfg.window_size, layer), n, n, None, x.device)
        base, rotation = cfg.in_layer(cfg.rotary_base, layer), None
        if base is not None and cfg.rotary_dim is not None:
            scaling, positions = cfg.in_layer(cfg.rotary_scaling, layer), torch.arange(n, device=x.device)[None]
            rotation = rotary_angles(base, cfg.rotary_dim, scaling, positions, x.dtype)
        return cls(visible, rotation, None)


def whole_span(x: Float[Tensor, "batch pos d_model"]) -> Span:
    """The positions that a layer on its own carries."""
    return Span(0, x.shape[1], len(x), n_prompt=x.shape[1], n_final=x.shape[1])


def visible_keys(
    attention_dir: str,
    window_size: int | None,
    n_new: int,
    n_keys: int,
    mask: Bool[Tensor, "batch n_keys"] | None,
    device: torch.device,
) -> Bool[Tensor, "batch_or_1 1 n_new n_keys"]:
    """Which keys each query may attend to; the queries are the last `n_new` of the `n_keys` positions.

    A padding position (mask false) sees itself alone, so that no row is empty.
    """
    i = torch.arange(n_keys - n_new, n_keys, device=device)[:, None]
    j = torch.arange(n_keys, device=device)[None, :]
    seen = j <= i if attention_dir == "causal" else torch.ones_like(j <= i)
    if window_size is not None:
        seen = seen & (i - j < window_size)
    if mask is None:
        return seen[None, None]
    return ((seen & mask[:, None, :] & mask[:, n_keys - n_new :, None]) | (i == j))[:, None]


def rotate(
    x: Float[Tensor, "batch pos n d_head"],
    rotation: tuple[Float[Tensor, "batch_or_1 pos 1 pairs"], Float[Tensor, "batch_or_1 pos 1 pairs"]],
) -> Float[Tensor, "batch pos n d_head"]:
    """Turn dimensions (i, i + pairs) of every head by its position's angles; the rest pass through."""
    cos, sin = rotation
    pairs = cos.shape[-1]
    first, second = x[..., :pairs], x[..., pairs : 2 * pairs]
    turned = [torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)]
    return torch.cat(turned if 2 * pairs == x.shape[-1] else [*turned, x[..., 2 * pairs :]], dim=-1)


class Norm(nn.Module):
    """LayerNorm (mean and variance over the last axis), RMSNorm, or nothing, with a gain `w` and (LN) a bias `b`."""

    def __init__(self, kind: NormType | None, size: int, eps: float, axes: str = "batch pos", last: str = "d_model"):
        super().__init__()
        self.kind, self.size, self.eps = kind, size, eps
        self.w = nn.Parameter(torch.ones(size)) if kind else None
        self.b = nn.Parameter(torch.zeros(size)) if kind == "LN" else None
        if kind:
            self.hook_scale = HookPoint(
                f"{axes} 1", "what the norm divides by: the root of the variance (RMS: mean square) + eps"
            )
            self.hook_normalized = HookPoint(f"{axes} {last}", "output of the norm, gain and bias included")

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"{self.kind}, {self.size}" if self.kind else "none"

    def is_watched(self) -> bool:
        """Whether there are hooks on its points."""
        return self.w is not None and bool(self.hook_scale.hooks or self.hook_normalized.hooks)

    def scale(self, x: Float[Tensor, "*axes size"]) -> Float[Tensor, "*axes 1"]:
        """`sqrt(mean((x - mean)^2) + eps)`; RMS takes no mean off. At least float32."""
        norm = torch.linalg.vector_norm(self._centred(at_least_float32(x)), dim=-1, keepdim=True)  # one pass over x
        return (norm.square() / self.size + self.eps).sqrt()

    def at_scale(self, x: Float[Tensor, "*axes size"], scale: Float[Tensor, "*#axes 1"]) -> Float[Tensor, "*axes size"]:
        """The norm without its bias at a given scale: a *linear* map of `x`, which is what makes attribution exact."""
        if self.w is None:
            return x
        return (self._centred(at_least_float32(x)) / scale).to(x.dtype) * self.w.to(x.device)

    def pull_back(
        self, directions: Float[Tensor, "*axes size"], scale: Float[Tensor, "*#axes 1"]
    ) -> Float[Tensor, "*axes size"]:
        """Directions of its output as directions of its input, by the transpose of `at_scale`.

        For all x, `at_scale(x, scale) . directions = x . pull_back(directions, scale)`.
        """
        if self.w is None:
            return directions
        wide = at_least_float32(directions) * self.w.to(directions.device) / scale
        return self._centred(wide).to(directions.dtype)

    def _centred(self, x: Float[Tensor, "*axes size"]) -> Float[Tensor, "*axes size"]:
        return x - x.mean(-1, keepdim=True) if self.kind == "LN" else x

    def unhooked(self, x: Float[Tensor, "*axes size"]) -> Float[Tensor, "*axes size"]:
        """`(x - mean) / scale * w + b`, past the hook points: LayerNorm by torch's fused kernel."""
        if self.kind == "LN":
            return F.layer_norm(x, (self.size,), self.w, self.b, self.eps)
        return x if self.w is None else self.at_scale(x, self.scale(x))

    def forward(self, x: Float[Tensor, "*axes size"]) -> Float[Tensor, "*axes size"]:
        """As `unhooked`, with the scale and the result open to hooks."""
        return self.read(x)[0]

    def read(
        self, x: Float[Tensor, "*axes size"]
    ) -> tuple[Float[Tensor, "*axes size"], Float[Tensor, "*axes 1"] | None]:
        """What `forward` returns, and the scale that hooks imposed, or None."""
        if self.w is None:
            return x, None
        if self.kind == "RMS":
            scale = self.hook_scale(self.scale(x))
            imposed = scale if self.hook_scale.hooks and self.hook_scale.edited else None
            return self.hook_normalized(self.at_scale(x, scale)), imposed
        normalized, imposed = self.unhooked(x), None
        if self.hook_scale.hooks:
            scale = self.scale(x)
            edited = self.hook_scale(scale)
            if edited is not scale:  # as a difference, so that an edit of nothing changes no bit
                imposed = edited if self.hook_scale.edited else None
                unbiased = normalized if self.b is None else normalized - self.b
                normalized = normalized + (unbiased * (scale / edited - 1)).to(x.dtype)
        return self.hook_normalized(normalized), imposed


class Embed(nn.Module):
    """A row of `W_E [d_vocab, d_model]` for every token, times `embed_scale`."""

    def __init__(self, cfg: TransformerConfig):
        super().__init__()
        self.scale = cfg.embed_scale
        self.W_E = nn.Parameter(torch.empty(cfg.d_vocab, cfg.d_model))

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """`one_hot(tokens) @ W_E * embed_scale`."""
        return self.scaled(F.embedding(tokens, self.W_E))

    def scaled(self, vectors: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
        """Token vectors as they enter the stream: times `embed_scale`, rounded to the dtype of the parameters.

        Gemma was trained with a scale that is rounded in this way.
        """
        return vectors if self.scale == 1 else vectors * torch.tensor(self.scale, dtype=self.W_E.dtype, device="cpu")


class PosEmbed(nn.Module):
    """A row of `W_pos [n_ctx, d_model]` for every position: learned, or a fixed table."""

    def __init__(self, cfg: TransformerConfig):
        super().__init__()
        self.cfg = cfg
        if cfg.positional_embedding_type in ("standard", "shortformer"):
            self.W_pos = nn.Parameter(torch.empty(cfg.n_ctx, cfg.d_model))
        else:
            self.W_pos = nn.Buffer(fixed_positions(cfg, cfg.dtype))

    def forward(self, positions: Int[Tensor, "batch_or_1 pos"]) -> Float[Tensor, "batch_or_1 pos d_model"]:
        """`W_pos[positions]`."""
        return F.embedding(positions, self.W_pos)

    def refine(self) -> None:
        """Make a fixed table afresh that was rounded to another dtype on its way here; one that was edited stays."""
        W_pos = self.W_pos
        if isinstance(W_pos, nn.Parameter) or W_pos.is_meta:
            return
        for dtype in (W_pos.dtype, *DTYPES):
            if torch.equal(W_pos, fixed_positions(self.cfg, dtype).to(W_pos)):
                self.W_pos = fixed_positions(self.cfg, W_pos.dtype).to(W_pos)
                return

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.refine()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.refine()


def fixed_positions(cfg: TransformerConfig, dtype: torch.dtype) -> Float[Tensor, "n_ctx d_model"]:
    """One-hot positions in the last n_ctx dimensions, or sines and cosines in turn (Vaswani et al. 2017, 3.5)."""
    if cfg.positional_embedding_type == "onehot":
        return F.pad(torch.eye(cfg.n_ctx, dtype=dtype), (cfg.d_model - cfg.n_ctx, 0))
    pair = torch.arange(0, cfg.d_model, 2, dtype=torch.float64)
    angles = torch.arange(cfg.n_ctx)[:, None] / 10_000.0 ** (pair / cfg.d_model)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(dtype)


class Attention(nn.Module):
    """Multi-head attention with everything in sight.

    Called with a stream alone, `attn(x)`, it attends over whole sequences without padding.

    Attributes:
        layer: the number of its block, which decides where the config differs between layers.
        W_Q: [head, d_model, d_head]; W_K, W_V: [kv_head, d_model, d_head]; W_O: [head, d_head, d_model].
        b_Q: [head, d_head]; b_K, b_V: [kv_head, d_head]; b_O: [d_model].
    """

    def __init__(self, cfg: TransformerConfig, layer: int = 0):
        super().__init__()
        self.cfg, self.layer = cfg, layer
        heads, kv_heads = cfg.n_heads, cfg.n_key_value_heads
        self.W_Q, self.b_Q = _read_weight(heads, cfg), nn.Parameter(torch.zeros(heads, cfg.d_head))
        self.W_K, self.b_K = _read_weight(kv_heads, cfg), nn.Parameter(torch.zeros(kv_heads, cfg.d_head))
        self.W_V, self.b_V = _read_weight(kv_heads, cfg), nn.Parameter(torch.zeros(kv_heads, cfg.d_head))
        self.W_O = nn.Parameter(torch.empty(heads, cfg.d_head, cfg.d_model))
        self.b_O = nn.Parameter(torch.zeros(cfg.d_model))
        qk_kind = "RMS" if cfg.use_qk_norm else None
        kv = "kv_head" if kv_heads < heads else "head"
        self.q_norm = Norm(qk_kind, cfg.d_head, cfg.eps, "batch pos head", "d_head")
        self.hook_q = HookPoint("batch pos head d_head", "queries, before any rotation")
        self.k_norm = Norm(qk_kind, cfg.d_head, cfg.eps, f"batch pos {kv}", "d_head")
        self.hook_k = HookPoint(f"batch pos {kv} d_head", "keys, before any rotation")
        self.hook_v = HookPoint(f"batch pos {kv} d_head", "values")
        if cfg.positional_embedding_type == "rotary":
            self.hook_rot_q = HookPoint("batch pos head d_head", "queries, rotated by their position")
            self.hook_rot_k = HookPoint(f"batch pos {kv} d_head", "keys, rotated by their position")
        self.hook_attn_scores = HookPoint(
            "batch head query_pos key_pos", "q . k / scale; -inf where a query may not attend"
        )
        self.hook_pattern = HookPoint("batch head query_pos key_pos", "softmax of the scores over keys")
        self.hook_z = HookPoint("batch pos head d_head", "values mixed by the pattern")
        self.hook_result = HookPoint("batch pos head d_model", "each head's own write, z W_O", lazy=True)

    def forward(
        self,
        x_qk: Float[Tensor, "batch pos d_model"],
        x_v: Float[Tensor, "batch pos d_model"] | None = None,
        side: SideInputs | None = None,
        private: PrivateReads = NO_EDITS,
    ) -> Float[Tensor, "batch pos d_model"]:
        """What all heads together write. Queries and keys read `x_qk`, values `x_v` (the same but in shortformer).

        Without `side` raises as `SideInputs.of_whole_sequences`.
        """
        x_v = x_qk if x_v is None else x_v
        if side is None:
            side = SideInputs.of_whole_sequences(self.cfg, self.layer, x_qk)
            with self.hook_z.running.over(whole_span(x_qk)):
                return self(x_qk, x_v, side, private)
        q, k, v = self._read(x_qk, x_v, side, private)
        if side.past is not None:
            k, v = side.past.extend(k, v)
        z = self.attend(q, k, v, side) if side.attend is None else side.attend(q, k, v)
        return self._write(self.hook_z(z))

    def _read(
        self,
        x_qk: Float[Tensor, "batch pos d_model"],
        x_v: Float[Tensor, "batch pos d_model"],
        side: SideInputs,
        private: PrivateReads,
    ) -> tuple[
        Float[Tensor, "batch pos head d_head"],
        Float[Tensor, "batch pos kv_head d_head"],
        Float[Tensor, "batch pos kv_head d_head"],
    ]:
        """Queries, keys and values."""
        q = self._project(x_qk, private.q, self.W_Q, self.b_Q)
        k = self._project(x_qk, private.k, self.W_K, self.b_K)
        q = self.hook_q(self.q_norm(q) if self.cfg.use_qk_norm else q)
        k = self.hook_k(self.k_norm(k) if self.cfg.use_qk_norm else k)
        v = self.hook_v(self._project(x_v, private.v, self.W_V, self.b_V))
        if side.rotation is not None:
            q = self.hook_rot_q(rotate(q, side.rotation))
            k = self.hook_rot_k(rotate(k, side.rotation))
        return q, k, v

    def attend(
        self,
        q: Float[Tensor, "batch query_pos head d_head"],
        k: Float[Tensor, "batch key_pos kv_head d_head"],
        v: Float[Tensor, "batch key_pos kv_head d_head"],
        side: SideInputs,
    ) -> Float[Tensor, "batch query_pos head d_head"]:
        """Values mixed by `softmax(q . k / scale)`."""
        observed = self.hook_attn_scores.hooks or self.hook_pattern.hooks
        if self.cfg.attn_implementation == "sdpa" and not observed:
            return F.scaled_dot_product_attention(
                *(part.transpose(1, 2) for part in (q, k, v)),
                attn_mask=None if side.triangular else side.visible,
                is_causal=side.triangular,
                scale=1 / self.cfg.attn_scale,
                enable_gqa=self.cfg.n_key_value_heads < self.cfg.n_heads,
            ).transpose(1, 2)
        scores = self.hook_attn_scores(self._scores(q, k).masked_fill_(~side.visible, float("-inf")))
        pattern = self.hook_pattern(at_least_float32(scores).softmax(dim=-1).to(q.dtype))
        return self._mix(pattern, v)

    def _project(
        self,
        x: Float[Tensor, "batch pos d_model"],
        private: PrivateRead | None,
        W: Float[Tensor, "n d_model d_head"],
        b: Float[Tensor, "n d_head"],
    ) -> Float[Tensor, "batch pos n d_head"]:
        """`x @ W[h] + b[h]` for every head at once; of a head's own copy of `x` where that was edited."""
        out = per_head(x, W, b)
        if private is None:
            return out
        return torch.where(
            private.edited,
            einsum(private.own, W, READ_PER_HEAD) + b,
            out + einsum(private.difference, W, READ_PER_HEAD),
        )

    def _scores(
        self,
        q: Float[Tensor, "batch query_pos head d_head"],
        k: Float[Tensor, "batch key_pos kv_head d_head"],
    ) -> Float[Tensor, "batch head query_pos key_pos"]:
        """`q . k / scale`; the query heads of a group are stacked on the rows of one product with their keys."""
        batch, n_queries, heads, _ = q.shape
        groups = q.transpose(1, 2).reshape(batch * k.shape[2], -1, q.shape[3])
        keys = k.permute(0, 2, 3, 1).reshape(len(groups), q.shape[3], -1)
        scores = torch.baddbmm(q.new_zeros(()), groups, keys, beta=0, alpha=1 / self.cfg.attn_scale)
        scores = scores.view(batch, heads, n_queries, -1)
        cap = self.cfg.attn_scores_soft_cap
        return scores if cap is None else cap * torch.tanh(scores / cap)

    def _mix(
        self,
        pattern: Float[Tensor, "batch head query_pos key_pos"],
        v: Float[Tensor, "batch key_pos kv_head d_head"],
    ) -> Float[Tensor, "batch query_pos head d_head"]:
        """`sum over keys of pattern * v`."""
        batch, heads, n_queries, n_keys = pattern.shape
        groups = pattern.reshape(batch, v.shape[2], -1, n_keys) @ v.transpose(1, 2)
        return groups.view(batch, heads, n_queries, -1).transpose(1, 2)

    def _write(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_model"]:
        """`sum over heads of z W_O`, plus `b_O`; the sum of the heads' edited writes where one was edited."""
        out = F.linear(z.flatten(2), self.W_O.flatten(0, 1).T, self.b_O)
        if self.hook_result.hooks:
            result = einsum(z, self.W_O, WRITE_PER_HEAD)
            edited = self.hook_result(result)
            if edited is not result:  # adding a difference of 0 changes no bit, and carries gradients
                touched = (edited != result).any(dim=2).any(dim=-1, keepdim=True)
                out = torch.where(touched, edited.sum(dim=2) + self.b_O, out + (edited - result).sum(dim=2))
        return out


class MLP(nn.Module):
    """`act(x W_in + b_in) W_out + b_out`, or gated: `(act(x W_gate + b_gate) * (x W_in + b_in)) W_out + b_out`.

    With `act_fn="solu_ln"` a LayerNorm over the neurons comes before `W_out`.
    """

    def __init__(self, cfg: TransformerConfig):
        super().__init__()
        self.act = ACTIVATIONS[cfg.act_fn]
        self.gated = cfg.gated_mlp
        if self.gated:
            self.W_gate = nn.Parameter(torch.empty(cfg.d_model, cfg.d_mlp))
            self.b_gate = nn.Parameter(torch.zeros(cfg.d_mlp))
        self.W_in = nn.Parameter(torch.empty(cfg.d_model, cfg.d_mlp))
        self.b_in = nn.Parameter(torch.zeros(cfg.d_mlp))
        self.W_out = nn.Parameter(torch.empty(cfg.d_mlp, cfg.d_model))
        self.b_out = nn.Parameter(torch.zeros(cfg.d_model))
        self.hook_pre = HookPoint("batch pos d_mlp", "neurons before the activation function")
        if self.gated:
            self.hook_pre_linear = HookPoint("batch pos d_mlp", "the factor that the gate multiplies")
        self.normed = cfg.norms_neurons
        if self.normed:
            self.hook_mid = HookPoint("batch pos d_mlp", "neurons after the activation function, before its norm")
            self.ln = Norm("LN", cfg.d_mlp, cfg.eps, last="d_mlp")
        self.hook_post = HookPoint("batch pos d_mlp", "neurons as W_out reads them")

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """What the neurons together write."""
        if self.gated:
            gate = self.act(self.hook_pre(F.linear(x, self.W_gate.T, self.b_gate)))
            post = gate * self.hook_pre_linear(F.linear(x, self.W_in.T, self.b_in))
        else:
            post = self.act(self.hook_pre(F.linear(x, self.W_in.T, self.b_in)))
        if self.normed:
            post = self.ln(self.hook_mid(post))
        return F.linear(self.hook_post(post), self.W_out.T, self.b_out)


class Unembed(nn.Module):
    """`x W_U + b_U`, soft-capped where the config says so. A tied `W_U` is a view of `W_E^T`, not a parameter."""

    W_U: Float[Tensor, "d_model d_vocab_out"]

    def __init__(self, cfg: TransformerConfig, embed: Embed):
        super().__init__()
        self.cap = cfg.output_logits_soft_cap
        self._tied_to: tuple[Embed, ...] = (
            (embed,) if cfg.tie_word_embeddings else ()
        )  # a tuple, so as not to register it twice
        if not cfg.tie_word_embeddings:
            self.W_U = nn.Parameter(torch.empty(cfg.d_model, cfg.d_vocab_out))
        self.b_U = nn.Parameter(torch.zeros(cfg.d_vocab_out))

    def untie(self) -> None:
        """Let a tied `W_U` become a parameter of its own, with the values that it has."""
        W_E, b_U = self._tied_to[0].W_E, self.b_U
        self._tied_to = ()
        del self.b_U  # so that the two are in the order that they have in other models
        self.W_U, self.b_U = nn.Parameter(W_E.detach().T.clone(memory_format=torch.contiguous_format)), b_U
        self.W_U.requires_grad_(W_E.requires_grad)

    def __getattr__(self, name: str) -> Any:
        """Parameters, as every module finds them, and the tied `W_U`."""
        if name == "W_U" and self._tied_to:
            return self._tied_to[0].W_E.T
        return super().__getattr__(name)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_vocab_out"]:
        """Logits."""
        return self._capped(F.linear(x, self.W_U.T, self.b_U))

    def of_tokens(
        self, x: Float[Tensor, "row pos d_model"], tokens: Int[Tensor, "row n_tokens"]
    ) -> Float[Tensor, "row pos n_tokens"]:
        """Logits of these tokens alone, chosen for each row."""
        return self._capped(x @ self.W_U.T[tokens].transpose(1, 2) + self.b_U[tokens][:, None])

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def _read_weight(n: int, cfg: TransformerConfig) -> nn.Parameter:
    return nn.Parameter(torch.empty(n, cfg.d_model, cfg.d_head))


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
