"""The settings' schema as keyword arguments: typed, for editors and type checkers, and in the signatures at run time.

What stands between the marks is written by ``python tests/test_keywords.py``.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict, TypeVar, get_type_hints

from dgmm.config import Setting, settings_of
from dgmm.fits import Settings, validated
from dgmm.types import (
    Acceleration,
    Assignment,
    Criterion,
    Decoder,
    DeviceName,
    Effort,
    Filling,
    Missing,
    MissingChunks,
    OnCollapse,
    Part,
    Precision,
    PriorName,
    ScoredMissing,
    StartMethod,
)

# ---- generated ----


class ReadableOptions(TypedDict, total=False):
    """Of `dgmm.config.Readable`."""

    variables: Sequence[str] | None
    """Variables to use; several are the features. Default: all."""
    group: str | None
    """Group within the store or file that holds the arrays. Default: the root."""
    open: Mapping[str, Any] | None
    """Have xarray open the path, with these keyword arguments of xarray.open_dataset, such as {engine: h5netcdf,
    chunks: {time: 12}}: for files that are no Zarr store (NetCDF, GRIB)."""
    storage: Mapping[str, Any] | None
    """How the object store of a URL is reached: anonymous (true for public data), region, endpoint. What is not said is
    taken from the environment, and keys always are."""


class DataOptions(ReadableOptions, total=False):
    """Of `dgmm.config.Data`."""

    feature_dim: str | Sequence[str] | None
    """Dimension that holds the features: variables that have it are one for each place along it (TEMP@10), the others
    one each. Several where variables lie along dimensions of their own. Default: the last of a two-dimensional
    array."""
    decoder: Decoder
    """Who decodes chunks; zarrs (in Rust, `pip install dgmm[zarrs]`) is faster with small ones."""
    missing_chunks: MissingChunks
    """A chunk that is not in the store is refused, or read as the array's fill value. Writers may leave out chunks that
    hold nothing else, as Zarr's own do unless told otherwise."""


