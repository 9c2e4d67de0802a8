"""What tells whether samples are still those that a run has seen: cheap to find out, part by part."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.storage import LocalStore, MemoryStore, ObjectStore, WrapperStore

from dgmm.data.chunks import Stored
from dgmm.data.fields import Field
from dgmm.data.grid import Region
from dgmm.data.parquet import Column
from dgmm.data.persisted import is_lazy
from dgmm.data.retries import listed
from dgmm.data.samples import Samples
from dgmm.data.stores import awaited, is_listed
from dgmm.errors import InputError, ReadError, first_line, is_of_obstore
from dgmm.types import AnyArray

#: Names of files or objects below an array -> size, and when it was written or its tag.
Listing = dict[str, str]


@dataclass(frozen=True)
class Seen:
    """What samples were at one moment.

    Attributes
    ----------
    fingerprint : dict
        Of all of them; see `fingerprint`.
    regions : ndarray of uint64, shape (segments,), or None
        Of what each segment is read from, whatever else there is: 64 bits of a SHA-256 of how the arrays are stored
        and of the chunks that it touches. None where chunks cannot be told apart.
    """

    fingerprint: dict[str, str]
    regions: AnyArray | None


def fingerprint(samples: Samples) -> dict[str, str]:
    """What samples are, as texts by the names of what they say.

    Of stored arrays shape, chunks, type and attributes, and of every chunk its size and when it was written, or its tag
    at a URL; all that takes is one listing, however large the chunks are. A snapshot of Icechunk is enough by itself.
    Arrays in memory are told by their contents, those of Dask by their names, which are digests of how they are made.

    Parameters
    ----------
    samples : Samples
    """
    return _looked_at(samples, {})


def seen(samples: Samples) -> Seen:
    """The fingerprint of samples and of each of their segments, from one listing."""
    listings: dict[str, Listing | None] = {}
    found = _looked_at(samples, listings)
    return Seen(found, _regions(samples, listings))


def length_in(found: Mapping[str, str]) -> int | None:
    """How many samples there were along the first dimension, by a fingerprint; None if that cannot be told."""
    told = re.match(r"\((\d+),", found.get("shape", ""))
    return int(told[1]) if told else None


def _looked_at(samples: Samples, listings: dict[str, Listing | None]) -> dict[str, str]:
    """The fingerprint; what was listed of the features' arrays is left in a mapping by their names."""
    found = {
        "shape": f"{samples.grid.shape} ({', '.join(samples.dims)})",
        "segments": str(samples.grid.segment),
        "features": digest_of([repr(samples.features).encode(), repr(samples.order).encode()]),
    }
    try:
        with awaited(samples.name):
            for name, field in zip(samples.field_names, samples.fields, strict=True):
                listings[name] = _listing(field)
                found |= {f"{what} of {name}": value for what, value in _of_field(field, listings[name])}
            if samples.weights is not None:
                its = _of_field(samples.weights, _listing(samples.weights))
                found |= {f"{what} of the weights": value for what, value in its}
            if samples.labels is not None:
                its = _of_field(samples.labels.field, _listing(samples.labels.field))
                found |= {f"{what} of the labels": value for what, value in its}
    except Exception as error:
        if is_of_obstore(error):
            raise ReadError(f"the chunks of {samples.name} cannot be listed: {first_line(error)}") from error
        raise
    return found


def check_unchanged(samples: Samples, before: Mapping[str, str]) -> None:
    """Raise `InputError` if samples are not those any more that had this fingerprint; nobody writes to memory here."""
    now = before if samples.in_memory else fingerprint(samples)
    changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if changed:
        raise InputError(
            f"{samples.name} was changed while it was read ({', '.join(changed)}), and what came of it is of neither: "
            "run the same again when nobody writes to it"
        )


def digest_of(parts: Iterable[bytes]) -> str:
    """SHA-256 of parts of any length, in hexadecimal; where one ends counts."""
    found = hashlib.sha256()
    for part in parts:
        found.update(f"{len(part)} ".encode())
        found.update(part)
    return found.hexdigest()


def _regions(samples: Samples, listings: Mapping[str, Listing | None]) -> AnyArray | None:
    """Of what each segment is read from; None if that cannot be told of one of the arrays."""
    if samples.in_memory:
        contents = (_contents(samples.read(samples.grid.region(i))).encode() for i in range(len(samples.grid)))
        return np.array([_short([digest]) for digest in contents], dtype=np.uint64)
    held: list[Callable[[Region], Iterable[str]]] = []
    hows = []
    for name, field in zip(samples.field_names, samples.fields, strict=True):
        stored, listing, column = _stored_array(field), listings[name], _column(field)
        if column is not None:
            hows.append(f"{field.dims} {column.name} {column.dtype}".encode())
            held.append(partial(_rows_of, column))
        elif stored is not None and listing is not None and field.stored is not None:
            where = replace(field.stored, array=stored)
            hows.append(_how(where, stored, field))
            held.append(partial(_chunks_of, where, stored, listing))
        else:
            return None
    common = digest_of([repr((samples.dims, samples.features, samples.order)).encode(), *hows])
    found = np.empty(len(samples.grid), dtype=np.uint64)
    for i in range(len(samples.grid)):
        key = dict(zip(samples.dims, samples.grid.region(i), strict=True))
        parts = [common.encode()]
        for field, names_of in zip(samples.fields, held, strict=True):
            parts += [part.encode() for part in names_of(tuple(key.get(dim, slice(None)) for dim in field.dims))]
        found[i] = _short(parts)
    return found


def _rows_of(column: Column, along: Region) -> Iterator[str]:
    """Which rows of which files a region is read from."""
    return column.table.pieces(*along[0].indices(column.shape[0])[:2])


