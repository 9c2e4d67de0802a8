"""A family that has nothing in common with the Gaussian ones: independent binomial counts, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, gammaln, logit

from dgmm.families import Family, FeatureMap, Moments, SufficientStatistics
from dgmm.types import AnyArray, FloatArray


def fill(y: FloatArray, out: FloatArray) -> None:
    out[0], out[1:] = 1.0, y


#: Of which so many succeed.
TRIALS = 100
#: 1, y
COUNTS = FeatureMap("binomial", lambda d: d + 1, fill)


@dataclass(frozen=True)
class Rates:
    """Rates of K components, shape (K, d)."""

    rates: FloatArray


class Binomial(Family):
    """``prod_j Binomial(x_j; TRIALS, rate_kj / TRIALS)``."""

    name = "binomial"
    whole = True
    frame = "identity"
    features = COUNTS
    local_features = COUNTS

    def natural_parameters(self, weights: FloatArray, components: Rates, log_volume: float) -> FloatArray:
        """Theta = (log w + n sum log (1 - p), logit p)."""
        p = components.rates / TRIALS
        return np.hstack([(np.log(weights) + TRIALS * np.log1p(-p).sum(axis=1))[:, None], logit(p)])

    def log_base_measure(self, x: AnyArray) -> FloatArray:
        x = np.asarray(x, dtype=float)
        return (gammaln(TRIALS + 1.0) - gammaln(x + 1) - gammaln(TRIALS - x + 1)).sum(axis=1)

    def maximise(
        self, statistics: SufficientStatistics, reference: Rates, moments: Moments, floor: FloatArray
    ) -> tuple[FloatArray, Rates]:
        counts = np.maximum(statistics.sums[:, 0], 1e-100)
        return counts / counts.sum(), Rates(np.maximum(statistics.sums[:, 1:] / counts[:, None], floor))

    def floor(self, reg_covar: float, moments: Moments) -> FloatArray:
        return reg_covar * moments.mean

    def spread(self, n_components: int, moments: Moments, floor: FloatArray) -> Rates:
        return Rates(np.tile(moments.mean + floor, (n_components, 1)))

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components - 1 + n_components * n_features

    def move(self, components: Rates, linear: FloatArray, before: FloatArray, after: FloatArray) -> Rates:
        assert (linear == 1).all(), "counts have no other coordinates"
        return components

    def to_vector(self, components: Rates) -> FloatArray:
        return logit(components.rates / TRIALS).ravel()

    def from_vector(self, vector: FloatArray, like: Rates) -> Rates:
        return Rates(TRIALS * expit(vector).reshape(like.rates.shape))

    def means(self, components: Rates) -> FloatArray:
        return components.rates

    def covariances(self, components: Rates) -> FloatArray:
        return components.rates

    def covariance(self, components: Rates, component: int) -> FloatArray:
        return np.diag(components.rates[component])

    def variances(self, components: Rates) -> FloatArray:
        return components.rates * (1 - components.rates / TRIALS)

    def sample(self, components: Rates, labels: AnyArray, generator: np.random.Generator) -> FloatArray:
        return generator.binomial(TRIALS, components.rates[labels] / TRIALS).astype(float)

    def arrays(self, components: Rates) -> Mapping[str, tuple[tuple[str, ...], FloatArray]]:
        return {"means": (("component", "feature"), components.rates)}

    def from_arrays(self, arrays: Mapping[str, FloatArray]) -> Rates:
        return Rates(arrays["means"])

    def objection(self, minimum: FloatArray, maximum: FloatArray, features: Sequence[str]) -> str | None:
        i = int(np.argmin(minimum))
        return f"{features[i]!r} is {minimum[i]:g} somewhere: counts are not negative" if minimum[i] < 0 else None

    def unsound(self, components: Any, counts: FloatArray, moments: Moments, reg_covar: float) -> AnyArray:
        return counts < 2