class TrainingOptions(TypedDict, total=False):
    """Of `dgmm.config.Training`."""

    tol: float | None
    """Stop when the estimated gain still to come is below this, in nats per sample. Default, and the least: 0.1 % of
    p/2 nats in total, where p is the number of parameters."""
    max_iter: int
    """Passes over all the data, at most."""
    reg_covar: float
    """Added to every covariance, as a share of the data's own covariance."""
    n_init: int | None
    """Starts of each candidate on the sample; the best one goes on. Default: 10 by themselves; 3 to 30 where a search
    goes on with them (search), the more the fewer rows, components and candidates there are."""
    init_params: StartMethod
    """What a start is made of: the clusters of k-means; the rows nearest to each seed of k-means++; random labels; the
    rows nearest to each of some random rows."""
    seed: int
    """Of the sample of rows and of the starts."""
    search: Effort
    """What is tried on the sample of rows. starts: the n_init starts, 20 passes over start_rows each, 3 of them to
    their tops. The others add a path through K, from one component up by splits, at most 15 passes a step (60 where K
    is asked for), and rounds of merges with splits elsewhere, until none gains, on every sample of ten rows or more for
    each parameter and on the last: 4 splits, two tops kept of each K, one component too far and back by merges, 8
    rounds of 49 moves of which 7 climb (standard); 8 splits, four tops, 4 too far, 10 rounds of 144 and 12, and all of
    it four times on other rows, as far as the sample has them (thorough); 3 splits and a round of 9 and 3, on the
    smallest sample alone, and no path where two of the starts come to the best top (quick). Where components are few,
    more splits. Moves begin on ten rows for each parameter, and three of those that climb go on where there are more.
    Where rounds have not ended on most of the data, as many moves as climb in a round are evaluated on all of it once
    the winner has arrived there, in one shared pass."""
    assignment: Assignment
    """soft: a sample counts for every component as probable as it is (EM). hard: for the most probable one alone
    (classification EM), until no sample changes its component. The log-likelihood is then that of the classification,
    and BIC is ICL; only starts are tried, as with fixed, and accelerate does nothing."""
    fixed: Sequence[Part]
    """What keeps the values that it begins with: weights, means, covariances. It is not counted among the parameters.
    Only starts are tried then: no path and no moves (search), no component on the worst rows (worst_rows,
    on_collapse)."""
    prior: PriorName
    """default: the conjugate prior of Fraley and Raftery (2007) with the settings of mclust, for VVV (full), EEE
    (tied), VVI (diag), VII (spherical), EEI and EII: it keeps components of few samples from collapsing, and counts for
    less the more samples there are. Where covariances have axes along the features it goes by their mean variance: give
    features of similar units. The log-likelihood and the criteria are those of the mixture that is most probable with
    it; steps of scoring (accelerate) are not taken. none: maximum likelihood."""
    noise: bool
    """A component of constant density in the box of the data beside the K, for rows that belong to none of them; it
    adds its weight and its volume to the parameters (Gaussian types, samples without labels). No component is put on
    the worst rows then (worst_rows, on_collapse)."""
    preprocess: Mapping[str, Any] | None
    """What is done to the features before the mixture is fitted, kept with the model and done again where it is used:
    log, features whose logarithms are taken; scale, standard (mean and standard deviation) or robust (median and
    interquartile range of the sample of rows); pca, the share of the variance that principal components keep, such as
    0.99, or their number; pca_of, whether of all features or of those of each variable. Such as {scale: standard, pca:
    0.99, log: [chl]} (scale:standard,pca:0.99,log:chl on the command line). Means are reported in the data's units,
    densities and criteria are of the features as they are fitted: compare them within one preprocessing. Default:
    nothing."""
    missing: Missing
    """What becomes of samples of which some values are missing (NaN). omit: they are left out and counted. raise: they
    are an error. marginalise: they are fitted by the values that they have, exactly where values are missing at random
    (Gaussian types, preprocess without pca); scores of such a model are of what is observed, too. No component is put
    on the worst rows then (worst_rows, on_collapse), and steps of scoring (accelerate) are not taken. Samples that have
    no value at all are left out in any case."""
    sample_rows: int
    """Rows of the sample that is kept in memory."""
    start_rows: int | None
    """Rows of the sample on which the starts are tried. Default: 10,000, or as many as have 40 values for each
    parameter of the largest candidate."""
    accelerate: Acceleration
    """Acceleration of EM: Anderson's method, and where it is slow and scores of the sample cost less than a pass over
    all the data, steps of scoring with them; or none (plain EM)."""
    compute_dtype: Precision
    """Precision of the E-step's matrix products; sums over slices are always float64. float32 is up to 1.8 times faster
    for many components; a log density errs by 1e-2 nats at most, their mean by some 1e-6. What is reported and compared
    in the end is float64."""
    worst_rows: int
    """Rows of lowest log density that a last pass collects; a group of them becomes a component in the place of the
    weakest if that raises the likelihood. 0: no such pass. Data that fit start_rows need none."""
    on_collapse: OnCollapse | None
    """A component that collapses is reported, or put on the worst rows (worst_rows) for another try. Default: report in
    training, reseed in selection."""
    holdout: float
    """Share of the rows, chosen by a hash, that no fit sees; they judge the fits."""
    holdout_by: Mapping[str, int] | None
    """Hold out whole blocks in the place of single rows, holdout being their share: the length of a block along
    dimensions of the samples, in steps of the grid, such as {month: 1} or {lat: 10, lon: 10} (lat:10,lon:10 on the
    command line). Along the others a block is as long as they are. Default: single rows."""
    stability: int
    """Refits of the result on other weights of the sample's rows, or of its blocks (holdout_by): how often each
    component is found again, and standard errors. 20 are a beginning. 0: none."""
    keep_path: bool
    """Keep the mixtures of the last climb over all the data with the model, one for each pass (Fit.path, which
    dgmm.plot.steps draws)."""


