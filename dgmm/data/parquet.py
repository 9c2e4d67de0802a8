"""Parquet: a file or a folder of files as a data set of lazy columns, read row group by row group."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from dgmm.data.frames import check_distinct, name_of_rows
from dgmm.data.paths import METADATA
from dgmm.data.ranges import Ranges, changed
from dgmm.data.retries import again, listed
from dgmm.data.stores import awaited, is_listed, local_path, object_at, obstore_errors
from dgmm.errors import NO_ANSWER, DgmmError, InputError, ReadError, is_of_obstore, one_line
from dgmm.types import AnyArray

#: Suffixes of the files.
SUFFIXES = (".parquet", ".pq")
#: What files in a folder begin with that hold something else, of Spark and of others.
HIDDEN = ("_", ".")


@dataclass(frozen=True)
class Table:
    """Where the rows of some files of the same columns are.

    Attributes
    ----------
    name : str
        Path or URL, for messages.
    files : tuple of str
        Paths or URLs, in the order of their rows.
    groups : tuple of tuple of int
        Rows of each row group of each file, as their footers say.
    tags : tuple of str
        What told each file from a later one of the same name when it was opened: size and time, or size and tag.
    storage : mapping or None
        How an object store is reached.
    """

    name: str
    files: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    tags: tuple[str, ...]
    storage: Mapping[str, Any] | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return sum(map(sum, self.groups))

    @property
    def largest(self) -> int:
        """Rows of the largest row group."""
        return max((n for groups in self.groups for n in groups), default=1)

    def read(self, column: str, start: int, stop: int) -> Iterator[AnyArray]:
        """The values of a column in some rows, from the row groups that these overlap.

        Raises
        ------
        ReadError
            If a file is not what it was, or cannot be decoded.
        """
        for file, a, b in self._overlapped(start, stop):
            bounds = np.cumsum((0, *self.groups[file]))
            wanted = np.flatnonzero((bounds[:-1] < b) & (bounds[1:] > a))
            below = int(bounds[wanted[0]])
            found = self._of_file(self.files[file], self.tags[file], column, wanted.tolist())
            yield found[a - below : b - below]

    def pieces(self, start: int, stop: int) -> Iterator[str]:
        """What rows are read from: files, what told them from others, and the rows of each."""
        for file, a, b in self._overlapped(start, stop):
            yield f"{self.files[file].removeprefix(self.name)} {self.tags[file]} {a}:{b}"

    def _overlapped(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The files that hold rows, by their numbers, and which of their own rows these are."""
        first = 0
        for file, groups in enumerate(self.groups):
            n = sum(groups)
            if max(start - first, 0) < min(stop - first, n):
                yield file, max(start - first, 0), min(stop - first, n)
            first += n

    def _of_file(self, path: str, tag: str, column: str, wanted: list[int]) -> AnyArray:
        try:
            with opened(path, tag, self.storage) as file:
                return decoded(file.read_row_groups(wanted, columns=[column], use_threads=False).column(column))
        except DgmmError:
            raise
        except Exception as error:  # whatever damaged files lead to
            if isinstance(error, MemoryError) or (is_of_obstore(error) and type(error).__name__ == NO_ANSWER):
                raise
            rows = "row group" if len(wanted) == 1 else "row groups"
            numbers = ", ".join(map(str, wanted[:8]))
            raise ReadError(f"{column} in {path} cannot be read ({rows} {numbers}): {one_line(error)}") from error

    def now(self) -> dict[str, str]:
        """The files that there are now, with what tells them from others of the same name."""
        return files_of(self.name, self.storage)


class Column(BackendArray):
    """A column as xarray reads it, lazily.

    Parameters
    ----------
    table : Table
    name : str
    dtype : numpy.dtype
    """

    def __init__(self, table: Table, name: str, dtype: np.dtype[Any]) -> None:
        self.table, self.name, self.dtype = table, name, dtype
        self.shape = (table.n_rows,)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Some rows."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._rows)

    def _rows(self, key: tuple[Any, ...]) -> Any:
        (rows,) = key
        if not isinstance(rows, slice):
            return self._between(int(rows), int(rows) + 1)[0]
        start, stop, step = rows.indices(self.shape[0])
        if step < 0:
            return self._between(start, stop, step)
        return self._between(start, stop)[::step]

    def _between(self, start: int, stop: int, step: int = 1) -> AnyArray:
        if step < 0:
            return self._between(stop + 1, start + 1)[::step]
        parts = [part.astype(self.dtype, copy=False) for part in self.table.read(self.name, start, stop)]
        return np.concatenate(parts) if parts else np.empty(0, dtype=self.dtype)


