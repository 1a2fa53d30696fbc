"""Small transformers models with an encoder and a decoder, with random weights, and a way to run them in float64."""

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
import transformers
from grid import SEED
from torch import Tensor

from interp import HookedEncoderDecoder

SPECIAL: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
T5: dict[str, Any] = SPECIAL | {
    "vocab_size": 37,
    "d_model": 24,
    "d_kv": 10,
    "d_ff": 40,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "layer_norm_epsilon": 1e-4,
}
T5_V1_1: dict[str, Any] = T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
BART: dict[str, Any] = {
    "vocab_size": 37,
    "d_model": 24,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 32,
    "forced_eos_token_id": None,
}
MARIAN: dict[str, Any] = BART | {
    "activation_function": "swish",
    "scale_embedding": True,
    "pad_token_id": 36,
    "decoder_start_token_id": 36,
    "eos_token_id": 0,
}

PEGASUS: dict[str, Any] = BART | SPECIAL | {"activation_function": "relu", "scale_embedding": True}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5", T5),
    "t5_v1.1": ("T5", T5_V1_1),
    "t5_v1.1_tied": ("T5", T5_V1_1 | {"num_decoder_layers": 2, "feed_forward_proj": "gated-silu"}),
    "mt5": ("MT5", T5_V1_1 | {"feed_forward_proj": "gated-gelu"}),
    "bart": ("Bart", BART),
    "bart_untied_scaled_relu": (
        "Bart",
        BART | {"tie_word_embeddings": False, "scale_embedding": True, "activation_function": "relu"},
    ),
    "mbart": ("MBart", BART | {"scale_embedding": True, "decoder_start_token_id": 2}),
    "pegasus": ("Pegasus", PEGASUS),
    "marian": ("Marian", MARIAN),
    "marian_two_vocabularies": (
        "Marian",
        MARIAN | {"decoder_vocab_size": 31, "share_encoder_decoder_embeddings": False, "pad_token_id": 30,
                  "decoder_start_token_id": 30},
    ),
    "marian_two_vocabularies_untied": (
        "Marian",
        MARIAN | {"decoder_vocab_size": 41, "share_encoder_decoder_embeddings": False, "tie_word_embeddings": False},
    ),
}  # fmt: skip
"""Family and options of every model that is compared."""

LEARNED = {"Bart", "MBart"}
"""Families with learned positions; others have a table that is computed, if any."""

OWN_HEADS = {"t5_v1.1", "mt5"}
"""Models that transformers makes with a tied head, though published checkpoints of their kind have another."""


@contextmanager
def in_double(variant: str) -> Iterator[None]:
    """Transformers computes T5's RMS norms and Marian's sinusoids in float32 even in a float64 model.

    While this lasts, every float32 that the family's code asks for is a float64: its own arithmetic, at the precision
    of the comparison. Its module sees a copy of the torch module in which both names mean the wider type.
    """
    family = VARIANTS[variant][0].lower()
    modeling = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    wide = ModuleType("torch")
    wide.__dict__.update(torch.__dict__, float32=torch.float64, FloatTensor=torch.DoubleTensor)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(modeling, "torch", wide):
            yield
    finally:
        torch.set_default_dtype(default)


def make(variant: str) -> Any:
    """A model in the default dtype, all of whose weights are moved by noise: no bias is 0, no gain is 1.

    It is shared: a test that writes to it takes a deep copy.
    """
    return _make(variant, torch.get_default_dtype())


@functools.cache
def _make(variant: str, dtype: torch.dtype) -> Any:
    family, options = VARIANTS[variant]
    config = getattr(transformers, f"{family}Config")(**options, attn_implementation="eager")
    head = "MarianMTModel" if family == "Marian" else f"{family}ForConditionalGeneration"
    model = getattr(transformers, head)(config).eval()
    if variant in OWN_HEADS:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.generation_config.eos_token_id = None
    generator = torch.Generator().manual_seed(SEED)
    moved = [p for name, p in model.named_parameters() if family in LEARNED or "embed_positions" not in name]
    moved += [buffer for name, buffer in model.named_buffers() if name == "final_logits_bias"]
    for tensor in moved:
        tensor.data += 0.2 * torch.randn(tensor.shape, generator=generator)
    return model.requires_grad_(False)


@dataclass
class Pairs:
    """Random sources and targets of unequal lengths, each unpadded.

    Attributes:
        sources, targets: ids of each, [source_pos] and [pos]; a target begins with the start token.
    """

    sources: list[Tensor]
    targets: list[Tensor]


def random_pairs(model: Any, lengths: tuple[tuple[int, int], ...] = ((7, 5), (11, 9), (2, 3))) -> Pairs:
    """Of these lengths, without the special tokens."""
    generator = torch.Generator().manual_seed(SEED)
    d_source = model.config.vocab_size
    d_target = model.get_output_embeddings().weight.shape[0]

    def ids(n: int, vocab: int) -> Tensor:
        return torch.randint(3, vocab - 1, (n,), generator=generator)

    start = torch.tensor([model.config.decoder_start_token_id])
    targets = [torch.cat([start, ids(n - 1, d_target)]) for _, n in lengths]
    return Pairs([ids(n, d_source) for n, _ in lengths], targets)


def padded(rows: list[Tensor], side: str, pad: int) -> tuple[Tensor, Tensor]:
    """The rows as one batch, and the mask of what is no padding."""
    longest = max(map(len, rows))
    ids, mask = torch.full((len(rows), longest), pad), torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[i, place], mask[i, place] = row, True
    return ids, mask


@torch.no_grad()
def run(model: Any, source: Tensor, target: Tensor, **options: Any) -> Any:
    """What transformers computes for one source and one target."""
    return model(
        input_ids=source[None],
        decoder_input_ids=target[None],
        output_hidden_states=True,
        output_attentions=True,
        use_cache=False,
        **options,
    )


def same_bits(a: HookedEncoderDecoder, b: HookedEncoderDecoder) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def from_instance(variant: str) -> HookedEncoderDecoder:
    return HookedEncoderDecoder.from_pretrained(hf_model=make(variant))
