"""Small transformers models of every family with random weights, and a way to run them in true float64."""

import functools
import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
import transformers
from grid import SEED
from torch import Tensor
from transformers import modeling_rope_utils

N_POS = 11
SIZES: dict[str, Any] = {
    "vocab_size": 37,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
GROUPED: dict[str, Any] = SIZES | {"num_key_value_heads": 2, "head_dim": 10, "rms_norm_eps": 1e-4}
LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GPT2: dict[str, Any] = {"vocab_size": 37, "n_embd": 24, "n_layer": 3, "n_head": 3, "n_positions": 32} | {
    "bos_token_id": 0,
    "eos_token_id": 1,
}
NEOX: dict[str, Any] = SIZES | {"num_attention_heads": 3, "rotary_pct": 0.25, "rotary_emb_base": 5000}
QWEN2: dict[str, Any] = {k: v for k, v in GROUPED.items() if k != "head_dim"} | {"rope_theta": 1e6}
WINDOWS: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
GEMMA: dict[str, Any] = GROUPED | {"query_pre_attn_scalar": 14, "sliding_window": 4}

MODULES = {"GPT2": "gpt2", "GPTNeoX": "gpt_neox"} | {
    family: family.lower() for family in ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Gemma3")
}
"""Where transformers keeps each family."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT2),
    "gpt2_untied_unscaled_relu": (
        "GPT2",
        GPT2 | {"tie_word_embeddings": False, "scale_attn_weights": False, "activation_function": "relu",
                "n_inner": 40, "layer_norm_epsilon": 1e-3},
    ),
    "neox_parallel": ("GPTNeoX", NEOX),
    "neox_sequential_tanh_scaled": (
        "GPTNeoX",
        NEOX | {"use_parallel_residual": False, "hidden_act": "gelu_new", "rotary_pct": 1.0,
                "rope_scaling": dict(LINEAR)},
    ),
    "neox_without_biases_tied": ("GPTNeoX", NEOX | {"attention_bias": False, "tie_word_embeddings": True}),
    "llama": ("Llama", GROUPED),
    "llama_tied": ("Llama", SIZES | {"tie_word_embeddings": True}),
    "llama_linear": ("Llama", GROUPED | {"rope_scaling": dict(LINEAR), "rope_theta": 500.0}),
    "llama3_with_every_bias": (
        "Llama",
        GROUPED | {"rope_scaling": dict(LLAMA3), "rope_theta": 5e5, "attention_bias": True, "mlp_bias": True},
    ),
    "mistral": ("Mistral", GROUPED | {"sliding_window": 4}),
    "mistral_without_window": ("Mistral", GROUPED | {"sliding_window": None}),
    "qwen2": ("Qwen2", QWEN2),
    "qwen2_windows_tied": ("Qwen2", QWEN2 | WINDOWS | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", GROUPED | {"attention_bias": True}),
    "qwen3_windows": (
        "Qwen3",
        GROUPED | WINDOWS | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "gemma2": ("Gemma2", GEMMA | {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0}),
    "gemma2_with_biases": ("Gemma2", GEMMA | {"attention_bias": True, "attn_logit_softcapping": None}),
    "gemma3": (
        "Gemma3",
        GEMMA | {"rope_theta": 1e5, "rope_local_base_freq": 100.0, "rope_scaling": dict(LINEAR),
                 "sliding_window_pattern": 2},
    ),
    "gemma3_untied": ("Gemma3", GEMMA | {"tie_word_embeddings": False, "num_hidden_layers": 2}),
}  # fmt: skip
"""Family and options of every model that is compared."""


def in_double(variant: str) -> AbstractContextManager[None]:
    """A context in which a family of transformers computes everything in float64, see `widened`."""
    family, _ = VARIANTS[variant]
    make(variant)  # imports what is imported lazily, before anything is replaced
    return widened(MODULES[family])


@contextmanager
def widened(family: str) -> Iterator[None]:
    """Transformers computes rotary angles, RMS norms and the softmax in float32 even in a float64 model.

    While this lasts, every float32 that the family's code asks for is a float64: its own arithmetic, at the precision
    of the comparison. Its modules see a copy of the torch module in which both names mean the wider type.
    """
    modeling = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    wide = ModuleType("torch")
    wide.__dict__.update(torch.__dict__, float32=torch.float64, float=torch.float64)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            patch.object(modeling, "torch", wide),
            patch.object(modeling_rope_utils, "torch", wide),
            patch.object(Tensor, "float", Tensor.double),
        ):
            yield
    finally:
        torch.set_default_dtype(default)


@dataclass
class Reference:
    """A transformers model with what it computes."""

    model: Any
    tokens: Tensor
    mask: Tensor
    logits: Tensor
    hidden: tuple[Tensor, ...]


def make(variant: str) -> Any:
    """A model in the default dtype, all of whose parameters are moved by noise: no bias is 0, no gain is 1.

    It is shared: a test that writes to it takes a deep copy.
    """
    return _make(variant, torch.get_default_dtype())


@functools.cache
def _make(variant: str, dtype: torch.dtype) -> Any:
    family, options = VARIANTS[variant]
    text = "Text" if family == "Gemma3" else ""
    # The options are copied: transformers writes to the dictionaries in them.
    options = {key: dict(value) if isinstance(value, dict) else value for key, value in options.items()}
    config = getattr(transformers, f"{family}{text}Config")(**options, attn_implementation="eager")
    head = {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM")
    model = getattr(transformers, head)(config).eval()
    generator = torch.Generator().manual_seed(SEED)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
        parameter.requires_grad_(False)
    return model


@torch.no_grad()
def run(model: Any, padding: tuple[int, ...] = (0, 0)) -> Reference:
    """Random tokens through a model, with so much padding on the left of each sequence."""
    vocab = model.config.vocab_size
    tokens = torch.randint(0, vocab, (len(padding), N_POS), generator=torch.Generator().manual_seed(SEED))
    mask = torch.arange(N_POS) >= torch.tensor(padding)[:, None]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = model(tokens, attention_mask=mask.long(), position_ids=positions, output_hidden_states=True, use_cache=False)
    return Reference(model, tokens, mask, out.logits, out.hidden_states)
