"""The one schema of settings: of the command line, the flows, the deployments and the README's table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    model_validator,
)
from pydantic.fields import FieldInfo

from dgmm.errors import InputError
from dgmm.fits import Climbing, Count, Numbers, One, Search, Settings, Training, as_list
from dgmm.types import Decoder, Filling, MissingChunks, Precision, Refit, Renewal, ScoredMissing
from dgmm.yaml12 import LONGEST, parse


@dataclass(frozen=True)
class Setting:
    """One setting of a model or of a part of it: what the command line, the signatures and the tables are made of.

    Attributes
    ----------
    path : str
        Its name in a settings file, with the names of the parts that it belongs to: ``training.seed``.
    field : pydantic.fields.FieldInfo
    schema : dict
        The same as JSON schema.
    """

    path: str
    field: FieldInfo
    schema: dict[str, Any]

    @property
    def name(self) -> str:
        """Its own name."""
        return self.path.rpartition(".")[2]

    @property
    def default(self) -> str:
        """Its default as it is written on the command line; nothing where there is none."""
        value = self.schema.get("default")
        return "" if value is None else ",".join(value) if isinstance(value, list) else str(value)

    @property
    def choices(self) -> list[str]:
        """What may be chosen from, if that is a list of names."""
        return _choices(self.schema)


def _choices(schema: dict[str, Any]) -> list[str]:
    parts = [schema.get("items", {}), *schema.get("anyOf", ())] if schema else []
    return [*schema.get("enum", ()), *(name for part in parts for name in _choices(part))]


def settings_of(model: type[Settings], within: str = "") -> Iterator[Setting]:
    """Every setting of a model and of its parts."""
    schemas = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Settings):
            yield from settings_of(kind, f"{within}{name}.")
        else:
            yield Setting(within + name, field, schemas[name])


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a settings file in YAML 1.2."""
    try:
        with open(path, encoding="utf-8") as file:
            content = parse(file.read(LONGEST + 1))
    except FileNotFoundError:
        raise InputError(f"no such settings file: {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings: expected 'name: value' lines")
    return content


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
    no_workers_timeout: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds for which a cluster may be without a worker: the queue before the first, and whenever all "
        "are taken away. Default: 60 at an address, 600 for a cluster class.",
    )


class Job(Settings):
    """What every job says: from where, to where, and by whom. Parts that stand beside it come after it."""

    data: Data
    out: str = Field(min_length=1, description="Where to write.")
    cluster: Cluster = Cluster()
    overwrite: bool = Field(False, description="Replace what exists.")


class Fitting(Job):
    """A job that fits."""

    training: Training = Training()
    keep_journal: bool = Field(
        False,
        description="Keep the journal of passes beside what was written (OUT.journal), which lets a fit that was "
        "interrupted go on, once it has ended, too.",
    )


class Train(One, Fitting):
    """Fit one mixture."""

    out: str = Field(min_length=1, description="Model to write, a Zarr group.")
    start: str | None = Field(
        None,
        min_length=1,
        description="Model to begin with, of the same covariance type, in the place of the starts that n_init makes; "
        "what is fixed keeps its values. Its number of components is that of the fit.",
    )

    @model_validator(mode="after")
    def _check_number(self) -> Train:
        if self.start is not None and self.data.labels is not None:
            raise ValueError("start: samples with labels (data.labels) begin with what is known of them: leave it out")
        if self.n_components is None and self.data.labels is None and self.start is None:
            raise ValueError("n_components: give the number of components, or labels of samples (data.labels)")
        return self


def _without_labels(data: Data) -> Data:
    if data.labels is not None:
        raise ValueError("classes of new data are those of the model: leave labels out, and dgmm train makes another")
    return data


class Updating(Climbing):
    """How a mixture goes on with new samples."""

    forget: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="By how much less every sample counts that the model knows: 0.1 makes it nine tenths, and after "
        "two updates 0.81. 0: all count the same, however often the model was updated.",
    )


class Update(Updating, Job):
    """Go on with new samples, without those that a mixture was fitted to."""

    model: str = Field(min_length=1, description="Fitted model, a Zarr group or its JSON form.")
    data: Annotated[Data, AfterValidator(_without_labels)]
    out: str = Field(min_length=1, description="Model to write, a Zarr group.")


class Select(Search, Fitting):
    """Choose the number of components and the covariance type."""

    out: str = Field(min_length=1, description="Folder to write to: model.zarr, the table of candidates.")


class Scoring(Settings):
    """What is written of every sample."""

    probabilities: bool = Field(False, description="Write the probability of every component too.")


