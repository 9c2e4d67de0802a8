"""What holds samples beside NumPy (Dask, Zarr, xarray), and where in it the features are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array
import numpy as np
import xarray as xr
import zarr

from dgmm.data import Layout, Samples, apart, comparable, matching_order, open_samples, shortened, stored_chunks
from dgmm.errors import InputError
from dgmm.passes import Sample, row_hashes
from dgmm.types import AnyArray, FloatArray

#: What several dimensions of features are stacked into.
STACKED = "feature"
Chunked = dask.array.Array | zarr.Array[Any] | xr.DataArray | xr.Dataset


def is_chunked(x: object) -> bool:
    """Whether this is read and scored chunk by chunk; anything else is for scikit-learn to make an array of.

    Raises
    ------
    InputError
        If that would compute a lazy table into memory.
    """
    if hasattr(x, "to_dask_array"):
        raise InputError(f"a Dask {type(x).__name__} is a lazy table: hand in df.to_dask_array(lengths=True)")
    return isinstance(x, (dask.array.Array, zarr.Array, xr.DataArray, xr.Dataset))


@dataclass(frozen=True, eq=False)
class Features:
    """How to find the features in what is handed in.

    Attributes
    ----------
    dims : tuple of str
        Dimensions of an xarray object along which they lie; empty for the last one, or the variables of a dataset.
    names : tuple of str
        Where features have names.
    labels : ndarray or None
        The coordinate along the one dimension of features, if there is any: strings, numbers or times.
    given : bool
        Whether the dimensions were asked for by name, so that no other will do.
    layout : Layout or None
        Where variables of a dataset lie along dimensions of their own, how they do.
    """

    dims: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    labels: AnyArray | None = None
    given: bool = False
    layout: Layout | None = None


def named_features(x: Chunked, dims: str | Sequence[str] | None) -> Features:
    """The features of what a model is fitted to: of several variables those along the dimensions, side by side.

    Parameters
    ----------
    x : dask.array.Array, zarr.Array, xarray.DataArray or xarray.Dataset
    dims : str or sequence of str, optional
        Dimensions of an xarray object along which the features lie.

    Raises
    ------
    InputError
        If there is no such dimension, or the variables of a dataset are not all features.
    """
    wanted = (dims,) if isinstance(dims, str) else tuple(dims or ())
    if not isinstance(x, (xr.DataArray, xr.Dataset)):
        if wanted:
            raise InputError(
                f"feature_dims={dims!r} is for xarray objects: a {type(x).__name__} has no named dimensions"
            )
        return Features()
    for dim in wanted:
        if dim not in x.dims:
            raise InputError(f"no dimension {dim!r}: it has {', '.join(map(str, x.dims))}")
    if isinstance(x, xr.Dataset):
        x = apart(x)
        _check_variables(x)
        variables = tuple(sorted(map(str, x.data_vars)))
        if not wanted and (len(variables) > 1 or x[variables[0]].ndim == 1):
            _check_alike(x, variables)
            return Features((), variables)
        if len(variables) != 1:
            samples = open_samples(_bare(x, wanted), variables, wanted)
            return Features(wanted, samples.features, None, True, samples.layout)
        x = x[variables[0]]
    _check_dimensions(x)
    found = wanted or tuple(map(str, x.dims[-1:]))
    labels = _labels(x, found[0]) if len(found) == 1 else None
    names = labels.tolist() if labels is not None and labels.dtype.kind == "U" else []
    return Features(found, tuple(names), labels, bool(wanted))


def _bare(x: xr.Dataset, dims: Sequence[str]) -> xr.Dataset:
    """Without coordinates but those of the features."""
    return x.drop_vars([c for c in x.coords if c not in dims])


def _told_apart(x: xr.Dataset, features: Features, labels: Any = None, weights: Any = None) -> Samples:
    """Samples of variables along dimensions of their own, with the features of the fit."""
    bare = _bare(x, features.dims)
    samples = open_samples(bare, feature_dim=features.dims, like=features.layout, labels=labels, weights=weights)
    return samples.like(features.names, features.layout)


def _side_by_side(x: xr.Dataset, features: Features) -> tuple[xr.DataArray, str]:
    """Variables along dimensions of their own as one array."""
    samples = _told_apart(x, features)
    dim = STACKED if STACKED not in x.dims else f"{STACKED}_"
    lazy = chunked_as_stored(x[list(samples.layout.variables)], features.dims)
    parts = []
    for name, field in zip(samples.layout.variables, samples.fields, strict=True):
        part = lazy[name].rename(None).drop_vars([c for c in x.coords if field.inner in x[c].dims], errors="ignore")
        if field.inner is None:
            part = part.expand_dims({dim: 1})
        elif field.pick is not None:
            part = part.isel({field.inner: list(field.pick.low)})
        parts.append(part.rename({} if field.inner is None else {field.inner: dim}).transpose(*samples.dims, dim))
    return xr.concat(parts, dim, coords="minimal", compat="override", join="override"), dim


def _check_variables(x: xr.Dataset) -> None:
    if not x.data_vars:
        raise InputError("the dataset holds no variables")


def _check_dimensions(x: xr.DataArray) -> None:
    if not x.ndim:
        raise InputError("a DataArray of shape () has no samples: samples and features need two dimensions, (n, d)")


def _check_alike(x: xr.Dataset, variables: Sequence[str]) -> None:
    """Refuse a dataset of which not all variables can be features."""
    first = x[variables[0]]
    choose = 'choose the features (ds[["a", "b"]])'
    for name in variables:
        if x[name].dtype.kind not in "fiu":
            raise InputError(f"{name} in the dataset is not numeric, its dtype is {x[name].dtype}: {choose}")
        if set(x[name].dims) != set(first.dims):
            raise InputError(
                f"variables of the dataset differ in their dimensions, {first.name} ({', '.join(map(str, first.dims))})"
                f" and {name} ({', '.join(map(str, x[name].dims))}): {choose}"
            )
    _check_dimensions(first)


def _labels(x: xr.DataArray, dim: str) -> AnyArray | None:
    """The coordinate along a dimension, as it can be compared; None if there is none."""
    return comparable(x.coords[dim].values) if dim in x.coords else None


def as_array(given: xr.DataArray | xr.Dataset, features: Features) -> tuple[xr.DataArray, str]:
    """One array with the features along one dimension, and which; lazy where it is.

    Raises
    ------
    InputError
        If the features are not there.
    """
    if isinstance(given, xr.Dataset):
        given = apart(given)
        _check_variables(given)
        if features.layout is not None:
            return _side_by_side(given, features)
        known = ", ".join(map(str, given.data_vars))
        if features.names and not features.dims:
            missing = [name for name in features.names if name not in given]
            if missing:
                raise InputError(f"no variable {missing[0]!r} in the dataset: it has {known}")
            dim = STACKED if STACKED not in given.dims else f"{STACKED}_"
            return chunked_as_stored(given[list(features.names)]).to_dataarray(dim), dim
        if len(given.data_vars) != 1:
            stacked = "" if features.dims else ' or stack them (ds.to_dataarray("feature").transpose(..., "feature"))'
            raise InputError(
                f"the model was fitted on an array, not on the variables {known}: choose one (ds[name]){stacked}"
            )
        x = given[next(iter(given.data_vars))]
    else:
        x = given
    _check_dimensions(x)
    missing = [dim for dim in features.dims if dim not in x.dims]
    if missing and features.given:
        raise InputError(
            f"no dimension {missing[0]!r}, along which the features of the fit lie (feature_dims): it has "
            f"{', '.join(map(str, x.dims))}"
        )
    dims = features.dims if features.dims and not missing else tuple(map(str, x.dims[-1:]))
    if len(dims) > 1:
        x = chunked_as_stored(x, dims)
        dim = STACKED if STACKED not in x.dims else f"{STACKED}_"
        return x.stack({dim: dims}, create_index=False), dim
    return _in_order(x, dims[0], features), dims[0]


def _in_order(x: xr.DataArray, dim: str, features: Features) -> xr.DataArray:
    """With the features in the order of the fit, by their labels; as they are where either has none.

    Raises
    ------
    InputError
        If there are others.
    """
    fitted = np.array(features.names) if features.names else features.labels
    labels = _labels(x, dim)
    if fitted is None or labels is None:
        return x
    order = matching_order(fitted, labels)
    if order is None:
        raise InputError(
            f"features are {shortened(list(map(str, labels)))}, those of the fit {shortened(list(map(str, fitted)))}"
        )
    return x if (order == np.arange(len(order))).all() else x.isel({dim: order})


def chunked_as_stored(x: Any, feature_dims: Sequence[str] = ()) -> Any:
    """With what would be read from a store at once in Dask arrays of its chunks.

    Chunks go by the names of dimensions, whose order and number may have changed since the store was opened. What is
    stored in no chunks, or under other names, is cut along the samples.
    """
    variables = {name: x[name].variable for name in x.data_vars} if isinstance(x, xr.Dataset) else {None: x.variable}
    if all(isinstance(v._data, (np.ndarray, dask.array.Array)) for v in variables.values()):
        return x
    chunks: dict[Any, Any] = {}
    for v in variables.values():
        for dim, size in stored_chunks(v).items():
            if dim in v.dims:
                chunks[dim] = max(min(size, v.sizes[dim]), chunks.get(dim, 1))
    chunks = {dim: -1 if dim in feature_dims else "auto" for dim in x.dims} | chunks
    # only these: coordinates are not read in chunks
    cut = {name: v.chunk({dim: chunks[dim] for dim in v.dims}) for name, v in variables.items()}
    return x.assign(cut) if isinstance(x, xr.Dataset) else x.copy(deep=False, data=cut[None].data)


def beside(X: Any, y: Any, what: str) -> Any:
    """Chunked samples without the variable that holds something of each."""
    if not isinstance(y, str):
        return X
    if not isinstance(X, xr.Dataset) or y not in X.variables:
        has = ", ".join(map(str, X.variables)) if isinstance(X, xr.Dataset) else "no variables"
        raise InputError(f"{what}={y!r} is no variable of the {type(X).__name__}: it has {has}")
    return X.drop_vars(y)


def held(X: Any, y: Any, what: str) -> Any:
    """What is said of each of chunked samples: an array, or None."""
    if y is None and what == "y":
        raise InputError("the classes are missing: requires y to be passed, but the target y is None")
    if isinstance(y, str):
        beside(X, y, what)
        return X[y]
    if isinstance(y, xr.DataArray):
        try:
            xr.align(X, y, join="exact", copy=False)
        except ValueError:
            raise InputError(f"{what} and the samples differ in their coordinates: align them first") from None
        return y
    return y if y is None or isinstance(y, (dask.array.Array, zarr.Array)) else np.asarray(y)


def samples_of(x: Chunked, features: Features, labels: Any = None, weights: Any = None) -> Samples:
    """Samples to be read segment by segment, with what is known of each, their coordinates left aside."""
    if not isinstance(x, (xr.DataArray, xr.Dataset)):
        return open_samples(x, labels=labels, weights=weights)
    if isinstance(x, xr.Dataset) and features.names and not features.dims:
        return open_samples(x.drop_vars(list(x.coords)), features.names, labels=labels, weights=weights)
    if isinstance(x, xr.Dataset) and features.layout is not None:
        return _told_apart(x, features, labels, weights)
    array, dim = as_array(x, features)
    array = array.drop_vars([c for c in array.coords if c != dim])
    return open_samples(array, feature_dim=dim, labels=labels, weights=weights)


def rows_in_order(sample: Sample, size: int, seed: int) -> FloatArray:
    """All complete rows of ``size`` in C order of their grid, from a sample that has them all, shape (n, d)."""
    # no two rows have the same hash
    hashes = row_hashes(np.arange(size, dtype=np.uint64), seed)
    by_hash = np.argsort(hashes)
    numbers = by_hash[np.searchsorted(hashes[by_hash], sample.keys)]
    return sample.rows.x[np.argsort(numbers)]
