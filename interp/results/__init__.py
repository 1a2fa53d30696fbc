"""Results as labelled arrays: axes with names, intervals over prompts, and a record of how they came about.

`to_pandas` and `to_polars` make tables of them.
"""

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
from interp.results.tables import to_pandas, to_polars

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
    "to_pandas",
    "to_polars",
]
