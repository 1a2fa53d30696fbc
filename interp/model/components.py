"""The parts of a transformer, each a few lines of arithmetic with hook points in between.

Axes, everywhere in this package:

- `batch`: independent sequences.
- `pos`: positions in a sequence; `query_pos` and `key_pos` where two positions meet; `source_pos` those of a memory.
- `d_model`: the residual stream. Vectors are rows: `y = x @ W`.
- `head`, `d_head`: attention heads and their width; `kv_head` where several query heads share keys and values.
- `d_mlp`: hidden neurons. `d_vocab`: tokens; `d_vocab_out`: logits, as many unless the config says otherwise.

Weights have the field's shapes (`W_Q[head, d_model, d_head]`) and are contiguous, as torch's own tools for parameters
expect them to be (flat vectors of parameters, pruning, LBFGS, safetensors).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.config import TransformerConfig
from interp.errors import ConfigError
from interp.model.hooks import HookPoint
from interp.model.norms import Norm
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
"""What `act_fn` of a config stands for; the LayerNorm after "solu_ln" is a part of its own."""

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""What parameters can be."""


class Embed(nn.Module):
    """A row of `W_E [d_vocab, d_model]` for every token, times `embed_scale`.

    A `W_E` that is shared with another embedding is that one's parameter, not one of this module. As tied parameters of
    torch, it is cast and moved with either module.

    Attributes:
        shared_with: the embedding whose `W_E` this is, in a tuple, so as not to be registered twice; or nothing.

    Raises `ConfigError` for a shared `W_E` of another size.
    """

    W_E: Float[Tensor, "d_vocab d_model"]

    def __init__(self, cfg: TransformerConfig, shared: "Embed | None" = None):
        super().__init__()
        self.scale = cfg.embed_scale
        self.shared_with: tuple[Embed, ...] = () if shared is None else (shared,)
        if shared is None:
            self.W_E = nn.Parameter(torch.empty(cfg.d_vocab, cfg.d_model))
        elif tuple(shared.W_E.shape) != (cfg.d_vocab, cfg.d_model):
            raise ConfigError(f"embed: its W_E has shape {tuple(shared.W_E.shape)}; the config says [d_vocab, d_model] "
                              f"= {[cfg.d_vocab, cfg.d_model]}")  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        """Parameters, as every module finds them, and the shared `W_E`."""
        if name == "W_E" and self.shared_with:
            return self.shared_with[0].W_E
        return super().__getattr__(name)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """`one_hot(tokens) @ W_E * embed_scale`."""
        return self.scaled(F.embedding(tokens, self.W_E))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        for other in self.shared_with:
            other._apply(fn, recurse)
        return self

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
    """One-hot positions in the last n_ctx dimensions, or sines and cosines (Vaswani et al. 2017, 3.5).

    These come in turn, or all cosines after all sines ("sinusoidal_halves").
    """
    if cfg.positional_embedding_type == "onehot":
        return F.pad(torch.eye(cfg.n_ctx, dtype=dtype), (cfg.d_model - cfg.n_ctx, 0))
    pair = torch.arange(0, cfg.d_model, 2, dtype=torch.float64)
    angles = torch.arange(cfg.n_ctx)[:, None] / 10_000.0 ** (pair / cfg.d_model)
    if cfg.positional_embedding_type == "sinusoidal_halves":
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(dtype)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(dtype)


class TokenTypeEmbed(nn.Module):
    """A row of `W_type [n_token_types, d_model]` for the type of every token."""

    def __init__(self, cfg: TransformerConfig):
        super().__init__()
        self.W_type = nn.Parameter(torch.empty(cfg.n_token_types, cfg.d_model))

    def forward(self, types: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """`W_type[types]`."""
        return F.embedding(types, self.W_type)


class RelativeBias(nn.Module):
    """What is added to the scores of every layer for the distance from a query to a key (Raffel et al. 2020, 2.1).

    Attributes:
        W_rel: [bucket, head]. Near distances have a bucket each, far ones share them, the wider the farther.
    """

    def __init__(self, cfg: TransformerConfig):
        super().__init__()
        self.cfg = cfg
        self.W_rel = nn.Parameter(torch.empty(cfg.relative_buckets or 0, cfg.n_heads))
        self.hook_bias = HookPoint("batch head query_pos key_pos", "what the scores of all layers get for distances")

    def forward(self, n_new: int, n_keys: int, batch: int) -> Float[Tensor, "batch head n_new n_keys"]:
        """For the last `n_new` of `n_keys` positions as queries."""
        return self.hook_bias(self.unhooked(n_new, n_keys).expand(batch, -1, -1, -1))

    def unhooked(self, n_new: int, n_keys: int) -> Float[Tensor, "1 head n_new n_keys"]:
        """The same for every sequence, past the hook point."""
        keys = torch.arange(n_keys, device=self.W_rel.device)
        buckets = self.buckets(keys - keys[n_keys - n_new :, None])
        return F.embedding(buckets, self.W_rel).permute(2, 0, 1)[None]

    def buckets(self, distances: Int[Tensor, "*axes"]) -> Int[Tensor, "*axes"]:
        """The bucket of each distance, which is the key's position minus the query's.

        Half of the buckets are of one distance each; the others grow with the logarithm of the distance up to
        `relative_max_distance`. With bidirectional attention the later half of all buckets is for keys after the query.
        """
        assert self.cfg.relative_buckets is not None and self.cfg.relative_max_distance is not None
        n, first = self.cfg.relative_buckets, torch.zeros_like(distances)
        if self.cfg.attention_dir == "bidirectional":
            n = n // 2
            first, size = n * (distances > 0), distances.abs()
        else:
            size = -distances.clamp(max=0)
        exact = n // 2
        # In float32, as the models were trained: at a few distances the logarithm is a whole number.
        ratio = (size.clamp(min=1).float() / exact).log() / math.log(self.cfg.relative_max_distance / exact)
        far = exact + (ratio * (n - exact)).long()
        return first + torch.where(size < exact, size, far.clamp(max=n - 1))


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


class MaskedTokenHead(nn.Module):
    """What a masked-token model does to the last stream before the unembedding (Devlin et al. 2019).

    It is `norm(act(x W_in + b_in))`. The logits are linear in its neurons at the norm's scale, not in the stream.
    """

    def __init__(self, cfg: TransformerConfig):
        super().__init__()
        self.act = ACTIVATIONS[cfg.act_fn]
        self.W_in = nn.Parameter(torch.empty(cfg.d_model, cfg.d_model))
        self.b_in = nn.Parameter(torch.zeros(cfg.d_model))
        self.hook_pre = HookPoint("batch pos d_model", "neurons of the head before the activation function")
        self.hook_post = HookPoint("batch pos d_model", "neurons of the head after it")
        self.ln = Norm(cfg.normalization_type, cfg.d_model, cfg.eps)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """What the unembedding reads."""
        return self.ln(self.hook_post(self.act(self.hook_pre(F.linear(x, self.W_in.T, self.b_in)))))

    def unhooked(self, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
        """As `forward`, past the hook points."""
        return self.ln.unhooked(self.act(F.linear(x, self.W_in.T, self.b_in)))

    def is_watched(self) -> bool:
        """Whether there are hooks on its points."""
        return bool(self.hook_pre.hooks or self.hook_post.hooks) or self.ln.is_watched()


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
