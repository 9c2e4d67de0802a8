"""Tables in memory, of pandas or polars: every column a variable, in their order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import chain, count
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from dgmm.data.layout import shortened
from dgmm.errors import InputError
from dgmm.types import AnyArray

#: What the rows of a table are called, where no column is: that would be a coordinate, and no feature.
ROWS = ("sample", "row", "draw")


class PolarsFrame(Protocol):
    """A table of polars, which need not be there: it is told by what it can do."""

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""

    def get_column(self, name: str) -> Any:
        """A column by its name."""


Frame: TypeAlias = pd.DataFrame | PolarsFrame


def is_frame(source: object) -> bool:
    """Whether this is a table in memory.

    Raises
    ------
    InputError
        If it is a lazy one.
    """
    kind = type(source)
    if hasattr(source, "to_dask_array"):
        raise InputError(f"a Dask {kind.__name__} is a lazy table: hand in df.to_dask_array(lengths=True)")
    if kind.__module__.startswith("polars") and kind.__name__ == "LazyFrame":
        raise InputError("a polars LazyFrame is not computed: hand in df.collect(), or df.sink_parquet() and its path")
    return isinstance(source, pd.DataFrame) or is_polars(source)


def is_polars(source: object) -> bool:
    """Whether this is a table of polars."""
    return type(source).__module__.startswith("polars") and type(source).__name__ == "DataFrame"


def is_column(source: object) -> bool:
    """Whether this is a series of pandas or polars."""
    return isinstance(source, pd.Series) or (
        type(source).__module__.startswith("polars") and type(source).__name__ == "Series"
    )


def opened_frame(frame: Any) -> xr.Dataset | AnyArray:
    """A table as a data set; one of pandas whose columns are but numbered as an array.

    Rows keep an index of pandas that says more than their numbers. What is missing in a column of numbers is NaN.

    Raises
    ------
    InputError
        If columns have the same name, or the index has several levels.
    """
    kind = type(frame).__name__
    if is_polars(frame):
        rows = name_of_rows(frame.columns)
        return xr.Dataset({name: (rows, values_of(frame.get_column(name))) for name in frame.columns})
    if isinstance(frame.columns, pd.RangeIndex) and len(frame.columns):
        return np.stack([values_of(frame.iloc[:, i]) for i in range(frame.shape[1])], axis=1)
    if isinstance(frame.columns, pd.MultiIndex):
        raise InputError(
            f"columns of the {kind} have {frame.columns.nlevels} levels: take one that tells them apart "
            "(df.columns = df.columns.get_level_values(0))"
        )
    names = [str(name) for name in frame.columns]
    check_distinct(f"the {kind}", names)
    index = frame.index
    if isinstance(index, pd.MultiIndex):
        raise InputError(f"the index of the {kind} has several levels, and rows of Zarr have one: reset_index() it")
    rows = name_of_rows(names) if index.name is None or str(index.name) in names else str(index.name)
    found = xr.Dataset({name: (rows, values_of(frame.iloc[:, i])) for i, name in enumerate(names)})
    return found if isinstance(index, pd.RangeIndex) else found.assign_coords({rows: (rows, plain(index))})


def name_of_rows(names: Collection[str]) -> str:
    """What the dimension of the rows is called beside variables and dimensions of these names."""
    return next(name for name in chain(ROWS, (f"row_{i}" for i in count())) if name not in names)


def check_distinct(table: str, names: Sequence[str]) -> None:
    """Raise `InputError` if columns of a table have the same name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"columns of {table} are called the same ({shortened(twice)}): rename them")


def plain(index: pd.Index) -> AnyArray:
    """An index as an array that Zarr can hold: whatever is no number and no time as text."""
    values = index.to_numpy()
    return values if values.dtype.kind in "iufM" else np.array([str(value) for value in index], dtype=str)


def values_of(column: Any) -> AnyArray:
    """A column, or another series, of pandas or polars as an array, missing numbers as NaN."""
    if type(column).__module__.startswith("polars"):
        return np.asarray(column.to_numpy())
    dtype = column.dtype
    if pd.api.types.is_bool_dtype(dtype) or not pd.api.types.is_numeric_dtype(dtype):
        return np.asarray(column.to_numpy())
    if isinstance(dtype, np.dtype):
        return np.asarray(column.to_numpy())
    # of pandas' own types, and Arrow's, which know what is missing
    kept = column.dtype.numpy_dtype if pd.api.types.is_float_dtype(dtype) else np.dtype(float)
    return np.asarray(column.to_numpy(dtype=kept, na_value=np.nan))


def features_in(name: str, table: xr.Dataset, others: Iterable[str]) -> Sequence[str]:
    """The columns of a table that are its features where nobody names them: all but some, in their order.

    Raises
    ------
    InputError
        If they are not all numbers.
    """
    left_out = set(others)
    known = [str(v) for v in table.data_vars if v not in left_out]
    wrong = [f"{v} ({table[v].dtype})" for v in known if table[v].dtype.kind not in "fiu"]
    if wrong:
        raise InputError(
            f"{name} has columns that are not numeric, {shortened(wrong)}: name those to use (variables), of which "
            f"there are {shortened([v for v in known if table[v].dtype.kind in 'fiu']) or 'none'}"
        )
    return known