class Labelling(Interpolating, Scoring):
    """What is written of every sample, and what the labels are."""

    clusters: Count | None = Field(
        None,
        description="Label so many clusters of merged components in the place of components; the model must have its "
        "clusters with it (dgmm merge).",
    )
    missing: ScoredMissing | None = Field(
        None,
        description="What becomes of samples of which some values are missing (NaN): they are left out (omit: label -1)"
        " or scored by the values that they have (marginalise, Gaussian types). Default: as the model was fitted. "
        "Samples that have no value at all are left out in any case.",
    )


class Score(Labelling, Job):
    """Label every sample with a fitted mixture."""

    model: str = Field(description="Fitted model, a Zarr group or its JSON form.")
    out: str = Field(min_length=1, description="Scores to write, a Zarr group on the grid of the input.")
    extend: bool = Field(
        False,
        description="Scores that are there are brought up to date: of chunks of the data that are as they were, those "
        "by the same model are kept, and what was appended or has changed is scored. Where nothing tells, or by "
        "another model, all of it is.",
    )
    append: bool = Field(
        False,
        description="As extend, and refused where there is more to do than score what has been appended along one "
        "dimension: where scored data have changed or are gone, nothing tells, or the model is another.",
    )


def _as_number(value: Any) -> Any:
    """``1e9`` as a whole number."""
    try:
        return int(number) if isinstance(value, str) and (number := float(value)).is_integer() else value
    except ValueError:
        return value


class Sampling(Settings):
    """What is drawn from a mixture."""

    rows: Annotated[
        int, Field(ge=1, lt=2**53), BeforeValidator(_as_number, json_schema_input_type=int | float | str)
    ] = Field(description="How many samples to draw, such as 1e9.")
    seed: int = Field(0, ge=0, lt=2**63, description="Of the draws; the same seed gives the same samples.")
    labels: bool = Field(
        False, description="Write the component that each sample was drawn from, too: label in the group OUT/labels."
    )
    dtype: Precision = Field("float64", description="Of what is written.")
    chunk_rows: Count | None = Field(
        None,
        description="Samples of a chunk, on which the draws depend. Default: as many as make a million values, at "
        "most 131,072.",
    )


class Sample(Sampling):
    """Draw samples from a fitted mixture."""

    model: str = Field(min_length=1, description="Fitted model, a Zarr group or its JSON form.")
    out: str = Field(min_length=1, description="Samples to write, a Zarr group.")
    cluster: Cluster = Cluster()
    overwrite: bool = Field(False, description="Replace what exists.")


