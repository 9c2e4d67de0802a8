"""The one schema of settings: of the command line, the flows, the deployments and the README's table."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic.fields import FieldInfo

from dgmm.errors import InputError
from dgmm.families import DEFAULT, FAMILIES
from dgmm.types import Acceleration, Criterion, Decoder, MissingChunks, OnCollapse, Precision, StartMethod
from dgmm.yaml12 import LONGEST, parse


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=Settings)


def validated(model: type[M], values: dict[str, Any]) -> M:
    """Settings from plain values; `InputError` with one line for everything that is wrong."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = []
        for e in error.errors():
            place = ".".join(str(part) for part in e["loc"]) or model.__name__
            if e["type"] == "too_short" and not e["input"]:
                problems.append(f"{place} is empty: give at least {e['ctx']['min_length']}")
                continue
            message = "unknown setting" if e["type"] == "extra_forbidden" else e["msg"].removeprefix("Value error, ")
            said = e["type"] in ("missing", "extra_forbidden") or repr(e["input"]) in message
            given = "" if said else f" (not {e['input']!r})"
            problems.append(f"{place}: {message}{given}")
        raise InputError("; ".join(problems)) from None


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


def _as_list(value: Any) -> Any:
    """``a,b,c`` as a list of its parts."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _as_numbers(value: Any) -> Any:
    """``1:12`` as 1, 2, ..., 12 and ``2,4,8`` as those; what else holds numbers, and a single one, as lists."""
    if isinstance(value, str):
        return [number for part in _as_list(value) for number in _span(part)]
    value = _plain(value)
    if isinstance(value, Iterable) and not isinstance(value, (Mapping, bytes)):
        return list(value)
    return [value] if isinstance(value, (int, float)) else value


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def _span(text: str) -> list[Any]:
    """``1:12`` as its numbers; what is none is left to validation."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    return list(range(int(found[1]), int(found[2]) + 1)) if found else [text]


