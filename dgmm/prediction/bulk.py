"""Predictions of all samples, written region by region on the grid of the input."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from dgmm.blas import one_blas_thread
from dgmm.data import OF_AXES, Grid, Layout, Samples, check_names, fingerprint, places_among, shortened
from dgmm.engine import Fold, Leaf, Projection, Workers, projected_bytes
from dgmm.errors import DgmmError, InputError
from dgmm.estep import Plan, buffer_bytes, complete_rows
from dgmm.fits import Fit
from dgmm.mixture import Regression
from dgmm.passes import filled_in, refuse_infinite, refuse_values
from dgmm.prediction.wanted import VARIANCE, Wanted, with_given
from dgmm.rows import Rows
from dgmm.scoring import attributes_of_source, check_coordinates, in_portions, scattered, write_coordinates
from dgmm.store import Output, Writer, consolidate, digest, writing
from dgmm.types import AnyArray, Sendable

logger = logging.getLogger("dgmm")

PREDICTIONS_FORMAT = "dgmm-predictions-1"


@dataclass(frozen=True)
class Predicted:
    """How many rows have a prediction, and how many have none because a given value is missing."""

    n: int
    n_missing: int

    def merge(self, other: Predicted) -> Predicted:
        """Of both."""
        return Predicted(self.n + other.n, self.n_missing + other.n_missing)

    @classmethod
    def in_attributes(cls, found: Mapping[str, Any]) -> Predicted:
        """As the attributes of complete predictions say it."""
        return cls(int(found["n_predicted"]), int(found["n_missing"]))


@dataclass(frozen=True)
class WritingSegment(Sendable, Leaf[Predicted]):
    """A leaf that writes each segment to the output as soon as it is known.

    Attributes
    ----------
    name : str
        Of the source, for messages.
    features : tuple of str
    grid : Grid
    columns : tuple of int
        The given features among those of the source.
    wanted : Wanted
    writer : Writer
    """

    exact: ClassVar[bool] = True

    name: str
    features: tuple[str, ...]
    grid: Grid
    columns: tuple[int, ...]
    wanted: Wanted
    writer: Writer

    def _write(self, segment: int, values: Mapping[str, AnyArray]) -> None:
        region = self.grid.region(segment)
        shape = tuple(s.stop - s.start for s in region)
        with writing(self.writer.place):
            self.writer.check()
            for name, value in values.items():
                self._arrays[name][region] = value.reshape(shape + value.shape[1:])

    @cached_property
    def _arrays(self) -> dict[str, zarr.Array[Any]]:
        # a chunk of nothing but missing samples is written, too
        return {name: self.writer.array(name).with_config({"write_empty_chunks": True}) for name in self.wanted.arrays}

    def result_bytes(self, n_rows: int) -> int:
        """Two numbers."""
        return 64


@dataclass(frozen=True)
class PredictSegment(WritingSegment):
    """The leaf of prediction.

    Attributes
    ----------
    regression : Regression
    """

    regression: Regression

    def __call__(self, segment: int, rows: Rows) -> Predicted:
        """Predict one segment, all its rows given, and write it."""
        x = rows.x[:, self.columns]
        present = complete_rows(x)
        with np.errstate(over="ignore", invalid="ignore"):
            found = self.regression(x if present is None else x[present])
            means, variances = (
                scattered(values, present, np.array(np.nan, dtype=self.wanted.dtype)) for values in found
            )
        n = len(found[0])
        if (np.isfinite(means) & np.isfinite(variances)).sum() < means.shape[1] * n:
            names = tuple(self.features[i] for i in self.columns)
            families = self.regression.plan.families
            refuse_values(families, self.name, names, self.grid, segment, replace(rows, x=x))
            where = f"a sample in region {self.grid.region(segment)} of {self.name}"
            raise DgmmError(f"{where} has no density, or its prediction is beyond {self.wanted.dtype}")
        if len(rows):  # there are none where it is only tried
            self._write(segment, self.wanted.by_name(means, variances))
        return Predicted(n, len(rows) - n)

    def working_bytes(self, n_rows: int) -> int:
        """Given values, means and variances, as they are found and as they are written; and a slice of all."""
        (k, m), g = self.regression.levels.shape, len(self.wanted.given)
        of_slice = 8 * self.regression.slice_rows * k * (3 * m + 2 * g)
        return buffer_bytes(self.regression.plan) + of_slice + n_rows * (16 * g + 32 * m + 8 * self.wanted.copied + 24)


@dataclass(frozen=True)
class ImputeSegment(WritingSegment):
    """The leaf that fills in what is missing of all features.

    Attributes
    ----------
    plan : Plan
        Of the mixture, marginal.
    """

    plan: Plan

    def __call__(self, segment: int, rows: Rows) -> Predicted:
        """Fill in one segment, all its rows given, and write it."""
        x = rows.x[:, self.columns]
        refuse_infinite(self.name, self.features, self.grid, segment, rows.x)
        numbers = self.grid.rows(self.grid.region(segment))[: len(x)]
        found = filled_in(x, self.plan, numbers, self.wanted.seed if self.wanted.impute == "draw" else None)
        if len(rows):
            values = found.astype(self.wanted.dtype, copy=False)
            self._write(segment, self.wanted.by_name(values, values))
        n_missing = int(np.isnan(x).all(axis=1).sum())
        return Predicted(len(rows) - n_missing, n_missing)

    def working_bytes(self, n_rows: int) -> int:
        """Values as they come, as they are completed and as they are written, what is missing, and draws."""
        fitted = 0 if self.plan.transform is None else 32 * len(self.columns)
        return buffer_bytes(self.plan) + n_rows * (48 * len(self.columns) + fitted + 32)


def leaf_of(
    model: Fit, samples: Samples, wanted: Wanted, writer: Writer
) -> tuple[Samples, PredictSegment | ImputeSegment]:
    """The samples as they are read, and what is asked of them."""
    if wanted.impute is not None:
        with one_blas_thread:
            plan = model.mixture.density_plan(marginal=True)
        ours, columns = with_given(samples, model, wanted)
        return ours, ImputeSegment(samples.name, ours.features, ours.grid, columns, wanted, writer, plan)
    with one_blas_thread:
        regression = model.mixture.regression(wanted.of, wanted.given or None)
    ours, columns = with_given(samples, model, wanted)
    return ours, PredictSegment(samples.name, ours.features, ours.grid, columns, wanted, writer, regression)


def predict_projection(model: Fit, samples: Samples, wanted: Wanted, output: Output) -> Projection:
    """What a worker needs to predict into an output."""

    def need(threads_per_worker: int, n_threads: int) -> int:
        ours, leaf = leaf_of(model, samples, wanted, output.writer)
        return projected_bytes(ours, [leaf], threads_per_worker, n_threads)

    return need


def predict_samples(
    model: Fit,
    samples: Samples,
    wanted: Wanted,
    output: Output,
    workers: Workers,
    *,
    settings: Mapping[str, Any] | None = None,
) -> Predicted:
    """Predict features of all samples into an output that has been begun, and finish it.

    Raises
    ------
    InputError
        If features of the source are not those that are given, or names of what is written come twice.
    DgmmError
        If the source was changed meanwhile.
    """
    samples, leaf = leaf_of(model, samples, wanted, output.writer)
    check_written(samples, wanted)
    before = None if samples.in_memory else fingerprint(samples)
    Fold(samples, workers, keep=False).check(leaf)
    check_coordinates(samples, workers)
    began, store = time.perf_counter(), output.store()
    create(store, samples, model, wanted, settings or {})
    found: Predicted = in_portions(samples, workers, leaf, range(len(samples.grid)))
    if before is not None and before != fingerprint(samples):
        raise DgmmError(f"{samples.name} was changed while it was read: run the same again when nobody writes to it")
    write_coordinates(store, with_labels(samples, wanted))
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    group.attrs.update({"n_predicted": found.n, "n_missing": found.n_missing})
    consolidate(store)
    output.finish()
    seconds = time.perf_counter() - began
    logger.info(
        "predicted %d samples (%d missing) in %.1f s, %.3g rows/s",
        found.n, found.n_missing, seconds, samples.grid.size / seconds,
    )  # fmt: skip
    return found


def check_written(samples: Samples, wanted: Wanted) -> None:
    """Refuse an output in which two things would have one name."""
    names = [
        *(held.name for held in wanted.held),
        *(f"{held.name}{VARIANCE}" for held in wanted.held if wanted.variance),
    ]
    names += {held.span.dim for held in wanted.held if held.span.dim is not None}
    twice = {name for name in names if names.count(name) > 1}
    twice |= {*names} & {*map(str, samples.coords.coords), *samples.dims}
    check_names("the model", names)
    check_names(samples.name, samples.coords.coords)
    if twice:
        raise InputError(f"{', '.join(sorted(twice))} would come twice among what is written: rename it in the source")


def create(store: Any, samples: Samples, model: Fit, wanted: Wanted, settings: Mapping[str, Any]) -> None:
    """Create the group and its arrays, with what they hold, its units and its standard name."""
    of, given = ([model.features[i] for i in places] for places in (wanted.of, wanted.given))
    layout, mixture = model.layout or Layout(), model.mixture
    known, sought = shortened(given), shortened(of)
    if (dim := layout.feature_dim) is not None:
        known, sought = f"{dim} {known}", f"{wanted.held[0].name} at {dim} {sought}"
    filled = {None: "", "mean": "what is missing expected", "draw": "what is missing drawn"}[wanted.impute]
    by = f"by a {mixture.family.title} with {mixture.n_components} components"
    group = zarr.create_group(store, zarr_format=3)
    group.attrs.update(
        {
            **attributes_of_source(samples),
            "format": PREDICTIONS_FORMAT,
            "title": f"{sought}, {filled} {by}" if filled else f"{sought} given {known}, {by}",
            "source": samples.name,
            "model": digest(mixture),
            # netCDF takes no lists of strings
            "of": json.dumps(of),
            "given": json.dumps(given),
            "settings": json.dumps(dict(settings)),
        }
    )
    units = samples.layout.unit_of | {name: unit for name, unit in layout.unit_of.items() if unit}
    for array, (held, what) in wanted.arrays.items():
        name, unit = held.name, units.get(held.name, "")
        words = f"{name}, {filled}" if filled else f"conditional {what} of {name} given {known}"
        about: dict[str, Any] = {"long_name": words}
        if what == "mean" and name in samples.standard_names:
            about["standard_name"] = samples.standard_names[name]
        if unit:
            about["units"] = unit if what == "mean" else f"({unit})^2"
        inner, along = ((), ()) if held.span.dim is None else ((held.span.size,), (held.span.dim,))
        group.create_array(
            array,
            shape=(*samples.grid.shape, *inner),
            chunks=(*samples.grid.segment, *inner),
            dtype=wanted.dtype,
            fill_value=math.nan,
            compressors=ZstdCodec(level=1, checksum=True),
            dimension_names=(*samples.dims, *along),
            attributes=about | samples.said,
        )


def with_labels(samples: Samples, wanted: Wanted) -> Samples:
    """The samples with the labels of the wanted features among their coordinates, where these lie along dimensions.

    They are those of the source where this has them, to the bit and with their attributes.
    """
    axes = {axis.name: axis for axis in samples.axes}
    found: dict[str, Any] = {}
    for span in (held.span for held in wanted.held):
        labels = span.identities()
        if span.dim is None or labels is None:
            continue
        attributes = {"units": span.label_units} if span.label_units else {}
        if (axis := axes.get(span.dim)) is not None:
            places = places_among(labels, axis.values)
            labels = labels if (places < 0).any() else axis.values[places]
            attributes |= {key: value for key, value in axis.attrs.items() if key not in OF_AXES}
        found[span.dim] = (span.dim, labels, attributes)
    return replace(samples, coords=samples.coords.assign_coords(found))
