"""Sources: Zarr, xarray, Dask and NumPy, all seen as a grid of samples of d features, read segment by segment."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import numpy as np
import xarray as xr
import zarr
import zarr.storage

from dgmm.data.cf import apart, areas_of
from dgmm.data.chunks import Stored, Watched
from dgmm.data.codecs import bounded, regular
from dgmm.data.fields import Field, unmasked
from dgmm.data.files import node_of, opened_file
from dgmm.data.frames import Frame, features_in, is_column, is_frame, opened_frame, values_of
from dgmm.data.groups import dataset_of
from dgmm.data.labels import Labels
from dgmm.data.layout import Layout, shortened
from dgmm.data.parquet import is_parquet
from dgmm.data.persisted import is_lazy
from dgmm.data.samples import Samples
from dgmm.data.stores import open_store
from dgmm.data.variables import (
    FeatureDims,
    Origin,
    check_numeric,
    chunks_of,
    field_of,
    from_array,
    from_dataset,
    known_dim,
)
from dgmm.errors import InputError, one_line
from dgmm.types import Decoder, MissingChunks

if TYPE_CHECKING:
    import dask.array

#: Who decodes the chunks of a store that is opened by its path, as settings of zarr.
DECODERS: dict[Decoder, dict[str, str]] = {"zarr": {}, "zarrs": {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}}
#: In the place of a variable's name, weights by the area of the cells; a variable that is called like that is itself.
AREA = "area"
#: What can be handed in as data.
Weights: TypeAlias = "str | xr.DataArray | zarr.Array[Any] | dask.array.Array | np.ndarray[Any, Any]"
Source: TypeAlias = (
    "str | os.PathLike[str] | zarr.Array[Any] | xr.Dataset | xr.DataArray | xr.DataTree | dask.array.Array"
    " | np.ndarray[Any, Any] | Frame"
)


def open_samples(
    source: Source | Samples,
    variables: Sequence[str] | None = None,
    feature_dim: FeatureDims = None,
    *,
    weights: Weights | None = None,
    labels: Weights | None = None,
    decoder: Decoder = "zarr",
    missing_chunks: MissingChunks = "raise",
    group: str | None = None,
    open: Mapping[str, Any] | None = None,
    storage: Mapping[str, Any] | None = None,
    like: Layout | None = None,
) -> Samples:
    """See a source as samples of d features.

    Parameters
    ----------
    source : path, URL, zarr.Array, xarray object, dask.array.Array, ndarray, or DataFrame of pandas or polars
        A Zarr store (format 2 or 3) holding one array or a group that xarray reads, Parquet, NetCDF, or the data
        themselves; what lies at other paths and URLs is opened by those who are registered, see `register_opener`.
    variables : sequence of str, optional
        Variables of a dataset: those that have ``feature_dim`` hold a feature for each place along it, the others are
        one each. All by default. With ``like``, as many as its variables and none called like one of them stand for
        these, in their order.
    feature_dim : str or sequence of str, optional
        The dimension along which the features lie, or those of several variables; the last one of a plain array.
    weights : str, xarray.DataArray or array, optional
        How much each sample counts: a variable or coordinate of a dataset by its name, an array along some of the
        dimensions of the samples, or one in their shape; ``area`` where no variable is called so for the areas of
        cells, see `dgmm.data.cf.areas_of`. A sample of weight zero, or whose weight is missing, is left out.
    labels : str, xarray.DataArray or array, optional
        The class of each sample, given like the weights: a whole number from zero up or a text where it is known; -1,
        an empty text or a missing value where it is not. All of them are read once, to see which classes there are.
    decoder : {"zarr", "zarrs"}
        Who decodes the chunks of a store given by its path or URL; ``zarrs`` (Rust) is faster where they are small.
    missing_chunks : {"raise", "fill"}
        What becomes of chunks that are not in a store given by its path or URL: reading them is refused, or they are
        read as the array's fill value. A writer may have left out those that hold nothing else.
    group : str, optional
        The group of a store, a file or a DataTree in which the arrays are.
    open : mapping, optional
        Keyword arguments of `xarray.open_dataset`, which opens what lies at the path then.
    storage : mapping, optional
        How an object store is reached: ``anonymous``, ``region``, ``endpoint``.
    like : Layout, optional
        How other samples were opened, those of a model: takes the place of ``variables`` and ``feature_dim`` where
        neither says otherwise.

    Raises
    ------
    InputError
        If there is no such store, variable or dimension, or the data are not numbers.
    """
    if isinstance(source, Samples):
        return source
    _check_reading(decoder, missing_chunks)
    variables = None if variables is None else [*variables]  # of pandas, say, whose truth is none
    found = _opened(source, decoder, missing_chunks, group, open, storage)
    if is_frame(source):
        weights, labels = (values_of(c) if is_column(c) else c for c in (weights, labels))
    if isinstance(found.data, xr.DataArray):
        found, feature_dim, like = _as_dataset(found, variables, feature_dim, like)
    if isinstance(found.data, xr.Dataset):
        return _of_dataset(found, variables, feature_dim, weights, labels, like)
    if not is_lazy(found.data) and not isinstance(found.data, (zarr.Array, np.ndarray)):
        raise InputError(f"cannot read samples from a {type(source).__name__}: hand in a Zarr store, array or dataset")
    name = found.name
    if variables is not None:
        raise InputError(f"{name} is a single array and has no variables: leave variables ({', '.join(variables)}) out")
    for what, column in (("weights", weights), ("labels", labels)):
        if isinstance(column, str):
            raise InputError(f"{name} is a single array: hand in the {what} as an array, not as {column!r}")
    return _with_known(from_array(name, found.data, feature_dim, found.origin, like), weights, labels, {})


@dataclass(frozen=True)
class _Opened:
    """A source that is open.

    Attributes
    ----------
    name : str
        What to call it in messages.
    data : xarray.Dataset, xarray.DataArray or an array
    origin : callable
        Where a variable is stored.
    table : bool
        Whether its variables are columns of a table.
    named : bool
        Whether its variables have names of their own.
    """

    name: str
    data: Any
    origin: Origin
    table: bool = False
    named: bool = True


def _check_reading(decoder: str, missing_chunks: str) -> None:
    """Raise `InputError` for ways to read chunks that are none."""
    if decoder not in DECODERS:
        raise InputError(f"unknown decoder {decoder!r}: use {' or '.join(DECODERS)}")
    if decoder == "zarrs" and importlib.util.find_spec("zarrs") is None:
        raise InputError("decoder zarrs is not installed: pip install dgmm[zarrs]")
    if missing_chunks not in get_args(MissingChunks):
        raise InputError(f"unknown missing_chunks {missing_chunks!r}: use {' or '.join(get_args(MissingChunks))}")


def _opened(
    source: Any,
    decoder: Decoder,
    missing_chunks: MissingChunks,
    group: str | None,
    open: Mapping[str, Any] | None,
    storage: Mapping[str, Any] | None,
) -> _Opened:
    """What is handed in, or lies at a path or URL, as xarray, Zarr, Dask or NumPy have it."""
    name = str(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__
    opened, place, table = source, None, False
    origin: Origin = partial(Stored, name)
    if isinstance(source, (str, os.PathLike)):
        opened = opened_file(name, open, group, storage)
        table = isinstance(opened, xr.Dataset) and is_parquet(name)
        if opened is None:
            place = name = name if group is None else f"{name.rstrip('/')}/{group.strip('/')}"
            with bounded(DECODERS[decoder]):
                opened = open_store(name, watched=True, storage=storage)
    elif open is not None or storage is not None or (group is not None and not isinstance(source, xr.DataTree)):
        raise InputError(
            f"open, storage and group are for paths and URLs: leave them out for a {type(source).__name__}"
        )
    elif is_frame(source):
        opened = opened_frame(source)
        table = isinstance(opened, xr.Dataset)
    if isinstance(opened, xr.DataTree):
        opened = node_of(opened, name, group)
    if isinstance(opened, zarr.Array):
        regular(opened, name)
    if isinstance(opened, (zarr.Array, zarr.Group)):
        # what somebody else has opened may leave chunks out
        where, missing = (str(opened.store), "fill") if place is None else (place, missing_chunks)
        origin = partial(_stored, opened, name, where, missing, decoder)
        if isinstance(opened, zarr.Group):
            with bounded(DECODERS[decoder] if place else {}):
                opened = dataset_of(name, opened)
    if isinstance(opened, np.ma.MaskedArray):
        opened = unmasked(opened)
    return _Opened(name, opened, origin, table)


def _as_dataset(
    found: _Opened, variables: Sequence[str] | None, feature_dim: FeatureDims, like: Layout | None
) -> tuple[_Opened, FeatureDims, Layout | None]:
    """A DataArray as the one variable of a dataset, the dimension of its features, and how it is like others."""
    name, array = found.name, found.data
    if array.ndim < 2:
        raise InputError(f"{name} has shape {array.shape}: samples and features need two dimensions, (n, d)")
    feature_dim = feature_dim or known_dim(like, array.dims) or str(array.dims[-1])
    # an array may be called like its coordinate, as xarray calls one that is made of it
    named = array.name is not None and array.name not in array.coords
    if named and not variables and like is not None and like.feature_dim and {*like.variables} - {array.name}:
        raise InputError(
            f"{name} is called {array.name}, and the model was fitted on {shortened(like.variables)}: name it "
            f"(variables: {array.name}) if it is the same, or rename it"
        )
    dataset = array.to_dataset(name=str(array.name) if named else "data")
    # it is what was handed in
    like = None if like is None else replace(like, variables=())
    return replace(found, data=dataset, named=named), feature_dim, like


def _of_dataset(
    found: _Opened,
    variables: Sequence[str] | None,
    feature_dim: FeatureDims,
    weights: Any,
    labels: Any,
    like: Layout | None,
) -> Samples:
    """The samples of a dataset, with weights and labels that may be variables of it."""
    name, dataset = found.name, found.data
    if isinstance(weights, str) and weights == AREA and AREA not in dataset.variables:
        known = variables or (like.variables if like is not None else ())
        weights = areas_of(name, dataset, [v for v in known if v in dataset] or sorted(map(str, apart(dataset))))
    given = {"weights": weights, "labels": labels}
    columns = [column for column in given.values() if isinstance(column, str)]
    fields: dict[str, Field] = {}
    for what, column in given.items():
        if isinstance(column, str):
            if column not in dataset.variables:
                raise InputError(
                    f"no variable {column!r} in {name} to take the {what} from: it has "
                    f"{', '.join(sorted(map(str, dataset.variables)))}"
                )
            given[what] = dataset[column]
            fields[what] = field_of(what, dataset[column].variable, partial(found.origin, column))
    if found.table and not variables and (like is None or not like.variables):
        variables = features_in(name, dataset, columns)
    if not variables:
        dataset = dataset.drop_vars({*columns} & set(dataset.data_vars))
    samples = from_dataset(name, dataset, variables, feature_dim, found.origin, like)
    if not found.named:
        samples = replace(samples, layout=replace(samples.layout, variables=()))
    return _with_known(samples, given["weights"], given["labels"], fields)


def _stored(
    opened: zarr.Array[Any] | zarr.Group, source: str, place: str, missing: str, decoder: Decoder, variable: str = ""
) -> Stored:
    """The array of a store, or a variable of its group, to be read piece by piece."""
    array: Any = opened
    if isinstance(opened, zarr.Group):
        try:
            with bounded(DECODERS[decoder]):
                # as it is, whatever consolidated metadata once said
                array = zarr.open_array(opened.store, path=f"{opened.path}/{variable}".lstrip("/"), mode="r")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{variable} in {source} cannot be read: {one_line(error)}") from None
    if not all(array.chunks):
        raise InputError(
            f"{variable or 'the array'} in {source} has chunks of shape {array.chunks}: nothing is in them"
        )
    stored = Stored.of(array, source, place, missing)
    if isinstance(array.store, Watched):
        array.store.watch(stored)
    return stored


def _with_known(samples: Samples, weights: Any, labels: Any, fields: Mapping[str, Field]) -> Samples:
    """The samples with their weights and labels, if there are any."""
    if weights is not None:
        field = _beside(samples, "weights", weights, fields.get("weights"))
        check_numeric("weights", samples.name, field)
        samples = replace(samples, weights=field)
    if labels is not None:
        field = _beside(samples, "labels", labels, fields.get("labels"))
        samples = replace(samples, labels=Labels.of(field, samples.name))
    return samples


def _beside(samples: Samples, what: str, weights: Any, field: Field | None) -> Field:
    """What is said of each sample, along some of their dimensions or in an array of their shape."""
    sizes = dict(zip(samples.dims, samples.grid.shape, strict=True))
    if isinstance(weights, xr.DataArray):
        field = field or field_of(what, weights.variable, partial(Stored, what, ""))
        fits = all(sizes.get(dim) == n for dim, n in zip(field.dims, field.array.shape, strict=True))
        for dim in field.dims:
            ours, theirs = samples.coords.indexes.get(dim), weights.indexes.get(dim)
            if fits and ours is not None and theirs is not None and not ours.equals(theirs):
                raise InputError(f"{what} and {samples.name} differ in their coordinate {dim!r}: align them first")
    else:
        array = weights if is_lazy(weights) or isinstance(weights, zarr.Array) else unmasked(weights)
        stored = Stored.of(array, what, str(array.store)) if isinstance(array, zarr.Array) else None
        field = Field(array, samples.dims, chunks_of(what, array), stored)
        fits = tuple(array.shape) == samples.grid.shape
    if not fits:
        raise InputError(
            f"{what} have shape {tuple(field.array.shape)}, the samples of {samples.name} {samples.grid.shape} "
            f"({', '.join(samples.dims)}): give one {what.removesuffix('s')} for each"
        )
    return field
