"""What each command is asked for: one job each."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_validator,
)

from dgmm.config.sources import Cluster, Data, Interpolating, Readable
from dgmm.fits import Climbing, Count, One, Search, Settings, Training, as_list
from dgmm.types import Filling, Precision, ScoredMissing


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


def without_labels(data: Data) -> Data:
    """Data to which nobody may have given labels."""
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
    data: Annotated[Data, AfterValidator(without_labels)]
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
