"""Regression by mixtures over data of any size: what is expected of some features where others are known.

Conditional means, and variances if asked for, are written region by region on the grid of the input; nothing appears at
its place before all of it is there.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from dgmm.blas import one_blas_thread
from dgmm.data import OF_AXES, Grid, Layout, Samples, Span, fingerprint, places_among, shortened
from dgmm.engine import Fold, Leaf, Projection, Workers, projected_bytes
from dgmm.errors import DgmmError, InputError
from dgmm.estep import Plan, buffer_bytes, complete_rows, completed
from dgmm.fits import Fit
from dgmm.mixture import Regression
from dgmm.passes import draws_of, refuse_infinite, refuse_values
from dgmm.rows import Rows
from dgmm.scoring import attributes_of_source, check_coordinates, in_portions, scattered, write_coordinates
from dgmm.store import Output, Writer, consolidate, digest, writing
from dgmm.types import AnyArray, Filling, FloatArray, Precision, Sendable

logger = logging.getLogger("dgmm")

PREDICTIONS_FORMAT = "dgmm-predictions-1"
#: What the names of variances end in.
VARIANCE = "_variance"


@dataclass(frozen=True)
class Held(Sendable):
    """An array that is written: of one feature, or of those of a variable along a dimension.

    Attributes
    ----------
    span : Span
        The features, as they lie in the array.
    columns : tuple of int
        Which of the wanted features each of these is; -1 for one that is not wanted, and is missing all along.
    """

    span: Span
    columns: tuple[int, ...]

    @property
    def name(self) -> str:
        """What the array is called."""
        return self.span.variable or "data"

    @property
    def side_by_side(self) -> slice | None:
        """The features as they lie among the wanted ones, if they do so in this order."""
        first = self.columns[0]
        run = slice(first, first + len(self.columns))
        return run if self.columns == tuple(range(run.start, run.stop)) else None

    def of(self, values: AnyArray) -> AnyArray:
        """Its values, of those of all wanted features (n, m): shape (n,), or (n, places) along a dimension."""
        if self.span.dim is None:
            return values[:, self.columns[0]]
        if self.side_by_side is not None:
            return values[:, self.side_by_side]
        return np.where(np.array(self.columns) < 0, values.dtype.type(np.nan), values[:, self.columns])


def held_by(model: Fit, of: Sequence[int]) -> tuple[Held, ...]:
    """The arrays that hold some features of a model as its data did.

    Each variable is one, in the order of `of`; along a dimension they are in that order, too. Where several variables
    lie along it both are in the order of the model, and the dimension has the places that any of them is wanted at.
    """
    layout = model.layout or Layout(variables=model.features)
    if not layout.spans:
        spans = layout.taken(of).as_spans(len(of))
        starts = itertools.accumulate((span.size for span in spans), initial=0)
        return tuple(Held(span, tuple(range(at, at + span.size))) for at, span in zip(starts, spans, strict=False))
    of_feature = {feature: column for column, feature in enumerate(of)}
    starts = itertools.accumulate((span.size for span in layout.spans), initial=0)
    columns = [
        (span, [of_feature.get(at + i, -1) for i in range(span.size)])
        for at, span in zip(starts, layout.spans, strict=False)
    ]
    found = []
    for span, its in columns:
        beside = [others for other, others in columns if other.dim == span.dim]
        places = [i for i in range(span.size) if any(others[i] >= 0 for others in beside)] if span.dim else [0]
        if any(column >= 0 for column in its):
            found.append(Held(span.taken(places), tuple(its[i] for i in places)))
    return tuple(found)


@dataclass(frozen=True)
class Wanted(Sendable):
    """Which features are predicted from which, and how the arrays are called that are written.

    Attributes
    ----------
    of, given : tuple of int
        Numbers of features of the model.
    held : tuple of Held
        The arrays of the means.
    variance : bool
        Whether variances are written, too.
    dtype : str
    impute : {"mean", "draw"} or None
        With what missing values of all features are filled in, in the place of predictions.
    seed : int
        Of draws.
    """

    of: tuple[int, ...]
    given: tuple[int, ...]
    held: tuple[Held, ...]
    variance: bool
    dtype: Precision
    impute: Filling | None = None
    seed: int = 0

    @classmethod
    def asked(
        cls,
        model: Fit,
        of: Sequence[str] | None,
        given: Sequence[str] | None,
        variance: bool,
        dtype: Precision,
        impute: Filling | None = None,
        seed: int = 0,
    ) -> Wanted:
        """From names of features; those of plain data are their numbers."""
        if impute is not None:
            return cls._imputed(model, dtype, impute, seed)
        of = of or ()
        ours = tuple(model.place(name) for name in of)
        others: Sequence[str | int] = given or [i for i in range(len(model.features)) if i not in ours]
        theirs = tuple(model.place(name) for name in others)
        return cls(ours, theirs, held_by(model, ours), variance, dtype)

    @classmethod
    def _imputed(cls, model: Fit, dtype: Precision, impute: Filling, seed: int) -> Wanted:
        """All features, with what is missing filled in."""
        mixture = model.mixture
        if not mixture.family.incomplete:
            raise InputError(
                f"what is missing cannot be filled in by this model, which is of {model.covariance_type} components: "
                "give one of Gaussian components"
            )
        if mixture.transform is not None:
            mixture.transform.check_incomplete()
            if mixture.transform.log and impute == "mean":
                raise InputError(
                    "what is expected of logarithms is no logarithm of what is expected: draw what is missing "
                    "(impute: draw)"
                )
        every = tuple(range(len(model.features)))
        return cls(every, (), held_by(model, every), False, dtype, impute, seed)

    @property
    def arrays(self) -> dict[str, tuple[Held, str]]:
        """All arrays by their names, those of variances after those of means, and which of these each has."""
        means = {held.name: (held, "mean") for held in self.held}
        return means | {f"{held.name}{VARIANCE}": (held, "variance") for held in self.held if self.variance}

    def by_name(self, means: AnyArray, variances: AnyArray) -> dict[str, AnyArray]:
        """Values (n, m) as the arrays that are written: (n,) of a feature, or (n, places) of those of a variable."""
        values = {"mean": means, "variance": variances}
        return {name: held.of(values[what]) for name, (held, what) in self.arrays.items()}

    @property
    def copied(self) -> int:
        """Numbers of a sample that are copied to be written as they lie there."""
        return sum(len(held.columns) for held, _ in self.arrays.values() if held.side_by_side is None)


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
        missing = np.isnan(x)
        some = np.asarray(missing.any(axis=1) & ~missing.all(axis=1))
        found = np.array(x, dtype=np.float64)
        found[some] = completed(x[some], self.plan, self._draws(segment, some))
        if len(rows):
            values = found.astype(self.wanted.dtype, copy=False)
            self._write(segment, self.wanted.by_name(values, values))
        n_missing = int(missing.all(axis=1).sum())
        return Predicted(len(rows) - n_missing, n_missing)

    def _draws(self, segment: int, chosen: AnyArray) -> tuple[FloatArray, FloatArray] | None:
        """A uniform number and standard normal ones, as many as features, by the numbers of the rows; None of means."""
        if self.wanted.impute == "mean":
            return None
        numbers = self.grid.rows(self.grid.region(segment))[: len(chosen)][chosen]
        return draws_of(numbers, len(self.columns), self.wanted.seed)

    def working_bytes(self, n_rows: int) -> int:
        """Values as they come, as they are completed and as they are written, what is missing, and draws."""
        fitted = 0 if self.plan.transform is None else 32 * len(self.columns)
        return buffer_bytes(self.plan) + n_rows * (48 * len(self.columns) + fitted + 32)


def source_layout(model: Fit, wanted: Wanted, variables: Sequence[str] | None = None) -> Layout | None:
    """How a source is opened that need not have more than the variables of the given features.

    Where somebody names `variables` that are called otherwise, these are as many as the model has, in its order, or
    as many as are given, in the order in which they are.
    """
    layout = model.layout
    if wanted.impute is not None or layout is None or layout.feature_dim is not None:
        return layout
    names = [span.variable for span in layout.as_spans() for _ in range(span.size)]
    mentioned = tuple(dict.fromkeys(names[i] for i in wanted.given))
    places = [i for name in mentioned for i in sorted(wanted.given) if names[i] == name]
    if variables and not {*variables} & {*names}:
        if len(variables) == len(layout.variables):
            return layout
        if len(variables) != len(mentioned):
            raise InputError(
                f"variables {shortened(variables)} are not called like those of the model: name as many as it has "
                f"({shortened(layout.variables)}), or as many as are given ({shortened(mentioned)}), in this order"
            )
    return layout.taken(places)


def with_given(
    samples: Samples, model: Fit, wanted: Wanted, *, interpolate: bool = False
) -> tuple[Samples, tuple[int, ...]]:
    """Samples with the given features, or with more of their variables, and where the given ones are among theirs."""
    if wanted.impute is not None:
        return samples.like(model.features, model.layout, interpolate=interpolate), wanted.of
    layout, places = model.layout, [*wanted.given]
    if layout is not None and layout.feature_dims and not interpolate:
        places = _held_in(samples, layout, len(model.features), places)
    elif layout is not None and layout.spans:
        places.sort()
    elif layout is None and samples.feature_dim is not None and samples.n_features != len(places):
        places = [*range(len(model.features))]
    names = [model.features[i] for i in places]
    found = samples.like(names, None if layout is None else layout.taken(places), interpolate=interpolate)
    return found, tuple(places.index(i) for i in wanted.given)


def _held_in(samples: Samples, layout: Layout, n_features: int, given: Sequence[int]) -> list[int]:
    """Features of the model that are looked for in samples: those given, and what these have beside along dimensions.

    By the labels of the samples where both have some; else all of a variable, or those given alone where the samples
    have as many.
    """
    theirs = {span.variable: span for span in samples.layout.as_spans(samples.n_features)}
    found: list[int] = []
    start = 0
    for span in layout.as_spans(n_features):
        here = range(start, start + span.size)
        wanted = [i for i in given if i in here]
        other = theirs.get(span.variable) if layout.spans else next(iter(theirs.values()))
        start += span.size
        if not wanted or other is None or None in (span.dim, other.dim):
            found += wanted
            continue
        ours, labels = span.identities(), other.identities()
        if ours is None or labels is None:
            found += wanted if other.size == len(wanted) else here
        else:
            there = places_among(ours, labels) >= 0
            found += [i for i in here if there[i - here.start] or i in wanted]
    return found


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
    check_names(samples, wanted)
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


def check_names(samples: Samples, wanted: Wanted) -> None:
    """Refuse an output in which two things would have one name."""
    names = [
        *(held.name for held in wanted.held),
        *(f"{held.name}{VARIANCE}" for held in wanted.held if wanted.variance),
    ]
    names += {held.span.dim for held in wanted.held if held.span.dim is not None}
    twice = {name for name in names if names.count(name) > 1}
    twice |= {*names} & {*map(str, samples.coords.coords), *samples.dims}
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
