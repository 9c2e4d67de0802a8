"""What one pass over the data can be asked: the profile, an E-step, the rows explained worst."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, ClassVar

import numpy as np

from dgmm.config import Training
from dgmm.data import Samples
from dgmm.errors import InputError
from dgmm.estep import PassTotals, Plan, accumulate, buffer_bytes, make_plan, score, unpack
from dgmm.fold import Fold
from dgmm.fold import map_segments as map_segments
from dgmm.fold import read_ahead as read_ahead
from dgmm.frame import Frame, FrameKind
from dgmm.grid import Grid
from dgmm.leaf import Leaf
from dgmm.mixture import Mixture
from dgmm.profile import Profile, ProfileSegment, SampleSegment, used_rows
from dgmm.rows import Rows
from dgmm.sample import Draw, Sample, is_held_out
from dgmm.statistics import SufficientStatistics
from dgmm.workers import Workers

logger = logging.getLogger("dgmm")

#: Rows whose densities are found at a time where only the lowest are wanted.
SCORED_ROWS = 16_384


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

    @property
    def nbytes(self) -> int:
        """Bytes of the samples and weights."""
        return self.fitted.nbytes + self.held_out.nbytes

    def owned(self) -> Block:
        """The same in memory of its own, no view of anything larger."""
        return Block(self.fitted.owned(), self.held_out.owned())


@dataclass(frozen=True)
class Division:
    """How the rows of a segment are divided into a block.

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

    @property
    def copies(self) -> bool:
        """Whether a block takes memory beside the rows."""
        return self.missing or self.holdout > 0

    def __call__(self, grid: Grid, segment: int, rows: Rows) -> Block:
        """The block of a segment."""
        used = used_rows(rows) if self.missing else None
        if rows.weights is not None:
            rows = Rows(rows.x, rows.weights * self.scale)
        if not self.holdout:
            return Block(rows if used is None else rows[used], rows[:0])
        out = is_held_out(grid.rows(grid.region(segment))[: len(rows)], self.seed, self.holdout)
        return Block(rows[~out], rows[out]) if used is None else Block(rows[used & ~out], rows[used & out])


@dataclass(frozen=True)
class EStepSegment(Leaf[PassTotals]):
    """The leaf of an E-step pass.

    Attributes
    ----------
    plan : Plan
    prepare : Division
    """

    plan: Plan
    prepare: Division

    def __call__(self, segment: int, block: Block) -> PassTotals:
        """Totals of one segment."""
        totals = accumulate(block.fitted, self.plan)
        if not self.prepare.holdout:
            return totals
        held_out = accumulate(block.held_out, self.plan)
        return replace(totals, held_out=held_out.log_likelihoods)

    @property
    def lever(self) -> str:
        """Statistics are what takes memory."""
        return f"try fewer than {self.plan.n_rows} components at a time (n_components)"

    def working_bytes(self, n_rows: int) -> int:
        """Buffers, and theta as it came, as the kernel takes it and as the kernel adds the sums up."""
        return buffer_bytes(self.plan) + 3 * self.result_bytes(n_rows)

    def result_bytes(self, n_rows: int) -> int:
        """Sums in the shape of theta."""
        return sum(p.theta.nbytes for p in self.plan.products) + 16 * len(self.plan.candidates)


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
class WorstSegment(Leaf[Worst]):
    """The leaf of a pass that looks for the rows that mixtures explain worst.

    Attributes
    ----------
    plans : tuple of Plan
        Of one mixture each.
    limit : int
        Rows kept of each.
    row_bytes : int
        Of one row as it is read.
    prepare : Division
    """

    exact: ClassVar[bool] = True

    plans: tuple[Plan, ...]
    limit: int
    row_bytes: int
    prepare: Division

    def __call__(self, segment: int, block: Block) -> Worst:
        """The worst rows of one segment."""
        return Worst(tuple(self._of(plan, block.fitted) for plan in self.plans))

    def _of(self, plan: Plan, rows: Rows) -> Sample:
        pieces = [rows[a : a + SCORED_ROWS] for a in range(0, max(len(rows), 1), SCORED_ROWS)]
        return reduce(Sample.merge, (Sample.of(score(p.x, plan).log_density, p, self.limit) for p in pieces))

    @property
    def lever(self) -> str:
        """The rows that are kept take memory."""
        return f"lower worst_rows ({self.limit})"

    def working_bytes(self, n_rows: int) -> int:
        """Buffers, the scores of a piece, and a sample before and after a merge."""
        one = self.result_bytes(n_rows) // max(1, len(self.plans))
        return max(map(buffer_bytes, self.plans)) + 48 * SCORED_ROWS + 2 * one

    def result_bytes(self, n_rows: int) -> int:
        """So many rows with their keys for each mixture."""
        return len(self.plans) * min(self.limit, n_rows) * (8 + self.row_bytes)


