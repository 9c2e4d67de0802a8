"""Sources: Zarr, xarray, Dask and NumPy, all seen as a grid of samples of d features, read segment by segment."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any, get_args
from urllib.parse import unquote, urlsplit

import dask.array
import numpy as np
import pandas as pd
import xarray as xr
import zarr
import zarr.storage
from xarray.backends.zarr import FillValueCoder

from dgmm.chunks import Stored, Watched, wait_for_others
from dgmm.errors import InputError
from dgmm.grid import Grid, Region
from dgmm.layout import Layout, as_numbers, comparable, order_of, shortened
from dgmm.rows import Rows
from dgmm.runs import Run
from dgmm.types import AnyArray, FloatArray, MissingChunks
from dgmm.waits import Patience

logger = logging.getLogger("dgmm")

#: Where Zarr stores may be, beside local paths.
SCHEMES = ("s3", "gs", "az", "file")

#: How the variables of the environment begin that are settings of an object store.
PREFIXES = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}
#: How long object stores are waited for, unless the environment says otherwise (AWS_READ_TIMEOUT and so on): for a
#: connection, for the next bytes (or for the answer, while something is sent), and for a whole object, which may be
#: large and the line slow.
TIMEOUTS = {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "10min"}
#: A request that has failed is not made again later than this after it was first made.
RETRIES = {"retry_timeout": timedelta(seconds=60)}
#: What obstore finds in the environment by itself, but not beside settings that it is given.
CLIENT_OPTIONS = (
    *TIMEOUTS, "allow_http", "allow_invalid_certificates", "default_content_type", "http1_only", "http2_only",
    "http2_keep_alive_interval", "http2_keep_alive_timeout", "http2_keep_alive_while_idle", "pool_idle_timeout",
    "pool_max_idle_per_host", "proxy_ca_certificate", "proxy_excludes", "proxy_url", "randomize_addresses",
    "root_certificate", "user_agent",
)  # fmt: skip

#: Suffix of the folder beside an output in which it is claimed and made, and the record in it of who does.
PARTIAL, RECORD = ".partial", "dgmm-run.json"

#: Who decodes the chunks of a store that is opened by its path, as settings of zarr.
DECODERS: dict[str, dict[str, str]] = {"zarr": {}, "zarrs": {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}}

#: Attributes by which stored numbers are not yet the values.
PACKING = {"scale_factor", "add_offset", "missing_value"}

#: Features of a sample; a dimension of more holds something else, or its length is a mistake.
MOST_FEATURES = 10**6

#: What can be handed in as data.
Weights = str | xr.DataArray | zarr.Array[Any] | dask.array.Array | np.ndarray[Any, Any]
#: Where a variable is stored, by its name.
Origin = Callable[[str], Stored]
Source = str | os.PathLike[str] | zarr.Array[Any] | xr.Dataset | xr.DataArray | dask.array.Array | np.ndarray[Any, Any]


@dataclass(frozen=True)
class Field:
    """An array with named dimensions, read lazily.

    Attributes
    ----------
    array : zarr.Array, xarray.Variable, dask.array.Array or ndarray
    dims : tuple of str
    chunks : tuple of int or None
        None where the array lies in memory and can be cut anywhere.
    stored : Stored or None
        Where it is read from; None where it is in memory or somebody else's task.
    """

    array: Any
    dims: tuple[str, ...]
    chunks: tuple[int, ...] | None
    stored: Stored | None = None

    def read(self, key: Mapping[str, slice]) -> AnyArray:
        """The region as a NumPy array, dimensions in the array's own order.

        Raises
        ------
        ReadError
            If a chunk is not there, and that is not allowed, or cannot be decoded.
        """
        region = tuple(key.get(dim, slice(None)) for dim in self.dims)
        if self.stored is None:
            return self._read(region)
        return self.stored.read(region, partial(self._read, region))

    def _read(self, region: Region) -> AnyArray:
        part = self.array[region]
        if isinstance(part, xr.Variable):
            part = part.data
        if isinstance(part, dask.array.Array):
            # inside a task of ours: whoever called has the other threads
            part = part.compute(scheduler="synchronous")
        return unmasked(part)


@dataclass(frozen=True)
class Samples:
    """Samples of d features on a grid; the only view of data the rest of the library has.

    Attributes
    ----------
    name : str
        What to call it in messages.
    dims : tuple of str
        Dimensions of the grid of samples.
    grid : Grid
    features : tuple of str
        Names of the features.
    fields : tuple of Field
        One whose ``feature_dim`` holds the features, or one for each feature.
    feature_dim : str or None
    coords : xarray.Dataset
        Coordinates of the grid, for the output.
    layout : Layout
        How they were opened, for a model that is fitted to them.
    axis : xarray.DataArray or None
        The coordinate along which the features lie, if it is numeric; ``value_name`` and ``value_units`` in its
        attributes say what varies along it.
    weights : Field or None
        How much each sample counts, along some of the dimensions of the grid or all; None where all count the same.
    order : tuple of int or None
        Places along ``feature_dim`` from which the features are taken; None where they lie as they are.
    """

    name: str
    dims: tuple[str, ...]
    grid: Grid
    features: tuple[str, ...]
    fields: tuple[Field, ...]
    feature_dim: str | None
    coords: xr.Dataset
    layout: Layout
    axis: xr.DataArray | None = None
    weights: Field | None = None
    order: tuple[int, ...] | None = None

    @property
    def n_features(self) -> int:
        """Number of features d."""
        return len(self.features)

    @property
    def in_memory(self) -> bool:
        """Whether reading is nothing but looking."""
        return all(isinstance(f.array, np.ndarray) for f in self._all_fields)

    @property
    def _all_fields(self) -> tuple[Field, ...]:
        return self.fields if self.weights is None else (*self.fields, self.weights)

    def check_for_cluster(self) -> None:
        """Refuse what tasks on a cluster cannot read: a Dask array whose blocks are results of another cluster task."""
        for field in self._all_fields:
            array = getattr(field.array, "_data", field.array)
            if isinstance(array, dask.array.Array):
                kinds = {type(value).__name__ for value in dict(array.__dask_graph__()).values()}
                if "Future" in kinds:
                    raise InputError(f"{self.name} is persisted on the cluster: hand in the array before persist()")

    @property
    def nbytes(self) -> int:
        """Bytes of all samples as they are read."""
        return self.grid.size * self.row_bytes

    @property
    def cut_by_chunks(self) -> bool:
        """Whether a segment is one chunk of the source, so that it could only be smaller if that were."""
        stored = [dict(zip(f.dims, f.chunks, strict=True)) for f in self.fields if f.chunks is not None]
        lengths = zip(self.dims, self.grid.segment, strict=True)
        return bool(stored) and all(n <= max(chunks[dim] for chunks in stored) for dim, n in lengths)

    @property
    def chunk_text(self) -> str:
        """The chunks of the first field, as a shape and a type."""
        return f"{self.fields[0].chunks} {self.fields[0].array.dtype}"

    @property
    def itemsize(self) -> int:
        """Bytes of one value as it is read."""
        return max(int(f.array.dtype.itemsize) for f in self.fields)

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample as it is read."""
        return self.n_features * self.itemsize + 8 * (self.weights is not None)

    def like(self, features: Sequence[str], layout: Layout | None) -> Samples:
        """The same samples with the features of a model, in its order.

        They are told by the names of variables or by their labels along a dimension; where neither these samples nor
        those of the model have such, by their place.

        Parameters
        ----------
        features : sequence of str
            Names of the model's features.
        layout : Layout or None
            How its data were opened; None if that was not kept.

        Raises
        ------
        InputError
            If they are other features, or it cannot be told.
        """
        given = self.layout.identities()
        wanted = np.array(features, dtype=str) if layout is None else layout.identities()
        if layout is None and given is None and list(features) == [str(i) for i in range(len(features))]:
            wanted = None
        if wanted is None and given is None:
            if len(features) != self.n_features:
                raise self._others(features)
            return self
        if given is None:
            why = f"nothing tells which of those of {self.name} is which; hand in a dataset, or an array with labels"
            raise self._others(features, why)
        if wanted is None:
            why = "nothing tells which of those of the model is which; fit one to data with names or labels"
            raise self._others(features, why)
        if layout is not None:
            self._compare_units(layout)
        if self.feature_dim is None:
            if not set(wanted) <= set(given):
                raise self._others(features)
            fields = tuple(self.fields[self.features.index(name)] for name in wanted)
            return replace(self, features=tuple(features), fields=fields)
        order = order_of(wanted, given)
        if order is None:
            raise self._others(features)
        if (order == np.arange(len(order))).all():
            return self
        return replace(self, features=tuple(features), order=tuple(order.tolist()))

    def _others(
        self, features: Sequence[str], why: str = "name those to use (variables, or feature_dim)"
    ) -> InputError:
        """The error that these are not the features of a model."""
        lacking = next((name for name in features if name not in self.features), None)
        first = f", of which the first that is not there is {lacking}" if lacking and len(features) > 8 else ""
        return InputError(
            f"{self.name} has {self.n_features} features ({shortened(self.features)}), the model was fitted on "
            f"{len(features)} ({shortened(features)}){first}: {why}"
        )

    def _compare_units(self, layout: Layout) -> None:
        """Warn where units are known on both sides and differ."""
        if self.feature_dim is None:
            ours, theirs = (dict(zip(way.variables, way.units, strict=False)) for way in (self.layout, layout))
        else:
            ours, theirs = ({"the values": way.units[0] if way.units else ""} for way in (self.layout, layout))
        for name, unit in theirs.items():
            if unit and ours.get(name) and ours[name] != unit:
                logger.warning("%s of %s have units %s, those of the model %s", name, self.name, ours[name], unit)

    def without_coords(self) -> Samples:
        """All that it takes to read the samples."""
        return replace(self, coords=xr.Dataset(), axis=None)

    def some_rows(self, n: int) -> FloatArray:
        """A few complete rows, evenly spaced over the first, the middle and the last segment, shape (m, d)."""
        segments = sorted({0, len(self.grid) // 2, len(self.grid) - 1})
        blocks = [np.asarray(self.read(self.grid.region(i)), dtype=float) for i in segments]
        rows = np.concatenate([b[~np.isnan(b).any(axis=1)] for b in blocks])
        return rows[:: max(1, len(rows) // n)]

    def read(self, region: Region) -> AnyArray:
        """The samples of a region, shape (n, d), missing values as NaN."""
        key = dict(zip(self.dims, region, strict=True))
        if self.feature_dim is None:
            columns = [_transposed(f.read(key), f.dims, self.dims).ravel() for f in self.fields]
            return np.stack(columns, axis=1)
        field = self.fields[0]
        block = _transposed(field.read(key), field.dims, (*self.dims, self.feature_dim)).reshape(-1, self.n_features)
        return block if self.order is None else block[:, self.order]

    def read_rows(self, region: Region) -> Rows:
        """The samples of a region and their weights."""
        x = self.read(region)
        if self.weights is None:
            return Rows(x)
        key = dict(zip(self.dims, region, strict=True))
        wanted = tuple(dim for dim in self.dims if dim in self.weights.dims)
        known = _transposed(self.weights.read(key), self.weights.dims, wanted)
        shape = [s.stop - s.start if dim in wanted else 1 for dim, s in key.items()]
        whole = np.broadcast_to(known.reshape(shape), [s.stop - s.start for s in region])
        return Rows(x, whole.astype(float).ravel())


def unmasked(array: Any) -> AnyArray:
    """A plain array: what a mask hides is missing."""
    if not isinstance(array, np.ma.MaskedArray):
        return np.asarray(array)
    masked: Any = array
    return masked.astype(float).filled(np.nan)


def _transposed(block: AnyArray, dims: tuple[str, ...], wanted: tuple[str, ...]) -> AnyArray:
    return block.transpose([dims.index(d) for d in wanted])


def open_samples(
    source: Source | Samples,
    variables: Sequence[str] | None = None,
    feature_dim: str | None = None,
    *,
    weights: Weights | None = None,
    decoder: str = "zarr",
    missing_chunks: str = "raise",
    like: Layout | None = None,
) -> Samples:
    """See a source as samples of d features.

    Parameters
    ----------
    source : path, URL, zarr.Array, xarray.Dataset, xarray.DataArray, dask.array.Array or ndarray
        A Zarr store (format 2 or 3) holding one array or a group that xarray reads, or the data themselves.
    variables : sequence of str, optional
        Variables of a dataset: several are the features; one holds them along ``feature_dim``. All by default.
    feature_dim : str, optional
        The dimension along which the features lie; the last one of a plain array.
    weights : str, xarray.DataArray or array, optional
        How much each sample counts: a variable or coordinate of a dataset by its name, an array along some of the
        dimensions of the samples, or one in their shape. A sample of weight zero, or whose weight is missing, is
        left out.
    decoder : {"zarr", "zarrs"}
        Who decodes the chunks of a store given by its path or URL; ``zarrs`` (Rust) is faster where they are small.
    missing_chunks : {"raise", "fill"}
        What becomes of chunks that are not in a store given by its path or URL: reading them is refused, or they are
        read as the array's fill value. A writer may have left out those that hold nothing else.
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
    name = str(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__
    if decoder not in DECODERS:
        raise InputError(f"unknown decoder {decoder!r}: use {' or '.join(DECODERS)}")
    if decoder == "zarrs" and importlib.util.find_spec("zarrs") is None:
        raise InputError("decoder zarrs is not installed: pip install dgmm[zarrs]")
    if missing_chunks not in get_args(MissingChunks):
        raise InputError(f"unknown missing_chunks {missing_chunks!r}: use {' or '.join(get_args(MissingChunks))}")
    opened: Any = source
    named = True
    origin: Origin = partial(Stored, name)
    if isinstance(source, (str, os.PathLike)):
        with zarr.config.set(DECODERS[decoder]):
            opened = open_store(source, watched=True)
            origin = partial(_stored, opened, name, name, missing_chunks, decoder)
            if isinstance(opened, zarr.Group):
                opened = _open_dataset(name, opened)
    elif isinstance(opened, (zarr.Array, zarr.Group)):
        origin = partial(_stored, opened, name, str(opened.store), "fill", decoder)
        if isinstance(opened, zarr.Group):
            opened = _open_dataset(name, opened)
    if isinstance(opened, np.ma.MaskedArray):
        opened = unmasked(opened)
    if isinstance(opened, xr.DataArray):
        if opened.ndim < 2:
            raise InputError(f"{name} has shape {opened.shape}: samples and features need two dimensions, (n, d)")
        feature_dim = feature_dim or _known_dim(like, opened.dims) or str(opened.dims[-1])
        # an array may be called like its coordinate, as xarray calls one that is made of it
        named = opened.name is not None and opened.name not in opened.coords
        opened = opened.to_dataset(name=str(opened.name) if named else "data")
        # whatever its name, it is what was handed in
        like = None if like is None else replace(like, variables=())
    if isinstance(opened, xr.Dataset):
        field = None
        if isinstance(weights, str):
            if weights not in opened.variables:
                raise InputError(
                    f"no variable {weights!r} in {name} to take the weights from: it has "
                    f"{', '.join(sorted(map(str, opened.variables)))}"
                )
            column = opened[weights]
            field = _field("weights", column.variable, partial(origin, weights))
            if not variables:
                opened = opened.drop_vars({weights} & set(opened.data_vars))
            weights = column
        samples = _from_dataset(name, opened, variables, feature_dim, origin, like)
        if not named:
            samples = replace(samples, layout=replace(samples.layout, variables=()))
        return _with_weights(samples, weights, field)
    if not isinstance(opened, (zarr.Array, dask.array.Array, np.ndarray)):
        raise InputError(f"cannot read samples from a {type(source).__name__}: hand in a Zarr store, array or dataset")
    if variables is not None:
        raise InputError(f"{name} is a single array and has no variables: leave variables ({', '.join(variables)}) out")
    if isinstance(weights, str):
        raise InputError(f"{name} is a single array: hand in the weights as an array, not as {weights!r}")
    return _with_weights(_from_array(name, opened, feature_dim, origin, like), weights)


def _stored(
    opened: zarr.Array[Any] | zarr.Group, source: str, place: str, missing: str, decoder: str, variable: str = ""
) -> Stored:
    """The array of a store, or a variable of its group, to be read piece by piece."""
    array: Any = opened
    if isinstance(opened, zarr.Group):
        try:
            with zarr.config.set(DECODERS[decoder]):
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


def _with_weights(samples: Samples, weights: Any, field: Field | None = None) -> Samples:
    """The samples with their weights, which lie along some of their dimensions, or in an array of their shape."""
    if weights is None:
        return samples
    sizes = dict(zip(samples.dims, samples.grid.shape, strict=True))
    if isinstance(weights, xr.DataArray):
        field = field or _field("weights", weights.variable, partial(Stored, "weights", ""))
        fits = all(sizes.get(dim) == n for dim, n in zip(field.dims, field.array.shape, strict=True))
        for dim in field.dims:
            ours, theirs = samples.coords.indexes.get(dim), weights.indexes.get(dim)
            if fits and ours is not None and theirs is not None and not ours.equals(theirs):
                raise InputError(f"weights and {samples.name} differ in their coordinate {dim!r}: align them first")
    else:
        array = weights if isinstance(weights, (zarr.Array, dask.array.Array)) else unmasked(weights)
        stored = Stored.of(array, "weights", str(array.store)) if isinstance(array, zarr.Array) else None
        field = Field(array, samples.dims, _chunks("weights", array), stored)
        fits = tuple(array.shape) == samples.grid.shape
    if not fits:
        raise InputError(
            f"weights have shape {tuple(field.array.shape)}, the samples of {samples.name} {samples.grid.shape} "
            f"({', '.join(samples.dims)}): give one weight for each"
        )
    _check_numeric("weights", samples.name, field)
    return replace(samples, weights=field)


def open_store(source: str | os.PathLike[str], *, watched: bool = False) -> zarr.Array[Any] | zarr.Group:
    """Open a Zarr store for reading; `watched` if what is not a local file shall go through `Watched`."""
    place = store_at(source, read_only=True)
    if watched and not isinstance(place, str):
        place = Watched(place)
    with _obstore_errors(source), awaited(source):
        try:
            opened = zarr.open(place, mode="r")
            attributes: Any = opened.metadata.attributes
            if not isinstance(attributes, dict):
                raise ValueError("its attributes are no mapping")
            return opened
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(f"{source} is not a Zarr store{unfinished(source)}: {one_line(error)}") from None
        except OSError:
            raise
        except Exception as error:  # whatever metadata that are damaged lead to
            if type(error).__module__.startswith("obstore"):
                raise
            raise InputError(f"{source} is not a Zarr store{unfinished(source)}: {one_line(error)}") from None


@contextmanager
def _obstore_errors(url: str | os.PathLike[str]) -> Iterator[None]:
    """Say in one line what obstore says in many."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.startswith("obstore"):
            wait_for_others()
            raise InputError(f"cannot open {url}: {str(error).strip().splitlines()[0]}") from None
        raise


def awaited(place: str | os.PathLike[str]) -> Patience:
    """Context in which a path or URL is asked for something."""
    return Patience(lambda: f"{os.fspath(place)} to answer")


def _open_dataset(name: str, group: zarr.Group) -> xr.Dataset:
    with _obstore_errors(name), awaited(name):
        try:
            return xr.open_zarr(group.store, group=group.path or None, chunks=None, consolidated=False)
        except OSError:
            raise
        except Exception as error:  # whatever attributes that are damaged lead to
            if type(error).__module__.startswith("obstore"):
                raise
            raise InputError(f"xarray cannot read {name}: {one_line(error)}") from None


def store_at(source: str | os.PathLike[str], *, read_only: bool) -> Any:
    """The zarr store of a path or URL; for reading it must exist."""
    url = os.fspath(source)
    path = local_path(url)
    if path is not None:
        if read_only and not os.path.exists(path):
            raise InputError(f"no such store: {url}{unfinished(url)}")
        return path
    check_url(url)
    import obstore.store

    retries: Any = RETRIES
    options: Any = client_options(url.split("://")[0])
    with _obstore_errors(url):
        objects = obstore.store.from_url(url, client_options=options, retry_config=retries)
        return zarr.storage.ObjectStore(objects, read_only=read_only)


def client_options(scheme: str) -> dict[str, str]:
    """How the object stores of a scheme are talked to: with time limits, and as the environment says."""
    found = {name: os.environ.get(PREFIXES[scheme] + name.upper()) for name in CLIENT_OPTIONS}
    return TIMEOUTS | {name: value for name, value in found.items() if value is not None}


def check_url(url: str) -> None:
    """Raise `InputError` if this is no URL that can be opened, or obstore, which does, is not installed."""
    if url.split("://")[0] not in SCHEMES or "::" in url:
        raise InputError(f"cannot open {url}: use a path or one of {', '.join(s + '://' for s in SCHEMES)}")
    if importlib.util.find_spec("obstore") is None:
        raise InputError(f"{url} needs obstore: pip install dgmm[cloud]")


def local_path(place: str | os.PathLike[str]) -> str | None:
    """A path as it is, and that of a ``file://`` URL; None for any other URL."""
    url = os.fspath(place)
    if "://" not in url:
        return url
    if not url.startswith("file://"):
        return None
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise InputError(f"cannot open {url}: it names a host; use file:///path")
    return unquote(parts.path)


def object_at(url: str) -> tuple[Any, str]:
    """The obstore store and the key in it of a URL; the store is that of the folder."""
    scheme, _, rest = url.partition("://")
    parts = [part for part in rest.split("/") if part]
    if len(parts) < 2:
        raise InputError(f"{url} is a whole bucket: name a place within it")
    folder = store_at(f"{scheme}://{'/'.join(parts[:-1])}", read_only=False)
    return folder.store, parts[-1]


def record_of(place: str | os.PathLike[str]) -> Run | None:
    """The run that has claimed a path or URL for its output and not finished; None if there is none."""
    path = local_path(place)
    try:
        if path is not None:
            with open(os.path.join(path.rstrip("/") + PARTIAL, RECORD), "rb") as file:
                return Run.from_json(file.read())
        import obstore

        objects, key = object_at(os.fspath(place))
        return Run.from_json(bytes(obstore.get(objects, f"{key}{PARTIAL}/{RECORD}").bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None


def unfinished(place: str | os.PathLike[str]) -> str:
    """What to add to the news that nothing lies at a place: who is making it, or has died over it."""
    try:
        run = record_of(place)
    except Exception:  # it is only a remark
        return ""
    if run is None:
        return ""
    return f" ({run} {'is writing it' if run.alive else 'has died and left it unfinished'})"


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _from_array(name: str, array: Any, feature_dim: str | None, origin: Origin, like: Layout | None) -> Samples:
    if array.ndim < 2:
        raise InputError(f"{name} has shape {array.shape}: samples and features need two dimensions, (n, d)")
    packed = packing(array)
    if packed:
        raise InputError(f"{name} is packed ({', '.join(sorted(packed))}): open the dataset that it belongs to")
    names = getattr(getattr(array, "metadata", None), "dimension_names", None) or ()
    dims = tuple(n or f"dim_{i}" for i, n in enumerate(names)) or _default_dims(array.ndim)
    stored = origin("") if isinstance(array, zarr.Array) else None
    field = Field(array, dims, _chunks(name, array), stored)
    return _assemble(name, {name: field}, feature_dim or _known_dim(like, dims) or dims[-1], xr.Dataset(), {})


def _known_dim(like: Layout | None, dims: Sequence[Hashable]) -> str | None:
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


def _from_dataset(
    name: str,
    dataset: xr.Dataset,
    variables: Sequence[str] | None,
    feature_dim: str | None,
    origin: Origin,
    like: Layout | None,
) -> Samples:
    # a store lists its variables in whatever order the file system does
    known = sorted(str(v) for v in dataset.data_vars)
    if not known:
        raise InputError(f"{name} holds no variables")
    for variable in variables or ():
        if variable not in known:
            raise InputError(f"no variable {variable!r} in {name}: it has {', '.join(known)}")
    if like is not None and not variables and not (feature_dim and len(like.variables) > 1):
        variables = like.variables
        missing = [variable for variable in variables if variable not in known]
        if missing:
            raise InputError(
                f"no variable {missing[0]!r} in {name}, which has {shortened(known)}; the model was fitted on "
                f"{shortened(variables)}: name those to use (variables)"
            )
    chosen = list(variables or known)
    fields = {variable: _field(name, dataset[variable].variable, partial(origin, variable)) for variable in chosen}
    if feature_dim is None and len(chosen) == 1:
        feature_dim = _known_dim(like, fields[chosen[0]].dims)
    if feature_dim is None and len(chosen) == 1 and len(fields[chosen[0]].dims) != 1:
        only = fields[chosen[0]]
        if len(only.dims) != 2:
            raise InputError(
                f"{chosen[0]} in {name} has dimensions {', '.join(only.dims) or 'none'}: say which one holds the "
                "features (feature_dim), or name several variables"
            )
        feature_dim = only.dims[-1]
    coords = dataset.drop_vars(known)
    units = {variable: str(dataset[variable].attrs.get("units", "")) for variable in chosen}
    return _assemble(name, fields, feature_dim, coords, units)


def _field(name: str, v: xr.Variable, origin: Callable[[], Stored]) -> Field:
    """A variable, in memory or not."""
    dims = tuple(map(str, v.dims))
    if isinstance(v._data, np.ndarray):
        return Field(v.to_numpy(), dims, None)
    return Field(v, dims, _chunks(name, v), None if isinstance(v._data, dask.array.Array) else origin())


def _check_numeric(variable: str, name: str, field: Field) -> None:
    if np.dtype(field.array.dtype).kind not in "fiu":
        raise InputError(f"{variable} in {name} is not numeric: its dtype is {field.array.dtype}")


def _assemble(
    name: str, fields: dict[str, Field], feature_dim: str | None, coords: xr.Dataset, units: Mapping[str, str]
) -> Samples:
    first_name, first = next(iter(fields.items()))
    for variable, field in fields.items():
        _check_numeric(variable, name, field)
        if set(field.dims) != set(first.dims) or dict(zip(field.dims, field.array.shape, strict=True)) != dict(
            zip(first.dims, first.array.shape, strict=True)
        ):
            raise InputError(
                f"variables of {name} differ in their dimensions: {first_name} ({', '.join(first.dims)}), "
                f"{variable} ({', '.join(field.dims)}); name those to use (variables)"
            )
    if feature_dim is None:
        names = tuple(fields)
        dims = first.dims
    else:
        if feature_dim not in first.dims:
            raise InputError(f"no dimension {feature_dim!r} in {name}: it has {', '.join(first.dims)}")
        if len(fields) > 1:
            raise InputError(
                f"feature_dim={feature_dim!r} needs one variable of {name}, not {', '.join(fields)} (variables)"
            )
        dims = tuple(d for d in first.dims if d != feature_dim)
        length = first.array.shape[first.dims.index(feature_dim)]
        if length > MOST_FEATURES:
            raise InputError(
                f"{name} has {length} features along {feature_dim}, and at most {MOST_FEATURES} are read: name the "
                "dimension that holds them (feature_dim)"
            )
        labels = coords[feature_dim].values if feature_dim in coords else np.arange(length)
        names = tuple(str(v) for v in labels)
    sizes = dict(zip(first.dims, first.array.shape, strict=True))
    shape = tuple(int(sizes[d]) for d in dims)
    chunks: dict[str, int] = {}
    for field in fields.values():
        for dim, chunk in zip(field.dims, field.chunks or (), strict=False):
            chunks[dim] = max(chunk, chunks.get(dim, 1))
    if 0 in shape or not names:
        raise InputError(f"{name} is empty: {math.prod(shape)} samples of {len(names)} features")
    lengths = [chunks.get(d, shape[i] if i else 1) for i, d in enumerate(dims)]
    row_bytes = len(names) * max(np.dtype(field.array.dtype).itemsize for field in fields.values())
    grid = Grid.along_chunks(shape, lengths, row_bytes)
    axis = coords[feature_dim].reset_coords(drop=True) if feature_dim in coords else None
    if axis is not None:
        value = {"value_name": first_name, "value_units": units.get(first_name, "")}
        axis = axis.assign_attrs(value) if axis.dtype.kind in "fiu" else None
    kept = [c for c in coords.coords if set(coords[c].dims) <= set(dims)]
    stacked = [str(c) for c in kept if isinstance(coords.indexes.get(c), pd.MultiIndex)]
    if stacked:
        raise InputError(f"{', '.join(stacked)} of {name} form a multi-index, which Zarr has none of: reset_index it")
    layout = Layout(variables=tuple(units), feature_dim=feature_dim, units=tuple(units.values()))
    if feature_dim is not None and feature_dim in coords:
        values, dtype = as_numbers(comparable(coords[feature_dim].values))
        along = str(coords[feature_dim].attrs.get("units", ""))
        layout = replace(layout, labels=values, dtype=dtype, label_units=along)
    with _obstore_errors(name), awaited(name):
        coords = coords[kept].load()
    return Samples(name, dims, grid, names, tuple(fields.values()), feature_dim, coords, layout, axis)


def _chunks(name: str, array: Any) -> tuple[int, ...] | None:
    """Chunk lengths of an array; the largest where they are irregular, the shards where there are any."""
    if isinstance(array, xr.Variable):
        if isinstance(array._data, dask.array.Array):
            array = array._data
        else:
            stored = stored_chunks(array)
            return tuple(min(stored.get(dim, n), n) for dim, n in array.sizes.items()) if stored else None
    if isinstance(array, dask.array.Array):
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
