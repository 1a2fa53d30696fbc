"""interp: inspect attention patterns, build circuits by hand, cache and patch activations.

The package at a glance: `TransformerConfig` fixes an architecture, `HookedTransformer` runs it, `Vocabulary` turns
text into tokens, `ActivationCache` holds what flowed through the model and takes the residual stream apart.
"""

from interp.cache import ActivationCache, LogitAttribution, Stack
from interp.config import TransformerConfig
from interp.errors import (
    CheckpointError,
    ConfigError,
    HookNotFiredError,
    HookNotFoundError,
    InterpError,
    ShapeError,
    TokenError,
)
from interp.hooks import HookPoint
from interp.model import HookedTransformer
from interp.tokens import Vocabulary

__all__ = [
    "ActivationCache",
    "CheckpointError",
    "ConfigError",
    "HookNotFiredError",
    "HookNotFoundError",
    "HookPoint",
    "HookedTransformer",
    "InterpError",
    "LogitAttribution",
    "ShapeError",
    "Stack",
    "TokenError",
    "TransformerConfig",
    "Vocabulary",
]
