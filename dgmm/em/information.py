"""What the scores of a sample say of the top: how the gradient of the log-likelihood vanishes around a mixture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dgmm.em.anderson import to_vector
from dgmm.em.mstep import Evaluated, Ground
from dgmm.mixture import Mixture
from dgmm.types import FloatArray

#: Scores are taken of as many rows of the sample as cost this share of a pass, and of so many per parameter at least,
#: if there are as many; fewer than the last number per parameter tell nothing.
SHARE_OF_A_PASS, ROWS, FEWEST = 0.2, 100, 20
#: Mixtures with more parameters have matrices that are too large.
LARGEST = 500
#: Products of the scores of so many features are summed in the time in which a pass looks at one.
FEATURES_OF_A_PASS = 25
#: Rows that a pass looks at in the time of the numerical derivatives.
ROWS_OF_DERIVATIVES = 8e5
#: Rows that are looked at in one piece.
BLOCK = 2048
#: Of numerical derivatives.
STEP = 1e-5


@dataclass(frozen=True)
class Information:
    """Sums of products of scores over all the data, as a sample tells, in unconstrained coordinates.

    Where the model holds, products of scores are on average what the second derivatives are; other than these they
    are never negative, and no less certain along directions of which the data say little.

    Attributes
    ----------
    observed : ndarray, shape (p, p)
        Of the scores of the rows.
    complete : ndarray, shape (p, p)
        Of their scores if their components were known: an EM step is the gradient over these.
    """

    observed: FloatArray
    complete: FloatArray

    @classmethod
    def of(cls, mixture: Mixture, ground: Ground) -> Information:
        """At a mixture, in frame coordinates, from the sample that there is."""
        assert ground.sample is not None
        rows = ground.sample[: _rows_wanted(mixture, ground)]
        (family, _), theta = mixture.family.for_density(mixture.components), _theta(mixture)
        k, width = theta.shape
        shared, own = np.zeros((k * width, k * width)), np.zeros((k, width, width))
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            features = family.features.of(ground.frame.coordinates(block.x))
            joint = theta @ features
            shares = np.exp(joint - joint.max(axis=0))
            shares /= shares.sum(axis=0)
            if block.labels is not None:
                known = np.flatnonzero(block.labels >= 0)
                shares[:, known] = np.arange(k)[:, None] == block.labels[known]
            roots = np.sqrt(block.every_weight)
            for j in range(k):
                own[j] += (roots**2 * shares[j] * features) @ features.T
            scores = ((roots * shares)[:, None] * features).reshape(k * width, -1)
            shared += scores @ scores.T
        slopes = _slopes(mixture)
        flat = slopes.reshape(k * width, -1)
        observed, complete = flat.T @ shared @ flat, sum(s.T @ m @ s for s, m in zip(slopes, own, strict=True))
        # a number that is added to all log weights changes nothing
        observed[:k, :k] += len(rows) / k
        complete[:k, :k] += len(rows) / k
        times = ground.moments.count / len(rows)
        return cls(times * observed, times * complete)

    def step(self, gradient: FloatArray, damping: float) -> tuple[FloatArray, float]:
        """To where the gradient should vanish, and what that should gain; EM's step if the damping is large.

        NaN where the matrices are singular.
        """
        try:
            step = np.linalg.solve(self.observed + damping * self.complete, (1 + damping) * gradient)
        except np.linalg.LinAlgError:  # of a component without rows nothing is known
            return np.full_like(gradient, np.nan), np.nan
        return step, float(gradient @ step - 0.5 * step @ self.observed @ step)


def is_worth_it(mixture: Mixture, ground: Ground) -> bool:
    """Whether the information at a mixture can be had, and costs less than a pass over all the data."""
    p = mixture.n_parameters
    if mixture.family.hidden:  # scores are not linear in the features
        return False
    if ground.sample is None or p > LARGEST or len(ground.sample) < FEWEST * p:
        return False
    if len(to_vector(mixture)) > p + 1:  # along coordinates more than there are parameters scores are all zero
        return False
    products = _rows_wanted(mixture, ground) * _theta(mixture).size / FEATURES_OF_A_PASS
    return products + ROWS_OF_DERIVATIVES <= ground.moments.count


def _rows_wanted(mixture: Mixture, ground: Ground) -> int:
    """Rows of the sample to look at: those that cost a fifth of a pass, or `ROWS` per parameter if these are more."""
    cheap = int(SHARE_OF_A_PASS * FEATURES_OF_A_PASS * ground.moments.count / _theta(mixture).size)
    return min(0 if ground.sample is None else len(ground.sample), max(ROWS * mixture.n_parameters, cheap))


def gradients_of(point: Evaluated, image: Mixture) -> tuple[FloatArray, FloatArray]:
    """Gradients of the expected log-likelihood at a point and at its EM image, each of shape (p,).

    The former is that of the log-likelihood; the latter is zero, but for what a floor adds to the covariances. EM
    stands still where they are equal.
    """
    family, sums = point.mixture.family, point.statistics.sums

    def expected(mixture: Mixture) -> float:
        theta = family.natural_parameters(mixture.weights, mixture.components, 0.0)
        shared = family.shared_log_likelihood(mixture.components, point.ground.moments)
        return float((theta * sums[:, : theta.shape[1]]).sum()) + shared

    def gradient(mixture: Mixture) -> FloatArray:
        return (np.array([expected(m) for m in _neighbours(mixture)]) - expected(mixture)) / STEP

    return gradient(point.mixture), gradient(image)


def _slopes(mixture: Mixture) -> FloatArray:
    """Derivatives of theta, that of single rows, by the unconstrained coordinates, shape (K, P, p)."""
    here = _theta(mixture)
    return np.stack([_theta(m) - here for m in _neighbours(mixture)], axis=-1) / STEP


def _theta(mixture: Mixture) -> FloatArray:
    family, components = mixture.family.for_density(mixture.components)
    return family.natural_parameters(mixture.weights, components, 0.0)


def _neighbours(mixture: Mixture) -> Iterator[Mixture]:
    """The mixtures a little ahead along every unconstrained coordinate."""
    family, k, x = mixture.family, mixture.n_components, to_vector(mixture)
    for i in range(len(x)):
        ahead = x.copy()
        ahead[i] += STEP
        if i < k:
            weights = np.exp(ahead[:k])
            yield Mixture(family, weights / weights.sum(), mixture.components)
        else:
            yield Mixture(family, mixture.weights, family.from_vector(ahead[k:], mixture.components))