def decoded(column: Any) -> AnyArray:
    """A column of Arrow as an array; missing numbers and truth values as NaN, other values as they are."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_decimal(kind) or (pa.types.is_boolean(kind) and column.null_count):
        column = column.cast(pa.float64())
    return np.asarray(column.to_numpy())


def dtype_of(kind: Any) -> np.dtype[Any]:
    """The type of what `decoded` makes of a column: whole numbers may be missing, and are read as float64."""
    import pyarrow as pa

    if pa.types.is_floating(kind):
        return np.dtype(kind.to_pandas_dtype())
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return np.dtype(float)
    return np.dtype(object)


def is_parquet(place: str) -> bool:
    """Whether a path or URL has the name of such a file, or is a folder of some."""
    if place.rstrip("/").endswith(SUFFIXES):
        return True
    path = local_path(place) if "://" not in place or place.startswith("file://") else None
    return path is not None and os.path.isdir(path) and any(_files_in(path))


def open_parquet(place: str, storage: Mapping[str, Any] | None = None) -> xr.Dataset:
    """The columns of a file, or of all files of a folder by their names, as lazy variables in their order.

    Lengths are those in the footers, and a row group is a chunk. Folders within a folder are looked into; what the
    names of these say (``year=2020``) is no column.

    Raises
    ------
    InputError
        If there are no such files, one is damaged, or they have other columns.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise InputError(f"{place} needs pyarrow: pip install dgmm[parquet]") from None
    try:
        files = files_of(place, storage)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"no such file: {place}") from None
    if not files:
        raise InputError(f"no Parquet files in {place}: name a file, or a folder of some ({', '.join(SUFFIXES)})")
    groups, first, begin = [], None, next(iter(files))
    for path, tag in files.items():
        try:
            with awaited(place), obstore_errors(place), opened(path, tag, storage) as file:
                schema = file.schema_arrow.remove_metadata()
                groups.append(rows_of(file.metadata))
        except DgmmError:
            raise
        except Exception as error:  # whatever damaged files lead to
            raise InputError(f"{path} is not a Parquet file: {one_line(error)}") from None
        first = first or schema
        if [(f.name, f.type) for f in schema] != [(f.name, f.type) for f in first]:
            raise InputError(
                f"{path} has other columns than {begin} ({schema.names} and {first.names}, or other types): name a "
                "folder whose files are alike"
            )
    assert first is not None
    table = Table(place, tuple(files), tuple(groups), tuple(files.values()), storage)
    check_distinct(place, first.names)
    rows = name_of_rows(first.names)
    about = {"preferred_chunks": {rows: table.largest}}
    return xr.Dataset(
        {
            field.name: xr.Variable(
                (rows,), indexing.LazilyIndexedArray(Column(table, field.name, dtype_of(field.type))), encoding=about
            )
            for field in first
        }
    )


def rows_of(footer: Any) -> tuple[int, ...]:
    """Rows of each row group."""
    return tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))


def files_of(place: str, storage: Mapping[str, Any] | None) -> dict[str, str]:
    """The files at a path or URL in the order of their names, with size and time, or size and tag, of each."""
    path = local_path(place)
    if path is not None:
        return {file: _tag(file) for file in (sorted(_files_in(path)) if os.path.isdir(path) else [path])}
    import obstore

    with awaited(place), obstore_errors(place):
        objects, key = object_at(place, storage, read_only=True)
        base = place.rstrip("/").removesuffix(key)
        found = listed(objects, place, f"{key}/") if is_listed(place) else []
        of_rows = {str(o["path"]): o for o in found if _is_file(str(o["path"]), key)}
        if not of_rows:
            of_rows = {key: again(place, lambda: obstore.head(objects, key))}
    return {base + name: f"{o['size']} {o['e_tag'] or ''}".strip() for name, o in sorted(of_rows.items())}


def _tag(path: str) -> str:
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns}"


def _is_file(path: str, root: str) -> bool:
    """Whether a path below a root is that of a file of rows."""
    within = os.path.relpath(path, root).split(os.sep)
    return path.endswith(SUFFIXES) and not any(part.startswith(HIDDEN) for part in within)


def _files_in(folder: str) -> Iterator[str]:
    if any(os.path.lexists(os.path.join(folder, name)) for name in METADATA):  # a store of many files
        return
    for here, _, names in os.walk(folder):
        yield from (path for name in names if _is_file(path := os.path.join(here, name), folder))


@contextmanager
def opened(path: str, tag: str, storage: Mapping[str, Any] | None) -> Iterator[Any]:
    """A file as long as it is what it was; its footer is read once in a process.

    Raises
    ------
    ReadError
        If it is another.
    """
    import pyarrow.parquet as pq

    local = local_path(path)
    if local is not None and _tag(local) != tag:
        raise changed(path)
    file: Any = Ranges(path, tag, tuple((storage or {}).items())) if local is None else local
    with pq.ParquetFile(file, metadata=_footer(file if local is None else local, tag)) as opened_file:
        yield opened_file


@lru_cache(maxsize=64)
def _footer(file: Any, tag: str) -> Any:
    """The footer of a file."""
    import pyarrow.parquet as pq

    return pq.read_metadata(file)
