"""`HookedTransformerConfig`: their fields and defaults, and the core's config that says the same."""

import pprint
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from interp.compat.transformer_lens.checks import ensure
from interp.compat.transformer_lens.utils import ACTIVATION_FN_DICT, get_device
from interp.config import RotaryScaling, TransformerConfig
from interp.errors import ConfigError, describe, did_you_mean
from interp.keywords import known_keywords

FOLDED = {"LN": "LNPre", "RMS": "RMSPre"}
"""What a normalization is called whose gain and bias are folded into the weights that read it."""

LIVE = {"use_attn_result", "use_split_qkv_input", "use_hook_mlp_in", "use_attn_in", "dtype",
        "default_prepend_bos", "tokenizer_prepends_bos", "tokenizer_name", "model_name", "device", "seed",
        "initializer_range", "init_mode", "n_params", "original_architecture", "trust_remote_code"}  # fmt: skip
"""The fields that may be assigned once a model is made with them: its arithmetic does not depend on them."""

SAME = {name: name for name in ("n_layers", "d_model", "n_ctx", "d_vocab", "d_vocab_out", "n_heads", "d_head", "eps",
                                "attn_only", "attention_dir", "use_qk_norm", "dtype", "positional_embedding_type")} | {
        "post_embedding_ln": "embed_norm", "initializer_range": "init_std"}  # fmt: skip
"""Fields whose values are the same here and in the core's config, and what the core calls them."""

NTK = {"NTK_by_parts_factor": "factor", "NTK_by_parts_low_freq_factor": "low_freq_factor",
       "NTK_by_parts_high_freq_factor": "high_freq_factor", "NTK_original_ctx_len": "original_n_ctx"}  # fmt: skip
"""The same of the core's `RotaryScaling`."""


