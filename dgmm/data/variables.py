"""Arrays and variables of data sets as fields of samples: which dimension holds the features, and how they are cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr
import zarr.storage
from xarray.backends.zarr import FillValueCoder

from dgmm.data.cf import BESIDE, COPIES, PLACING, apart, belonging, block_of, common, is_long, on_grid
from dgmm.data.chunks import Stored
from dgmm.data.fields import Field
from dgmm.data.grid import Grid
from dgmm.data.layout import Layout, Span, as_numbers, comparable, shortened
from dgmm.data.persisted import is_lazy
from dgmm.data.samples import Samples
from dgmm.data.stores import awaited, obstore_errors
from dgmm.errors import InputError

#: Attributes by which stored numbers are not yet the values.
PACKING = {"scale_factor", "add_offset", "missing_value"}
#: Features of a sample; a dimension of more holds something else, or its length is a mistake.
MOST_FEATURES = 10**6
#: What attributes of the coordinates along which features lie say of these, beside what the source says.
OF_AXES = ("value_name", "value_units", "features")
#: The dimension that holds the features, or several of them.
FeatureDims = str | Sequence[str] | None
#: Where a variable is stored, by its name.
Origin = Callable[[str], Stored]


def as_dims(feature_dim: FeatureDims) -> tuple[str, ...]:
    """One dimension or several as a tuple, each once."""
    return (feature_dim,) if isinstance(feature_dim, str) else tuple(dict.fromkeys(feature_dim or ()))


def from_array(name: str, array: Any, feature_dim: FeatureDims, origin: Origin, like: Layout | None) -> Samples:
    """Samples of one array, whose last dimension holds the features unless another is named."""
    if array.ndim < 2:
        raise InputError(f"{name} has shape {array.shape}: samples and features need two dimensions, (n, d)")
    packed = packing(array)
    if packed:
        raise InputError(f"{name} is packed ({', '.join(sorted(packed))}): open the dataset that it belongs to")
    names = getattr(getattr(array, "metadata", None), "dimension_names", None) or ()
    dims = tuple(n or f"dim_{i}" for i, n in enumerate(names)) or _default_dims(array.ndim)
    stored = origin("") if isinstance(array, zarr.Array) else None
    field = Field(array, dims, chunks_of(name, array), stored)
    inner = as_dims(feature_dim) or (known_dim(like, dims) or dims[-1],)
    return _assemble(name, {name: field}, inner, xr.Dataset(), {})


def known_dim(like: Layout | None, dims: Sequence[Hashable]) -> str | None:
    """The dimension along which the features of a model lay, if it is among these."""
    return like.feature_dim if like is not None and like.feature_dim in dims else None


def packing(array: Any) -> set[str]:
    """Attributes of a single array by which its numbers are not yet values: only its dataset decodes them."""
    attributes = getattr(array, "attrs", {})
    found = PACKING & set(attributes)
    fill: Any = None
    if "_FillValue" in attributes:
        fill = attributes["_FillValue"]
        fill = FillValueCoder.decode(fill, array.dtype) if isinstance(fill, str) else fill
    elif "_ARRAY_DIMENSIONS" in attributes:
        fill = array.fill_value or None
    # a missing value that is NaN already is one that we know
    return found if fill is None or np.isnan(fill) else found | {"_FillValue"}


def _default_dims(ndim: int) -> tuple[str, ...]:
    return ("sample", "feature") if ndim == 2 else (*(f"dim_{i}" for i in range(ndim - 1)), "feature")


def from_dataset(
    name: str,
    dataset: xr.Dataset,
    variables: Sequence[str] | None,
    feature_dim: FeatureDims,
    origin: Origin,
    like: Layout | None,
) -> Samples:
    """Samples of a data set: variables are the features, or hold several along a dimension each."""
    # a store lists its variables in whatever order the file system does
    known = sorted(str(v) for v in dataset.data_vars)
    if not known:
        raise InputError(f"{name} holds no variables")
    for variable in variables or ():
        if variable not in known:
            raise InputError(f"no variable {variable!r} in {name}: it has {', '.join(known)}")
    inner = as_dims(feature_dim)
    if like is not None and not variables and not (inner and len(like.variables) > 1 and not like.spans):
        variables = like.variables
        missing = [variable for variable in variables if variable not in known]
        if missing:
            raise InputError(
                f"no variable {missing[0]!r} in {name}, which has {shortened(known)}; the model was fitted on "
                f"{shortened(variables)}: name those to use (variables)"
            )
    chosen = list(variables or sorted(map(str, apart(dataset))))
    if not chosen:
        raise InputError(
            f"each variable of {name} belongs to another ({shortened(known)}): name those to use (variables)"
        )
    named = _stand_for(chosen, like) if variables else {}
    fields = {named.get(v, v): field_of(name, dataset[v].variable, partial(origin, v)) for v in chosen}
    # the one variable of a model that has none of its dimensions for features is a feature itself
    one_feature = like is not None and not like.feature_dims and list(like.variables) == list(fields)
    only = next(iter(fields.values()))
    if not inner and like is not None:
        held = {dim for field in fields.values() for dim in field.dims}
        inner = tuple(dim for dim in like.feature_dims if dim in held and (like.spans or len(chosen) == 1))
    if not inner and len(chosen) == 1 and len(only.dims) != 1 and not one_feature:
        if len(only.dims) != 2:
            raise InputError(
                f"{chosen[0]} in {name} has dimensions {', '.join(only.dims) or 'none'}: say which one holds the "
                "features (feature_dim), or name several variables"
            )
        inner = only.dims[-1:]
    placing = belonging(dataset, PLACING) - {*chosen}
    coords = dataset.drop_vars([*({*known} - placing)]).set_coords(sorted(placing))
    units = {named.get(v, v): str(dataset[v].attrs.get("units", "")) for v in chosen}
    samples = _assemble(name, fields, inner, coords, units)
    return replace(
        samples,
        said=common([dataset[variable].variable for variable in chosen], samples.coords),
        standard_names={
            named.get(str(v), str(v)): column.attrs["standard_name"]
            for v, column in dataset.data_vars.items()
            if isinstance(column.attrs.get("standard_name"), str)
        },
    )


def _stand_for(chosen: Sequence[str], like: Layout | None) -> dict[str, str]:
    """Names of a model's for variables that somebody names in their place: as many, and none called like one of them.

    Features along one dimension are told by their labels, whatever their variable is called.
    """
    if like is None or like.feature_dim is not None or len(chosen) != len(like.variables):
        return {}
    return {} if {*chosen} & {*like.variables} else dict(zip(chosen, like.variables, strict=True))


def field_of(name: str, v: xr.Variable, origin: Callable[[], Stored]) -> Field:
    """A variable, in memory or not."""
    dims = tuple(map(str, v.dims))
    if isinstance(v._data, np.ndarray):
        return Field(v.to_numpy(), dims, None)
    return Field(v, dims, chunks_of(name, v), None if is_lazy(v._data) else origin())


def check_numeric(variable: str, name: str, field: Field) -> None:
    """Raise `InputError` if the values of a variable are no numbers."""
    if np.dtype(field.array.dtype).kind not in "fiu":
        raise InputError(f"{variable} in {name} is not numeric: its dtype is {field.array.dtype}")


def _assemble(
    name: str, fields: dict[str, Field], feature_dims: tuple[str, ...], coords: xr.Dataset, units: Mapping[str, str]
) -> Samples:
    fields = {variable: _along(name, variable, field, feature_dims) for variable, field in fields.items()}
    first_name, first = next(iter(fields.items()))
    held = dict.fromkeys(dim for field in fields.values() for dim in field.dims)
    for dim in feature_dims:
        if dim not in held:
            raise InputError(f"no dimension {dim!r} in {name}: it has {', '.join(held)}")
    for variable, field in fields.items():
        check_numeric(variable, name, field)
        if _outer(field) != _outer(first):
            raise InputError(
                f"variables of {name} differ in their dimensions: {first_name} ({', '.join(first.dims)}), "
                f"{variable} ({', '.join(field.dims)}); name those to use (variables)"
            )
    sizes = _outer(first)
    dims, shape = tuple(sizes), tuple(sizes.values())
    chunks: dict[str, int] = {}
    for field in fields.values():
        for dim, chunk in zip(field.dims, field.chunks or (), strict=False):
            chunks[dim] = max(chunk, chunks.get(dim, 1))
    spans = tuple(_span(name, variable, field, coords) for variable, field in fields.items())
    layout, names = _layout(spans, coords, units)
    if 0 in shape or not names:
        raise InputError(f"{name} is empty: {math.prod(shape)} samples of {len(names)} features")
    lengths = [chunks.get(d, shape[i] if i else 1) for i, d in enumerate(dims)]
    row_bytes = len(names) * max(np.dtype(field.array.dtype).itemsize for field in fields.values())
    grid = Grid.along_chunks(shape, lengths, row_bytes)
    kept = on_grid(coords, dims, {*feature_dims})
    stacked = [str(c) for c in kept.coords if isinstance(coords.indexes.get(c), pd.MultiIndex)]
    if stacked:
        raise InputError(f"{', '.join(stacked)} of {name} form a multi-index, which Zarr has none of: reset_index it")
    axes = _axes(spans, coords, units)
    with obstore_errors(name), awaited(name):
        for coordinate in kept.variables.values():
            if not is_long(coordinate):
                coordinate.load()
    return Samples(name, dims, grid, names, tuple(fields.values()), layout.feature_dim, kept, layout, axes)


def _along(name: str, variable: str, field: Field, feature_dims: Sequence[str]) -> Field:
    """A field that knows along which of the dimensions it holds features."""
    inner = [dim for dim in feature_dims if dim in field.dims]
    if len(inner) > 1:
        raise InputError(
            f"{variable} in {name} has several of the dimensions that hold features ({', '.join(inner)}): name one "
            "(feature_dim), or make one of them (stack)"
        )
    return replace(field, inner=inner[0]) if inner else field


def _outer(field: Field) -> dict[str, int]:
    """Samples along each dimension, in any order."""
    sizes = zip(field.dims, field.array.shape, strict=True)
    return {dim: int(size) for dim, size in sizes if dim != field.inner}


def _span(name: str, variable: str, field: Field, coords: xr.Dataset) -> Span:
    """The features of a variable, with their labels."""
    if field.inner is None:
        return Span(variable)
    length = field.n_columns
    if length > MOST_FEATURES:
        raise InputError(
            f"{name} has {length} features along {field.inner}, and at most {MOST_FEATURES} are read: name the "
            "dimension that holds them (feature_dim)"
        )
    if field.inner not in coords:
        return Span(variable, field.inner, length)
    values, dtype = as_numbers(comparable(coords[field.inner].values))
    return Span(variable, field.inner, length, values, dtype, str(coords[field.inner].attrs.get("units", "")))


def _layout(spans: Sequence[Span], coords: xr.Dataset, units: Mapping[str, str]) -> tuple[Layout, tuple[str, ...]]:
    """How the features lie, and their names: those of variables, the labels along the dimension of one, or both."""
    layout = Layout(variables=tuple(units), units=tuple(units.values()))
    if all(span.dim is None for span in spans):
        return layout, tuple(span.variable for span in spans)
    if len(spans) > 1:
        return replace(layout, spans=tuple(spans)), tuple(name for span in spans for name in span.names)
    span = spans[0]
    names = coords[span.dim].values if span.dim in coords else range(span.size)
    layout = replace(layout, feature_dim=span.dim, labels=span.labels, dtype=span.dtype, label_units=span.label_units)
    return layout, tuple(str(name) for name in names)


def _axes(spans: Sequence[Span], coords: xr.Dataset, units: Mapping[str, str]) -> tuple[xr.DataArray, ...]:
    """The numeric coordinates along which features lie, with what varies along each and which of the features do."""
    found, place = [], 0
    for span in spans:
        if span.dim in coords and coords[span.dim].dtype.kind in "fiu":
            about = {"value_name": span.variable, "value_units": units.get(span.variable, "")}
            axis = coords[span.dim].reset_coords(drop=True)
            axis.attrs = {key: value for key, value in axis.attrs.items() if key not in BESIDE}
            found.append(axis.assign_attrs(about, features=slice(place, place + span.size)))
        place += span.size
    return tuple(found)


def blocks(coords: xr.Dataset) -> dict[Hashable, tuple[int, ...]]:
    """Lengths of the blocks of those coordinates that are read in blocks."""
    long = {name: variable for name, variable in coords.variables.items() if is_long(variable)}
    return {name: block_of(variable, chunks_of(str(name), variable)) for name, variable in long.items()}


def in_blocks(coords: xr.Dataset) -> xr.Dataset:
    """Coordinates of which those that are read in blocks are Dask arrays of these."""
    return coords.assign_coords(
        {
            name: coords[name].variable.chunk(dict(zip(coords[name].dims, lengths, strict=True)))
            for name, lengths in blocks(coords).items()
        }
    )


def copying_bytes(coords: xr.Dataset) -> int:
    """Bytes that copying coordinates takes at most, beside those that are in memory: of one block."""
    sizes = (math.prod(lengths) * coords[name].dtype.itemsize for name, lengths in blocks(coords).items())
    return COPIES * max(sizes, default=0)


def chunks_of(name: str, array: Any) -> tuple[int, ...] | None:
    """Chunk lengths of an array; the largest where they are irregular, the shards where there are any."""
    if isinstance(array, xr.Variable):
        if is_lazy(array._data):
            array = array._data
        else:
            stored = stored_chunks(array)
            return tuple(min(stored.get(dim, n), n) for dim, n in array.sizes.items()) if stored else None
    if is_lazy(array):
        if any(np.isnan(c) for axis in array.chunks for c in axis):
            raise InputError(f"{name} has chunks of unknown size: call compute_chunk_sizes() first")
        return tuple(int(max(axis)) if axis else 1 for axis in array.chunks)
    if isinstance(array, zarr.Array):
        return tuple(array.shards or array.chunks)
    return None


def stored_chunks(variable: xr.Variable) -> dict[Any, int]:
    """Lengths of the chunks in which a variable is stored, the shards where there are any, by dimension.

    Dimensions are those of the store: they may lie in another order since, or be gone.
    """
    chunks = variable.encoding.get("preferred_chunks") or {}
    shards = variable.encoding.get("shards") or ()
    if len(shards) == len(chunks):
        chunks = dict(zip(chunks, shards, strict=True))
    return {dim: int(np.max(size)) for dim, size in chunks.items()}
