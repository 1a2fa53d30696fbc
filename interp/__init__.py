"""interp: inspect attention patterns, build circuits by hand, cache and patch activations.

The package at a glance: `TransformerConfig` fixes an architecture, `HookedTransformer` runs it, `Vocabulary` (words of
your own) or `Tokenizer` (a trained one) turns text into tokens, `ActivationCache` holds what flowed through the model
and takes the residual stream apart.
"""

from interp.config import TransformerConfig
from interp.errors import (
    CacheError,
    CheckpointError,
    ConfigError,
    HookNotFiredError,
    HookNotFoundError,
    InterpError,
    JobError,
    RangeError,
    RankError,
    ReadOnlyError,
    ShapeError,
    TokenError,
)
from interp.factored import FactoredMatrix
from interp.model import ActivationCache, HookedModule, HookedTransformer, HookPoint, LogitAttribution, Stack
from interp.text import Tokenizer, Vocabulary

__all__ = [
    "ActivationCache",
    "CacheError",
    "CheckpointError",
    "ConfigError",
    "FactoredMatrix",
    "HookNotFiredError",
    "HookNotFoundError",
    "HookPoint",
    "HookedModule",
    "HookedTransformer",
    "InterpError",
    "JobError",
    "LogitAttribution",
    "RangeError",
    "RankError",
    "ReadOnlyError",
    "ShapeError",
    "Stack",
    "TokenError",
    "Tokenizer",
    "TransformerConfig",
    "Vocabulary",
]