class ClusterOptions(TypedDict, total=False):
    """Of `dgmm.config.Cluster`."""

    scheduler_options: Mapping[str, Any] | None
    """Keyword arguments of a cluster class, such as {cores: 4}, in which the value projected is the memory that a
    worker needs; at an address those of distributed.Security, such as tls_ca_file."""
    n_workers: int | None
    """Threads or processes. Default: one per core; of a cluster class, what it does by itself."""
    min_workers: int | None
    """Workers of a cluster class that there are at least: others come and go with the work."""
    max_workers: int | None
    """Workers of a cluster class that there are at most."""
    threads_per_worker: int
    """Threads of each process."""
    memory_limit: int | str | None
    """Memory of each process, such as 2GB."""
    device: DeviceName
    """Where passes over all the data compute densities, their statistics, and scores. cpu: a compiled kernel on the
    cores. gpu: the first GPU of each process, through JAX (`pip install dgmm[gpu]`). jax: the device that JAX takes by
    itself."""
    no_workers_timeout: float | None
    """Seconds for which a cluster may be without a worker: the queue before the first, and whenever all are taken away.
    Default: 60 at an address, 600 for a cluster class."""


class SearchOptions(TypedDict, total=False):
    """Of `dgmm.config.Search`."""

    keep_all: bool
    """Run every candidate to convergence; drop none that cannot win."""
    criterion: Criterion | Literal["bic", "aic", "icl", "held_out"]
    """What to choose by; held_out needs training.holdout."""


class LabellingOptions(TypedDict, total=False):
    """Of `dgmm.config.Labelling`."""

    probabilities: bool
    """Write the probability of every component too."""
    interpolate: bool
    """Data at other numbers along the dimension of the features (levels) are interpolated to the model's, linearly,
    within the range that they have: else they are refused."""
    clusters: int | None
    """Label so many clusters of merged components in the place of components; the model must have its clusters with it
    (dgmm merge)."""
    missing: ScoredMissing | None
    """What becomes of samples of which some values are missing (NaN): they are left out (omit: label -1) or scored by
    the values that they have (marginalise, Gaussian types). Default: as the model was fitted. Samples that have no
    value at all are left out in any case."""


class VerifyingOptions(TypedDict, total=False):
    """Of `dgmm.config.Verifying`."""

    data: bool
    """Read every region and compare its checksum."""
    subset: str | None
    """Read one part of the regions only: 3/7 is the third of seven."""
    recompute: float
    """Share of the regions, such as 1% or 0.01, that are scored anew and compared."""
    seed: int
    """Which regions those are."""
    model: str | None
    """The model of the scores. Default: where they say it lies."""
    source: str | None
    """What was scored. Default: where they say it lies."""


class SamplingOptions(TypedDict, total=False):
    """Of `dgmm.config.Sampling`."""

    seed: int
    """Of the draws; the same seed gives the same samples."""
    labels: bool
    """Write the component that each sample was drawn from, too: label in the group OUT/labels."""
    dtype: Precision
    """Of what is written."""
    chunk_rows: int | None
    """Samples of a chunk, on which the draws depend. Default: as many as make a million values, at most 131,072."""


class MergingOptions(TypedDict, total=False):
    """Of `dgmm.config.Merging`."""

    sample_rows: int
    """Rows by which components are merged, drawn at random: all where there are no more."""
    seed: int
    """Of the sample of rows."""


class PredictingOptions(TypedDict, total=False):
    """Of `dgmm.config.Predicting`."""

    interpolate: bool
    """Data at other numbers along the dimension of the features (levels) are interpolated to the model's, linearly,
    within the range that they have: else they are refused."""
    given: Sequence[str] | None
    """Features that are known. Default: all others."""
    impute: Filling | None
    """In the place of predictions (of, given, variance), all features with what is missing (NaN) filled in, given what
    is there, which stays as it is: mean, what the mixture expects; draw, one draw from it, the same for every sample
    wherever its chunk ends (Gaussian types). Samples that have no value at all get none."""
    seed: int
    """Of the draws (impute)."""
    variance: bool
    """Write conditional variances too, as NAME_variance."""
    dtype: Precision
    """Of what is written."""


