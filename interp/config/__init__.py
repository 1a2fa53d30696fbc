"""The architecture of a model: `TransformerConfig`, validated once and then frozen.

Everything that fixes a model's shape and arithmetic is a field here. `cfg.n_params` counts parameters without making
any.
"""

from interp.config.architecture import ActFn, NormType, PositionType, RotaryScaling, TransformerConfig
from interp.config.counting import ParameterCounts

__all__ = [
    "ActFn",
    "NormType",
    "ParameterCounts",
    "PositionType",
    "RotaryScaling",
    "TransformerConfig",
]
