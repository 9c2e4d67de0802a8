"""The leaf of scoring: what a mixture says of the rows of a segment, written as soon as it is known."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import zarr

from dgmm.blas import one_blas_thread
from dgmm.data import Grid, Samples
from dgmm.engine import PlanLeaf
from dgmm.errors import DgmmError
from dgmm.estep import Plan, buffer_bytes, score, usable_rows
from dgmm.families import NOISE
from dgmm.fits import merged
from dgmm.mixture import Mixture
from dgmm.passes import refuse_values
from dgmm.rows import Rows
from dgmm.scoring.arrays import label_dtype, labels_in, n_labels, types_of
from dgmm.scoring.entries import Entries
from dgmm.scoring.ledger import Recorder, Recording
from dgmm.scoring.regions import Written, checksum
from dgmm.scoring.rows import scattered
from dgmm.store import writing
from dgmm.types import AnyArray, IntArray, Sendable


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
class ScoreSegment(Sendable, PlanLeaf[Done]):
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