class UpdatingOptions(TypedDict, total=False):
    """Of `dgmm.config.Updating`."""

    tol: float | None
    """Stop when the estimated gain still to come is below this, in nats per sample. Default, and the least: 0.1 % of
    p/2 nats in total, where p is the number of parameters."""
    max_iter: int
    """Passes over all the data, at most."""
    reg_covar: float
    """Added to every covariance, as a share of the data's own covariance."""
    forget: float
    """By how much less every sample counts that the model knows: 0.1 makes it nine tenths, and after two updates 0.81.
    0: all count the same, however often the model was updated."""


class IngestingOptions(TypedDict, total=False):
    """Of `dgmm.config.Ingesting`."""

    feature_dim: str | None
    """Dimension that will hold the features, which a chunk is to have all of. Default: none; of an array its last."""
    separator: str | None
    """What stands between the values of text. Default: a comma; a tab in .tsv."""
    together: bool
    """Write the columns of a table as one array, values, with their names along the dimension feature."""
    chunk_rows: int | None
    """Samples of a chunk. Default: as many as make a million values, at most 131,072."""


# ---- end ----


class SampleOptions(SamplingOptions, ClusterOptions):
    """Of `dgmm.sample`."""


class PredictOptions(PredictingOptions, DataOptions, ClusterOptions):
    """Of `dgmm.predict`."""


class IngestOptions(IngestingOptions, ReadableOptions):
    """Of `dgmm.ingest`."""


class MergeOptions(MergingOptions, DataOptions, ClusterOptions):
    """Of `dgmm.merge`."""


class UpdateOptions(UpdatingOptions, DataOptions, ClusterOptions):
    """Of `dgmm.update`."""


class GridOptions(SearchOptions, TrainingOptions):
    """Of a selection on any data."""


class TrainOptions(TrainingOptions, DataOptions, ClusterOptions):
    """Of `dgmm.train`."""


class SelectOptions(SearchOptions, TrainOptions):
    """Of `dgmm.select`."""


class ScoreOptions(LabellingOptions, DataOptions, ClusterOptions):
    """Of `dgmm.score`."""


class VerifyOptions(VerifyingOptions, ClusterOptions):
    """Of `dgmm.verify`."""


F = TypeVar("F", bound=Callable[..., object])


def takes(keywords: type, model: type[Settings]) -> Callable[[F], F]:
    """Decorator of a function with ``**options`` of these keywords: they come into its signature and documentation.

    Parameters
    ----------
    keywords : type
        A TypedDict.
    model : type
        Settings among which the keywords are, with their defaults and descriptions.
    """
    known = {setting.name: setting for setting in settings_of(model)}
    settings = [known[name] for name in keywords.__annotations__]

    def expanded(function: F) -> F:
        signature, hints, kind = inspect.signature(function), get_type_hints(keywords), inspect.Parameter.KEYWORD_ONLY
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        more = [
            inspect.Parameter(s.name, kind, default=s.schema.get("default"), annotation=hints[s.name]) for s in settings
        ]
        function.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        if function.__doc__:
            head, returns, tail = inspect.cleandoc(function.__doc__).partition("\n\nReturns\n")
            function.__doc__ = "\n".join([head, *map(_documented, settings)]) + returns + tail
        return function

    return expanded


def check_only(options: Mapping[str, Any], keywords: type) -> None:
    """Raise `InputError` that names the first of some keyword arguments that is none of a TypedDict's."""
    validated(Settings, {name: value for name, value in options.items() if name not in keywords.__annotations__})


def _documented(setting: Setting) -> str:
    """A setting as numpydoc has parameters."""
    chosen = f"{{{', '.join(map(repr, setting.choices))}}}" if setting.choices else "optional"
    default = f", default={setting.default}" if setting.default else ""
    description = textwrap.fill(setting.field.description or "", 110, initial_indent="    ", subsequent_indent="    ")
    return f"{setting.name} : {chosen}{default}\n{description}"
