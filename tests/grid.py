"""The models that the tests run on: a grid of named architectures, random ones, and a reference written in loops."""

import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from pretend_device import NAME, install
from torch import Tensor

from interp import ActivationCache, HookedTransformer, TransformerConfig
from interp.config import RotaryScaling
from interp.model.hooks import HookFn
from interp.model.loss import next_token_loss
from interp.model.names import HookName
from interp.model.norms import Norm
from interp.text.codec import TextCodec

if os.environ.get("INTERP_SEED") == "random":
    os.environ["INTERP_SEED"] = str(random.SystemRandom().randrange(2**31))

USUAL_SEED = 170612
"""A run that says no seed uses this one: what was green for one is green for all who run the same files."""

SEED = int(os.environ.setdefault("INTERP_SEED", str(USUAL_SEED)))
"""Of every random model of the grid in this session, printed at its end: a number that INTERP_SEED says, or one drawn
anew for `INTERP_SEED=random`.

It is kept in the environment, so that all worker processes of a session draw the same models.
"""

DEVICE = install() if os.environ.get("INTERP_DEVICE") == NAME else torch.device(os.environ.get("INTERP_DEVICE", "cpu"))
"""Where the tests marked `device` run."""

SMALL: dict[str, Any] = {
    "n_layers": 3,
    "d_model": 24,
    "n_ctx": 8,
    "d_vocab": 11,
    "n_heads": 4,
    "d_head": 5,
    "d_mlp": 10,
}
ATTN_ONLY: dict[str, Any] = {"attn_only": True, "d_mlp": 0}
ROTARY: dict[str, Any] = {"positional_embedding_type": "rotary", "d_head": 6}
GATED: dict[str, Any] = {"normalization_type": "RMS", "gated_mlp": True, "act_fn": "silu"}
RELATIVE: dict[str, Any] = {
    "positional_embedding_type": "relative",
    "relative_buckets": 4,
    "relative_max_distance": 6,
    "attn_scale": 1.0,
}

GRID: dict[str, dict[str, Any]] = {
    name: SMALL | fields | {"dtype": torch.float64}
    for name, fields in {
        "learned_ln": {},
        "onehot_rms_relu": {"positional_embedding_type": "onehot", "normalization_type": "RMS", "act_fn": "relu"},
        "sinusoidal_no_norm": {
            "positional_embedding_type": "sinusoidal",
            "normalization_type": None,
            "act_fn": "gelu_new",
        },
        "rotary_rms_gated_grouped": ROTARY | GATED | {"n_key_value_heads": 2},
        "partial_rotary_parallel": ROTARY | {"rotary_dim": 4, "rotary_base": 100.0, "parallel_attn_mlp": True},
        "parallel_no_norm_one_key": {"normalization_type": None, "parallel_attn_mlp": True, "n_key_value_heads": 1},
        "shortformer_attn_only": {"positional_embedding_type": "shortformer"} | ATTN_ONLY,
        "shortformer_rms_grouped": {
            "positional_embedding_type": "shortformer",
            "normalization_type": "RMS",
            "n_key_value_heads": 2,
        },
        "no_positions_tied_scaled": {
            "positional_embedding_type": "none",
            "tie_word_embeddings": True,
            "attn_scale": 1.5,
            "act_fn": "solu_ln",
        },
        "post_ln_sinusoidal_bidirectional": {
            "norm_position": "post",
            "positional_embedding_type": "sinusoidal",
            "attention_dir": "bidirectional",
        },
        "post_rms_gated_grouped": GATED | {"norm_position": "post", "n_key_value_heads": 2},
        "post_ln_attn_only_rotary": ROTARY | ATTN_ONLY | {"norm_position": "post"},
        "post_without_norm": {"norm_position": "post", "normalization_type": None},
        "capped_window_tied": ROTARY
        | GATED
        | {
            "act_fn": "gelu_new",
            "attn_scores_soft_cap": 2.0,
            "output_logits_soft_cap": 3.0,
            "window_size": 3,
            "n_key_value_heads": 1,
            "tie_word_embeddings": True,
        },
        "qk_norm_grouped": ROTARY | GATED | {"use_qk_norm": True, "n_key_value_heads": 2, "eps": 1e-2},
        "bidirectional_attn_only_no_norm": ATTN_ONLY | {"normalization_type": None, "attention_dir": "bidirectional"},
        "norms_on_both_sides": {"norm_position": "both", "embed_scale": 1.5, "act_fn": "solu"},
        "gemma_like": ROTARY
        | GATED
        | {
            "norm_position": "both",
            "embed_scale": 4.9,
            "use_qk_norm": True,
            "n_key_value_heads": 2,
            "window_size": (3, None, 2),
            "rotary_base": (100.0, 10_000.0, 100.0),
            "rotary_scaling": (None, RotaryScaling(kind="linear", factor=8.0), None),
            "tie_word_embeddings": True,
        },
        "llama3_scaled": ROTARY
        | GATED
        | {"rotary_base": 50.0, "rotary_scaling": RotaryScaling(kind="llama3", factor=8.0, original_n_ctx=16)},
        "sdpa_rotary_grouped_window": ROTARY
        | {"attn_implementation": "sdpa", "n_key_value_heads": 2, "window_size": 4, "attn_scale": 2.0},
        "bert_like": {
            "norm_position": "post",
            "attention_dir": "bidirectional",
            "embed_norm": True,
            "n_token_types": 2,
            "masked_token_head": True,
            "tie_word_embeddings": True,
        },
        "modernbert_like": ROTARY
        | {
            "attention_dir": "bidirectional",
            "window_size": (3, None, 2),
            "rotary_base": (50.0, 400.0, 50.0),
            "gated_mlp": True,
            "embed_norm": True,
            "first_ln1": False,
            "masked_token_head": True,
        },
        "relative_rms": RELATIVE | {"normalization_type": "RMS", "act_fn": "relu"},
        "relative_bidirectional_grouped": RELATIVE
        | {"attention_dir": "bidirectional", "n_key_value_heads": 2, "use_qk_norm": True},
    }.items()
}