@dataclass(frozen=True)
class _Families:
    """The names that are registered when somebody asks, not when the schema was made."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": list(FAMILIES)}


def _known_family(value: Any) -> Any:
    if value not in list(FAMILIES):
        raise ValueError(f"unknown covariance type {value!r}: choose from {', '.join(FAMILIES)}")
    return value


CovarianceType = Annotated[
    str, Field(description="Structure of the covariances."), BeforeValidator(_known_family), _Families()
]


def _known_criterion(value: Any) -> Criterion:
    if value not in list(Criterion):
        raise ValueError(f"unknown criterion {value!r}: use {', '.join(Criterion)}")
    return Criterion(value)


CriterionName = Annotated[
    Criterion,
    BeforeValidator(_known_criterion),
    # in place of a reference to an enumeration, which forms show less well
    WithJsonSchema({"type": "string", "enum": [c.value for c in Criterion]}),
]


def _whole(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """What pydantic says of numbers, and what to do."""
    advice = "give whole numbers from 1 up"
    # True and False are no numbers
    if isinstance(value := _plain(value), bool):
        raise ValueError(f"expected a number: {advice}")
    try:
        return handler(value)
    except ValidationError as error:
        raise ValueError(f"{error.errors()[0]['msg']}: {advice}") from None


Count = Annotated[int, Field(ge=1), WrapValidator(_whole)]


class Data(Settings):
    """Where the samples are and which dimension holds the features."""

    path: str = Field(
        min_length=1, description="Path or URL of a Zarr store (format 2 or 3): an array or an xarray dataset."
    )
    variables: Annotated[list[str] | None, BeforeValidator(_as_list)] = Field(
        None, description="Variables to use; several are the features. Default: all."
    )
    feature_dim: str | None = Field(
        None, description="Dimension that holds the features. Default: the last of a two-dimensional array."
    )
    weights: str | None = Field(
        None,
        description="Variable that says how much each sample counts, such as its area; along some or all of the "
        "dimensions of the samples. Only the ratios matter.",
    )
    decoder: Decoder = Field(
        "zarr", description="Who decodes chunks; zarrs (in Rust, `pip install dgmm[zarrs]`) is faster with small ones."
    )
    missing_chunks: MissingChunks = Field(
        "raise",
        description="A chunk that is not in the store is refused, or read as the array's fill value. Writers may leave "
        "out chunks that hold nothing else, as Zarr's own do unless told otherwise.",
    )


class Training(Settings):
    """How mixtures are fitted."""

    tol: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Stop when the estimated gain still to come is below this, in nats per sample. Default, and the "
        "least: 0.1 % of p/2 nats in total, where p is the number of parameters.",
    )
    max_iter: Count = Field(1000, description="Passes over all the data, at most.")
    reg_covar: float = Field(
        1e-6,
        ge=0,
        allow_inf_nan=False,
        description="Added to every covariance, as a share of the data's own covariance.",
    )
    n_init: Count = Field(10, description="Starts of each candidate on the sample; the best one goes on.")
    init_params: StartMethod = Field(
        "kmeans",
        description="What a start is made of: the clusters of k-means; the rows nearest to each seed of k-means++; "
        "random labels; the rows nearest to each of some random rows.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Of the sample of rows and of the starts.")
    sample_rows: Count = Field(100_000, description="Rows of the sample that is kept in memory.")
    start_rows: Count = Field(10_000, description="Rows of the sample on which the starts are tried.")
    accelerate: Acceleration = Field("anderson", description="Acceleration of EM: Anderson's, or none (plain EM).")
    compute_dtype: Precision = Field(
        "float64",
        description="Precision of the E-step's matrix products; sums over slices are always float64. float32 is up to "
        "1.7 times faster for many components; a log density errs by 1e-2 nats at most, their mean by some 1e-6. What "
        "is reported and compared in the end is float64.",
    )
    worst_rows: int = Field(
        1000,
        ge=0,
        le=100_000,
        description="Rows of lowest log density that a last pass collects; a group of them becomes a component in the "
        "place of the weakest if that raises the likelihood. 0: no such pass. Data that fit start_rows need none.",
    )
    on_collapse: OnCollapse | None = Field(
        None,
        description="A component that collapses is reported, or put on the worst rows (worst_rows) for another try. "
        "Default: report in training, reseed in selection.",
    )
    holdout: float = Field(
        0.0, ge=0, le=0.5, description="Share of the rows, chosen by a hash, that no fit sees; they judge the fits."
    )


class Cluster(Settings):
    """Who does the work."""

    scheduler: str | None = Field(
        None,
        description="threads, processes (a LocalCluster) or the address of a Dask scheduler. Default: threads.",
    )
    n_workers: Count | None = Field(None, description="Threads or processes. Default: one per core.")
    threads_per_worker: Count = Field(1, description="Threads of each process.")
    memory_limit: ByteSize | None = Field(None, description="Memory of each process, such as 2GB.")


class Search(Settings):
    """What to choose among, and by what."""

    n_components: Annotated[list[Count], BeforeValidator(_as_numbers), Field(min_length=1)] = Field(
        description="Numbers of components to try: a list, or a range such as 1:12."
    )
    covariance_type: Annotated[list[CovarianceType], BeforeValidator(_as_list), Field(min_length=1)] = Field(
        list(DEFAULT), description="Covariance types to try."
    )
    keep_all: bool = Field(False, description="Run every candidate to convergence; drop none that cannot win.")
    criterion: CriterionName = Field(Criterion.BIC, description="What to choose by; held_out needs training.holdout.")


class One(Settings):
    """The mixture that is fitted."""

    n_components: Count = Field(description="Number of components K.")
    covariance_type: CovarianceType = "full"


class Job(Settings):
    """What every job says: from where, to where, and by whom. Parts that stand beside it come after it."""

    data: Data
    out: str = Field(min_length=1, description="Where to write.")
    cluster: Cluster = Cluster()
    overwrite: bool = Field(False, description="Replace what exists.")


class Fitting(Job):
    """A job that fits."""

    training: Training = Training()


class Train(One, Fitting):
    """Fit one mixture."""

    out: str = Field(min_length=1, description="Model to write, a Zarr group.")


class Select(Search, Fitting):
    """Choose the number of components and the covariance type."""

    out: str = Field(min_length=1, description="Folder to write to: model.zarr, the table of candidates.")


class Scoring(Settings):
    """What is written of every sample."""

    probabilities: bool = Field(False, description="Write the probability of every component too.")


class Score(Scoring, Job):
    """Label every sample with a fitted mixture."""

    model: str = Field(description="Fitted model, a Zarr group or its JSON form.")
    out: str = Field(min_length=1, description="Scores to write, a Zarr group on the grid of the input.")


class Pipeline(Scoring, Search, Fitting):
    """The whole job: select, score, report."""

    out: str = Field(min_length=1, description="Folder for everything that is written.")
    example: str | None = Field(None, description="Bundled data set to write to data.path first.")
    overwrite: bool = Field(False, description="Replace what exists instead of going on from it.")