@dataclass(repr=False)
class HookedTransformerConfig:
    """An architecture in TransformerLens's words; what each field means is said there and in `TransformerConfig`.

    The fields `use_attn_result`, `use_split_qkv_input`, `use_hook_mlp_in` and `use_attn_in` cost nothing: their points
    are always there, and computed when something asks for them. The flags only decide what `add_hook` accepts and what
    a cached run keeps that names no points.

    Raises `ConfigError` for a field that is none, and `LensError` for a missing `act_fn` or window. What the core
    cannot compute raises when a model is made.
    """

    n_layers: int
    d_model: int
    n_ctx: int
    d_head: int
    model_name: str = "custom"
    n_heads: int = -1
    d_mlp: int | None = None
    act_fn: str | None = None
    d_vocab: int = -1
    eps: int | float = 1e-5
    use_attn_result: bool = False
    use_attn_scale: bool = True
    attn_scale: int | float = -1.0
    use_split_qkv_input: bool = False
    use_hook_mlp_in: bool = False
    use_attn_in: bool = False
    use_qk_norm: bool = False
    use_local_attn: bool = False
    ungroup_grouped_query_attention: bool = False
    original_architecture: str | None = None
    from_checkpoint: bool = False
    checkpoint_index: int | None = None
    checkpoint_label_type: str | None = None
    checkpoint_value: int | None = None
    tokenizer_name: str | None = None
    window_size: int | None = None
    attn_types: list[str] | None = None
    init_mode: str = "gpt2"
    normalization_type: str | None = "LN"
    device: Any = None
    n_devices: int = 1
    attention_dir: str = "causal"
    attn_only: bool = False
    seed: int | None = None
    initializer_range: int | float = -1.0
    init_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    positional_embedding_type: str = "standard"
    final_rms: bool = False
    d_vocab_out: int = -1
    parallel_attn_mlp: bool = False
    rotary_dim: int | None = None
    n_params: int | None = None
    use_hook_tokens: bool = False
    gated_mlp: bool = False
    default_prepend_bos: bool = True
    dtype: torch.dtype = torch.float32
    tokenizer_prepends_bos: bool | None = None
    n_key_value_heads: int | None = None
    post_embedding_ln: bool = False
    rotary_base: int | float | tuple[float, ...] = 10000
    trust_remote_code: bool = False
    rotary_adjacent_pairs: bool = False
    load_in_4bit: bool = False
    num_experts: int | None = None
    experts_per_token: int | None = None
    relative_attention_max_distance: int | None = None
    relative_attention_num_buckets: int | None = None
    decoder_start_token_id: int | None = None
    tie_word_embeddings: bool = False
    use_normalization_before_and_after: bool = False
    attn_scores_soft_cap: int | float = -1.0
    output_logits_soft_cap: int | float = -1.0
    use_NTK_by_parts_rope: bool = False
    NTK_by_parts_low_freq_factor: int | float = 1.0
    NTK_by_parts_high_freq_factor: int | float = 4.0
    NTK_by_parts_factor: int | float = 8.0
    NTK_original_ctx_len: int = 8192

    def __post_init__(self) -> None:
        self.n_heads = self.d_model // self.d_head if self.n_heads == -1 else self.n_heads
        if self.seed is not None:
            self.set_seed_everywhere(self.seed)
        if self.use_local_attn:
            ensure(self.window_size is not None, "window_size must be specified for local attention")
            ensure(self.attn_types is not None, "attn_types must be specified for local attention")
        if not self.attn_only:
            self.d_mlp = 4 * self.d_model if self.d_mlp is None else self.d_mlp
            ensure(self.act_fn is not None, "act_fn must be specified for non-attn-only models")
            allowed = list(ACTIVATION_FN_DICT)
            near = did_you_mean(str(self.act_fn), allowed)
            ensure(self.act_fn in allowed, f"act_fn={self.act_fn} must be one of {allowed}{near}")
        if self.initializer_range < 0:
            self.initializer_range = 0.8 / self.d_model**0.5
        self.d_vocab_out = self.d_vocab if self.d_vocab_out == -1 else self.d_vocab_out
        if self.positional_embedding_type == "rotary" and self.rotary_dim is None:
            self.rotary_dim = self.d_head
        if self.use_attn_scale and self.attn_scale == -1.0:
            self.attn_scale = self.d_head**0.5
        self.device = get_device() if self.device is None else self.device
        heads = self.d_model * self.d_head * self.n_heads * 4
        mlp = 0 if self.attn_only else self.d_model * (self.d_mlp or 0) * (2 + self.gated_mlp)
        self.n_params = self.n_layers * (heads + mlp)

    def __setattr__(self, name: str, value: Any) -> None:
        if vars(self).get("_made") and name not in LIVE and value != getattr(self, name, None):
            raise ConfigError(f"cfg.{name} = {describe(value)}: a model's weights are made for the config that it has; "
                              "make another model")  # fmt: skip
        super().__setattr__(name, value)

    def of_model(self, **changes: Any) -> "HookedTransformerConfig":
        """A copy with these changes, whose fields that fix a model's arithmetic can no longer be assigned."""
        made = object.__new__(type(self))
        vars(made).update({**vars(self), **changes, "_made": True})
        return made

    @classmethod
    def unwrap(cls, config: "Mapping[str, Any] | HookedTransformerConfig") -> "HookedTransformerConfig":
        """A config, from its fields as a dictionary where it is one."""
        return cls.from_dict(config) if isinstance(config, Mapping) else config

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> "HookedTransformerConfig":
        """The config with these fields."""
        return cls(**config_dict)

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return {name: value for name, value in vars(self).items() if name != "_made"}

    __getstate__ = to_dict  # so that a copy is of no model, and can be changed

    def __repr__(self) -> str:
        return "HookedTransformerConfig:\n" + pprint.pformat(self.to_dict())

    def set_seed_everywhere(self, seed: int) -> None:
        """Seed the global generators of torch, numpy and Python."""
        for seed_one in (torch.manual_seed, np.random.seed, random.seed):
            seed_one(seed)

    def is_layer_norm_activation(self) -> bool:
        """Whether a LayerNorm over the neurons follows the activation function."""
        return self.act_fn is not None and self.act_fn.endswith("_ln")

    # ------------------------------------------------------------------ the core's config

    def to_core(self) -> TransformerConfig:
        """The same architecture as the core says it. Raises `ConfigError` naming the field that it cannot."""
        self._refuse()
        rotary, local, base = self.positional_embedding_type == "rotary", self.use_local_attn, self.rotary_base
        windows = tuple(self.window_size if kind == "local" else None for kind in self.attn_types or ())
        ntk = RotaryScaling(kind="llama3", **{theirs: getattr(self, ours) for ours, theirs in NTK.items()})
        said: dict[str, Any] = {theirs: getattr(self, ours) for ours, theirs in SAME.items()}
        said |= {
            "n_key_value_heads": self.n_key_value_heads or self.n_heads,
            "d_mlp": 0 if self.attn_only else self.d_mlp,
            "act_fn": "gelu_new" if self.act_fn == "gelu_pytorch_tanh" else self.act_fn or "gelu",
            "gated_mlp": self.gated_mlp and not self.attn_only,
            "parallel_attn_mlp": self.parallel_attn_mlp and not self.attn_only,
            "normalization_type": self.normalization_type and self.normalization_type.removesuffix("Pre"),
            "norm_position": "both" if self.use_normalization_before_and_after else "pre",
            "rotary_dim": self.rotary_dim if rotary else None,
            "rotary_base": (base if isinstance(base, tuple) else float(base)) if rotary else None,
            "rotary_scaling": ntk if rotary and self.use_NTK_by_parts_rope else None,
            "window_size": (windows or self.window_size) if local else None,
            "attn_scale": float(self.attn_scale) if self.use_attn_scale else 1.0,
            "seed": self.seed,
        }
        for name in ("attn_scores_soft_cap", "output_logits_soft_cap"):
            said[name] = float(getattr(self, name)) if getattr(self, name) > 0 else None
        return TransformerConfig.from_dict(said)

    def _refuse(self) -> None:
        """Raise `ConfigError` for a field that asks for what the core does not compute."""
        only = {
            "normalization_type": ("LN", "LNPre", "RMS", "RMSPre", None),
            "positional_embedding_type": ("standard", "rotary", "shortformer"),
            "init_mode": ("gpt2",),
            "n_devices": (1,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "rotary_adjacent_pairs": (False,),
            "load_in_4bit": (False,),
            "num_experts": (None,),
            "ungroup_grouped_query_attention": (False,),
            "relative_attention_num_buckets": (None,),
            "final_rms": (False, *([True] if str(self.normalization_type).startswith("RMS") else [])),
        }
        for name, allowed in only.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} = {describe(getattr(self, name))}: interp computes "
                                  f"{' or '.join(map(repr, allowed))} only")  # fmt: skip

    @classmethod
    def of_core(cls, cfg: TransformerConfig, **beside: Any) -> "HookedTransformerConfig":
        """The core's config in their words, with some more fields. Raises `ConfigError` for what they have no word."""
        windows = cfg.window_size if isinstance(cfg.window_size, tuple) else (cfg.window_size,) * cfg.n_layers
        sizes, scaling = {size for size in windows if size is not None}, cfg.rotary_scaling
        said: dict[str, Any] = {ours: getattr(cfg, theirs) for ours, theirs in SAME.items()}
        said |= {name: getattr(cfg, name) for name in ("act_fn", "d_mlp", "gated_mlp", "parallel_attn_mlp",
                                                       "normalization_type", "attn_scale", "rotary_dim")}  # fmt: skip
        said |= {
            "n_key_value_heads": None if cfg.n_key_value_heads == cfg.n_heads else cfg.n_key_value_heads,
            "use_normalization_before_and_after": cfg.norm_position == "both",
            "use_local_attn": bool(sizes),
            "window_size": max(sizes, default=None),
            "attn_types": ["global" if size is None else "local" for size in windows] if sizes else None,
            "rotary_base": 10000 if cfg.rotary_base is None else cfg.rotary_base,
            "attn_scores_soft_cap": cfg.attn_scores_soft_cap or -1.0,
            "output_logits_soft_cap": cfg.output_logits_soft_cap or -1.0,
        }
        if isinstance(scaling, RotaryScaling) and scaling.kind == "llama3":
            said |= {"use_NTK_by_parts_rope": True, **{ours: getattr(scaling, theirs) for ours, theirs in NTK.items()}}
        return cls(**said, **beside)


HookedTransformerConfig.__init__ = known_keywords(HookedTransformerConfig.__init__)
