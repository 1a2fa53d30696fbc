"""The architecture of a model: `TransformerConfig`, checked once and then frozen.

Every number and every choice that fixes a model's shape and arithmetic is a field of it, so that two models with equal
configs and equal weights compute the same. `cfg.n_params` counts the parameters of such a model without making one.
"""

from interp.config.architecture import ActFn, NormType, PositionType, TransformerConfig
from interp.config.counts import ParameterCounts
from interp.config.encoder_decoder import EncoderDecoderConfig
from interp.config.rotary import RotaryScaling, rotary_angles

__all__ = [
    "ActFn",
    "EncoderDecoderConfig",
    "NormType",
    "ParameterCounts",
    "PositionType",
    "RotaryScaling",
    "TransformerConfig",
    "rotary_angles",
]
