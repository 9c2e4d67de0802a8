"""Bulk scoring: labels, probabilities and log densities on the grid of the input, written region by region."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec

from dgmm.blas import one_blas_thread
from dgmm.data import Grid, Samples
from dgmm.engine import Fold, Leaf, Workers
from dgmm.errors import DgmmError, InputError
from dgmm.estep import Plan, buffer_bytes, complete_rows, score
from dgmm.fits import Fit
from dgmm.mixture import Mixture
from dgmm.passes import refuse_infinite
from dgmm.rows import Rows
from dgmm.scoring.rows import scattered
from dgmm.store import UNSETTLED_DTYPE, Output, Writer, consolidate, digest
from dgmm.types import AnyArray, IntArray

logger = logging.getLogger("dgmm")

#: Written into all scores.
SCORES_FORMAT = "dgmm-scores-1"
#: The last one only if asked for.
VARIABLES = ("label", "probability", "log_density", "probabilities")


@dataclass(frozen=True)
class Scored:
    """What scoring says in a few numbers.

    Attributes
    ----------
    counts : ndarray of int, shape (K,)
        Samples with each label.
    n_missing : int
        Samples with a missing value.
    log_density : float
        Sum of the log densities: the total log-likelihood of the data.
    """

    counts: IntArray
    n_missing: int
    log_density: float

    def merge(self, other: Scored) -> Scored:
        """Of both."""
        return Scored(
            self.counts + other.counts, self.n_missing + other.n_missing, self.log_density + other.log_density
        )


@dataclass(frozen=True)
class ScoreSegment(Leaf[Scored]):
    """The leaf of scoring: each segment is written to the output as soon as it is scored.

    Attributes
    ----------
    name : str
        Of the source, for messages.
    features : tuple of str
    grid : Grid
    plan : Plan
        Of the one mixture.
    row_bytes : int
        Of one row as it is read.
    writer : Writer
    probabilities : bool
    """

    name: str
    features: tuple[str, ...]
    grid: Grid
    plan: Plan
    row_bytes: int
    writer: Writer
    probabilities: bool

    @classmethod
    def of(cls, mixture: Mixture, samples: Samples, writer: Writer, probabilities: bool) -> ScoreSegment:
        """The leaf for a mixture and samples."""
        with one_blas_thread:
            plan = mixture.density_plan()
        return cls(samples.name, samples.features, samples.grid, plan, samples.row_bytes, writer, probabilities)

    def __call__(self, segment: int, rows: Rows) -> Scored:
        """Score one segment, all its rows given, and write it."""
        values, scored = self.score(rows.x)
        region = self.grid.region(segment)
        if not np.isfinite(scored.log_density):
            refuse_infinite(self.name, self.features, self.grid, segment, rows.x)
            raise DgmmError(f"the log density of a sample in region {region} of {self.name} is not finite")
        if len(rows):  # there are none where it is only tried
            self.writer.check()
            shape = tuple(s.stop - s.start for s in region)
            for name, value in values.items():
                self._arrays[name][region] = value.reshape(shape + value.shape[1:])
        return scored

    @cached_property
    def _arrays(self) -> dict[str, zarr.Array[Any]]:
        names = [name for name in VARIABLES if name != "probabilities" or self.probabilities]
        # a chunk of nothing but missing samples is written too: what is not there was not scored
        return {name: self.writer.array(name).with_config({"write_empty_chunks": True}) for name in names}

    @property
    def lever(self) -> str:
        """Probabilities are most of what is written."""
        return "leave probabilities out" if self.probabilities else ""

    def working_bytes(self, n_rows: int) -> int:
        """Rows without those that are missing, and scores, as they are found and as they are written."""
        return buffer_bytes(self.plan) + n_rows * (self.row_bytes + 48 + 20 * self.plan.n_rows * self.probabilities)

    def result_bytes(self, n_rows: int) -> int:
        """A few numbers."""
        return 8 * self.plan.n_rows + 64

    def score(self, x: AnyArray) -> tuple[dict[str, AnyArray], Scored]:
        """Variables of the output for the rows of ``x`` (n, d), and what they come to."""
        n, k = len(x), self.plan.n_rows
        present = complete_rows(x)
        scores = score(x if present is None else x[present], self.plan, probabilities=self.probabilities)
        counts = np.bincount(scores.label, minlength=k).astype(np.int64)
        scored = Scored(counts, n - len(scores.label), float(scores.log_density.sum()))
        columns: list[tuple[str, AnyArray, AnyArray]] = [
            ("label", scores.label, np.array(-1, dtype=label_dtype(k))),
            ("probability", scores.probability, np.array(np.nan, dtype=np.float32)),
            ("log_density", scores.log_density, np.array(np.nan)),
        ]
        if self.probabilities:
            columns.append(("probabilities", scores.probabilities, np.array(np.nan, dtype=np.float32)))
        values = {name: scattered(column, present, missing) for name, column, missing in columns}
        return values, scored


def label_dtype(n_components: int) -> type[np.signedinteger]:
    """The smallest integer type that holds all labels and -1."""
    for dtype in (np.int8, np.int16, np.int32):
        if n_components - 1 <= np.iinfo(dtype).max:
            return dtype
    return np.int64


def score_samples(
    model: Fit,
    samples: Samples,
    output: Output,
    workers: Workers,
    *,
    probabilities: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Scored:
    """Score all samples into an output that has been begun, and finish it."""
    samples = samples.like(model.features, model.layout)
    taken = {*VARIABLES} & {*map(str, samples.coords.coords), *samples.dims}
    taken |= {"component"} & set(samples.dims)
    if taken:
        raise InputError(f"{samples.name} has a coordinate called {', '.join(sorted(taken))}, as scores do: rename it")
    leaf = ScoreSegment.of(model.mixture, samples, output.writer, probabilities)
    fold = Fold(samples, workers, keep=False)
    fold.check(leaf)
    began = time.perf_counter()
    store = output.store()
    create(store, samples, model, probabilities, dict(settings or {}))
    total = fold(leaf)
    write_coordinates(store, samples)
    consolidate(store)
    output.finish()
    seconds = time.perf_counter() - began
    logger.info(
        "scored %d samples (%d missing) in %.1f s, %.3g rows/s",
        samples.grid.size, total.n_missing, seconds, samples.grid.size / seconds,
    )  # fmt: skip
    return total


def create(store: Any, samples: Samples, model: Fit, probabilities: bool, settings: dict[str, Any]) -> None:
    """Create the empty arrays of the output in a store."""
    k = model.n_components
    group = zarr.create_group(store, zarr_format=3)
    group.attrs.update(
        {
            **{str(name): plain(value) for name, value in samples.coords.attrs.items()},
            "format": SCORES_FORMAT,
            "title": f"Scores of a {model.covariance_type} Gaussian mixture with {k} components",
            "source": samples.name,
            "n_components": k,
            "covariance_type": model.covariance_type,
            "model": digest(model.mixture),
            "settings": json.dumps(settings),
        }
    )
    grid, dims = samples.grid, samples.dims
    label = {
        "long_name": "most probable component",
        "flag_values": list(range(-1, k)),
        "flag_meanings": " ".join(["missing", *(f"component_{i}" for i in range(k))]),
    }
    columns: list[tuple[str, type[np.number[Any]], float, dict[str, Any]]] = [
        ("label", label_dtype(k), -1, label),
        ("probability", np.float32, np.nan, {"long_name": "probability of the most probable component"}),
        ("log_density", np.float64, np.nan, {"long_name": "logarithm of the density, in the data's units"}),
    ]
    if probabilities:
        columns.append(("probabilities", np.float32, np.nan, {"long_name": "probability of each component"}))
    for name, dtype, fill, attributes in columns:
        every = name == "probabilities"
        group.create_array(
            name,
            shape=(*grid.shape, k) if every else grid.shape,
            chunks=(*grid.segment, k) if every else grid.segment,
            dtype=dtype,
            fill_value=fill,
            compressors=ZstdCodec(level=1, checksum=True),
            dimension_names=(*dims, "component") if every else dims,
            attributes=attributes,
        )


def plain(value: Any) -> Any:
    """An attribute as JSON takes it."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def write_coordinates(store: Any, samples: Samples) -> None:
    """Add the coordinates of the input's grid to a store."""
    coords = samples.coords.drop_encoding()
    if not coords.variables:
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=UNSETTLED_DTYPE)
        attributes = xr.open_zarr(store, chunks=None, consolidated=False).attrs
        coords.assign_attrs(attributes).to_zarr(store, mode="a", zarr_format=3, consolidated=False)