def profile_of(fold: Fold, samples: Samples, options: Training) -> Profile:
    """The first pass over samples: moments, missing rows, and a sample of rows.

    Parameters
    ----------
    fold : Fold
    samples : Samples
    options : Training
        Of which ``seed``, ``sample_rows`` and ``holdout`` matter.

    Raises
    ------
    InputError
        If no row is complete, or a value or weight cannot be used.
    """
    draw = Draw(options.sample_rows, options.seed)
    found = fold(ProfileSegment(samples.name, samples.features, samples.grid, draw, samples.row_bytes, options.holdout))
    if not found.n_samples and found.held_out.count:
        raise InputError(
            f"holdout {options.holdout:g} leaves none of the complete rows of {samples.name} to fit: lower it"
        )
    if not found.n_samples:
        light = "" if samples.weights is None else " or no weight"
        raise InputError(f"no complete row in {samples.name}: all {found.n_missing} have a missing value{light}")
    while found.sample.short:
        # nearly all rows, or nearly all weight, lie in a small part of the data
        logger.info("rows that count are so unevenly spread in %s that the sample is drawn once more", samples.name)
        draw = draw.again(found.sample)
        leaf = SampleSegment(samples.name, samples.features, samples.grid, draw, samples.row_bytes, options.holdout)
        found = replace(found, sample=fold(leaf))
    return found.finished()


class Passes:
    """What fits ask of the samples, pass by pass.

    Parameters
    ----------
    fold : Fold
    samples : Samples
    profile : Profile
    options : Training
        Of which ``seed``, ``holdout`` and ``compute_dtype``, the precision of the E-step's matrix products, matter.
    ridge : float, optional
        Constant and dependent features are allowed, in a frame of covariances with this ridge; see `make_frame`.
    """

    def __init__(
        self, fold: Fold, samples: Samples, profile: Profile, options: Training, *, ridge: float | None = None
    ) -> None:
        self.fold = fold
        self.samples = samples
        self.profile = profile
        self.ridge = ridge
        self.dtype: np.dtype[Any] = np.dtype(options.compute_dtype)
        self._division = Division(profile.n_missing > 0, options.holdout, options.seed, profile.scale)

    @property
    def n_reads(self) -> float:
        """How many times the whole source was read so far."""
        return self.fold.n_reads

    def frame(self, kind: FrameKind) -> Frame:
        """The frame of this kind."""
        return self.profile.frame(kind, self.samples.features, self.ridge)

    def accumulate(self, mixtures: Sequence[Mixture], dtype: np.dtype[Any] | None = None) -> list[SufficientStatistics]:
        """One pass: the E-step of all mixtures, given in frame coordinates, over all samples.

        In the precision of these passes, unless another is asked for.
        """
        frames = {m.family.frame: self.frame(m.family.frame) for m in mixtures}
        plan = make_plan(mixtures, frames, dtype or self.dtype)
        return unpack(self.fold(EStepSegment(plan, self._division)), plan)

    def worst(self, mixtures: Sequence[Mixture], limit: int) -> list[Sample]:
        """One pass: the ``limit`` rows of lowest log density under each mixture, given in the data's units."""
        plans = tuple(m.density_plan() for m in mixtures)
        found = self.fold(WorstSegment(plans, limit, self.samples.row_bytes, self._division))
        return [sample.ordered() for sample in found.samples]


def passes_over(
    samples: Samples, workers: Workers, options: Training | None = None, *, ridge: float | None = None
) -> Passes:
    """The profile pass, and what further passes need; options are those of `Training` by default."""
    options = Training() if options is None else options
    fold = Fold(samples, workers)
    return Passes(fold, samples, profile_of(fold, samples, options), options, ridge=ridge)
