"""Write what is no Zarr store as one."""

from __future__ import annotations

import os
from typing import Unpack

import xarray as xr

from dgmm.config import Ingest, Ingesting, Readable
from dgmm.data import open_dataset
from dgmm.fits import by_model, validated
from dgmm.ingestion import ingest_into
from dgmm.keywords import IngestOptions, takes
from dgmm.store import place_at


@takes(IngestOptions, Ingest)
def ingest(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    **options: Unpack[IngestOptions],
) -> xr.Dataset:
    """Write CSV, Parquet, NetCDF or NumPy's ``.npy`` as a Zarr store in whole chunks, from which fits read fastest.

    Memory holds a chunk at a time, or one of the source's where these are larger. Missing values are NaN. What an
    interrupted call has written is removed.

    Parameters
    ----------
    source : path or URL
        Text (CSV) from a path; Parquet, NetCDF, ``.npy`` or what xarray has an engine for (``open``) from either.
    out : path or URL
        Gets a variable for each column or variable, or one array of all columns (``together``).
    overwrite : bool
        Replace what exists.

    Returns
    -------
    xarray.Dataset
        What was written, lazily.

    Raises
    ------
    InputError
        If the source cannot be opened, or a column holds no numbers.
    ReadError
        If a part of it cannot be read.
    OutputExistsError
        If something lies at the place to write to, and is not to be replaced.
    """
    readable, rest = by_model(options, Readable)
    how = validated(Ingesting, rest)
    with place_at(out).begin("data", overwrite=overwrite, inputs=[source]) as output:
        ingest_into(os.fspath(source), output, **readable, **how.model_dump())
    return open_dataset(out)