def as_share(value: Any) -> Any:
    """A share that may be written in percent."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip()[:-1]) / 100
        except ValueError:
            return value
    return value


def _as_names(value: Any) -> Any:
    """``a,b,c`` as a list of names; numbers of features as theirs."""
    value = as_list(value)
    return [str(part) if type(part) is int else part for part in value] if isinstance(value, (list, tuple)) else value


Names = Annotated[list[str], Field(min_length=1), BeforeValidator(_as_names)]


class Predicting(Interpolating):
    """What is predicted of every sample."""

    of: Names | None = Field(None, description="Features to predict, by name or number.")
    given: Names | None = Field(None, description="Features that are known. Default: all others.")
    impute: Filling | None = Field(
        None,
        description="In the place of predictions (of, given, variance), all features with what is missing (NaN) filled "
        "in, given what is there, which stays as it is: mean, what the mixture expects; draw, one draw from it, "
        "the same for every sample wherever its chunk ends (Gaussian types). Samples that have no value at all get "
        "none.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Of the draws (impute).")
    variance: bool = Field(False, description="Write conditional variances too, as NAME_variance.")
    dtype: Precision = Field("float64", description="Of what is written.")

    @model_validator(mode="after")
    def _check_wanted(self) -> Self:
        if (self.of is None) == (self.impute is None):
            raise ValueError("of: name the features to predict, or fill in what is missing of all (impute)")
        if self.impute is not None and (self.given is not None or self.variance):
            raise ValueError("impute: what is there is given, and no variance is written: leave given, variance out")
        return self


class Predict(Predicting, Job):
    """Predict some features of every sample from others."""

    model: str = Field(min_length=1, description="Fitted model, a Zarr group or its JSON form.")
    out: str = Field(min_length=1, description="Predictions to write, a Zarr group on the grid of the input.")


class Merging(Settings):
    """By which rows components are merged."""

    sample_rows: Count = Field(
        100_000, description="Rows by which components are merged, drawn at random: all where there are no more."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Of the sample of rows.")


class Merge(Merging):
    """Merge the components of a fitted mixture into clusters."""

    model: str = Field(min_length=1, description="Fitted model, a Zarr group or its JSON form.")
    data: Data
    out: str | None = Field(
        None, min_length=1, description="Model to write, with its clusters. Default: they are shown and not kept."
    )
    cluster: Cluster = Cluster()
    overwrite: bool = Field(False, description="Replace what exists.")


class Ingesting(Settings):
    """How a store is written of what is none."""

    feature_dim: str | None = Field(
        None,
        description="Dimension that will hold the features, which a chunk is to have all of. Default: none; of an "
        "array its last.",
    )
    separator: str | None = Field(
        None, min_length=1, description="What stands between the values of text. Default: a comma; a tab in .tsv."
    )
    together: bool = Field(
        False,
        description="Write the columns of a table as one array, values, with their names along the dimension feature.",
    )
    chunk_rows: Count | None = Field(
        None, description="Samples of a chunk. Default: as many as make a million values, at most 131,072."
    )


class Ingest(Ingesting, Readable):
    """Write what is no Zarr store as one."""

    path: str = Field(min_length=1, description="Path of CSV (text), or path or URL of Parquet, NetCDF or .npy.")
    out: str = Field(min_length=1, description="Store to write, a Zarr group.")
    overwrite: bool = Field(False, description="Replace what exists.")


class Verifying(Settings):
    """How closely scores are looked at."""

    data: bool = Field(False, description="Read every region and compare its checksum.")
    subset: str | None = Field(
        None,
        pattern=r"^\d{1,9}/\d{1,9}$",
        description="Read one part of the regions only: 3/7 is the third of seven.",
    )
    recompute: Annotated[float, Field(ge=0, le=1), BeforeValidator(as_share, json_schema_input_type=float | str)] = (
        Field(0.0, description="Share of the regions, such as 1% or 0.01, that are scored anew and compared.")
    )
    seed: int = Field(0, ge=0, description="Which regions those are.")
    model: str | None = Field(None, description="The model of the scores. Default: where they say it lies.")
    source: str | None = Field(None, description="What was scored. Default: where they say it lies.")


class Verify(Verifying):
    """Say whether scores or a model are what was written."""

    path: str = Field(min_length=1, description="Scores or a model.")
    cluster: Cluster = Cluster()


class Watch(Settings):
    """Say whether data are still like those that a model was fitted to."""

    model: str = Field(min_length=1, description="Fitted model; one in a registry has its baseline with it.")
    data: Data
    reference: str | None = Field(
        None, description="What the model was fitted to, read for a baseline. Default: the baseline in the registry."
    )
    threshold: float = Field(
        3.0,
        gt=0,
        allow_inf_nan=False,
        description="How far a figure may move, in standard deviations between blocks of the training data: mean log "
        "density, shares of the classes, of samples with missing values, and of those less likely than all but 1 % of "
        "the training data.",
    )
    cluster: Cluster = Cluster()


class Pipeline(Scoring, Search, Fitting):
    """The whole job: select, score, report."""

    out: str = Field(min_length=1, description="Folder for everything that is written.")
    example: str | None = Field(None, description="Bundled data set to write to data.path first.")
    overwrite: bool = Field(False, description="Replace what exists instead of going on from it.")


class Acceptance(Settings):
    """When a new version of a model takes the place of the champion."""

    max_loss: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="How much less likely rows that were held out of the new data may be by a new version than by the "
        "champion: nats per sample, beyond the standard error of the difference over blocks.",
    )
    min_share: float = Field(
        0.01, ge=0, le=1, description="Classes of the champion with this share or more must be found again."
    )
    min_overlap: float = Field(
        0.7,
        ge=0,
        le=1,
        description="A class is found again where it overlaps as much with one of the new version (Bhattacharyya's "
        "coefficient: 1 for the same, 0.88 for a shift by one standard deviation, 0.61 by two).",
    )


class Refresh(Scoring, Search, Fitting):
    """What is done every night: look at the new data, renew the model where that is asked for, score what is new."""

    data: Annotated[Data, AfterValidator(_without_labels)]
    registry: str = Field(min_length=1, description="Registry of the model: models/NAME.")
    out: str = Field(min_length=1, description="Scores to keep up to date, a Zarr group on the grid of the data.")
    n_components: Numbers = Field(
        "1:",
        validate_default=True,
        description="Numbers of components to try where a model is looked for (how: search, and the first one): a "
        "list, a range such as 1:12, or an open one: 1: goes on until more components bring no better criterion.",
    )
    refit: Refit = Field(
        "drifted",
        description="When the model is renewed: never, where the new data have drifted, or always when there are any.",
    )
    how: Renewal = Field(
        "update",
        description="How the model is renewed: EM on all the data from the champion on (update), or a whole selection "
        "(search). Where there is no champion yet one is looked for.",
    )
    threshold: float = Field(
        3.0,
        gt=0,
        allow_inf_nan=False,
        description="How far a figure of the new data may move, in standard deviations between blocks of the training "
        "data, before they count as drifted.",
    )
    acceptance: Acceptance = Acceptance()
    accept_changes: bool = Field(
        False,
        description="Take data for what they are where their structure has changed, or rows are gone, since the last "
        "night.",
    )