SHAPE_CHECKED = [
    "learned_ln",
    "gemma_like",
    "post_rms_gated_grouped",
    "shortformer_rms_grouped",
    "sdpa_rotary_grouped_window",
    "bert_like",
    "relative_bidirectional_grouped",
]
"""The architectures of the grid on which the shapes of annotations are checked at run time, which takes long."""


def as_text(value: Any) -> str | None:
    """A parameter as part of a test's id: its text, or None (pytest then counts) where texts differ between processes.

    Worker processes must collect the same ids, and the text of a function or an object can hold its address.
    """
    text = str(value)
    return None if " at 0x" in text or "tensor(" in text else text


def config(fields: dict[str, Any], **changes: Any) -> TransformerConfig:
    """The configuration of these fields, some of them changed."""
    return TransformerConfig(**fields | changes)


def build(cfg: TransformerConfig, seed: int, tokenizer: TextCodec | None = None) -> HookedTransformer:
    """A model with every parameter random: gains around one, no bias zero, weights that keep activations near one."""
    model = HookedTransformer(cfg, tokenizer, init_weights=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            gain = name.endswith(".w")
            spread = 0.3 if cfg.normalization_type else 0.12  # without norms nothing else keeps the stream small
            parameter.copy_(1 + 0.3 * noise if gain else noise * (spread if ".W_" in name else 0.5))
    return model


def random_tokens(cfg: TransformerConfig, seed: int, batch: int = 3, n_pos: int | None = None) -> Tensor:
    """Token ids [batch, pos], by default one position short of the context."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, cfg.d_vocab, (batch, n_pos or max(2, cfg.n_ctx - 1)), generator=generator)


def random_tensor(*shape: int, seed: int = SEED) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass
class Run:
    """A random model and what it does with random tokens. Tests that write to a model take `fresh_model()`."""

    fields: dict[str, Any]
    seed: int

    @cached_property
    def cfg(self) -> TransformerConfig:
        return TransformerConfig(**self.fields)

    @cached_property
    def model(self) -> HookedTransformer:
        return self.fresh_model()

    @cached_property
    def tokens(self) -> Tensor:
        return random_tokens(self.cfg, self.seed)

    @cached_property
    def recorded(self) -> tuple[Tensor, ActivationCache]:
        with torch.no_grad():
            return self.model.run_with_cache(self.tokens)

    @property
    def cache(self) -> ActivationCache:
        return self.recorded[1]

    @cached_property
    def everything(self) -> ActivationCache:
        """The lazy points too, and the gradient of the objective at every point."""
        assert not any(point.hooks for point in self.model.hook_points.values()), "ask for it before adding hooks"
        names = list(self.model.hook_map())
        return self.model.run_with_cache(self.tokens, names_filter=names, gradient_of=self.objective)[1]

    def objective(self, logits: Tensor) -> Tensor:
        """What gradients are of in every architecture: the loss of next tokens, whatever the positions have seen."""
        return next_token_loss(logits, self.tokens.to(logits.device))

    @cached_property
    def logits(self) -> Tensor:
        with torch.no_grad():
            return self.model(self.tokens)

    def fresh_model(self) -> HookedTransformer:
        return build(self.cfg, self.seed)


@cache
def run_of(name: str) -> Run:
    """The session's run of a configuration of the grid."""
    return Run(GRID[name], SEED)


def everywhere(model: HookedTransformer, fn: HookFn) -> list[tuple[HookName, HookFn]]:
    """A hook on every point, the lazy ones too."""
    return [(name, fn) for name in model.hook_map()]


def where(fits: Callable[[TransformerConfig], bool]) -> pytest.MarkDecorator:
    """The test takes as `run` only those configurations of the grid that fit."""
    return pytest.mark.parametrize("run", [name for name in GRID if fits(run_of(name).cfg)], indirect=True)


def splits_logits(cfg: TransformerConfig) -> bool:
    """Whether logits are linear in the last stream, but for its norm, so that they are sums over what wrote to it."""
    return cfg.has_unembed and not cfg.masked_token_head


def has_mid(cfg: TransformerConfig) -> bool:
    """Whether a stream runs between attention and MLP."""
    return not (cfg.attn_only or cfg.parallel_attn_mlp)


@st.composite
def configs(draw: st.DrawFn, **fixed: Any) -> dict[str, Any]:
    """Fields of valid configurations of small random sizes; `fixed` ones are taken as they are."""
    positions = ["standard", "onehot", "sinusoidal", "sinusoidal_halves", "rotary", "relative", "shortformer", "none"]
    fields: dict[str, Any] = {
        "n_layers": draw(st.integers(1, 3)),
        "d_model": draw(st.sampled_from([6, 8, 14])),
        "n_ctx": draw(st.integers(3, 6)),
        "d_vocab": draw(st.integers(2, 9)),
        "n_key_value_heads": draw(st.integers(1, 2)),
        "attn_only": draw(st.booleans()),
        "act_fn": draw(st.sampled_from(["relu", "gelu", "gelu_new", "gelu_fast", "silu", "solu", "solu_ln"])),
        "normalization_type": draw(st.sampled_from(["LN", "RMS", None])),
        "norm_position": draw(st.sampled_from(["pre", "post"])),
        "positional_embedding_type": draw(st.sampled_from(positions)),
        "attention_dir": draw(st.sampled_from(["causal", "bidirectional"])),
        "attn_scale": draw(st.sampled_from([1.0, 1.7])),
        "attn_implementation": draw(st.sampled_from(["eager", "eager", "sdpa"])),
        "output_logits_soft_cap": draw(st.sampled_from([None, 2.5])),
        "use_qk_norm": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        "n_token_types": draw(st.sampled_from([0, 0, 2])),
        "masked_token_head": draw(st.booleans()),
        "window_size": draw(st.sampled_from([None, 1, 2])),
        "dtype": torch.float64,
    } | fixed
    fields["n_heads"] = fields["n_key_value_heads"] * draw(st.integers(1, 2))
    fields["d_head"] = draw(st.integers(1, 4))
    if fields["positional_embedding_type"] == "rotary":
        fields["d_head"] += fields["d_head"] % 2
        fields["rotary_dim"] = draw(st.sampled_from(range(2, fields["d_head"] + 1, 2)))
    if not fields["attn_only"]:
        fields["d_mlp"] = draw(st.integers(1, 7))
        fields["gated_mlp"] = draw(st.booleans())
        fields["parallel_attn_mlp"] = fields["norm_position"] == "pre" and draw(st.booleans())
    if fields["positional_embedding_type"] == "relative":
        fields["relative_buckets"] = draw(st.sampled_from([4, 8]))
        fields["relative_max_distance"] = draw(st.integers(5, 7))
    if fields["normalization_type"]:
        fields["embed_norm"] = draw(st.booleans())
        fields["first_ln1"] = fields["norm_position"] == "post" or draw(st.booleans())
    if fields["attn_implementation"] == "eager":
        fields["attn_scores_soft_cap"] = draw(st.sampled_from([None, 1.5]))
    return fields | fixed


def runs(**fixed: Any) -> st.SearchStrategy[Run]:
    """Runs of random configurations."""
    return st.builds(Run, configs(**fixed), st.integers(0, 2**31))


def assert_close(got: Tensor, want: Tensor, atol: float | None = None) -> None:
    """Equal but for rounding: 1e-5 in float32 and 1e-10 in float64, of the largest entry where that exceeds one."""
    scale = want[want.isfinite()].abs().max().clamp(min=1).item() if want.isfinite().any() else 1.0
    atol = {torch.float32: 1e-5, torch.float64: 1e-10}[want.dtype] if atol is None else atol
    torch.testing.assert_close(got, want, rtol=0, atol=atol * scale)


# ---------------------------------------------------------------------------------------------- reference, in loops

Edit = Callable[[int, str, int, Tensor], Tensor]
"""`edit(layer, part, head, x)` is what takes the place of `x` [pos, d_model]: what a head reads or writes."""


def _keep(layer: int, part: str, head: int, x: Tensor) -> Tensor:
    return x


def in_layer(field: Any, layer: int) -> Any:
    """A field that may be a tuple with a value for each layer, in one of them."""
    return field[layer] if isinstance(field, tuple) else field


def reference_norm(norm: Norm, x: Tensor) -> Tensor:
    """LayerNorm and RMSNorm as the papers write them; `norm` is read for its parameters only."""
    if norm.w is None:
        return x
    centred = x if norm.b is None else x - x.mean(-1, keepdim=True)
    out = centred / ((centred * centred).mean(-1, keepdim=True) + norm.eps) ** 0.5 * norm.w
    return out if norm.b is None else out + norm.b


def reference_position(cfg: TransformerConfig, p: int) -> Tensor:
    """The fixed vector of position `p`, one-hot or sinusoidal; sines and cosines in turn, or in two halves."""
    if cfg.positional_embedding_type == "onehot":
        return torch.tensor([float(i == cfg.d_model - cfg.n_ctx + p) for i in range(cfg.d_model)], dtype=cfg.dtype)
    if cfg.positional_embedding_type == "sinusoidal_halves":
        half = [p / 10_000 ** (2 * i / cfg.d_model) for i in range(cfg.d_model // 2)]
        return torch.tensor([*map(math.sin, half), *map(math.cos, half)], dtype=cfg.dtype)
    angles = [p / 10_000 ** (2 * (i // 2) / cfg.d_model) for i in range(cfg.d_model)]
    return torch.tensor([math.cos(a) if i % 2 else math.sin(a) for i, a in enumerate(angles)], dtype=cfg.dtype)


def reference_rotation(cfg: TransformerConfig, layer: int, x: Tensor, p: int) -> Tensor:
    """A query or key [d_head] at position `p`, its pairs (i, i + rotary_dim / 2) turned as complex numbers."""
    base = in_layer(cfg.rotary_base, layer)
    if cfg.rotary_dim is None or base is None:
        return x
    half, turned = cfg.rotary_dim // 2, x.clone()
    for i in range(half):
        angle = p * reference_slowing(in_layer(cfg.rotary_scaling, layer), base ** (-2 * i / cfg.rotary_dim))
        z = complex(float(x[i]), float(x[i + half])) * complex(math.cos(angle), math.sin(angle))
        turned[i], turned[i + half] = z.real, z.imag
    return turned


def reference_slowing(scaling: RotaryScaling | None, frequency: float) -> float:
    """A rotary frequency as the scaling leaves it, by wavelengths as the Llama 3.1 release describes them."""
    if scaling is None:
        return frequency
    if scaling.kind == "linear":
        return frequency / scaling.factor
    wavelength = 2 * math.pi / frequency
    if wavelength < scaling.original_n_ctx / scaling.high_freq_factor:
        return frequency
    if wavelength > scaling.original_n_ctx / scaling.low_freq_factor:
        return frequency / scaling.factor
    smooth = (scaling.original_n_ctx / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def reference_activation(name: str, x: Tensor) -> Tensor:
    """The activation functions from their formulas."""
    if name == "relu":
        return torch.where(x > 0, x, torch.zeros_like(x))
    if name == "silu":
        return x / (1 + (-x).exp())
    if name in ("solu", "solu_ln"):
        return x * x.exp() / x.exp().sum(-1, keepdim=True)
    if name == "gelu":
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def reference_bucket(cfg: TransformerConfig, distance: int) -> int:
    """The bucket of a key's position minus the query's, in the words of Raffel et al. 2020, section 2.1."""
    n, first = cfg.relative_buckets or 0, 0
    if cfg.attention_dir == "bidirectional":
        n //= 2
        first, distance = (n if distance > 0 else 0), -abs(distance)
    behind, exact = max(-distance, 0), n // 2
    if behind < exact:
        return first + behind
    share = math.log(behind / exact) / math.log((cfg.relative_max_distance or 0) / exact)
    return first + min(n - 1, exact + int(share * (n - exact)))


@torch.no_grad()
def reference_logits(
    model: HookedTransformer,
    tokens: Tensor,
    edit: Edit = _keep,
    token_types: Tensor | None = None,
    memory: Tensor | None = None,
) -> Tensor:
    """Logits [pos, d_vocab] of one sequence [pos], head by head and query by query."""
    cfg, x = model.cfg, reference_stream(model, tokens, edit, token_types, memory)
    if cfg.masked_token_head:
        x = reference_activation(cfg.act_fn, x @ model.mlm_head.W_in + model.mlm_head.b_in)
        x = reference_norm(model.mlm_head.ln, x)
    logits = x @ (model.W_E.T if cfg.tie_word_embeddings else model.W_U) + model.b_U
    cap = cfg.output_logits_soft_cap
    return logits if cap is None else cap * torch.tanh(logits / cap)


@torch.no_grad()
def reference_stream(
    model: HookedTransformer,
    tokens: Tensor,
    edit: Edit = _keep,
    token_types: Tensor | None = None,
    memory: Tensor | None = None,
) -> Tensor:
    """The last stream [pos, d_model] of one sequence [pos], after the final norm where there is one.

    `memory` is [source_pos, d_memory], all of it tokens.
    """
    cfg, post = model.cfg, model.cfg.norm_position == "post"
    x = torch.stack([cfg.embed_scale * model.W_E[int(token)] for token in tokens])
    to_queries_and_keys = torch.zeros_like(x)
    if cfg.positional_embedding_type not in ("rotary", "relative", "none"):
        vectors = model.W_pos[: len(tokens)]
        if cfg.positional_embedding_type == "shortformer":
            to_queries_and_keys = vectors
        else:
            x = x + vectors
    if cfg.n_token_types:
        types = [0] * len(tokens) if token_types is None else token_types.tolist()
        x = x + torch.stack([model.token_type_embed.W_type[one] for one in types])
    if cfg.embed_norm:
        x = reference_norm(model.embed_ln, x)
    for layer, block in enumerate(model.blocks):
        attn_out = reference_norm(block.ln1_post, _reference_attention(model, layer, x, to_queries_and_keys, edit))
        mid = x + attn_out
        if post:
            mid = reference_norm(block.ln1, mid)
        if cfg.cross_attention:
            assert memory is not None
            crossed = _reference_cross_attention(model, layer, mid, memory)
            mid = mid + reference_norm(block.ln_cross_post, crossed)
            mid = reference_norm(block.ln_cross, mid) if post else mid
        if cfg.attn_only:
            x = mid
            continue
        read = edit(layer, "mlp", 0, x if cfg.parallel_attn_mlp else mid)
        read = read if post else reference_norm(block.ln2, read)
        neurons = read @ block.mlp.W_in + block.mlp.b_in
        if cfg.gated_mlp:
            gate = read @ block.mlp.W_gate + block.mlp.b_gate
            neurons = reference_activation(cfg.act_fn, gate) * neurons
        else:
            neurons = reference_activation(cfg.act_fn, neurons)
        if cfg.act_fn == "solu_ln":
            neurons = reference_norm(block.mlp.ln, neurons)
        x = mid + reference_norm(block.ln2_post, neurons @ block.mlp.W_out + block.mlp.b_out)
        if post:
            x = reference_norm(block.ln2, x)
    return x if post else reference_norm(model.ln_final, x)


def _reference_cross_attention(model: HookedTransformer, layer: int, x: Tensor, memory: Tensor) -> Tensor:
    cfg, block, attn = model.cfg, model.blocks[layer], model.blocks[layer].cross_attn
    read = x if cfg.norm_position == "post" else reference_norm(block.ln_cross, x)
    total = attn.b_O.expand_as(x)
    for head in range(cfg.n_heads):
        kv = head // (cfg.n_heads // cfg.n_key_value_heads)
        q = reference_norm(attn.q_norm, read @ attn.W_Q[head] + attn.b_Q[head])
        k = reference_norm(attn.k_norm, memory @ attn.W_K[kv] + attn.b_K[kv])
        v = memory @ attn.W_V[kv] + attn.b_V[kv]
        rows = []
        for query in q:
            scores = [float(query @ key) / cfg.attn_scale for key in k]
            cap = cfg.attn_scores_soft_cap
            scores = scores if cap is None else [cap * math.tanh(score / cap) for score in scores]
            total_weight = sum(map(math.exp, scores))
            rows.append(sum(math.exp(score) / total_weight * value for score, value in zip(scores, v, strict=True)))
        total = total + torch.stack(rows) @ attn.W_O[head]
    return total


def _reference_attention(
    model: HookedTransformer, layer: int, x: Tensor, to_queries_and_keys: Tensor, edit: Edit
) -> Tensor:
    cfg, block, attn = model.cfg, model.blocks[layer], model.blocks[layer].attn

    def read(part: str, head: int) -> Tensor:
        seen = edit(layer, part, head, x)
        normalized = seen if cfg.norm_position == "post" else reference_norm(block.ln1, seen)
        return normalized if part == "v" else normalized + to_queries_and_keys

    total = attn.b_O.expand_as(x)
    for head in range(cfg.n_heads):
        kv = head // (cfg.n_heads // cfg.n_key_value_heads)
        q = reference_norm(attn.q_norm, read("q", head) @ attn.W_Q[head] + attn.b_Q[head])
        k = reference_norm(attn.k_norm, read("k", kv) @ attn.W_K[kv] + attn.b_K[kv])
        v = read("v", kv) @ attn.W_V[kv] + attn.b_V[kv]
        bias = model.rel_bias.W_rel[:, head] if cfg.positional_embedding_type == "relative" else None
        z = torch.stack([_reference_query(cfg, layer, q, k, v, i, bias) for i in range(len(x))])
        total = total + edit(layer, "result", head, z @ attn.W_O[head])
    return total


def _reference_query(
    cfg: TransformerConfig, layer: int, q: Tensor, k: Tensor, v: Tensor, i: int, bias: Tensor | None
) -> Tensor:
    """What the query at position `i` collects, [d_head]."""
    window = in_layer(cfg.window_size, layer)
    scores: dict[int, float] = {}
    for j in range(len(k)):
        if (cfg.attention_dir == "causal" and j > i) or (window is not None and abs(i - j) >= window):
            continue
        product = (
            float(reference_rotation(cfg, layer, q[i], i) @ reference_rotation(cfg, layer, k[j], j)) / cfg.attn_scale
        )
        product += 0.0 if bias is None else float(bias[reference_bucket(cfg, j - i)])
        cap = cfg.attn_scores_soft_cap
        scores[j] = product if cap is None else cap * math.tanh(product / cap)
    total = sum(math.exp(score) for score in scores.values())
    return sum((math.exp(score) / total * v[j] for j, score in scores.items()), torch.zeros_like(v[0]))
