"""GGUF files of small random models, written as llama.cpp's converter writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


GEMMA_NAMES = {
    "pre_feedforward_layernorm": "ffn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def tensors_of(hf_model: Any) -> dict[str, np.ndarray]:
    """Its tensors by their names in a GGUF file; the queries and keys of Llama with the rotated halves in turn."""
    cfg = hf_model.config
    gemma = cfg.model_type.startswith("gemma")
    found = {}
    for name, tensor in hf_model.state_dict().items():
        if name == "lm_head.weight" and cfg.tie_word_embeddings:
            continue
        if gemma and name.endswith("norm.weight"):
            tensor = tensor + 1
        for theirs, short in (NAMES | GEMMA_NAMES if gemma else NAMES).items():
            name = name.replace(theirs, short)
        heads = cfg.num_attention_heads if "attn_q." in name else cfg.num_key_value_heads
        if cfg.model_type == "llama" and ("attn_q." in name or "attn_k." in name):
            halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
            tensor = halves.transpose(1, 2).reshape(tensor.shape)
        found[name] = tensor.detach().float().numpy()
    return found


def metadata_of(hf_model: Any) -> dict[str, Any]:
    """The metadata that llama.cpp's converter writes for it."""
    cfg = hf_model.config
    head_dim = getattr(cfg, "head_dim", None) or cfg.hidden_size // cfg.num_attention_heads
    below = {
        "block_count": cfg.num_hidden_layers,
        "context_length": cfg.max_position_embeddings,
        "embedding_length": cfg.hidden_size,
        "feed_forward_length": cfg.intermediate_size,
        "attention.head_count": cfg.num_attention_heads,
        "attention.head_count_kv": cfg.num_key_value_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": float(cfg.rms_norm_eps),
        "rope.dimension_count": head_dim,
    }
    rope = cfg.rope_parameters.get("full_attention", cfg.rope_parameters)
    below["rope.freq_base"] = float(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        below |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    if cfg.model_type.startswith("gemma"):
        caps = {
            "attn_logit_softcapping": cfg.attn_logit_softcapping,
            "final_logit_softcapping": cfg.final_logit_softcapping,
        }
        below |= {"attention.sliding_window": cfg.sliding_window} | {key: cap for key, cap in caps.items() if cap}
    architecture = cfg.model_type.removesuffix("_text")
    return {"general.architecture": architecture} | {f"{architecture}.{k}": v for k, v in below.items()}


def write(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    kinds: Mapping[str, Kind] | None = None,
) -> Path:
    """A file; `kinds` names tensors whose arrays are bytes, already in blocks of that kind."""
    writer = gguf.GGUFWriter(path, metadata["general.architecture"])
    for key, value in metadata.items():
        if key == "general.architecture":
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, array in tensors.items():
        writer.add_tensor(name, array, raw_dtype=(kinds or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_blocks(kind: Kind, n_rows: int, n_columns: int, seed: int) -> np.ndarray:
    """Random rows in blocks of this kind, as bytes: quantised where the package can, else arbitrary but finite."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n_rows, n_columns)).astype(np.float32)
    try:
        packed = gguf.quants.quantize(values, kind)
    except NotImplementedError:
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        while True:  # scales are float16 somewhere in a block: most random ones are numbers
            packed = rng.integers(0, 0x3C, (n_rows, n_columns // block * block_bytes), dtype=np.uint8)
            if np.isfinite(gguf.quants.dequantize(packed, kind)).all():
                return packed
    return packed.view(np.uint8)


def float32(kind: Kind, packed: np.ndarray) -> torch.Tensor:
    """What the package makes of a whole tensor at once."""
    return torch.from_numpy(gguf.quants.dequantize(packed, kind))