def _chunks_of(where: Stored, array: zarr.Array[Any], listing: Listing, along: Region) -> Iterator[str]:
    """Which chunks a region is read from."""
    chunks = (array.metadata.encode_chunk_key(chunk) for chunk in where.chunks(along))
    return (f"{name} {listing.get(name, 'is not there')}" for name in chunks)


def _column(field: Field) -> Column | None:
    """The column of Parquet that is read, if it is one."""
    found = _innermost(field.array._data) if isinstance(field.array, xr.Variable) else None
    return found if isinstance(found, Column) else None


def _how(stored: Stored, array: zarr.Array[Any], field: Field) -> bytes:
    """How an array is stored and read, but for its length."""
    metadata: Any = array.metadata.to_dict()
    kept = {name: value for name, value in metadata.items() if name not in ("shape", "consolidated_metadata")}
    return json.dumps([field.dims, stored.whole, kept], sort_keys=True, default=str).encode()


def _short(parts: Iterable[bytes]) -> int:
    """64 bits of `digest_of`."""
    return int(digest_of(parts)[:16], 16)


def _of_field(field: Field, listing: Listing | None) -> Iterator[tuple[str, str]]:
    """What is known of one array, as names and texts."""
    array = field.array
    yield "type", f"{array.dtype} {tuple(array.shape)} ({', '.join(field.dims)})"
    if field.chunks is not None:
        yield "chunks", str(field.chunks)
    data = array._data if isinstance(array, xr.Variable) else array
    stored = _stored_array(field)
    if isinstance(data, np.ndarray):
        yield "contents", _contents(data)
    elif is_lazy(data):
        yield "Dask graph", str(data.name)
    elif stored is not None:
        attributes = json.dumps(dict(stored.attrs), sort_keys=True, default=str)
        yield "attributes", digest_of([attributes.encode(), repr(stored.fill_value).encode()])
        snapshot = _snapshot(stored)
        yield (
            ("stored chunks", _stored_chunks(stored, listing)) if snapshot is None else ("Icechunk snapshot", snapshot)
        )
    elif (column := _column(field)) is not None:
        yield "files", _of_files(column.table.now())
    elif isinstance(array, xr.Variable) and os.path.exists(path := str(array.encoding.get("source", ""))):
        yield "file", _of_file(os.stat(path)) if os.path.isfile(path) else _of_files(_of_folder(path))


def _stored_array(field: Field) -> zarr.Array[Any] | None:
    """The array of Zarr that is read, also where it lies behind a lazy variable of xarray's; None if it is none."""
    found: Any = field.array if field.stored is None or field.stored.array is None else field.stored.array
    if isinstance(found, xr.Variable):
        found = getattr(_innermost(found._data), "_array", None)
    return found if isinstance(found, zarr.Array) else None


def _innermost(lazy: Any) -> Any:
    """What lies behind what xarray reads lazily."""
    while hasattr(lazy, "array"):  # each layer of laziness holds the next
        lazy = lazy.array
    return lazy


def _contents(array: AnyArray) -> str:
    """Of an array in memory, a piece at a time."""
    array = np.atleast_1d(array)
    rows = max(1, 2**24 // max(1, array.itemsize * array[:1].size))
    return digest_of(np.ascontiguousarray(array[a : a + rows]).tobytes() for a in range(0, len(array), rows))


def _snapshot(array: zarr.Array[Any]) -> str | None:
    """The snapshot in which an array of Icechunk is read, if it is one."""
    found = getattr(getattr(_store_of(array), "session", None), "snapshot_id", None)
    return None if found is None else str(found)


def _store_of(array: zarr.Array[Any]) -> Any:
    """The store of an array, without those that only look at what passes through them."""
    store: Any = array.store
    while isinstance(store, WrapperStore):
        store = store._store
    return store


def _listing(field: Field) -> Listing | None:
    """What is stored of an array, by its names in it; None where that cannot be listed."""
    array = _stored_array(field)
    if array is None:
        return None
    store = _store_of(array)
    if isinstance(store, LocalStore):
        return _of_folder(os.path.join(store.root, array.path))
    of_files = field.stored is None or is_listed(field.stored.place)
    if isinstance(store, ObjectStore) and of_files and _snapshot(array) is None:
        within = f"{array.path}/" if array.path else ""
        objects = listed(store.store, array.path or "the source", within or None)
        return {o["path"].removeprefix(within): f"{o['size']} {o['e_tag'] or o['last_modified'].isoformat()}"
                for o in objects}  # fmt: skip
    return None


def _stored_chunks(array: zarr.Array[Any], listing: Listing | None) -> str:
    """Of all that is stored of an array: names, sizes and when it was written."""
    if listing is not None:
        return _of_files(listing)
    if isinstance(_store_of(array), MemoryStore):
        return _contents(np.asarray(array[...]))
    return "unknown to this kind of store"


def _of_files(listing: Listing) -> str:
    return digest_of(sorted(f"{name} {known}".encode() for name, known in listing.items()))


def _of_folder(folder: str) -> Listing:
    """All files below a folder."""
    return {name: _of_file(status) for name, status in _files(folder)}


def _files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """All files below a folder by their paths in it, in any order; links are followed, as they are when it is read."""
    folders, known = [""], set()
    while folders:
        within = folders.pop()
        here = os.stat(os.path.join(folder, within))
        if (here.st_dev, here.st_ino) in known:  # a link that leads back
            continue
        known.add((here.st_dev, here.st_ino))
        with os.scandir(os.path.join(folder, within)) as entries:
            for entry in entries:
                name = os.path.join(within, entry.name)
                if entry.is_dir():
                    folders.append(name)
                else:
                    yield name, entry.stat()


def _of_file(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns}"
