"""Results as tables of pandas and polars: a row for each cell, with its place in columns of their names."""

from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import ConfigError, describe
from interp.model import Rows
from interp.precision import at_least_float32
from interp.results.axes import array_of

if TYPE_CHECKING:
    import pandas
    import polars  # pyright: ignore[reportMissingImports]
    import xarray

AXES = ("component", "prompt", "pos", "d_model")
"""The axes of a decomposition's rows."""


def to_pandas(result: "xarray.DataArray | xarray.Dataset | Rows") -> "pandas.DataFrame":
    """A result as a tidy table: columns for its axes and all that is said beside them, then one for each value.

        to_pandas(sweep(...))              # layer, pos, token, ci_low, ci_high, and "value", "effect" or "fraction"
        to_pandas(head_scores(model))      # layer, head, label, previous_token, previous_token_se, ...
        to_pandas(cache.logit_attrs(rows, " Mary"))  # component, prompt, pos, "logit"

    An array's column is called as the array, which for a sweep depends on `effects` and `normalize`. There is a row for
    each cell of all axes; a value that lacks one of the axes is repeated along it. What a result says of itself, units
    among it, is in `table.attrs`.

    Args:
        result: of any analysis of this package, or rows of a decomposition, as they are in a cache.

    Raises `ConfigError` for anything else.
    """
    named = _labelled(result)
    if not named.sizes:  # one cell
        named = named.expand_dims("cell")
    frame = named.to_dataframe().reset_index()
    coords = [str(name) for name in named.coords if name in frame]
    axes = [str(axis) for axis in named.sizes if axis != "cell"]
    order = [*axes, *(name for name in coords if name not in axes)]
    frame = frame.loc[:, [*order, *(str(name) for name in named.data_vars)]]
    frame.attrs = dict(named.attrs)
    return frame


def to_polars(result: "xarray.DataArray | xarray.Dataset | Rows") -> "polars.DataFrame":
    """As `to_pandas`, as a table of polars, which has no `attrs`: units are in those of the result.

    Raises `ConfigError` as `to_pandas`, and where polars is not installed.
    """
    frame = to_pandas(result)
    try:
        import polars  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("polars is not installed: python -m pip install polars; to_pandas needs no more") from error
    columns = {str(name): column.to_numpy() for name, column in frame.items()}
    return polars.DataFrame(
        {name: values if values.dtype.kind in "biuf" else list(values) for name, values in columns.items()}
    )


def _labelled(result: Any) -> "xarray.Dataset":
    """The result as variables with names."""
    import xarray

    if isinstance(result, Rows):
        axes = AXES[: result.values.ndim]
        numbers = at_least_float32(result.values.detach()).cpu().numpy()
        coords: dict[str, Any] = {axis: np.arange(size) for axis, size in zip(axes, numbers.shape, strict=True)}
        coords["component"] = array_of(result.labels, [len(result.labels)])
        result = xarray.DataArray(numbers, coords, axes, name="logit" if len(axes) == len(AXES) - 1 else "value")
    if isinstance(result, xarray.DataArray):
        result = result.to_dataset(name=str(result.name or "value"), promote_attrs=True)
    if not isinstance(result, xarray.Dataset):
        raise ConfigError(f"a result is a DataArray, a Dataset, or rows of a decomposition, not {describe(result)}")
    return result
