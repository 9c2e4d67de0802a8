"""Groups of a store as datasets of xarray, whose coordinates are no more than is read."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import xarray as xr
import zarr

from dgmm.data.cf import PLACING, named
from dgmm.data.chunks import Stored
from dgmm.data.codecs import bounded, unreadable
from dgmm.data.files import nothing_in
from dgmm.data.stores import awaited, is_listed, members, obstore_errors, open_store
from dgmm.errors import InputError, is_of_obstore, one_line

#: Bytes, and chunks, of a coordinate that is read.
MOST_COORDINATE, MOST_CHUNKS = 2**30, 2**20


def check_coordinates(group: zarr.Group, name: str) -> None:
    """Raise `InputError` if coordinates, or their chunks where these are read in blocks, are more than is read."""
    with obstore_errors(name), awaited(name):
        try:
            found = members(group, name)
            along = {str(dim) for array in found.values() for dim in dims_of(array)}
            holders: list[Any] = [group, *found.values()]
            noted = set().union(*(named(holder.attrs, ("coordinates", *PLACING)) for holder in holders))
        except (InputError, OSError):
            raise
        except Exception as error:  # whatever damaged metadata lead to
            if type(error).__module__.startswith("obstore"):
                raise
            raise unreadable(name, "cannot be read", error) from None
    for each in sorted((along | noted) & found.keys()):
        array = found[each]
        # what is no index, and not of texts, is read in blocks
        whole = 1 if each not in along and array.dtype.kind in "biufmM" else math.prod(array.shape)
        size = array.dtype.itemsize * max(whole, math.prod(array.shards or array.chunks))
        if size > MOST_COORDINATE:
            raise InputError(
                f"the coordinate {each} in {name} says that it has {size} bytes, and more than {MOST_COORDINATE} are "
                "not read: hand in the dataset without it (drop_vars)"
            )
        cut = math.prod(-(-n // max(m, 1)) for n, m in zip(array.shape, array.shards or array.chunks, strict=True))
        if cut > MOST_CHUNKS:
            raise InputError(
                f"the coordinate {each} in {name} has {cut} chunks, and more than {MOST_CHUNKS} are not read"
            )
        if not all(array.chunks):
            raise InputError(f"the coordinate {each} in {name} has chunks of shape {array.chunks}: nothing is in them")
        # xarray reads them by itself, whatever lies in their place
        Stored.of(array, name, name).check_files((slice(None),) * array.ndim)


def dims_of(array: zarr.Array[Any]) -> Sequence[Any]:
    """Names of the dimensions of a stored array, in either format; none if it has none."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return names if isinstance(names, (list, tuple)) else ()


def open_dataset(path: str | os.PathLike[str]) -> xr.Dataset:
    """What lies at a path or URL as a lazy dataset; `InputError` if it is none, or cannot be made out."""
    group = open_store(path)
    if not isinstance(group, zarr.Group):
        raise InputError(f"{path} is a single array, not a dataset")
    with bounded():
        return dataset_of(os.fspath(path), group)


def dataset_of(name: str, group: zarr.Group) -> xr.Dataset:
    """The arrays of a group as a lazy dataset; `name` is that of the store."""
    # where nothing is listed one file says what there is
    consolidated = not is_listed(name)
    if consolidated and not has_list(group):
        raise InputError(
            f"{name} cannot be listed, as nothing can over https, and has no list of its arrays: have "
            "zarr.consolidate_metadata write one, or name a single array"
        )
    check_coordinates(group, name)
    with obstore_errors(name), awaited(name):
        try:
            found = xr.open_zarr(group.store, group=group.path or None, chunks=None, consolidated=consolidated)
        except OSError:
            raise
        except Exception as error:  # whatever attributes that are damaged lead to
            if is_of_obstore(error):
                raise
            raise InputError(f"xarray cannot read {name}: {one_line(error)}") from None
    if not found.data_vars:
        raise InputError(nothing_in(name, group))
    return found


def has_list(group: zarr.Group) -> bool:
    """Whether a group says which arrays are in it."""
    metadata: Any = group.metadata
    return getattr(metadata, "consolidated_metadata", None) is not None
