"""Models from GGUF files, of the architectures that llama.cpp calls llama, qwen2, qwen3, gemma2 and gemma3.

Every tensor is de-quantised a few rows at a time straight into its parameter's memory, so that loading needs hardly
more than the model itself. Nothing is allocated before every name, shape and quantisation has been checked.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.checkpoints.gguf_file import GGUFFile
from interp.checkpoints.gguf_tokenizer import tokenizer as tokenizer_of
from interp.checkpoints.options import merged
from interp.checkpoints.sources import Checkpoint, check_tensors
from interp.config import RotaryScaling, TransformerConfig, rotary_angles
from interp.errors import CheckpointError, InterpError, did_you_mean
from interp.text import TextCodec

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3")
NORMS = {"attn_norm": "ln1", "ffn_norm": "ln2"}
"""The name of each norm in a layer: the file's, and the model's."""
GEMMA_NORMS = NORMS | {"post_attention_norm": "ln1_post", "post_ffw_norm": "ln2_post"}
"""The same for Gemma, which has norms after each part as well."""
GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}
"""The number of layers of the 27B models, by which llama.cpp knows them.

They alone divide their scores by sqrt(d_model / n_heads) and not by sqrt(d_head).
"""
ROPE_FACTORS = "rope_freqs.weight"
REQUIRED: Any = object()
NOT_COMPUTED = (
    "expert_count",
    "attention.scale",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
    "attention.clamp_kqv",
)
"""Keys (below the architecture's name) for arithmetic that is not done here; they must be absent or 0."""
SOFT_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
"""Two more keys of this kind, which Gemma 2 alone may have: its caps on scores and logits are computed."""


def read(
    path: str | os.PathLike[str], dtype: torch.dtype | None = None, tokenizer: TextCodec | None = None
) -> Checkpoint:
    """The checkpoint in a .gguf file, with this tokenizer or its own; in float32 unless another dtype is asked for.

    Raises `CheckpointError` naming the file, and the key that is missing or not as the rest of the file says; and for
    an architecture, a quantisation or a tokenizer that is not known here.
    """
    file = GGUFFile(path)
    try:
        cfg = read_config(file, dtype or torch.float32)
        tokenizer = tokenizer_of(file.metadata, file.path) if tokenizer is None else tokenizer
    except CheckpointError:
        raise
    except InterpError as error:
        raise CheckpointError(f"{file.path}: {error}") from error
    return Checkpoint(cfg, tokenizer, str(file.path), GGUFWeights(file, cfg))


# ---------------------------------------------------------------------------------------------- configuration


def read_config(file: GGUFFile, dtype: torch.dtype = torch.float32) -> TransformerConfig:
    """The architecture that a file's metadata describe.

    Two things are read off the tensors instead: the size of the vocabulary, and whether embedding and unembedding are
    tied. Raises `CheckpointError` naming the key.
    """
    keys, gemma = _Keys(file), _is_gemma(_architecture(file))
    for key in NOT_COMPUTED + (() if gemma else SOFT_CAPS):
        if value := keys.get(key, object, 0):
            raise CheckpointError(f"{keys.where(key)} = {value}: such models are not computed here")
    if "token_embd.weight" not in file.tensors:
        raise CheckpointError(f"{file.path}: tensor 'token_embd.weight' is missing")
    n_layers, width = keys.get("block_count", int), keys.get("embedding_length", int)
    if n_layers > len(file.tensors):
        raise CheckpointError(f"{keys.where('block_count')} = {n_layers}, in a file of {len(file.tensors)} tensors")
    heads = keys.get("attention.head_count", int)
    d_head = keys.get("attention.key_length", int, width // max(heads, 1))
    for key in ("attention.value_length", "rope.dimension_count"):
        if (value := keys.get(key, int, d_head)) != d_head:
            raise CheckpointError(f"{keys.where(key)} = {value}; allowed: the width of a head, {d_head}")
    base = float(keys.get("rope.freq_base", float, 10_000.0))
    fields: dict[str, Any] = {
        "n_layers": n_layers,
        "d_model": width,
        "n_ctx": keys.get("context_length", int),
        "d_vocab": file.tensors["token_embd.weight"].shape[0],
        "n_heads": heads,
        "d_head": d_head,
        "n_key_value_heads": keys.get("attention.head_count_kv", int, heads),
        "d_mlp": keys.get("feed_forward_length", int),
        "act_fn": "silu",
        "gated_mlp": True,
        "normalization_type": "RMS",
        "eps": keys.get("attention.layer_norm_rms_epsilon", float),
        "positional_embedding_type": "rotary",
        "rotary_base": base,
        "rotary_scaling": _rotary_scaling(keys, base, d_head),
        "window_size": keys.get("attention.sliding_window", int, None),
        "use_qk_norm": _architecture(file) == "qwen3",
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "dtype": dtype,
    }
    return TransformerConfig(**fields | (_gemma_fields(keys, fields) if gemma else {}))


def _is_gemma(architecture: str) -> bool:
    return architecture.startswith("gemma")


def _gemma_fields(keys: "_Keys", fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that Gemma has in another way. llama.cpp has much of this in its code, and its files do not say it.

    In these files the gains of norms are stored as they are, and not as differences from 1.
    """
    architecture, n_layers, width = keys.architecture, fields["n_layers"], fields["d_model"]
    every = keys.get("attention.sliding_window_pattern", int, 2 if architecture == "gemma2" else 6)
    if every < 1:
        raise CheckpointError(f"{keys.where('attention.sliding_window_pattern')} = {every}; allowed: 1 or more")
    windowed = [(layer + 1) % every != 0 and fields["window_size"] is not None for layer in range(n_layers)]
    largest = n_layers == GEMMA_27B_LAYERS[architecture]
    changes: dict[str, Any] = {
        "act_fn": "gelu_new",
        "norm_position": "both",
        "attn_scale": math.sqrt(width / fields["n_heads"] if largest else fields["d_head"]),
        "attn_scores_soft_cap": keys.get("attn_logit_softcapping", float, None) or None,
        "output_logits_soft_cap": keys.get("final_logit_softcapping", float, None) or None,
        "embed_scale": math.sqrt(width),
        "window_size": merged([fields["window_size"] if own else None for own in windowed]),
    }
    if architecture == "gemma2":
        return changes
    local = float(keys.get("rope.freq_base_swa", float, 10_000.0))
    return changes | {
        "use_qk_norm": True,
        "rotary_base": merged([local if own else fields["rotary_base"] for own in windowed]),
        "rotary_scaling": merged([None if own else fields["rotary_scaling"] for own in windowed]),
    }


class _Keys:
    """The metadata below the name of the file's architecture."""

    def __init__(self, file: GGUFFile):
        self.file, self.architecture = file, _architecture(file)

    def where(self, key: str) -> str:
        """The beginning of an error about this key."""
        return f"{self.file.path}: metadata '{self.architecture}.{key}'"

    def get(self, key: str, kind: type, default: Any = REQUIRED) -> Any:
        """The value of a key. Raises `CheckpointError` if it is of another kind, or missing and without a default."""
        value = self.file.metadata.get(f"{self.architecture}.{key}", default)
        if value is REQUIRED:
            near = did_you_mean(f"{self.architecture}.{key}", self.file.metadata, 0.8)
            raise CheckpointError(f"{self.where(key)} is missing{near}")
        if value is not default and not isinstance(value, (int, float) if kind is float else kind):
            raise CheckpointError(f"{self.where(key)} = {value!r}; allowed: {kind.__name__}")
        return value


def _architecture(file: GGUFFile) -> str:
    given = file.metadata.get("general.architecture")
    if given not in ARCHITECTURES:
        near = did_you_mean(str(given), ARCHITECTURES)
        raise CheckpointError(f"{file.path}: architecture {given!r}; supported: {', '.join(ARCHITECTURES)}{near}")
    return given


def _rotary_scaling(keys: _Keys, base: float, d_head: int) -> RotaryScaling | None:
    """The rotary scaling: None, the linear one that the metadata describe, or Llama 3.1's.

    A file says nothing of Llama 3.1's settings. It holds a tensor with the number by which each frequency is divided,
    and the settings that are assumed here are checked against these numbers.
    """
    kind, file = keys.get("rope.scaling.type", str, "none"), keys.file
    if kind not in ("none", "linear"):
        raise CheckpointError(f"{keys.where('rope.scaling.type')} = {kind!r}; allowed: 'none' or 'linear'")
    if ROPE_FACTORS not in file.tensors:
        return RotaryScaling(kind="linear", factor=keys.get("rope.scaling.factor", float)) if kind == "linear" else None
    file.check_readable(ROPE_FACTORS)
    factors = torch.cat([rows.flatten() for _, rows in file.rows(ROPE_FACTORS)])
    scaling = RotaryScaling(kind="llama3", factor=round(float(factors.max()), 3))
    one = torch.ones(1, 1, dtype=torch.int64)

    def angles(scaled: RotaryScaling | None) -> Tensor:
        cos, sin = rotary_angles(base, d_head, scaled, one, torch.float64)
        return torch.atan2(sin, cos).flatten()

    made = angles(None) / angles(scaling)
    if kind != "none" or made.shape != factors.shape or not torch.allclose(made, factors.double(), rtol=1e-3):
        raise CheckpointError(f"{file.path}: tensor {ROPE_FACTORS!r} does not hold the factors of Llama 3.1's scaling")
    return scaling


# ---------------------------------------------------------------------------------------------- tensors


@dataclass(frozen=True, eq=False)
class TensorSlot:
    """The part of the model that a tensor of the file fills.

    Attributes:
        shape: its shape in the file.
        memory: a parameter, or a view of one, whose axes are in the order of the file. One step along its first axis
            is one row of the file, or several.
    """

    shape: tuple[int, ...]
    memory: Tensor

    def fill(self, file: GGUFFile, name: str) -> None:
        """Copy the tensor here, some rows at a time."""
        rows_a_step = file.tensors[name].n_rows // len(self.memory)
        for first, rows in file.rows(name, rows_a_step):
            part = self.memory[first // rows_a_step :][: len(rows) // rows_a_step]
            if part.is_cpu and part.dtype == rows.dtype:
                np.copyto(part.numpy(), rows.view(part.shape).numpy())  # torch's threads cost more than they save here
            else:
                part.copy_(rows.view(part.shape))


@dataclass(frozen=True)
class GGUFWeights:
    """The tensors of a file, and how they fill a model of this architecture."""

    file: GGUFFile
    cfg: TransformerConfig

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """Raise `CheckpointError` unless the file has the model's tensors and no others. It may lack some biases."""
        file, architecture = self.file, _architecture(self.file)
        shapes = {
            name: slot.shape
            for name, slot in tensor_slots(expected, self.cfg, architecture)
            if name in file.tensors or not _may_lack(name, architecture)
        }
        found = {name: stored.shape for name, stored in file.tensors.items() if name != ROPE_FACTORS}
        check_tensors(found, shapes, lambda name: f"{file.path}: tensor {name!r}", "the metadata say")
        for name in found:
            file.check_readable(name)

    def fill(self, targets: Mapping[str, Tensor]) -> None:
        """De-quantise every tensor into its place."""
        with torch.no_grad():
            for name, slot in tensor_slots(targets, self.cfg, _architecture(self.file)):
                if name in self.file.tensors:
                    slot.fill(self.file, name)


def _may_lack(name: str, architecture: str) -> bool:
    needed = ("attn_q.bias", "attn_k.bias", "attn_v.bias") if architecture == "qwen2" else ()
    return name.endswith(".bias") and not name.endswith(needed)


def tensor_slots(
    state: Mapping[str, Tensor], cfg: TransformerConfig, architecture: str
) -> Iterator[tuple[str, TensorSlot]]:
    """Each tensor that a file may have, and where it goes in the tensors of a model, which are given by name."""
    yield "token_embd.weight", _matrix(state["embed.W_E"], cfg.d_model)
    for layer in range(cfg.n_layers):
        theirs, ours = f"blk.{layer}", f"blocks.{layer}"
        for name, norm in (GEMMA_NORMS if _is_gemma(architecture) else NORMS).items():
            yield f"{theirs}.{name}.weight", _vector(state[f"{ours}.{norm}.w"])
        attn = {name: state[f"{ours}.attn.{name}"] for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")}
        for name, slot in _attention(attn, cfg, interleaved=architecture == "llama"):
            yield f"{theirs}.{name}", slot
        if cfg.use_qk_norm:
            yield f"{theirs}.attn_q_norm.weight", _vector(state[f"{ours}.attn.q_norm.w"])
            yield f"{theirs}.attn_k_norm.weight", _vector(state[f"{ours}.attn.k_norm.w"])
        for name, letters in (("ffn_gate", "gate"), ("ffn_up", "in"), ("ffn_down", "out")):
            weight = state[f"{ours}.mlp.W_{letters}"]
            yield f"{theirs}.{name}.weight", _matrix(weight.T, len(weight))
            yield f"{theirs}.{name}.bias", _vector(state[f"{ours}.mlp.b_{letters}"])
    yield "output_norm.weight", _vector(state["ln_final.w"])
    if not cfg.tie_word_embeddings:
        yield "output.weight", _matrix(state["unembed.W_U"].T, cfg.d_model)


def _attention(
    attn: Mapping[str, Tensor], cfg: TransformerConfig, interleaved: bool
) -> Iterator[tuple[str, TensorSlot]]:
    """The slots of an attention layer's matrices and biases. The rows of a matrix in the file are one head's after
    another's.

    With `interleaved`, the two numbers of a query or a key that are rotated together are neighbours in the file; in the
    model they are half a head apart.
    """
    for letter in "QKV":
        rows, bias = attn[f"W_{letter}"].transpose(1, 2), attn[f"b_{letter}"]  # [n d_head d_model], [n d_head]
        if interleaved and letter != "V":
            rows, bias = (part.unflatten(1, (2, cfg.d_head // 2)).transpose(1, 2) for part in (rows, bias))
        yield f"attn_{letter.lower()}.weight", _matrix(rows, cfg.d_model)
        yield f"attn_{letter.lower()}.bias", _vector(bias)
    yield "attn_output.weight", _matrix(attn["W_O"].permute(2, 0, 1), cfg.n_heads * cfg.d_head)
    yield "attn_output.bias", _vector(attn["b_O"])


def _matrix(memory: Tensor, n_columns: int) -> TensorSlot:
    return TensorSlot((memory.numel() // n_columns, n_columns), memory)


def _vector(memory: Tensor) -> TensorSlot:
    return TensorSlot((memory.numel(),), memory[None])
