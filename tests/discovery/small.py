"""Small models, pairs of prompts and calls that the tests of discovery share."""

from typing import Any, get_args

import numpy as np
import torch
from grid import SEED
from torch import Tensor

from interp import HookedTransformer, TransformerConfig
from interp.discovery import EdgeRuns, MethodName, Subgraph, edge_scores
from interp.metrics import LogitDifference
from interp.model import EdgeGraph
from interp.patching import Settings

SMALL: dict[str, Any] = {
    "n_layers": 2,
    "d_model": 16,
    "n_heads": 2,
    "n_ctx": 8,
    "d_vocab": 20,
    "init_std": 0.3,
    "dtype": torch.float64,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "two heads": {},
    "one kv head": {"n_key_value_heads": 1},
    "parallel": {"parallel_attn_mlp": True},
    "attention-only": {"attn_only": True},
    "RMS, gated, rotary": {
        "normalization_type": "RMS",
        "gated_mlp": True,
        "act_fn": "silu",
        "positional_embedding_type": "rotary",
        "rotary_dim": 8,
    },
}
MORE: dict[str, dict[str, Any]] = ARCHITECTURES | {
    "norms on both sides": {"norm_position": "both", "normalization_type": "RMS", "embed_scale": 1.5},
    "bidirectional": {"attention_dir": "bidirectional", "n_key_value_heads": 1},
    "shortformer": {"positional_embedding_type": "shortformer"},
    "no norms": {"normalization_type": None},
}
METRIC = LogitDifference(3, 7)
SEPARATE: tuple[MethodName, ...] = tuple(method for method in get_args(MethodName) if method != "combined")
"""The methods that score by themselves: `combined` is the larger of two others, cell by cell."""


def small_model(fields: dict[str, Any], seed: int = 0) -> HookedTransformer:
    """With learned gains and biases in place of ones and zeros where the seed is not 0."""
    model = HookedTransformer(TransformerConfig(**SMALL | fields, seed=seed)).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if seed and name.rpartition(".")[2].startswith(("b", "w")):
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


def small_pair(seed: int = 0, batch: int = 3, n: int = 6, same: int = 0) -> tuple[Tensor, Tensor]:
    """Corrupted and clean ids, [batch, n] each, the first `same` of them equal."""
    clean, corrupted = torch.randint(0, 20, (2, batch, n), generator=torch.Generator().manual_seed(seed))
    corrupted[:, :same] = clean[:, :same]
    return corrupted, clean


def prompts(model: HookedTransformer, seed: int = SEED, share: int = 2) -> tuple[Tensor, Tensor]:
    """Corrupted and clean ids [3, 6] that have their first `share` tokens in common."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(model.cfg.d_vocab, (3, 6), generator=generator)
    corrupted = (clean + 1 + torch.randint(model.cfg.d_vocab - 1, (3, 6), generator=generator)) % model.cfg.d_vocab
    corrupted[:, :share] = clean[:, :share]
    return corrupted, clean


def random_circuit(model: HookedTransformer, share: float = 0.6, seed: int = SEED) -> Subgraph:
    graph = EdgeGraph.of(model)
    chosen = torch.rand(graph.edge_mask().shape, generator=torch.Generator().manual_seed(seed)) < share
    return Subgraph.of_mask(graph, chosen & graph.edge_mask())


def edge_runs(model: HookedTransformer, corrupted: Any, clean: Any, metric: Any = METRIC, **settings: Any) -> EdgeRuns:
    return EdgeRuns.of(model, corrupted, clean, metric, Settings.of(settings))


def scores_of(model: HookedTransformer, corrupted: Any, clean: Any, method: MethodName, **options: Any) -> np.ndarray:
    """Scores of every prompt, [prompt, reader, writer], without a probe."""
    given: dict[str, Any] = {"metric": METRIC, "per_prompt": True, "probe": 0, "progress": False} | options
    return edge_scores(model, corrupted, clean, method=method, **given).values
