"""Moments of samples that lack some of their values: what all pairs of features have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgmm.families import Moments
from dgmm.types import FloatArray


@dataclass(frozen=True)
class Overlaps:
    """Sums over the samples that have both of two features, mergeable without cancellation.

    Attributes
    ----------
    count : float
        Number of samples (the sum of their weights).
    counts : ndarray, shape (d, d)
        Of those that have both features.
    mean : ndarray, shape (d,)
        Of each feature, of the samples that have it; zero where none has.
    sums : ndarray, shape (d, d)
        Of ``x_i - mean_i`` over those that have features i and j.
    scatter : ndarray, shape (d, d)
        Of the products of both over these.
    """

    count: float
    counts: FloatArray
    mean: FloatArray
    sums: FloatArray
    scatter: FloatArray

    @classmethod
    def of(cls, x: FloatArray, weights: FloatArray | None = None) -> Overlaps:
        """Of the rows of ``x``, shape (n, d), NaN where a value is missing, each as often as its weight says."""
        w = np.ones(len(x)) if weights is None else weights
        there = np.isfinite(x)
        counts = (there.T * w) @ there
        n = np.diagonal(counts)
        mean = np.divide(w @ np.where(there, x, 0.0), n, out=np.zeros(x.shape[1]), where=n > 0)
        away = np.where(there, x - mean, 0.0)
        weighted = away.T * w
        return cls(float(w.sum()), counts, mean, weighted @ there, weighted @ away)

    @classmethod
    def complete(cls, moments: Moments) -> Overlaps:
        """Of samples that lack nothing."""
        d = len(moments.mean)
        nothing = np.zeros((d, d))
        return cls(moments.count, np.full((d, d), moments.count), moments.mean, nothing, moments.scatter)

    def merge(self, other: Overlaps) -> Overlaps:
        """Of both."""
        ours, theirs = np.diagonal(self.counts), np.diagonal(other.counts)
        both = ours + theirs
        share = np.divide(theirs, both, out=np.zeros_like(both), where=both > 0)
        mean = self.mean + share * (other.mean - self.mean)
        a, b = self._about(mean), other._about(mean)
        return Overlaps(a.count + b.count, a.counts + b.counts, mean, a.sums + b.sums, a.scatter + b.scatter)

    def _about(self, mean: FloatArray) -> Overlaps:
        """The same about another mean."""
        shift = self.mean - mean
        cross = self.sums * shift
        scatter = self.scatter + cross + cross.T + self.counts * np.outer(shift, shift)
        return Overlaps(self.count, self.counts, mean, self.sums + self.counts * shift[:, None], scatter)

    def moments(self) -> Moments:
        """Moments with the variance of what there is of each feature.

        The covariance of two features is that of the samples that have both, times the share that these are of the
        geometric mean of those that have either: so the matrix is positive semi-definite, whatever is missing.
        """
        roots = np.sqrt(np.maximum(np.diagonal(self.counts), np.finfo(float).tiny))
        return Moments(self.count, self.mean, self.count * (self.scatter / roots / roots[:, None]))
