"""Small encoders of transformers with random weights, and what they compute of padded sequences with token types."""

import functools
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from grid import SEED
from hf_models import LINEAR, N_POS, SIZES, widened
from torch import Tensor

BERT: dict[str, Any] = {key: value for key, value in SIZES.items() if not key.endswith("token_id")}
ROBERTA: dict[str, Any] = BERT | {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
DISTIL: dict[str, Any] = {"vocab_size": 37, "dim": 24, "n_layers": 3, "n_heads": 6, "hidden_dim": 40} | {
    "max_position_embeddings": 32
}
NO_TOKENS = {f"{name}_token_id": None for name in ("pad", "bos", "eos", "cls", "sep")}
MODERN: dict[str, Any] = BERT | NO_TOKENS | {"num_hidden_layers": 4, "local_attention": 5}
BASES = {
    "full_attention": {"rope_type": "default", "rope_theta": 500.0},
    "sliding_attention": LINEAR | {"rope_theta": 50.0},
}

ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertModel", BERT),
    "bert_masked": ("BertForMaskedLM", BERT | {"layer_norm_eps": 1e-3}),
    "bert_masked_untied_relu": ("BertForMaskedLM", BERT | {"tie_word_embeddings": False, "hidden_act": "relu"}),
    "bert_pretraining": ("BertForPreTraining", BERT),
    "bert_next_sentence": ("BertForNextSentencePrediction", BERT),
    "bert_classes": ("BertForSequenceClassification", BERT | {"num_labels": 3}),
    "roberta": ("RobertaModel", ROBERTA),
    "roberta_masked": ("RobertaForMaskedLM", ROBERTA),
    "roberta_masked_untied": ("RobertaForMaskedLM", ROBERTA | {"tie_word_embeddings": False, "type_vocab_size": 2}),
    "roberta_classes": ("RobertaForSequenceClassification", ROBERTA | {"num_labels": 2}),
    "xlm_roberta_masked": ("XLMRobertaForMaskedLM", ROBERTA),
    "distilbert": ("DistilBertModel", DISTIL),
    "distilbert_masked": ("DistilBertForMaskedLM", DISTIL),
    "distilbert_masked_untied": ("DistilBertForMaskedLM", DISTIL | {"tie_word_embeddings": False}),
    "modernbert": ("ModernBertModel", MODERN),
    "modernbert_masked": ("ModernBertForMaskedLM", MODERN | {"decoder_bias": False}),
    "modernbert_masked_with_every_bias": (
        "ModernBertForMaskedLM",
        MODERN | {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True,
                  "tie_word_embeddings": False, "rope_parameters": BASES},
    ),
}  # fmt: skip
"""Class and options of every model that is compared."""

PADDINGS: dict[str, tuple[list[int], list[int]]] = {
    "none": ([0, 0], [0, 0]),
    "left": ([3, 0, 6], [0, 0, 0]),
    "right": ([0, 0, 0], [0, 5, 2]),
}
"""How much padding stands before and after each sequence."""


def in_double(variant: str) -> AbstractContextManager[None]:
    """As in `hf_models`."""
    make(variant)
    return widened(make(variant).config.model_type.replace("-", "_"))


@dataclass
class Encoded:
    """An encoder with what it computes; `logits`, `pooled` and `classes` are None where it has none."""

    model: Any
    tokens: Tensor
    mask: Tensor
    types: Tensor | None
    hidden: tuple[Tensor, ...]
    patterns: tuple[Tensor, ...]
    logits: Tensor | None
    pooled: Tensor | None
    classes: Tensor | None


def make(variant: str) -> Any:
    """A model in the default dtype, all of whose parameters are moved by noise: no bias is 0, no gain is 1."""
    return _make(variant, torch.get_default_dtype())


@functools.cache
def _make(variant: str, dtype: torch.dtype) -> Any:
    kind, options = ENCODERS[variant]
    family = kind.split("For")[0].removesuffix("Model")
    options = {key: dict(value) if isinstance(value, dict) else value for key, value in options.items()}
    config = getattr(transformers, f"{family}Config")(**options, attn_implementation="eager")
    model = getattr(transformers, kind)(config).eval()
    generator = torch.Generator().manual_seed(SEED)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
        parameter.requires_grad_(False)
    return model


@torch.no_grad()
def run(model: Any, padding: str) -> Encoded:
    """Random tokens, of random types where there are types, through a model."""
    before, after = (torch.tensor(n)[:, None] for n in PADDINGS[padding])
    generator = torch.Generator().manual_seed(SEED)
    tokens = torch.randint(2, model.config.vocab_size, (len(before), N_POS), generator=generator)
    mask = (torch.arange(N_POS) >= before) & (torch.arange(N_POS) < N_POS - after)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    options: dict[str, Any] = {}
    n_types = getattr(model.config, "type_vocab_size", 0)
    types = torch.randint(0, n_types, tokens.shape, generator=generator) if n_types > 1 else None
    if types is not None:
        options["token_type_ids"] = types
    if "roberta" in model.config.model_type:
        positions = positions + model.config.pad_token_id + 1
    out = model(tokens, attention_mask=mask.long(), position_ids=positions, output_hidden_states=True,
                output_attentions=True, **options)  # fmt: skip
    logits = getattr(out, "prediction_logits", getattr(out, "logits", None))
    classes = getattr(out, "seq_relationship_logits", None)
    if type(model).__name__.endswith(("NextSentencePrediction", "SequenceClassification")):
        logits, classes = None, logits
    pooled = getattr(out, "pooler_output", None)
    return Encoded(model, tokens, mask, types, out.hidden_states, out.attentions, logits, pooled, classes)
