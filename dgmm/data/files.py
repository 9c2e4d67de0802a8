"""What lies at paths and URLs and is no Zarr store: who opens it, or what to do about it."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from dgmm.data.frames import name_of_rows
from dgmm.data.parquet import is_parquet, open_parquet
from dgmm.data.stores import awaited, local_path
from dgmm.errors import DgmmError, InputError, one_line, without_secrets

logger = logging.getLogger("dgmm")

#: Opens what lies at a path or URL.
Opener = Callable[[str], Any]
#: By a scheme or a suffix, those who open what is no Zarr store.
OPENERS: dict[str, Opener] = {}

#: Suffixes of what xarray opens by itself, and the engines of which it needs one, by the extra that brings one.
HDF5, GRIB = (".nc", ".nc4", ".cdf", ".h5", ".hdf5"), (".grib", ".grib2", ".grb", ".grb2")
ENGINES = {HDF5: ("dgmm[netcdf]", ("h5netcdf", "netCDF4")), GRIB: ("cfgrib", ("cfgrib", "gribberish"))}
#: Of text, which has no chunks, and of NumPy's own files.
TEXT, NUMPY = (".csv", ".tsv", ".txt", ".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zst"), ".npy"
#: Words in the names of options by which secrets are given.
SECRET = ("secret", "password", "passwd", "token", "credential", "account_key", "api_key", "access_key", "signature")


def register_opener(mark: str, opener: Opener) -> None:
    """Have paths and URLs of one kind opened by a function.

    Parameters
    ----------
    mark : str
        A scheme such as ``icechunk://``, or a suffix such as ``.fits``.
    opener : callable
        Takes the path or URL, and returns anything else that `open_samples` takes; raises `InputError` if it cannot.
    """
    OPENERS[mark] = opener


def opener_of(place: str) -> Opener | None:
    """Who has been registered for a path or URL."""
    marks = (mark for mark in OPENERS if (place.startswith(mark) if mark.endswith("://") else place.endswith(mark)))
    return next((OPENERS[mark] for mark in marks), None)


def opened_file(place: str, how: Mapping[str, Any] | None, group: str | None, storage: Mapping[str, Any] | None) -> Any:
    """What lies at a path or URL, opened by whoever can; None for what may be a Zarr store.

    Parameters
    ----------
    place : str
    how : mapping, optional
        Keyword arguments of `xarray.open_dataset`, which then opens it, whatever it is.
    group : str, optional
        A group within it.
    storage : mapping, optional
        How an object store is reached.

    Raises
    ------
    InputError
        If it cannot be opened, and what to do.
    """
    if storage and how is not None:
        raise InputError(f"storage ({', '.join(storage)}) is for what xarray does not open: leave it out, or open")
    if how is not None or (place.endswith((*HDF5, *GRIB)) and not _is_folder(place) and opener_of(place) is None):
        return open_by_xarray(place, how or {}, group)
    known = opener_of(place) or (
        partial(open_parquet, storage=storage) if is_parquet(place) else open_npy if place.endswith(NUMPY) else None
    )
    if known is not None and group is not None:
        raise InputError(f"{place} has no groups: leave group ({group}) out")
    if known is not None:
        return known(place)
    if is_text(place):
        table = place.rpartition("/")[2]
        raise InputError(
            f"{place} is not a Zarr store but text, which has no chunks: write one of it (dgmm ingest {table} "
            f"{table.partition('.')[0]}.zarr), or hand in pandas.read_csv({table!r}) in Python"
        )
    return None


def is_text(place: str) -> bool:
    """Whether a path or URL is that of a table in text, which nobody reads piece by piece."""
    return place.endswith(TEXT) and not _is_folder(place)


def is_foreign(place: str) -> bool:
    """Whether what lies at a path or URL is opened by somebody else than Zarr."""
    known = place.endswith((*HDF5, *GRIB, NUMPY)) and not _is_folder(place)
    return known or opener_of(place) is not None or is_text(place) or is_parquet(place)


def _is_folder(place: str) -> bool:
    return "://" not in place and os.path.isdir(place)


def open_by_xarray(place: str, how: Mapping[str, Any], group: str | None) -> xr.Dataset:
    """A dataset of a file that xarray opens lazily, NetCDF, GRIB or whatever it has an engine for."""
    check_no_secret(how)
    for suffixes, (extra, engines) in ENGINES.items():
        if place.endswith(suffixes) and "engine" not in how and not any(map(importlib.util.find_spec, engines)):
            raise InputError(f"{place} needs {' or '.join(engines)}: pip install {extra}")
    options: dict[str, Any] = {**how} if group is None else {"group": group, **how}
    path: Any = local_path(place) if place.startswith("file://") else place
    try:
        with awaited(place):
            found = xr.open_dataset(path, **options)
    except FileNotFoundError:
        raise InputError(f"no such file: {place}") from None
    except Exception as error:  # whatever an engine says
        raise InputError(f"xarray cannot open {place}: {one_line(error)}") from None
    if place.endswith(HDF5) or how.get("engine") in ("h5netcdf", "netcdf4"):
        logger.info(
            "%s: HDF5 reads one thing at a time in a process: processes are faster than threads (scheduler), and a "
            "Zarr store than both (dgmm ingest)",
            place,
        )
    return found


def check_no_secret(how: Mapping[str, Any], within: str = "open") -> None:
    """Raise `InputError` where options hold what may be a secret: they are written into models and logs."""
    for name, value in how.items():
        where = f"{within}.{name}"
        url = isinstance(value, str) and without_secrets(value) != value
        if url or any(word in str(name).lower() for word in SECRET):
            raise InputError(
                f"{where} may be a secret, and is written into models and logs: give it in the environment, or hand "
                "in the dataset in Python"
            )
        if isinstance(value, Mapping):
            check_no_secret(value, where)


class NumpyFile(BackendArray):
    """An array in a file of NumPy's, as xarray reads it, lazily; in every process by itself."""

    def __init__(self, path: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """A region."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._region)

    def _region(self, key: tuple[Any, ...]) -> Any:
        return np.array(np.load(self.path, mmap_mode="r")[key])


def open_npy(place: str) -> xr.DataArray:
    """The array in a file of NumPy's, read region by region."""
    path = local_path(place)
    if path is None:
        raise InputError(f"{place} is a file of NumPy's, which are read from paths: copy it")
    try:
        array = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise InputError(f"no such file: {place}") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{place} is not a NumPy file: {one_line(error)}") from None
    dims = (name_of_rows(()), "feature") if array.ndim == 2 else tuple(f"dim_{i}" for i in range(array.ndim))
    lazy = indexing.LazilyIndexedArray(NumpyFile(os.path.abspath(path), array.shape, array.dtype))
    found = xr.DataArray(xr.Variable(dims, lazy))
    found.encoding["source"] = path
    return found


def node_of(tree: xr.DataTree, name: str, group: str | None) -> xr.Dataset:
    """The dataset of a node; `InputError` if there is no such node."""
    try:
        node: Any = tree if group is None else tree[group]
    except KeyError:
        node = None
    if not isinstance(node, xr.DataTree):
        raise InputError(f"no node {group!r} in the {name}: it has {children(tree) or 'none'}")
    if not node.data_vars:
        raise InputError(nothing_in(name, node))
    return node.to_dataset()


def nothing_in(name: str, tree: Any) -> str:
    """What to say of a group without arrays: which of its groups have some."""
    groups = children(tree)
    return f"{name} holds no variables" + (f", but groups that do, {groups}: name one (group)" if groups else "")


def children(tree: Any, most: int = 8) -> str:
    """The groups in which there are arrays, of a zarr group or a DataTree, in words; nothing where there are none."""
    found: list[str] = []
    try:
        if isinstance(tree, xr.DataTree):
            found = sorted(node.path.strip("/") for node in tree.subtree if node.data_vars and node is not tree)
        else:
            nodes = dict(tree.members(max_depth=None))
            found = sorted({path.rpartition("/")[0] for path, node in nodes.items() if hasattr(node, "shape")} - {""})
    except DgmmError:
        raise
    except Exception:  # it is only a remark
        return ""
    return ", ".join(found[:most]) + (", ..." if len(found) > most else "")
