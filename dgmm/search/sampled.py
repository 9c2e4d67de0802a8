"""Rows of the sample in memory, where a pass costs next to nothing, and what counts as sound there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from dask.system import CPU_COUNT

from dgmm.em import Ascent, Ground
from dgmm.engine import Node, merge_all
from dgmm.errors import InputError
from dgmm.estep import SOFT, Sharing, accumulate, completed, make_plan, unpack
from dgmm.families import Frame, FrameKind, Gaussians, Moments, Noise, SufficientStatistics, get_family
from dgmm.mixture import Mixture
from dgmm.rows import Rows
from dgmm.types import BoolArray, FloatArray, PriorName

#: Effective rows of a component with a single one, but for rounding.
A_ROW = 1 - 1e-9
#: Rows of the in-memory sample per task at least, and tasks at most.
SAMPLE_BLOCK, SAMPLE_TASKS = 2048, 16


@dataclass(frozen=True, order=True)
class Candidate:
    """A number of components and a covariance type."""

    n_components: int
    covariance_type: str

    def __str__(self) -> str:
        return f"{self.covariance_type} K={self.n_components}"


class SampleRows:
    """Rows in memory, seen through the frames of all the data; the other way to supply `accumulate`.

    Parameters
    ----------
    rows : Rows
        With weights of mean one, if any.
    frame : callable
        The frame of each kind.
    n_threads : int
        That work at a time; as many as there are cores by default.
    sharing : Sharing
        How they are shared out among components.
    filled : Rows, optional
        The rows with something in the place of what is missing, if that is known already.

    Attributes
    ----------
    marginal : bool
        Whether rows lack some of their values. E-steps are of what they have; whatever else is asked of rows, for
        starts and moves, is of those that are filled.
    moments : Moments
        Of the filled rows.
    """

    def __init__(
        self,
        rows: Rows,
        frame: Callable[[FrameKind], Frame],
        n_threads: int = CPU_COUNT,
        sharing: Sharing = SOFT,
        filled: Rows | None = None,
    ) -> None:
        self.rows = rows
        self.frame = frame
        self.sharing = sharing
        self.marginal = bool(np.isnan(rows.x).any())
        self.filled = rows
        if self.marginal:
            self.filled = replace(rows, x=drawn(rows.x, frame)) if filled is None else filled
        self.moments = Moments.of(self.filled.x, rows.weights)
        # threads that stay keep their buffers
        self.map: Any = ThreadPoolExecutor(n_threads).map if n_threads > 1 else map
        self._coordinates: dict[FrameKind, FloatArray] = {}

    def coordinates(self, kind: FrameKind) -> FloatArray:
        """Of the rows in a frame, shape (d, m); kept once they are known."""
        if kind not in self._coordinates:
            self._coordinates[kind] = self.frame(kind).coordinates(self.filled.x)
        return self._coordinates[kind]

    def thinned(self, enough: int) -> SampleRows:
        """Every second, third or so of the rows, at least so many: they lie in no order."""
        step = len(self.rows) // enough
        if step < 2:
            return self
        found = SampleRows(self.rows[::step], self.frame, 1, self.sharing, filled=self.filled[::step])
        found.map = self.map
        return found

    @cached_property
    def blocks(self) -> list[Rows]:
        """The rows, so many a task."""
        size = max(SAMPLE_BLOCK, -(-len(self.rows) // SAMPLE_TASKS))
        return [self.rows[a : a + size] for a in range(0, len(self.rows), size)]

    def accumulate(self, mixtures: Sequence[Mixture]) -> list[SufficientStatistics]:
        """E-step of all mixtures over the rows."""
        frames = {m.family.frame: self.frame(m.family.frame) for m in mixtures}
        plan = make_plan(mixtures, frames, sharing=self.sharing, marginal=self.marginal)
        # one block is done before a thread would have begun
        run = self.map if len(self.blocks) > 1 else map
        parts = run(lambda block: accumulate(block, plan), self.blocks)
        return unpack(merge_all(Node(0, i, part) for i, part in enumerate(parts)), plan)


def drawn(x: FloatArray, frame: Callable[[FrameKind], Frame]) -> FloatArray:
    """Rows (n, d) with what is missing drawn from the one Gaussian of the data, given what is there; always the same.

    Expectations would all lie on one plane, which is no component of anything.
    """
    try:
        its = frame("whitening")
    except InputError:  # dependent features: diag and spherical do not mind
        its = frame("standard")
    family, backward = get_family("full"), its.backward if its.backward.ndim == 2 else np.diag(its.backward)
    one = Mixture(family, np.ones(1), Gaussians(its.origin[None], backward[None]))
    numbers = np.random.default_rng(0).standard_normal(x.shape)
    return completed(x, one.density_plan(marginal=True), (np.zeros(len(x)), numbers))


def grounds_for(
    candidates: Iterable[Candidate],
    moments: Moments,
    frame: Callable[[FrameKind], Frame],
    reg_covar: float,
    fixed: Iterable[str] = (),
    sharing: Sharing = SOFT,
    prior: PriorName = "none",
    noise: Noise | None = None,
    *,
    marginal: bool = False,
) -> dict[str, Ground]:
    """What the M-steps of each covariance type need to know about the data, hold fixed, believe and begin with."""
    grounds = {}
    for name in {c.covariance_type for c in candidates}:
        family = get_family(name)
        its_frame = frame(family.frame)
        in_frame = moments.in_frame(its_frame)
        grounds[name] = Ground(
            its_frame,
            in_frame,
            family.floor(reg_covar, in_frame),
            fixed=frozenset(fixed),
            sharing=sharing,
            prior=None if prior == "none" else (family if noise is None else family.beside_noise()).prior(in_frame),
            noise=noise,
            marginal=marginal,
        )
    return grounds


def is_sound(a: Ascent, reg_covar: float) -> bool:
    """Whether all components of the best mixture it has seen mean something."""
    return a.failure is None and not unsound_components(a, reg_covar)


def effective_counts(a: Ascent) -> FloatArray:
    """Effective rows of each component of the best mixture of an ascent, shape (K,)."""
    counts = a.mixture.weights * a.ground.moments.count
    if a.best is None:
        return counts
    if "weights" in a.ground.fixed:  # which say nothing of the rows
        counts = a.best.statistics.sums[:, 0]
    return counts * a.best.statistics.effective_shares


def unsound_components(a: Ascent, reg_covar: float) -> tuple[int, ...]:
    """Components of the best mixture of an ascent that mean nothing; see `Family.unsound`."""
    mixture, ground = a.mixture, a.ground
    if "covariances" in ground.fixed:
        # of a given extent, a component means what it should while it has a row, or need not have one
        few = effective_counts(a) < (0.0 if "means" in ground.fixed else A_ROW)
        return tuple(np.flatnonzero(few).tolist())
    return tuple(np.flatnonzero(unsound_in(mixture, effective_counts(a), ground, reg_covar)).tolist())


def unsound_in(mixture: Mixture, counts: FloatArray, ground: Ground, reg_covar: float) -> BoolArray:
    """Components that mean nothing, shape (K,), of so many effective rows each: with a prior, those without a row."""
    if ground.prior is not None:
        return counts < A_ROW
    return mixture.family.unsound(mixture.components, counts, ground.moments, reg_covar)


def fewest(ground: Ground, firm: int) -> float:
    """The rows that a component must have: so many per dimension and one more, or with a prior a single one."""
    return A_ROW if ground.prior is not None else firm * (len(ground.moments.mean) + 1.0)
