"""Rows that are not read again: what they have said of a mixture, for new rows to be added to.

Let r be the responsibilities of old rows for the components, as they were last found. With these held, ::

    F(theta) = sum_old E_r[log p(x, z | theta)] + H(r) + sum_new log p(x | theta)

is at most the log-likelihood of old and new rows together, and as much as that where r are the responsibilities at
theta (Neal and Hinton 1998). The first sum is linear in the sufficient statistics of the old rows. So EM on the sums
of both climbs F, reading the new rows alone; and what it ends with is at least as likely on both as what it began with
where r was found there. Old rows may count for less, by a factor: one M-step is then that of Cappé and Moulines (2009)
with the step size ``new / (factor old + new)``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dgmm.em.mstep import Accumulate, Evaluated
from dgmm.errors import InputError
from dgmm.families import Frame, Moments, SufficientStatistics
from dgmm.mixture import Mixture
from dgmm.types import FloatArray, IntArray


@dataclass(frozen=True)
class Past:
    """What rows that are not read again say.

    Attributes
    ----------
    frame : Frame
        The coordinates of everything here: those of the first data that the mixture was fitted to.
    moments : Moments
        Of the rows.
    statistics : SufficientStatistics
        Of the rows, at the mixture by which they were last shared out; its log-likelihood is what `bound` adds to what
        is linear in the sums: the entropy of the shares, and what no parameter enters.
    """

    frame: Frame
    moments: Moments
    statistics: SufficientStatistics

    @classmethod
    def of(cls, point: Evaluated | None) -> Past | None:
        """What a pass over rows has said, with those of `added`.

        None where there was none, or some sums are in coordinates of a component's own.
        """
        if point is None or point.statistics.local.any():
            return None
        found = cls(point.ground.frame, point.ground.moments, point.statistics)
        apart = point.log_likelihood - found.bound(point.mixture) + point.statistics.log_likelihood
        return replace(found, statistics=replace(point.statistics, log_likelihood=apart, held_out=np.nan))

    @property
    def count(self) -> float:
        """How many rows there are, or what they count for."""
        return self.statistics.count

    @property
    def digest(self) -> str:
        """A name for exactly this."""
        s, found = self.statistics, hashlib.sha256()
        parts = [self.frame.origin, self.frame.forward, self.frame.backward, self.moments.mean, self.moments.scatter]
        parts += [s.sums, np.array([s.log_likelihood, s.count, s.entropy, s.noise, self.moments.count])]
        parts += [np.asarray(s.squares)] if np.isfinite(s.squares).all() else []
        for part in parts:
            array = np.ascontiguousarray(part, dtype="<f8")
            found.update(f"{array.shape}\0".encode() + array.tobytes())
        return found.hexdigest()

    def taken(self, order: IntArray) -> Past:
        """The same with the components in another order."""
        s = self.statistics
        squares = s.squares[order] if isinstance(s.squares, np.ndarray) else s.squares
        return replace(self, statistics=replace(s, sums=s.sums[order], local=s.local[order], squares=squares))

    def scaled(self, factor: float) -> Past:
        """The same where every row counts for so much of what it did."""
        if factor == 1:
            return self
        s = self.statistics
        scaled = replace(
            s,
            log_likelihood=factor * s.log_likelihood,
            count=factor * s.count,
            sums=factor * s.sums,
            entropy=factor * s.entropy,
            noise=factor * s.noise,
            squares=factor**2 * squares_of(s),
        )
        return replace(self, moments=self.moments.scaled(factor), statistics=scaled)

    def bound(self, mixture: Mixture) -> float:
        """What the rows add to F at a mixture in frame coordinates, in nats and in the data's units."""
        family = mixture.family.of_sums(self.statistics, mixture.n_features)
        return self._linear(mixture) + family.shared_log_likelihood(mixture.components, self.moments)

    def _linear(self, mixture: Mixture) -> float:
        """The same without what all components share."""
        s = self.statistics
        family = mixture.family.of_sums(s, mixture.n_features)
        theta = family.natural_parameters(mixture.weights, mixture.components, self.frame.log_volume)
        of_noise = 0.0 if mixture.noise is None else s.noise * mixture.noise.log_density
        return s.log_likelihood + float(np.einsum("kp,kp->", theta, s.sums)) + of_noise

    def added(self, mixture: Mixture, statistics: SufficientStatistics, moments: Moments) -> SufficientStatistics:
        """The statistics of both, given those of new rows at a mixture, and their moments, in frame coordinates.

        Raises
        ------
        InputError
            If a component has become too narrow for the coordinates of the sums.
        """
        if statistics.local.any():
            k = int(np.argmax(statistics.local))
            raise InputError(
                f"component {k} is too narrow beside the spread of the data for sums of old and new rows: train on all "
                "of them"
            )
        ours, family = self.statistics, mixture.family
        n, m = ours.sums.shape[1], statistics.sums.shape[1]
        if n < m:  # rows of old or of new samples lack values, not those of both
            ours = replace(ours, sums=family.sums_beside_noise(ours, self.moments))
        elif m < n:
            shared = family.shared_log_likelihood(mixture.components, moments)
            sums = family.sums_beside_noise(statistics, moments)
            statistics = replace(statistics, log_likelihood=statistics.log_likelihood + shared, sums=sums)
        linear = replace(self, statistics=ours)._linear(mixture)
        squares: FloatArray | float = np.nan
        if not (np.isnan(ours.squares).all() and np.isnan(statistics.squares).all()):
            squares = squares_of(ours) + squares_of(statistics)
        return replace(
            statistics,
            log_likelihood=statistics.log_likelihood + linear,
            count=statistics.count + ours.count,
            sums=statistics.sums + ours.sums,
            entropy=statistics.entropy + ours.entropy,
            noise=statistics.noise + ours.noise,
            squares=squares,
        )

    def behind(self, accumulate: Accumulate, moments: Moments) -> Accumulate:
        """The same where these rows stand behind those that are read, of these moments in frame coordinates."""

        def both(mixtures: Sequence[Mixture]) -> list[SufficientStatistics]:
            return [self.added(m, s, moments) for m, s in zip(mixtures, accumulate(mixtures), strict=True)]

        return both


def squares_of(statistics: SufficientStatistics) -> FloatArray:
    """Sums of the responsibilities times the squares of the weights, which are one where there are none."""
    counts = statistics.sums[:, 0]
    return np.where(np.isnan(statistics.squares), counts, statistics.squares)
