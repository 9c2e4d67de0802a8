"""What is no Zarr store written as one, chunk by chunk: CSV, Parquet, NetCDF and NumPy's files."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec

from dgmm.data import check_names, is_text, local_path, name_of_rows, opened_file, shortened
from dgmm.errors import InputError, ReadError, one_line
from dgmm.sampling import CHUNK_ROWS, CHUNK_VALUES
from dgmm.store import UNSETTLED_DTYPE, Output, consolidate, writing
from dgmm.types import FloatArray

logger = logging.getLogger("dgmm")

FORMAT = "dgmm-data-1"
#: What the features of a table are called, and the array that holds all of them.
FEATURES, VALUES = "feature", "values"
#: What pandas says of text that is no table.
WRONG_TEXT = (pd.errors.EmptyDataError, pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError)
#: Chunks of text after which it is said how far the work is.
TOLD_EVERY = 16


@dataclass(frozen=True)
class Ingested:
    """What was written.

    Attributes
    ----------
    sizes : dict
        Length of every dimension.
    variables : tuple of str
    chunks : dict
        Length of a chunk along each dimension.
    """

    sizes: dict[str, int]
    variables: tuple[str, ...]
    chunks: dict[str, int]

    def __str__(self) -> str:
        sizes = ", ".join(f"{dim} {n}" for dim, n in self.sizes.items())
        chunks = ", ".join(f"{dim} {n}" for dim, n in self.chunks.items())
        return f"{shortened(self.variables)} ({sizes}) in chunks of {chunks}"


def ingest_into(
    source: str,
    output: Output,
    *,
    variables: Sequence[str] | None = None,
    feature_dim: str | None = None,
    group: str | None = None,
    open: Mapping[str, Any] | None = None,
    storage: Mapping[str, Any] | None = None,
    separator: str | None = None,
    together: bool = False,
    chunk_rows: int | None = None,
) -> Ingested:
    """Write what lies at a path or URL into an output that has been begun, and finish it.

    Memory holds a chunk at a time, or one of the source's where these are larger.

    Raises
    ------
    InputError
        If the source cannot be opened, or a column holds no numbers.
    ReadError
        If a part of it cannot be read.
    """
    # what has passed here once is opened by whoever opens it for a fit
    if is_text(source) and open is None:
        wrong = [name for name, value in (("group", group), ("feature_dim", feature_dim)) if value is not None]
        if wrong:
            raise InputError(f"{wrong[0]} is not for text: leave it out")
        found = _ingest_text(source, output, variables, separator, together, chunk_rows)
    else:
        if separator is not None:
            raise InputError("separator is for text (CSV): leave it out")
        opened = opened_file(source, open, group, storage)
        if not isinstance(opened, (xr.Dataset, xr.DataArray)):
            raise InputError(f"{source} is not CSV, Parquet, NetCDF or .npy: a Zarr store is read as it is")
        if isinstance(opened, xr.DataArray):
            if together:
                raise InputError(f"{source} is one array already: leave together out")
            opened = opened.to_dataset(name=VALUES)
            feature_dim = feature_dim or str(opened[VALUES].dims[-1])
        found = _ingest_dataset(source, opened, output, variables, feature_dim, together, chunk_rows)
    consolidate(output.store())
    output.finish()
    return found


# ---- what xarray reads ----------------------------------------------------------------------------------------------


def _ingest_dataset(
    source: str,
    dataset: xr.Dataset,
    output: Output,
    variables: Sequence[str] | None,
    feature_dim: str | None,
    together: bool,
    chunk_rows: int | None,
) -> Ingested:
    chosen = _chosen(source, dataset, variables)
    dataset = dataset[chosen]
    check_names(source, dataset.coords if together else dataset.variables)
    if feature_dim is not None and feature_dim not in dataset.dims:
        raise InputError(f"no dimension {feature_dim!r} in {source}: it has {', '.join(map(str, dataset.dims))}")
    sizes = {str(dim): int(n) for dim, n in dataset.sizes.items()}
    lengths = lengths_of(sizes, feature_dim, len(chosen) if together else 1, chunk_rows)
    # a piece that is read is some chunks that are written, and holds what is read at once of the source
    pieces = {dim: _pieces(dataset, dim, n) for dim, n in lengths.items()}
    cut = dataset.chunk(pieces)
    if together:
        if len(cut.dims) != 1:
            raise InputError(f"variables of {source} are no columns of a table: leave together out")
        cut = cut.to_dataarray(FEATURES).transpose(*cut.dims, FEATURES).chunk({FEATURES: -1}).to_dataset(name=VALUES)
        lengths[FEATURES] = sizes[FEATURES] = len(chosen)
    for each in cut.variables.values():
        each.encoding = {name: value for name, value in each.encoding.items() if name in ("units", "calendar")}
    encoding = {
        name: {"chunks": tuple(lengths[str(dim)] for dim in v.dims), "compressors": (_codec(),)}
        for name, v in cut.data_vars.items()
    }
    with dask.config.set(scheduler="synchronous"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=UNSETTLED_DTYPE)
        cut.assign_attrs(format=FORMAT, source=os.path.basename(source)).to_zarr(
            output.store(), mode="w-", zarr_format=3, consolidated=False, encoding=encoding, write_empty_chunks=True
        )
    return Ingested(sizes, tuple(map(str, cut.data_vars)), lengths)


def _chosen(source: str, dataset: xr.Dataset, variables: Sequence[str] | None) -> list[str]:
    known = [str(name) for name in dataset.data_vars]
    missing = [name for name in variables or () if name not in known]
    if missing:
        raise InputError(f"no variable {missing[0]!r} in {source}: it has {shortened(known)}")
    chosen = list(dict.fromkeys(variables or known))
    wrong = [f"{name} ({dataset[name].dtype})" for name in chosen if dataset[name].dtype.kind not in "fiu"]
    if wrong or not chosen:
        numeric = [name for name in known if dataset[name].dtype.kind in "fiu"]
        raise InputError(
            f"{source} has variables that are not numeric, {shortened(wrong)}: name those to write (variables), of "
            f"which there are {shortened(numeric) or 'none'}"
            if chosen
            else f"{source} holds no variables"
        )
    return chosen


def lengths_of(
    sizes: Mapping[str, int], feature_dim: str | None, columns: int, chunk_rows: int | None
) -> dict[str, int]:
    """Lengths of a chunk: all features, then as much of the last dimensions as makes a million values."""
    lengths = {} if feature_dim is None else {feature_dim: sizes[feature_dim]}
    room = max(1, min(CHUNK_ROWS, CHUNK_VALUES // max(columns * math.prod(lengths.values()), 1)))
    room = chunk_rows or room
    for dim in reversed([dim for dim in sizes if dim != feature_dim]):
        lengths[dim] = max(1, min(sizes[dim], room))
        room //= lengths[dim]
    return {dim: lengths[dim] for dim in sizes}


def _pieces(dataset: xr.Dataset, dim: str, length: int) -> int:
    """How much is read at once along a dimension: some chunks, and no less than one of the source's."""
    found = [v.encoding.get("preferred_chunks", {}).get(dim, 1) for v in dataset.variables.values()]
    return -(-max(int(np.max(n)) for n in found) // length) * length


def _codec() -> ZstdCodec:
    return ZstdCodec(level=1, checksum=True)


# ---- text -----------------------------------------------------------------------------------------------------------


def _ingest_text(
    source: str,
    output: Output,
    variables: Sequence[str] | None,
    separator: str | None,
    together: bool,
    chunk_rows: int | None,
) -> Ingested:
    path = local_path(source)
    if path is None:
        raise InputError(f"{source} is text, which is read from paths: copy it")
    sep = separator or ("\t" if path.partition(".")[2].startswith("tsv") else ",")
    with _explained(source):
        before = os.stat(path)
        header = [str(name) for name in pd.read_csv(path, sep=sep, nrows=0).columns]
    named = not all(map(_is_number, header))
    names = header if named else [str(i) for i in range(len(header))]
    missing = [name for name in variables or () if name not in names]
    if missing:
        raise InputError(f"no column {missing[0]!r} in {source}: it has {shortened(names)}")
    chosen = list(dict.fromkeys(variables or names))
    if not together:
        check_names(source, chosen)
    rows = chunk_rows or max(1, min(CHUNK_ROWS, CHUNK_VALUES // (len(chosen) if together else 1)))
    written = Columns(output, source, chosen, rows, together)
    for block in numbers(source, _tables(source, path, sep, named, names, chosen, rows), variables is not None):
        written.append(block)
    after = os.stat(path)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InputError(f"{source} was changed while it was read: run the same again when nobody writes to it")
    return written.done()


def _tables(
    source: str, path: str, sep: str, named: bool, names: Sequence[str], chosen: Sequence[str], rows: int
) -> Iterator[pd.DataFrame]:
    """So many rows of text at a time; all columns are read, as lines of too many are else cut without a word."""
    header = 0 if named else None
    with (
        _explained(source),
        pd.read_csv(
            path, sep=sep, header=header, names=names, chunksize=rows, index_col=False, low_memory=False
        ) as tables,
    ):
        while True:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)
                table = next(tables, None)
            if table is None:
                return
            yield table[list(chosen)]


def numbers(source: str, tables: Iterable[pd.DataFrame], asked: bool) -> Iterator[FloatArray]:
    """Blocks of a table as numbers, shape (n, d), what is missing as NaN; `asked` if somebody named the columns.

    Raises
    ------
    InputError
        If there is none in the first rows of a column that nobody asked for.
    ReadError
        If there is something else among them, with its row.
    """
    start = 0
    for table in tables:
        wrong = []
        columns = []
        for name, column in table.items():
            # truth values are no numbers, whatever pandas says
            values = pd.to_numeric(column.astype(str) if column.dtype == bool else column, errors="coerce")
            bad = np.flatnonzero(values.isna().to_numpy() & column.notna().to_numpy())
            if len(bad):
                wrong.append(f"{name} ({column.iloc[[bad[0]]].tolist()[0]!r} in row {start + int(bad[0])})")
            columns.append(values.to_numpy(dtype=float))
        if wrong and not start and not asked:
            raise InputError(
                f"{source} has columns that are not numeric, {shortened(wrong)}: name those to write (variables)"
            )
        if wrong:
            raise ReadError(f"{source} has what is no number, {shortened(wrong)}: mend it, or leave the column out")
        start += len(table)
        yield np.stack(columns, axis=1)


class Columns:
    """Rows appended to the arrays of a group: a column each, or one array of all."""

    def __init__(self, output: Output, source: str, names: Sequence[str], rows: int, together: bool) -> None:
        self.source, self.names, self.rows, self.together, self.n = source, list(names), rows, together, 0
        self.dim = name_of_rows(() if together else names)
        self.place = output.place.name
        store = output.store()
        attributes = {"format": FORMAT, "source": os.path.basename(source)}
        group = zarr.create_group(store, zarr_format=3, attributes=attributes)
        made: dict[str, Any] = {"dtype": np.float64, "fill_value": math.nan, "compressors": _codec()}
        d = len(names)
        self.arrays: list[Any] = (
            [group.create_array(VALUES, shape=(0, d), chunks=(rows, d), dimension_names=(self.dim, FEATURES), **made)]
            if together
            else [group.create_array(n, shape=(0,), chunks=(rows,), dimension_names=(self.dim,), **made) for n in names]
        )
        if together:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=UNSETTLED_DTYPE)
                coordinate = xr.Dataset(coords={FEATURES: (FEATURES, self.names)}, attrs=attributes)
                coordinate.to_zarr(store, mode="a", zarr_format=3, consolidated=False)

    def append(self, block: FloatArray) -> None:
        """Append rows: those of a chunk, fewer only at the end."""
        stop = self.n + len(block)
        with writing(self.place):
            for array, values in zip(self.arrays, [block] if self.together else block.T, strict=True):
                array.resize((stop, *array.shape[1:]))
                array[self.n : stop] = values
        self.n = stop
        if stop // self.rows % TOLD_EVERY == 0:
            logger.info("%s: %d rows", self.source, stop)

    def done(self) -> Ingested:
        """What there is in the end."""
        if not self.n:
            raise InputError("there are no rows below the header: nothing is written")
        more = {FEATURES: len(self.names)} if self.together else {}
        names = [VALUES] if self.together else self.names
        return Ingested({self.dim: self.n, **more}, tuple(names), {self.dim: min(self.rows, self.n), **more})


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Context in which text is read: says in one line what pandas and the system say in theirs."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"no such file: {source}") from None
    except (*WRONG_TEXT, OSError, EOFError) as error:
        raise InputError(f"{source} cannot be read as text: {one_line(error)}") from error
