"""Factor analysis by maximum likelihood: loadings and uniquenesses of one covariance matrix.

Given uniquenesses the best loadings are eigenvectors (Lawley and Maxwell 1971), so that only the uniquenesses are
looked for: by Newton's method in their logarithms, with the exact second derivatives (Jöreskog 1967, Clarke 1970).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from dgmm.types import FloatArray

#: Steps at most. The last one is shorter than this, and should gain less than this share of the cost, or of one; or
#: than the last number: where the data hardly tell, steps are long all the same.
STEPS, SHORT, SETTLED, NOTHING = 100, 1e-6, 1e-10, 1e-18
#: The furthest a step goes, in logarithms of uniquenesses.
FURTHEST = 3.0
#: Halvings of a step that gains nothing, at most.
HALVINGS = 30
#: Share of the gain that a step promises which is enough.
ENOUGH = 1e-4
#: Of the mean second derivative: what is added to all of them, as uniquenesses need not be determined.
RIDGE = 1e-10


@dataclass(frozen=True)
class Point:
    """Uniquenesses with the best loadings there are for them.

    Attributes
    ----------
    logs : ndarray, shape (d,)
        Logarithms of the uniquenesses.
    cost : float
        ``log |L L' + Psi| + tr (L L' + Psi)^-1 S``: twice what a sample costs, in nats, but for a constant.
    values : ndarray, shape (d,)
        Eigenvalues of ``Psi^-1/2 S Psi^-1/2``, the largest first.
    vectors : ndarray, shape (d, d)
        Eigenvectors, one a column.
    used : int
        How many of them make loadings: those of values above one, and no more than there are factors.
    """

    logs: FloatArray
    cost: float
    values: FloatArray
    vectors: FloatArray
    used: int

    @classmethod
    def of(cls, logs: FloatArray, covariance: FloatArray, n_factors: int) -> Point:
        """At some uniquenesses, for a covariance matrix (d, d)."""
        shrink = np.exp(-0.5 * logs)
        values, vectors = np.linalg.eigh(shrink[:, None] * covariance * shrink)
        values, vectors = values[::-1], vectors[:, ::-1]
        used = int((values[:n_factors] > 1).sum())
        # the largest values are not added up: they may have few digits beside the others
        cost = float(logs.sum() + (1 + np.log(values[:used])).sum() + values[used:].sum())
        return cls(logs, cost, values, vectors, used)

    @property
    def gradient(self) -> FloatArray:
        """Derivatives of the cost by the logarithms, shape (d,)."""
        return (self.vectors[:, self.used :] ** 2) @ (1 - self.values[self.used :])

    @property
    def curvature(self) -> tuple[FloatArray, FloatArray]:
        """Second derivatives (d, d), and the part of them that is never negative definite."""
        rest, left = self.vectors[:, self.used :], self.values[self.used :]
        sure = (rest @ rest.T) * ((rest * left) @ rest.T)
        exact = sure.copy()
        for value, vector in zip(self.values[: self.used], self.vectors[:, : self.used].T, strict=True):
            apart = np.maximum(value - left, np.finfo(float).tiny)
            # as one matrix product of a feature's part in the factor times that in the rest
            mixed = vector[:, None] * rest
            exact += (mixed * ((1 - left) * (left + value) / apart)) @ mixed.T
        return exact, sure

    @property
    def loadings(self) -> FloatArray:
        """Columns for the factors that are used, shape (d, used), the largest first in units of the uniquenesses."""
        sizes = np.sqrt(self.values[: self.used] - 1)
        return np.exp(0.5 * self.logs)[:, None] * self.vectors[:, : self.used] * sizes


def analysed(
    covariance: FloatArray, n_factors: int, least: FloatArray, before: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """The most likely loadings (d, q) and uniquenesses (d,) of a covariance matrix.

    No less likely than any loadings with the uniquenesses before. There may be several tops: other starts are tried,
    too, so that a component is not held by what it was at first.

    Parameters
    ----------
    covariance : ndarray, shape (d, d)
        Symmetric, its diagonal positive; it may be singular.
    n_factors : int
    least : ndarray, shape (d,)
        That no uniqueness falls below; positive.
    before : ndarray, shape (d,), optional
        Uniquenesses to begin with.
    """
    bounds = np.log(least)
    starts = [*([] if before is None else [before]), *first_uniquenesses(covariance, n_factors)]
    points = [Point.of(np.maximum(np.log(start), bounds), covariance, n_factors) for start in starts]
    best = min((_descended(p, covariance, n_factors, bounds) for p in points), key=lambda end: end.cost)
    loadings = np.zeros((len(covariance), n_factors))
    loadings[:, : best.used] = best.loadings
    return loadings, np.maximum(np.exp(best.logs), least)


def first_uniquenesses(covariance: FloatArray, n_factors: int) -> FloatArray:
    """Where to begin if nothing is known, shape (starts, d).

    What the other features leave of each one's variance, and a little less (Jöreskog 1967), and half of it.
    """
    variances = np.diagonal(covariance)
    starts = [0.5 * variances]
    deviations = np.sqrt(variances)
    try:
        root = np.linalg.cholesky(covariance / deviations / deviations[:, None])
    except np.linalg.LinAlgError:  # the others say all about a feature
        return np.array(starts)
    left = 1 / (np.linalg.inv(root) ** 2).sum(axis=0)
    return np.array([*starts, variances * left * (1 - 0.5 * n_factors / len(variances))])


def _descended(here: Point, covariance: FloatArray, n_factors: int, bounds: FloatArray) -> Point:
    """Down to where no step gains: Newton's method within bounds (Bertsekas 1982)."""
    for _ in range(STEPS):
        gradient, size = here.gradient, max(abs(here.cost), 1.0)
        free = (here.logs > bounds) | (gradient < 0)
        if not free.any():
            break
        step = np.zeros_like(gradient)
        exact, sure = (part[np.ix_(free, free)] for part in here.curvature)
        step[free] = _newton(exact, sure, gradient[free])
        step *= min(1.0, FURTHEST / max(np.abs(step).max(), np.finfo(float).tiny))
        promised = -float(gradient @ step) / size
        for share in 0.5 ** np.arange(HALVINGS):
            after = Point.of(np.maximum(here.logs + share * step, bounds), covariance, n_factors)
            gained = (here.cost - after.cost) / size
            if gained > ENOUGH * share * promised or (promised < SETTLED and gained > -SETTLED):
                break
        else:
            break
        here = after
        if promised < (SETTLED if np.abs(step).max() < SHORT else NOTHING):
            break
    return here


def _newton(exact: FloatArray, sure: FloatArray, gradient: FloatArray) -> FloatArray:
    """Newton's step; where the second derivatives are not positive, with the part of them that is."""
    ridge = RIDGE * np.trace(sure) / len(sure) * np.eye(len(sure))
    for curvature in (exact, sure):
        try:
            return -cho_solve(cho_factor(curvature + ridge, lower=True), gradient)
        except np.linalg.LinAlgError:
            continue
    return -gradient
