"""Poisson counts, independent per feature: every component has a rate for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from dgmm.families.features import LINEAR
from dgmm.families.frame import Moments
from dgmm.families.independent import Independent, first_sums, positive
from dgmm.families.statistics import SufficientStatistics
from dgmm.types import AnyArray, BoolArray, FloatArray, Sendable

#: A rate that is zero in the data is this, which no number of rows tells from zero.
LEAST_RATE = 1e-300
#: A component of fewer effective rows means nothing; the likelihood is bounded, so that there is nothing else to fear.
FEWEST = 2.0
#: Values whose factorials are found at a time, and those that are looked up.
BLOCK, KNOWN = 32_768, 1024
LOG_FACTORIALS = gammaln(np.arange(KNOWN) + 1.0)


@dataclass(frozen=True)
class Rates(Sendable):
    """Rates of K components.

    Attributes
    ----------
    means : ndarray, shape (K, d)
    """

    means: FloatArray


class Poisson(Independent):
    """``prod_j rate_kj^x_j exp(-rate_kj) / x_j!``.

    The features are the counts themselves, so that the compiled kernel of the Gaussian families serves them too.
    """

    name = "poisson"
    frame = "identity"
    features = LINEAR
    local_features = LINEAR
    whole = True
    single = False
    apart = True
    needs = "counts, which are whole numbers from zero up"

    @property
    def title(self) -> str:
        """What a mixture of it is called."""
        return "Poisson mixture"

    def natural_parameters(self, weights: FloatArray, components: Rates, log_volume: float) -> FloatArray:
        """Theta = (log w - sum of the rates, log rates)."""
        peaks = np.log(weights) - components.means.sum(axis=1) + log_volume
        return np.hstack([peaks[:, None], np.log(components.means)])

    def log_base_measure(self, x: AnyArray) -> FloatArray:
        """``-sum_j log x_j!``, minus infinity where a value is no count."""
        found, rows = np.empty(len(x)), max(1, BLOCK // max(1, x.shape[1]))
        for start in range(0, len(x), rows):
            found[start : start + rows] = -_log_factorials(x[start : start + rows])
        return found

    def maximise(
        self, statistics: SufficientStatistics, reference: Rates, moments: Moments, floor: FloatArray
    ) -> tuple[FloatArray, Rates]:
        """Weighted means, the least that the floor allows."""
        weights, gone, counts = first_sums(statistics)
        means = np.maximum(statistics.sums[:, 1:] / counts, np.maximum(floor, LEAST_RATE))
        return weights, Rates(np.where(gone, reference.means, means))

    def floor(self, reg_covar: float, moments: Moments) -> FloatArray:
        """The lowest rate, as a share of the data's mean, shape (d,)."""
        return reg_covar * moments.mean

    def spread(self, n_components: int, moments: Moments, floor: FloatArray) -> Rates:
        """The means of the data."""
        return Rates(np.tile(np.maximum(moments.mean, np.maximum(floor, LEAST_RATE)), (n_components, 1)))

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Weights and rates."""
        return n_components - 1 + n_components * n_features

    def move(self, components: Rates, linear: FloatArray, before: FloatArray, after: FloatArray) -> Rates:
        """The same: counts have no other coordinates."""
        return components

    def to_vector(self, components: Rates) -> FloatArray:
        """Logarithms of the rates."""
        return np.log(components.means).ravel()

    def from_vector(self, vector: FloatArray, like: Rates) -> Rates:
        """Inverse of `to_vector`."""
        return Rates(np.exp(vector).reshape(like.means.shape))

    def variances(self, components: Rates) -> FloatArray:
        """The rates."""
        return components.means

    def sample(self, components: Rates, labels: AnyArray, generator: np.random.Generator) -> FloatArray:
        """One draw per label."""
        return generator.poisson(components.means[labels]).astype(np.float64)

    def arrays(self, components: Rates) -> Mapping[str, tuple[tuple[str, ...], FloatArray]]:
        """The rates, which are the means."""
        return {"means": (("component", "feature"), components.means)}

    def from_arrays(self, arrays: Mapping[str, FloatArray]) -> Rates:
        """Components from the rates."""
        return Rates(positive(arrays, "means", self.name, None))

    def view(self, x: FloatArray) -> FloatArray:
        """Square roots: of whatever rate, counts have about the same spread there."""
        return np.sqrt(np.maximum(x, 0.0))

    def misfits(self, x: AnyArray) -> BoolArray:
        """Negative and fractional values."""
        return (x < 0) | (np.floor(x) != x)

    def objection(self, minimum: FloatArray, maximum: FloatArray, features: Sequence[str]) -> str | None:
        """Features that are zero throughout have no rate."""
        if (maximum > 0).all():
            return None
        return f"feature {features[int(np.argmin(maximum > 0))]!r} is zero in every sample: leave it out"

    def unsound(self, components: Rates, counts: FloatArray, moments: Moments, reg_covar: float) -> BoolArray:
        """Components that no rows belong to."""
        return counts < FEWEST


def _log_factorials(x: AnyArray) -> FloatArray:
    """``sum_j log x_j!`` of the rows of ``x`` (n, d), infinite where a value is negative or fractional."""
    # what is no count at all may be any number as an integer, and is ruled out below
    with np.errstate(invalid="ignore"):
        counts = x.astype(np.int64)
    found: FloatArray = LOG_FACTORIALS.take(counts, mode="clip")
    large = counts >= KNOWN
    if large.any():
        found[large] = gammaln(x[large] + 1.0)
    wrong = (counts < 0) | (counts != x)
    if wrong.any():
        found[wrong] = np.inf
    return found.sum(axis=1)
