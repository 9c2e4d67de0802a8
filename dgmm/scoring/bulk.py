"""Bulk scoring: labels, probabilities and log densities on the grid of the input, written region by region."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import zarr

from dgmm.blas import one_blas_thread
from dgmm.data import Grid, Samples, seen
from dgmm.engine import Fold, Leaf, Projection, Workers, projected_bytes
from dgmm.errors import DgmmError, InputError
from dgmm.estep import Plan, buffer_bytes, score, usable_rows
from dgmm.families import NOISE
from dgmm.fits import Fit, merged
from dgmm.mixture import Mixture
from dgmm.passes import refuse_values
from dgmm.rows import Rows
from dgmm.scoring.arrays import (
    VARIABLES,
    check_coordinates,
    create,
    label_dtype,
    labels_in,
    labels_of,
    n_labels,
    others_in,
    stored_digest,
    sweep,
    types_of,
    write_coordinates,
)
from dgmm.scoring.entries import GROUP, Entries, head_of, names_of, write_ledger
from dgmm.scoring.former import Former
from dgmm.scoring.kept import begun, kept_for_another
from dgmm.scoring.ledger import Ledger, Recorder, Recording
from dgmm.scoring.portions import in_portions
from dgmm.scoring.regions import Written, checksum
from dgmm.scoring.rows import scattered
from dgmm.store import Output, Status, consolidate, writing
from dgmm.types import AnyArray, IntArray, ScoredMissing, Sendable

logger = logging.getLogger("dgmm")


@dataclass(frozen=True)
class Scored:
    """What scoring says in a few numbers.

    Attributes
    ----------
    counts : ndarray of int, shape (K,)
        Samples with each label, those that are noise last.
    n_missing : int
        Samples without a label, because a value is missing.
    log_density : float
        Sum of the log densities: the total log-likelihood of the data.
    labels : tuple of str
        What each label is, in words; empty while that does not matter.
    """

    counts: IntArray
    n_missing: int
    log_density: float
    labels: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: Entries, labels: tuple[str, ...] = ()) -> Scored:
        """Of all regions; the order in which they were written does not matter."""
        counts = table.counts.sum(axis=0, dtype=np.int64)
        return cls(counts, int(table.missing.sum(dtype=np.int64)), math.fsum(table.log_density), labels)

    @classmethod
    def in_attributes(cls, found: Mapping[str, Any]) -> Scored:
        """As the attributes of complete scores say it; see `attributes_of`."""
        counts = np.array(found["counts"], dtype=np.int64)
        return cls(counts, int(found["n_missing"]), float(found["log_likelihood"]), labels_in(found))


@dataclass(frozen=True)
class Done:
    """So many regions."""

    n: int

    def merge(self, other: Done) -> Done:
        """Of both."""
        return Done(self.n + other.n)


@dataclass(frozen=True)
class ScoreSegment(Sendable, Leaf[Done]):
    """The leaf of scoring: each segment is written to the output as soon as it is scored, and recorded in the ledger.

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
    recording : Recording
    probabilities : bool
    level : tuple of int or None
        The cluster of each component, where clusters are labelled; None for components.
    """

    exact: ClassVar[bool] = True

    name: str
    features: tuple[str, ...]
    grid: Grid
    plan: Plan
    row_bytes: int
    recording: Recording
    probabilities: bool
    level: tuple[int, ...] | None = None

    @classmethod
    def of(
        cls,
        mixture: Mixture,
        samples: Samples,
        recording: Recording,
        probabilities: bool,
        level: tuple[int, ...] | None = None,
        *,
        n_classes: int = 0,
        marginal: bool = False,
    ) -> ScoreSegment:
        """The leaf for a mixture and samples; components, one class after the other, may be those of classes.

        If it is marginal, samples that lack some of their values are scored by the others.
        """
        with one_blas_thread:
            plan = mixture.density_plan(n_classes=n_classes, marginal=marginal)
        what = (samples.name, samples.features, samples.grid)
        return cls(*what, plan, samples.row_bytes, recording, probabilities, level)

    def on(self, device: str) -> ScoreSegment:
        """By a plan on a device."""
        return replace(self, plan=self.plan.on(device))

    @contextmanager
    def over(self, run: Sequence[int]) -> Iterator[tuple[Sequence[int], Callable[[int, Any], Done]]]:
        """What is left of a run, of which another may have done something and died, and the scoring that records."""
        recorder = Recorder(
            self.recording, Entries.nothing(0, self.n_labels, len(self._types), self.grid.largest), run[0]
        )
        before = recorder.before(self.grid)
        unsound = {finding.region for finding in self._written.examine(before.region.tolist(), before.checksums)}
        done = {*before.region.tolist()} - unsound
        try:
            yield [segment for segment in run if segment not in done] or run[-1:], partial(self._recorded, recorder)
        except BaseException:
            with contextlib.suppress(Exception):  # it is that other error that counts
                recorder.flush()
            raise
        recorder.flush()

    def __call__(self, segment: int, rows: Rows) -> Done:
        """Score one segment, all its rows given, and write it."""
        self._write(segment, rows)
        return Done(1)

    def _recorded(self, recorder: Recorder, segment: int, rows: Rows) -> Done:
        scored, checksums = self._write(segment, rows)
        recorder.add(segment, scored.n_missing, scored.counts, scored.log_density, checksums)
        return Done(1)

    def _write(self, segment: int, rows: Rows) -> tuple[Scored, list[int]]:
        """Score and write a segment; what it comes to, and the checksums of what was written."""
        values, scored = self.score(rows.x)
        region = self.grid.region(segment)
        if not np.isfinite(scored.log_density):
            refuse_values(self.plan.families, self.name, self.features, self.grid, segment, rows)
            raise DgmmError(f"the log density of a sample in region {region} of {self.name} is not finite")
        checksums = []
        if len(rows):  # there are none where it is only tried
            shape = tuple(s.stop - s.start for s in region)
            with writing(self.recording.writer.place):
                self.recording.writer.check()
                for name, value in values.items():
                    whole = value.reshape(shape + value.shape[1:])
                    checksums.append(checksum(name, region, whole))
                    self._arrays[name][region] = whole
        return scored, checksums

    @property
    def _types(self) -> dict[str, np.dtype[Any]]:
        return types_of(self.n_labels, self.probabilities)

    @property
    def n_labels(self) -> int:
        """How many labels there are."""
        return n_labels(self.plan.n_labels, self.level)

    @property
    def _written(self) -> Written:
        return Written(self.recording.writer.target, tuple(self._types), self.grid)

    @cached_property
    def _arrays(self) -> dict[str, zarr.Array[Any]]:
        # a chunk of nothing but missing samples is written too: what is not there was not scored
        array = self.recording.writer.array
        return {name: array(name).with_config({"write_empty_chunks": True}) for name in self._types}

    @property
    def lever(self) -> str:
        """Probabilities are most of what is written."""
        return "leave probabilities out" if self.probabilities else ""

    def working_bytes(self, n_rows: int) -> int:
        """Rows without those that are missing, and scores, as they are found and as they are written."""
        k, labels = self.plan.n_rows, self.n_labels
        # those of a class or a cluster are sums over its components
        shares = 8 * (k + labels) * (labels < k) if self.level is None else 0
        every = labels * self.probabilities if self.level is None else k + labels
        return buffer_bytes(self.plan) + n_rows * (self.row_bytes + 48 + 20 * every + shares)

    def result_bytes(self, n_rows: int) -> int:
        """One number; and what its task has recorded."""
        return 64 + (8 * self.plan.n_labels + 64) * -(-n_rows // self.grid.largest)

    def score(self, x: AnyArray) -> tuple[dict[str, AnyArray], Scored]:
        """Variables of the output for the rows of ``x`` (n, d), and what they come to."""
        n, k = len(x), self.n_labels
        present = usable_rows(x, marginal=self.plan.marginals is not None)
        each = self.probabilities or self.level is not None
        scores = score(x if present is None else x[present], self.plan, probabilities=each)
        if self.level is not None:
            every = merged(scores.probabilities, np.array(self.level))
            scores = replace(scores, label=every.argmax(axis=1), probability=every.max(axis=1), probabilities=every)
        counts = np.bincount(scores.label, minlength=k).astype(np.int64)
        scored = Scored(counts, n - len(scores.label), float(scores.log_density.sum()))
        if any(self.plan.noisy):
            scores.label[scores.label == k - 1] = NOISE
        columns: list[tuple[str, AnyArray, AnyArray]] = [
            ("label", scores.label, np.array(-1, dtype=label_dtype(k))),
            ("probability", scores.probability, np.array(np.nan, dtype=np.float32)),
            ("log_density", scores.log_density, np.array(np.nan)),
        ]
        if self.probabilities:
            columns.append(("probabilities", scores.probabilities, np.array(np.nan, dtype=np.float32)))
        values = {name: scattered(column, present, missing) for name, column, missing in columns}
        return values, scored


def level_of(model: Fit, clusters: int | None) -> tuple[int, ...] | None:
    """The cluster of each component where so many clusters are to be labelled; None for components by themselves."""
    if clusters is None:
        return None
    if model.clusters is None:
        raise InputError(f"the model has no clusters, and {clusters} are asked for: merge its components (dgmm merge)")
    return tuple(model.clusters.level(clusters).tolist())


def scored_as(model: Fit, missing: ScoredMissing | None) -> Fit:
    """A model that takes samples of which values are missing as asked; None: as it was fitted."""
    if missing is None or missing == model.missing:
        return model
    if missing == "marginalise":
        if not model.mixture.family.incomplete:
            raise InputError(
                f"what is missing cannot be marginalised in a {model.covariance_type} model: leave such samples out "
                "(missing=omit)"
            )
        if model.mixture.transform is not None:
            model.mixture.transform.check_incomplete()
    return replace(model, missing=missing)


def score_projection(
    model: Fit, samples: Samples, output: Output, probabilities: bool, clusters: int | None = None
) -> Projection:
    """What a worker needs to score samples into an output."""

    def need(threads_per_worker: int, n_threads: int) -> int:
        ours = samples.like(model.features, model.layout)
        level, n = level_of(model, clusters), len(model.classes)
        leaf = ScoreSegment.of(
            model.mixture, ours, Ledger(output, {}).recording, probabilities, level, n_classes=n,
            marginal=model.marginalises,
        )  # fmt: skip
        return projected_bytes(ours, [leaf], threads_per_worker, n_threads)

    return need


def score_samples(
    model: Fit,
    samples: Samples,
    output: Output,
    workers: Workers,
    *,
    probabilities: bool = False,
    clusters: int | None = None,
    settings: Mapping[str, Any] | None = None,
    extend: bool = False,
    append: bool = False,
    attributes: Mapping[str, Any] | None = None,
) -> Scored:
    """Score all samples into an output that has been begun, and finish it.

    Of an output that a dead run has left, regions that are recorded and lie there as they were written are kept.

    Parameters
    ----------
    model : Fit
    samples : Samples
    output : Output
    workers : Workers
    probabilities : bool
        Write those of every component too.
    clusters : int, optional
        Label so many clusters of merged components in the place of components.
    settings : mapping, optional
        What they are made with, kept with the scores.
    extend : bool
        Carry over what lies at the place already, by the same model, of chunks that have not changed since.
    append : bool
        The same, and raise `InputError` where there is more to do than score what has been appended.
    attributes : mapping, optional
        What else is said of the scores.

    Raises
    ------
    OutputExistsError
        If what was left is of another source or model, and not to be replaced.
    """
    samples = samples.like(model.features, model.layout)
    taken = {*VARIABLES, GROUP} & {*map(str, samples.coords.coords), *samples.dims}
    level = level_of(model, clusters)
    taken |= {labels_of(model, level)[0]} & {*samples.dims, *samples.coords.dims}
    if taken:
        raise InputError(f"{samples.name} has a coordinate called {', '.join(sorted(taken))}, as scores do: rename it")
    former = Former.at(output.place.name) if extend or append else None
    if append and former is None and output.place.state().status is Status.FINISHED:
        raise InputError(
            f"{output.place.name} holds no scores that can be appended to: choose another place, or --overwrite"
        )
    samples = samples if former is None else former.cut(samples)
    found = seen(samples)
    ledger = Ledger(output, head_of(samples, model, probabilities, found, level))
    if former is not None and append:
        former.check_appended(ledger.head, found.regions, samples)
    if former is not None and former.is_all(ledger.head, settings or {}, attributes or {}):
        logger.info("%s is of these data and this model already: nothing is to be scored", output.place.name)
        # what somebody has begun and not ended is of no use any more
        output.kept = False
        return Scored.of(former.table, labels_in(former.attributes))

    def leaf() -> ScoreSegment:
        """Made when it is wanted: who records what may have changed."""
        n = len(model.classes)
        return ScoreSegment.of(
            model.mixture, samples, ledger.recording, probabilities, level, n_classes=n, marginal=model.marginalises
        )

    Fold(samples, workers, keep=False).check(leaf())
    check_coordinates(samples, workers)
    began = time.perf_counter()
    with kept_for_another(output, ledger):
        names = names_of(ledger.head)
        how = partial(
            create, samples=samples, model=model, probabilities=probabilities, settings=settings or {}, level=level
        )
        store, todo = begun(output, ledger, how, found.regions, former, workers)
        if todo:
            in_portions(samples, workers, leaf(), todo)
        ledger.check_source(samples)
        table, known = ledger.load()
        lost = {*np.flatnonzero(~known).tolist()}.union(*(sweep(store, name, samples.grid) for name in names))
        if lost:
            raise DgmmError(
                f"{len(lost)} regions of {output.place.name} are gone (first {min(lost)}): run the same again"
            )
        write_coordinates(store, samples)
        group = zarr.open_group(store, mode="r+", use_consolidated=False)
        scored = Scored.of(table, labels_in(group.attrs))
        coordinates = {name: stored_digest(store, name) for name in others_in(store)}
        write_ledger(group, ledger.head, table, coordinates, found.regions)
        # what others have said of scores that are brought up to date is still said
        said = {} if former is None else {k: v for k, v in former.attributes.items() if k not in group.attrs}
        group.attrs.update(said | dict(attributes or {}) | attributes_of(scored) | {"complete": 1})
        consolidate(store)
        output.finish()
    seconds, size = time.perf_counter() - began, samples.grid.size
    n = sum(map(samples.grid.n_rows, todo))
    logger.info(
        "scored %s samples (%d missing) in %.1f s, %.3g rows/s",
        size if n == size else f"{n} of {size}", scored.n_missing, seconds, n / seconds,
    )  # fmt: skip
    return scored


def attributes_of(scored: Scored) -> dict[str, Any]:
    """What is said of scores in their attributes once they are complete."""
    return {"counts": scored.counts.tolist(), "n_missing": scored.n_missing, "log_likelihood": scored.log_density}
