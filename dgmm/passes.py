"""Passes over the data on Dask: tasks of neighbouring segments, residency, the fixed reduction tree.

The number of tasks depends on the workers, not on the number of chunks; the tree, and with it every bit of the
result, depends on the data alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from dgmm.blas import one_blas_thread
from dgmm.data import Samples
from dgmm.errors import InputError
from dgmm.estep import PassTotals, Plan, accumulate, make_plan, score, unpack
from dgmm.frame import Frame, FrameKind
from dgmm.grid import Region
from dgmm.memory import BASE_BYTES, check_memory, pass_bytes
from dgmm.mixture import Mixture
from dgmm.profile import Profile, ProfileSegment, Sample, is_held_out, used_rows
from dgmm.rows import Rows
from dgmm.statistics import SufficientStatistics
from dgmm.tree import Mergeable, Node, grow, merge_all
from dgmm.workers import Workers, stop_if_interrupted

#: Tasks per thread and pass: enough to even out, few enough to read ahead within each; more where nothing is read.
TASKS_PER_THREAD, TASKS_IN_MEMORY = 4, 16
#: Share of a worker's memory that may be used before Dask starts to spill.
USABLE = 0.6

T = TypeVar("T")


@dataclass(frozen=True)
class Block:
    """The complete rows of a segment.

    Attributes
    ----------
    fitted : Rows
    held_out : Rows
        Those that no fit sees.
    """

    fitted: Rows
    held_out: Rows


#: What is done to a segment, and what supplies the segments of a run: as they are, or in blocks.
Leaf = Callable[[int, Any], Any]
Reader = Callable[[Samples, range], Iterator[tuple[int, Any]]]


def read_ahead(samples: Samples, run: range, read: Callable[[Region], T]) -> Iterator[tuple[int, T]]:
    """Segments of a run in order, the next one being read while the caller computes."""
    if samples.in_memory:
        for segment in run:
            yield segment, read(samples.grid.region(segment))
            stop_if_interrupted()
        return
    with ThreadPoolExecutor(1) as reader:
        coming = None
        for segment in run:
            current = coming or reader.submit(read, samples.grid.region(segment))
            coming = reader.submit(read, samples.grid.region(segment + 1)) if segment + 1 in run else None
            yield segment, current.result()
            stop_if_interrupted()


def read_rows(samples: Samples, run: range) -> Iterator[tuple[int, Rows]]:
    """Segments of a run in order, as they are."""
    return read_ahead(samples, run, samples.read_rows)


@dataclass(frozen=True)
class ReadBlocks:
    """Segments of a run in order, in blocks.

    Attributes
    ----------
    missing : bool
        Whether there is anything to leave out; looking for it costs as much as a sixth of a pass.
    holdout : float
        Share of the rows that is held out.
    seed : int
    scale : float
        Brings the weights of the rows, if there are any, to a mean of one.
    """

    missing: bool
    holdout: float
    seed: int
    scale: float

    def __call__(self, samples: Samples, run: range) -> Iterator[tuple[int, Block]]:
        """Segments of a run in order."""
        for segment, rows in read_rows(samples, run):
            used = used_rows(rows) if self.missing else None
            if rows.weights is not None:
                rows = Rows(rows.x, rows.weights * self.scale)
            if not self.holdout:
                yield segment, Block(rows if used is None else rows[used], rows[:0])
                continue
            out = is_held_out(samples.grid.rows(samples.grid.region(segment)), self.seed, self.holdout)
            yield segment, Block(rows[~out], rows[out]) if used is None else Block(rows[used & ~out], rows[used & out])


def load_run(samples: Samples, run: range, read: ReadBlocks) -> list[tuple[int, Block]]:
    """The blocks of a run, to be kept."""
    return [(segment, Block(b.fitted.copy(), b.held_out.copy())) for segment, b in read(samples, run)]


def fold_run(
    samples: Samples, run: range, kept: list[tuple[int, Block]] | None, leaf: Leaf, read: Reader
) -> list[Node[Any]]:
    """Apply ``leaf`` to every segment of a run, read or kept, and merge what the tree lets merge."""
    stack: list[Node[Any]] = []
    with one_blas_thread:
        for segment, x in read(samples, run) if kept is None else kept:
            grow(stack, Node(0, segment, leaf(segment, x)))
    return stack


class EStepSegment:
    """The leaf of an E-step pass."""

    def __init__(self, plan: Plan, *, holdout: bool = False) -> None:
        self.plan = plan
        self.holdout = holdout

    def __call__(self, segment: int, block: Block) -> PassTotals:
        """Totals of one segment."""
        totals = accumulate(block.fitted, self.plan)
        if not self.holdout:
            return totals
        held_out = accumulate(block.held_out, self.plan)
        return replace(totals, held_out=held_out.log_likelihoods)


@dataclass(frozen=True)
class Worst:
    """The rows of lowest log density under each of several mixtures.

    Attributes
    ----------
    samples : tuple of Sample
        Their keys are log densities.
    """

    samples: tuple[Sample, ...]

    def merge(self, other: Worst) -> Worst:
        """Of both."""
        return Worst(tuple(a.merge(b) for a, b in zip(self.samples, other.samples, strict=True)))


@dataclass(frozen=True)
class WorstSegment:
    """The leaf of a pass that looks for the rows that mixtures explain worst.

    Attributes
    ----------
    plans : tuple of Plan
        Of one mixture each.
    limit : int
        Rows kept of each.
    """

    plans: tuple[Plan, ...]
    limit: int

    def __call__(self, segment: int, block: Block) -> Worst:
        """The worst rows of one segment."""
        rows = block.fitted
        densities = [score(rows.x, plan).log_density for plan in self.plans]
        return Worst(tuple(Sample.of(density, rows, self.limit) for density in densities))


class Passes:
    """Passes over one set of samples by one set of workers.

    Parameters
    ----------
    samples : Samples
    workers : Workers
    seed : int
        Of the sample of rows that the profile draws.
    sample_rows : int
        How many.
    compute_dtype : {"float64", "float32"}
        Precision of the E-step's matrix products.
    holdout : float
        Share of the rows, chosen by their hashes, that no fit sees and whose likelihood is told apart.
    ridge : float, optional
        Constant and dependent features are allowed, in a frame of covariances with this ridge; see `make_frame`.
    """

    def __init__(
        self,
        samples: Samples,
        workers: Workers,
        *,
        seed: int = 0,
        sample_rows: int = 100_000,
        compute_dtype: str = "float64",
        holdout: float = 0.0,
        ridge: float | None = None,
    ) -> None:
        self.ridge = ridge
        self.samples = samples
        self.workers = workers
        self.dtype = np.dtype(compute_dtype)
        #: Reads of the whole store so far.
        self.n_reads = 0
        check_memory(samples, workers, pass_bytes(samples, sample_rows=sample_rows))
        if workers.client is not None:
            samples.check_for_cluster()
        self._source = workers.share(samples, heavy=samples.in_memory)
        self._runs = runs_of(samples, workers)
        self._kept: dict[range, Any] = {}
        leaf = ProfileSegment(samples.name, samples.features, samples.grid, seed, sample_rows, holdout)
        found: Profile = self._fold(leaf, read_rows)
        self.n_reads += 1
        if not found.n_samples and found.held_out.count:
            raise InputError(f"holdout {holdout:g} leaves none of the complete rows of {samples.name} to fit: lower it")
        if not found.n_samples:
            light = "" if samples.weights is None else " or no weight"
            raise InputError(f"no complete row in {samples.name}: all {found.n_missing} have a missing value{light}")
        self.profile = found.finished()
        self._read = ReadBlocks(found.n_missing > 0, holdout, seed, found.scale)
        self._keep_what_fits()

    def frame(self, kind: FrameKind) -> Frame:
        """The frame of this kind."""
        return self.profile.frame(kind, self.samples.features, self.ridge)

    def accumulate(self, mixtures: Sequence[Mixture], dtype: np.dtype[Any] | None = None) -> list[SufficientStatistics]:
        """One pass: the E-step of all mixtures, given in frame coordinates, over all samples.

        In the precision of these passes, unless another is asked for.
        """
        frames = {m.family.frame: self.frame(m.family.frame) for m in mixtures}
        plan = make_plan(mixtures, frames, dtype or self.dtype)
        statistics = sum(p.theta.nbytes for p in plan.products)
        check_memory(self.samples, self.workers, pass_bytes(self.samples, statistics))
        totals: PassTotals = self._fold(EStepSegment(plan, holdout=self._read.holdout > 0), self._read)
        self.n_reads += 1
        return unpack(totals, plan)

    def worst(self, mixtures: Sequence[Mixture], limit: int) -> list[Sample]:
        """One pass: the ``limit`` rows of lowest log density under each mixture, given in the data's units."""
        found: Worst = self._fold(WorstSegment(tuple(m.density_plan() for m in mixtures), limit), self._read)
        self.n_reads += 1
        return [sample.ordered() for sample in found.samples]

    def _fold(self, leaf: Callable[[int, Any], Mergeable], read: Reader) -> Any:
        shared = self.workers.share(leaf)
        arguments = [(self._source, run, self._kept.get(run), shared, read) for run in self._runs]
        return merge_all(node for nodes in self.workers.map(fold_run, arguments) for node in nodes)

    def _keep_what_fits(self) -> None:
        """Keep the first runs decoded in memory; the rest is read again in every pass."""
        row_bytes = self.samples.row_bytes
        task = pass_bytes(self.samples)
        free = USABLE * self.workers.memory - BASE_BYTES - self.workers.threads_per_worker * task
        n_workers = max(1, self.workers.n_threads // self.workers.threads_per_worker)
        budget, kept = free * n_workers, []
        for run in self._runs:
            budget -= row_bytes * sum(self.samples.grid.n_rows(i) for i in run)
            if budget < 0:
                break
            kept.append(run)
        if kept and not self.samples.in_memory:
            loaded = self.workers.keep(load_run, [(self._source, run, self._read) for run in kept])
            self._kept = dict(zip(kept, loaded, strict=True))


def map_segments(samples: Samples, workers: Workers, function: Callable[[Samples, range], T]) -> list[T]:
    """Apply a function to every run of neighbouring segments; results in order."""
    source, shared = workers.share(samples, heavy=samples.in_memory), workers.share(function)
    return workers.map(call, [(shared, source, run) for run in runs_of(samples, workers)])


def call(function: Callable[[Samples, range], T], samples: Samples, run: range) -> T:
    """Apply a function that came as an argument."""
    return function(samples, run)


def runs_of(samples: Samples, workers: Workers) -> list[range]:
    """The segments of each task: as many tasks as the workers need, however many segments there are."""
    return cut(len(samples.grid), workers.n_threads * (TASKS_IN_MEMORY if samples.in_memory else TASKS_PER_THREAD))


def cut(n_segments: int, n_runs: int) -> list[range]:
    """Neighbouring segments in at most ``n_runs`` runs of nearly equal length."""
    edges = np.linspace(0, n_segments, min(n_runs, n_segments) + 1).round().astype(int).tolist()
    return [range(a, b) for a, b in pairwise(edges)]
