"""Where samples are and how they are read, and who does the work."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
)

from dgmm.fits import Count, Settings, as_list
from dgmm.types import Decoder, DeviceName, MissingChunks
from dgmm.yaml12 import parse


def _as_dims(value: Any) -> Any:
    """``depth`` as it is, ``depth,wavelength`` as a list."""
    listed = as_list(value)
    return listed[0] if isinstance(listed, list) and len(listed) == 1 else listed


def _as_options(value: Any) -> Any:
    """``{cores: 4}`` as it is written on a command line."""
    return parse(value) if isinstance(value, str) else value


Options = Annotated[
    Annotated[dict[str, Any], Field(min_length=1)] | None,
    BeforeValidator(_as_options, json_schema_input_type=dict[str, Any] | str | None),
]


class Interpolating(Settings):
    """What is done where features are not quite those of the model."""

    interpolate: bool = Field(
        False,
        description="Data at other numbers along the dimension of the features (levels) are interpolated to the "
        "model's, linearly, within the range that they have: else they are refused.",
    )


class Readable(Settings):
    """Where something lies and how it is opened."""

    path: str = Field(
        min_length=1,
        description="Path or URL of a Zarr store (format 2 or 3), an array or an xarray dataset; or of Parquet (a file "
        "or a folder), NetCDF or NumPy's .npy. PLACE|icechunk:@branch.NAME/path is one in a repository of Icechunk.",
    )
    variables: Annotated[list[str] | None, BeforeValidator(as_list)] = Field(
        None, description="Variables to use; several are the features. Default: all."
    )
    group: str | None = Field(
        None, min_length=1, description="Group within the store or file that holds the arrays. Default: the root."
    )
    open: Options = Field(
        None,
        description="Have xarray open the path, with these keyword arguments of xarray.open_dataset, such as "
        "{engine: h5netcdf, chunks: {time: 12}}: for files that are no Zarr store (NetCDF, GRIB).",
    )
    storage: Options = Field(
        None,
        description="How the object store of a URL is reached: anonymous (true for public data), region, endpoint. "
        "What is not said is taken from the environment, and keys always are.",
    )


class Data(Readable):
    """Where the samples are and which dimension holds the features."""

    feature_dim: Annotated[str | list[str] | None, BeforeValidator(_as_dims)] = Field(
        None,
        description="Dimension that holds the features: variables that have it are one for each place along it "
        "(TEMP@10), the others one each. Several where variables lie along dimensions of their own. Default: the last "
        "of a two-dimensional array.",
    )
    weights: str | None = Field(
        None,
        description="Variable that says how much each sample counts, along some or all of the dimensions of the "
        "samples; area, where none is called so, is the cells' area: what cell_measures name, or that of the bands "
        "around latitudes, where longitudes are evenly spaced. Only the ratios matter.",
    )
    labels: str | None = Field(
        None,
        description="Variable that says which class a sample is of, where that is known: a whole number from 0 up or a "
        "text; -1, an empty text or a missing value where it is not. Mixtures are fitted with one component, or as "
        "many, of each class, and scores label the classes; they need no labels themselves.",
    )
    decoder: Decoder = Field(
        "zarr", description="Who decodes chunks; zarrs (in Rust, `pip install dgmm[zarrs]`) is faster with small ones."
    )
    missing_chunks: MissingChunks = Field(
        "raise",
        description="A chunk that is not in the store is refused, or read as the array's fill value. Writers may leave "
        "out chunks that hold nothing else, as Zarr's own do unless told otherwise.",
    )


class Cluster(Settings):
    """Who does the work."""

    scheduler: str | None = Field(
        None,
        description="threads, processes (a LocalCluster), the address of a Dask scheduler, or the import path of a "
        "cluster class, such as dask_jobqueue.SLURMCluster. Default: threads.",
    )
    scheduler_options: Options = Field(
        None,
        description="Keyword arguments of a cluster class, such as {cores: 4}, in which the value projected is the "
        "memory that a worker needs; at an address those of distributed.Security, such as tls_ca_file.",
    )
    n_workers: Count | None = Field(
        None, description="Threads or processes. Default: one per core; of a cluster class, what it does by itself."
    )
    min_workers: Count | None = Field(
        None, description="Workers of a cluster class that there are at least: others come and go with the work."
    )
    max_workers: Count | None = Field(None, description="Workers of a cluster class that there are at most.")
    threads_per_worker: Count = Field(1, description="Threads of each process.")
    memory_limit: ByteSize | None = Field(None, description="Memory of each process, such as 2GB.")
    device: DeviceName = Field(
        "cpu",
        description="Where passes over all the data compute densities, their statistics, and scores. cpu: a compiled "
        "kernel on the cores. gpu: the first GPU of each process, through JAX (`pip install dgmm[gpu]`). jax: the "
        "device that JAX takes by itself.",
    )
    no_workers_timeout: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds for which a cluster may be without a worker: the queue before the first, and whenever all "
        "are taken away. Default: 60 at an address, 600 for a cluster class.",
    )
