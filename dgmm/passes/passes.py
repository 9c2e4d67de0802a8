"""What fits ask of the samples, pass by pass."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from dgmm.data import Blocks, Grid, Samples
from dgmm.engine import Fold, Journaled
from dgmm.errors import InputError
from dgmm.estep import Sharing, make_plan, unpack
from dgmm.families import Family, Frame, FrameKind, Noise, SufficientStatistics
from dgmm.mixture import Mixture
from dgmm.passes.estep import EStepSegment
from dgmm.passes.judge import BlockSums, JudgeSegment
from dgmm.passes.misfits import MisfitSegment
from dgmm.passes.parts import Division
from dgmm.passes.profile import Profile, ProfileSegment, SampleSegment
from dgmm.passes.sample import Draw, Sample, n_groups
from dgmm.passes.worst import WorstSegment
from dgmm.rows import Role
from dgmm.transform import Transform
from dgmm.types import Missing

logger = logging.getLogger("dgmm")

#: The weight that noise begins with.
NOISE_WEIGHT = 0.05


class PassOptions(Protocol):
    """The settings that matter for a pass, of whatever others there may be."""

    @property
    def seed(self) -> int:
        """Which rows are sampled, and which are held out."""

    @property
    def sample_rows(self) -> int:
        """Rows of the sample."""

    @property
    def holdout(self) -> float:
        """Share of the rows that is held out."""

    @property
    def holdout_by(self) -> Mapping[str, int] | None:
        """What is held out as a whole: the length of a block along dimensions; None for each row by itself."""

    @property
    def compute_dtype(self) -> str:
        """Precision of the matrix products of an E-step."""

    @property
    def assignment(self) -> str:
        """Whether samples are shared out among components, or count wholly for one (``hard``)."""

    @property
    def noise(self) -> bool:
        """Whether there is noise beside the components."""

    @property
    def missing(self) -> Missing:
        """What becomes of samples of which values are missing: left out, refused, or used as far as they go."""


def blocks_of(samples: Samples, options: PassOptions) -> Blocks | None:
    """The blocks that are held out as a whole, if there are any.

    Raises
    ------
    InputError
        If a dimension is none of the samples', or there would be nothing to choose among.
    """
    lengths = options.holdout_by
    if lengths is None:
        return None
    if not options.holdout:
        raise InputError(
            "holdout_by says what is held out together: give holdout, the share of the blocks, such as 0.1"
        )
    for dim in lengths:
        if dim not in samples.dims:
            what = "holds the features" if dim in samples.layout.feature_dims else "is no dimension of the samples"
            raise InputError(f"holdout_by: {dim} {what} of {samples.name}: choose from {', '.join(samples.dims)}")
    shape = samples.grid.shape
    blocks = Blocks(shape, tuple(lengths.get(dim, n) for dim, n in zip(samples.dims, shape, strict=True)))
    if len(blocks) < 2:
        sizes = ", ".join(f"{dim} {n}" for dim, n in zip(samples.dims, shape, strict=True))
        given = ", ".join(f"{dim}: {length}" for dim, length in lengths.items())
        raise InputError(f"holdout_by {{{given}}} makes one block of all of {samples.name} ({sizes}): shorten it")
    return blocks


def profile_of(fold: Fold | Journaled, samples: Samples, options: PassOptions) -> Profile:
    """The first pass over samples: moments, missing rows, and a sample of rows.

    Parameters
    ----------
    fold : Fold or Journaled
    samples : Samples
    options : PassOptions

    Raises
    ------
    InputError
        If no row is complete, or a value or weight cannot be used.
    """
    draw = Draw(options.sample_rows, options.seed)
    blocks = blocks_of(samples, options)
    what = (samples.name, samples.features, samples.grid)
    found = fold(ProfileSegment(*what, draw, samples.row_bytes, options.holdout, blocks, options.missing))
    if not found.n_samples and found.held_out.count:
        raise InputError(
            f"holdout {options.holdout:g} leaves none of the complete rows of {samples.name} to fit: lower it"
        )
    if not found.n_samples:
        light = "" if samples.weights is None else " or no weight"
        marginal = options.missing == "marginalise"
        none, have = ("row with a value", "none") if marginal else ("complete row", "a missing value")
        raise InputError(f"no {none} in {samples.name}: all {found.n_missing} have {have}{light}")
    if not (found.minimum <= found.maximum).all():
        nothing = samples.features[int(np.argmin(found.minimum <= found.maximum))]
        raise InputError(f"feature {nothing!r} of {samples.name} is missing in every sample: leave it out")
    while found.sample.short:
        # nearly all rows, or nearly all weight, lie in a small part of the data
        logger.info("rows that count are so unevenly spread in %s that the sample is drawn once more", samples.name)
        draw = draw.again(found.sample)
        leaf = SampleSegment(*what, draw, samples.row_bytes, options.holdout, blocks, options.missing)
        found = replace(found, sample=fold(leaf))
    return found.finished()


def judge_rows(
    fold: Fold, samples: Samples, mixtures: Sequence[Mixture], options: PassOptions, first: int = 0
) -> list[BlockSums]:
    """One pass: what mixtures say of the rows that these options hold out, from a number on, block by block."""
    marginal = options.missing == "marginalise"
    blocks = blocks_of(samples, options)
    division = Division(True, options.holdout, options.seed, 1.0, blocks, first, marginal=marginal)
    return _judged(fold, samples.grid, division, mixtures)


def _judged(fold: Fold | Journaled, grid: Grid, division: Division, mixtures: Sequence[Mixture]) -> list[BlockSums]:
    plans = tuple(m.density_plan(marginal=division.marginal) for m in mixtures)
    found = fold(JudgeSegment(plans, n_groups(grid, division.blocks), division))
    return [BlockSums(found.counts, sums) for sums in found.sums]


class Passes:
    """What fits ask of the samples, pass by pass.

    Parameters
    ----------
    fold : Fold or Journaled
    samples : Samples
    profile : Profile
    options : PassOptions
    ridge : float, optional
        Constant and dependent features are allowed, in a frame of covariances with this ridge; see `make_frame`.
    transform : Transform, optional
    frame : Frame, optional
        Coordinates to use in the place of the samples' own.

    Attributes
    ----------
    sharing : Sharing
        How samples are shared out among components.
    transform : Transform or None
        What was done to the samples; it is no part of the mixtures here.
    marginal : bool
        Whether there are samples that lack some of their values and are not left out.
    """

    def __init__(
        self,
        fold: Fold | Journaled,
        samples: Samples,
        profile: Profile,
        options: PassOptions,
        *,
        ridge: float | None = None,
        transform: Transform | None = None,
        frame: Frame | None = None,
    ) -> None:
        self.fold = fold
        self.samples = samples
        self.profile = profile
        self.ridge = ridge
        self.transform = transform
        self._frame = frame
        self.dtype: np.dtype[Any] = np.dtype(options.compute_dtype)
        n_classes = 0 if samples.labels is None else len(samples.labels.names)
        self.sharing = Sharing(options.assignment == "hard", n_classes)
        blocks = blocks_of(samples, options)
        self._noise = options.noise
        self.marginal = profile.n_incomplete > 0
        left_out = profile.n_missing > 0
        self._division = Division(
            left_out, options.holdout, options.seed, profile.scale, blocks, marginal=self.marginal
        )

    @property
    def n_reads(self) -> float:
        """How many times the whole source was read so far."""
        return self.fold.n_reads

    def clock(self) -> float:
        """Seconds, those included that passes took which are from a journal."""
        return self.fold.clock()

    def frame(self, kind: FrameKind) -> Frame:
        """The frame of this kind."""
        return self._frame or self.profile.frame(kind, self.samples.features, self.ridge)

    @cached_property
    def noise(self) -> Noise | None:
        """What mixtures have beside their components to begin with: in the box of the rows that are fitted."""
        low, high = self.profile.minimum, self.profile.maximum
        return Noise.between(NOISE_WEIGHT, low, high) if self._noise else None

    def accumulate(self, mixtures: Sequence[Mixture], dtype: np.dtype[Any] | None = None) -> list[SufficientStatistics]:
        """One pass: the E-step of all mixtures, given in frame coordinates, over all samples.

        In the precision of these passes, unless another is asked for.
        """
        frames = {m.family.frame: self.frame(m.family.frame) for m in mixtures}
        plan = make_plan(mixtures, frames, dtype or self.dtype, self.sharing, marginal=self.marginal)
        totals = self.fold(EStepSegment(plan, self._division, tuple(mixtures))).values
        for part in totals.values():
            for family, base in zip(plan.families, np.broadcast_to(part.base, len(plan.families)), strict=True):
                if not np.isfinite(base):
                    self.refuse_misfits(family)
        return unpack(totals[Role.FIT], plan, totals.get(Role.JUDGE))

    def accumulate_known(self, mixtures: Sequence[Mixture]) -> list[SufficientStatistics]:
        """One pass: the same over the samples alone whose class is known."""
        frames = {m.family.frame: self.frame(m.family.frame) for m in mixtures}
        plan = make_plan(mixtures, frames, sharing=self.sharing, marginal=self.marginal)
        totals = self.fold(EStepSegment(plan, replace(self._division, known=True), tuple(mixtures))).values
        return unpack(totals[Role.FIT], plan)

    def check(self, family: Family) -> None:
        """`InputError` where the range of the values, or the sample, says that they cannot come from a family."""
        known = [self.profile.minimum[None], self.profile.maximum[None], self.profile.sample.rows.x]
        if any((wrong := family.misfits(x)) is not None and wrong.any() for x in known):
            if self.transform is not None:
                raise InputError(
                    f"a {family.name} mixture is of {family.needs}, which the features of {self.samples.name} are not "
                    f"after preprocessing ({self.transform.words}): leave preprocess out"
                )
            self.refuse_misfits(family)
        objection = family.objection(self.profile.minimum, self.profile.maximum, self.samples.features)
        if objection is not None:
            raise InputError(f"{self.samples.name} cannot come from a {family.name} mixture: {objection}")

    def refuse_misfits(self, family: Family) -> None:
        """One pass: `InputError` that says which value cannot come from a family, and where it is."""
        self.fold(MisfitSegment(family.name, self.samples.name, self.samples.features, self.samples.grid))

    def judge(self, mixtures: Sequence[Mixture]) -> list[BlockSums]:
        """One pass: what mixtures, given in the data's units, say of the rows that are held out, block by block."""
        return _judged(self.fold, self.samples.grid, self._division, mixtures)

    def worst(self, mixtures: Sequence[Mixture], limit: int) -> list[Sample]:
        """One pass: the ``limit`` rows of lowest log density under each mixture, given in the data's units."""
        plans = tuple(m.density_plan(marginal=self.marginal) for m in mixtures)
        found = self.fold(WorstSegment(plans, limit, self.samples.row_bytes, self._division))
        return [sample.ordered() for sample in found.samples]
