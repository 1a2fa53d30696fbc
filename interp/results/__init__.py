"""Results as labelled arrays: axes with names, intervals over prompts, and a record of how they came about."""

from interp.results.axes import (
    Axis,
    array_of,
    as_array,
    as_variables,
    check_confidence,
    interval_margin,
    over_prompts,
    position_labels,
    t_quantile,
)

__all__ = [
    "Axis",
    "array_of",
    "as_array",
    "as_variables",
    "check_confidence",
    "interval_margin",
    "over_prompts",
    "position_labels",
    "t_quantile",
]
